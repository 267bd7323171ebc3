"""What members of a broker's group hold, in the terms of the bus: partitions of streams, of which the lane NORMAL decides."""

from collections.abc import Iterable, Mapping

from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.models import EventPriority, Split, StreamInfo
from event_streaming_bus.store.log.group_broker import GroupBroker, Part


def topics_of(broker: GroupBroker, infos: Iterable[StreamInfo]) -> dict[str, str]:
    """The ids of streams by the topics that decide who has their partitions."""
    return {broker.part(info, Split(info.stream_id, EventPriority.NORMAL, 0))[0]: info.stream_id for info in infos}


def partitions_of(parts: Iterable[Part], topics: Mapping[str, str]) -> tuple[Partition, ...]:
    """The partitions that somebody has who has these parts, by ``topics_of``."""
    return tuple(sorted(Partition(topics[topic], partition) for topic, partition in parts if topic in topics))
