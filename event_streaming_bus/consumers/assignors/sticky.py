"""``sticky``: members keep what they held, as far as the partitions are shared evenly all the same."""

from collections.abc import Iterator, Mapping
from typing import Final

from event_streaming_bus.consumers.assignors.base import Assignment, Owned, subscribers
from event_streaming_bus.consumers.assignors.sticky_unequal import Claims, share_unequally
from event_streaming_bus.consumers.model import Partition, Subscriptions

_NOTHING: Final = Owned()


def assign_sticky(subscriptions: Subscriptions, partitions: Mapping[str, int], owned: Mapping[str, Owned]) -> Assignment:
    """As even as it can be, the numbers of partitions of two members with equal subscriptions differ by one at most; and of all
    such assignments one in which few partitions move. What two members say to have held is believed of the later generation."""
    return share(subscriptions, partitions, owned)[0]


def share(subscriptions: Subscriptions, partitions: Mapping[str, int], owned: Mapping[str, Owned]) -> tuple[Assignment, Claims]:
    """The assignment, and what members held when it was made."""
    wanted = subscribers(subscriptions, partitions)
    counts = {stream_id: partitions[stream_id] for stream_id, members in wanted.items() if members}
    claims = _claims(subscriptions, counts, owned)
    if want_the_same(subscriptions):
        return _share_equally(counts, claims), claims
    return share_unequally(counts, {stream_id: wanted[stream_id] for stream_id in counts}, claims), claims


def want_the_same(subscriptions: Subscriptions) -> bool:
    """Whether all members subscribe to the same streams."""
    return len({frozenset(streams) for streams in subscriptions.values()}) <= 1


def _claims(subscriptions: Subscriptions, counts: Mapping[str, int], owned: Mapping[str, Owned]) -> Claims:
    """What each member held, of the partitions that there are. Nobody held what two held in one generation: that is disputed."""
    held: dict[str, list[Partition]] = {}
    holders: dict[Partition, str] = {}
    disputed: set[Partition] = set()
    for member_id in sorted(subscriptions):
        mine = held[member_id] = []
        places, generation = owned.get(member_id, _NOTHING)
        for place in dict.fromkeys(places):
            if not 0 <= place.partition < counts.get(place.stream_id, 0):
                continue
            other = holders.get(place)
            if other is None:
                mine.append(place)
                holders[place] = member_id
                continue
            others = owned[other].generation
            if generation < others:
                continue
            holders[place] = member_id
            if place in held[other]:
                held[other].remove(place)
            if generation > others:
                mine.append(place)
            else:
                disputed.add(place)
    latest = max((owned.get(member_id, _NOTHING).generation for member_id in subscriptions), default=-1)
    earlier: dict[Partition, tuple[int, str]] = {}
    for member_id in sorted(subscriptions):
        places, generation = owned.get(member_id, _NOTHING)
        for place in places if generation < latest else ():
            if place not in earlier or generation > earlier[place][0]:
                earlier[place] = (generation, member_id)
    return Claims(held, disputed, {place: member_id for place, (_, member_id) in earlier.items()})


def _share_equally(counts: Mapping[str, int], claims: Claims) -> Assignment:
    """Share out partitions that all members want: each gets ``low`` of them, and ``many_high`` members one more."""
    total, members = sum(counts.values()), len(claims.held)
    assignment: Assignment = {member_id: [] for member_id in claims.held}
    low, many_high = divmod(total, members) if members else (0, 0)
    high = low + (many_high > 0)
    rank = {stream_id: number for number, stream_id in enumerate(counts)}
    below_low: list[str] = []
    at_low: list[str] = []
    now_high = 0
    for member_id, held in claims.held.items():
        mine = sorted(set(held) - claims.disputed, key=lambda place: (place.partition, rank[place.stream_id]))
        if len(mine) < low:
            below_low.append(member_id)
        elif len(mine) >= high and now_high < many_high:
            now_high += 1
            if now_high == many_high:
                at_low.clear()
            mine = mine[:high]
        else:
            mine = mine[:low]
            if now_high < many_high:
                at_low.append(member_id)
        assignment[member_id] += mine
    taken = {place for mine in assignment.values() for place in mine}
    free = [place for place in all_partitions(counts) if place not in taken]
    turn = 0
    for place in free:
        if below_low:
            turn %= len(below_low)
            member_id = below_low[turn]
        else:
            member_id = at_low.pop(0)
        assignment[member_id].append(place)
        if below_low and len(assignment[member_id]) == low:
            at_low.append(below_low.pop(turn))
        else:
            turn += 1
    return assignment


def all_partitions(counts: Mapping[str, int]) -> Iterator[Partition]:
    """Every partition, stream by stream in their order."""
    for stream_id, count in counts.items():
        for number in range(count):
            yield Partition(stream_id, number)
