"""What every strategy is given, and what it answers."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from event_streaming_bus.consumers.model import Partition, Subscriptions


class Owned(NamedTuple):
    """What a member held, and in which generation; one that was in none has -1."""

    partitions: tuple[Partition, ...] = ()
    generation: int = -1


Assignment: TypeAlias = dict[str, list[Partition]]
"""The partitions of each member, by member id."""

Assignor: TypeAlias = Callable[[Subscriptions, Mapping[str, int], Mapping[str, Owned]], Assignment]
"""Shares out partitions: ``(subscriptions, number of partitions of each stream, what members held)``.

The order of the streams is the order that counts where a strategy goes by their names. Streams that a member subscribes to and
that have no number of partitions are none. Every partition of a subscribed stream goes to one member that subscribes to it; only
cooperative-sticky leaves out what its holder has to give up first. Equal arguments give equal answers.
"""


def subscribers(subscriptions: Subscriptions, partitions: Mapping[str, int]) -> dict[str, list[str]]:
    """The ids of the members that subscribe to each stream there is, in order, by stream in the order of the streams."""
    found: dict[str, list[str]] = {stream_id: [] for stream_id in partitions}
    for member_id in sorted(subscriptions):
        for stream_id in dict.fromkeys(subscriptions[member_id]):
            if stream_id in found:
                found[stream_id].append(member_id)
    return found
