"""Processes killed while they write, brokers killed and started again, and transactions that come to nothing."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kafka_broker
import pytest
from confluent_kafka import Producer

from event_streaming_bus import ids
from event_streaming_bus.errors import FencedError, PayloadTooLargeError
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append, Mark
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import parse_url

WRITER = Path(__file__).with_name("kafka_writers.py")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return kafka_broker.kafka_url(tmp_path)


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    log = KafkaLog(parse_url(url, "unused"))
    yield log
    log.close()


def split_of(stream: StreamInfo) -> Split:
    return Split(stream.stream_id, EventPriority.NORMAL, 0)


def read(log: KafkaLog, stream: StreamInfo) -> list[Event]:
    offset, events = 0, []
    while batches := log.read(split_of(stream), offset):
        events += [event for batch in batches for event in batch.events()]
        offset = batches[-1].end_offset
    return events


def test_a_killed_writer_leaves_whole_appends_only_and_holds_nobody_up(log: KafkaLog, url: str) -> None:
    stream, other = log.create_stream(StreamConfig(name="s")), log.create_stream(StreamConfig(name="other"))
    last: dict[str, int] = {}
    writers = {
        owner: subprocess.Popen(
            [sys.executable, str(WRITER), url, stream.stream_id, other.stream_id, owner], stdout=subprocess.PIPE, text=True
        )
        for owner in ("one", "two")
    }
    for owner, writer in writers.items():
        assert writer.stdout is not None
        while last.get(owner, 0) < 4:
            last[owner] = int(writer.stdout.readline())
    for owner, writer in writers.items():
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        last[owner] = max([last[owner], *map(int, writer.stdout.read().split())])
        writer.stdout.close()
        writer.wait()
    started = time.monotonic()
    log.append([Append(stream.stream_id, [Event("mine", "t", 0, b"0", key="mine")])])
    assert time.monotonic() - started < 8  # long before the transaction timeout of 10 s
    events, journals = read(log, stream), read(log, other)
    for owner in writers:
        mine = [e.event_id for e in events if e.key == owner]
        count = int(log.marks(owner)["count"])
        assert count >= last[owner]
        assert mine == [f"{owner}-{n}-{x}" for n in range(1, count + 1) for x in "ab"]
        told = [e.event_id for e in journals if f"-{owner}-" in e.event_id]
        assert told == [f"journal-{owner}-{n}" for n in range(1, count + 1)]


def test_one_of_two_that_expect_the_same_mark_is_fenced_whenever_they_meet(log: KafkaLog, url: str) -> None:
    stream, logs = log.create_stream(StreamConfig(name="s")), [log, KafkaLog(parse_url(url, "unused"))]
    fenced: list[int] = []

    def write(mine: KafkaLog, who: int) -> None:
        for _ in range(15):
            there = mine.marks("owner").get("k")
            number = int(there or b"0") + 1
            try:
                event = Event(f"{who}-{number}", "t", number, b"")
                mine.append([Append(stream.stream_id, [event])], marks=[Mark("owner", "k", there, b"%d" % number)])
            except FencedError:
                fenced.append(who)

    threads = [threading.Thread(target=write, args=(each, i)) for i, each in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs[1].close()
    written = [event.timestamp_ms for event in read(log, stream)]
    assert written == list(range(1, 31 - len(fenced)))
    assert log.marks("owner") == {"k": b"%d" % len(written)}


def test_what_an_aborted_transaction_leaves_is_passed_over(log: KafkaLog, url: str) -> None:
    settings = parse_url(url, "unused")
    stream = log.create_stream(StreamConfig(name="s"))
    log.append([Append(stream.stream_id, [Event("a", "t", 0, b"1")])])
    end = log.end_offsets(stream.stream_id)[split_of(stream)]
    producer = Producer(settings.options(transactional_id=f"{settings.prefix}foreign"))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{settings.prefix}s", b"never", partition=0)
    producer.flush()
    assert log.end_offsets(stream.stream_id)[split_of(stream)] == end
    assert not log.wait({split_of(stream): end}, 0.05)
    producer.abort_transaction(30)
    deadline = time.monotonic() + 20
    while (behind := log.end_offsets(stream.stream_id)[split_of(stream)]) == end:
        assert time.monotonic() < deadline
    assert not log.wait({split_of(stream): end}, 0.05)
    (void,) = log.read(split_of(stream), end)
    assert (void.offset, void.count, void.end_offset) == (end, 0, behind)
    assert (void.events(), list(void.timestamps_ms()), void.payloads(), void.column("key")) == ([], [], [], [])
    assert log.read(split_of(stream), behind) == []
    log.append([Append(stream.stream_id, [Event("b", "t", 0, b"2")])])
    assert log.wait({split_of(stream): end}, 5)
    assert [event.event_id for event in read(log, stream)] == ["a", "b"]


def test_what_follows_an_append_that_was_taken_back_is_written(log: KafkaLog) -> None:
    stream = log.create_stream(StreamConfig(name="s"))
    for n in range(5):
        spoilt = [Event(f"never-{n}", "t", 0, b"x" * 9), Event("large", "t", 0, b"x" * (9 << 20))]
        with pytest.raises(PayloadTooLargeError):
            log.append([Append(stream.stream_id, spoilt)], marks=[Mark("spoilt", "k", None, b"1")])
        there = log.marks("owner").get("k")
        log.append([Append(stream.stream_id, [Event(f"e{n}", "t", 0, b"")])], marks=[Mark("owner", "k", there, b"%d" % n)])
        assert (log.marks("owner"), log.marks("spoilt")) == ({"k": b"%d" % n}, {})
    assert [event.event_id for event in read(log, stream)] == [f"e{n}" for n in range(5)]


def test_receipts_are_right_where_several_write_to_a_partition_at_once(log: KafkaLog, url: str) -> None:
    stream, logs = log.create_stream(StreamConfig(name="s")), [log, KafkaLog(parse_url(url, "unused"))]
    told: dict[str, int] = {}
    together = threading.Barrier(2)

    def write(mine: KafkaLog) -> None:
        for _ in range(3):
            together.wait()
            # More than what fits in one request, so that those of the other come between.
            events = [Event(event_id, "t", 0, b"x" * 1000) for event_id in ids.new_ids(ids.EVENT, 3000)]
            (result,) = mine.append([Append(stream.stream_id, events, new_ids=True)])
            told.update((receipt.event_id, receipt.position.offset) for receipt in result.receipts())

    threads = [threading.Thread(target=write, args=(each,)) for each in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs[1].close()
    found: dict[str, int] = {}
    offset = 0
    while batches := log.read(split_of(stream), offset):
        for batch in batches:
            found.update((event_id, batch.offset + i) for i, event_id in enumerate(batch.column("event_id")))
        offset = batches[-1].end_offset
    assert len(told) == 2 * 3 * 3000
    assert found == told


def test_an_open_transaction_of_others_holds_back_no_append_but_reading(log: KafkaLog, url: str) -> None:
    settings = parse_url(url, "unused")
    stream, other = log.create_stream(StreamConfig(name="s")), log.create_stream(StreamConfig(name="other"))
    producer = Producer(settings.options(transactional_id=f"{settings.prefix}foreign"))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{settings.prefix}s", b"theirs", partition=0)
    producer.flush()
    log.append([Append(other.stream_id, [Event("a", "t", 0, b"1")])])
    mine = log.submit([Append(stream.stream_id, [Event("b", "t", 0, b"2")])])
    assert not log.wait({split_of(stream): 0}, 0.2)
    producer.commit_transaction(30)
    mine.result(30)
    assert [event.data for event in read(log, stream)] == [b"theirs", b"2"]


def test_a_broker_that_was_killed_and_comes_back_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    broker = kafka_broker.shared_broker()
    log = KafkaLog(parse_url(kafka_broker.kafka_url(tmp_path), "unused"))
    stream = log.create_stream(StreamConfig(name="s"))
    for i in range(5):
        log.append([Append(stream.stream_id, [Event(f"before-{i}", "t", 0, b"")])])
    broker.stop(kill=True)
    waiting = log.submit([Append(stream.stream_id, [Event("during", "t", 0, b"")])])
    time.sleep(0.2)
    broker.start()
    error = waiting.exception(60)  # written or not: publishing again finds out
    (result,) = log.append([Append(stream.stream_id, [Event("during", "t", 0, b""), Event("after", "t", 0, b"")])])
    assert result.duplicates == (error is None)
    assert [e.event_id for e in read(log, stream)] == [*(f"before-{i}" for i in range(5)), "during", "after"]
    log.close()
