"""Events in columns, as processors see them: read from the log, or just made by other processors."""

from collections.abc import Iterable, Mapping, Sequence
from operator import eq, itemgetter
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from event_streaming_bus import ids, payloads
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.models import Event, SerializationFormat, Split, payloads_as_json
from event_streaming_bus.registry.upcasting import Upcaster
from event_streaming_bus.store.log.event_columns import Column, EventColumns, Same, picked

_FIELDS: Final = Event.__struct_fields__
_JSON: Final = SerializationFormat.JSON


class Rows(Protocol):
    """Events in order, numbered from 0."""

    count: int
    roots: Sequence[int]
    """Of each event, the index of the event that it was made of, in the chunk that was read."""

    def column(self, name: str) -> Sequence[Any]:
        """The values of the envelope field ``name``. ``json`` is the payload as JSON text, whatever its format. ``order_id``
        is the event id, or for what was made of an event, that one's ``order_id`` with the place among all that was made of
        it: so things of one time have an order that means something."""
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

    def __init__(self, chunk: Chunk, split: Split, upcast: Upcaster | None = None) -> None:
        self._batches = chunk.batches
        self._split = split
        self._begin = chunk.begin
        self.count = sum(batch.count for batch in chunk.batches)
        self.roots: Sequence[int] = range(self.count)
        self._columns: dict[str, Sequence[Any]] = {}
        self._constants: dict[str, tuple[bool, Any]] = {}
        self._failures: dict[int, Exception] = {}
        if upcast is not None and self.constant("schema_id") != (True, upcast.schema_id):
            upcasted = upcast(self.column("schema_id"), self.column("data"))
            self._columns |= {"schema_id": upcasted.schema_ids, "data": upcasted.data}
            self._constants["schema_id"] = (False, None)
            self._failures = upcasted.failures
            self._is_stored = False
        else:
            self._is_stored = self.constant("serialization_format") == (True, SerializationFormat.JSON)

    def column(self, name: str) -> Sequence[Any]:
        name = "event_id" if name == "order_id" else "data" if name == "json" and self._is_stored else name
        values = self._columns.get(name)
        if values is None:
            if name == "json":
                values = payloads_as_json(*_payload_columns(self))
            elif len(self._batches) == 1:
                values = self._batches[0].column(name)
            else:
                values = []
                for batch in self._batches:
                    values += batch.column(name)
            self._columns[name] = values
        return values

    def replace(self, name: str, values: Sequence[Any]) -> None:
        """Let the envelope field ``name`` have these values, one for each event, in the place of the stored ones."""
        self._columns[name] = values
        self._constants[name] = (True, values[0]) if values.count(values[0]) == len(values) else (False, None)

    def constant(self, name: str) -> tuple[bool, Any]:
        known = self._constants.get(name)
        if known is None:
            first = self._batches[0].constant(name)
            same = all(batch.constant(name) == first for batch in self._batches)
            known = self._constants[name] = first if same else (False, None)
        return known

    def decode(self, decoder: "msgspec.json.Decoder[Any]") -> tuple[Iterable[tuple[int, Any]], list[tuple[int, Exception]]]:
        if not self._is_stored:
            return decode_any(_payload_columns(self), decoder, self._failures)
        items: list[Any] = []
        try:
            for batch in self._batches:
                lines = batch.payload_lines(counted=False)
                decoded = decoder.decode_lines(lines) if lines is not None else list(map(decoder.decode, batch.payloads()))
                if len(decoded) != batch.count:
                    return decode_one_by_one(self.column("data"), decoder)
                items += decoded
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode_one_by_one(self.column("data"), decoder)
        return enumerate(items), []

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
        if name == "json":
            return payloads_as_json(*_payload_columns(self))
        return [getattr(event, name) for event in self.events]

    def constant(self, name: str) -> tuple[bool, Any]:
        return False, None

    def decode(self, decoder: "msgspec.json.Decoder[Any]") -> tuple[Iterable[tuple[int, Any]], list[tuple[int, Exception]]]:
        if any(event.serialization_format is not _JSON for event in self.events):
            return decode_any(_payload_columns(self), decoder, {})
        try:
            return enumerate([decoder.decode(event.data) for event in self.events]), []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode_one_by_one([event.data for event in self.events], decoder)

    def output_ids(self, origin: str, indexes: Sequence[int]) -> list[str]:
        events = [self.events[i] for i in indexes]
        texts = [ids.origin_text(origin, event.event_id) for event in events]
        return ids.hashed_ids(ids.EVENT, [event.timestamp_ms for event in events], texts)

    def place(self, index: int) -> dict[str, Any]:
        return {}


_PayloadColumns: TypeAlias = tuple[Sequence[bytes], Sequence[SerializationFormat], Sequence[str | None]]


def _payload_columns(rows: Rows) -> _PayloadColumns:
    """What it takes to read payloads of any format."""
    return rows.column("data"), rows.column("serialization_format"), rows.column("schema_id")


def decode_any(
    columns: _PayloadColumns, decoder: "msgspec.json.Decoder[Any]", failed: Mapping[int, Exception]
) -> tuple[list[tuple[int, Any]], list[tuple[int, Exception]]]:
    """As ``decode_one_by_one``, for payloads of any format; ``failed`` are known to be unreadable."""
    data, formats, schema_ids = columns
    groups: dict[str | None, list[int]] = {}
    for i, (written_in, schema_id) in enumerate(zip(formats, schema_ids, strict=True)):
        if i not in failed:
            groups.setdefault(None if written_in is _JSON else schema_id or "", []).append(i)
    items: list[tuple[int, Any]] = []
    failures: list[tuple[int, Exception]] = list(failed.items())
    for schema_id, indexes in groups.items():
        if schema_id is None:
            read, unread = decode_one_by_one([data[i] for i in indexes], decoder)
            items += [(indexes[i], payload) for i, payload in read]
            failures += [(indexes[i], error) for i, error in unread]
            continue
        try:
            items += zip(indexes, _read_many(schema_id, [data[i] for i in indexes], decoder.type), strict=True)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            for i in indexes:
                try:
                    items.append((i, _read_many(schema_id, [data[i]], decoder.type)[0]))
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    failures.append((i, ValueError(f"the payload cannot be read: {error}")))
    if len(groups) > 1:
        items.sort(key=itemgetter(0))
    return items, failures


def _read_many(schema_id: str, data: Sequence[bytes], kind: Any) -> list[Any]:
    """Payloads that need a schema, as what the decoder of JSON payloads makes of those."""
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    fields = frozenset(field.encode_name for field in msgspec.structs.fields(kind)) if is_struct else None
    values = payloads.reader(schema_id).read_many(data, fields)
    made: list[Any] = msgspec.convert(values, list[kind])
    return made


def decode_one_by_one(
    data: Sequence[bytes], decoder: "msgspec.json.Decoder[Any]"
) -> tuple[list[tuple[int, Any]], list[tuple[int, Exception]]]:
    """``(index, payload)`` of those that can be decoded, and the failures of the others."""
    items: list[tuple[int, Any]] = []
    failures: list[tuple[int, Exception]] = []
    for i, each in enumerate(data):
        try:
            items.append((i, decoder.decode(each)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failures.append((i, ValueError(f"the payload is no JSON object: {error}")))
    return items, failures


def select_events(rows: Rows, indexes: Sequence[int], replaced: Mapping[str, Column]) -> list[Event]:
    """The events at ``indexes`` (in any order, and repeated if need be), with some fields ``replaced`` by as many other
    values."""
    return select_columns(rows, indexes, replaced).events() if indexes else []


def select_columns(rows: Rows, indexes: Sequence[int], replaced: Mapping[str, Column]) -> EventColumns:
    """As ``select_events``, in columns."""
    everything = _is_everything(rows, indexes)
    columns: dict[str, Column] = {}
    for name in _FIELDS:
        if name in replaced:
            columns[name] = replaced[name]
            continue
        same, value = rows.constant(name)
        if same:
            columns[name] = Same(value)
        else:
            columns[name] = rows.column(name) if everything else picked(rows.column(name), indexes)
    return EventColumns(columns, len(indexes))


def _is_everything(rows: Rows, indexes: Sequence[int]) -> bool:
    """Whether they are all the events in their order."""
    return len(indexes) == rows.count and all(map(eq, indexes, range(rows.count)))
