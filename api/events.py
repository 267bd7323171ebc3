"""Events over REST: publish one or many, look at one, and at all that was done with it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from litestar import Controller, Request, Response, get, post

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.asgi import header_of
from event_streaming_bus.api.bodies import Integer, decode
from event_streaming_bus.api.idempotency import derived_event_id, origin_of
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import EventNotFoundError, InvalidInputError
from event_streaming_bus.models import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    EventConfig,
    EventPriority,
    Receipt,
    rfc3339,
)
from event_streaming_bus.publishing import DEFAULT_STREAM
from event_streaming_bus.registry.protection import reveal
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.published_once import Once

MAX_EVENT_BYTES = DEFAULT_MAX_PAYLOAD_BYTES + (1 << 16)
MAX_BATCH_BYTES = 16 << 20
_MANY_EVENTS: Final = 32
"""From so many on, one row for a request costs less than to look for each event's id, and to write it."""
_encode: Final = msgspec.json.Encoder().encode


class NewEvent(EventConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event to publish. Without ``stream_id`` (a stream's id or name) it goes to the stream ``events``."""

    payload: msgspec.Raw
    stream_id: str | None = None
    max_retries: Integer = 3
    timestamp: str | Integer | None = None
    deliver_at: str | Integer | None = None
    expires_at: str | Integer | None = None
    user_id: str | None = None


class NewEvents(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Events to publish to one stream in one transaction."""

    events: list[NewEvent]
    stream_id: str | None = None


class EventsController(Controller):
    """Publish events, and look at what became of them."""

    path = "/api/v1/events"
    tags = ["events"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Publish an event; it is on disk when the answer comes")
    async def publish(self, request: Request[Any, Any, Any], services: Services) -> Response[dict[str, Any]]:
        return _answer(await publish_one(request, services, await request.body()))

    @post("/batch", summary="Publish events to one stream in one transaction: all of them, or none")
    async def publish_batch(self, request: Request[Any, Any, Any], services: Services) -> Response[dict[str, Any]]:
        return _answer(await publish_many(request, services, await request.body()))

    @get("/{event_id:str}", summary="An event with its envelope and payload")
    async def event(self, request: Request[Any, Any, Any], services: Services, event_id: str) -> dict[str, Any]:
        await asyncio.to_thread(services.history.reach)
        found = await asyncio.to_thread(services.history.event, tenant_of(request), event_id)
        if found is None:
            raise EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
        found["payload"] = await asyncio.to_thread(_shown, services, request, found["payload"])
        return found

    @get("/{event_id:str}/processing-history", summary="Every processing step of an event")
    async def processing_history(self, request: Request[Any, Any, Any], services: Services, event_id: str) -> dict[str, Any]:
        await asyncio.to_thread(services.history.reach)
        told = await asyncio.to_thread(services.history.processing_history, tenant_of(request), event_id)
        for step in told["processing_history"]:
            if "input_data" in step:
                step["input_data"]["payload"] = await asyncio.to_thread(_shown, services, request, step["input_data"]["payload"])
        return told


def _shown(services: Services, request: Request[Any, Any, Any], payload: Any) -> Any:
    """The payload of an event in the history, with its personal values."""
    return reveal(services.storage.subject_keys, tenant_of(request), payload)


async def publish_one(request: Request[Any, Any, Any], services: Services, body: bytes) -> bytes:
    """Publish the event of a request's body; the answer, as JSON."""
    event = decode(body, NewEvent, MAX_EVENT_BYTES)
    (receipt,) = await _publish(request, services, [event], event.stream_id)
    return _encode(_receipt(receipt, "published" if receipt.deliver_at_ms is None else "scheduled"))


async def publish_many(request: Request[Any, Any, Any], services: Services, body: bytes) -> bytes:
    """Publish the events of a request's body in one transaction; the answer, as JSON."""
    batch = decode(body, NewEvents, MAX_BATCH_BYTES)
    receipts = await _publish(request, services, batch.events, batch.stream_id)
    return _encode({"receipts": list(map(_receipt, receipts)), "message": f"{len(receipts)} events published"})


PUBLISHING: Final[Mapping[str, Callable[[Request[Any, Any, Any], Services, bytes], Awaitable[bytes]]]] = {
    EventsController.path: publish_one,
    f"{EventsController.path}/batch": publish_many,
}
"""What publishes, by path."""


async def _publish(
    request: Request[Any, Any, Any], services: Services, events: Sequence[NewEvent], stream: str | None
) -> list[Receipt]:
    """The request's trace, and ids made for the request, stand in for those that events do not have.

    A request with an idempotency key and many events is looked for as a whole instead of by their ids. Which of the two it is
    follows from the request, so it is the same when it comes again.
    """
    trace, origin = header_of(request.scope, b"traceparent"), origin_of(request)
    once = None if origin is None else _once(services, tenant_of(request), origin, events)
    if trace is not None or (origin is not None and once is None):
        events = [
            msgspec.structs.replace(
                event,
                traceparent=event.traceparent or trace,
                event_id=event.event_id or (derived_event_id(request, number) if once is None else None),
            )
            for number, event in enumerate(events)
        ]
    users = {user_of(request, named) for named in {event.user_id for event in events}}
    if len(users) > 1:
        raise InvalidInputError("user_id: the events of one request are of one user; publish those of others by themselves")
    return await services.publishing.publish_once(
        once,
        events,
        [event.payload for event in events],
        stream_id=stream or DEFAULT_STREAM,
        tenant_id=tenant_of(request),
        user_id=next(iter(users), None),
    )


def _once(services: Services, tenant_id: str, origin: str, events: Sequence[NewEvent]) -> Once | None:
    """What lets these events be published once as a whole; None if their ids are to do that."""
    is_whole = len(events) >= _MANY_EVENTS and not any(event.event_id for event in events)
    if is_whole and capabilities_of(services.storage.log).conditions:
        return services.idempotency.once(tenant_id, origin)
    return None


class _Receipt(msgspec.Struct, omit_defaults=True):
    """A receipt as it is told. ``deliver_at`` is there for an event that waits; its offset is -1."""

    event_id: str
    stream_id: str
    partition: int
    lane: EventPriority
    offset: int
    duplicate: bool
    deliver_at: str | None = None
    message: str | None = None


def _receipt(receipt: Receipt, done: str | None = None) -> _Receipt:
    position, later_ms = receipt.position, receipt.deliver_at_ms
    split = position.split
    return _Receipt(
        receipt.event_id,
        split.stream_id,
        split.partition,
        split.lane,
        position.offset,
        receipt.duplicate,
        None if later_ms is None else rfc3339(later_ms),
        None if done is None else f"Event {done} successfully",
    )


def _answer(body: bytes) -> Response[dict[str, Any]]:
    return Response(body, media_type="application/json")  # type: ignore[arg-type]  # it is encoded already
