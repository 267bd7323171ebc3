"""Positions of consumer groups, translated: where a group goes on at the target so that it misses no event.

The rule: in each split of the target a group goes on at the first event that it has not read at the source, or at the end if
there is none. Where a key went to another partition, events that it has read may lie behind that one: these are delivered again.
So what is guaranteed is at least once for the rest, and never less. Events at the target that did not come from the source count
as not read from where the group had committed there, or from the beginning.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.migration.checking import Placed, StreamCheck
from event_streaming_bus.migration.groups import CarriedGroup
from event_streaming_bus.migration.pairs import Pair, owner_of, told
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import EventLog, Mark

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(dict[str, int]).decode


class GroupMove(msgspec.Struct, frozen=True):
    """What became of a group's position in a stream. ``unread`` counts the events of the source that the group has not read,
    ``again`` about how many of those that it has read it is given again. ``is_left``: the group has gone on at the target since
    the last run, so its position there was left as it is."""

    group: str
    stream: str
    unread: int
    again: int
    is_left: bool


class GroupReading:
    """One group and one stream: finds the first unread event in each split of the target while the ends are compared."""

    def __init__(self, pair: Pair, group: CarriedGroup, committed: Mapping[Split, int], there: Mapping[Split, int]) -> None:
        """``committed`` is what the group has at the source, ``there`` what it has at the target already."""
        self.group = group
        self._pair = pair
        self._committed = committed
        self.there = dict(there)
        self._firsts: dict[Split, int] = {}
        self._unread = 0
        self._again = 0

    def see(self, placed: Placed) -> None:
        """Look at a record of the journal. A split in which nothing is committed counts as unread."""
        thresholds = [self._rank(placed, number) for number in range(len(placed.copied.pieces))]
        if not any(thresholds):
            self._unread += placed.copied.count
            self._note(placed.firsts())
            return
        firsts: dict[Split, int] = {}
        read: list[tuple[Split, int]] = []
        for number, rank, place in zip(placed.numbers, placed.ranks, placed.places, strict=True):
            is_unread = rank >= thresholds[number]
            self._unread += is_unread
            if place is None:
                continue
            if is_unread:
                firsts[place[0]] = min(place[1], firsts.get(*place))
            else:
                read.append(place)
        self._note(firsts)
        self._again += sum(offset > self._firsts.get(split, offset) for split, offset in read) if self._firsts else 0

    def _rank(self, placed: Placed, number: int) -> int:
        """How many of the first events of a piece the group has read."""
        piece, offsets, missing = placed.copied.pieces[number], placed.offsets[number], placed.missing[number]
        committed = self._committed.get(piece.split(placed.copied.stream_id), 0)
        if piece.end <= committed:
            return missing + len(offsets)
        if piece.begin >= committed:
            return 0
        rank = bisect_left(offsets, committed)
        return missing + rank if rank else 0  # where it cannot be told of those that are dropped, they count as unread

    def _note(self, firsts: Mapping[Split, int]) -> None:
        for split, offset in firsts.items():
            self._firsts[split] = min(offset, self._firsts.get(split, offset))

    def positions(self, check: StreamCheck) -> dict[Split, int]:
        """Where the group goes on at the target, in each split of the stream."""
        found: dict[Split, int] = {}
        for split, end in check.ends.items():
            had = self.there.get(split, 0)
            other = next((max(first, had) for first, count in check.others[split] if first + count > had), end)
            found[split] = min(end, other, self._firsts.get(split, end))
        return found

    def move(self, *, is_left: bool) -> GroupMove:
        return GroupMove(self.group.told, told(self._pair.before), self._unread, self._again, is_left)


def readings_of(source: EventLog, target: EventLog, pair: Pair, groups: Sequence[CarriedGroup]) -> list[GroupReading]:
    """The groups that have committed something in the stream at the source."""
    found = []
    for group in groups:
        committed = {s: offset for s, offset in source.committed(group.at_source).items() if s.stream_id == pair.before.stream_id}
        if committed:
            there = {s: offset for s, offset in target.committed(group.at_target).items() if s.stream_id == pair.after.stream_id}
            found.append(GroupReading(pair, group, committed, there))
    return found


def set_position(target: EventLog, pair: Pair, reading: GroupReading, check: StreamCheck) -> GroupMove:
    """Commit where the group goes on at the target, unless it has gone on there since the last run: then that counts."""
    owner, key = (
        f"{owner_of(pair.source)}:groups",
        f"{pair.before.stream_id}/{pair.after.created_at_ms}/{reading.group.at_target}",
    )
    stored = target.marks(owner).get(key)
    there = {str(split): offset for split, offset in reading.there.items()}
    if stored is not None and there and there != _decode(stored):
        return reading.move(is_left=True)
    positions = reading.positions(check)
    target.commit(reading.group.at_target, positions)
    fault_point("migration.position")
    value = _encode({str(split): offset for split, offset in positions.items()})
    if value != stored:
        target.append([], marks=[Mark(owner, key, stored, value)])
    return reading.move(is_left=False)
