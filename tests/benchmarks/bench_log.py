"""The embedded log: appending, reading, single publishes, waking up.

An event has 300 bytes: 180 of JSON payload and 120 of envelope (ids, type, key, source, time). Everything is durable
(``synchronous=FULL``). A thousand such events are 300 kB before LZ4 and about 40 kB after it, which is what makes the
log as fast as it is beside the bare blobs of 300 kB; the figure with the codec NONE shows it without. Batches are in columns,
as publishing and flows hand them to the log, but where a figure says otherwise.
"""

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import msgspec
from harness import Figure

from event_streaming_bus import ids
from event_streaming_bus.models import CompressionType, Event, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.event_columns import in_columns

BATCH: Final = 1000
BATCHES: Final = 150
AHEAD: Final = 8
PUBLISHERS: Final = 32
EACH: Final = 150


def batch_of(event_ids: list[str]) -> list[Event]:
    """Events with about 180 bytes of payload and 120 of envelope."""
    events = []
    for i, event_id in enumerate(event_ids):
        data = {"order_id": f"ord_{i:08d}", "customer": f"customer-{i % 1000}", "total": i * 1.25, "note": f"{i:x}" * 12, "n": i}
        payload = msgspec.json.encode(data).ljust(180, b" ")
        events.append(Event(event_id, "order.created", 1_700_000_000_000 + i, payload, f"customer-{i % 1000}", "shop"))
    return events


def columns_of(event_ids: list[str]) -> Sequence[Event]:
    """As ``batch_of``, in columns, and without an object for each event."""
    return in_columns(batch_of(event_ids))[:]


def _log(folder: str, codec: CompressionType = CompressionType.LZ4) -> tuple[EmbeddedLog, StreamInfo]:
    log = EmbeddedLog(folder)
    return log, log.create_stream(StreamConfig(name="s", compression_type=codec))


def bare_sqlite() -> float:
    """The bound: one 300 kB blob per durable transaction, counted as the 1000 events it could hold."""
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE t (body BLOB)")
        body = b"".join(e.data.ljust(300) for e in batch_of(ids.new_ids(ids.EVENT, BATCH)))
        started_s = time.perf_counter()
        for _ in range(BATCHES):
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO t VALUES (?)", (body,))
            database.execute("COMMIT")
        rate = BATCHES * BATCH / (time.perf_counter() - started_s)
        database.close()
        return rate


def append(
    own_ids: bool = True,
    codec: CompressionType = CompressionType.LZ4,
    make: Callable[[list[str]], Sequence[Event]] = columns_of,
) -> float:
    """Events per second, in durable batches of 1000."""
    with tempfile.TemporaryDirectory() as folder:
        log, info = _log(folder, codec)
        names = [f"o{n}-{i}" for n in range(BATCHES) for i in range(BATCH)]
        batches = [make(ids.new_ids(ids.EVENT, BATCH) if own_ids else names[n * BATCH : (n + 1) * BATCH]) for n in range(BATCHES)]
        started_s = time.perf_counter()
        for events in batches:
            log.append([Append(info.stream_id, events, new_ids=own_ids)])
        rate = BATCHES * BATCH / (time.perf_counter() - started_s)
        log.close()
        return rate


def append_ahead() -> float:
    """Events per second, in durable batches of 1000 of which eight are under way: who does not wait for each lets several share
    a transaction, and the disk."""
    with tempfile.TemporaryDirectory() as folder:
        log, info = _log(folder)
        batches = [columns_of(ids.new_ids(ids.EVENT, BATCH)) for _ in range(BATCHES)]
        pending: deque[Future[list[AppendResult]]] = deque()
        started_s = time.perf_counter()
        for events in batches:
            if len(pending) == AHEAD:
                pending.popleft().result()
            pending.append(log.submit([Append(info.stream_id, events, new_ids=True)]))
        for each in pending:
            each.result()
        rate = BATCHES * BATCH / (time.perf_counter() - started_s)
        log.close()
        return rate


def read() -> float:
    """Events per second, read, verified and decoded to envelopes."""
    with tempfile.TemporaryDirectory() as folder:
        log, info = _log(folder)
        for _ in range(BATCHES):
            log.append([Append(info.stream_id, batch_of(ids.new_ids(ids.EVENT, BATCH)), new_ids=True)])
        (split,) = (split for split, end in log.end_offsets(info.stream_id).items() if end)
        started_s, count, offset = time.perf_counter(), 0, 0
        while batches := log.read(split, offset):
            for batch in batches:
                count += len(batch.events())
            offset = batches[-1].end_offset
        rate = count / (time.perf_counter() - started_s)
        assert count == BATCHES * BATCH
        log.close()
        return rate


def single_publishes() -> float:
    """Acknowledged single publishes per second, of 32 concurrent publishers."""
    with tempfile.TemporaryDirectory() as folder:
        log, info = _log(folder)

        def publish() -> None:
            for event in batch_of(ids.new_ids(ids.EVENT, EACH)):
                log.append([Append(info.stream_id, [event], new_ids=True)])

        threads = [threading.Thread(target=publish) for _ in range(PUBLISHERS)]
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = PUBLISHERS * EACH / (time.perf_counter() - started_s)
        log.close()
        return rate


_APPENDER: Final = """
import sys, time
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
log = EmbeddedLog(sys.argv[1]); stream = log.find_stream("default", "s").stream_id
for i in range(100):
    time.sleep(0.02)
    log.append([Append(stream, [Event(f"e{i}", "t", 0, b"")])])
    print(time.monotonic_ns(), flush=True)
log.close()
"""


def wake_up(percentile: int) -> float:
    """Milliseconds from an append in another process being on disk to this one waking up: a percentile of 100 appends."""
    with tempfile.TemporaryDirectory() as folder:
        log, info = _log(folder)
        (split,) = [s for s in info.splits() if s.lane.value == "NORMAL"]
        woken = []
        with subprocess.Popen([sys.executable, "-c", _APPENDER, folder], stdout=subprocess.PIPE, text=True) as other:
            for offset in range(100):
                log.wait({split: offset}, 60)
                woken.append(time.monotonic_ns())
            assert other.stdout is not None
            appended = [int(line) for line in other.stdout]
        log.close()
        waits_ms = [max(0.0, (w - a) / 1e6) for w, a in zip(woken, appended, strict=True)]
        return statistics.quantiles(waits_ms, n=100)[percentile - 1]


FIGURES: Final = [
    Figure("bare SQLite, a blob per 1000 events", "events/s", bare_sqlite),
    Figure("log: append in batches of 1000", "events/s", append, 400_000, "bare SQLite, a blob per 1000 events"),
    Figure(
        "log: append in batches of 1000 objects",
        "events/s",
        lambda: append(make=batch_of),
        None,
        "log: append in batches of 1000",
    ),
    Figure(
        "log: append in batches of 1000, eight under way", "events/s", append_ahead, None, "bare SQLite, a blob per 1000 events"
    ),
    Figure(
        "log: append with ids of the publisher", "events/s", lambda: append(own_ids=False), None, "log: append in batches of 1000"
    ),
    Figure(
        "log: append, codec NONE",
        "events/s",
        lambda: append(codec=CompressionType.NONE),
        None,
        "bare SQLite, a blob per 1000 events",
    ),
    Figure("log: read and decode to envelopes", "events/s", read, 1_000_000, "log: append in batches of 1000"),
    Figure("log: single publishes, 32 publishers", "events/s", single_publishes, 3_000, None),
    Figure("log: wake-up across processes, p50", "ms", lambda: wake_up(50), None, None),
    Figure("log: wake-up across processes, p99", "ms", lambda: wake_up(99), 20.0, None),
]
