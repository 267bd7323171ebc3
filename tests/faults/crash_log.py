"""What is tried on the log in the crash matrix: publishing, retention, delayed events, the outbox, migrations.

A scenario's ``prepare`` makes the data folder, ``work`` does what the lives before have not been told to be done, and ``check``
says what must hold after any life, and, once all is done, what came of it.
"""

import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from crash_lives import Life

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.migration import copying
from event_streaming_bus.migration.service import migrate
from event_streaming_bus.models import LANES, Event, EventConfig, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.history_records import Published, from_bytes
from event_streaming_bus.store.log.base import Append, EventLog, Mark, Schedule
from event_streaming_bus.store.log.embedded import EmbeddedLog

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from outboxes import outbox

BATCHES: Final = 45
PUBLISHERS: Final = 3
_QUIET_S: Final = 10.0
_FAULTY_S: Final = 0.3


class Scenario(NamedTuple):
    """See above. ``disks`` are parts of the paths of files on which disk errors are tried. ``goes_on``: a process that meets an
    error does its work all the same when it has passed; else it ends, and the next life does it."""

    name: str
    prepare: Callable[[Path, int], None]
    work: Callable[[Life], Any]
    check: Callable[[Life, bool], Any]
    disks: tuple[str, ...] = ("log.db",)
    goes_on: bool = True


def opened(life: Life) -> Bus:
    """The bus of the case."""
    return life.insist(lambda: open_bus(life.data))


def placed(log: EventLog, info: StreamInfo) -> Iterator[tuple[Split, int, Event]]:
    """``(split, offset, event)`` of a stream; offsets have no gaps. What comes while it is read may be left out, or not."""
    begins, ends = log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
    for split in info.splits():
        offset = begins[split]
        while batches := log.read(split, offset):
            for batch in batches:
                assert batch.offset == offset, f"{split}: {batch.offset} comes after {offset}"
                for event in batch.events():
                    yield split, offset, event
                    offset += 1
        assert offset >= ends[split], f"{split}: it ends at {ends[split]}, and holds events up to {offset}"


# --- publishing -------------------------------------------------------------------------------------------------------


def prepare_publish(folder: Path, seed: int) -> None:
    with open_bus(folder / "data") as bus:
        bus.log.create_stream(StreamConfig(name="orders", partitions=2))


def work_publish(life: Life) -> None:
    """Three threads publish batches of two to four events with ids, and now and then one that was acknowledged before."""
    bus = opened(life)
    done = {number for number, _ in life.noted("published")}
    errors: list[BaseException] = []

    def publish(thread: int) -> None:
        chance = random.Random(f"{life.seed} {thread} {len(done)}")
        try:
            for number in range(thread, BATCHES, PUBLISHERS):
                if number in done and chance.random() > 0.1:
                    continue
                configs = [
                    EventConfig(event_type="order", event_id=f"{number}-{i}", key=f"k{i}", priority=LANES[number % 4])
                    for i in range(2 + number % 3)
                ]
                payloads = [{"batch": number, "pad": "x" * (number % 7 * 50)} for _ in configs]
                receipts = life.insist(lambda c=configs, p=payloads: bus.publishing.submit(c, p, stream_id="orders").result())
                assert number not in done or all(receipt.duplicate for receipt in receipts)
                life.note("published", number, [[r.event_id, str(r.position.split), r.position.offset] for r in receipts])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    life.insist(bus.close)


def check_publish(life: Life, is_done: bool) -> Any:
    """What was acknowledged is there once, where its receipt says; batches are whole; the history tells of each event once."""
    with open_bus(life.data) as bus:
        there: dict[str, tuple[str, int]] = {}
        for split, offset, event in placed(bus.log, bus.log.find_stream("default", "orders")):
            assert event.event_id not in there, f"{event.event_id} is there twice"
            there[event.event_id] = str(split), offset
        for _, receipts in life.noted("published"):
            for event_id, split, offset in receipts:
                assert there.get(event_id) == (split, offset), f"{event_id}: {there.get(event_id)}, not {split} {offset}"
        sizes = Counter(int(event_id.partition("-")[0]) for event_id in there)
        assert all(size == 2 + number % 3 for number, size in sizes.items()), "half a batch is there"
        told: Counter[tuple[str, int]] = Counter()
        for *_, event in placed(bus.log, bus.storage.history()):
            record = from_bytes(event.data)
            if isinstance(record, Published):
                for run in record.runs:
                    told.update((f"{run.stream_id}/{run.partition}/{run.lane.lower()}", run.offset + i) for i in range(run.count))
        assert told == Counter(there.values()), "the history tells of other events"
    assert not is_done or sizes.keys() == set(range(BATCHES))
    return sorted(there) if is_done else None


# --- retention and streams that are dropped ---------------------------------------------------------------------------


def prepare_retention(folder: Path, seed: int) -> None:
    with open_bus(folder / "data") as bus:
        bus.log.create_stream(StreamConfig(name="short", partitions=2, retention_bytes=1500))


def work_retention(life: Life) -> None:
    """Append, enforce the retention, make a stream, fill it, drop it, and so on."""
    bus = opened(life)
    log, info = bus.log, bus.log.find_stream("default", "short")
    assert isinstance(log, EmbeddedLog)
    for number in range(len(life.noted("appended")), 24):
        events = [Event(f"{number}-{i}", "t", number, b"x" * 150, key=f"k{i}") for i in range(4)]
        life.insist(lambda e=events: log.append([Append(info.stream_id, e)]))
        life.note("appended", number)
        if number % 3 == 2:
            life.insist(log.enforce_retention)
        if number % 4 == 3:
            made = life.insist(lambda n=number: log.create_stream(StreamConfig(name=f"passing-{n % 8}", partitions=3)))
            life.note("made", made.stream_id)
            life.insist(lambda m=made, n=number: log.append([Append(m.stream_id, [Event(f"p-{n}", "t", 0, b"y", key="k")])]))
            life.insist(lambda m=made: log.drop_stream(m.stream_id))
            life.note("dropped", made.stream_id)
    life.insist(bus.close)


def check_retention(life: Life, is_done: bool) -> Any:
    """No event was dropped but the oldest; nothing is left of what was; what is left is found by its id, what is not is not."""
    with open_bus(life.data) as bus:
        info = bus.log.find_stream("default", "short")
        there = {event.event_id: (split, offset) for split, offset, event in placed(bus.log, info)}
        ends = bus.log.end_offsets(info.stream_id)
        acknowledged = 4 * len({number for (number,) in life.noted("appended")})
        assert acknowledged <= sum(ends.values()) <= acknowledged + 4, "events are lost, or are there twice"
        if acknowledged:
            assert there
        for number in range(24):
            for event_id in (f"{number}-{i}" for i in range(4)):
                receipt = bus.log.locate("default", event_id)
                found = None if receipt is None else (receipt.position.split, receipt.position.offset)
                assert found == there.get(event_id), f"{event_id} is told to be at {found}"
        streams = {each.stream_id for each in bus.log.list_streams("default")}
        assert not streams & {stream_id for (stream_id,) in life.noted("dropped")}, "a dropped stream is back"
    with closing(sqlite3.connect(life.data / "log.db")) as db:
        for table, column, of in (("batches", "split_no", "splits"), ("splits", "stream_no", "streams")):
            (orphans,) = db.execute(f"SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT {column} FROM {of})").fetchone()
            assert not orphans, f"{orphans} rows of {table} belong to nothing"
        (orphans,) = db.execute("SELECT count(*) FROM event_ids WHERE batch_no NOT IN (SELECT batch_no FROM batches)").fetchone()
        assert not orphans, f"{orphans} ids belong to nothing"
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- delayed events ---------------------------------------------------------------------------------------------------


def delayed(number: int, now_ms: int) -> list[Event]:
    """A batch of which one event is due at once, one soon, and one a little later."""
    waits = (None, now_ms + 5 + number * 7 % 60, now_ms + 20)
    return [Event(f"{number}-{i}", "t", number, b"z" * 100, key="k", deliver_at_ms=due) for i, due in enumerate(waits)]


def work_delayed(life: Life, log: EventLog, stream: str = "later") -> None:
    """Append batches of delayed events, and wait until nothing waits any more."""
    info, done = log.find_stream("default", stream), {number for (number,) in life.noted("kept")}
    for number in (each for each in range(20) if each not in done):
        events = delayed(number, time.time_ns() // 1_000_000)
        life.insist(lambda e=events: log.append([Append(info.stream_id, e, schedule=Schedule())]))
        life.note("kept", number)
        life.insist(log.version)
        time.sleep(0.002)
    begun_s = time.monotonic()
    while life.insist(lambda: log.scheduled("default")).events or len(list(placed(log, info))) < 60:
        assert time.monotonic() < begun_s + _QUIET_S, "what is due is not delivered"
        if time.monotonic() > begun_s + _FAULTY_S:
            life.relieve()  # a relay has met the fault, and tries again
        life.insist(log.version)
        time.sleep(0.005)
    life.insist(log.close)


def check_delayed(life: Life, log: EventLog, is_done: bool) -> Any:
    """Each event that was acknowledged waits, or is in its stream; once, and not before its time."""
    info, begun_s = log.find_stream("default", "later"), time.monotonic()
    wanted = {f"{number}-{i}" for (number,) in life.noted("kept") for i in range(3)}
    while True:
        waiting = {each.event.event_id for each in log.scheduled("default", limit=1000).events}
        there = [event.event_id for *_, event in placed(log, info)]
        assert len(there) == len(set(there)), "an event was delivered twice"
        known = waiting | set(there)
        sizes = Counter(int(event_id.partition("-")[0]) for event_id in known)
        if wanted <= known and set(sizes.values()) <= {3}:
            break
        # What the relay of an outbox has taken, and not yet brought, can be seen in neither.
        assert time.monotonic() < begun_s + _QUIET_S, f"{sorted(wanted - known)} are lost, or there are parts of {sizes}"
        time.sleep(0.01)
    for split in info.splits():
        for batch in log.read(split, 0):
            assert all((event.deliver_at_ms or 0) <= batch.appended_at_ms for event in batch.events()), "it came early"
    log.close()
    assert not is_done or len(there) == 60
    return sorted(there) if is_done else None


def prepare_scheduled(folder: Path, seed: int) -> None:
    with open_bus(folder / "data") as bus:
        bus.log.create_stream(StreamConfig(name="later"))


def work_scheduled(life: Life) -> None:
    work_delayed(life, life.insist(lambda: EmbeddedLog(life.data)))


def check_scheduled(life: Life, is_done: bool) -> Any:
    return check_delayed(life, EmbeddedLog(life.data), is_done)


def prepare_outbox(folder: Path, seed: int) -> None:
    with closing(outbox(folder / "data", folder / "data" / "box.db")) as log:
        log.create_stream(StreamConfig(name="later"))


def work_outbox(life: Life) -> None:
    work_delayed(life, life.insist(lambda: outbox(life.data, life.data / "box.db")))


def check_outbox(life: Life, is_done: bool) -> Any:
    return check_delayed(life, outbox(life.data, life.data / "box.db"), is_done)


# --- migration --------------------------------------------------------------------------------------------------------


def prepare_migration(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    with open_bus(folder / "data") as bus:
        info = bus.log.create_stream(StreamConfig(name="orders", partitions=2))
        for start in range(0, 240, 20):
            events = [
                Event(f"e{n}", "t", n, b'{"n":%d}' % n, key=f"k{chance.randrange(5)}", priority=LANES[n % 4])
                for n in range(start, start + 20)
            ]
            bus.log.append([Append(info.stream_id, events)])
        ends = bus.log.end_offsets(info.stream_id)
        bus.log.commit("readers", {split: end // 2 for split, end in ends.items()})
        bus.log.append([], marks=[Mark("someone", "k", None, b"1")])


def work_migration(life: Life) -> None:
    """Carry everything to another folder, in small pieces."""
    copying.MAX_CHUNK_EVENTS = 25  # type: ignore[misc] # of this process alone
    report = life.insist(lambda: migrate(str(life.data), str(life.folder / "new")))
    assert report.agrees
    life.note("migrated", report.left)


def check_migration(life: Life, is_done: bool) -> Any:
    """Every event is at the target at most once, and in its order; in the end all are, and the group goes on where it was."""
    if not (life.folder / "new" / "log.db").exists():
        assert not is_done
        return None
    with open_bus(life.data) as old, open_bus(life.folder / "new") as new:
        source = old.log.find_stream("default", "orders")
        before = {event.event_id: event for *_, event in placed(old.log, source)}
        names = {info.name for info in new.log.list_streams("default")}
        after: list[Event] = []
        if "orders" in names:
            after = [event for *_, event in placed(new.log, new.log.find_stream("default", "orders"))]
        assert len(after) == len({event.event_id for event in after}), "an event was carried twice"
        assert all(before[event.event_id] == event for event in after), "an event has changed on its way"
        for lane in LANES:
            of_lane = [event for event in after if event.priority is lane]
            for key in {event.key for event in of_lane}:
                numbers = [int(event.event_id[1:]) for event in of_lane if event.key == key]
                assert numbers == sorted(numbers), f"the order of {key} has changed"
        if is_done:
            assert len(after) == len(before)
            there = new.log.committed("readers")
            assert {str(s): o for s, o in there.items()} == {str(s): o for s, o in old.log.committed("readers").items()}
    return sorted(event.event_id for event in after) if is_done else None


SCENARIOS: Final = (
    Scenario("publish", prepare_publish, work_publish, check_publish),
    Scenario("retention", prepare_retention, work_retention, check_retention),
    Scenario("scheduled", prepare_scheduled, work_scheduled, check_scheduled),
    Scenario("outbox", prepare_outbox, work_outbox, check_outbox, ("log.db", "box.db")),
    Scenario("migration", prepare_migration, work_migration, check_migration, ("new/log.db",)),
)
