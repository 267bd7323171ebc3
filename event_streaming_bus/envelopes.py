"""The envelopes of events that are published: what a publisher says of them, what the bus adds, field by field."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import Event, EventConfig, SerializationFormat, StreamInfo, rfc3339, time_ms
from event_streaming_bus.registry.encoding import Encoded, at
from event_streaming_bus.store.log.event_columns import Column, Same, events_of

MAX_DELAY_MS: Final = 10 * 366 * 86_400_000
"""How far ahead an event may be delivered: 10 years."""


class Sender(msgspec.Struct, frozen=True):
    """Whose events are published, and when the bus was given them."""

    tenant_id: str
    user_id: str | None
    accepted_ms: int


class Enveloped(NamedTuple):
    """Events with their envelopes. ``own_ids``: every id was made here. ``is_delayed``: one of them is to be delivered later."""

    events: Sequence[Event]
    own_ids: bool
    is_delayed: bool


def envelop(
    event_config: EventConfig | Sequence[EventConfig],
    encoded: Encoded,
    stream: StreamInfo,
    sender: Sender,
    keys: Sequence[str | None] | None = None,
    timestamps_ms: Sequence[int] | None = None,
) -> Enveloped:
    """The encoded payloads as events for ``stream``, in order; many of them in columns.

    ``event_config`` is one for all, or one for each payload; ``keys`` and ``timestamps_ms``, one for each payload, go before what
    it says. ``InvalidInputError`` names what does not fit, and of which event.
    """
    count = len(encoded.data)
    for name, values in (("event_config", event_config), ("keys", keys), ("timestamps_ms", timestamps_ms)):
        if values is not None and not isinstance(values, EventConfig) and len(values) != count:
            raise InvalidInputError(f"{name}: expected one for each of the {count} payloads, got {len(values)}")
    said = _Said(event_config)
    _check_format(said, encoded, stream)
    deliver_at_ms, expires_at_ms, is_delayed = _delivery(said, sender.accepted_ms)
    event_ids, own_ids = _event_ids(said, count)
    aggregate_ids = said.column("aggregate_id")
    columns: dict[str, Column] = {
        "event_id": event_ids,
        "event_type": said.column("event_type"),
        "timestamp_ms": _timestamps(said, sender.accepted_ms) if timestamps_ms is None else list(timestamps_ms),
        "data": encoded.data,
        "key": _or_else(said.column("key") if keys is None else list(keys), aggregate_ids, count),
        "source_capability": said.column("source_capability"),
        "aggregate_id": aggregate_ids,
        "aggregate_type": said.column("aggregate_type"),
        "metadata": said.column("metadata"),
        "correlation_id": said.column("correlation_id"),
        "causation_id": said.column("causation_id"),
        "priority": said.column("priority"),
        "compression_type": said.column("compression_type"),
        "serialization_format": _formats(encoded, count),
        "max_retries": said.column("max_retries"),
        "tenant_id": Same(sender.tenant_id),
        "user_id": Same(sender.user_id),
        "schema_id": _schema_ids(encoded, stream.config.schema_id, count),
        "traceparent": said.column("traceparent"),
        "deliver_at_ms": deliver_at_ms,
        "expires_at_ms": expires_at_ms,
    }
    return Enveloped(events_of(columns, count), own_ids, is_delayed)


class _Said:
    """What was said of the events: by one configuration for all of them, or by one for each."""

    def __init__(self, config: EventConfig | Sequence[EventConfig]) -> None:
        self.is_one = isinstance(config, EventConfig)
        self.configs: Sequence[EventConfig] = [config] if isinstance(config, EventConfig) else config

    def column(self, name: str) -> Column:
        """What they say there."""
        return self.of_each(list(map(attrgetter(name), self.configs)))

    def of_each(self, values: list[Any]) -> Column:
        """Values, one for each configuration, as the values of the events."""
        return Same(values[0]) if self.is_one else values

    def says(self, name: str) -> bool:
        """Whether any event has something there."""
        return any(value is not None for value in map(attrgetter(name), self.configs))


def _or_else(values: Column, others: Column, count: int) -> Column:
    """The values, and where they are None the others."""
    if isinstance(values, Same):
        return others if values.value is None else values
    if None not in values:
        return values
    rest = [others.value] * count if isinstance(others, Same) else others
    return [other if value is None else value for value, other in zip(values, rest, strict=True)]


def _event_ids(said: _Said, count: int) -> tuple[Column, bool]:
    """The ids that were given, and made ones where there was none; whether there was none at all."""
    made = ids.new_ids(ids.EVENT, count)
    given = said.column("event_id")
    if isinstance(given, Same):
        return (Same(given.value), False) if given.value else (made, True)
    if not any(given):
        return made, True
    return [event_id or other for event_id, other in zip(given, made, strict=True)], False


def _timestamps(said: _Said, now_ms: int) -> Column:
    return said.of_each([now_ms if config.timestamp is None else time_ms(config.timestamp) for config in said.configs])


def _formats(encoded: Encoded, count: int) -> Column:
    """What broke the schema is kept as JSON, whatever the others are written in."""
    if not encoded.invalid or encoded.format is SerializationFormat.JSON:
        return Same(encoded.format)
    broken = set(encoded.invalid)
    return [SerializationFormat.JSON if i in broken else encoded.format for i in range(count)]


def _schema_ids(encoded: Encoded, schema_id: str | None, count: int) -> Column:
    if not encoded.schema_ids:
        return Same(schema_id)
    return [encoded.schema_ids.get(i, schema_id) for i in range(count)]


def _check_format(said: _Said, encoded: Encoded, stream: StreamInfo) -> None:
    if encoded.format is not SerializationFormat.JSON:
        return
    for i, config in enumerate(said.configs):
        if config.serialization_format is SerializationFormat.AVRO:
            raise InvalidInputError(
                f"serialization_format{at(i, encoded.data)}: the stream {stream.name} has no Avro schema, so its events are JSON"
            )


def _delivery(said: _Said, now_ms: int) -> tuple[Column, Column, bool]:
    """When the events come and when they expire, and whether one of them comes later than now."""
    if not said.says("deliver_at") and not said.says("expires_at"):
        return Same(None), Same(None), False
    times = [_delivery_of(config, None if said.is_one else i, now_ms) for i, config in enumerate(said.configs)]
    is_delayed = any(deliver_at_ms is not None and deliver_at_ms > now_ms for deliver_at_ms, _ in times)
    return said.of_each([each[0] for each in times]), said.of_each([each[1] for each in times]), is_delayed


def _delivery_of(config: EventConfig, index: int | None, now_ms: int) -> tuple[int | None, int | None]:
    """``(deliver_at_ms, expires_at_ms)``. ``index`` is named by the error, if the configuration is not one for all events."""
    where = "" if index is None else f"[{index}]"
    try:
        deliver_at_ms = None if config.deliver_at is None else time_ms(config.deliver_at, f"deliver_at{where}")
        expires_at_ms = None if config.expires_at is None else time_ms(config.expires_at, f"expires_at{where}")
        if deliver_at_ms is not None and deliver_at_ms > now_ms + MAX_DELAY_MS:
            raise InvalidInputError(
                f"deliver_at{where}: {rfc3339(deliver_at_ms)} is too far ahead; expected a time within 10 years"
            )
        if expires_at_ms is not None and expires_at_ms <= max(now_ms, deliver_at_ms or now_ms):
            than = "deliver_at" if deliver_at_ms is not None and deliver_at_ms >= expires_at_ms else "now"
            raise InvalidInputError(
                f"expires_at{where}: {rfc3339(expires_at_ms)} is not later than {than}; nobody would get the event"
            )
    except InvalidInputError as error:
        raise InvalidInputError(error.message, **({} if index is None else {"index": index})) from None
    return deliver_at_ms, expires_at_ms
