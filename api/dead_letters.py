"""Dead letters over REST."""

from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post

from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.store.letters import LetterFilter

_MAX_BODY_BYTES = 1 << 20


class Selection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters are meant: those with these ids, the open ones of a filter, or those whose ``dead_letter_id`` a query
    over the history answers with. ``{}`` as a filter means all."""

    ids: list[str] | None = None
    filter: LetterFilter | None = None
    sql: str | None = None

    def chosen(self) -> dict[str, Any]:
        """What the service is told of it."""
        return {"ids": self.ids, "where": self.filter, "sql": self.sql}


class ToRetry(Selection, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to retry. ``preview``: only say what would be done with them."""

    preview: bool = False


class DeadLettersController(Controller):
    """List, look at, retry and drop dead letters."""

    path = "/api/v1/dead-letters"
    tags = ["dead letters"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="A page of dead letters, without their payloads")
    async def list_letters(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        stream: str | None = None,
        processor: str | None = None,
        group: str | None = None,
        error_type: str | None = None,
        key: str | None = None,
        status: str = "OPEN",
        limit: int = 100,
        cursor: str | None = None,
        newest_first: bool = False,
    ) -> dict[str, Any]:
        return await services.dead_letters.list_dead_letters(
            tenant_of(request),
            stream=stream,
            processor=processor,
            group=group,
            error_type=error_type,
            key=key,
            status=status,
            limit=limit,
            cursor=cursor,
            newest_first=newest_first,
        )

    @get("/{dead_letter_id:str}", summary="A dead letter with its event")
    async def letter(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.get_dead_letter(dead_letter_id, tenant_of(request))

    @post("/retry", status_code=200, summary="Retry dead letters, in order per key, or say what that would do")
    async def retry(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = decode(await request.body(), ToRetry, _MAX_BODY_BYTES)
        previews(request.scope, meant.preview)
        letters = services.dead_letters
        retry = letters.preview_retry if meant.preview else letters.retry_dead_letters
        return await retry(tenant_id=tenant_of(request), **meant.chosen())

    @post("/{dead_letter_id:str}/retry", status_code=200, summary="Retry one dead letter")
    async def retry_one(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.retry_dead_letter(dead_letter_id, tenant_of(request))

    @post("/drop", status_code=200, summary="Drop dead letters: they are done with, unprocessed")
    async def drop(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = decode(await request.body(), Selection, _MAX_BODY_BYTES)
        return await services.dead_letters.drop_dead_letters(tenant_id=tenant_of(request), **meant.chosen())

    @delete("/{dead_letter_id:str}", status_code=200, summary="Drop one dead letter")
    async def drop_one(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.drop_dead_letter(dead_letter_id, tenant_of(request))
