"""The events that folds are given: their payloads decoded many at a time, and what a method of an aggregate sees of one."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus import payloads as schema_payloads
from event_streaming_bus.models import SerializationFormat
from event_streaming_bus.sourcing.sourcing_errors import FoldError
from event_streaming_bus.store.recorded import RecordedEvent

Payload: TypeAlias = dict[str, Any]

_decode_one: Final = msgspec.json.Decoder(Payload).decode
_decode_list: Final = msgspec.json.Decoder(list[Payload]).decode
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_JSON: Final = SerializationFormat.JSON


class AppliedEvent:
    """An event as a method of an aggregate sees it: what was recorded, with the payload in the version that the fold expects.

    ``payload`` is an object of its own: a state may keep it, and change it.
    """

    __slots__ = ("_recorded", "payload")

    def __init__(self, recorded: RecordedEvent, payload: Payload) -> None:
        self._recorded = recorded
        self.payload = payload

    @property
    def aggregate_id(self) -> str:
        return self._recorded.aggregate_id

    @property
    def aggregate_type(self) -> str:
        return self._recorded.aggregate_type

    @property
    def version(self) -> int:
        """The version of the aggregate that the event made, from 1 on."""
        return self._recorded.version

    @property
    def position(self) -> int:
        """The event's place in the global order."""
        return self._recorded.position

    @property
    def event_type(self) -> str:
        return self._recorded.event_type

    @property
    def event_id(self) -> str:
        return self._recorded.event_id

    @property
    def timestamp_ms(self) -> int:
        """The event time in epoch milliseconds."""
        return self._recorded.timestamp_ms

    @property
    def timestamp(self) -> datetime:
        """The event time, aware, in UTC."""
        return _EPOCH + self._recorded.timestamp_ms * _MILLISECOND

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, empty if there is none; a copy."""
        return msgspec.to_builtins(self._recorded.metadata or {})  # type: ignore[no-any-return]

    @property
    def correlation_id(self) -> str | None:
        return self._recorded.correlation_id

    @property
    def causation_id(self) -> str | None:
        return self._recorded.causation_id

    @property
    def user_id(self) -> str | None:
        return self._recorded.user_id

    @property
    def tenant_id(self) -> str:
        return self._recorded.tenant_id

    def __repr__(self) -> str:
        return f"AppliedEvent({self.event_type!r}, version={self.version}, payload={self.payload!r})"


def read_payloads(events: Sequence[RecordedEvent], fold: str) -> Iterator[Payload]:
    """The payloads of the events, in order, decoded many at a time. ``fold`` is named if one cannot be read: raises ``FoldError``
    when it is its turn."""
    try:
        read = _read_together(events)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        read = []
    if len(read) == len(events):
        yield from read
    else:
        for event in events:
            yield _read_one(event, fold)


def _read_together(events: Sequence[RecordedEvent]) -> list[Payload]:
    if all(event.serialization_format is _JSON for event in events):
        return _decode_list(b"[" + b",".join([event.data for event in events]) + b"]")
    places: defaultdict[str | None, list[int]] = defaultdict(list)
    found: list[Any] = [None] * len(events)
    for i, event in enumerate(events):
        if event.serialization_format is _JSON:
            found[i] = _decode_one(event.data)
        else:
            places[event.schema_id].append(i)
    for schema_id, indexes in places.items():
        read = schema_payloads.reader(schema_id).read_many([events[i].data for i in indexes])
        for i, payload in zip(indexes, read, strict=True):
            found[i] = payload
    return found


def _read_one(event: RecordedEvent, fold: str) -> Payload:
    try:
        payload = _decode_one(event.data) if event.serialization_format is _JSON else event.payload
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise failure(fold, event, f"the payload cannot be read: {error}") from error
    if not isinstance(payload, dict):
        raise failure(fold, event, "the payload is no object")
    return payload


def failure(fold: str, event: RecordedEvent, reason: str, **details: Any) -> FoldError:
    """That a fold cannot apply an event: names both, the event's version and position, and why."""
    return FoldError(
        f"{fold} cannot apply {event.event_type} (event {event.event_id}, version {event.version} of {event.aggregate_id}, "
        f"position {event.position}): {reason}",
        fold=fold,
        aggregate_id=event.aggregate_id,
        aggregate_type=event.aggregate_type,
        event_type=event.event_type,
        event_id=event.event_id,
        version=event.version,
        position=event.position,
        reason=reason,
        **details,
    )
