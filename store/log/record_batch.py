"""The record batch: neighbouring events of one split, stored as columns.

Each field of the envelope is a column. A column whose values are all equal is stored once, the timestamps as packed 64-bit
integers, JSON payloads as lines. So a flow that needs only payloads and timestamps decodes only those, and a whole batch of
payloads in one call. The columns are msgpack, then compressed as one block; the checksum (XXH3, 64 bits) covers the
compressed body and the batch's place in the log, so that a batch that was moved is found as well.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import repeat
from typing import Any, Final

import msgspec
import xxhash

from event_streaming_bus.errors import CorruptLogError, InvalidInputError
from event_streaming_bus.models import (
    LANES,
    CompressionType,
    Event,
    EventPriority,
    Position,
    SerializationFormat,
    Split,
    payloads_as_json,
    rfc3339,
)
from event_streaming_bus.store.log.codecs import compress, decompress
from event_streaming_bus.store.log.event_columns import EventColumns, Same, column_of

FORMAT_VERSION: Final = 2
MAX_BATCH_EVENTS: Final = 4096
MAX_BATCH_PAYLOAD_BYTES: Final = 4 << 20

_FIELDS: Final = Event.__struct_fields__
_INDEX: Final = {name: i for i, name in enumerate(_FIELDS)}
_ENUMS: Final[dict[str, type[StrEnum]]] = {
    "priority": EventPriority,
    "compression_type": CompressionType,
    "serialization_format": SerializationFormat,
}
_LACKING: Final = {
    1: 2,
    FORMAT_VERSION: 0,
}  # how many of the last fields the batches of each version that can be read do not have
_row = msgspec.structs.astuple
_encoder = msgspec.msgpack.Encoder()
_parts_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_value_decoder = msgspec.msgpack.Decoder()
_NONE: Final = msgspec.Raw(msgspec.msgpack.encode(None))
_PLACE: Final = struct.Struct("<16sBIqIqqq")


def encode_columns(events: Sequence[Event]) -> bytes:
    """The events as columns, not yet compressed. ``InvalidInputError`` names an event that msgpack cannot hold."""
    try:
        return _encoder.encode(_columns(events))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        for event in events if len(events) > 1 else ():
            encode_columns([event])
        raise InvalidInputError(
            f"The event {events[0].event_id!r} cannot be stored: {error}. Metadata may hold what JSON holds, with integers of at "
            "most 64 bits; all text must be Unicode.",
            event_id=events[0].event_id,
        ) from error


def _columns(events: Sequence[Event]) -> list[Any]:
    if len(events) == 1:
        return _columns_of_one(events[0])
    columns: list[Any] = [FORMAT_VERSION, len(events)]
    for name, values in zip(_FIELDS, _transposed(events), strict=True):
        if values.__class__ is Same:
            columns.append([values.value])
        elif name == "data":
            columns.append(_pack_payloads(values))
        elif name == "timestamp_ms":
            columns.append(_pack_integers("q", values))
        elif values.count(values[0]) == len(values) and (name != "metadata" or values[0] is None or _same(values)):
            columns.append(values[:1])
        else:
            columns.append(values)
    return columns


def _transposed(events: Sequence[Event]) -> Iterable[Any]:
    """The values of each field, or ``Same``."""
    if isinstance(events, EventColumns):
        of = events.column
        return [column_of(events, name) if name in ("data", "timestamp_ms") else of(name) for name in _FIELDS]
    return zip(*map(_row, events), strict=True)


def _columns_of_one(event: Event) -> list[Any]:
    """The columns of a single event, as live publishers append them."""
    columns: list[Any] = [FORMAT_VERSION, 1]
    columns += [[value] for value in _row(event)]
    columns[2 + _INDEX["data"]] = _pack_payloads([event.data])
    columns[2 + _INDEX["timestamp_ms"]] = _pack_integers("q", [event.timestamp_ms])
    return columns


def _same(values: Sequence[Any]) -> bool:
    """Whether equal values are the same when written: ``1``, ``1.0`` and ``True`` are equal, but not the same."""
    return all(value is values[0] for value in values) or len(set(map(_encoder.encode, values))) == 1


def _pack_integers(code: str, values: Iterable[int]) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack_integers(code: str, data: bytes) -> "array[int]":
    unpacked = array(code)
    unpacked.frombytes(data)
    if sys.byteorder == "big":
        unpacked.byteswap()
    return unpacked


def _pack_payloads(values: Sequence[bytes]) -> bytes | list[bytes]:
    lines = b"\n".join(values)
    if lines.count(b"\n") == len(values) - 1:
        return lines
    return [_pack_integers("I", map(len, values)), b"".join(values)]


def _fits(i: int, values: Any, count: int) -> bool:
    """Whether these are the values of the field ``i`` of so many events, as far as that shows without looking at each value."""
    if i == _INDEX["timestamp_ms"]:
        return values.__class__ is bytes and len(values) == 8 * count
    if i == _INDEX["data"]:
        return _are_payloads(values, count)
    return values.__class__ is list and (len(values) == count or len(values) == 1)


def _are_payloads(data: Any, count: int) -> bool:
    """Lines are counted when they are asked for."""
    if data.__class__ is bytes:
        return True
    if data.__class__ is not list or [each.__class__ for each in data] != [bytes, bytes]:
        return False
    sizes, blob = data
    return len(sizes) == 4 * count and sum(_unpack_integers("I", sizes)) == len(blob)


def checksum(split: Split, batch: "StoredBatch") -> int:
    """XXH3 (64 bits, as a signed integer) over the batch's place, its counts and times, and its body."""
    place = _PLACE.pack(
        xxhash.xxh3_128_digest(split.stream_id.encode()),
        LANES.index(split.lane),
        split.partition,
        batch.base_offset,
        batch.count,
        batch.min_timestamp_ms,
        batch.max_timestamp_ms,
        batch.appended_at_ms,
    )
    digest = xxhash.xxh3_64_intdigest(batch.body, seed=xxhash.xxh3_64_intdigest(place))
    return digest - (1 << 64) if digest >> 63 else digest


class StoredBatch(msgspec.Struct, frozen=True, gc=False):
    """A record batch as it lies in storage. ``body`` is compressed with ``codec``."""

    base_offset: int
    count: int
    codec: CompressionType
    min_timestamp_ms: int
    max_timestamp_ms: int
    appended_at_ms: int
    body: bytes


def behind(error: CorruptLogError, offset: int) -> int:
    """The offset behind the damaged batch that was met when ``offset`` was asked for; the next one where its end is not told.
    Raises the error if it is of no batch."""
    if "offset" not in error.details:
        raise error
    end = error.details.get("end_offset", 0)
    return end if offset < end <= offset + MAX_BATCH_EVENTS else offset + 1


def packed(events: Sequence[Event], codec: CompressionType) -> bytes:
    """The body of the record batch of these events. Events in columns keep it, and are packed with a codec once."""
    if not isinstance(events, EventColumns):
        return compress(codec, encode_columns(events))
    if events.packed is None or events.packed[0] is not codec:
        events.packed = codec, compress(codec, encode_columns(events))
    return events.packed[1]


def store_events(events: Sequence[Event], base_offset: int, codec: CompressionType, appended_at_ms: int) -> StoredBatch:
    """The events as a batch ready to be stored; at most ``MAX_BATCH_EVENTS`` of them, at least one."""
    timestamps = column_of(events, "timestamp_ms")
    body = packed(events, codec)
    return StoredBatch(base_offset, len(events), codec, min(timestamps), max(timestamps), appended_at_ms, body)


class RecordBatch:
    """Neighbouring events of one split, read from the log; columns are decoded when they are asked for.

    Whatever the stored bytes are, columns, payloads and events are as many as ``count`` says, or ``CorruptLogError`` is raised.
    The values of a column are those that were written: that is what the checksum is for, which who reads the storage compares.

    ``offset`` is the offset of the first event, ``count`` how many there are, ``appended_at_ms`` when they were appended.
    """

    __slots__ = ("_columns", "_skip", "_stored", "count", "offset", "split")

    def __init__(self, split: Split, stored: StoredBatch, skip: int = 0, count: int | None = None) -> None:
        self.split = split
        self._stored = stored
        self._skip = skip
        self._columns: list[Any] | None = None
        self.offset = stored.base_offset + skip
        self.count = stored.count - skip if count is None else count

    @property
    def end_offset(self) -> int:
        """The offset after the last event."""
        return self.offset + self.count

    @property
    def appended_at_ms(self) -> int:
        return self._stored.appended_at_ms

    @property
    def stored_bytes(self) -> int:
        return len(self._stored.body)

    def slice(self, begin_offset: int, end_offset: int) -> "RecordBatch":
        """The events with ``begin_offset <= offset < end_offset``, which must lie within this batch."""
        begin, end = max(begin_offset, self.offset), min(end_offset, self.end_offset)
        part = RecordBatch(self.split, self._stored, begin - self._stored.base_offset, end - begin)
        part._columns = self._columns
        return part

    def stored(self) -> StoredBatch:
        """The batch as it lies in storage; of a slice, its events encoded anew."""
        if self._whole:
            return self._stored
        return store_events(self.events(), self.offset, self._stored.codec, self.appended_at_ms)

    def _field(self, name: str) -> Any:
        """The column of a field as it is stored, decoded and found to be of the right length when it is first asked for."""
        columns, i = self._parts(), _INDEX[name]
        values = columns[i]
        if values.__class__ is msgspec.Raw:
            try:
                values = _value_decoder.decode(values)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise self.damaged(str(error)) from error
            if not _fits(i, values, self._stored.count):
                raise self.damaged("its columns do not fit the number of its events")
            columns[i] = values
        return values

    def _parts(self) -> list[Any]:
        """The columns, those undecoded that nobody has asked for."""
        if self._columns is None:
            try:
                parts: list[Any] = _parts_decoder.decode(decompress(self._stored.codec, self._stored.body))
                version, count = map(_value_decoder.decode, parts[:2] if len(parts) > 1 else (_NONE, _NONE))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, CorruptLogError) as error:
                raise self.damaged(str(error)) from error
            if version.__class__ is not int or version not in _LACKING or count != self._stored.count or count < 1:
                raise self.damaged("its header does not fit its contents")
            columns = parts[2:] + [[None]] * _LACKING[version]
            if len(columns) != len(_FIELDS):
                raise self.damaged("its columns do not fit the number of its events")
            self._columns = columns
        return self._columns

    def damaged(self, reason: str) -> CorruptLogError:
        """The error that says where this batch lies and why it cannot be read."""
        split = self.split
        first, last = self._stored.base_offset, self._stored.base_offset + self._stored.count - 1
        return CorruptLogError(
            f"The record batch with the offsets {first} to {last} of stream {split.stream_id}, partition {split.partition}, "
            f"lane {split.lane.value} is damaged: {reason}. Events outside of it can be read; restore it from a backup.",
            stream_id=split.stream_id,
            partition=split.partition,
            lane=split.lane.value,
            offset=first,
            end_offset=last + 1,
        )

    @property
    def _whole(self) -> bool:
        return self.count == self._stored.count

    def timestamps_ms(self) -> Sequence[int]:
        """The event times, in offset order."""
        values = _unpack_integers("q", self._field("timestamp_ms"))
        return values if self._whole else values[self._skip : self._skip + self.count]

    def payload_lines(self, *, counted: bool = True) -> bytes | None:
        """All payloads as lines in one piece, or ``None`` where a payload holds a line feed or the batch is sliced. Not
        ``counted``: whoever asks sees to it that they are as many as they should be."""
        data = self._field("data")
        if not self._whole or not isinstance(data, bytes):
            return None
        if counted and data.count(b"\n") != self._stored.count - 1:
            raise self.damaged("its payloads do not fit the number of its events")
        return data

    def payloads(self) -> list[bytes]:
        """The payload of each event as stored, in offset order."""
        data = self._field("data")
        if isinstance(data, bytes):
            payloads = data.split(b"\n")
            if len(payloads) != self._stored.count:
                raise self.damaged("its payloads do not fit the number of its events")
        else:
            payloads, start, blob = [], 0, data[1]
            for size in _unpack_integers("I", data[0]):
                payloads.append(blob[start : start + size])
                start += size
        return payloads if self._whole else payloads[self._skip : self._skip + self.count]

    def json_payloads(self) -> list[bytes]:
        """The payload of each event as JSON text; one that cannot be read is as stored."""
        same, written_in = self.constant("serialization_format")
        if same and written_in is SerializationFormat.JSON:
            return self.payloads()
        return payloads_as_json(self.payloads(), self.column("serialization_format"), self.column("schema_id"))

    def column(self, name: str) -> Sequence[Any]:
        """The values of the envelope field ``name``, in offset order."""
        if name == "timestamp_ms":
            return self.timestamps_ms()
        if name == "data":
            return self.payloads()
        values: Sequence[Any] = self._field(name)
        if name in _ENUMS:
            values = self._words(name, values)
        if len(values) == 1:
            return [values[0]] * self.count
        return values if self._whole else values[self._skip : self._skip + self.count]

    def constant(self, name: str) -> tuple[bool, Any]:
        """``(True, value)`` if the column is stored as one value for all events, else ``(False, None)``."""
        values = self._field(name)
        if name in ("data", "timestamp_ms") or len(values) != 1:
            return False, None
        return True, (self._words(name, values) if name in _ENUMS else values)[0]

    def _words(self, name: str, values: Sequence[Any]) -> list[StrEnum | None]:
        """The values of a column that has a fixed set of words."""
        as_enum = _ENUMS[name]
        try:
            return [None if v is None else as_enum(v) for v in values]
        except ValueError as error:
            raise self.damaged(f"its column {name} holds what it cannot: {error}") from error

    def events(self) -> list[Event]:
        """The events, in offset order. Equal metadata may be one and the same object: do not change it."""
        columns: list[Iterable[Any]] = []
        for name in _FIELDS:
            same, value = self.constant(name)
            columns.append(repeat(value, self.count) if same else self.column(name))
        return list(map(Event, *columns))

    def event(self, index: int) -> Event:
        """The event ``index`` places after the first."""
        return self.slice(self.offset + index, self.offset + index + 1).events()[0]

    def position(self, index: int) -> Position:
        """The position of the event ``index`` places after the first."""
        return Position(self.split, self.offset + index)

    def __repr__(self) -> str:
        return f"<RecordBatch {self.split} {self.offset}..{self.end_offset - 1} {rfc3339(self.appended_at_ms)}>"
