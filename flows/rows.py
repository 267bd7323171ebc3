"""Events in columns, as processors see them: read from the log, or just made by other processors."""

from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import eq, itemgetter
from typing import Any, Final, Protocol

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.models import Event, Split

_FIELDS: Final = Event.__struct_fields__


class Rows(Protocol):
    """Events in order, numbered from 0."""

    count: int
    roots: Sequence[int]
    """Of each event, the index of the event that it was made of, in the chunk that was read."""

    def column(self, name: str) -> Sequence[Any]:
        """The values of the envelope field ``name``. ``order_id`` is the event id, or for what was made of an event, that one's
        ``order_id`` with the place among all that was made of it: so things of one time have an order that means something."""
        ...

    def constant(self, name: str) -> tuple[bool, Any]:
        """``(True, value)`` if the envelope field is known to be the same for all events, else ``(False, None)``."""
        ...

    def decode(self, decoder: "msgspec.json.Decoder[Any]") -> tuple[Iterable[tuple[int, Any]], list[tuple[int, Exception]]]:
        """``(index, payload)`` of each event, and the failures of those whose payload cannot be decoded."""
        ...

    def output_ids(self, origin: str, indexes: Sequence[int]) -> list[str]:
        """The ids of the events that a processor makes of these: the same each time."""
        ...

    def place(self, index: int) -> dict[str, Any]:
        """Where the event is, for its dead letter."""
        ...


class ChunkRows:
    """The events of a chunk."""

    def __init__(self, chunk: Chunk, split: Split) -> None:
        self._batches = chunk.batches
        self._split = split
        self._begin = chunk.begin
        self.count = chunk.end - chunk.begin
        self.roots: Sequence[int] = range(self.count)
        self._columns: dict[str, Sequence[Any]] = {}
        self._constants: dict[str, tuple[bool, Any]] = {}

    def column(self, name: str) -> Sequence[Any]:
        name = "event_id" if name == "order_id" else name
        values = self._columns.get(name)
        if values is None:
            if len(self._batches) == 1:
                values = self._batches[0].column(name)
            else:
                values = []
                for batch in self._batches:
                    values += batch.column(name)
            self._columns[name] = values
        return values

    def constant(self, name: str) -> tuple[bool, Any]:
        known = self._constants.get(name)
        if known is None:
            first = self._batches[0].constant(name)
            same = all(batch.constant(name) == first for batch in self._batches)
            known = self._constants[name] = first if same else (False, None)
        return known

    def decode(self, decoder: "msgspec.json.Decoder[Any]") -> tuple[Iterable[tuple[int, Any]], list[tuple[int, Exception]]]:
        payloads: list[Any] = []
        try:
            for batch in self._batches:
                lines = batch.payload_lines()
                decoded = decoder.decode_lines(lines) if lines is not None else list(map(decoder.decode, batch.payloads()))
                if len(decoded) != batch.count:
                    return decode_one_by_one(self.column("data"), decoder)
                payloads += decoded
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decode_one_by_one(self.column("data"), decoder)
        return enumerate(payloads), []

    def output_ids(self, origin: str, indexes: Sequence[int]) -> list[str]:
        times_ms, begin = picked(self.column("timestamp_ms"), indexes), self._begin
        return ids.derived_ids(ids.EVENT, times_ms, [begin + i for i in indexes], origin, self._split)

    def place(self, index: int) -> dict[str, Any]:
        return {
            "lane": self._split.lane.value,
            "partition": self._split.partition,
            "offset": self._begin + index,
        }


class EventRows:
    """Events that processors have just made, or set aside."""

    def __init__(
        self, events: Sequence[Event], roots: Sequence[int] | None = None, order_ids: Sequence[str] | None = None
    ) -> None:
        self.events = events
        self._order_ids = order_ids
        self.count = len(events)
        self.roots: Sequence[int] = range(len(events)) if roots is None else roots

    def column(self, name: str) -> Sequence[Any]:
        if name == "order_id":
            if self._order_ids is not None:
                return self._order_ids
            name = "event_id"
        return [getattr(event, name) for event in self.events]

    def constant(self, name: str) -> tuple[bool, Any]:
        return False, None

    def decode(self, decoder: "msgspec.json.Decoder[Any]") -> tuple[Iterable[tuple[int, Any]], list[tuple[int, Exception]]]:
        try:
            return enumerate([decoder.decode(event.data) for event in self.events]), []
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decode_one_by_one([event.data for event in self.events], decoder)

    def output_ids(self, origin: str, indexes: Sequence[int]) -> list[str]:
        events = [self.events[i] for i in indexes]
        texts = [ids.origin_text(origin, event.event_id) for event in events]
        return ids.hashed_ids(ids.EVENT, [event.timestamp_ms for event in events], texts)

    def place(self, index: int) -> dict[str, Any]:
        return {}


def decode_one_by_one(
    payloads: Sequence[bytes], decoder: "msgspec.json.Decoder[Any]"
) -> tuple[list[tuple[int, Any]], list[tuple[int, Exception]]]:
    """``(index, payload)`` of those that can be decoded, and the failures of the others."""
    items: list[tuple[int, Any]] = []
    failures: list[tuple[int, Exception]] = []
    for i, data in enumerate(payloads):
        try:
            items.append((i, decoder.decode(data)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            failures.append((i, ValueError(f"the payload is no JSON object: {error}")))
    return items, failures


def select_events(rows: Rows, indexes: Sequence[int], replaced: dict[str, Iterable[Any]]) -> list[Event]:
    """The events at ``indexes`` (in any order, and repeated if need be), with some fields ``replaced`` by as many other
    values."""
    if not indexes:
        return []
    everything = _is_everything(rows, indexes)
    columns: list[Iterable[Any]] = []
    for name in _FIELDS:
        if name in replaced:
            columns.append(replaced[name])
            continue
        same, value = rows.constant(name)
        if same:
            columns.append(repeat(value, len(indexes)))
        else:
            columns.append(rows.column(name) if everything else picked(rows.column(name), indexes))
    return list(map(Event, *columns))


def picked(values: Sequence[Any], indexes: Sequence[int]) -> Sequence[Any]:
    """The values at ``indexes``."""
    if len(indexes) < 2:
        return [values[i] for i in indexes]
    found: tuple[Any, ...] = itemgetter(*indexes)(values)
    return found


def _is_everything(rows: Rows, indexes: Sequence[int]) -> bool:
    """Whether they are all the events in their order."""
    return len(indexes) == rows.count and all(map(eq, indexes, range(rows.count)))
