"""Partitions that are added to a topic of a stream: everybody finds them, and nothing is missed or counted twice."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import kafka_broker
import msgspec
import pytest
from bytewax.testing import run_main
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.cimpl import NewPartitions

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, StreamChangedError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics, progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.service import StreamManagementService
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import LANES, Event, EventConfig, ProcessorStatus, StreamConfig, StreamInfo, time_ms
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import parse_url
from event_streaming_bus.testing import read_all

FIRST, ADDED = 2, 5
KEYS = 7
WINDOW_MS = 1000
FLOW = f"""
streams: [{{name: orders, partitions: {FIRST}}}, {{name: sums}}, {{name: big}}]
processors:
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic: {{group_by: [k], aggregations: [{{function: sum, field: n}}, {{function: count}}]}}
    window_config: {{window_type: tumbling, window_size_ms: {WINDOW_MS}, grace_period_ms: 0}}
"""


MOST = 50
SUPERVISED = {
    "processor_name": "big_orders",
    "processor_type": "FILTER",
    "source_stream_id": "orders",
    "target_stream_id": "big",
    "processing_logic": {"filter_expression": f"payload.n >= {MOST}"},
}


def wait_until(is_so: Callable[[], object], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def topic_of(url: str, name: str) -> str:
    return parse_url(url, "unused").prefix + name


@functools.cache
def admin() -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker.shared_broker().address, "log_level": 2})


def partition_counts(url: str, name: str) -> list[int]:
    """How many partitions the topics of the stream have, lane by lane."""
    topics = admin().list_topics(timeout=10).topics
    names = [topic_of(url, name), *(f"{topic_of(url, name)}.{lane}" for lane in ("critical", "high", "low"))]
    return [len(topics[each].partitions) for each in names]


def end_of(bus: Bus, name: str) -> int:
    return sum(bus.log.end_offsets(bus.log.find_stream("default", name).stream_id).values())


class Publisher:
    """Publishes events that are due one after the other, of all keys in turn, until it is told to stop. Each call is one append,
    so an event is in the log before the next one is made."""

    def __init__(self, bus: Bus) -> None:
        self.count = 0
        self._bus = bus
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.01):
                numbers = range(self.count, self.count + 5)
                asyncio.run(
                    self._bus.publishing.publish_batch(
                        EventConfig(event_type="order"),
                        [{"k": f"k{n % KEYS}", "n": n} for n in numbers],
                        "orders",
                        keys=[f"k{n % KEYS}" for n in numbers],
                        timestamps_ms=[n * 10 for n in numbers],
                    )
                )
                self.count += 5
        except BaseException as error:
            self._failure = error

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


class Reader:
    """A consumer of the bus, in a thread: what it was handed, and the partitions that it has."""

    def __init__(self, bus: Bus) -> None:
        self.events: list[Event] = []
        self.partitions: set[int] = set()
        self._bus = bus
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        async with self._bus.consumer("readers", ["orders"], client_id="reader") as consumer:
            while not self._stopping.is_set():
                self.events += await consumer.poll(timeout_s=0.2)
                self.partitions = {each.partition for each in consumer.assignment}

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


class Grown(NamedTuple):
    bus: Bus
    url: str
    plan: Plan
    count: int
    reader: Reader
    told: str
    supervised: ProcessorRecord


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    """A stream whose NORMAL topic was given partitions while a publisher, a flow and a consumer were at work."""
    folder = tmp_path_factory.mktemp("grown")
    (file := folder / "flow.yaml").write_text(FLOW)
    url = kafka_broker.kafka_url(folder / "data")
    with open_bus(url) as bus:
        plan = deploy(load_flow(file), bus.storage)
        esb = Path(sys.executable).with_name("esb")
        command = [esb, "run", str(file), "--snapshot-interval-ms", "200"]
        flow = subprocess.Popen(
            command, env={**os.environ, "ESB_DATA": url}, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        service = StreamManagementService(bus.storage)
        processor_id = asyncio.run(service.create_stream_processor(SUPERVISED))
        asyncio.run(service.start_stream_processor(processor_id))
        publisher, reader = Publisher(bus), Reader(bus)
        try:
            wait_until(lambda: progress(plan, bus.storage)[0] and reader.partitions == set(range(FIRST)))
            wait_until(lambda: end_of(bus, "big"))
            for future in admin().create_partitions([NewPartitions(topic_of(url, "orders"), ADDED)]).values():
                future.result()
            wait_until(lambda: bus.log.find_stream("default", "orders").config.partitions == ADDED)
            wait_until(lambda: reader.partitions == set(range(ADDED)))
            publisher.stop()
            wait_until(lambda: len(reader.events) >= publisher.count)
            wait_until(lambda: flow_metrics(plan, bus.storage)[0].events_in >= publisher.count)
            wait_until(lambda: len(read_all(bus, "big")) >= publisher.count - MOST)
            supervised = bus.storage.catalog.get_processor("default", processor_id)
        finally:
            publisher.stop()
            reader.stop()
            flow.send_signal(signal.SIGINT)
            told = flow.communicate(timeout=60)[1]
            service.close()
        again = deploy(load_flow(file), bus.storage)  # the file says as many partitions as the stream was made with
        run_main(build(again, bus.storage, until=current_ends(again, bus.storage)))  # closes the last windows
        yield Grown(bus, url, again, publisher.count, reader, told, supervised)


def test_a_flow_goes_on_with_partitions_that_were_added_and_counts_each_event_once(grown: Grown) -> None:
    expected: Counter[tuple[str, int]] = Counter()
    sums: Counter[tuple[str, int]] = Counter()
    for n in range(grown.count):
        place = f"k{n % KEYS}", n * 10 // WINDOW_MS * WINDOW_MS
        expected[place] += 1
        sums[place] += n
    rows = [msgspec.json.decode(event.data) for event in read_all(grown.bus, "sums")]
    found = {(row["k"], time_ms(row["window_start"])): (row["count"], row["sum_n"]) for row in rows}
    assert len(rows) == len(found)
    assert found == {place: (expected[place], sums[place]) for place in expected}
    assert f"the stream orders has {ADDED} partitions now, not {FIRST}" in grown.told


def test_a_processor_that_is_supervised_starts_again_and_that_is_no_failure(grown: Grown) -> None:
    numbers = sorted(msgspec.json.decode(event.data)["n"] for event in read_all(grown.bus, "big"))
    assert numbers == list(range(MOST, grown.count))
    assert (grown.supervised.status, grown.supervised.last_error) == (ProcessorStatus.RUNNING, None)


def test_no_event_is_late_since_partitions_were_added(grown: Grown) -> None:
    (metrics,) = flow_metrics(grown.plan, grown.bus.storage)
    assert (metrics.events_in, metrics.events_late, metrics.in_state) == (grown.count, 0, 0)


def test_the_other_lanes_have_as_many_partitions_and_events_are_in_all(grown: Grown) -> None:
    assert partition_counts(grown.url, "orders") == [ADDED] * 4
    stream = grown.bus.log.find_stream("default", "orders")
    assert len(stream.splits()) == ADDED * len(LANES)
    assert set(stream.splits()) == set(grown.bus.log.begin_offsets(stream.stream_id))
    filled = {split.partition for split, end in grown.bus.log.end_offsets(stream.stream_id).items() if end}
    assert len(filled) > FIRST


def test_a_consumer_is_given_the_partitions_and_reads_each_event_once(grown: Grown) -> None:
    ids = [event.event_id for event in grown.reader.events]
    assert len(set(ids)) == len(ids) == grown.count
    assert set(ids) == {event.event_id for event in read_all(grown.bus, "orders")}


def test_a_plain_consumer_of_kafka_reads_the_same(grown: Grown) -> None:
    options = parse_url(grown.url, "unused").options(
        group_id=topic_of(grown.url, "plain"), auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer = Consumer(options)
    consumer.subscribe([topic_of(grown.url, "orders")])
    found: list[bytes] = []
    wait_until(lambda: _poll(consumer, found) >= grown.count)
    consumer.close()
    assert sorted(found) == sorted(event.event_id.encode() for event in grown.reader.events)


def _poll(consumer: Consumer, found: list[bytes]) -> int:
    for message in consumer.consume(1000, 0.5):
        headers: Any = dict(message.headers() or ())
        found.append(headers["ce_id"])
    return len(found)


# --- growing it ourselves -----------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    return kafka_broker.kafka_url(tmp_path)


@pytest.fixture
def bus(url: str) -> Iterator[Bus]:
    with open_bus(url) as opened:
        yield opened


def grow(bus: Bus, stream: StreamInfo, partitions: int) -> StreamInfo:
    log = getattr(bus.log, "inner", bus.log)
    assert isinstance(log, KafkaLog)
    return log.grow_stream(stream.stream_id, partitions)


def made(event_id: str, key: str | None = None) -> Event:
    return Event(event_id, "t", 1000, b"1", key=key)


def test_publishing_goes_on_where_another_process_has_grown_the_stream(bus: Bus, url: str) -> None:
    stream = bus.create_stream("orders", partitions=FIRST)
    publish = bus.publishing.publish_batch
    asyncio.run(publish(EventConfig(event_type="t"), [1], "orders"))  # from here on the stream is known
    with closing(KafkaLog(parse_url(url, "unused"))) as other:
        changed = other.grow_stream(stream.stream_id, ADDED)
    with pytest.raises(StreamChangedError):
        bus.log.append([Append(stream.stream_id, [made("a")], checked=stream.config)])
    keys = [f"k{n}" for n in range(40)]
    receipts = asyncio.run(publish(EventConfig(event_type="t"), list(range(40)), "orders", keys=keys))
    assert {receipt.position.split.partition for receipt in receipts} == set(range(ADDED))
    assert bus.log.find_stream("default", "orders") == changed
    assert len(read_all(bus, "orders")) == 41


def test_an_id_stays_known_though_its_key_goes_to_another_partition(bus: Bus) -> None:
    stream = bus.create_stream("orders")
    events = [made(f"e{n}", f"k{n}") for n in range(20)]
    (first,) = bus.log.append([Append(stream.stream_id, events)])
    grow(bus, stream, 4)
    (second,) = bus.log.append([Append(stream.stream_id, [*events, made("new", "k0")])])
    *known, new = second.receipts()
    assert [each.position for each in known] == [each.position for each in first.receipts()]
    assert all(each.duplicate for each in known)
    assert not new.duplicate


def test_a_stream_that_has_grown_is_the_one_that_was_made_with_fewer(bus: Bus, url: str) -> None:
    stream = bus.create_stream("orders", partitions=FIRST)
    changed = grow(bus, stream, 4)
    bus.log.set_stream_schema(stream.stream_id, "sch_1")
    changed = bus.log.set_stream_schema(stream.stream_id, None)
    with closing(KafkaLog(parse_url(url, "unused"))) as other:
        for count in (FIRST, 3, 4):
            assert other.create_stream(StreamConfig(name="orders", partitions=count)) == changed
        for count in (1, 5):
            with pytest.raises(AlreadyExistsError, match=f"partitions is 4, not {count}"):
                other.create_stream(StreamConfig(name="orders", partitions=count))


def test_partitions_are_only_added(bus: Bus, url: str) -> None:
    stream = bus.log.create_stream(StreamConfig(name="orders", partitions=3, retention_bytes=240_000))
    assert grow(bus, stream, 3) == stream
    with pytest.raises(InvalidInputError, match="expected 3, which orders has, to 4096, got 2"):
        grow(bus, stream, 2)
    assert grow(bus, stream, 6).config.partitions == 6
    assert partition_counts(url, "orders") == [6] * 4
    resource = ConfigResource(ResourceType.TOPIC, topic_of(url, "orders"))
    wait_until(lambda: admin().describe_configs([resource])[resource].result()["retention.bytes"].value == "10000")
