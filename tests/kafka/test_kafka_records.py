"""Events as Kafka sees them, what plain producers and consumers make of the log's topics, and what the log makes of theirs."""

from collections.abc import Iterator
from typing import Any

import kafka_broker
import msgspec
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from event_streaming_bus import cloudevents, ids
from event_streaming_bus.errors import AlreadyExistsError, InvalidStateError, PayloadTooLargeError
from event_streaming_bus.models import (
    CompressionType,
    Event,
    EventPriority,
    SerializationFormat,
    Split,
    StreamConfig,
    StreamInfo,
)
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_partitions import partition_of
from event_streaming_bus.store.log.kafka_settings import KafkaSettings, parse_url

FULL = Event(
    event_id="order-1",
    event_type="order.created",
    timestamp_ms=1_700_000_000_123,
    data=b'{"total":5}',
    key="ключ",
    source_capability="shop",
    aggregate_id="o-1",
    aggregate_type="Order",
    metadata={"region": "eu", "big": 2**40},
    correlation_id="c",
    causation_id="d",
    priority=EventPriority.HIGH,
    compression_type=CompressionType.ZSTD,
    user_id="u",
    schema_id="sch_1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    expires_at_ms=1_800_000_000_000,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> KafkaSettings:
    return parse_url(kafka_broker.kafka_url(tmp_path_factory.mktemp("kafka")), "unused")


@pytest.fixture(scope="module")
def log(settings: KafkaSettings) -> Iterator[KafkaLog]:
    log = KafkaLog(settings)
    yield log
    log.close()


@pytest.fixture
def stream(log: KafkaLog, request: pytest.FixtureRequest) -> StreamInfo:
    return log.create_stream(StreamConfig(name=request.node.name.partition("[")[0], partitions=3))


def produce(settings: KafkaSettings, topic: str, *records: dict[str, Any], **options: Any) -> None:
    """What a producer writes that knows nothing of the bus."""
    producer = Producer(settings.options(**options))
    for record in records:
        producer.produce(settings.prefix + topic, **record)
    assert producer.flush(30) == 0


def consume(settings: KafkaSettings, topic: str, partition: int, count: int) -> list[Message]:
    """What a consumer reads that knows nothing of the bus."""
    consumer = Consumer(settings.options(group_id="plain", auto_offset_reset="earliest", isolation_level="read_committed"))
    consumer.assign([TopicPartition(settings.prefix + topic, partition, 0)])
    messages = consumer.consume(count, 30)
    consumer.close()
    return messages


def read(log: KafkaLog, split: Split) -> list[Event]:
    offset, events = log.begin_offsets(split.stream_id)[split], []
    while batches := log.read(split, offset):
        events += [event for batch in batches for event in batch.events()]
        offset = batches[-1].end_offset
    return events


def test_a_plain_consumer_reads_the_payload_the_key_and_cloudevents_headers(
    log: KafkaLog, stream: StreamInfo, settings: KafkaSettings
) -> None:
    (result,) = log.append([Append(stream.stream_id, [FULL])])
    ((split, offset, _),) = result.written
    (message,) = consume(settings, f"{stream.name}.high", split.partition, 1)
    assert (message.value(), message.key(), message.offset()) == (FULL.data, "ключ".encode(), offset)
    headers: Any = dict(message.headers() or ())
    assert headers["ce_id"] == b"order-1"
    assert headers["ce_time"] == b"2023-11-14T22:13:20.123Z"
    assert headers["traceparent"] == headers["ce_traceparent"] == b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert cloudevents.from_headers([(n, v) for n, v in headers.items() if n != "esb"], FULL.data) == FULL
    assert read(log, split) == [FULL]


@pytest.mark.parametrize("metadata", [None, {"region": "eu"}])
def test_headers_say_what_cloudevents_say_however_they_are_made(
    log: KafkaLog, stream: StreamInfo, settings: KafkaSettings, metadata: dict[str, Any] | None
) -> None:
    event = msgspec.structs.replace(FULL, metadata=metadata, expires_at_ms=None, event_id=ids.new_id(ids.EVENT), key="k")
    ((split, offset, _),) = log.append([Append(stream.stream_id, [event])])[0].written
    message = consume(settings, f"{stream.name}.high", split.partition, 2 if metadata else 1)[-1]
    headers: Any = [(name, raw) for name, raw in message.headers() or () if name not in ("esb", "traceparent")]
    assert message.offset() == offset
    assert sorted(headers) == sorted(cloudevents.to_headers(event))


def test_a_plain_record_is_an_event_with_a_defined_envelope(log: KafkaLog, stream: StreamInfo, settings: KafkaSettings) -> None:
    produce(
        settings,
        stream.name,
        {"value": b'{"x":1}', "key": "k", "partition": 0, "headers": [("app", b"till"), ("raw", b"\xff")]},
        {"value": b"\0\0\0\0\7\2", "key": b"\xff\xfe", "partition": 0},
        {"value": None, "partition": 0},
        {"value": b"\x02", "partition": 0, "headers": [("content-type", b"application/avro")]},
    )
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    first, second, third, fourth = events = read(log, split)
    assert events == read(log, split)
    topic = settings.prefix + stream.name
    assert first == Event(
        event_id=ids.derived_id(ids.EVENT, first.timestamp_ms, "kafka", topic, 0, 0),
        event_type="kafka.record",
        timestamp_ms=first.timestamp_ms,
        data=b'{"x":1}',
        key="k",
        source_capability=f"kafka:{topic}",
        metadata={"headers": {"app": "till", "raw": "/w=="}},
    )
    assert (second.serialization_format, second.key) == (SerializationFormat.AVRO, "//4=")
    assert (third.data, third.key, third.payload) == (b"null", None, None)
    assert fourth.serialization_format is SerializationFormat.AVRO
    assert len({event.event_id for event in events}) == 4


def test_cloudevents_of_others_are_taken_but_for_tenant_and_priority(
    log: KafkaLog, stream: StreamInfo, settings: KafkaSettings
) -> None:
    theirs = msgspec.structs.replace(FULL, tenant_id="other", priority=EventPriority.LOW, metadata={"region": "eu"}, key=None)
    headers = cloudevents.to_headers(theirs)
    bad = [(name, raw) for name, raw in headers if name != "ce_type"]
    produce(
        settings,
        f"{stream.name}.critical",
        {"value": FULL.data, "key": "k", "partition": 1, "headers": headers},
        {"value": b"{}", "partition": 1, "headers": bad},
    )
    good, spoilt = read(log, Split(stream.stream_id, EventPriority.CRITICAL, 1))
    assert good == msgspec.structs.replace(theirs, tenant_id="default", priority=EventPriority.CRITICAL, key="k")
    assert (spoilt.event_type, spoilt.priority) == ("kafka.record", EventPriority.CRITICAL)
    assert "type" in (spoilt.metadata or {})["cloudevents_error"]


def test_keys_go_where_the_standard_partitioner_of_kafka_puts_them(
    log: KafkaLog, stream: StreamInfo, settings: KafkaSettings
) -> None:
    keys = ["", "a", "customer-1", "ключ", *(f"key-{'x' * (i % 9)}-{i}" for i in range(200))]
    log.append([Append(stream.stream_id, [Event(f"e{i}", "t", 0, key.encode(), key=key) for i, key in enumerate(keys)])])
    produce(settings, stream.name, *({"value": key.encode(), "key": key} for key in keys), partitioner="murmur2_random")
    for partition in range(3):
        found = [event.data.decode() for event in read(log, Split(stream.stream_id, EventPriority.NORMAL, partition))]
        own = [key for key in keys if partition_of(key, 3) == partition]
        assert sorted(found) == sorted(own * 2) or not own


def test_a_topic_that_is_there_becomes_a_stream_with_what_it_holds(log: KafkaLog, settings: KafkaSettings) -> None:
    admin = AdminClient(settings.options())
    (made,) = admin.create_topics([NewTopic(f"{settings.prefix}theirs", 2, 1)]).values()
    made.result(30)
    produce(settings, "theirs", {"value": b"1", "partition": 1, "timestamp": 1_600_000_000_000})
    with pytest.raises(AlreadyExistsError, match="with 2 partitions, not 1"):
        log.create_stream(StreamConfig(name="theirs"))
    stream = log.create_stream(StreamConfig(name="theirs", partitions=2))
    (event,) = read(log, Split(stream.stream_id, EventPriority.NORMAL, 1))
    assert (event.data, event.timestamp_ms) == (b"1", 1_600_000_000_000)


def test_names_that_collide_on_kafka_are_told_as_such(log: KafkaLog) -> None:
    log.create_stream(StreamConfig(name="under_score"))
    with pytest.raises(AlreadyExistsError, match="collide"):
        log.create_stream(StreamConfig(name="under.score"))


def test_an_event_that_is_too_large_is_refused_alone(log: KafkaLog, stream: StreamInfo) -> None:
    events = [Event(f"large-{size}", "t", 0, b"x" * size, key="k") for size in (10, 9 << 20, 20)]
    futures = [log.submit([Append(stream.stream_id, [event])]) for event in events]
    assert [type(future.exception()) for future in futures] == [type(None), PayloadTooLargeError, type(None)]
    assert [len(e.data) for e in read(log, Split(stream.stream_id, EventPriority.NORMAL, partition_of("k", 3)))] == [10, 20]


def test_conditions_are_refused(log: KafkaLog, stream: StreamInfo) -> None:
    class Always:
        def admits(self, db: object) -> bool:
            return True

        def appended(self, db: object, results: object) -> None:
            pass

    with pytest.raises(InvalidStateError, match="An outbox around the log has one"):
        log.append([Append(stream.stream_id, [Event("e", "t", 0, b"")])], condition=Always())


def test_committed_offsets_are_those_that_kafkas_own_tools_show(
    log: KafkaLog, stream: StreamInfo, settings: KafkaSettings
) -> None:
    log.commit("readers", {Split(stream.stream_id, EventPriority.LOW, 2): 7})
    consumer = Consumer(settings.options(group_id=f"{settings.prefix}readers"))
    (found,) = consumer.committed([TopicPartition(f"{settings.prefix}{stream.name}.low", 2)], 30)
    consumer.close()
    assert found.offset == 7
