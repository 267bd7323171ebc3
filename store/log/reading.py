"""Reading a part of a stream that is there, as against following it."""

from collections.abc import Iterator

from event_streaming_bus.errors import OffsetOutOfRangeError
from event_streaming_bus.models import Event, Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch


def batches_between(
    log: EventLog, split: Split, begin: int, end: int, max_bytes: int = 1 << 20, *, skip_dropped: bool = False
) -> Iterator[RecordBatch]:
    """The record batches of the events with ``begin <= offset < end``, the last one sliced to end there.

    ``max_bytes`` are read at a time. Raises what ``EventLog.read`` raises; with ``skip_dropped``, reading goes on behind what
    retention has dropped since.
    """
    offset = begin
    while offset < end:
        try:
            batches = log.read(split, offset, max_bytes)
        except OffsetOutOfRangeError as error:
            kept = int(error.details["begin"])
            if not skip_dropped or kept <= offset:
                raise
            offset = kept
            continue
        if not batches:
            return
        for batch in batches:
            if batch.offset >= end:
                return
            yield batch if batch.end_offset <= end else batch.slice(batch.offset, end)
        offset = batches[-1].end_offset


def read_stream(log: EventLog, stream: StreamInfo, most: int | None = None) -> list[Event]:
    """Every event of a stream, or the first ``most``: partition by partition, the most urgent lane first, in offset order."""
    begins, ends = log.begin_offsets(stream.stream_id), log.end_offsets(stream.stream_id)
    events: list[Event] = []
    for split in stream.splits():
        for batch in batches_between(log, split, begins[split], ends[split]):
            events += batch.events()
            if most is not None and len(events) >= most:
                return events[:most]
    return events
