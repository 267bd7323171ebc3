"""Consumers through the SDK: how many events one reads, how soon an event is delivered, and a CRITICAL one behind a backlog.

An event has 300 bytes, as in the benchmarks of the log. ``ESB_BENCH_BACKLOG`` is how many NORMAL events the CRITICAL ones
overtake (by default 200,000; 1,000,000 for the figures of the documentation).
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench_log import BATCH, batch_of
from harness import Figure

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.log.base import Append

EVENTS: Final = 300_000
BACKLOG: Final = int(os.environ.get("ESB_BENCH_BACKLOG", "200000"))
EACH_SECOND: Final = 1000
SECONDS: Final = 4
URGENT: Final = 120


@contextmanager
def _bus(events: int, partitions: int = 1) -> Iterator[Bus]:
    with tempfile.TemporaryDirectory() as folder, open_bus(folder) as bus:
        info = bus.log.create_stream(StreamConfig(name="s", partitions=partitions))
        for _ in range(events // BATCH):
            bus.log.append([Append(info.stream_id, batch_of(ids.new_ids(ids.EVENT, BATCH)), new_ids=True)])
        yield bus


def _consume(bus: Bus, most: int, *, manual: bool = False, events: int = EVENTS) -> float:
    async def run() -> float:
        async with bus.consumer("g", ["s"], auto_commit=not manual) as consumer:
            started_s, count = time.perf_counter(), 0
            while count < events:
                polled = await consumer.poll(most)
                count += len(polled)
                if manual:
                    for event in polled:
                        consumer.ack(event)
                    await consumer.commit()
            return count / (time.perf_counter() - started_s)

    return asyncio.run(run())


def polls(most: int, partitions: int = 1, *, manual: bool = False) -> float:
    """Events per second in batches of ``most``, with automatic commits or acknowledged one by one and committed each poll."""
    with _bus(EVENTS, partitions) as bus:
        return _consume(bus, most, manual=manual)


def iteration() -> float:
    """Events per second of ``async for``."""

    async def run(bus: Bus, events: int) -> float:
        started_s, count = time.perf_counter(), 0
        async for _ in bus.consumer("g", ["s"]):
            count += 1
            if count == events:
                break
        return count / (time.perf_counter() - started_s)

    with _bus(EVENTS // 10) as bus:
        return asyncio.run(run(bus, EVENTS // 10))


_PUBLISHER: Final = """
import sys, time
from event_streaming_bus.models import Event, EventPriority
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
folder, each_second, count, lane = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
log = EmbeddedLog(folder); stream = log.find_stream("default", "s").stream_id
begun, pending = time.monotonic(), []
for i in range(count):
    time.sleep(max(0, begun + i / each_second - time.monotonic()))
    data = b"%d" % time.monotonic_ns()
    pending.append(log.submit([Append(stream, [Event(f"e{i}", "t", 0, data, priority=EventPriority(lane))])]))
for each in pending:
    each.result()
log.close()
"""


def _publisher(bus: Bus, each_second: float, count: int, lane: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _PUBLISHER, str(bus.folder), str(each_second), str(count), lane])


def latency(percentile: int) -> float:
    """Milliseconds from publishing in another process, a thousand events a second, to the event being in the consumer's hands."""

    async def run(bus: Bus) -> list[float]:
        waits_ms: list[float] = []
        count = SECONDS * EACH_SECOND
        async with bus.consumer("g", ["s"]) as consumer:
            with _publisher(bus, EACH_SECOND, count, "NORMAL"):
                while len(waits_ms) < count:
                    events = await consumer.poll()
                    now_ns = time.monotonic_ns()
                    waits_ms += [(now_ns - int(event.data)) / 1e6 for event in events]
        return waits_ms

    with _bus(0) as bus:
        return statistics.quantiles(asyncio.run(run(bus)), n=100)[percentile - 1]


def overtaking(percentile: int) -> float:
    """Milliseconds from publishing a CRITICAL event in another process to its consumer having it, while the consumer works
    through a backlog of NORMAL events, read again and again until the last of 120 CRITICAL ones has come."""

    async def run(bus: Bus) -> list[float]:
        waits_ms: list[float] = []
        async with bus.consumer("g", ["s"]) as consumer:
            await consumer.poll()
            (normal,) = [split for split in consumer.offsets() if split.lane.value == "NORMAL"]
            with _publisher(bus, 50, URGENT, "CRITICAL"):
                while len(waits_ms) < URGENT:
                    urgent = [event for event in await consumer.poll(100) if event.priority.value == "CRITICAL"]
                    now_ns = time.monotonic_ns()
                    waits_ms += [(now_ns - int(event.data)) / 1e6 for event in urgent]
                    if consumer.offsets()[normal] > BACKLOG - 2 * BATCH:
                        consumer.seek(normal, 0)
        return waits_ms

    with _bus(BACKLOG) as bus:
        return statistics.quantiles(asyncio.run(run(bus)), n=100)[percentile - 1]


FIGURES: Final = [
    Figure("consumer: polls of 500", "events/s", lambda: polls(500), 200_000, "log: read and decode to envelopes"),
    Figure("consumer: polls of 500, 16 partitions", "events/s", lambda: polls(500, 16), 200_000, None),
    Figure("consumer: polls of 500, each acknowledged", "events/s", lambda: polls(500, manual=True), None, None),
    Figure("consumer: one by one (async for)", "events/s", iteration, None, None),
    Figure("consumer: publish to deliver, 1,000 a second, p50", "ms", lambda: latency(50), None, None),
    Figure("consumer: publish to deliver, 1,000 a second, p99", "ms", lambda: latency(99), 30.0, None),
    Figure("consumer: CRITICAL behind a NORMAL backlog, p50", "ms", lambda: overtaking(50), None, None),
    Figure("consumer: CRITICAL behind a NORMAL backlog, p99", "ms", lambda: overtaking(99), 50.0, None),
]
