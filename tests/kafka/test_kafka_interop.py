"""Other clients at the same topics: Java's own, confluent-kafka's, and their serializers with our registry."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kafka_broker
import pytest
from bytewax.testing import run_main
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from test_flows import payloads, plan_of, processor

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.models import EventConfig, EventPriority, SerializationFormat, Split, StreamConfig
from event_streaming_bus.registry.streams import make_stream
from event_streaming_bus.store.log.kafka_partitions import partition_of
from event_streaming_bus.store.log.kafka_settings import KafkaSettings, parse_url
from event_streaming_bus.testing import read_all

JAVA = Path(__file__).with_name("java") / "Client.java"
ESB = Path(sys.executable).with_name("esb")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PERSON = {"type": "record", "name": "Person", "fields": [{"name": "name", "type": "string"}, {"name": "age", "type": "int"}]}
KEYS = [
    "",
    "a",
    "customer-1",
    "ключ",
    "鍵",
    "schlüssel",
    "🔑🔑",
    *(f"k{i}" for i in range(200)),
    *(f"{'é' * (i % 7)}-{i}" for i in range(200)),
]


class Record(NamedTuple):
    """A record as Java's consumer sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


@pytest.fixture(scope="module")
def settings(url: str) -> KafkaSettings:
    return parse_url(url, "unused")


@pytest.fixture(scope="module")
def bus(url: str) -> Iterator[Bus]:
    with open_bus(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where our Java program is compiled to."""
    folder = tmp_path_factory.mktemp("classes")
    made = subprocess.run(
        ["javac", "-Xlint:all", "-cp", f"{kafka_broker.jars()}/*", "-d", str(folder), str(JAVA)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return folder


def java(classes: Path, *arguments: str, given: str = "") -> list[str]:
    """The lines that our Java program prints."""
    options = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8")
    done = subprocess.run(
        ["java", *options, "-cp", f"{classes}:{kafka_broker.jars()}/*", "Client", *arguments],
        input=given.encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [line for line in done.stdout.decode().splitlines() if line]


def java_records(classes: Path, settings: KafkaSettings, topic: str, count: int) -> list[Record]:
    def raw(text: str) -> bytes | None:
        return None if text == "-" else base64.b64decode(text)

    records = []
    for line in java(classes, "read", settings.brokers, settings.prefix + topic, str(count)):
        partition, offset, key, value, *headers = line.split("\t")
        named = {name: raw(text) or b"" for name, _, text in (header.partition("=") for header in headers)}
        records.append(Record(int(partition), int(offset), raw(key), raw(value), named))
    return records


def produce(settings: KafkaSettings, topic: str, *records: dict[str, Any]) -> None:
    """What a plain producer writes."""
    producer = Producer(settings.options())
    for record in records:
        producer.produce(settings.prefix + topic, **record)
    assert producer.flush(30) == 0


async def publish(bus: Bus, stream: str, count: int, **envelope: Any) -> None:
    for i in range(count):
        config = EventConfig(event_type="order.created", event_id=f"{stream}-{i}", key=f"k{i % 3}", traceparent=TRACE, **envelope)
        await bus.publishing.publish_event(config, {"n": i}, stream_id=stream)


# --- what we write, read by others --------------------------------------------------------------------------------------


async def test_java_reads_values_keys_headers_and_only_what_was_decided(bus: Bus, settings: KafkaSettings, classes: Path) -> None:
    bus.create_stream("orders", partitions=2)
    await publish(bus, "orders", 3)
    abandoned = Producer(settings.options(transactional_id=f"{settings.prefix}abandoned"))
    abandoned.init_transactions(30)
    abandoned.begin_transaction()
    for partition in range(2):
        abandoned.produce(f"{settings.prefix}orders", b"never", partition=partition)
    abandoned.flush(30)
    abandoned.abort_transaction(30)
    await publish(bus, "orders", 6)  # the first three are there already
    records = java_records(classes, settings, "orders", 6)
    assert sorted(record.headers["ce_id"] for record in records) == [b"orders-%d" % i for i in range(6)]
    for key in (b"k0", b"k1", b"k2"):
        of_key = [record for record in records if record.key == key]
        assert {record.partition for record in of_key} == {partition_of(key.decode(), 2)}
        assert [record.value for record in of_key] == [b'{"n":%d}' % i for i in range(6) if i % 3 == int(key[1:])]
    for record in records:
        assert record.headers["ce_type"] == b"order.created"
        assert record.headers["ce_specversion"] == b"1.0"
        assert record.headers["content-type"] == b"application/json"
        assert record.headers["traceparent"] == TRACE.encode()


async def test_java_finds_each_lane_in_its_topic(bus: Bus, settings: KafkaSettings, classes: Path) -> None:
    bus.create_stream("lanes")
    await publish(bus, "lanes", 2, priority=EventPriority.CRITICAL)
    records = java_records(classes, settings, "lanes.critical", 2)
    assert [record.headers["ce_priority"] for record in records] == [b"CRITICAL", b"CRITICAL"]


async def test_a_plain_python_consumer_group_reads_them_in_order(bus: Bus, settings: KafkaSettings) -> None:
    bus.create_stream("grouped", partitions=2)
    await publish(bus, "grouped", 6)
    consumer = Consumer(settings.options(group_id=f"{settings.prefix}plain", auto_offset_reset="earliest"))
    consumer.subscribe([f"{settings.prefix}grouped"])
    found: dict[bytes, list[bytes]] = {}
    for message in consumer.consume(6, 30):
        key, value = message.key(), message.value()
        assert isinstance(key, bytes)
        assert value is not None
        assert ("traceparent", TRACE.encode()) in (message.headers() or [])
        found.setdefault(key, []).append(value)
    consumer.close()
    assert found == {b"k%d" % k: [b'{"n":%d}' % i for i in (k, k + 3)] for k in range(3)}


def test_java_puts_equal_keys_where_we_put_them(bus: Bus, settings: KafkaSettings, classes: Path) -> None:
    bus.create_stream("keyed", partitions=7)
    lines = "".join(f"{key}\n" for key in KEYS)
    theirs = [int(line) for line in java(classes, "write", settings.brokers, f"{settings.prefix}keyed", given=lines)]
    assert theirs == [partition_of(key, 7) for key in KEYS]
    assert set(theirs) == set(range(7))
    assert sorted(event.key or "" for event in read_all(bus, "keyed")) == sorted(KEYS)


# --- Avro and JSON Schema with our registry -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(url: str, bus: Bus) -> Iterator[SchemaRegistryClient]:
    """Confluent's client of a registry that serves the bus's folder."""
    served = subprocess.Popen(
        [ESB, "registry", "--port", "0", "--auth", "off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "ESB_DATA": url},
    )
    timer = threading.Timer(60, served.kill)
    timer.start()
    try:
        assert served.stdout is not None
        address = next(word for word in served.stdout.readline().split() if word.startswith("http://"))
        timer.cancel()
        client = SchemaRegistryClient({"url": address, "max.retries": 0, "ssl.ca.location": False})
        yield client
        client.close()
    finally:
        timer.cancel()
        served.send_signal(signal.SIGTERM)
        served.communicate(timeout=60)


def value_of(topic: str) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE)


def person_stream(bus: Bus, name: str) -> str:
    """A stream that a schema of persons guards; the id of the schema's version."""
    record = bus.schemas.register({"schema_name": f"{name}-value", "avro_schema": PERSON})
    make_stream(bus.log, bus.schemas, StreamConfig(name=name), f"{name}-value")
    return record.schema_id


async def test_confluents_deserializer_reads_our_avro(bus: Bus, settings: KafkaSettings, registry: SchemaRegistryClient) -> None:
    person_stream(bus, "people")
    await bus.publishing.publish_event(EventConfig(event_type="p"), {"name": "Ann", "age": 30}, stream_id="people")
    consumer = Consumer(settings.options(group_id=f"{settings.prefix}avro", auto_offset_reset="earliest"))
    consumer.assign([TopicPartition(f"{settings.prefix}people", 0, 0)])
    (message,) = consumer.consume(1, 30)
    consumer.close()
    assert AvroDeserializer(registry)(message.value(), value_of("people")) == {"name": "Ann", "age": 30}


async def test_avro_of_confluents_serializer_enters_flows_and_names_its_schema(
    bus: Bus, settings: KafkaSettings, registry: SchemaRegistryClient
) -> None:
    for name in ("foreign_people", "old_people"):
        bus.create_stream(name)
    write = AvroSerializer(registry, json.dumps(PERSON))
    data = write({"name": "Bob", "age": 41}, value_of("foreign_people"))
    produce(settings, "foreign_people", {"value": data, "key": "bob"}, {"value": b"\0\0\0\x7f\x7f\2", "key": "nobody"})
    known, unknown = read_all(bus, "foreign_people")
    assert (known.serialization_format, known.data, known.payload) == (
        SerializationFormat.AVRO,
        data,
        {"name": "Bob", "age": 41},
    )
    (version,) = [each for each in await bus.schemas.list_schemas() if each.schema_name == "foreign_people-value"]
    assert known.schema_id == version.schema_id
    assert (unknown.schema_id, unknown.serialization_format) == (None, SerializationFormat.AVRO)
    logic = {"filter_expression": "payload.age > 40"}
    plan = plan_of(bus, processor("old", "FILTER", logic, source_stream_id="foreign_people", target_stream_id="old_people"))
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    assert [event.payload["name"] for event in read_all(bus, "old_people")] == ["Bob"]


def test_a_version_of_the_streams_own_schema_is_chosen_among_those_of_the_same_text(
    bus: Bus, settings: KafkaSettings, registry: SchemaRegistryClient
) -> None:
    guard = person_stream(bus, "z_people")
    data = AvroSerializer(registry, json.dumps(PERSON))({"name": "Eve", "age": 1}, value_of("z_people"))
    produce(settings, "z_people", {"value": data})
    (event,) = read_all(bus, "z_people")
    assert event.schema_id == guard


async def test_json_of_confluents_serializer_is_json_to_flows(
    bus: Bus, settings: KafkaSettings, registry: SchemaRegistryClient
) -> None:
    bus.create_stream("foreign_json")
    schema = {"title": "Order", "type": "object", "properties": {"total": {"type": "number"}}}
    write = JSONSerializer(json.dumps(schema), registry)
    produce(settings, "foreign_json", {"value": write({"total": 7}, value_of("foreign_json"))})
    (event,) = read_all(bus, "foreign_json")
    assert (event.serialization_format, json.loads(event.data)) == (SerializationFormat.JSON, {"total": 7})
    assert event.schema_id is not None


def test_records_without_our_headers_enter_flows(bus: Bus, settings: KafkaSettings) -> None:
    bus.create_stream("plain")
    produce(
        settings,
        "plain",
        {"value": b'{"total": 3}', "key": "k", "headers": [("app", b"till")]},
        {"value": b'{"total": 30}', "key": b"\xff"},
        {"value": None, "key": "gone"},
        {"value": b"\x89PNG", "key": "picture"},
    )
    logic = {"filter_expression": "payload.total > 1", "on_error": "false"}
    plan = plan_of(
        bus,
        processor(
            "some", "FILTER", {"filter_expression": logic["filter_expression"]}, source_stream_id="plain", target_stream_id="out"
        ),
    )
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    assert payloads(bus) == [{"total": 3}, {"total": 30}]
    out = read_all(bus, "out")
    assert [(event.key, event.event_type, event.metadata) for event in out] == [
        ("k", "kafka.record", {"headers": {"app": "till"}}),
        ("/w==", "kafka.record", None),
    ]
    dead = read_all(bus, "_dead_letters")
    assert [event.key for event in dead if event.source_capability == f"kafka:{settings.prefix}plain"] == ["gone", "picture"]


def test_a_record_keeps_its_place_for_groups_of_both_kinds(bus: Bus, settings: KafkaSettings) -> None:
    stream = bus.create_stream("shared")
    produce(settings, "shared", {"value": b"1"}, {"value": b"2"})
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    bus.log.commit("both", {split: 1})
    consumer = Consumer(settings.options(group_id=f"{settings.prefix}both", auto_offset_reset="error"))
    consumer.subscribe([f"{settings.prefix}shared"])
    (message,) = consumer.consume(1, 30)
    assert message.value() == b"2"
    consumer.commit(message, asynchronous=False)
    consumer.close()
    assert bus.log.committed("both") == {split: 2}
