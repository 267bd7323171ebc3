"""The outbox: what is kept with a condition's own rows, and how it comes into its streams."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from outboxes import outbox

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, InvalidStateError, StreamChangedError, StreamNotFoundError
from event_streaming_bus.models import SCHEDULED_OFFSET, Event, Receipt, StreamConfig, StreamInfo
from event_streaming_bus.store.database import Connection, Database, Place, open_database
from event_streaming_bus.store.log.base import Append, AppendResult, Mark, Released, Schedule
from event_streaming_bus.store.log.outbox import OutboxLog
from event_streaming_bus.store.log.outbox_rows import SQL
from event_streaming_bus.store.log.outbox_turn import turn

HOUR_MS = 3_600_000


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables" / "log.db"


@pytest.fixture
def database(place: Place, log: OutboxLog) -> Iterator[Database]:
    """The tables, seen from beside."""
    database = open_database(place, tables="", name="aggregates", synchronous="NORMAL")
    yield database
    database.close()


@pytest.fixture
def open_log(tmp_path: Path, place: Place) -> Iterator[Callable[[], OutboxLog]]:
    opened: list[OutboxLog] = []

    def open_() -> OutboxLog:
        opened.append(outbox(tmp_path / "log", place))
        return opened[-1]

    yield open_
    for log in opened:
        log.close()


@pytest.fixture
def log(open_log: Callable[[], OutboxLog]) -> OutboxLog:
    return open_log()


def stream(log: OutboxLog, name: str = "s", **config: Any) -> StreamInfo:
    return log.create_stream(StreamConfig(name=name, **config))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def event(event_id: str, key: str | None = None, **fields: Any) -> Event:
    return Event(event_id, "t", 0, b"{}", key=key, **fields)


class Noted:
    """A condition that keeps nothing, and does what it is told."""

    def __init__(self, *, admits: bool = True, refuses: bool = False) -> None:
        self._admits = admits
        self._refuses = refuses
        self.results: list[Sequence[AppendResult]] = []

    def admits(self, db: Connection) -> bool:
        return self._admits

    def appended(self, db: Connection, results: Sequence[AppendResult]) -> None:
        if self._refuses:
            raise AlreadyExistsError
        self.results.append(results)


def put(log: OutboxLog, info: StreamInfo, *event_ids: str, key: str | None = None, **fields: Any) -> list[Receipt]:
    """Append by the outbox."""
    (result,) = log.append([Append(info.stream_id, [event(each, key) for each in event_ids], **fields)], condition=Noted())
    return result.receipts()


def read_ids(log: OutboxLog, info: StreamInfo) -> list[str]:
    found = []
    for split in info.splits():
        offset = 0
        while batches := log.read(split, offset):
            found += [each.event_id for batch in batches for each in batch.events()]
            offset = batches[-1].end_offset
    return found


def await_ids(log: OutboxLog, info: StreamInfo, count: int, timeout_s: float = 10) -> list[str]:
    """The ids of the stream's events, once there are so many."""
    until = time.monotonic() + timeout_s
    while len(found := read_ids(log, info)) < count and time.monotonic() < until:
        time.sleep(0.01)
    return found


def await_empty(database: Database, timeout_s: float = 10) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with database.querying("looking into the outbox") as db:
            if db.execute(SQL["select_any"]).fetchone() is None:
                return
        time.sleep(0.01)
    raise AssertionError("the outbox is not empty")


def rows_of(database: Database) -> list[tuple[Any, ...]]:
    """All rows as they are inserted."""
    columns = "due_ms, deliver_at_ms, tenant_id, event_id, stream_id, lane, partition, timestamp_ms, kept_at_ms, "
    with database.querying("looking into the outbox") as db:
        text = f"SELECT {columns} notes_stream_id, notes, checksum, body FROM outbox ORDER BY outbox_no"
        return [tuple(row) for row in db.execute(text)]


# --- conditions -------------------------------------------------------------------------------------------------------


def test_an_append_with_a_condition_is_in_its_stream_a_little_later(log: OutboxLog, database: Database) -> None:
    info, condition = stream(log, partitions=3), Noted()
    (result,) = log.append([Append(info.stream_id, [event("a", "k"), event("b", "k")])], condition=condition)
    first = result.receipts()[0]
    assert (first.position.offset, first.deliver_at_ms, first.duplicate) == (SCHEDULED_OFFSET, None, False)
    assert (result.written, result.scheduled, result.duplicates) == ([], 2, 0)
    assert condition.results == [[result]]
    assert await_ids(log, info, 2) == ["a", "b"]
    await_empty(database)
    place = log.locate("default", "a")
    assert place is not None
    assert place.position.split == first.position.split


def test_what_a_condition_refuses_is_nowhere_and_others_go_on(log: OutboxLog, database: Database) -> None:
    info = stream(log)
    tries = {"refused": Noted(refuses=True), "not admitted": Noted(admits=False), "good": Noted()}
    futures = {
        name: log.submit([Append(info.stream_id, [event(f"{name}-{i}")])], condition=condition)
        for name, condition in tries.items()
        for i in range(3)
    }
    with pytest.raises(AlreadyExistsError):
        futures["refused"].result()
    assert futures["not admitted"].result() == []
    assert futures["good"].result()[0].scheduled == 1
    assert await_ids(log, info, 3) == ["good-0", "good-1", "good-2"]
    await_empty(database)


def test_what_was_checked_with_other_settings_is_refused(log: OutboxLog) -> None:
    info = stream(log)
    changed = log.set_stream_schema(info.stream_id, "sch_1")
    with pytest.raises(StreamChangedError):
        put(log, info, "a", checked=info.config)
    put(log, info, "b", checked=changed.config)
    log.drop_stream(info.stream_id)
    with pytest.raises(StreamNotFoundError):
        put(log, info, "c")
    assert await_ids(log, stream(log), 0) == []


def test_marks_cannot_wait(log: OutboxLog) -> None:
    info = stream(log)
    with pytest.raises(InvalidStateError, match="marks"):
        log.append([Append(info.stream_id, [event("a")])], marks=[Mark("me", "k", None, b"1")], condition=Noted())


# --- order ------------------------------------------------------------------------------------------------------------


def test_events_of_a_key_keep_the_order_of_their_appends_whoever_makes_them(
    log: OutboxLog, open_log: Callable[[], OutboxLog], database: Database
) -> None:
    info, others = stream(log, partitions=4), [log, open_log()]
    written: list[str] = []
    lock = threading.Lock()

    def write(number: int) -> None:
        for n in range(15):
            with lock:  # so that the order of the appends is known
                put(others[number % 2], info, f"{number}-{n}", key="k")
                written.append(f"{number}-{n}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert await_ids(log, info, 60) == written
    await_empty(database)


def test_who_comes_next_brings_what_is_left_when_the_one_that_did_it_is_gone(
    log: OutboxLog, open_log: Callable[[], OutboxLog]
) -> None:
    info, second = stream(log), open_log()
    put(second, info, "a")
    assert await_ids(second, info, 1) == ["a"]
    log.close()
    put(second, info, "b")
    assert await_ids(second, info, 2) == ["a", "b"]


# --- once -------------------------------------------------------------------------------------------------------------


def test_what_was_appended_but_not_deleted_when_the_process_died_comes_and_is_told_of_once(
    open_log: Callable[[], OutboxLog], place: Place
) -> None:
    with turn(place) as holds:  # so that no relay is at it
        assert holds is not None
        log = open_log()
        database = open_database(place, tables="", name="aggregates", synchronous="NORMAL")
        info, notes = stream(log), stream(log, "_notes")
        events = [event("a"), event("b", deliver_at_ms=now_ms() + HOUR_MS)]
        log.append([Append(info.stream_id, events, schedule=Schedule(notes.stream_id, [[b"1"], [b"2"]]))])
        rows = rows_of(database)
    assert await_ids(log, info, 1) == ["a"]
    assert log.cancel_scheduled("default", "b")
    await_empty(database)
    log.close()
    with database.transaction("putting rows back") as db:
        db.executemany(SQL["insert_row"], [(1, *row[1:]) if row[3] == "b" else row for row in rows])
    again = open_log()  # brings what is due before it is open
    assert read_ids(again, info) == ["a", "b"]
    told = [msgspec.msgpack.decode(e.data, type=Released) for b in again.read(notes.splits()[2], 0) for e in b.events()]
    assert [(each.note, each.offset) for each in told] == [(b"1", 0), (b"2", 1)]
    await_empty(database)
    database.close()


def test_an_id_is_one_over_the_outbox_and_the_log(log: OutboxLog) -> None:
    info, other = stream(log), stream(log, "other")
    (mine,) = ids.new_ids(ids.EVENT, 1)
    log.append([Append(info.stream_id, [event("plain"), event(mine)])])
    assert [each.duplicate for each in put(log, other, "plain", mine, "new", "new")] == [True, True, False, True]
    assert [each.duplicate for each in put(log, other, "new")] == [True]
    (result,) = log.append([Append(other.stream_id, [event("new"), event("last")])])
    assert [each.duplicate for each in result.receipts()] == [True, False]
    assert sorted(await_ids(log, other, 2)) == ["last", "new"]
    assert read_ids(log, info) == ["plain", mine]


def test_of_many_who_bring_one_id_by_the_outbox_one_is_new(log: OutboxLog, open_log: Callable[[], OutboxLog]) -> None:
    info, logs = stream(log), [log, open_log()]
    receipts: list[Receipt] = []
    threads = [threading.Thread(target=lambda i=i: receipts.extend(put(logs[i % 2], info, "x"))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.duplicate for each in receipts) == [False] + [True] * 7
    assert await_ids(log, info, 1) == ["x"]


# --- delayed events ---------------------------------------------------------------------------------------------------


def test_a_row_that_is_damaged_holds_up_no_other_and_can_be_cancelled(log: OutboxLog, database: Database) -> None:
    info = stream(log)
    due_ms = now_ms() + 300
    log.append([Append(info.stream_id, [event(x, deliver_at_ms=due_ms) for x in "abc"], schedule=Schedule())])
    with database.transaction("damaging a row") as db:
        db.execute("UPDATE outbox SET checksum = checksum + 1 WHERE event_id = 'b'")
    assert [each.event.event_id for each in log.scheduled("default").events] == ["a", "c"]
    assert await_ids(log, info, 2) == ["a", "c"]
    time.sleep(0.1)
    assert [row[3] for row in rows_of(database)] == ["b"]
    assert rows_of(database)[0][0] >= due_ms + HOUR_MS
    assert log.cancel_scheduled("default", "b")


def test_what_waits_for_a_stream_that_was_dropped_past_the_outbox_goes(log: OutboxLog, database: Database) -> None:
    info = stream(log)
    log.append([Append(info.stream_id, [event("a", deliver_at_ms=now_ms() + 200)], schedule=Schedule())])
    log.inner.drop_stream(info.stream_id)
    await_empty(database)
    assert read_ids(log, stream(log)) == []


def test_nobody_is_told_where_the_stream_of_the_notes_is_gone(log: OutboxLog, database: Database) -> None:
    info, notes = stream(log), stream(log, "_notes")
    schedule = Schedule(notes.stream_id, [[b"1"]])
    log.append([Append(info.stream_id, [event("a", deliver_at_ms=now_ms() + 200)], schedule=schedule)])
    log.drop_stream(notes.stream_id)
    assert await_ids(log, info, 1) == ["a"]
    await_empty(database)


def test_notes_of_several_streams_are_told_on_each(log: OutboxLog) -> None:
    info, one, two = stream(log), stream(log, "_one"), stream(log, "_two")
    appends = [
        Append(info.stream_id, [event(f"{i}", "k")], schedule=Schedule((one, two)[i % 2].stream_id, [[b"%d" % i]]))
        for i in range(4)
    ]
    log.append([appends[0], appends[1]], condition=Noted())
    log.append([appends[2], appends[3]], condition=Noted())
    assert await_ids(log, info, 4) == ["0", "1", "2", "3"]
    for notes, expected in ((one, [b"0", b"2"]), (two, [b"1", b"3"])):
        await_ids(log, notes, 2)
        told = [msgspec.msgpack.decode(e.data, type=Released) for b in log.read(notes.splits()[2], 0) for e in b.events()]
        assert [each.note for each in told] == expected
