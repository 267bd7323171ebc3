"""The records of the history's stream, read from the log."""

import logging
from collections.abc import Iterator
from typing import Final

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import behind

_READ_BYTES: Final = 1 << 18
_log: Final = logging.getLogger(__name__)

Record = tuple[int, bytes | None, int]
"""``(offset, record, when it was written in ms)``; a record that is damaged in the log is None."""


def records_of(log: EventLog, split: Split, position: int, end: int) -> Iterator[Record]:
    """The records from ``position`` on, at least to ``end``."""
    while position < end:
        try:
            batches = log.read(split, position, _READ_BYTES)
        except CorruptLogError as error:
            damaged = range(position, behind(error, position))
            _log.error("%s There is no history of what it tells.", error.message)
            yield from ((offset, None, 0) for offset in damaged)
            position = damaged.stop
            continue
        for batch in batches:
            offsets = range(batch.offset, batch.offset + batch.count)
            yield from zip(offsets, batch.payloads(), batch.timestamps_ms(), strict=True)
            position = batch.end_offset
