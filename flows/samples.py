"""Samples of streams: the newest events as they lie in the log, and their copies in another one."""

import heapq
from array import array
from collections.abc import Mapping
from typing import Final

from event_streaming_bus.models import Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.log.record_batch import RecordBatch, store_events

_READ_BYTES: Final = 4 << 20


def newest(log: EventLog, stream: StreamInfo, count: int) -> dict[Split, int]:
    """The offset in each split from which on the stream's ``count`` newest events lie: those appended last, and of those
    appended at once the ones with the latest times.

    Nothing is left out between them, so what is late among them stays late. It reads up to ``count`` events of each split.
    """
    begins, ends = log.begin_offsets(stream.stream_id), log.end_offsets(stream.stream_id)
    tails = {split: _tail(log, split, begins[split], end, count) for split, end in ends.items()}
    heap = [(*tail.last(), i) for i, tail in enumerate(tails.values()) if tail.times_ms]
    heapq.heapify(heap)
    of_number = list(tails.values())
    for _ in range(count):
        if not heap:
            break
        *_, number = heap[0]
        tail = of_number[number]
        tail.pop()
        if tail.times_ms:
            heapq.heapreplace(heap, (*tail.last(), number))
        else:
            heapq.heappop(heap)
    return {split: tail.end for split, tail in tails.items()}


def _tail(log: EventLog, split: Split, begin: int, end: int, count: int) -> "_Tail":
    """The end of a split with ``count`` events, or all that there are: where offsets are not dense, it takes more of them."""
    span = count
    while True:
        tail = _Tail(log, split, max(begin, end - span), end)
        if len(tail.times_ms) >= count or end - span <= begin:
            return tail
        span *= 2


class _Tail:
    """The end of a split: when each event was appended, its time, and its offset."""

    def __init__(self, log: EventLog, split: Split, begin: int, end: int) -> None:
        self.end = begin
        self.appended_ms = array("q")
        self.times_ms = array("q")
        self.offsets = array("q")
        for batch in batches_between(log, split, begin, end, _READ_BYTES):
            self.times_ms.extend(batch.timestamps_ms())
            self.appended_ms.extend([batch.appended_at_ms] * batch.count)
            self.offsets.extend(range(batch.offset, batch.offset + batch.count))
            self.end = batch.end_offset

    def last(self) -> tuple[int, int]:
        """What the newest is found by; smaller is newer."""
        return -self.appended_ms[-1], -self.times_ms[-1]

    def pop(self) -> None:
        self.times_ms.pop()
        self.appended_ms.pop()
        self.end = self.offsets.pop()


def copy_events(log: EventLog, target: EmbeddedLog, begins: Mapping[Split, int], ends: Mapping[Split, int]) -> int:
    """Copy the events of each split from ``begins`` up to ``ends`` as they are, into a stream of the same id; returns how many.

    Where some offsets of ``log`` hold no event, the copies have the offsets that follow on one another. At most 4 MiB of stored
    events are in memory at a time.
    """
    copied, is_dense = 0, capabilities_of(log).dense_offsets
    for split, begin in begins.items():
        offset, end, place = begin, ends[split], begin
        while offset < end:
            batches = [batch.slice(batch.offset, min(batch.end_offset, end)) for batch in log.read(split, offset, _READ_BYTES)]
            if not batches:
                break
            offset = batches[-1].end_offset
            batches = [batch for batch in batches if batch.count > 0]
            if not is_dense:
                batches, place = _neighbours(batches, place)
            target.adopt(batches)
            copied += sum(batch.count for batch in batches)
    return copied


def _neighbours(batches: list[RecordBatch], place: int) -> tuple[list[RecordBatch], int]:
    """``(the batches, one behind the other from ``place`` on, where the last one ends)``."""
    made = []
    for batch in batches:
        stored = store_events(batch.events(), place, batch.stored().codec, batch.appended_at_ms)
        made.append(RecordBatch(batch.split, stored))
        place += batch.count
    return made, place
