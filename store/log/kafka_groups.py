"""Where consumer groups go on reading: in Kafka's own ``__consumer_offsets``, so that its tools show them."""

from collections.abc import Callable, Mapping
from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

_NO_GROUP: Final = frozenset({KafkaError.GROUP_ID_NOT_FOUND, KafkaError.INVALID_GROUP_ID})


class Groups:
    """Commits for groups that have no member that Kafka knows of: the bus itself decides who reads what."""

    def __init__(self, settings: KafkaSettings, admin: AdminClient) -> None:
        self._settings = settings
        self._admin = admin

    def commit(self, group: str, offsets: Mapping[TopicPart, int]) -> None:
        """Set the offsets. ``UnknownTopicError`` where a topic is not there."""
        if not offsets:
            return
        parts = [TopicPartition(*part, offset) for part, offset in offsets.items()]
        asked = ConsumerGroupTopicPartitions(self._settings.prefix + group, parts)
        answer = self._ask(
            lambda: self._admin.alter_consumer_group_offsets([asked], request_timeout=REQUEST_S), "committing", group
        )
        for part in answer.topic_partitions or ():
            if (error := part.error) is not None:
                if error.code() in UNKNOWN_TOPIC:
                    raise UnknownTopicError(part.topic)
                raise bus_error(error, self._settings.brokers, f"committing offsets of {group}")

    def committed(self, group: str) -> dict[TopicPart, int]:
        """Everything that the group has committed."""
        asked = ConsumerGroupTopicPartitions(self._settings.prefix + group)
        try:
            answer = self._ask(
                lambda: self._admin.list_consumer_group_offsets([asked], request_timeout=REQUEST_S), "reading", group
            )
        except _NoGroupError:
            return {}
        return {(part.topic, part.partition): part.offset for part in answer.topic_partitions or () if part.offset >= 0}

    def _ask(self, ask: Callable[[], Mapping[str, object]], doing: str, group: str) -> ConsumerGroupTopicPartitions:
        try:
            (future,) = ask().values()
            answer = future.result()  # type: ignore[attr-defined]
        except KafkaException as error:
            reason = error_of(error)
            if reason.code() in _NO_GROUP:
                raise _NoGroupError from error
            raise bus_error(reason, self._settings.brokers, f"{doing} offsets of {group}") from error
        assert isinstance(answer, ConsumerGroupTopicPartitions)  # noqa: S101 - what the admin client promises
        return answer


class _NoGroupError(Exception):
    """Nothing was ever committed for the group."""
