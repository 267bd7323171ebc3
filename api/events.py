"""Events over REST: publish one or many, look at one, and at all that was done with it."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, get, post

from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.idempotency import derived_event_id
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import EventNotFoundError
from event_streaming_bus.models import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    CompressionType,
    EventConfig,
    EventPriority,
    Receipt,
    SerializationFormat,
    rfc3339,
)
from event_streaming_bus.publishing import DEFAULT_STREAM
from event_streaming_bus.registry.protection import reveal

MAX_EVENT_BYTES = DEFAULT_MAX_PAYLOAD_BYTES + (1 << 16)
MAX_BATCH_BYTES = 16 << 20


class NewEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event to publish. Without ``stream_id`` (a stream's id or name) it goes to the stream ``events``."""

    event_type: str
    payload: msgspec.Raw
    stream_id: str | None = None
    source_capability: str = ""
    aggregate_id: str | None = None
    aggregate_type: str | None = None
    metadata: dict[str, Any] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: EventPriority = EventPriority.NORMAL
    compression_type: CompressionType | None = None
    serialization_format: SerializationFormat = SerializationFormat.JSON
    max_retries: int = 3
    event_id: str | None = None
    key: str | None = None
    timestamp: str | int | None = None
    traceparent: str | None = None
    deliver_at: str | int | None = None
    expires_at: str | int | None = None
    user_id: str | None = None

    def config(self, traceparent: str | None, event_id: str | None) -> EventConfig:
        """What the publishing service takes; the request's trace and an id made for it stand in for the event's own."""
        fields = {name: getattr(self, name) for name in EventConfig.__struct_fields__}
        fields |= {"traceparent": self.traceparent or traceparent, "event_id": self.event_id or event_id}
        return EventConfig(**fields)


class NewEvents(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Events to publish to one stream in one transaction."""

    events: list[NewEvent]
    stream_id: str | None = None


class EventsController(Controller):
    """Publish events, and look at what became of them."""

    path = "/api/v1/events"
    tags = ["events"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Publish an event; it is on disk when the answer comes")
    async def publish(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        event = decode(await request.body(), NewEvent, MAX_EVENT_BYTES)
        receipts = await _publish(request, services, [event], event.stream_id)
        message = "Event published successfully" if receipts[0].deliver_at_ms is None else "Event scheduled successfully"
        return _receipt(receipts[0]) | {"message": message}

    @post("/batch", summary="Publish events to one stream in one transaction: all of them, or none")
    async def publish_batch(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        batch = decode(await request.body(), NewEvents, MAX_BATCH_BYTES)
        receipts = await _publish(request, services, batch.events, batch.stream_id)
        return {"receipts": [_receipt(receipt) for receipt in receipts], "message": f"{len(receipts)} events published"}

    @get("/{event_id:str}", summary="An event with its envelope and payload")
    async def event(self, request: Request[Any, Any, Any], services: Services, event_id: str) -> dict[str, Any]:
        await asyncio.to_thread(services.history.catch_up)
        found = await asyncio.to_thread(services.history.event, tenant_of(request), event_id)
        if found is None:
            raise EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
        found["payload"] = await asyncio.to_thread(_shown, services, request, found["payload"])
        return found

    @get("/{event_id:str}/processing-history", summary="Every processing step of an event")
    async def processing_history(self, request: Request[Any, Any, Any], services: Services, event_id: str) -> dict[str, Any]:
        await asyncio.to_thread(services.history.catch_up)
        told = await asyncio.to_thread(services.history.processing_history, tenant_of(request), event_id)
        for step in told["processing_history"]:
            if "input_data" in step:
                step["input_data"]["payload"] = await asyncio.to_thread(_shown, services, request, step["input_data"]["payload"])
        return told


def _shown(services: Services, request: Request[Any, Any, Any], payload: Any) -> Any:
    """The payload of an event in the history, with its personal values."""
    return reveal(services.storage.subject_keys, tenant_of(request), payload)


async def _publish(
    request: Request[Any, Any, Any], services: Services, events: list[NewEvent], stream: str | None
) -> list[Receipt]:
    trace = request.headers.get("traceparent")
    configs = [
        event.config(trace, derived_event_id(request, number) if event.event_id is None else None)
        for number, event in enumerate(events)
    ]
    payloads = [bytes(event.payload) for event in events]
    users = {event.user_id for event in events}
    return await services.publishing.publish_batch(
        configs,
        payloads,
        stream_id=stream or DEFAULT_STREAM,
        tenant_id=tenant_of(request),
        user_id=users.pop() if len(users) == 1 else None,
    )


def _receipt(receipt: Receipt) -> dict[str, Any]:
    """``deliver_at`` is there for an event that waits; its offset is -1."""
    split = receipt.position.split
    later = {} if receipt.deliver_at_ms is None else {"deliver_at": rfc3339(receipt.deliver_at_ms)}
    return {
        "event_id": receipt.event_id,
        "stream_id": split.stream_id,
        "partition": split.partition,
        "lane": split.lane.value,
        "offset": receipt.position.offset,
        "duplicate": receipt.duplicate,
        **later,
    }
