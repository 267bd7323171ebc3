"""Making, changing and dropping streams on Kafka: their topics, and their records in the control topic."""

import time
from collections.abc import Sequence
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, StreamNotFoundError
from event_streaming_bus.models import LANES, StreamConfig, StreamInfo
from event_streaming_bus.store.log.kafka_control import Control, Record, dropped_record, stream_record
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of, kafka_errors
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_topics import check_names, own_topics, topic_of, topics_of
from event_streaming_bus.store.log.kafka_writer import Writer
from event_streaming_bus.store.log.streams import check_config, check_same

OPEN_S: Final = 10.0
"""How long opening waits for a broker to answer."""
_LOOK_S: Final = 0.005


def make_own_topics(settings: KafkaSettings, admin: AdminClient) -> None:
    """Make the topics of the bus's own records unless they are there."""
    with kafka_errors(settings.brokers, "opening the log"):
        admin.cluster_id(timeout=OPEN_S)  # is anybody there?
    _make_topics(settings, admin, own_topics(settings))


class Streams:
    """The streams of a cluster. A change is seen by every process that looks after it."""

    def __init__(self, settings: KafkaSettings, admin: AdminClient, control: Control, writer: Writer) -> None:
        self._settings = settings
        self._admin = admin
        self._control = control
        self._writer = writer

    def create(self, config: StreamConfig, stream_id: str | None) -> StreamInfo:
        """See ``EventLog.create_stream``. Topics of its names that are there already become the stream's, with what they hold, if
        they have as many partitions."""
        check_config(config)
        check_names(self._settings.prefix, config)
        self._control.refresh()
        if (there := self._there(config, stream_id)) is not None:
            return there
        made: list[StreamInfo] = []

        def decide() -> Sequence[Record]:
            if (there := self._there(config, stream_id)) is not None:
                made.append(there)
                return ()
            _make_topics(self._settings, self._admin, topics_of(self._settings, config))
            info = StreamInfo(
                stream_id=stream_id or ids.new_id(ids.STREAM), config=config, created_at_ms=time.time_ns() // 1_000_000
            )
            made.append(info)
            return (stream_record(info),)

        self._writer.exclusively(decide)
        return made[-1]

    def _there(self, config: StreamConfig, stream_id: str | None) -> StreamInfo | None:
        """The stream if it is there already; ``AlreadyExistsError`` if it has other settings, or another one its id."""
        taken = None if stream_id is None else self._control.stream(stream_id)
        if taken is not None and (taken.tenant_id, taken.name) != (config.tenant_id, config.name):
            raise AlreadyExistsError(f"the stream id {stream_id} is taken by another stream")
        there = self._control.named(config.tenant_id, config.name)
        if there is not None:
            check_same(there, config)
        return there

    def drop(self, stream_id: str) -> list[str]:
        """See ``EventLog.drop_stream``; returns the names of the topics that went. Where it was cut short, do it again."""
        topics: list[str] = []

        def decide() -> Sequence[Record]:
            info = self._known(stream_id)
            topics.extend(topic_of(self._settings.prefix, info.config, lane) for lane in LANES)
            futures = self._admin.delete_topics(topics, operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
            for topic, future in futures.items():
                try:
                    future.result()
                except KafkaException as error:
                    if error_of(error).code() not in UNKNOWN_TOPIC:
                        raise bus_error(error_of(error), self._settings.brokers, f"dropping the topic {topic}") from error
            return (dropped_record(stream_id),)

        self._writer.exclusively(decide)
        return topics

    def set_schema(self, stream_id: str, schema_id: str | None) -> StreamInfo:
        """See ``EventLog.set_stream_schema``."""
        changed: list[StreamInfo] = []

        def decide() -> Sequence[Record]:
            info = self._known(stream_id)
            config = msgspec.structs.replace(info.config, schema_id=schema_id)
            changed.append(msgspec.structs.replace(info, config=config))
            return (stream_record(changed[-1]),)

        self._writer.exclusively(decide)
        return changed[-1]

    def _known(self, stream_id: str) -> StreamInfo:
        info = self._control.stream(stream_id)
        if info is None:
            raise StreamNotFoundError(f"There is no stream with the id '{stream_id}'.", stream=stream_id)
        return info


def _make_topics(settings: KafkaSettings, admin: AdminClient, topics: list[NewTopic]) -> None:
    """Make those topics that are not there; those that are must have as many partitions, or none is made."""
    there = _partitions(settings, admin, [topic.topic for topic in topics])
    for topic in topics:
        count = len(there.get(topic.topic, ()))
        if topic.topic in there and count != topic.num_partitions:
            raise AlreadyExistsError(
                f"The topic {topic.topic} is there with {count} partitions, not {topic.num_partitions}. Make the stream with as "
                "many partitions, or under another name."
            )
    missing = [topic for topic in topics if topic.topic not in there]
    if not missing:
        return
    with kafka_errors(settings.brokers, "making topics"):
        futures = admin.create_topics(missing, operation_timeout=REQUEST_S, request_timeout=REQUEST_S)
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            reason = error_of(error)
            if reason.code() == KafkaError.TOPIC_EXCEPTION and "collides" in reason.str():
                raise AlreadyExistsError(
                    f"The topic {name} cannot be made: to Kafka, names that differ only in '.' and '_' collide "
                    f"({reason.str()}). Give the stream another name."
                ) from error
            if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # made by another process at this moment
                raise bus_error(reason, settings.brokers, f"making the topic {name}") from error
    _await_leaders(settings, admin, missing)


def _await_leaders(settings: KafkaSettings, admin: AdminClient, topics: list[NewTopic]) -> None:
    """Wait until the new topics can be used: a broker hears of them only after they are made."""
    deadline = time.monotonic() + REQUEST_S
    while time.monotonic() < deadline:
        there = _partitions(settings, admin, [topic.topic for topic in topics])
        if all(len(there.get(topic.topic, ())) >= topic.num_partitions and all(there[topic.topic]) for topic in topics):
            return
        time.sleep(_LOOK_S)


def _partitions(settings: KafkaSettings, admin: AdminClient, topics: list[str]) -> dict[str, list[bool]]:
    """Of each topic that is there, whether its partitions have a leader. Asking makes no topic, as other requests may."""
    found: dict[str, list[bool]] = {}
    for topic, future in admin.describe_topics(TopicCollection(topics), request_timeout=REQUEST_S).items():
        try:
            found[topic] = [partition.leader is not None for partition in future.result().partitions]
        except KafkaException as error:
            if error_of(error).code() not in UNKNOWN_TOPIC:
                raise bus_error(error_of(error), settings.brokers, f"looking at the topic {topic}") from error
    return found
