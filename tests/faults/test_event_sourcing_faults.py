"""Event sourcing under faults: many writers of one aggregate, writers that are killed, and callers that share a transaction."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import aggregate_writers
import pytest
from aggregate_writers import AGGREGATES, CONTESTED, TYPES, made, notes_in

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import AlreadyExistsError, BusError, InvalidInputError
from event_streaming_bus.models import Event, EventConfig, StreamConfig
from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_appends import MOST_TOLD
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.history import History
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.recorded import RecordedEvent
from event_streaming_bus.testing import read_all

WRITERS: Final = int(os.environ.get("ESB_WRITERS", "32"))
WINS: Final = int(os.environ.get("ESB_WINS", "6"))
"""So many appends each writer must win."""
LIVES: Final = int(os.environ.get("ESB_LIVES", "5"))
"""So often the writers that are killed are started."""
KILLED: Final = 4
TIMEOUT_S: Final = 120
KINDS: Final = ("T", "Other")


@contextlib.contextmanager
def writers(how: str, folder: Path, notes: Path, count: int, *more: object) -> Iterator["subprocess.Popen[str]"]:
    """So many writer processes, in a process group of their own, of which nothing is left afterwards."""
    command = [sys.executable, aggregate_writers.__file__, how, str(folder), str(notes), str(count), *map(str, more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def event(payload: dict[str, Any] | None = None, event_id: str | None = None) -> NewEvent:
    return NewEvent(event_type="t", event_data=payload or {}, event_id=event_id)


def one(aggregate_id: str, *events: NewEvent, kind: str = "T", expected: int | str | None = None) -> NewEvents:
    return NewEvents(aggregate_id=aggregate_id, aggregate_type=kind, events=list(events) or [event()], expected_version=expected)


def recorded(bus: Bus, aggregate_id: str) -> list[RecordedEvent]:
    return bus.storage.aggregates.events("default", aggregate_id)


def check_everywhere_the_same(bus: Bus, kinds: tuple[str, ...]) -> dict[str, list[RecordedEvent]]:
    """Each aggregate has its versions without gaps, and exactly its events are on its stream, in order, and in the history."""
    store = bus.storage.aggregates
    aggregates: dict[str, list[RecordedEvent]] = {}
    positions: list[int] = []
    history = History(bus.storage)
    try:
        history.catch_up()
        for kind in kinds:
            of_kind = {info.aggregate_id: recorded(bus, info.aggregate_id) for info in store.list_aggregates("default", kind)}
            on_stream: dict[str | None, list[tuple[str, bytes]]] = defaultdict(list)
            for each in read_all(bus, kind):
                on_stream[each.aggregate_id].append((each.event_id, each.data))
            sql = f'SELECT aggregate_id, event_id, payload FROM events WHERE stream = \'{kind}\' ORDER BY "partition", "offset"'
            in_history: dict[str | None, list[tuple[str, bytes]]] = defaultdict(list)
            for aggregate_id, event_id, payload in history.query(sql, tenant_id="default").rows():
                in_history[aggregate_id].append((event_id, payload.encode()))
            there = {aggregate_id: [(each.event_id, each.data) for each in events] for aggregate_id, events in of_kind.items()}
            assert there == on_stream == in_history
            for aggregate_id, events in of_kind.items():
                assert [each.version for each in events] == list(range(1, len(events) + 1))
                assert store.find("default", aggregate_id).version == len(events)
                found = [each.position for each in events]
                assert found == sorted(found)
                positions += found
            aggregates |= of_kind
    finally:
        history.close()
    assert sorted(positions) == list(range(1, len(positions) + 1))
    page = store.read("default", limit=100_000)
    assert [each.position for each in page.events] == sorted(positions)
    assert page.is_end
    event_ids = [each.event_id for events in aggregates.values() for each in events]
    assert len(event_ids) == len(set(event_ids))
    return aggregates


# --- many writers of one aggregate ----------------------------------------------------------------------------------------


def test_of_many_processes_at_one_aggregate_each_version_has_one_winner_and_losers_are_told_the_truth(
    bus: Bus, notes: Path
) -> None:
    Appender(bus.storage).append([one(CONTESTED, kind="Contest")], "default", None)
    with writers("contend", bus.folder, notes, WRITERS, WINS) as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors
    history = check_everywhere_the_same(bus, ("Contest",))[CONTESTED]
    assert len(history) == 1 + WRITERS * WINS
    won: dict[int, tuple[str, Any]] = {}
    conflicts = 0
    for number in range(WRITERS):
        noted = notes_in(notes / f"{number}")
        assert sum(note[0] == "won" for note in noted) == WINS
        for note in noted:
            if note[0] == "won":
                _, expected, version, event_id, payload = note
                assert (version, version in won) == (expected + 1, False)
                won[version] = event_id, payload
            else:
                conflicts += 1
                _, expected, current, told = note
                assert current > expected
                between = history[expected : min(current, expected + MOST_TOLD)]
                assert told == [[each.version, each.event_id, each.payload] for each in between]
    assert won == {each.version: (each.event_id, each.payload) for each in history[1:]}
    assert conflicts > WRITERS  # else they did not meet


# --- killed writers -------------------------------------------------------------------------------------------------------


def test_writers_killed_again_and_again_lose_nothing_and_leave_nothing_by_halves(bus: Bus, notes: Path) -> None:
    moments = random.Random(len(os.environ.get("ESB_LIVES", "")) or 7)
    for _ in range(LIVES):
        with writers("keep_appending", bus.folder, notes, KILLED) as process:
            time.sleep(moments.uniform(0.1, 0.7))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)
    database = sqlite3.connect(bus.folder / "log.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()

    wanted: dict[str, list[list[Any]]] = {}
    receipts: dict[str, list[list[Any]]] = {}
    repeated = 0
    for number in range(KILLED):
        for note in notes_in(notes / f"{number}"):
            name = f"{number}-{note[1]}"
            if note[0] == "wants":
                wanted[name] = note[2]
            elif note[0] == "done":
                told = [receipt[:-1] for receipt in note[2]]
                repeated += note[2][0][-1]
                assert receipts.setdefault(name, told) == told  # again, and the first receipt
    assert len(receipts) > 10
    assert repeated > 0

    # What was under way when its writer was killed, and had ids, is done again: it is there once, whichever time it was.
    appender, left = Appender(bus.storage), 0
    for name, appends in wanted.items():
        if aggregate_writers.with_ids(appends) and name not in receipts:
            with contextlib.suppress(VersionConflictError):
                told = appender.append(made(appends), "default", None)
                left += told[0].duplicate
                receipts[name] = [aggregate_writers.noted(each)[:-1] for each in told]

    there = check_everywhere_the_same(bus, TYPES)
    assert len(there) <= len(TYPES) * AGGREGATES
    for name, told in receipts.items():
        expected = [(aggregate_id, *each) for _, aggregate_id, _, events in wanted[name] for each in events]
        for (aggregate_id, event_id, payload), (told_id, told_aggregate, version, position, _) in zip(
            expected, told, strict=True
        ):
            kept = there[aggregate_id][version - 1]
            assert (told_aggregate, told_id, position) == (aggregate_id, kept.event_id, kept.position)
            assert event_id in (None, told_id)
            assert kept.payload == payload
    appended = Counter(each.payload["append"] for events in there.values() for each in events)  # type: ignore[index,call-overload]
    assert appended == {name: sum(len(events) for *_, events in wanted[name]) for name in appended}


# --- callers of one transaction -------------------------------------------------------------------------------------------


class Gate:
    """A request that keeps its transaction waiting: what is submitted meanwhile goes into the next one, together."""

    def __init__(self, bus: Bus) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        bus.log.submit([], condition=self)
        assert self._reached.wait(30)

    def admits(self, db: sqlite3.Connection) -> bool:
        self._reached.set()
        assert self._open.wait(30)
        return False

    def appended(self, db: sqlite3.Connection, results: object) -> None:
        raise AssertionError("nothing of it was admitted")

    def open(self) -> None:
        self._open.set()


class Refuses:
    """A condition that raises, in ``admits`` or after the events were given their places."""

    def __init__(self, error: Exception, *, late: bool = False) -> None:
        self._error = error
        self._is_late = late

    def admits(self, db: sqlite3.Connection) -> bool:
        if self._is_late:
            return True
        raise self._error

    def appended(self, db: sqlite3.Connection, results: list[AppendResult]) -> None:
        raise self._error


def submitted_together(bus: Bus, calls: list[list[NewEvents]]) -> "list[Future[Any]]":
    """The calls, each made by a thread of its own, in one transaction."""
    appender = Appender(bus.storage)
    appender.append([one("first"), one("other", kind="Other")], "default", None)  # the streams are made
    gate = Gate(bus)
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = list(pool.map(lambda call: appender.submit(call, "default", None), calls))
    gate.open()
    return futures


def test_conflicts_among_callers_of_one_transaction_leave_the_appends_of_the_others_alone(bus: Bus) -> None:
    good = [[one(f"good-{n}", event({"n": n}), event({"n": -n}), expected="no_stream")] for n in range(12)]
    stale = [[one("first", expected=0), one(f"stale-{n}")] for n in range(10)]
    wrong = [[one(f"wrong-{n}"), one("first", kind="Other")] for n in range(10)]
    futures = submitted_together(bus, [call for calls in zip(stale, wrong, good, strict=False) for call in calls] + good[10:])
    outcomes = Counter(type(future.exception(30)).__name__ for future in futures)
    assert outcomes == {"VersionConflictError": 10, "InvalidInputError": 10, "NoneType": 12}
    batches = bus.log.read(bus.log.find_stream("default", "T").splits()[2], 0)
    assert [batch.count for batch in batches] == [1, 24]  # it was one transaction
    there = check_everywhere_the_same(bus, KINDS)
    assert {name: [each.payload for each in events] for name, events in there.items() if name not in ("first", "other")} == {
        f"good-{n}": [{"n": n}, {"n": -n}] for n in range(12)
    }
    for future in futures:
        if future.exception() is None:
            for receipt in future.result():
                kept = there[receipt.aggregate_id][receipt.version - 1]
                assert (kept.event_id, kept.position) == (receipt.event_id, receipt.position)


def test_of_the_callers_of_one_transaction_that_expect_the_same_version_one_wins_and_the_others_are_told_of_it(bus: Bus) -> None:
    futures = submitted_together(bus, [[one("contested", event({"n": n}), expected=0)] for n in range(32)])
    won = [future.result() for future in futures if future.exception(30) is None]
    assert len(won) == 1
    (kept,) = check_everywhere_the_same(bus, KINDS)["contested"]
    assert (kept.event_id, kept.version) == (won[0][0].event_id, 1)
    for future in futures:
        error = future.exception()
        if error is not None:
            assert isinstance(error, VersionConflictError)
            assert error.details["current_version"] == 1
            assert [each["event_id"] for each in error.details["events"]] == [kept.event_id]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after the events were placed"])
@pytest.mark.parametrize("error", [ValueError("unforeseen"), BusError("refused"), KeyError("x")], ids=repr)
def test_a_request_whose_condition_raises_fails_alone(bus: Bus, error: Exception, late: bool) -> None:
    appender = Appender(bus.storage)
    appender.append([one("first"), one("other", kind="Other")], "default", None)
    stream = bus.log.find_stream("default", "T").stream_id
    gate = Gate(bus)
    futures: list[Future[Any]] = []
    for n in range(16):
        futures.append(appender.submit([one("shared", event({"n": n})), one(f"own-{n}", expected=0)], "default", None))
        if n in (0, 5, 6, 15):
            bad = Append(stream, [Event(f"bad-{n}", "t", 0, b"{}")])
            futures.append(bus.log.submit([bad], condition=Refuses(error, late=late)))
    gate.open()
    assert [future.exception(30) for future in futures if future.exception(30) is not None] == [error] * 4
    there = check_everywhere_the_same(bus, KINDS)
    assert [each.payload for each in there["shared"]] == [{"n": n} for n in range(16)]
    assert sorted(there) == sorted(["first", "other", "shared", *(f"own-{n}" for n in range(16))])


def test_appends_of_the_same_ids_in_one_transaction_are_one_append(bus: Bus) -> None:
    call = [one("a", event({"n": 1}, "x-1"), expected=0), one("b", event({"n": 2}, "x-2"), expected=0)]
    receipts = [future.result(30) for future in submitted_together(bus, [call] * 8)]
    assert sum(not receipt[0].duplicate for receipt in receipts) == 1
    assert (
        len({tuple((r.event_id, r.aggregate_id, r.version, r.position, r.place) for r in receipt) for receipt in receipts}) == 1
    )
    there = check_everywhere_the_same(bus, KINDS)
    assert [each.event_id for each in there["a"] + there["b"]] == ["x-1", "x-2"]


# --- ids that are taken ---------------------------------------------------------------------------------------------------


def check_refused(bus: Bus, future: "Future[Any]") -> None:
    assert isinstance(future.exception(30), AlreadyExistsError)
    assert [each.event_id for each in recorded(bus, "first")] == [each.event_id for each in read_all(bus, "T")]


def test_the_id_of_an_event_that_is_published_in_the_same_transaction_is_taken(bus: Bus) -> None:
    appender = Appender(bus.storage)
    appender.append([one("first")], "default", None)
    bus.create_stream("other")
    gate = Gate(bus)
    published = bus.publishing.submit(EventConfig(event_type="t", event_id="x"), [{}], stream_id="other")
    future = appender.submit([one("first", event(event_id="x"))], "default", None)
    gate.open()
    assert not published.result(30)[0].duplicate
    check_refused(bus, future)


def test_the_id_of_an_event_that_waits_for_its_time_is_taken(bus: Bus) -> None:
    appender = Appender(bus.storage)
    appender.append([one("first")], "default", None)
    bus.create_stream("other")
    later = EventConfig(event_type="t", event_id="x", deliver_at=time.time_ns() // 1_000_000 + 600_000)
    bus.publishing.submit(later, [{}], stream_id="other").result(30)
    check_refused(bus, appender.submit([one("first", event(event_id="x"))], "default", None))


def test_an_id_of_our_making_is_known_in_its_aggregate_after_its_stream_has_dropped_the_event(bus: Bus) -> None:
    appender = Appender(bus.storage)
    bus.log.create_stream(StreamConfig(name="T", retention_ms=1))
    (first,) = appender.append([one("a", event({"n": 1}))], "default", None)
    assert bus.log.enforce_retention(time.time_ns() // 1_000_000 + 60_000) == 1
    (again,) = appender.append([one("a", event({"n": 1}, first.event_id))], "default", None)
    assert (again.duplicate, again.version) == (True, 1)
    assert len(recorded(bus, "a")) == 1


def test_an_append_is_not_taken_for_one_to_another_aggregate_with_the_same_ids(bus: Bus) -> None:
    appender = Appender(bus.storage)
    appender.append([one("a", event({"n": 1}, "x"))], "default", None)
    with pytest.raises((AlreadyExistsError, InvalidInputError)):
        appender.append([one("b", event({"n": 1}, "x"))], "default", None)
    assert recorded(bus, "b") == []


def test_appends_to_one_aggregate_in_one_call_must_be_of_one_type(bus: Bus) -> None:
    appender = Appender(bus.storage)
    for aggregate_id in ("new", "first"):
        with pytest.raises(InvalidInputError, match="aggregate_type"):
            appender.append([one(aggregate_id), one(aggregate_id, kind="Other")], "default", None)
        assert recorded(bus, aggregate_id) == []
