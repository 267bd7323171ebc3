"""Copying the events of a stream, so that each is there once however often it is begun and broken off."""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from event_streaming_bus.errors import FencedError, InUseError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.migration.journal import JOURNAL_STREAM, Piece, copied_of, entry_of
from event_streaming_bus.migration.pairs import Pair, Progress, encode_progress, owner_of, reached
from event_streaming_bus.models import LANES, Event, Split
from event_streaming_bus.store.history_records import SYSTEM_TENANT
from event_streaming_bus.store.log.base import Append, AppendResult, EventLog, Mark
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.storage import Storage

MAX_CHUNK_EVENTS: Final = 5000
MAX_CHUNK_BYTES: Final = 4 << 20
"""At most so much goes into one transaction; a larger event goes alone."""
_AHEAD_BYTES: Final = 64 << 20
_READ_BYTES: Final = 1 << 20
_FUTURE_MS: Final = 60_000
"""What claims to be further ahead of when it was appended says nothing of its split."""


class Read(NamedTuple):
    """An event of the source, and where it is there. ``watermark_ms`` is the largest time of its split up to it."""

    watermark_ms: int
    split: Split
    offset: int
    event: Event


class Copying(msgspec.Struct, frozen=True):
    """What came of copying a stream: up to which offset of each split, and how many of the events the target had already."""

    ends: dict[Split, int]
    known: int


def copy_stream(source: Storage, target: Storage, pair: Pair, tell: Callable[[int], None]) -> Copying:
    """Copy what the stream holds now, from where the last run has come to.

    Each transaction has some events, the record of the journal that tells of them, and marks that say how far their splits have
    come. Events keep all they have, and those of a split their order; between splits they go by their watermarks. Several splits
    become one where keys change their partition, and so no event is later there than it was in its own split: what was not late
    for a window is not late. Events without a key keep their partition. One whose id the target knows is not appended again.
    ``tell`` is called with the number of events after each transaction. ``InUseError`` if another process copies the same.
    """
    begins, ends = source.log.begin_offsets(pair.before.stream_id), source.log.end_offsets(pair.before.stream_id)
    marks = {split: there.stored for split, there in reached(target.log, pair).items()}
    done = {split: max(begins[split], there.offset) for split, there in reached(target.log, pair).items()}
    last = {split: offset for split, offset in ends.items() if offset > done[split]}
    known = 0
    for events in _chunks(_merged(source.log, done, last)):
        reached_now = {each.split: each.offset + 1 for each in events}
        known += _copy(target, pair, events, done, reached_now, marks)
        done |= reached_now
        tell(len(events))
    return Copying(done, known)


def _merged(log: EventLog, begins: Mapping[Split, int], ends: Mapping[Split, int]) -> Iterator[Read]:
    """The events of several splits in the order of their watermarks, which keeps that of each split. What retention drops is left
    out. Of each split, one read is in memory."""
    at_once = max(_READ_BYTES, _AHEAD_BYTES // max(1, len(ends)))

    def read(split: Split) -> Iterator[Read]:
        watermark_ms = -(1 << 63)
        for batch in batches_between(log, split, begins[split], ends[split], at_once, skip_dropped=True):
            horizon_ms = batch.appended_at_ms + _FUTURE_MS
            for offset, event in enumerate(batch.events(), batch.offset):
                if watermark_ms < event.timestamp_ms <= horizon_ms:  # a time that is none must not hold up the split
                    watermark_ms = event.timestamp_ms
                yield Read(watermark_ms, split, offset, event)

    return heapq.merge(*map(read, ends), key=itemgetter(0))


def _chunks(events: Iterator[Read]) -> Iterator[list[Read]]:
    """The events in pieces for one transaction each."""
    chunk: list[Read] = []
    size = 0
    for each in events:
        if chunk and (len(chunk) == MAX_CHUNK_EVENTS or size + len(each.event.data) > MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(each)
        size += len(each.event.data)
    if chunk:
        yield chunk


def _copy(
    target: Storage,
    pair: Pair,
    events: Sequence[Read],
    begins: Mapping[Split, int],
    ends: Mapping[Split, int],
    marks: dict[Split, bytes | None],
) -> int:
    """Append one piece, and renew the ``marks`` of its splits; returns how many of the events the target had already."""
    journal = target.internal_stream(SYSTEM_TENANT, JOURNAL_STREAM)
    number_of = {split: number for number, split in enumerate(ends)}
    pieces = [Piece(LANES.index(split.lane), split.partition, begins[split], end) for split, end in ends.items()]
    numbers = [number_of[each.split] for each in events]

    def tell(results: Sequence[AppendResult]) -> Append:
        receipts = list(chain.from_iterable(result.receipts() for result in results))
        copied = copied_of(pair, pieces, numbers, receipts)
        return Append(journal.stream_id, [entry_of(copied, time.time_ns() // 1_000_000)], new_ids=True)

    values = {split: encode_progress(Progress(*pair.made_ms, end)) for split, end in ends.items()}
    owner = owner_of(pair.source)
    try:
        results = target.log.append(
            [Append(pair.after.stream_id, run, partition=partition) for partition, run in _runs(events)],
            marks=[Mark(owner, str(split), marks[split], value) for split, value in values.items()],
            journal=tell,
        )
    except FencedError as error:
        raise InUseError("Another process carries the same events at the moment. Let it end, or stop it.") from error
    fault_point("migration.copied")
    marks |= values
    return sum(result.duplicates for result in results)


def _runs(events: Sequence[Read]) -> Iterator[tuple[int | None, list[Event]]]:
    """The events in runs, in which all that have no key are of one partition: that goes for the whole ``Append``."""
    run: list[Event] = []
    of_run: int | None = None
    for each in events:
        if each.event.key is None:
            if of_run not in (None, each.split.partition):
                yield of_run, run
                run = []
            of_run = each.split.partition
        run.append(each.event)
    yield of_run, run
