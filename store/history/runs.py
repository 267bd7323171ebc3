"""The events that history records point at, read from the log."""

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from event_streaming_bus.errors import BusError, CorruptLogError, NotFoundError, OffsetOutOfRangeError
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.history_records import Run
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch, behind

_MAX_SPLITS_AT_HAND: Final = 64
_log: Final = logging.getLogger(__name__)


class RunReader:
    """Reads the events of runs. Those that the log no longer holds are passed over: ``skipped_events`` counts them."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._at_hand: dict[Split, list[RecordBatch]] = {}
        self._damaged: set[str] = set()
        self.skipped_events = 0

    def batches(self, runs: Iterable[Run]) -> Iterator[tuple[int, RecordBatch]]:
        """The record batches of the runs, cut to them, each with its first event's place among all events of the runs."""
        before = 0
        for run in runs:
            split = Split(run.stream_id, EventPriority(run.lane), run.partition)
            offset, end = run.offset, run.offset + run.count
            while offset < end:
                try:
                    batch = self._batch_at(split, offset)
                except BusError as error:
                    kept = self._next_kept(error, offset, end)
                    self.skipped_events += kept - offset
                    offset = kept
                    continue
                cut = batch if batch.offset == offset and batch.end_offset <= end else batch.slice(offset, end)
                yield before + offset - run.offset, cut
                offset = cut.end_offset
            before += run.count

    def _batch_at(self, split: Split, offset: int) -> RecordBatch:
        """The record batch that holds ``offset``; those read last are kept at hand, for neighbours are asked for next."""
        for batch in self._at_hand.get(split, ()):
            if batch.offset <= offset < batch.end_offset:
                return batch
        batches = self._log.read(split, offset)
        if not batches:
            raise OffsetOutOfRangeError(f"{split} ends before {offset}", begin=offset + 1, end=offset)
        self._at_hand.pop(split, None)
        if len(self._at_hand) >= _MAX_SPLITS_AT_HAND:
            del self._at_hand[next(iter(self._at_hand))]
        self._at_hand[split] = batches
        return batches[0]

    def _next_kept(self, error: BusError, offset: int, end: int) -> int:
        """The offset to go on at, ``end`` at most, after ``offset`` could not be read. Errors that may pass are raised again."""
        if isinstance(error, NotFoundError):
            return end
        if isinstance(error, OffsetOutOfRangeError):
            begin = int(error.details["begin"])
            return min(begin, end) if begin > offset else end
        if not isinstance(error, CorruptLogError):
            raise error
        kept = min(end, behind(error, offset))
        if error.message not in self._damaged:
            self._damaged.add(error.message)
            _log.error("%s There is no history of its events.", error.message)
        return kept
