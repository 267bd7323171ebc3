"""How fast history is loaded into DuckDB."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history_records import PASSED, Processed, Published, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage, open_storage

_PAYLOAD_BYTES = 300
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
