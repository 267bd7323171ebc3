"""The vocabulary of event sourcing: what callers append, and an aggregate as it is rebuilt."""

from typing import Any

import msgspec

from event_streaming_bus.models import JsonValue


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event to be appended to an aggregate. ``event_data`` is a JSON object.

    ``event_id`` makes the append idempotent: the same id again returns the first receipt. ``timestamp`` (RFC 3339 text, epoch
    milliseconds or a datetime) is by default the time of appending.
    """

    event_type: str
    event_data: dict[str, JsonValue]
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: dict[str, JsonValue] | None = None
    timestamp: Any = None  # str | int | datetime | None; msgspec decodes no union of text and datetime
    traceparent: str | None = None


class NewEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events for one aggregate, one after the other.

    ``expected_version``: the version that the aggregate must be at (0: no events yet), or ``any``, ``no_stream`` or
    ``stream_exists``. ``stream``: the stream that the events are on, by name or id; by default the one named as the aggregate's
    type, which is made when it is first needed.
    """

    aggregate_id: str
    aggregate_type: str
    events: list[NewEvent]
    expected_version: int | str | None = None
    stream: str | None = None


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregate rebuilt: the ``state`` that a fold has made of its events up to ``version``.

    ``snapshot_version``: the fold went on from a snapshot of this version; ``None``: it began with the first event.
    """

    aggregate_id: str
    aggregate_type: str
    version: int
    state: dict[str, JsonValue]
    last_timestamp_ms: int | None
    snapshot_version: int | None
    events_replayed: int
    fold: str
