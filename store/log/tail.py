"""The end of a split while events are put behind it, and how they are cut into record batches."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import CompressionType, Event, EventPriority, Split, StreamInfo
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.event_columns import EventColumns, column_of, different, in_columns, joined
from event_streaming_bus.store.log.record_batch import MAX_BATCH_EVENTS, MAX_BATCH_PAYLOAD_BYTES, packed

_ALONE: Final = 512
"""So many events of one append are record batches of their own."""


class StreamPlace(msgspec.Struct, frozen=True):
    """A stream and the row numbers of its splits, by partition and lane. ``config`` is the stream's configuration as it is
    stored."""

    info: StreamInfo
    stream_no: int
    split_nos: Mapping[tuple[int, EventPriority], int]
    config: str


def pack_ahead(append: Append, place: StreamPlace) -> None:
    """Pack events that are sure to be record batches of their own, so that the others who want to write need not wait for it."""
    events, config = append.events, place.info.config
    if len(events) < _ALONE or append.schedule is not None or append.only_lane(config.partitions) is None:
        return
    with suppress(InvalidInputError):  # the transaction tells of it
        for batch, codec in _in_batches(events, config.compression_type) or ():
            packed(batch, codec)


def _in_batches(events: Sequence[Event], codec: CompressionType) -> list[tuple[EventColumns, CompressionType]] | None:
    """Events in columns as record batches; ``None`` unless they are to be cut by their number alone. ``codec`` is of those
    events that name none."""
    if not isinstance(events, EventColumns):
        return None
    codecs = different(events, "compression_type")
    batches = events.pieces(MAX_BATCH_EVENTS)
    if len(codecs) > 1 or any(sum(map(len, column_of(each, "data"))) > MAX_BATCH_PAYLOAD_BYTES for each in batches):
        return None
    codec_of_all = codecs.pop() or codec
    return [(each, codec_of_all) for each in batches]


class Tail:
    """The end of a split within one transaction: where it was, and what comes behind it."""

    __slots__ = ("_parts", "begin", "codec", "count", "explicit", "split", "split_no", "tenant_id")

    def __init__(self, place: StreamPlace, split: Split, split_no: int, begin: int) -> None:
        self.split = split
        self.split_no = split_no
        self.begin = begin
        self.codec = place.info.config.compression_type
        self.tenant_id = place.info.tenant_id
        self.count = 0
        self.explicit: set[int] = set()  # indexes of the events whose ids go to the index of ids
        self._parts: list[Sequence[Event]] = []

    @property
    def end(self) -> int:
        return self.begin + self.count

    def add(self, events: Sequence[Event], *, explicit: bool) -> None:
        """Put events behind the others. ``explicit``: their ids go to the index of ids."""
        if explicit:
            self.explicit.update(range(self.count, self.count + len(events)))
        self._parts.append(events)
        self.count += len(events)

    def runs(self) -> Iterator[tuple[int, Sequence[Event], CompressionType]]:
        """The events cut into record batches: ``(index of the first, events, codec)``. Few events of one append come into a
        batch together with others."""
        start, few = 0, list[Sequence[Event]]()
        for part in self._parts:
            if len(part) < _ALONE:
                few.append(part)
                continue
            for each in (joined(few), part) if few else (part,):
                yield from self._runs_of(each, start)
                start += len(each)
            few = []
        if few:
            yield from self._runs_of(joined(few), start)

    def _runs_of(self, events: Sequence[Event], start: int) -> Iterator[tuple[int, Sequence[Event], CompressionType]]:
        events = in_columns(events)
        batches = _in_batches(events, self.codec)
        if batches is not None:
            for i, (batch, codec_of_all) in enumerate(batches):
                yield start + i * MAX_BATCH_EVENTS, batch, codec_of_all
            return
        first, size, codec = 0, 0, None
        for i, (asked, data) in enumerate(zip(column_of(events, "compression_type"), column_of(events, "data"), strict=True)):
            wanted = asked or self.codec
            full = i - first >= MAX_BATCH_EVENTS or (i > first and size + len(data) > MAX_BATCH_PAYLOAD_BYTES)
            if codec is not None and (wanted is not codec or full):
                yield start + first, events[first:i], codec
                first, size = i, 0
            codec = wanted
            size += len(data)
        if codec is not None:
            yield start + first, events[first:] if first else events, codec
