"""Scheduled events over REST: those that are to be delivered later."""

import asyncio
from typing import Any

from litestar import Controller, Request, delete, get

from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import EventNotFoundError, InvalidInputError
from event_streaming_bus.store.log.scheduled import MAX_PAGE_EVENTS


class ScheduledController(Controller):
    """List the events that wait for their time, and cancel them."""

    path = "/api/v1/scheduled"
    tags = ["events"]  # noqa: RUF012 - as the base class has it

    @get("/", summary="A page of the events that are to be delivered later, without their payloads, those due first in front")
    async def list_scheduled(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        stream_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        if not 1 <= limit <= MAX_PAGE_EVENTS:
            raise InvalidInputError(f"limit: expected 1 to {MAX_PAGE_EVENTS}, got {limit}")
        return await asyncio.to_thread(_page, services, tenant_of(request), stream_id, limit, cursor)

    @delete("/{event_id:str}", status_code=200, summary="Cancel an event that is to be delivered later")
    async def cancel(self, request: Request[Any, Any, Any], services: Services, event_id: str) -> dict[str, Any]:
        if not await asyncio.to_thread(services.storage.log.cancel_scheduled, tenant_of(request), event_id):
            raise EventNotFoundError(
                f"No event '{event_id}' waits for its time: there never was one, or it was delivered or cancelled.",
                event_id=event_id,
            )
        return {"event_id": event_id, "message": "Event cancelled successfully"}


def _page(services: Services, tenant_id: str, stream: str | None, limit: int, cursor: str | None) -> dict[str, Any]:
    log = services.storage.log
    only = None if stream is None else log.find_stream(tenant_id, stream).stream_id
    page = log.scheduled(tenant_id, only, limit=limit, cursor=cursor)
    names = {info.stream_id: info.name for info in log.list_streams(tenant_id, internal=True)}
    events = [each.as_data(names.get(each.split.stream_id, each.split.stream_id)) for each in page.events]
    return {"events": events, "next_cursor": page.next_cursor}
