"""Comparing the two ends: what the source holds, event by event, with what the journal says is at the target, and is.

Both sides are read. A checksum for each split of the target runs over its events in their order: once over the source's, in the
order in which the journal says they were appended, and once over what the target gives. So equal checksums mean equal events, all
of them, each once, in an order that keeps that of every split of the source.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec
import xxhash

from event_streaming_bus.migration.journal import JOURNAL_STREAM, Copied, read_journal
from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.models import LANES, Event, EventPriority, Split
from event_streaming_bus.store.history_records import SYSTEM_TENANT
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.storage import Storage

_encode: Final = msgspec.msgpack.Encoder().encode
_row: Final = msgspec.structs.astuple
_NO_CHECKSUM: Final = ""
_READ_BYTES: Final = 1 << 20
_AHEAD_BYTES: Final = 64 << 20

Run = list[int]
"""``[first offset, count, 1 if its events are compared]`` of neighbours at the target."""


class Placed(msgspec.Struct, frozen=True):
    """A record of the journal beside what the source holds of it.

    For each event: the ``numbers`` of its piece, its ``ranks`` in it, and where it is at the target, also where it had been there
    before (``None`` if that is not in this stream, or not in any yet). For each piece: ``offsets`` of its last events, as far as
    the source still holds them, and how many of the first are ``missing``.
    """

    copied: Copied
    numbers: Sequence[int]
    ranks: list[int]
    places: list[tuple[Split, int] | None]
    offsets: list[list[int]]
    missing: list[int]

    def firsts(self) -> dict[Split, int]:
        """The first offset in each split of the target."""
        found: dict[Split, int] = {}
        for split, offset in filter(None, self.places):
            found[split] = min(offset, found.get(split, offset))
        return found


class Onlooker(Protocol):
    """Looks at the journal while the ends are compared."""

    def see(self, placed: Placed) -> None:
        """The next record."""
        ...


class LaneCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What came of comparing a lane of a stream.

    ``source_events`` and ``target_events`` were compared, and the checksums are over these. ``known`` had been at the target
    under their ids. ``dropped`` could not be compared, since retention has dropped them at either end since. ``untold`` are at
    the source, and the journal does not tell of them although it should. ``others`` are at the target and came otherwise.
    """

    stream: str
    tenant_id: str
    lane: EventPriority
    source_events: int
    target_events: int
    source_checksum: str
    target_checksum: str
    known: int
    dropped: int
    untold: int
    others: int

    @property
    def agrees(self) -> bool:
        """Whether both ends hold the same."""
        same = (self.source_events, self.source_checksum) == (self.target_events, self.target_checksum)
        return same and not self.untold


class StreamCheck(msgspec.Struct, frozen=True):
    """What came of comparing a stream, lane by lane; up to where the target was looked at, and which offsets of it hold events
    that came otherwise, as ``(first, count)`` of neighbours."""

    lanes: list[LaneCheck]
    ends: dict[Split, int]
    others: dict[Split, list[tuple[int, int]]]


class _Sums:
    """One side: a checksum and a count for each split of the target."""

    def __init__(self) -> None:
        self._sums: dict[Split, xxhash.xxh3_128] = {}
        self._counts: dict[Split, int] = {}

    def add(self, split: Split, event: Event) -> None:
        sums = self._sums.get(split)
        if sums is None:
            sums = self._sums[split] = xxhash.xxh3_128()
        sums.update(_encode(_row(event)))
        self._counts[split] = self._counts.get(split, 0) + 1

    def of_lane(self, lane: EventPriority) -> tuple[int, str]:
        """``(events, checksum)`` of all partitions of a lane."""
        splits = sorted((split for split in self._sums if split.lane is lane), key=lambda split: split.partition)
        if not splits:
            return 0, _NO_CHECKSUM
        whole = xxhash.xxh3_128()
        for split in splits:
            whole.update(b"%d:" % split.partition + self._sums[split].digest())
        return sum(self._counts[split] for split in splits), whole.hexdigest()


class _Lanes:
    """What is not compared: counts by lane, and the offsets at the target of what it knew."""

    def __init__(self) -> None:
        self.known_at: dict[Split, array[int]] = {}
        self.known = dict.fromkeys(LANES, 0)
        self.dropped = dict.fromkeys(LANES, 0)
        self.untold = dict.fromkeys(LANES, 0)


def check_stream(
    source: Storage, target: Storage, pair: Pair, onlookers: Sequence[Onlooker] = (), tell: Callable[[int], None] = lambda _: None
) -> StreamCheck:
    """Compare a stream at both ends, as far as it has been copied. ``tell`` is called with numbers of events compared.

    One read of each split of the source, and of one of the target, is in memory, and for each split of the target the runs of
    neighbours that the journal tells of; for each event that the target had already, 8 bytes.
    """
    while True:
        begins, ends = target.log.begin_offsets(pair.after.stream_id), target.log.end_offsets(pair.after.stream_id)
        wanted, found, lanes = _Sums(), _Sums(), _Lanes()
        runs = _source_side(source, target, pair, begins, wanted, lanes, onlookers, tell)
        others = {
            split: _target_side(
                target.log, split, (begins[split], end), runs.get(split, []), lanes.known_at.get(split), found, tell
            )
            for split, end in ends.items()
        }
        if target.log.begin_offsets(pair.after.stream_id) == begins:
            break
        onlookers = ()  # retention has dropped events at the target meanwhile: compare again what is left
    checks = []
    for lane in LANES:
        (source_events, source_checksum), (target_events, target_checksum) = wanted.of_lane(lane), found.of_lane(lane)
        check = LaneCheck(
            stream=pair.before.name,
            tenant_id=pair.before.tenant_id,
            lane=lane,
            source_events=source_events,
            target_events=target_events,
            source_checksum=source_checksum,
            target_checksum=target_checksum,
            known=lanes.known[lane],
            dropped=lanes.dropped[lane],
            untold=lanes.untold[lane],
            others=sum(count for split, each in others.items() if split.lane is lane for _, count in each),
        )
        checks.append(check)
    return StreamCheck(checks, ends, others)


def _source_side(
    source: Storage,
    target: Storage,
    pair: Pair,
    begins: dict[Split, int],
    sums: _Sums,
    lanes: _Lanes,
    onlookers: Sequence[Onlooker],
    tell: Callable[[int], None],
) -> dict[Split, list[Run]]:
    """Read what the journal tells of at the source; returns where that is at the target."""
    journal = target.internal_stream(SYSTEM_TENANT, JOURNAL_STREAM)
    runs: dict[Split, list[Run]] = {}
    ends = source.log.end_offsets(pair.before.stream_id)
    at_once = max(_READ_BYTES, _AHEAD_BYTES // len(ends))
    ahead = {
        split: _Ahead(_events_between(source.log, split, begin, ends[split], at_once))
        for split, begin in source.log.begin_offsets(pair.before.stream_id).items()
    }
    for copied in read_journal(target.log, journal, pair):
        found: list[list[tuple[int, Event]]] = []
        for piece in copied.pieces:
            split = piece.split(copied.stream_id)
            lanes.untold[split.lane] += len(ahead[split].take(piece.begin))
            found.append(ahead[split].take(piece.end))
        placed = _placed(copied, pair, found, lanes)
        known = {each.index for each in copied.known}
        for index, (number, rank, place) in enumerate(zip(placed.numbers, placed.ranks, placed.places, strict=True)):
            if index in known:
                if place is not None:
                    lanes.known_at.setdefault(place[0], array("q")).append(place[1])
                continue
            assert place is not None  # noqa: S101 - what was not known was appended
            there, offset = place
            is_compared = rank >= placed.missing[number] and offset >= begins[there]
            _extend(runs.setdefault(there, []), offset, is_compared)
            if is_compared:
                sums.add(there, found[number][rank - placed.missing[number]][1])
            else:
                lanes.dropped[there.lane] += 1
        for each in onlookers:
            each.see(placed)
        tell(sum(map(len, found)))
    return runs


class _Ahead:
    """The events of a split, read one behind the other."""

    def __init__(self, events: Iterator[tuple[int, Event]]) -> None:
        self._events = events
        self._next = next(events, None)

    def take(self, until: int) -> list[tuple[int, Event]]:
        """The next ones, up to this offset."""
        taken: list[tuple[int, Event]] = []
        while self._next is not None and self._next[0] < until:
            taken.append(self._next)
            self._next = next(self._events, None)
        return taken


def _placed(copied: Copied, pair: Pair, found: list[list[tuple[int, Event]]], lanes: _Lanes) -> Placed:
    """A record beside what the source holds of it; counts what the target knew, and what the record should tell of."""
    numbers = copied.numbers()
    counts = [0] * len(copied.pieces)
    ranks: list[int] = []
    for number in numbers:
        ranks.append(counts[number])
        counts[number] += 1
    places = copied.places(pair.after.stream_id)
    for known in copied.known:
        lane = LANES[copied.pieces[numbers[known.index]].lane]
        lanes.known[lane] += 1
        if known.stream_id == pair.after.stream_id and known.offset >= 0:  # below, it waits there for its time
            places[known.index] = Split(pair.after.stream_id, lane, known.partition), known.offset
    missing = [count - len(events) for count, events in zip(counts, found, strict=True)]
    for piece, lack in zip(copied.pieces, missing, strict=True):
        lanes.untold[LANES[piece.lane]] += max(0, -lack)
    offsets = [[offset for offset, _ in events] for events in found]
    return Placed(copied, numbers, ranks, places, offsets, [max(0, lack) for lack in missing])


def _extend(runs: list[Run], offset: int, is_compared: bool) -> None:
    if runs and runs[-1][0] + runs[-1][1] == offset and runs[-1][2] == is_compared:
        runs[-1][1] += 1
    else:
        runs.append([offset, 1, is_compared])


def _target_side(
    log: EventLog,
    split: Split,
    bounds: tuple[int, int],
    runs: list[Run],
    known_at: "array[int] | None",
    sums: _Sums,
    tell: Callable[[int], None],
) -> list[tuple[int, int]]:
    """Read a split of the target; returns the neighbours there that the journal does not tell of."""
    others: list[tuple[int, int]] = []
    known = array("q", sorted(known_at or ()))
    at, seen = 0, 0
    for offset, event in _events_between(log, split, *bounds):
        while at < len(runs) and runs[at][0] + runs[at][1] <= offset:
            at += 1
        if at < len(runs) and runs[at][0] <= offset:
            if runs[at][2]:
                sums.add(split, event)
                seen += 1
        elif (rank := bisect_left(known, offset)) < len(known) and known[rank] == offset:
            seen += 1
        elif others and sum(others[-1]) == offset:
            others[-1] = others[-1][0], others[-1][1] + 1
        else:
            others.append((offset, 1))
    tell(seen)
    return others


def _events_between(log: EventLog, split: Split, begin: int, end: int, at_once: int = _READ_BYTES) -> Iterator[tuple[int, Event]]:
    """``(offset, event)`` of what is kept from ``begin`` up to ``end``."""
    for batch in batches_between(log, split, begin, end, at_once, skip_dropped=True):
        yield from enumerate(batch.events(), batch.offset)


def count_events(log: EventLog, split: Split, begin: int, end: int) -> int:
    """How many events are kept from ``begin`` up to ``end``."""
    return sum(batch.count for batch in batches_between(log, split, begin, end, skip_dropped=True)) if begin < end else 0
