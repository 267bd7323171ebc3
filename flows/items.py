"""What travels through a running dataflow: chunks of events, what key groups are sent and give out, and what sinks write."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from event_streaming_bus.flows.aggregations import FieldPartial
from event_streaming_bus.flows.folds.base import Result, Tally
from event_streaming_bus.flows.marks import WindowMark
from event_streaming_bus.models import Event, Split
from event_streaming_bus.store.history_records import HistoryRecord
from event_streaming_bus.store.log.base import Mark
from event_streaming_bus.store.log.event_columns import joined
from event_streaming_bus.store.log.record_batch import RecordBatch


class Progress(msgspec.Struct, frozen=True):
    """How far a source has come; sent to every key group with each chunk, so that all of them close windows alike.

    Splits are named by their text. ``positions``: the offset up to which a split has been read. ``ends``: the end of a split
    in the log, looked up *after* reading, so that whatever was appended before these events counts as unread.
    ``newest``: ``(timestamp_ms, appended_at_ms)`` of the newest event of the chunk. ``clock_ms`` is set only when nothing was
    there to read: the source's clock, by which windows of idle streams close. ``finished``: splits that end for good.
    ``horizons``: of key groups whose results are read here, the time before which they give out nothing more.
    """

    positions: dict[str, int] = {}
    ends: dict[str, int] = {}
    split: str | None = None
    newest: tuple[int, int] | None = None
    clock_ms: int | None = None
    finished: tuple[str, ...] = ()
    horizons: dict[str, int] = {}


class Chunk(msgspec.Struct, frozen=True):
    """Neighbouring events of one split as the source read them, or (``split`` is ``None``) just progress.

    ``end``: where the source goes on reading; offsets before it that hold no event belong to the chunk.
    ``watermark_ms``: the largest timestamp of the split before ``begin``. ``future``: the indexes of events whose time is too far
    after they were appended; neither watermark counts them.
    """

    progress: Progress
    split: Split | None = None
    begin: int = 0
    end: int = 0
    watermark_ms: int | None = None
    batches: tuple[RecordBatch, ...] = ()
    future: frozenset[int] = frozenset()


class Partial(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one chunk in one slice of time of one key.

    ``key`` is the JSON of the group's values. ``indexes``: which events of the chunk they are, so that late ones can be
    named. ``columns`` has their values, a list for each aggregated field; or, where there are many, ``fields`` has the values
    summed up. ``from_end_ms``: the events count only in windows that end then or later; those before had closed for their split.
    """

    slice_ms: int
    key: bytes
    indexes: list[int]
    columns: Sequence[list[Any]] = ()
    fields: list[FieldPartial] | None = None
    from_end_ms: int | None = None


class LatePartial(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Events of one chunk that come too late for the window, by their own split."""

    window_start_ms: int
    window_end_ms: int
    indexes: list[int]


class KeyGroupMessage(msgspec.Struct, frozen=True):
    """What one chunk, or the results of others, mean for one key group, with the progress made.

    ``content``: partials or entries, as the processor's state takes them. ``begin``, ``end``: the offsets of the chunk.
    ``late``: events that are late by their own split; ``lost``: how many of them are late for all their windows.
    """

    key_group: str
    progress: Progress
    begin: int = 0
    end: int = 0
    content: list[Any] = []
    late: list[LatePartial] = []
    lost: int = 0


class LateEvents(msgspec.Struct, frozen=True):
    """Events of one split that came after their window had closed."""

    split: str
    window_start_ms: int
    window_end_ms: int
    offsets: list[int]


class Closed(msgspec.Struct, frozen=True):
    """What a key group gives out as its horizon passes.

    ``results`` are new; ``again`` were written before a restart, and are only for those that read on. ``mark`` is what is
    to be written, ``None`` if nothing is. ``horizon_ms``: before it nothing more will come out.
    """

    key_group: str
    horizon_ms: int
    results: list[Result]
    again: list[Result]
    late: list[LateEvents]
    tally: Tally
    mark: WindowMark | None


ToKeyGroup: TypeAlias = tuple[int, str, KeyGroupMessage]
"""``(the processor's number, key group, message)``"""


class Outputs:
    """Events on their way to streams, by stream id: those of a stream in the order in which they came."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[str, list[Sequence[Event]]] = {}

    def add(self, stream_id: str, events: Sequence[Event]) -> None:
        """More events for a stream. They must not change any more."""
        if events:
            self._parts.setdefault(stream_id, []).append(events)

    def join(self, others: "Outputs") -> None:
        """All that another one has."""
        for stream_id, parts in others._parts.items():
            self._parts.setdefault(stream_id, []).extend(parts)

    def by_stream(self) -> dict[str, Sequence[Event]]:
        """The events of each stream that has some."""
        return {stream_id: joined(parts) for stream_id, parts in self._parts.items()}


class SinkItem(msgspec.Struct, frozen=True):
    """What is written in one transaction: events by stream id, history records, and the marks that stand for them."""

    events: Mapping[str, Sequence[Event]]
    marks: tuple[Mark, ...]
    records: tuple[HistoryRecord, ...] = ()


ToSink: TypeAlias = SinkItem | Callable[[], SinkItem]
"""What is written, or what makes it when it is its turn: called once, in the order in which they were given out."""
