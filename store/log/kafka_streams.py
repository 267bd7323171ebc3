"""Making, changing, growing and dropping streams on Kafka: their topics, and their records in the control topic."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import msgspec
from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewPartitions, NewTopic

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, StorageError, StreamNotFoundError
from event_streaming_bus.models import LANES, MAX_PARTITIONS, StreamConfig, StreamInfo
from event_streaming_bus.store.log.kafka_control import Control, Record, dropped_record, stream_record
from event_streaming_bus.store.log.kafka_controller import ask_controller
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S
from event_streaming_bus.store.log.kafka_opening import admin_client, reach
from event_streaming_bus.store.log.kafka_retention import set_retention_bytes
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_topics import check_names, own_topics, retention_bytes_of, topic_of, topics_of
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
        they have as many partitions. A stream that has grown is still the one that was made with fewer."""
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
            first = self._control.first_partitions(there.stream_id)
            if first is not None and first <= config.partitions <= there.config.partitions:
                config = msgspec.structs.replace(config, partitions=there.config.partitions)
            check_same(there, config)
        return there

    def grow(self, stream_id: str, partitions: int) -> StreamInfo:
        """Have the stream and the topics of its lanes ``partitions`` partitions, or more where one of the topics has more
        already. Where it was cut short, do it again. ``InvalidInputError`` for fewer than it has."""
        info = self.known(stream_id)
        if not info.config.partitions <= partitions <= MAX_PARTITIONS:
            raise InvalidInputError(
                f"partitions: expected {info.config.partitions}, which {info.name} has, to {MAX_PARTITIONS}, got {partitions}: "
                "partitions can only be added",
                path="partitions",
            )
        topics = self._topics(info)
        there = _partitions(self._settings, self._admin, topics)
        count = min(MAX_PARTITIONS, max([partitions, *(len(there[topic]) for topic in topics if topic in there)]))
        smaller = [topic for topic in topics if len(there.get(topic, ())) < count]
        if smaller:
            self._add_partitions(smaller, count)

        def decide() -> Sequence[Record]:
            now = self.known(stream_id)
            if now.config.partitions >= count:  # another process has done it
                return ()
            first = self._control.first_partitions(stream_id) or now.config.partitions
            config = msgspec.structs.replace(now.config, partitions=count)
            return (stream_record(msgspec.structs.replace(now, config=config), first),)

        self._control.refresh(0)
        if self.known(stream_id).config.partitions < count:
            self._writer.exclusively(decide)
        info = self.known(stream_id)
        if info.config.retention_bytes is not None:
            set_retention_bytes(self._settings, self._admin, topics, retention_bytes_of(info.config, info.config.partitions))
        return info

    def _add_partitions(self, topics: Sequence[str], count: int) -> None:
        def ask(names: list[str], timeout_s: float) -> dict[str, Future[None]]:
            wanted = [NewPartitions(name, count) for name in names]
            return self._admin.create_partitions(wanted, operation_timeout=timeout_s, request_timeout=timeout_s)

        doing = f"adding partitions to the topics {', '.join(topics)}"
        _, refused = ask_controller(self._settings.brokers, self._admin, ask, topics, doing, REQUEST_S)
        for topic, reason in refused.items():
            if reason.code() != KafkaError.INVALID_PARTITIONS:  # another process has added them at this moment
                raise bus_error(reason, self._settings.brokers, f"adding partitions to the topic {topic}")
        _await_leaders(self._settings, self._admin, dict.fromkeys(topics, count))

    def larger(self, timeout_s: float) -> dict[str, int]:
        """By id, the streams of which a topic has more partitions than their record says, and how many. The bus's own streams are
        not among them: who reads these knows how many there are."""
        infos = [info for info in self._control.streams() if not info.name.startswith("_")]
        topics = {info.stream_id: self._topics(info) for info in infos}
        if not topics:
            return {}
        names = [name for each in topics.values() for name in each]
        there = _partitions(self._settings, self._admin, names, timeout_s)
        most = {info.stream_id: max(len(there.get(name, ())) for name in topics[info.stream_id]) for info in infos}
        return {info.stream_id: most[info.stream_id] for info in infos if most[info.stream_id] > info.config.partitions}

    def of_topics(self) -> dict[str, StreamInfo]:
        """The streams by each of their topics."""
        return {topic: info for info in self._control.streams() for topic in self._topics(info)}

    def _topics(self, info: StreamInfo) -> list[str]:
        return [topic_of(self._settings.prefix, info.config, lane) for lane in LANES]

    def drop(self, stream_id: str) -> list[str]:
        """See ``EventLog.drop_stream``; returns the names of the topics that went. Where it was cut short, do it again."""
        topics: list[str] = []

        def decide() -> Sequence[Record]:
            info = self.known(stream_id)
            topics[:] = self._topics(info)  # a transaction may be done again
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
            info = self.known(stream_id)
            config = msgspec.structs.replace(info.config, schema_id=schema_id)
            changed.append(msgspec.structs.replace(info, config=config))
            return (stream_record(changed[-1], self._control.first_partitions(stream_id)),)

        self._writer.exclusively(decide)
        return changed[-1]

    def known(self, stream_id: str) -> StreamInfo:
        """The stream with this id, as far as is known without asking. ``StreamNotFoundError``."""
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
    _await_leaders(settings, admin, {topic.topic: topic.num_partitions for topic in missing})


def _await_leaders(settings: KafkaSettings, admin: AdminClient, topics: Mapping[str, int]) -> None:
    """Wait until so many partitions of the topics can be used: a broker hears of them only after they are made."""
    deadline = time.monotonic() + REQUEST_S
    while time.monotonic() < deadline:
        there = _partitions(settings, admin, list(topics))
        if all(len(there.get(topic, ())) >= count and all(there[topic]) for topic, count in topics.items()):
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
