"""History over REST: questions in SQL, answered in several forms, told of, and stopped."""

import asyncio
from typing import Any, Final

import msgspec
from litestar import Controller, Request, Response, delete, get, post

from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.query_answers import AnswerResponse, begun, format_of
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import TENANT_HEADER, tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.history.asking import MAX_ANSWER_BYTES, MAX_ANSWER_ROWS, Bounds
from event_streaming_bus.store.history.formats import MEDIA_TYPES, AnswerFormat

MAX_BODY_BYTES: Final = 1 << 20
MAX_TIMEOUT_S: Final = 300.0
MAX_ROWS: Final = 100_000_000
MAX_BYTES: Final = 16 << 30


class How(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a question is to be answered. ``query_id`` is what it is to be known by while it runs; ``format`` counts before the
    header ``Accept``. ``all_tenants`` is for the administrator of the machine, not for one tenant's request."""

    parameters: dict[str, Any] = {}
    timeout_s: float = 60.0
    all_tenants: bool = False
    query_id: str | None = None
    format: AnswerFormat | None = None
    max_rows: int = MAX_ANSWER_ROWS
    max_bytes: int = MAX_ANSWER_BYTES

    def bounds(self) -> Bounds:
        """What the answer may be. Raises ``InvalidInputError``."""
        for name, value, most in (("max_rows", self.max_rows, MAX_ROWS), ("max_bytes", self.max_bytes, MAX_BYTES)):
            if not 1 <= value <= most:
                raise InvalidInputError(f"{name}: expected 1 to {most:,}, got {value}", path=name)
        timeout_s = min(max(self.timeout_s, 0.1), MAX_TIMEOUT_S)
        return Bounds(max_rows=self.max_rows, max_bytes=self.max_bytes, timeout_s=timeout_s)


class Question(How, kw_only=True, forbid_unknown_fields=True):
    """A question to the history."""

    sql: str


class RollOff(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Move the rows of days that have been over for ``days`` days; remove those of days over for ``keep_days`` days."""

    days: int | None = None
    keep_days: int | None = None
    dry_run: bool = False


class HistoryController(Controller):
    """Ask the history."""

    path = "/api/v1/history"
    tags = ["history"]  # noqa: RUF012 - as the base class has it

    @post("/query", status_code=200, summary="Ask the history one question in SQL")
    async def query(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        question = decode(await request.body(), Question, MAX_BODY_BYTES)
        return await answered(request, services, question.sql, question)

    @get("/queries", summary="The queries that run, and those that ended lately; the newest first")
    async def queries(self, request: Request[Any, Any, Any], services: Services, all_tenants: bool = False) -> dict[str, Any]:
        tenant_id = asked_tenant(request, all_tenants)
        return {"queries": [query.told() for query in services.history.queries.all(tenant_id)]}

    @get("/queries/{query_id:str}", summary="A query that runs, or ended lately")
    async def show(
        self, request: Request[Any, Any, Any], services: Services, query_id: str, all_tenants: bool = False
    ) -> dict[str, Any]:
        return services.history.queries.find(query_id, asked_tenant(request, all_tenants)).told()

    @delete("/queries/{query_id:str}", status_code=200, summary="Cancel a query; its answer is broken off")
    async def cancel(
        self, request: Request[Any, Any, Any], services: Services, query_id: str, all_tenants: bool = False
    ) -> dict[str, Any]:
        return services.history.queries.cancel(query_id, asked_tenant(request, all_tenants)).told()

    @post("/roll-off", status_code=200, summary="Move old rows of all tenants into Parquet files, and remove the oldest files")
    async def roll_off(self, request: Request[Any, Any, Any], services: Services, all_tenants: bool = False) -> Response[bytes]:
        if not all_tenants:
            raise InvalidInputError("all_tenants: expected true, for it is about the rows of all tenants", path="all_tenants")
        wanted = decode(await request.body(), RollOff, MAX_BODY_BYTES)
        previews(request.scope, wanted.dry_run)
        done = await asyncio.to_thread(
            services.history.roll_off, days=wanted.days, keep_days=wanted.keep_days, dry_run=wanted.dry_run
        )
        return Response(msgspec.json.encode(done), media_type="application/json")


async def answered(request: Request[Any, Any, Any], services: Services, sql: str, how: How) -> Response[bytes]:
    """The answer to a question as it was asked for."""
    form = format_of(request, how.format)
    if form is None:
        told = f"Accept: expected one of {', '.join(MEDIA_TYPES.values())}"
        return problem(406, "Not Acceptable", told, request.url.path)
    answering = await begun(
        request,
        services.history,
        sql,
        tenant_id=asked_tenant(request, how.all_tenants),
        parameters=how.parameters,
        bounds=how.bounds(),
        query_id=how.query_id,
    )
    return AnswerResponse(answering, form)


def asked_tenant(request: Request[Any, Any, Any], all_tenants: bool) -> str | None:
    """Whose history is asked about; None for that of all. Raises ``InvalidInputError``."""
    if all_tenants and TENANT_HEADER in request.headers:
        raise InvalidInputError(f"all_tenants: not together with the header {TENANT_HEADER}")
    return None if all_tenants else tenant_of(request)
