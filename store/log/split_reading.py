"""Reading a split of the embedded log."""

import sqlite3
from collections.abc import Callable

from event_streaming_bus.errors import CorruptLogError, OffsetOutOfRangeError
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.log.stored import SQL, verified


def read_batches(
    db: sqlite3.Connection, split: Split, split_no: int, offset: int, max_bytes: int, bounds: Callable[[], tuple[int, int]]
) -> list[RecordBatch]:
    """See ``EventLog.read``. ``bounds`` tells where the split begins and ends; both are read from one snapshot."""
    batches: list[RecordBatch] = []
    size, next_offset = 0, max(offset, 0)
    for row in db.execute(SQL["select_batches"], {"split_no": split_no, "offset": offset}):
        base_offset, count, *_, body, _ = row
        try:
            if base_offset + count <= next_offset:
                continue  # the batch in front of the offset ends before it
            if base_offset > next_offset or (batches and size + len(body) > max_bytes):
                break
        except TypeError:
            pass  # a damaged row, as is told now
        try:
            batches.append(verified(split, row))
        except CorruptLogError:
            if batches:
                break  # what lies before the damage is given out first
            raise
        size += len(body)
        next_offset = base_offset + count
    if not batches or offset < 0:
        _check_offset(split, offset, *bounds())
    if batches and batches[0].offset < offset:
        batches[0] = batches[0].slice(offset, batches[0].end_offset)
    return batches


def _check_offset(split: Split, offset: int, begin: int, end: int) -> None:
    """Raise unless ``offset``, at which there is no batch, is the end of the split."""
    if not begin <= offset <= end:
        raise OffsetOutOfRangeError(
            f"{split} holds the offsets {begin} to {end - 1}; {offset} is "
            + ("no longer kept: retention has dropped it." if 0 <= offset < begin else "outside of them."),
            begin=begin,
            end=end,
        )
    if offset < end:
        raise CorruptLogError(
            f"The record batch with the offset {offset} of stream {split.stream_id}, partition {split.partition}, lane "
            f"{split.lane.value} is missing. Events outside of it can be read; restore it from a backup.",
            stream_id=split.stream_id,
            partition=split.partition,
            lane=split.lane.value,
            offset=offset,
        )
