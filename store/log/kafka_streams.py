"""Making, changing and dropping streams on Kafka: their topics, and their records in the control topic."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import msgspec
from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, StorageError, StreamNotFoundError
from event_streaming_bus.models import LANES, StreamConfig, StreamInfo
from event_streaming_bus.store.log.kafka_control import Control, Record, dropped_record, stream_record
from event_streaming_bus.store.log.kafka_controller import ask_controller
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S
from event_streaming_bus.store.log.kafka_opening import admin_client, reach
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_topics import check_names, own_topics, topic_of, topics_of
from event_streaming_bus.store.log.kafka_writer import Writer
from event_streaming_bus.store.log.streams import check_config, check_same

OPEN_S: Final = 5.0
"""How long opening waits for brokers and controllers to answer: with the start of a process, less than ten seconds."""
_LOOK_S: Final = 0.005


def opened(settings: KafkaSettings) -> AdminClient:
    """A client of the cluster, which has the topics of the bus's own records. ``InvalidInputError`` if the options are refused,
    ``StorageError`` if no broker lets it in or they cannot be made, within about ``OPEN_S``."""
    started = time.monotonic()
    there = reach(settings, OPEN_S)
    admin = admin_client(settings)
    wanted = [topic for topic in own_topics(settings) if there.get(topic.topic) != [True] * topic.num_partitions]
    if wanted:
        _make_topics(settings, admin, wanted, max(1.0, started + OPEN_S - time.monotonic()))
    return admin


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
            topics[:] = [topic_of(self._settings.prefix, info.config, lane) for lane in LANES]  # a transaction may be done again
            doing = f"dropping the stream {info.name}"

            def ask(names: list[str], timeout_s: float) -> dict[str, Future[None]]:
                return self._admin.delete_topics(names, operation_timeout=timeout_s, request_timeout=timeout_s)

            _, refused = ask_controller(self._settings.brokers, self._admin, ask, topics, doing, REQUEST_S)
            for topic, reason in refused.items():
                if reason.code() not in UNKNOWN_TOPIC:
                    raise bus_error(reason, self._settings.brokers, f"dropping the topic {topic}")
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


def _make_topics(settings: KafkaSettings, admin: AdminClient, topics: list[NewTopic], timeout_s: float = REQUEST_S) -> None:
    """Make those topics that are not there; those that are must have as many partitions, or none is made."""
    there = _partitions(settings, admin, [topic.topic for topic in topics], timeout_s)
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
    by_name = {topic.topic: topic for topic in missing}

    def ask(names: list[str], request_s: float) -> dict[str, Future[None]]:
        wanted = [by_name[name] for name in names]
        return admin.create_topics(wanted, operation_timeout=request_s, request_timeout=request_s)

    doing = f"making the topics {', '.join(by_name)}"
    _, refused = ask_controller(settings.brokers, admin, ask, list(by_name), doing, timeout_s)
    for name, reason in refused.items():
        if reason.code() == KafkaError.TOPIC_EXCEPTION and "collides" in reason.str():
            raise AlreadyExistsError(
                f"The topic {name} cannot be made: to Kafka, names that differ only in '.' and '_' collide "
                f"({reason.str()}). Give the stream another name."
            )
        if reason.code() == KafkaError.INVALID_REPLICATION_FACTOR:
            said = reason.str().rstrip(".")
            raise StorageError(
                f"The topic {name} cannot be made on the Kafka cluster at {settings.brokers}: {said}. Expected a "
                "replication_factor in the URL (or default.replication.factor of the brokers) of at most the number of brokers.",
                topic=name,
            )
        if reason.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # made by another process at this moment
            raise bus_error(reason, settings.brokers, f"making the topic {name}")
    _await_leaders(settings, admin, missing)


def _await_leaders(settings: KafkaSettings, admin: AdminClient, topics: list[NewTopic]) -> None:
    """Wait until the new topics can be used: a broker hears of them only after they are made."""
    deadline = time.monotonic() + REQUEST_S
    while time.monotonic() < deadline:
        there = _partitions(settings, admin, [topic.topic for topic in topics])
        if all(len(there.get(topic.topic, ())) >= topic.num_partitions and all(there[topic.topic]) for topic in topics):
            return
        time.sleep(_LOOK_S)


def _partitions(
    settings: KafkaSettings, admin: AdminClient, topics: list[str], timeout_s: float = REQUEST_S
) -> dict[str, list[bool]]:
    """Of each topic that is there, whether its partitions have a leader. Asking makes no topic, as other requests may."""

    def ask(names: list[str], request_s: float) -> dict[str, Future[TopicDescription]]:
        return admin.describe_topics(TopicCollection(names), request_timeout=request_s)

    doing = f"looking at the topics {', '.join(topics)}"
    found, refused = ask_controller(settings.brokers, admin, ask, topics, doing, timeout_s)
    for topic, reason in refused.items():
        if reason.code() not in UNKNOWN_TOPIC:
            raise bus_error(reason, settings.brokers, f"looking at the topic {topic}")
    return {topic: [partition.leader is not None for partition in each.partitions] for topic, each in found.items()}
