"""Adopting record batches: a log takes over what another log holds, as it is."""

import sqlite3
from collections.abc import Sequence

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.log.record_batch import RecordBatch, checksum
from event_streaming_bus.store.log.stored import CODECS, SQL


def adopt_batches(db: sqlite3.Connection, split_no: int, batches: Sequence[RecordBatch]) -> None:
    """Write batches of one split behind what the split holds; see ``EmbeddedLog.adopt``."""
    begin, end = db.execute(SQL["select_split"], (split_no,)).fetchone()
    if begin == end == 0 and batches:
        end = batches[0].offset
        db.execute(SQL["update_split_begin"], (end, 0, split_no))
    written = 0
    for batch in batches:
        if batch.offset != end:
            raise InvalidInputError(f"{batch.split} ends at the offset {end}; a batch at {batch.offset} does not follow it")
        stored = batch.stored()
        times_ms = (stored.min_timestamp_ms, stored.max_timestamp_ms, stored.appended_at_ms)
        place = (split_no, stored.base_offset, stored.count, CODECS.index(stored.codec))
        db.execute(SQL["insert_batch"], (*place, *times_ms, None, None, 0, checksum(batch.split, stored), stored.body))
        written += len(stored.body)
        end = batch.end_offset
    db.execute(SQL["update_split_end"], (end, written, split_no))
