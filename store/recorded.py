"""What an event store keeps of an event of an aggregate, and what was asked of it."""

from typing import Any

import msgspec

from event_streaming_bus import payloads
from event_streaming_bus.models import JsonValue, Position, SerializationFormat


class RecordedEvent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event of an aggregate as it was recorded.

    ``position`` is its place in the global order of all aggregates of the data folder: greater than that of every event that was
    recorded before it, from 1 on, with gaps where other tenants write. ``version`` counts the events of its aggregate, from 1 on
    without gaps. ``data`` is the payload as written by ``serialization_format``.
    """

    position: int
    aggregate_id: str
    aggregate_type: str
    version: int
    event_type: str
    event_id: str
    timestamp_ms: int
    recorded_at_ms: int
    data: bytes
    metadata: dict[str, JsonValue] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    user_id: str | None = None
    schema_id: str | None = None
    serialization_format: SerializationFormat = SerializationFormat.JSON
    tenant_id: str = "default"

    @property
    def payload(self) -> JsonValue:
        """The decoded payload. Raises ``msgspec.DecodeError``."""
        if self.serialization_format is SerializationFormat.JSON:
            return msgspec.json.decode(self.data)
        return payloads.read_payload(self.schema_id, self.data)


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """Proof that an event of an aggregate is on disk: in its aggregate at ``version`` and ``position``, and on its stream at
    ``place``. ``duplicate``: it had been there before, nothing was written."""

    event_id: str
    aggregate_id: str
    version: int
    position: int
    place: Position | None
    duplicate: bool = False


class EventQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events are meant: those that fit all that is said here; what is left out is not looked at.

    ``aggregate_types`` are the categories; ``where`` are top-level payload fields that must have these values (JSON scalars).
    """

    aggregate_types: tuple[str, ...] | None = None
    event_types: tuple[str, ...] | None = None
    aggregate_ids: tuple[str, ...] | None = None
    where: dict[str, Any] | None = None


EVERY_EVENT: EventQuery = EventQuery()
