"""Projections under faults: whoever runs them is killed at any moment, and every event still counts exactly once."""

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.projections import ProjectionService
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.storage import Storage, open_storage

EVENTS = 2500
KILLS = 5
CUSTOMERS = 40

# Runs the projections in small batches until it is killed, or kills itself, at some call that writes or commits.
RUNNER = """
import asyncio, os, random, signal, sys, time
from event_streaming_bus.sourcing.projections import ProjectionService, follower
from event_streaming_bus.store.projections_duckdb import DuckdbProjection
from event_streaming_bus.store.projections_sqlite import SqliteProjection

follower.BATCH_EVENTS = 37
folder, seed, *rebuild = sys.argv[1:]
chance = random.Random(seed)

def deadly(kind, name):
    method = getattr(kind, name)
    def call(self, *arguments):
        for do in (lambda: None, lambda: method(self, *arguments)):
            do()
            if chance.random() < 1 / 100:
                os.kill(os.getpid(), signal.SIGKILL)
    setattr(kind, name, call)

if seed != "none":
    for kind in (SqliteProjection, DuckdbProjection):
        for name in ("write", "commit"):
            deadly(kind, name)

service = ProjectionService(folder)
service.start(must=True)
print("ready", flush=True)
for name in rebuild:
    asyncio.run(service.rebuild(name))
time.sleep(60)
"""


def declared(name: str, store: str) -> dict[str, Any]:
    return {
        "name": name,
        "store": store,
        "on_error": "skip",
        "tables": {
            "totals": {"columns": {"customer": "text", "n": "integer", "cents": "integer"}, "key": ["customer"]},
            "last": {"columns": {"kind": "text", "position": "integer"}, "key": ["kind"]},
        },
        "on": {
            "paid": [
                {
                    "table": "totals",
                    "upsert": {"customer": "payload.customer", "n": "row.n + 1", "cents": "row.cents + payload.cents"},
                },
                {"table": "last", "upsert": {"kind": "payload.kind", "position": "position"}},
            ],
            "left": [{"table": "totals", "delete": {"customer": "payload.customer"}}],
        },
    }


def made(seed: int) -> list[NewEvent]:
    chance = random.Random(seed)
    found = []
    for i in range(EVENTS):
        customer = f"c{chance.randrange(CUSTOMERS)}"
        kind = "left" if chance.random() < 0.02 else "paid"
        cents = "none" if chance.random() < 0.01 else chance.randrange(1000)
        data = {"customer": customer, "cents": cents, "kind": f"k{i % 3}"}
        found.append(NewEvent(event_type=kind, event_data=data))
    return found


def expected(events: list[NewEvent]) -> tuple[dict[str, tuple[int, int]], dict[str, int], int]:
    """What the rows must be, made without any of the code in question; and how many events cannot be projected."""
    totals: dict[str, tuple[int, int]] = {}
    last: dict[str, int] = {}
    skipped = 0
    for position, event in enumerate(events, 1):
        data = event.event_data
        if event.event_type == "left":
            totals.pop(data["customer"], None)
        elif isinstance(data["cents"], int):
            n, cents = totals.get(data["customer"], (0, 0))
            totals[data["customer"]] = (n + 1, cents + data["cents"])
            last[data["kind"]] = position
        else:
            skipped += 1
    return totals, last, skipped


def append_slowly(storage: Storage, events: list[NewEvent], pause_s: float) -> None:
    service = EventSourcingService(storage)
    for at in range(0, len(events), 50):
        service.append_now([NewEvents(aggregate_id=f"a{at % 7}", aggregate_type="Account", events=events[at : at + 50])])
        time.sleep(pause_s)


def start(folder: Path, seed: str, *rebuild: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUNNER, str(folder), seed, *rebuild]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        complaints = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, complaints
    return process


def run_and_kill(folder: Path, after_s: float, seed: str, *rebuild: str) -> None:
    process = start(folder, seed, *rebuild)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    process.kill()
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("store", ["sqlite", "duckdb"])
async def test_killed_at_any_moment_every_event_counts_once(tmp_path: Path, store: str) -> None:
    chance = random.Random(store)
    events = made(1)
    storage = open_storage(tmp_path)
    service = ProjectionService(storage)
    await service.apply(declared("sums", store))
    appending = threading.Thread(target=append_slowly, args=(storage, events, 0.005))
    appending.start()
    for i in range(KILLS):
        rebuild = ["sums"] if i == 1 else []
        await asyncio.to_thread(run_and_kill, tmp_path, chance.uniform(0.4, 1.5), f"{store}-{i}", *rebuild)
    appending.join()
    service.start(must=True)
    try:
        totals, last, skipped = expected(events)
        for _ in range(600):
            if (told := await service.describe("sums"))["state"] == "LIVE" and not told["lag"]:
                break
            await asyncio.sleep(0.05)
        assert told["state"] == "LIVE", told
        rows = (await service.rows("sums", table="totals", limit=1000))["rows"]
        assert {row["customer"]: (row["n"], row["cents"]) for row in rows} == totals
        rows = (await service.rows("sums", table="last"))["rows"]
        assert {row["kind"]: row["position"] for row in rows} == last
        assert (told["events"], told["skipped"]) == (EVENTS - skipped, skipped)
    finally:
        service.close()
        storage.close()


async def test_a_process_that_is_killed_leaves_the_projections_to_the_next(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    service = ProjectionService(storage)
    await service.apply(declared("sums", "sqlite"))
    process = await asyncio.to_thread(start, tmp_path, "none")
    service.start()
    assert not service.is_owner
    append_slowly(storage, made(2)[:100], 0)
    await service.wait_for("sums")
    process.kill()
    process.communicate()
    append_slowly(storage, made(2)[:100], 0)
    await service.wait_for("sums")
    assert service.is_owner
    await asyncio.to_thread(service.close)
    storage.close()
