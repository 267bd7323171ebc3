"""How fast history is loaded into DuckDB."""

import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history_records import PASSED, Processed, Published, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage, open_storage

_PAYLOAD_BYTES = 300
_QUESTION = "SELECT stream, count(*), max(payload->>'order') FROM events GROUP BY stream"
_NOW_US = 1_357_034_400_000_000


def history_load(events: int = 200_000, batch_events: int = 1000, steps: int = 1) -> float:
    """Rows loaded per second by one call of ``catch_up``.

    Each event of 300 bytes makes 2 rows (the event, and its PUBLISH step) and one more for each of ``steps`` processors.
    Appending the events is not measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(Path(folder))
        _publish(storage, events, batch_events, steps)
        history = History(storage)
        started = time.perf_counter()
        rows = history.catch_up()
        taken_s = time.perf_counter() - started
        history.close()
        storage.close()
    if rows != events * (2 + steps):
        raise AssertionError(f"{rows} rows of {events} events and {steps} steps each")
    return rows / taken_s


class UnderQueries(NamedTuple):
    """Rows loaded per second while queries were asked, and how many of them were answered meanwhile."""

    rows_per_s: float
    queries: int
    slowest_s: float


def history_load_under_queries(events: int = 200_000, batch_events: int = 1000, askers: int = 2) -> UnderQueries:
    """The same load while ``askers`` threads ask one question after the other over all that is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(Path(folder))
        _publish(storage, events, batch_events, 1)
        history = History(storage)
        taken: list[float] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                started = time.perf_counter()
                history.query(_QUESTION, tenant_id="default")
                taken.append(time.perf_counter() - started)

        threads = [threading.Thread(target=ask) for _ in range(askers)]
        for thread in threads:
            thread.start()
        started = time.perf_counter()
        rows = history.catch_up()
        taken_s = time.perf_counter() - started
        is_over.set()
        for thread in threads:
            thread.join()
        history.close()
        storage.close()
    if rows != events * 3:
        raise AssertionError(f"{rows} rows of {events} events")
    return UnderQueries(rows / taken_s, len(taken), max(taken, default=0.0))


class RollOff(NamedTuple):
    """Rows moved into files per second, and bytes a row there."""

    rows_per_s: float
    bytes_per_row: float


def history_roll_off(events: int = 200_000) -> RollOff:
    """How fast a day of ``3 * events`` rows is moved into Parquet files."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(Path(folder))
        _publish(storage, events, 1000, 1)
        history = History(storage)
        history.catch_up()
        started = time.perf_counter()
        done = history.roll_off(days=0, now=datetime.now(UTC) + timedelta(days=2))
        taken_s = time.perf_counter() - started
        history.close()
        storage.close()
    if done.rows != events * 3:
        raise AssertionError(f"{done.rows} rows of {events} events")
    return RollOff(done.rows / taken_s, done.bytes / done.rows)


def _publish(storage: Storage, events: int, batch_events: int, steps: int) -> None:
    stream = storage.log.create_stream(StreamConfig(name="orders"))
    history = storage.history()

    def journal(results: Sequence[AppendResult]) -> Append:
        runs = [Run(split.stream_id, split.lane.value, split.partition, first, n) for split, first, n in results[0].written]
        entries = [to_event(Published("default", runs, _NOW_US, _NOW_US + 1000))]
        for step in range(steps):
            times = (_NOW_US + 2000, _NOW_US + 3000)
            name = f"step_{step}"
            entries += [
                to_event(Processed("default", f"proc_{step}", name, "PROCESSING", run, *times, outcomes=bytes([PASSED])))
                for run in runs
            ]
        return Append(history.stream_id, entries, new_ids=True)

    filling = "x" * (_PAYLOAD_BYTES - 50)
    for start in range(0, events, batch_events):
        count = min(batch_events, events - start)
        made = [
            Event(
                event_id,
                "order.created",
                _NOW_US // 1000 + number,
                msgspec.json.encode({"order": number, "carrier": "UA", "note": filling}),
                key=f"customer_{number % 1000}",
                source_capability="shop",
            )
            for number, event_id in enumerate(ids.new_ids(ids.EVENT, count), start)
        ]
        storage.log.append([Append(stream.stream_id, made, new_ids=True)], journal=journal)


if __name__ == "__main__":
    print(f"history_load: {history_load():,.0f} rows/s")
    loaded = history_load_under_queries()
    print(
        f"history_load_under_queries: {loaded.rows_per_s:,.0f} rows/s, {loaded.queries} queries, {loaded.slowest_s:.2f} s at most"
    )
    moved = history_roll_off()
    print(f"history_roll_off: {moved.rows_per_s:,.0f} rows/s, {moved.bytes_per_row:.1f} bytes a row")
