"""``range``: each stream by itself is cut into as many runs of neighbouring partitions as it has subscribers."""

from collections.abc import Mapping

from event_streaming_bus.consumers.assignors.base import Assignment, Owned, subscribers
from event_streaming_bus.consumers.model import Partition, Subscriptions


def assign_range(subscriptions: Subscriptions, partitions: Mapping[str, int], owned: Mapping[str, Owned]) -> Assignment:
    """Of streams with equally many partitions and the same subscribers, a member gets the same partitions: events with equal keys
    come to one member. Where the partitions do not divide evenly, the members that come first have one more of each stream."""
    assignment: Assignment = {member_id: [] for member_id in sorted(subscriptions)}
    for stream_id, members in subscribers(subscriptions, partitions).items():
        start = 0
        for place, member_id in enumerate(members):
            count, more = divmod(partitions[stream_id], len(members))
            end = start + count + (place < more)
            assignment[member_id] += [Partition(stream_id, number) for number in range(start, end)]
            start = end
    return assignment
