"""History over REST: questions in SQL."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, Response, post

from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import TENANT_HEADER, tenant_of
from event_streaming_bus.errors import InvalidInputError

_MAX_BODY_BYTES = 1 << 20
_MAX_TIMEOUT_S = 300.0


class Question(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A question to the history. ``all_tenants`` is for the administrator of the machine, not for one tenant's request."""

    sql: str
    timeout_s: float = 60.0
    all_tenants: bool = False


class HistoryController(Controller):
    """Ask the history."""

    path = "/api/v1/history"
    tags = ["history"]  # noqa: RUF012 - as the base class has it

    @post("/query", status_code=200, summary="Ask the history one question in SQL")
    async def query(self, request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
        question = decode(await request.body(), Question, _MAX_BODY_BYTES)
        if question.all_tenants and TENANT_HEADER in request.headers:
            raise InvalidInputError(f"all_tenants: not together with the header {TENANT_HEADER}")
        tenant_id = None if question.all_tenants else tenant_of(request)
        timeout_s = min(max(question.timeout_s, 0.1), _MAX_TIMEOUT_S)

        def answer() -> bytes:
            services.history.catch_up()
            result = services.history.query(question.sql, tenant_id=tenant_id, timeout_s=timeout_s)
            told = {"columns": result.columns, "types": result.types, "rows": list(result.rows())}
            return msgspec.json.encode(told | {"truncated": result.truncated}, enc_hook=str)

        return Response(await asyncio.to_thread(answer), media_type="application/json")
