"""Stories over REST: why an event is where it is, in one answer."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get

from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.registry.protection import reveal
from event_streaming_bus.story.forms import as_data
from event_streaming_bus.story.service import DEFAULT_ITEMS


class StoryController(Controller):
    """Tell the story of an event."""

    path = "/api/v1/events"
    tags = ["events"]  # noqa: RUF012 - as the base class has it

    @get("/{event_id:str}/story", summary="Why an event is where it is, what was done with it, and what came of it")
    async def story(
        self, request: Request[Any, Any, Any], services: Services, event_id: str, max_items: int = DEFAULT_ITEMS
    ) -> Response[bytes]:
        tenant_id = tenant_of(request)
        told = as_data(await services.story.story(event_id, tenant_id, max_items=max_items))
        if "payload" in told["event"]:
            keys = services.storage.subject_keys
            told["event"]["payload"] = await asyncio.to_thread(reveal, keys, tenant_id, told["event"]["payload"])
        return Response(msgspec.json.encode(told, enc_hook=str), media_type="application/json")
