"""Browsing a stream: a page of its events, by time of appending, forwards or backwards, all or those that a filter takes.

Nothing is remembered between pages: a cursor says for every split how far the pages before it have come.
"""

import base64
import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus.api.consuming_hands import Delivery
from event_streaming_bus.errors import InvalidInputError, OffsetOutOfRangeError
from event_streaming_bus.expressions import Expression, Scope, parse
from event_streaming_bus.models import LANES, EventPriority, Position, Split, StreamInfo, time_ms
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.storage import Storage

MAX_EVENTS: Final = 1000
MAX_LOOKED_AT: Final = 20_000
"""After so many events, and the rest of those that were read with them, a page ends, however few of them the filter took."""
MAX_LOOKING_S: Final = 2.0
"""After so long a page ends, too."""
_READ_BYTES: Final = 64 << 10
_SLICE_EVENTS: Final = 256
_BACKWARDS_EVENTS: Final = 2048
_MAX_CURSOR_CHARS: Final = 200_000

Places: TypeAlias = dict[Split, int]
"""For each split the offset of the next event, or backwards the one after the next."""


class Found(NamedTuple):
    """A page. ``places``: how far it came. ``is_end``: no more is there now. ``failed``: for how many events the filter could not
    be evaluated, and why for the first of them."""

    events: list[Delivery]
    places: Places
    is_end: bool
    looked_at: int
    failed: int = 0
    failure: str | None = None


def chosen_splits(stream: StreamInfo, lanes: Sequence[EventPriority] | None, partition: int | None) -> list[Split]:
    """The splits of a stream that are meant. Raises ``InvalidInputError`` for a partition that it does not have."""
    if partition is not None and not 0 <= partition < stream.config.partitions:
        most = stream.config.partitions - 1
        raise InvalidInputError(f"partition: {stream.name} has the partitions 0 to {most}, got {partition}", path="partition")
    wanted = set(lanes or LANES)
    return [s for s in stream.splits() if s.lane in wanted and partition in (None, s.partition)]


def read_filter(text: str | None) -> Expression | None:
    """The filter that ``text`` says. Raises ``ExpressionError``."""
    return None if text is None else parse(text, Scope.ENVELOPE, where="filter")


def places_at(log: EventLog, splits: Sequence[Split], text: str) -> Places:
    """Where ``earliest``, ``latest``, an offset or a time is in each split. Raises ``InvalidInputError`` for what is none."""
    if not splits:
        return {}
    begins, ends = log.begin_offsets(splits[0].stream_id), log.end_offsets(splits[0].stream_id)
    if text == "earliest":
        return {split: begins.get(split, 0) for split in splits}
    if text == "latest":
        return {split: ends[split] for split in splits}
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return {split: min(max(int(text), begins.get(split, 0)), ends[split]) for split in splits}
    try:
        at_ms = time_ms(text)
    except InvalidInputError:
        told = "expected earliest, latest, an offset, or a time as in 2025-01-26T10:00:00Z"
        raise InvalidInputError(f"from: {told}; got {text[:100]!r}", path="from") from None
    return {split: _offset_at(log, split, at_ms) for split in splits}


def _offset_at(log: EventLog, split: Split, at_ms: int) -> int:
    """The offset of the first event at or after a time."""
    offset = log.offset_for_time(split, at_ms)
    try:
        batches = log.read(split, offset, 1)
    except OffsetOutOfRangeError as error:  # retention was faster
        return int(error.details["begin"])
    times_ms = batches[0].timestamps_ms() if batches else ()
    return next((batches[0].offset + i for i, each_ms in enumerate(times_ms) if each_ms >= at_ms), offset)


def browse(
    storage: Storage,
    stream: StreamInfo,
    splits: Sequence[Split],
    places: Mapping[Split, int],
    *,
    limit: int,
    wanted: Expression | None = None,
    newest_first: bool = False,
) -> Found:
    """At most ``limit`` of the events from ``places`` on, those appended first in front, or with ``newest_first`` those before
    ``places``, the other way round. What retention has dropped is passed over. Personal values are shown."""
    log = storage.log
    begins, ends = log.begin_offsets(stream.stream_id), log.end_offsets(stream.stream_id)
    at = {split: min(max(places.get(split, 0), begins.get(split, 0)), ends[split]) for split in splits}
    bounds = begins if newest_first else ends
    read = _backwards if newest_first else _forwards
    pieces = heapq.merge(*(read(log, split, at[split], bounds[split]) for split in splits if at[split] != bounds[split]))
    search = _Search(storage, wanted, limit, newest_first, at)
    for *_, piece in pieces:
        if search.is_over():
            break
        search.look_at(piece)
    else:
        if not search.is_over():  # where transactions end, the last offsets hold no event
            at.update({split: bounds[split] for split in splits})
    is_end = all(at[split] == bounds[split] for split in splits)
    return Found(search.events, at, is_end, search.looked_at, search.failed, search.failure)


class _Search:
    """What a page has found so far, and how far it has come: ``at`` moves along."""

    def __init__(self, storage: Storage, wanted: Expression | None, limit: int, newest_first: bool, at: Places) -> None:
        self._keys = storage.subject_keys
        self._wanted = wanted
        self._limit = limit
        self._newest_first = newest_first
        self._at = at
        self._until_s = time.monotonic() + MAX_LOOKING_S
        self.events: list[Delivery] = []
        self.looked_at = 0
        self.failed = 0
        self.failure: str | None = None

    def is_over(self) -> bool:
        return len(self.events) >= self._limit or self.looked_at >= MAX_LOOKED_AT or time.monotonic() > self._until_s

    def look_at(self, piece: RecordBatch) -> None:
        events = list(enumerate(reveal_events(self._keys, piece.events()), piece.offset))
        for offset, event in reversed(events) if self._newest_first else events:
            if len(self.events) >= self._limit:
                return
            self._at[piece.split] = offset if self._newest_first else offset + 1
            self.looked_at += 1
            if self._takes(event):
                self.events.append(Delivery(event, Position(piece.split, offset)))

    def _takes(self, event: Any) -> bool:
        if self._wanted is None:
            return True
        try:
            return bool(self._wanted.compile()(event))
        except Exception as error:  # a value that does not fit: the event is none of those that are looked for
            self.failed += 1
            if self.failure is None:
                self.failure = f"{event.event_id}: {self._wanted.explain(error, event)}"
            return False


_Piece: TypeAlias = tuple[int, int, int, int, RecordBatch]
"""What pieces of several splits are ordered by, and the piece."""


def _forwards(log: EventLog, split: Split, begin: int, end: int) -> Iterator[_Piece]:
    for batch in batches_between(log, split, begin, end, _READ_BYTES, skip_dropped=True):
        for piece in _pieces(batch):
            yield batch.appended_at_ms, LANES.index(split.lane), split.partition, piece.offset, piece


def _backwards(log: EventLog, split: Split, end: int, begin: int) -> Iterator[_Piece]:
    while begin < end:
        low = max(begin, end - _BACKWARDS_EVENTS)
        batches = list(batches_between(log, split, low, end, _READ_BYTES, skip_dropped=True))
        for batch in reversed(batches):
            for piece in reversed(list(_pieces(batch))):
                order = -LANES.index(split.lane), -split.partition, -piece.offset
                yield -batch.appended_at_ms, *order, piece
        end = low


def _pieces(batch: RecordBatch) -> Iterator[RecordBatch]:
    """Its events, few at a time: most pages need but some of a batch."""
    batch.timestamps_ms()  # decodes it once, for all of its pieces
    for offset in range(batch.offset, batch.offset + batch.count, _SLICE_EVENTS):
        yield batch.slice(offset, offset + _SLICE_EVENTS)


# --- cursors ----------------------------------------------------------------------------------------------------------


class _Cursor(msgspec.Struct, array_like=True):
    """``stream_id``, the direction, and the places that are not 0: ``(lane, partition, offset)``."""

    stream_id: str
    newest_first: bool
    places: list[tuple[int, int, int]]


def cursor_of(stream: StreamInfo, places: Places, newest_first: bool) -> str:
    """Places as text that a client gives back."""
    told = [(LANES.index(s.lane), s.partition, offset) for s, offset in places.items() if offset]
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(_Cursor(stream.stream_id, newest_first, told))).decode().rstrip("=")


def places_of(stream: StreamInfo, cursor: str, newest_first: bool) -> Places:
    """The places that a cursor of an earlier page says. Raises ``InvalidInputError`` for anything else."""
    try:
        if len(cursor) > _MAX_CURSOR_CHARS:
            raise ValueError
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        read = msgspec.msgpack.decode(data, type=_Cursor)
        if (read.stream_id, read.newest_first) != (stream.stream_id, newest_first):
            raise ValueError
        return {Split(stream.stream_id, LANES[lane], partition): offset for lane, partition, offset in read.places}
    except (ValueError, IndexError, msgspec.DecodeError):
        told = "expected a next_cursor or tail_cursor of this stream, and of the same direction"
        raise InvalidInputError(f"cursor: {told}; got {cursor[:100]!r}", path="cursor") from None
