"""What is tried on the stores in the crash matrix: aggregates, consumer groups, the registry, the audit. As in ``crash_log``."""

import asyncio
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from crash_lives import Life
from crash_log import Scenario, opened, placed

from event_streaming_bus.bus import open_bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_lifecycle import archive, restore
from event_streaming_bus.store.aggregate_snapshots import Snapshot
from event_streaming_bus.store.aggregates import AggregateStatus
from event_streaming_bus.store.log.base import Append

APPENDS: Final = 40
EVENTS: Final = 80


# --- aggregates -------------------------------------------------------------------------------------------------------


def prepare_aggregates(folder: Path, seed: int) -> None:
    open_bus(folder / "data").close()


def appends_of(number: int) -> list[NewEvents]:
    """The appends of one call: to one aggregate, or to two at once."""
    found = []
    for aggregate in {number % 4, number * 3 % 4}:
        ids = [f"{number}-{aggregate}-{i}" for i in range(1 + number % 3)]
        events = [NewEvent(event_type="t", event_data={"call": number}, event_id=event_id) for event_id in ids]
        found.append(NewEvents(aggregate_id=f"a{aggregate}", aggregate_type="Account", events=events))
    return found


def work_aggregates(life: Life) -> None:
    """Append to four aggregates; now and then take a snapshot, or archive one and restore it."""
    bus = opened(life)
    store, appender = bus.storage.aggregates, Appender(bus.storage)
    done = {number for number, _ in life.noted("appended")}
    for aggregate_id in (f"a{i}" for i in range(4)):
        if (there := _found(bus, aggregate_id)) is not None and there.status is AggregateStatus.ARCHIVED:
            life.insist(lambda i=aggregate_id: restore(store, "default", i))
    for number in (each for each in range(APPENDS) if each not in done):
        recorded = life.insist(lambda n=number: appender.append(appends_of(n), "default", None))
        life.note("appended", number, [[each.event_id, each.aggregate_id, each.version, each.position] for each in recorded])
        aggregate_id = recorded[0].aggregate_id
        if number % 5 == 1:
            snapshot = Snapshot(
                fold_hash="f",
                version=recorded[-1].version,
                last_timestamp_ms=1,
                max_timestamp_ms=1,
                taken_at_ms=1,
                state=json.dumps(recorded[-1].event_id).encode(),
            )
            life.insist(lambda i=recorded[-1].aggregate_id, s=snapshot: store.put_snapshot("default", i, s))
            life.note("snapshot", recorded[-1].aggregate_id, snapshot.version, recorded[-1].event_id)
        if number % 8 == 3:
            for change in (archive, restore):
                _change(life, bus, change, aggregate_id)
    life.insist(bus.close)


def _found(bus: Any, aggregate_id: str) -> Any:
    try:
        return bus.storage.aggregates.find("default", aggregate_id)
    except BusError:
        return None


def _change(life: Life, bus: Any, change: Any, aggregate_id: str) -> None:
    """Archive or restore it, unless an attempt that failed has done so."""
    wanted = AggregateStatus.ARCHIVED if change is archive else AggregateStatus.ACTIVE

    def do() -> None:
        if _found(bus, aggregate_id).status is not wanted:
            change(bus.storage.aggregates, "default", aggregate_id)

    life.insist(do)


def check_aggregates(life: Life, is_done: bool) -> Any:
    """Each call is there once and whole, where its receipts say, in its aggregate and on its stream alike; versions have no gaps,
    archived or not."""
    with open_bus(life.data) as bus:
        store = bus.storage.aggregates
        there: dict[str, tuple[str, int, int]] = {}
        by_aggregate: dict[str, list[str]] = {}
        for info in store.list_aggregates("default", "Account") if "Account" in store.categories("default") else ():
            events = store.events("default", info.aggregate_id)
            assert [event.version for event in events] == list(range(1, info.version + 1)), f"{info}: versions have gaps"
            by_aggregate[info.aggregate_id] = [event.event_id for event in events]
            there |= {event.event_id: (info.aggregate_id, event.version, event.position) for event in events}
        assert sorted(position for *_, position in there.values()) == list(range(1, len(there) + 1)), "positions have gaps"
        on_stream: dict[str, list[str]] = defaultdict(list)
        if by_aggregate:
            for *_, event in placed(bus.log, bus.log.find_stream("default", "Account")):
                on_stream[str(event.aggregate_id)].append(event.event_id)
        assert on_stream == by_aggregate, "the stream has other events"
        for _, recorded in life.noted("appended"):
            for event_id, *place in recorded:
                assert there.get(event_id) == tuple(place), f"{event_id} is at {there.get(event_id)}, not at {place}"
        for number in range(APPENDS):
            wanted = [event.event_id for append in appends_of(number) for event in append.events]
            assert sum(event_id in there for event_id in wanted) in (0, len(wanted)), f"half of call {number} is there"
        for aggregate_id, version, event_id in life.noted("snapshot"):
            snapshot = store.snapshot("default", aggregate_id, "f")
            assert snapshot is not None
            assert snapshot.version >= version, "a snapshot was lost"
            assert snapshot.version != version or json.loads(snapshot.state) == event_id
    return sorted(there) if is_done else None


# --- consumer groups --------------------------------------------------------------------------------------------------


def prepare_consumer(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    with open_bus(folder / "data") as bus:
        info = bus.log.create_stream(StreamConfig(name="orders", partitions=2))
        for start in range(0, EVENTS, 8):
            events = [Event(f"e{n}", "t", n, b"{}", key=f"k{chance.randrange(9)}") for n in range(start, start + 8)]
            bus.log.append([Append(info.stream_id, events)])
        config = GroupConfig(group_name="g", session_timeout_ms=1000, heartbeat_interval_ms=100, rebalance_timeout_ms=1000)
        (folder / "group").write_text(GroupCoordinator(bus.storage).create("default", config).group_id)


def work_consumer(life: Life) -> None:
    """Read in a group by fives; note what was processed, then commit."""
    bus = opened(life)

    async def consume() -> None:
        async with bus.consumer("g", ["orders"], auto_commit=False, max_poll_events=5) as consumer:
            while True:
                events = await consumer.poll(timeout_s=0.05)
                places = map(consumer.position, events)
                life.note("processed", [[str(s), o, e.event_id] for (s, o), e in zip(places, events, strict=True)])
                offsets = {str(split): offset for split, offset in consumer.offsets().items()}
                await consumer.commit()
                life.note("committed", offsets)
                if len(offsets) == 8 and sum(offsets.values()) == EVENTS and not events:
                    return

    def once() -> None:
        asyncio.run(consume())

    life.insist(once)
    life.insist(bus.close)


def check_consumer(life: Life, is_done: bool) -> Any:
    """The positions of the group are never ahead of what was processed, and never behind what it was told to have committed."""
    with open_bus(life.data) as bus:
        group_id = (life.folder / "group").read_text()
        committed = {str(split): offset for split, offset in bus.log.committed(group_id).items()}
        events = {(str(s), o): e.event_id for s, o, e in placed(bus.log, bus.log.find_stream("default", "orders"))}
    processed = {(split, offset): event_id for (batch,) in life.noted("processed") for split, offset, event_id in batch}
    assert processed.items() <= events.items(), "it was given events that are not there"
    for split, end in committed.items():
        for offset in range(end):
            assert (split, offset) in processed, f"{split} is committed up to {end}, but {offset} was not processed"
    for (offsets,) in life.noted("committed"):
        for split, offset in offsets.items():
            assert committed.get(split, 0) >= offset, f"{split}: {offset} was committed, {committed.get(split)} is there"
    assert not is_done or processed == events, "something was never processed"
    return committed and sum(committed.values()) if is_done else None


# --- the registry -----------------------------------------------------------------------------------------------------


def schema_of(subject: int, number: int) -> dict[str, Any]:
    """The schema of a subject that has the fields of all versions before."""
    properties = {f"f{i}": {"type": "string"} for i in range(number + 1)}
    return {
        "schema_name": f"subject-{subject}",
        "schema_version": f"{number + 1}.0.0",
        "json_schema": {"type": "object", "properties": properties},
        "compatibility_level": "NONE",
    }


def prepare_registry(folder: Path, seed: int) -> None:
    open_bus(folder / "data").close()


def work_registry(life: Life) -> None:
    """Register ten versions of each of three subjects."""
    bus = opened(life)
    done = {(subject, number) for subject, number, *_ in life.noted("registered")}
    for number in range(10):
        for subject in range(3):
            if (subject, number) not in done:
                made = life.insist(lambda s=subject, n=number: bus.schemas.register(schema_of(s, n)))
                life.note("registered", subject, number, made.schema_id, made.version, made.id)
    life.insist(bus.close)


def check_registry(life: Life, is_done: bool) -> Any:
    """Each version is there once, under the numbers that were told; numbers have no gaps, and ids stand for one text each."""
    with open_bus(life.data) as bus:
        records = asyncio.run(bus.schemas.list_schemas())
    by_id = {record.schema_id: record for record in records}
    texts: dict[int, str] = {}
    versions: dict[str, list[int]] = defaultdict(list)
    for record in records:
        versions[record.schema_name].append(record.version)
        assert texts.setdefault(record.id, record.definition) == record.definition, f"the id {record.id} stands for two texts"
    for subject, found in versions.items():
        assert sorted(found) == list(range(1, len(found) + 1)), f"{subject} has the versions {sorted(found)}"
    for subject, number, schema_id, version, text_id in life.noted("registered"):
        record = by_id[schema_id]
        assert (record.schema_name, record.schema_version) == (f"subject-{subject}", f"{number + 1}.0.0")
        assert (record.version, record.id) == (version, text_id)
        assert json.loads(record.definition) == schema_of(subject, number)["json_schema"]
    return sorted((record.schema_name, record.schema_version, record.version) for record in records) if is_done else None


# --- the audit --------------------------------------------------------------------------------------------------------


def prepare_audit(folder: Path, seed: int) -> None:
    open_bus(folder / "data").close()


def work_audit(life: Life) -> None:
    """Write thirty entries, one after the other; the first makes the signing key."""
    bus = opened(life)
    for number in range(len(life.noted("written")), 30):
        entry = life.insist(lambda n=number: bus.audit.record("thing.change", tenant_id="default", actor="me", target=f"{n}"))
        life.note("written", number, entry.seq, entry.hash)
    life.insist(bus.close)


def check_audit(life: Life, is_done: bool) -> Any:
    """The chain is whole and signed, and has what was acknowledged at its place."""
    with open_bus(life.data) as bus:
        report = bus.audit.verify()
        assert report.is_intact, str(report)
        with bus.audit._store.chain() as (_, entries):
            there = {entry.seq: (entry.target, entry.hash) for entry in entries if hasattr(entry, "target")}
    for number, seq, digest in life.noted("written"):
        assert there.get(seq) == (f"{number}", digest), f"entry {seq} is {there.get(seq)}"
    targets = {int(target) for target, _ in there.values()}
    assert targets == set(range(len(targets))), "an entry is missing"
    return sorted(targets) if is_done else None


SCENARIOS: Final = (
    Scenario("aggregates", prepare_aggregates, work_aggregates, check_aggregates),
    Scenario("consumer", prepare_consumer, work_consumer, check_consumer),
    Scenario("registry", prepare_registry, work_registry, check_registry),
    Scenario("audit", prepare_audit, work_audit, check_audit, ("audit.db", "audit.key")),
)
