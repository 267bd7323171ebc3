"""``roundrobin``: the partitions of all streams are dealt out one by one."""

from collections.abc import Mapping
from itertools import cycle

from event_streaming_bus.consumers.assignors.base import Assignment, Owned, subscribers
from event_streaming_bus.consumers.model import Partition, Subscriptions


def assign_roundrobin(subscriptions: Subscriptions, partitions: Mapping[str, int], owned: Mapping[str, Owned]) -> Assignment:
    """Each partition goes to the next member in turn that subscribes to its stream; those that do not are passed over."""
    assignment: Assignment = {member_id: [] for member_id in sorted(subscriptions)}
    turns = cycle(assignment)
    for stream_id, members in subscribers(subscriptions, partitions).items():
        wanting = set(members)
        for number in range(partitions[stream_id] if members else 0):
            member_id = next(turn for turn in turns if turn in wanting)
            assignment[member_id].append(Partition(stream_id, number))
    return assignment
