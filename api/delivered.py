"""Events as clients over HTTP get them: the envelope, the payload as JSON, and where the event is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from event_streaming_bus.api.consuming_hands import Delivery, shown
from event_streaming_bus.models import CompressionType, Event, EventPriority, SerializationFormat, rfc3339

_decode_raw: Final[Callable[[bytes], msgspec.Raw]] = msgspec.json.Decoder(msgspec.Raw).decode


class DeliveredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as JSON, with the members of ``esb read --json``. ``payload_base64`` stands for a payload that is no JSON."""

    event_id: str
    event_type: str
    timestamp: str
    stream: str
    partition: int
    lane: EventPriority
    offset: int
    key: str | None
    source_capability: str
    aggregate_id: str | None
    aggregate_type: str | None
    metadata: dict[str, Any] | None
    correlation_id: str | None
    causation_id: str | None
    priority: EventPriority
    compression_type: CompressionType | None
    serialization_format: SerializationFormat
    max_retries: int
    tenant_id: str
    user_id: str | None
    schema_id: str | None
    traceparent: str | None
    deliver_at: str | None
    expires_at: str | None
    payload: Any | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET


class Polled(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a poll. ``batch``: the number of the last answer with events, this one if it has any."""

    member_id: str
    batch: int
    generation: int
    is_rebalancing: bool
    events: list[DeliveredEvent]


def delivered(deliveries: Iterable[Delivery], names: Mapping[str, str]) -> list[DeliveredEvent]:
    """Events to be written as JSON: one that is redelivered with the place where it was read at first. ``names``: of their
    streams, by id."""
    found = []
    for delivery in deliveries:
        event, place = delivery.event, shown(delivery, names)
        payload, payload_base64 = _payload(event)
        found.append(
            DeliveredEvent(
                event.event_id,
                event.event_type,
                rfc3339(event.timestamp_ms),
                place.stream,
                place.partition,
                place.lane,
                place.offset,
                event.key,
                event.source_capability,
                event.aggregate_id,
                event.aggregate_type,
                event.metadata,
                event.correlation_id,
                event.causation_id,
                event.priority,
                event.compression_type,
                event.serialization_format,
                event.max_retries,
                event.tenant_id,
                event.user_id,
                event.schema_id,
                event.traceparent,
                None if event.deliver_at_ms is None else rfc3339(event.deliver_at_ms),
                None if event.expires_at_ms is None else rfc3339(event.expires_at_ms),
                payload,
                payload_base64,
            )
        )
    return found


def _payload(event: Event) -> tuple[Any, Any]:
    """The payload, as it was published if that is JSON; or its bytes."""
    data = event.data
    try:
        if event.serialization_format is SerializationFormat.JSON:
            if not data.isascii():
                data.decode()
            return _decode_raw(data), UNSET
        return event.payload, UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNSET, data
