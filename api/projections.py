"""Projections over REST: declare them, see how they do, ask their rows."""

from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put

from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.sourcing.projection_errors import ProjectionLagError
from event_streaming_bus.sourcing.projections.queries import DEFAULT_ROWS, MAX_ROWS

_MAX_BODY_BYTES = 1 << 20
_MAX_WAIT_S = 60.0


class Statement(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One SELECT over a projection's tables, answered when the projection has come to ``position``, if one is given."""

    sql: str
    parameters: list[Any] = []
    position: int | None = None
    timeout_s: float = 10.0
    max_rows: int = MAX_ROWS


class Waiting(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Until which position to wait (null: the newest event), and how long at most."""

    position: int | None = None
    timeout_s: float = 10.0


class Resuming(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether to go on without the event that the projection failed at."""

    skip_event: bool = False


def _lagging(request: Request[Any, Any, Any], error: ProjectionLagError) -> Response[bytes]:
    return problem(409, "ProjectionLag", error.message, request.url.path, **error.details)


class ProjectionsController(Controller):
    """Read models that are kept up to date with the events of aggregates."""

    path = "/api/v1/projections"
    tags = ["projections"]  # noqa: RUF012 - as the base class has it
    exception_handlers = {ProjectionLagError: _lagging}  # noqa: RUF012

    @get("/", summary="List the projections and how they do")
    async def list_projections(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> Response[bytes]:
        found = await services.projections.list_projections(tenant_of(request))
        page, following = paged(found, lambda projection: str(projection["name"]), limit, cursor)
        return _answer({"projections": page, "next_cursor": following})

    @get("/{name:str}", summary="A projection: its status, its definition, the events that it skipped")
    async def show(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        return _answer(await services.projections.describe(name, tenant_of(request)))

    @put("/{name:str}", summary="Declare a projection, or change it; if its rows change, it is built anew in the background")
    async def apply(
        self, request: Request[Any, Any, Any], services: Services, name: str, dry_run: bool = False
    ) -> dict[str, str]:
        previews(request.scope, dry_run)
        data = decode(await request.body(), dict[str, Any], _MAX_BODY_BYTES)
        if data.setdefault("name", name) != name:
            raise InvalidInputError(f"name: expected '{name}', as in the address, or none; got {data['name']!r}")
        projections = services.projections
        (applied,) = await (projections.preview if dry_run else projections.apply)(data, tenant_of(request))
        return {"name": applied.name, "verdict": applied.verdict.value}

    @delete("/{name:str}", status_code=200, summary="Forget a projection and its rows")
    async def forget(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await services.projections.delete(name, tenant_of(request))
        return {"name": name, "message": "Projection deleted successfully"}

    @post("/{name:str}/pause", status_code=200, summary="Let a projection rest; it still answers")
    async def pause(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await services.projections.pause(name, tenant_of(request))
        return {"name": name, "message": "Projection paused successfully"}

    @post("/{name:str}/resume", status_code=200, summary="Let a projection go on that rests or has failed")
    async def resume(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        resuming = decode(await request.body() or b"{}", Resuming, _MAX_BODY_BYTES)
        await services.projections.resume(name, tenant_of(request), skip_event=resuming.skip_event)
        return {"name": name, "message": "Projection resumed successfully"}

    @post("/{name:str}/rebuild", status_code=202, summary="Build a projection anew in the background")
    async def rebuild(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, str]:
        await services.projections.rebuild(name, tenant_of(request))
        return {"name": name, "message": "Projection rebuild started"}

    @post("/{name:str}/wait", status_code=200, summary="Wait until a projection has come to a position")
    async def wait(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, Any]:
        waiting = decode(await request.body() or b"{}", Waiting, _MAX_BODY_BYTES)
        timeout_s = min(max(waiting.timeout_s, 0.0), _MAX_WAIT_S)
        at = await services.projections.wait_for(name, waiting.position, timeout_s, tenant_of(request))
        return {"name": name, "position": at}

    @get("/{name:str}/rows", summary="Rows of a projection's table, by conditions, page by page")
    async def rows(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        name: str,
        table: str | None = None,
        where: str | None = None,
        order: str | None = None,
        limit: int = DEFAULT_ROWS,
        cursor: str | None = None,
        position: int | None = None,
        timeout_s: float = 10.0,
    ) -> Response[bytes]:
        conditions = None if where is None else _conditions(where)
        told = await services.projections.rows(
            name,
            tenant_of(request),
            table=table,
            where=conditions,
            order=order,
            limit=limit,
            cursor=cursor,
            position=position,
            timeout_s=min(max(timeout_s, 0.1), _MAX_WAIT_S),
        )
        return _answer(told)

    @post("/{name:str}/query", status_code=200, summary="Ask a projection's tables one question in SQL")
    async def query(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        asked = decode(await request.body(), Statement, _MAX_BODY_BYTES)
        told = await services.projections.sql(
            name,
            asked.sql,
            tenant_of(request),
            parameters=asked.parameters,
            position=asked.position,
            timeout_s=min(max(asked.timeout_s, 0.1), _MAX_WAIT_S),
            max_rows=asked.max_rows,
        )
        return _answer(told)

    @get("/{name:str}/skipped", summary="The newest events that a projection passed over, and why")
    async def skipped(self, request: Request[Any, Any, Any], services: Services, name: str, limit: int = 100) -> Response[bytes]:
        return _answer({"events": await services.projections.skipped(name, tenant_of(request), limit=limit)})


def _conditions(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidInputError(f'where: expected a JSON object such as {{"total":{{"gt":10}}}}: {error}') from None


def _answer(told: dict[str, Any]) -> Response[bytes]:
    return Response(msgspec.json.encode(told), media_type="application/json")
