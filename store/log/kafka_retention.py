"""Retention on Kafka: what the bus drops itself, and what it tells the brokers, which drop in their own time."""

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from event_streaming_bus.store.log.kafka_errors import bus_error, error_of
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, Offsets, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings


def drop_old(settings: KafkaSettings, admin: AdminClient, offsets: Offsets, parts: Sequence[TopicPart], before_ms: int) -> int:
    """Drop the records of a stream's partitions that were appended before ``before_ms``; returns how many offsets went. The
    brokers do the same by whole segments; what exceeds a size they alone drop."""
    try:
        kept = offsets.from_time(parts, before_ms)
        begins, ends = offsets.bounds(parts)
    except UnknownTopicError:
        return 0  # the stream is being dropped
    cuts = {part: ends[part] if (first := kept[part]) is None else min(first, ends[part]) for part in parts}
    return _drop(settings, admin, begins, cuts)


def drop_before(settings: KafkaSettings, admin: AdminClient, offsets: Offsets, part: TopicPart, offset: int) -> int:
    """Drop the records of a partition before an offset; returns how many offsets went."""
    begins, ends = offsets.bounds([part])
    return _drop(settings, admin, begins, {part: min(offset, ends[part])})


def _drop(settings: KafkaSettings, admin: AdminClient, begins: Mapping[TopicPart, int], cuts: Mapping[TopicPart, int]) -> int:
    cuts = {part: cut for part, cut in cuts.items() if cut > begins[part]}
    if not cuts:
        return 0
    futures = admin.delete_records([TopicPartition(*part, cut) for part, cut in cuts.items()], request_timeout=REQUEST_S)
    for deleted, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            raise bus_error(error_of(error), settings.brokers, f"dropping old events of {deleted.topic}") from error
    return sum(cut - begins[part] for part, cut in cuts.items())


def set_retention_bytes(settings: KafkaSettings, admin: AdminClient, topics: Sequence[str], most_bytes: int) -> None:
    """Have the brokers keep at most so many bytes of each partition of the topics."""
    entry = ConfigEntry("retention.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    for resource, future in admin.incremental_alter_configs(resources, request_timeout=REQUEST_S).items():
        try:
            future.result()
        except KafkaException as error:
            raise bus_error(error_of(error), settings.brokers, f"setting retention.bytes of {resource.name}") from error
