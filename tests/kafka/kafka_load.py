"""What runs while a cluster is disturbed: publishers and a reader, and what must hold of them afterwards."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from event_streaming_bus.errors import StorageError
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka import KafkaLog
from event_streaming_bus.store.log.kafka_settings import KafkaSettings, parse_url

_PUBLISHERS: Final = 2
_BATCH: Final = 5
_PAUSE_S: Final = 0.01


class Load:
    """Publishers and a reader of one stream of two partitions, until ``stop``.

    A publisher whose append fails appends the same events again, as the error says. ``acknowledged`` has the ids of what was
    appended, ``seen`` those that the reader got by split, in its order; ``refused`` the errors of publishers, and
    ``disturbed`` those of the reader, which tries again.
    """

    def __init__(self, url: str) -> None:
        self.settings: KafkaSettings = parse_url(url, "unused")
        self.logs = [KafkaLog(self.settings) for _ in range(_PUBLISHERS + 1)]
        self.stream: StreamInfo = self.logs[0].create_stream(StreamConfig(name="load", partitions=2))
        self.acknowledged: list[str] = []
        self.seen: dict[Split, list[str]] = defaultdict(list)
        self.refused: list[StorageError] = []
        self.disturbed: list[StorageError] = []
        self.longest_s = 0.0
        """How long the longest append took."""
        self._stopping = threading.Event()
        self._reading = threading.Event()
        self._failed: list[BaseException] = []
        self._publishers = [
            threading.Thread(target=self._guarded, args=(self._publish, log, i)) for i, log in enumerate(self.logs[:-1])
        ]
        self._reader = threading.Thread(target=self._guarded, args=(self._read, self.logs[-1]))
        for thread in (*self._publishers, self._reader):
            thread.start()

    def _guarded(self, run: object, *arguments: object) -> None:
        try:
            run(*arguments)  # type: ignore[operator]
        except BaseException as error:
            self._failed.append(error)

    def _publish(self, log: KafkaLog, who: int) -> None:
        number = 0
        while not self._stopping.is_set():
            events = [Event(f"{who}-{number + i}", "t", number + i, b"%d" % (number + i)) for i in range(_BATCH)]
            append = Append(self.stream.stream_id, events, partition=who)
            while True:
                started = time.monotonic()
                try:
                    log.append([append])
                    break
                except StorageError as error:
                    self.refused.append(error)
                finally:
                    self.longest_s = max(self.longest_s, time.monotonic() - started)
                time.sleep(0.1)
            self.acknowledged += [event.event_id for event in events]
            number += _BATCH
            time.sleep(_PAUSE_S)

    def _read(self, log: KafkaLog) -> None:
        positions = {Split(self.stream.stream_id, EventPriority.NORMAL, partition): 0 for partition in range(2)}
        while True:
            finished = self._reading.is_set()  # before reading: what was acknowledged by then is there
            try:
                got = False
                for split, offset in positions.items():
                    for batch in log.read(split, offset):
                        self.seen[split] += batch.column("event_id")
                        positions[split], got = batch.end_offset, True
                if not got and finished:
                    return
                if not got:
                    log.wait(positions, 0.2)
            except StorageError as error:
                self.disturbed.append(error)
                time.sleep(0.1)

    def await_more(self, count: int = 40, timeout_s: float = 60.0) -> float:
        """Wait until so many more are acknowledged and read; returns how long it took."""
        started = time.monotonic()
        acknowledged, seen = len(self.acknowledged) + count, self._count() + count
        while len(self.acknowledged) < acknowledged or self._count() < seen:
            assert not self._failed, self._failed
            assert time.monotonic() < started + timeout_s, (self.refused[-1:], self.disturbed[-1:])
            time.sleep(0.02)
        return time.monotonic() - started

    def _count(self) -> int:
        return sum(map(len, self.seen.values()))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._publishers:
            thread.join(60)
        self._reading.set()
        self._reader.join(60)
        for log in self.logs:
            log.close()

    def check(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, each partition is in the order of its publisher, and the reader
        got what another client of Kafka finds."""
        assert not self._failed, self._failed
        written = self.written()
        ids = [event_id for each in written.values() for event_id in each]
        assert len(set(ids)) == len(ids)
        assert set(self.acknowledged) <= set(ids)
        for partition, each in written.items():
            assert each == [f"{partition}-{number}" for number in range(len(each))]
        assert {split.partition: each for split, each in self.seen.items()} == written

    def written(self) -> dict[int, list[str]]:
        """The ids by partition, as a client that knows nothing of the bus finds them."""
        options = {"group.id": f"{self.settings.prefix}check", "enable.partition.eof": True, "enable.auto.commit": False}
        consumer = Consumer(self.settings.options() | options | {"isolation.level": "read_committed"})
        topic = f"{self.settings.prefix}load"
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(2)])
        found: dict[int, list[str]] = {}
        ended: set[int] = set()
        try:
            while len(ended) < 2:
                message = consumer.poll(30)
                assert message is not None
                partition = message.partition()
                assert partition is not None
                if message.error() is not None:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    ended.add(partition)
                    continue
                found.setdefault(partition, []).append(dict(message.headers() or [])["ce_id"].decode())
        finally:
            consumer.close()
        return found


@contextmanager
def under_load(url: str) -> Iterator[Load]:
    """A ``Load`` that has begun, and is stopped and checked at the end."""
    load = Load(url)
    try:
        load.await_more()
        yield load
        load.await_more()
    finally:
        load.stop()
    load.check()
