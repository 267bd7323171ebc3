"""``cooperative-sticky``: as sticky, but nobody is given what another member still holds."""

from collections.abc import Mapping

from event_streaming_bus.consumers.assignors.base import Assignment, Owned
from event_streaming_bus.consumers.assignors.sticky import share, want_the_same
from event_streaming_bus.consumers.model import Partition, Subscriptions


def assign_cooperative_sticky(
    subscriptions: Subscriptions, partitions: Mapping[str, int], owned: Mapping[str, Owned]
) -> Assignment:
    """What moves is left out: its holder has to give it up first. Sharing out again without it gives it to its new member."""
    assignment, claims = share(subscriptions, partitions, owned)
    disputed: set[Partition] = set()
    if want_the_same(subscriptions):
        held, disputed = claims.held, claims.disputed
    else:
        held = {member_id: list(owned[member_id].partitions) for member_id in assignment if member_id in owned}
    own = {member_id: set(mine) for member_id, mine in held.items()}
    moving = set(disputed)
    for member_id, mine in own.items():
        moving |= mine.difference(assignment[member_id])
    return {
        member_id: [place for place in mine if place not in moving or place in own.get(member_id, ())]
        for member_id, mine in assignment.items()
    }
