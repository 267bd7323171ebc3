"""What is tried on what is made of the log in the crash matrix: the history in DuckDB, projections. As in ``crash_log``."""

import asyncio
import hashlib
import shutil
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from crash_lives import Life
from crash_log import Scenario

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.projection_errors import ProjectionNotRunningError
from event_streaming_bus.sourcing.projections import ProjectionService, follower
from event_streaming_bus.store.history import TABLES, History
from event_streaming_bus.store.history import history as loading
from event_streaming_bus.store.storage import Storage, open_storage

PATIENCE_S: Final = 30.0
_FAULTY_S: Final = 0.5
EVENTS: Final = 240
STORES: Final = ("sqlite", "duckdb")


# --- the history ------------------------------------------------------------------------------------------------------


def prepare_history(folder: Path, seed: int) -> None:
    with open_bus(folder / "data") as bus:
        bus.log.create_stream(StreamConfig(name="orders", partitions=2))
        for start in range(0, EVENTS, 12):
            configs = [EventConfig(event_type="order", event_id=f"e{n}", key=f"k{n % 7}") for n in range(start, start + 12)]
            payloads = [{"n": n, "pad": "x" * (n % 90)} for n in range(start, start + 12)]
            bus.publishing.submit(configs, payloads, stream_id="orders").result()


def work_history(life: Life) -> None:
    """Load the history in small transactions, and move it into files as if it were days old."""
    loading.MAX_ROWS = 60  # type: ignore[misc] # of this process alone
    storage = life.insist(lambda: open_storage(life.data))
    history = life.insist(lambda: History(storage))
    life.insist(history.catch_up)
    life.note("loaded", history.backlog())
    life.insist(lambda: history.roll_off(days=1, now=datetime.now(UTC) + timedelta(days=5)))
    life.note("rolled")
    history.close()
    storage.close()


def rows(history: History) -> dict[str, list[str]]:
    """All rows of all tables."""
    return {table: sorted(map(repr, history.query(f"FROM {table}").rows())) for table in TABLES}


def check_history(life: Life, is_done: bool) -> Any:
    """The history as it was left, loaded to its end, has the rows of one that is built from the log alone; so has it afterwards
    when its database is deleted. The folder is left as it is."""
    copy = life.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(life.data, copy)
    shutil.rmtree(life.folder / "rebuilt", ignore_errors=True)
    (life.folder / "rebuilt").mkdir()
    with closing(open_storage(copy)) as storage:
        with closing(History(storage)) as history:
            history.catch_up()
            found, skipped = rows(history), history.skipped()
        with closing(History(storage, life.folder / "rebuilt" / "history.duckdb")) as history:
            history.catch_up()
            rebuilt = rows(history)
        assert found == rebuilt, f"loaded {_sizes(found)}, rebuilt {_sizes(rebuilt)}"
        assert skipped == (0, 0)
        (copy / "history.duckdb").unlink()
        with closing(History(storage)) as history:
            history.catch_up()
            assert rows(history) == rebuilt, "without its database it is another"
    assert len(rebuilt["events"]) == EVENTS
    return hashlib.blake2b(repr(rebuilt).encode()).hexdigest() if is_done else None


def _sizes(found: dict[str, list[str]]) -> dict[str, int]:
    return {table: len(each) for table, each in found.items()}


# --- projections ------------------------------------------------------------------------------------------------------


def declared(store: str) -> dict[str, Any]:
    return {
        "name": f"totals_{store}",
        "store": store,
        "tables": {"totals": {"columns": {"customer": "text", "n": "integer", "cents": "integer"}, "key": ["customer"]}},
        "on": {
            "paid": [
                {
                    "table": "totals",
                    "upsert": {"customer": "payload.customer", "n": "row.n + 1", "cents": "row.cents + payload.cents"},
                }
            ],
            "left": [{"table": "totals", "delete": {"customer": "payload.customer"}}],
        },
    }


def sourced() -> list[NewEvent]:
    return [
        NewEvent(event_type="left" if n % 37 == 36 else "paid", event_data={"customer": f"c{n * n % 11}", "cents": n})
        for n in range(EVENTS)
    ]


def prepare_projections(folder: Path, seed: int) -> None:
    with closing(open_storage(folder / "data")) as storage:
        appender, events = Appender(storage), sourced()
        for at in range(0, EVENTS, 20):
            append = NewEvents(aggregate_id=f"a{at % 3}", aggregate_type="Account", events=events[at : at + 20])
            appender.append([append], "default", None)
        service = ProjectionService(storage)
        for store in STORES:
            asyncio.run(service.apply(declared(store)))
        service.close()


def work_projections(life: Life) -> None:
    """Run a projection of each store until it has caught up, in small batches; then build both anew, and wait again."""
    follower.BATCH_EVENTS = 31  # type: ignore[misc] # of this process alone
    storage = life.insist(lambda: open_storage(life.data))
    service = life.insist(lambda: ProjectionService(storage))
    life.insist(lambda: service.start(must=True))
    for what in ("live", "rebuilt"):
        for store in STORES:
            if what == "rebuilt" and [store] not in life.noted("rebuilding"):
                life.insist(lambda s=store: asyncio.run(service.rebuild(f"totals_{s}")))
                life.note("rebuilding", store)
        for store in STORES:
            _wait(life, service, f"totals_{store}")
            life.note(what, store)
    service.close()
    storage.close()


def _wait(life: Life, service: ProjectionService, name: str) -> None:
    """Wait until it has caught up. One that has failed at the fault that this life has to meet is told to go on."""
    begun_s = time.monotonic()
    while True:
        told = life.insist(lambda: asyncio.run(service.describe(name)))
        if told["state"] == "LIVE" and not told["lag"]:
            return
        if told["state"] == "FAILED" and life.may_fail:
            life.insist(lambda: asyncio.run(service.resume(name)))
        if time.monotonic() > begun_s + _FAULTY_S:
            life.relieve()  # its threads have met the fault, and try again
        assert time.monotonic() < begun_s + PATIENCE_S, str(told)
        time.sleep(0.005)


def check_projections(life: Life, is_done: bool) -> Any:
    """What a projection has is what the events up to its position make; in the end, all of them."""
    copy = life.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(life.data, copy)
    with closing(open_storage(copy)) as storage, closing(ProjectionService(storage)) as service:
        return [_checked(storage, service, store, is_done) for store in STORES]


def _checked(storage: Storage, service: ProjectionService, store: str, is_done: bool) -> Any:
    name = f"totals_{store}"
    try:
        told = asyncio.run(service.rows(name, limit=1000))
    except ProjectionNotRunningError:
        if is_done:
            raise
        return None  # it was killed before it had any rows
    totals: dict[str, tuple[int, int]] = {}
    for event in sourced()[: told["position"]]:
        customer = event.event_data["customer"]
        if event.event_type == "left":
            totals.pop(customer, None)
        else:
            n, cents = totals.get(customer, (0, 0))
            totals[customer] = n + 1, cents + event.event_data["cents"]
    found = {row["customer"]: (row["n"], row["cents"]) for row in told["rows"]}
    assert found == totals, f"{name} has {found} at {told['position']}, not {totals}"
    assert not is_done or told["position"] == EVENTS
    return sorted(found.items())


SCENARIOS: Final = (
    Scenario("history", prepare_history, work_history, check_history, ("data/history",)),
    Scenario("projections", prepare_projections, work_projections, check_projections, ("data/projections",)),
)
