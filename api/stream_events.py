"""The events of streams over REST: browse them, search them, and wait for new ones."""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Request, Response, get
from litestar.params import QueryParameter

from event_streaming_bus.api.consuming import watched
from event_streaming_bus.api.delivered import DeliveredEvent, delivered
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.stream_browsing import (
    MAX_EVENTS,
    Found,
    Places,
    browse,
    chosen_splits,
    cursor_of,
    places_at,
    places_of,
    read_filter,
)
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import EventPriority, StreamInfo

MAX_WAIT_MS: Final = 30_000
_LOOK_S: Final = 1.0  # so often one that waits asks whether its client is still there


class FilterFailures(msgspec.Struct, frozen=True):
    """For how many events the filter could not be evaluated, which are left out, and the reason for the first."""

    count: int
    example: str


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some events of a stream. ``next_cursor``: where to go on, null if no more is there now. ``tail_cursor``: where events will
    come that are published later, null for ``newest_first``. ``looked_at``: how many events the filter was asked about."""

    stream: str
    stream_id: str
    events: list[DeliveredEvent]
    next_cursor: str | None
    tail_cursor: str | None
    looked_at: int
    filter_failures: FilterFailures | None = None


class StreamEventsController(Controller):
    """Look at the events that a stream holds."""

    path = "/api/v1/streams/{stream:str}/events"
    tags = ["streams"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="A page of a stream's events, all or those that a filter takes; with wait_ms it waits for new ones")
    async def events(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        stream: str,
        start: Annotated[str | None, QueryParameter(name="from")] = None,
        lane: list[EventPriority] | None = None,
        partition: int | None = None,
        filter: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        newest_first: bool = False,
        wait_ms: int = 0,
    ) -> Response[bytes]:
        for name, value, least, most in (("limit", limit, 1, MAX_EVENTS), ("wait_ms", wait_ms, 0, MAX_WAIT_MS)):
            if not least <= value <= most:
                raise InvalidInputError(f"{name}: expected {least:,} to {most:,}, got {value:,}", path=name)
        if newest_first and wait_ms:
            raise InvalidInputError("wait_ms: new events come at the end; it does not go with newest_first", path="wait_ms")
        if cursor is not None and start is not None:
            raise InvalidInputError("from: a cursor says where to go on; leave one of them out", path="from")
        wanted = read_filter(filter)
        log = services.storage.log
        info = await asyncio.to_thread(log.find_stream, tenant_of(request), stream)
        splits = chosen_splits(info, lane, partition)
        if cursor is not None:
            places = places_of(info, cursor, newest_first)
        else:
            default = "latest" if newest_first else "earliest"
            places = await asyncio.to_thread(places_at, log, splits, start or default)

        def look(at: Places) -> Found:
            return browse(services.storage, info, splits, at, limit=limit, wanted=wanted, newest_first=newest_first)

        until_s = asyncio.get_running_loop().time() + wait_ms / 1000
        looked_at = failed = 0
        services.consuming.watch_for_the_end()
        async with watched(request) as is_gone:
            while True:
                seen = services.log_watch.version()
                found = await asyncio.to_thread(look, places)
                looked_at, failed = looked_at + found.looked_at, failed + found.failed
                left_s = until_s - asyncio.get_running_loop().time()
                if found.events or not found.is_end or left_s <= 0 or is_gone() or services.consuming.is_stopping:
                    break
                places = found.places
                await services.log_watch.wait(seen, min(left_s, _LOOK_S))
        found = found._replace(looked_at=looked_at, failed=failed)
        page = await asyncio.to_thread(_encoded, info, found, newest_first)
        return Response(page, media_type="application/json", headers={"Cache-Control": "no-store"})


def _encoded(info: StreamInfo, found: Found, newest_first: bool) -> bytes:
    cursor = cursor_of(info, found.places, newest_first)
    return msgspec.json.encode(
        EventPage(
            stream=info.name,
            stream_id=info.stream_id,
            events=delivered(found.events, {info.stream_id: info.name}),
            next_cursor=None if found.is_end else cursor,
            tail_cursor=None if newest_first else cursor,
            looked_at=found.looked_at,
            filter_failures=FilterFailures(found.failed, found.failure or "") if found.failed else None,
        )
    )
