"""Dead letters over REST."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from litestar import Controller, Request, delete, get, post

from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.dead_letters import MAX_REPORTED, letter_filter, summary
from event_streaming_bus.flows.letter_retries import LetterReport
from event_streaming_bus.store.letters import LetterFilter

MAX_REPORTS: Final = 100_000
_MAX_BODY_BYTES = 1 << 20

S = TypeVar("S", bound="Selection")


class Selection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters are meant: those with these ids, the open ones of a filter, or those whose ``dead_letter_id`` a query
    over the history answers with. ``{}`` as a filter means all."""

    ids: list[str] | None = None
    filter: LetterFilter | None = None
    sql: str | None = None
    max_reports: int = MAX_REPORTED
    """How many reports of single letters the answer may have."""

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

    @get("/count", summary="How many open dead letters there are, of some kind, or of those that a query finds")
    async def count(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        stream: str | None = None,
        processor: str | None = None,
        group: str | None = None,
        error_type: str | None = None,
        key: str | None = None,
        sql: str | None = None,
    ) -> dict[str, int]:
        fields = {"stream": stream, "processor": processor, "group": group, "error_type": error_type, "key": key}
        where = letter_filter(**fields) if sql is None or any(each is not None for each in fields.values()) else None
        return {"count": await asyncio.to_thread(services.dead_letters.count, where, tenant_of(request), sql=sql)}

    @get("/{dead_letter_id:str}", summary="A dead letter with its event")
    async def letter(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.get_dead_letter(dead_letter_id, tenant_of(request))

    @post("/retry", status_code=200, summary="Retry dead letters, in order per key, or say what that would do")
    async def retry(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = _meant(await request.body(), ToRetry)
        previews(request.scope, meant.preview)
        letters, tenant_id = services.dead_letters, tenant_of(request)
        if meant.preview:
            return await letters.preview_retry(tenant_id=tenant_id, **meant.chosen())
        return await asyncio.to_thread(_done, letters.retry, tenant_id, meant)

    @post("/{dead_letter_id:str}/retry", status_code=200, summary="Retry one dead letter")
    async def retry_one(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.retry_dead_letter(dead_letter_id, tenant_of(request))

    @post("/drop", status_code=200, summary="Drop dead letters: they are done with, unprocessed")
    async def drop(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        meant = _meant(await request.body(), Selection)
        return await asyncio.to_thread(_done, services.dead_letters.drop, tenant_of(request), meant)

    @delete("/{dead_letter_id:str}", status_code=200, summary="Drop one dead letter")
    async def drop_one(self, request: Request[Any, Any, Any], services: Services, dead_letter_id: str) -> dict[str, Any]:
        return await services.dead_letters.drop_dead_letter(dead_letter_id, tenant_of(request))


def _meant(body: bytes, kind: type[S]) -> S:
    meant = decode(body, kind, _MAX_BODY_BYTES)
    if not 0 <= meant.max_reports <= MAX_REPORTS:
        raise InvalidInputError(f"max_reports: expected 0 to {MAX_REPORTS:,}, got {meant.max_reports:,}", path="max_reports")
    return meant


def _done(work: Callable[..., Iterable[LetterReport]], tenant_id: str, meant: Selection) -> dict[str, Any]:
    """What came of the letters that are meant. Blocks."""
    return summary(work(tenant_id=tenant_id, **meant.chosen()), meant.max_reports)
