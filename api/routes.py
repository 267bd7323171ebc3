"""Routing rules over REST: list, show, set, remove and try them."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.routing.model import Rule, rule_data
from event_streaming_bus.routing.service import RouteChange
from event_streaming_bus.routing.trial import DEFAULT_EVENTS, try_routes

_MAX_BODY_BYTES = 1 << 20
_JSON = "application/json"


class Trial(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A dry run over the ``last`` newest events of a stream, by the rules there are and the candidates ``routes``."""

    stream: str
    last: int = DEFAULT_EVENTS
    routes: list[dict[str, Any]] = []


class ManyRoutes(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Rules to make or replace, all of them or none. ``dry_run``: only say what would become of them."""

    routes: list[dict[str, Any]]
    dry_run: bool = False


class RoutesController(Controller):
    """The rules by which published events are sent on, changed, or put aside."""

    path = "/api/v1/routes"
    tags = ["routes"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="List the routing rules, of one stream or of all, in the order in which they run")
    async def list_routes(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        stream: str | None = None,
        limit: int = MAX_ITEMS,
        cursor: str | None = None,
    ) -> Response[bytes]:
        rules = await services.routing.list_routes(tenant_of(request), stream=stream)
        page, following = paged(rules, _place, limit, cursor)
        return _answer({"routes": [rule_data(rule) for rule in page], "next_cursor": following})

    @get("/{name:str}", summary="A routing rule as it is, or as it was in a version")
    async def show(
        self, request: Request[Any, Any, Any], services: Services, name: str, version: int | None = None
    ) -> Response[bytes]:
        return _answer(rule_data(await services.routing.get_route(name, tenant_of(request), version=version)))

    @put("/{name:str}", summary="Make a routing rule, or replace it; one that is there as it is keeps its version")
    async def set_route(self, request: Request[Any, Any, Any], services: Services, name: str) -> Response[bytes]:
        config = decode(await request.body(), dict[str, Any], _MAX_BODY_BYTES)
        if config.setdefault("name", name) != name:
            raise InvalidInputError(f"name: expected '{name}', as in the address, or none; got {config['name']!r}")
        rule = await services.routing.set_route(config, tenant_of(request), user_of(request, None))
        return _answer(rule_data(rule))

    @post(
        "/apply", status_code=200, summary="Make or replace several routing rules, all of them or none, or say what that would do"
    )
    async def apply(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        wanted = decode(await request.body(), ManyRoutes, _MAX_BODY_BYTES)
        previews(request.scope, wanted.dry_run)
        changed_by = user_of(request, None)
        changes = await asyncio.to_thread(_apply, services, tenant_of(request), wanted, changed_by)
        return _answer({"routes": msgspec.to_builtins(changes), "dry_run": wanted.dry_run})

    @delete("/{name:str}", status_code=200, summary="Remove a routing rule")
    async def remove(self, request: Request[Any, Any, Any], services: Services, name: str) -> dict[str, Any]:
        rule = await services.routing.remove_route(name, tenant_of(request))
        return {"name": name, "version": rule.version, "message": "Route removed successfully"}

    @post("/try", status_code=200, summary="Say what rules would do with stored events; nothing is written")
    async def try_(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        trial = decode(await request.body(), Trial, _MAX_BODY_BYTES)
        return _answer(await asyncio.to_thread(_try, services, tenant_of(request), trial))


def _place(rule: Rule) -> str:
    """Text that is ordered as rules run."""
    return f"{rule.route.order + (1 << 63):020d} {rule.route.name}"


def _try(services: Services, tenant_id: str, trial: Trial) -> dict[str, Any]:
    places = [f"routes[{i}]" for i in range(len(trial.routes))]
    candidates = services.routing.read(trial.routes, places, tenant_id)
    return try_routes(services.storage, trial.stream, tenant_id, last=trial.last, candidates=candidates)


def _apply(services: Services, tenant_id: str, wanted: ManyRoutes, changed_by: str | None) -> list[RouteChange]:
    places = [f"routes[{i}]" if len(wanted.routes) > 1 else "" for i in range(len(wanted.routes))]
    routes = services.routing.read(wanted.routes, places, tenant_id)
    if wanted.dry_run:
        return services.routing.preview(routes, tenant_id)
    return services.routing.apply(routes, tenant_id, changed_by)


def _answer(told: dict[str, Any]) -> Response[bytes]:
    return Response(msgspec.json.encode(told), media_type=_JSON)
