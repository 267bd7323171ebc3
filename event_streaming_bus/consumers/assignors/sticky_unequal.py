"""The sticky sharing of partitions among members that do not all want the same streams."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from event_streaming_bus.consumers.assignors.base import Assignment
from event_streaming_bus.consumers.model import Partition


class Claims(NamedTuple):
    """What members held: each partition is one member's at most, those that two say to have held are ``disputed``, and
    ``earlier`` names the member that held a partition in an earlier generation."""

    held: dict[str, list[Partition]]
    disputed: set[Partition]
    earlier: dict[Partition, str]


def share_unequally(counts: Mapping[str, int], wanted: Mapping[str, Sequence[str]], claims: Claims) -> Assignment:
    """Share out partitions, of which each goes to one of the members that want its stream.

    Members keep what they held. What is free goes to whoever has least. Then partitions move, from members that have more to
    those that have less by two or more, until none can; but if the whole is no more even for it, what was held stays.
    """
    sharing = _Sharing(counts, wanted, claims)
    was_empty = not any(sharing.assignment.values())
    # Streams that few want come first: whoever wants only these must get its share before others are full.
    in_order = sorted(counts, key=lambda stream_id: len(wanted[stream_id]))
    places = [Partition(stream_id, number) for stream_id in in_order for number in range(counts[stream_id])]
    free = [place for place in places if place not in sharing.holder]
    for place in free:
        sharing.give(place, sharing.least_of(place.stream_id))
    movable = {stream_id for stream_id, members in wanted.items() if len(members) > 1}
    before = {member_id: list(mine) for member_id, mine in sharing.assignment.items()}
    if not sharing.has_lost:
        sharing.level(place for place in free if place.stream_id in movable)
    has_moved = sharing.level(place for place in places if place.stream_id in movable)
    if has_moved and not was_empty and sharing.unevenness(sharing.assignment) >= sharing.unevenness(before):
        return before
    return sharing.assignment


class _Sharing:
    """An assignment in the making."""

    def __init__(self, counts: Mapping[str, int], wanted: Mapping[str, Sequence[str]], claims: Claims) -> None:
        self._wanted = {stream_id: frozenset(members) for stream_id, members in wanted.items()}
        self._earlier = claims.earlier
        self.has_lost = False
        """Whether a member holds no longer what it held, for it does not want the stream any more."""
        self.assignment: Assignment = {}
        self.holder: dict[Partition, str] = {}
        for member_id, held in claims.held.items():
            mine = self.assignment[member_id] = [place for place in held if member_id in self._wanted[place.stream_id]]
            self.has_lost |= len(mine) < len(held)
            self.holder.update(dict.fromkeys(mine, member_id))
        self._holders = {stream_id: Counter[str]() for stream_id in counts}  # how many partitions of a stream each member has
        for place, member_id in self.holder.items():
            self._holders[place.stream_id][member_id] += 1
        self._loads = sorted((len(mine), member_id) for member_id, mine in self.assignment.items())
        self._moves = _Moves()

    def least_of(self, stream_id: str) -> str:
        """The member that has least, of those that want the stream."""
        return next(member_id for _, member_id in self._loads if member_id in self._wanted[stream_id])

    def give(self, place: Partition, member_id: str) -> None:
        """Give a partition to a member, and take it from the one that has it."""
        before = self.holder.get(place)
        if before is not None:
            self._load(before, lambda mine: mine.remove(place))
            self._holders[place.stream_id][before] -= 1
        self._load(member_id, lambda mine: mine.append(place))
        self._holders[place.stream_id][member_id] += 1
        self.holder[place] = member_id

    def _load(self, member_id: str, change: Callable[[list[Partition]], None]) -> None:
        mine = self.assignment[member_id]
        del self._loads[bisect_left(self._loads, (len(mine), member_id))]
        change(mine)
        insort(self._loads, (len(mine), member_id))

    def level(self, places: Iterable[Partition]) -> bool:
        """Move partitions, of these, from members that have more to members that have less; whether any was moved."""
        places, has_moved = list(places), False
        while True:
            moved = False
            for place in places:
                if self._is_level():
                    break
                member_id = self.holder[place]
                load = len(self.assignment[member_id])
                earlier = self._earlier.get(place)
                if earlier in self._wanted[place.stream_id] and load > len(self.assignment[earlier]) + 1:
                    target = earlier
                else:
                    target = self.least_of(place.stream_id)
                    if load <= len(self.assignment[target]) + 1:
                        continue
                self._move(place, target)
                moved = has_moved = True
            if not moved:
                return has_moved

    def _move(self, place: Partition, target: str) -> None:
        place = self._moves.instead_of(place, self.holder[place], target)
        self._moves.note(place, self.holder[place], target)
        self.give(place, target)

    def _is_level(self) -> bool:
        """Whether no partition can go from its holder to a member that wants it and has less by two or more."""
        if self._loads[-1][0] - self._loads[0][0] <= 1:
            return True
        loads = {member_id: load for load, member_id in self._loads}
        for stream_id, holders in self._holders.items():
            most = max((loads[member_id] for member_id, count in holders.items() if count), default=0)
            if most - min(loads[member_id] for member_id in self._wanted[stream_id]) > 1:
                return False
        return True

    @staticmethod
    def unevenness(assignment: Assignment) -> int:
        """The differences of the numbers of partitions, added up over all pairs of members."""
        loads = sorted(map(len, assignment.values()))
        return sum(load * (2 * place - len(loads) + 1) for place, load in enumerate(loads))


class _Moves:
    """Which partitions have moved from whom to whom, so that none goes back while another of its stream comes."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[str, str, str], set[Partition]] = {}
        self._pairs: dict[Partition, tuple[str, str]] = {}

    def note(self, place: Partition, source: str, target: str) -> None:
        """Note that a partition moves."""
        pair = self._pairs.pop(place, None)
        if pair is not None:
            self._by_pair[place.stream_id, *pair].discard(place)
            source = pair[0]
        if source != target:
            self._pairs[place] = (source, target)
            self._by_pair.setdefault((place.stream_id, source, target), set()).add(place)

    def instead_of(self, place: Partition, source: str, target: str) -> Partition:
        """The partition to move from ``source`` to ``target``: one that came the other way, if there is any, else ``place``."""
        source = self._pairs.get(place, (source,))[0]
        came = self._by_pair.get((place.stream_id, target, source))
        return min(came) if came else place
