"""The log on Kafka: publishing beside a bare producer, and a flow file beside Quix Streams and Kafka Streams.

    python tests/benchmarks/bench_kafka.py [--rounds N] [--only WORD]

``ESB_BENCH_KAFKA_EVENTS`` is how many events are measured with. It starts a broker on this machine, which takes its share of the
cores, as the clients do. All write the same bytes: the bare producer sends the very records that the log makes of the events. It
is idempotent with ``acks=all`` and has no transaction; the log writes one with the record of ids for each group of batches.

The flow reads JSON and sums up by key in windows of 10 s, exactly once, with a commit a second; its peers do the same. The clock
runs from when they begin to read (of Quix Streams, from its first event) until the last result can be read by a consumer that
asks for decided transactions only. A run whose results are not exactly those that they should be stops the benchmark.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kafka")]

import kafka_broker
import msgspec
from bench_kafka_peers import PEERS, kafka_streams, quix_streams
from bench_log import batch_of
from confluent_kafka import Consumer, Producer, TopicPartition
from harness import Figure, measure

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.models import Event, EventConfig, StreamConfig, time_ms
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka_events import Record, to_record
from event_streaming_bus.store.log.kafka_settings import KafkaSettings, parse_url

EVENTS: Final = int(os.environ.get("ESB_BENCH_KAFKA_EVENTS", "200000"))
BATCH: Final = 1000
UNDER_WAY: Final = 64  # batches; the bare producer's queue has room for 100
SINGLE: Final = 200
KEYS: Final = 1000
PARTITIONS: Final = 2
WINDOW_MS: Final = 10_000
GRACE_MS: Final = 1000
STEP_MS: Final = 2
_BEGIN_MS: Final = 1_700_000_000_000
_END_MS: Final = _BEGIN_MS + -(-EVENTS * STEP_MS // WINDOW_MS) * WINDOW_MS  # of the last window that is asked for
_PATIENCE_S: Final = 300.0
_FLOW: Final = """
streams: [{{name: sums-{run}, partitions: {partitions}}}]
processors:
  - processor_name: sum-{run}
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums-{run}
    processing_logic: {{group_by: [k], aggregations: [{{function: sum, field: total}}]}}
    window_config: {{window_type: tumbling, window_size_ms: {window_ms}, grace_period_ms: {grace_ms}}}
"""


@cache
def _url() -> str:
    return kafka_broker.kafka_url(Path(tempfile.mkdtemp(prefix="esb-bench-kafka-")))


def _settings() -> KafkaSettings:
    return parse_url(_url(), "unused")


@contextmanager
def _bus() -> Iterator[Bus]:
    with open_bus(_url()) as bus:
        yield bus


# --- publishing -------------------------------------------------------------------------------------------------------


def _stream(bus: Bus, partitions: int = 1) -> tuple[str, str]:
    """``(id, topic)`` of a new stream."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    return bus.storage.log.create_stream(StreamConfig(name=name, partitions=partitions)).stream_id, _settings().prefix + name


def _check_count(topic: str, count: int, *, gaps: bool) -> None:
    """The topic has so many records, or with the ends of transactions a few offsets more."""
    consumer = Consumer(_settings().options(group_id="check"))
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 30)
    consumer.close()
    assert end == count or (gaps and count < end <= count + count // 10 + 2), (end, count)


def bare_producer() -> float:
    """Records per second of an idempotent producer with ``acks=all``, no transaction, no report of each."""
    return _produced(list(map(to_record, batch_of(ids.new_ids(ids.EVENT, EVENTS)))))


def bare_producer_of_objects() -> float:
    """The same from Python objects, as whoever publishes without a bus has them: envelope and payload are encoded on the way."""
    payloads = [msgspec.json.decode(event.data) for event in batch_of([""] * BATCH)]

    def records() -> Iterator[Record]:
        now_ms = time.time_ns() // 1_000_000
        for _ in range(EVENTS // BATCH):
            for event_id, payload in zip(ids.new_ids(ids.EVENT, BATCH), payloads, strict=True):
                yield to_record(Event(event_id, "order.created", now_ms, msgspec.json.encode(payload), payload["customer"]))

    return _produced(records())


def _produced(records: Iterable[Record]) -> float:
    with _bus() as bus:
        _, topic = _stream(bus)
        producer = Producer(_settings().options(acks="all", enable_idempotence=True, compression_type="lz4", linger_ms=5))
        started_s = time.perf_counter()
        for i, (value, key, headers) in enumerate(records):
            while True:
                try:
                    producer.produce(topic, value, key, 0, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.01)
            if not i % BATCH:
                producer.poll(0)
        assert producer.flush(60) == 0
        rate = EVENTS / (time.perf_counter() - started_s)
        _check_count(topic, EVENTS, gaps=False)
        return rate


def log_appends() -> float:
    """Events per second, submitted in batches of 1000; all are acknowledged and readable at the end."""
    with _bus() as bus:
        stream_id, topic = _stream(bus)
        batches = [batch_of(ids.new_ids(ids.EVENT, BATCH)) for _ in range(EVENTS // BATCH)]
        started_s = time.perf_counter()
        for future in [bus.storage.log.submit([Append(stream_id, events, new_ids=True)]) for events in batches]:
            future.result()
        rate = EVENTS / (time.perf_counter() - started_s)
        _check_count(topic, EVENTS, gaps=True)
        return rate


def bus_publishes(under_way: int = UNDER_WAY) -> float:
    """Events per second through ``publish_batch``, from Python objects: checked, encoded, with history. Batches of 1000."""
    with _bus() as bus:
        stream_id, topic = _stream(bus)
        payloads = [msgspec.json.decode(event.data) for event in batch_of([""] * BATCH)]
        keys = [payload["customer"] for payload in payloads]
        room = asyncio.Semaphore(under_way)

        async def publish() -> None:
            async with room:
                await bus.publishing.publish_batch(EventConfig(event_type="order.created"), payloads, stream_id, keys=keys)

        async def publish_all() -> None:
            await asyncio.gather(*(publish() for _ in range(EVENTS // BATCH)))

        started_s = time.perf_counter()
        asyncio.run(publish_all())
        rate = EVENTS / (time.perf_counter() - started_s)
        _check_count(topic, EVENTS, gaps=True)
        return rate


def bare_transactions() -> float:
    """Transactions of one record per second, one after the other."""
    with _bus() as bus:
        _, topic = _stream(bus)
        (event,) = batch_of(["e"])
        value, key, headers = to_record(event)
        producer = Producer(_settings().options(transactional_id=f"{topic}-bare", acks="all", linger_ms=0))
        producer.init_transactions(30)
        started_s = time.perf_counter()
        for _ in range(SINGLE):
            producer.begin_transaction()
            producer.produce(topic, value, key, 0, headers=headers)
            producer.commit_transaction(30)
        return SINGLE / (time.perf_counter() - started_s)


def single_appends(own_ids: bool = True) -> float:
    """Appends of one event per second, one after the other, each readable when it returns."""
    with _bus() as bus:
        stream_id, _ = _stream(bus)
        events = batch_of(ids.new_ids(ids.EVENT, SINGLE) if own_ids else [uuid.uuid4().hex for _ in range(SINGLE)])
        started_s = time.perf_counter()
        for event in events:
            bus.storage.log.append([Append(stream_id, [event], new_ids=own_ids)])
        return SINGLE / (time.perf_counter() - started_s)


# --- flows ------------------------------------------------------------------------------------------------------------


@cache
def _orders() -> str:
    """The topic of the events that all flows read, published once; the last event of each key closes all windows before it."""
    rows = [(_BEGIN_MS + i * STEP_MS, f"key-{i % KEYS}", i % 997) for i in range(EVENTS)]
    rows += [(_END_MS + 2 * GRACE_MS, f"key-{i}", 1) for i in range(KEYS)]
    with _bus() as bus:
        bus.storage.log.create_stream(StreamConfig(name="orders", partitions=PARTITIONS))
        for start in range(0, len(rows), BATCH * 10):
            some = rows[start : start + BATCH * 10]
            bus.publishing.submit(
                EventConfig(event_type="order"),
                [{"k": key, "total": total, "at": at_ms} for at_ms, key, total in some],
                stream_id="orders",
                keys=[key for _, key, _ in some],
                timestamps_ms=[at_ms for at_ms, _, _ in some],
            ).result()
    return f"{_settings().prefix}orders"


@cache
def _expected() -> dict[tuple[str, int], int]:
    """The sums by key and start of the window."""
    sums: dict[tuple[str, int], int] = {}
    for i in range(EVENTS):
        at_ms = _BEGIN_MS + i * STEP_MS
        place = f"key-{i % KEYS}", at_ms - at_ms % WINDOW_MS
        sums[place] = sums.get(place, 0) + i % 997
    return sums


def _result(key: bytes, value: bytes) -> tuple[tuple[str, int], int]:
    """A result as any of the three writes it: where it belongs, and the sum."""
    row: dict[str, Any] = msgspec.json.decode(value)
    start_ms = row["start"] if "start" in row else time_ms(row["window_start"])
    return (row.get("k") or key.decode(), start_ms), int(row["sum_total"])


def _timed(command: list[str], target: str) -> float:
    """Events per second of the program, from its line RUNNING until all results are there."""
    expected = _expected()
    found: dict[tuple[str, int], int] = {}
    consumer = Consumer(_settings().options(group_id="check", isolation_level="read_committed", fetch_wait_max_ms=20))
    consumer.assign([TopicPartition(target, i, 0) for i in range(PARTITIONS)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != b"RUNNING\n":
                assert line, f"{command[0]} ended"
            started_s = done_s = time.perf_counter()
            while len(found) < len(expected):
                assert time.perf_counter() - started_s < _PATIENCE_S, (len(found), len(expected))
                for message in consumer.consume(5000, 0.02):
                    if message.error() is not None:
                        continue
                    place, total = _result(message.key() or b"", message.value() or b"")
                    if place[1] < _END_MS:
                        assert place not in found, f"{place} came twice"
                        found[place] = total
                done_s = time.perf_counter()
            assert found == expected
        finally:
            process.kill()
            consumer.close()
    return EVENTS / (done_s - started_s)


def flow_file() -> float:
    """Events per second of a flow file, one worker process."""
    run, topic = uuid.uuid4().hex[:8], _orders()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"flow-{run}.yaml"
        file.write_text(_FLOW.format(run=run, partitions=PARTITIONS, window_ms=WINDOW_MS, grace_ms=GRACE_MS))
        with _bus() as bus:  # the topics are there before the consumer asks for them
            bus.storage.log.create_stream(StreamConfig(name=f"sums-{run}", partitions=PARTITIONS))
        target = topic.removesuffix("orders") + f"sums-{run}"
        return _timed([sys.executable, str(PEERS / "flow_sum.py"), _url(), str(file), "1000"], target)


def _peer(command: list[str], *options: str) -> Callable[[], float]:
    def run() -> float:
        topic = _orders()
        with _bus() as bus, tempfile.TemporaryDirectory() as folder:
            _, target = _stream(bus, PARTITIONS)
            return _timed([*command, _settings().brokers, topic, target, f"{target}-app", folder, *options], target)

    return run


# --- all --------------------------------------------------------------------------------------------------------------


def figures() -> list[Figure]:
    """All that can be measured on this machine."""
    bare, flow = "kafka: bare idempotent producer", "kafka: flow file, tumbling sum"
    of_objects = "kafka: bare producer, from Python objects"
    found = [
        Figure(bare, "events/s", bare_producer),
        Figure("kafka: log, batches of 1000", "events/s", log_appends, None, bare, 0.8),
        Figure("kafka: publish_batch, batches of 1000", "events/s", bus_publishes, None, bare, 0.8),
        Figure(of_objects, "events/s", bare_producer_of_objects),
        Figure("kafka: publish_batch (beside objects)", "events/s", bus_publishes, None, of_objects, 0.8),
        Figure("kafka: bare transactions of one record", "1/s", bare_transactions),
        Figure("kafka: log, one event at a time", "1/s", single_appends, None, "kafka: bare transactions of one record"),
        Figure(
            "kafka: log, one at a time, publisher's id",
            "1/s",
            lambda: single_appends(own_ids=False),
            None,
            "kafka: bare transactions of one record",
        ),
    ]
    if (command := quix_streams()) is not None:
        quix = "kafka: Quix Streams"
        found += [
            Figure(quix, "events/s", _peer(command)),
            Figure(f"{flow} (beside Quix Streams)", "events/s", flow_file, None, quix, 3.0),
        ]
    if (command := kafka_streams()) is not None:
        streams = "kafka: Kafka Streams, state in {}"
        found += [
            Figure(streams.format("memory"), "events/s", _peer(command, "memory")),
            Figure(streams.format("RocksDB"), "events/s", _peer(command, "rocksdb")),
            Figure(f"{flow} (beside Kafka Streams)", "events/s", flow_file, None, streams.format("RocksDB"), 1.0),
        ]
    return found


def main() -> int:
    """Measure and print; the exit code is 0 whether or not targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="figures whose name has this word, and their baselines")
    options = parser.parse_args()
    if kafka_broker.jars() is None:
        print(
            "The log on Kafka is not measured: Java or the jars that deploy/kafka/fetch.py fetches are missing.", file=sys.stderr
        )
        return 0
    every = figures()
    named = {figure.name for figure in every if options.only in figure.name}
    named |= {figure.baseline for figure in every if figure.name in named and figure.baseline}
    results = measure([f for f in every if f.name in named], options.rounds, lambda text: print(text, file=sys.stderr))
    rows = [
        [
            r.name,
            f"{r.median:,.0f}",
            r.unit,
            f"{r.low:,.0f}",
            f"{r.high:,.0f}",
            "" if r.ratio is None else f"{r.ratio:.2f}",
            r.met,
        ]
        for r in results
    ]
    print(f"{EVENTS} events, {os.cpu_count()} cores, median of {options.rounds} rounds")
    print_table(["figure", "median", "unit", "low", "high", "x baseline", "met"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
