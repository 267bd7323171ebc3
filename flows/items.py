"""What travels through a running dataflow: chunks of events, partial sums, progress, and what sinks write."""

import msgspec

from event_streaming_bus.flows.aggregations import FieldPartial
from event_streaming_bus.models import Event, Split
from event_streaming_bus.store.history_records import HistoryRecord
from event_streaming_bus.store.log.base import Mark
from event_streaming_bus.store.log.record_batch import RecordBatch


class Progress(msgspec.Struct, frozen=True):
    """How far a source has come; sent to every key group with each chunk, so that all of them close windows alike.

    Splits are named by their text. ``positions``: the offset up to which a split has been read. ``ends``: the end of a split
    in the log, looked up *after* reading, so that whatever was appended before these events counts as unread.
    ``newest``: ``(timestamp_ms, appended_at_ms)`` of the newest event of the chunk. ``clock_ms`` is set only when nothing was
    there to read: the source's clock, by which windows of idle streams close. ``finished``: splits that end for good.
    """

    positions: dict[str, int]
    ends: dict[str, int]
    split: str | None = None
    newest: tuple[int, int] | None = None
    clock_ms: int | None = None
    finished: tuple[str, ...] = ()


class Chunk(msgspec.Struct, frozen=True):
    """Neighbouring events of one split as the source read them, or (``split`` is ``None``) just progress.

    ``watermark_ms``: the largest timestamp of the split before ``begin``.
    """

    progress: Progress
    split: Split | None = None
    begin: int = 0
    end: int = 0
    watermark_ms: int | None = None
    batches: tuple[RecordBatch, ...] = ()


class Partial(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one chunk in one window of one key, summed up.

    ``key`` is the JSON of the group's values. ``indexes``: which events of the chunk they are, so that late ones can be
    named. ``fields`` has one partial per aggregated field.
    """

    window_start_ms: int
    key: bytes
    indexes: list[int]
    fields: list[FieldPartial]


class LatePartial(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one chunk that come after their split's watermark had passed the close of their window."""

    window_start_ms: int
    indexes: list[int]


class KeyGroupMessage(msgspec.Struct, frozen=True):
    """One chunk's partials for one key group, with the progress made. ``begin``: the offset of the chunk's first event."""

    key_group: str
    progress: Progress
    begin: int
    end: int
    partials: list[Partial]
    late: list[LatePartial] = []


class SinkItem(msgspec.Struct, frozen=True):
    """What is written in one transaction: events by stream id, history records, and the marks that stand for them."""

    events: dict[str, list[Event]]
    marks: tuple[Mark, ...]
    records: tuple[HistoryRecord, ...] = ()
