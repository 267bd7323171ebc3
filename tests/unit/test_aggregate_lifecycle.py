"""How aggregates and their events come to their end: archives, deletion, retention."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus import Aggregate, AppliedEvent, EventSourcingService, Folds, applies
from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, CorruptLogError, InvalidInputError, InvalidStateError
from event_streaming_bus.sourcing.model import NewEvent
from event_streaming_bus.sourcing.rebuilding import SnapshotPolicy
from event_streaming_bus.store import aggregate_lifecycle
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError, VersionConflictError
from event_streaming_bus.store.aggregate_lifecycle import HistoryGoneError
from event_streaming_bus.store.aggregates import AggregateStatus
from event_streaming_bus.testing import read_all, temporary_bus

NEVER = SnapshotPolicy(every_events=None, replay_exceeds_ms=None)


class Account(Aggregate):
    balance: int = 0

    @applies("deposited")
    def deposited(self, event: AppliedEvent) -> None:
        self.balance += event.payload["amount"]


class Changed(Account):
    aggregate_type = "Account"
    fold_version = 2


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    monkeypatch.setenv("ESB_SYNCHRONOUS", "NORMAL")  # nothing here is about power cuts
    with temporary_bus() as opened:
        yield opened


def service_of(bus: Bus, fold: type[Aggregate] = Account) -> EventSourcingService:
    service = EventSourcingService(bus.storage, snapshots=NEVER)
    service.folds.register(fold)
    return service


@pytest.fixture
def service(bus: Bus) -> EventSourcingService:
    return service_of(bus)


async def deposit(service: EventSourcingService, aggregate_id: str, *amounts: int, **more: Any) -> list[int]:
    events = [NewEvent(event_type="deposited", event_data={"amount": n}, event_id=f"evt_{aggregate_id}_{n}") for n in amounts]
    done = await service.append_events(aggregate_id, "Account", events, **more)
    return [each.position for each in done]


async def versions(service: EventSourcingService, aggregate_id: str) -> list[int]:
    return [event.version for event in await service.events(aggregate_id)]


async def read_ids(service: EventSourcingService) -> list[str]:
    return [event.event_id for event in (await service.read()).events]


async def status(service: EventSourcingService, aggregate_id: str) -> AggregateStatus:
    found = await service.list_aggregates("Account")
    return next(info.status for info in found if info.aggregate_id == aggregate_id)


# --- archives ---------------------------------------------------------------------------------------------------------


async def test_an_archived_aggregate_is_read_by_its_id_only(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2, 4)
    await deposit(service, "b", 8)
    before = await service.events("a")
    done = await service.lifecycle.archive("a")
    assert (done.action, done.status, done.version, done.events) == ("archived", "ARCHIVED", 3, 3)
    assert done.archive_bytes > 0
    assert await service.events("a") == before
    assert await service.events("a", after_version=1, until_version=2) == before[1:2]
    assert (await service.rebuild("a")).state == {"balance": 7}
    assert (await service.rebuild("a", as_of_version=2)).state == {"balance": 3}
    assert await read_ids(service) == ["evt_b_8"]
    info = await service.get_aggregate("a")
    assert (info.status, info.version, info.gone_version) == (AggregateStatus.ARCHIVED, 3, 0)


async def test_an_archived_aggregate_takes_no_events_until_it_is_restored(service: EventSourcingService) -> None:
    positions = await deposit(service, "a", 1, 2)
    await deposit(service, "b", 3)
    await service.lifecycle.archive("a")
    with pytest.raises(InvalidStateError, match="Restore it first"):
        await deposit(service, "a", 4)
    assert await deposit(service, "a", 1, 2) == positions  # the same again is no new event
    with pytest.raises(InvalidStateError, match="archived already"):
        await service.lifecycle.archive("a")
    done = await service.lifecycle.restore("a")
    assert (done.action, done.status, done.events) == ("restored", "ACTIVE", 2)
    assert await read_ids(service) == ["evt_a_1", "evt_a_2", "evt_b_3"]
    await deposit(service, "a", 4, expected_version=2)
    with pytest.raises(InvalidStateError, match="is ACTIVE, not archived"):
        await service.lifecycle.restore("a")


async def test_snapshots_outlast_an_archive(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    await service.rebuild("a", update_snapshots=True)
    await service.lifecycle.archive("a")
    assert (await service.rebuild("a")).snapshot_version == 2
    [check] = await service.verify_snapshots("a")
    assert check.is_equal
    await service.lifecycle.restore("a")
    assert (await service.rebuild("a")).snapshot_version == 2


async def test_an_event_of_an_archive_is_found_by_its_id(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", 1, 2)
    own = await service.append_event("a", "Account", {"amount": 4}, "deposited")
    await service.lifecycle.archive("a")
    for event_id, amount in (("evt_a_2", 2), (own, 4)):
        found = bus.storage.aggregates.find_event("default", event_id)
        assert found is not None
        assert found.payload == {"amount": amount}


@pytest.mark.parametrize("change", ["data = substr(data, 2)", "checksum = checksum + 1", "events = 3"])
async def test_a_damaged_archive_is_told_and_can_be_deleted(service: EventSourcingService, bus: Bus, change: str) -> None:
    await deposit(service, "a", 1, 2)
    await service.lifecycle.archive("a")
    with sqlite3.connect(bus.folder / "log.db") as db:
        db.execute(f"UPDATE aggregate_archives SET {change}")
    db.close()
    for asked in (service.events("a"), service.rebuild("a"), service.lifecycle.restore("a")):
        with pytest.raises(CorruptLogError, match="archive of the aggregate 'a'"):
            await asked
    assert await status(service, "a") is AggregateStatus.ARCHIVED
    await service.lifecycle.delete("a")


async def test_an_aggregate_that_is_too_large_is_not_archived(
    service: EventSourcingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate_lifecycle, "MAX_ARCHIVE_BYTES", 100)
    await deposit(service, "a", 1, 2)
    with pytest.raises(InvalidStateError, match="at most 100 can be archived"):
        await service.lifecycle.archive("a")
    assert await versions(service, "a") == [1, 2]


# --- deletion ---------------------------------------------------------------------------------------------------------


async def test_a_deleted_aggregate_is_as_if_it_had_never_been_but_for_its_versions(
    service: EventSourcingService, bus: Bus
) -> None:
    await deposit(service, "a", 1, 2)
    await service.rebuild("a", update_snapshots=True)
    done = await service.lifecycle.delete("a")
    assert (done.action, done.status, done.version, done.events) == ("deleted", "EMPTY", 2, 2)
    for asked in (service.events("a"), service.rebuild("a"), service.get_aggregate("a"), service.lifecycle.delete("a")):
        with pytest.raises(AggregateNotFoundError, match="was deleted"):
            await asked
    assert await read_ids(service) == []
    assert bus.storage.aggregates.snapshots("default", "a") == []
    assert await service.load(Account, "a") == (Account(), 2)
    assert await status(service, "a") is AggregateStatus.EMPTY
    assert len(read_all(bus, "Account")) == 2  # what is on the stream stays, as its retention says


async def test_a_deleted_aggregate_goes_on_after_its_last_version(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    await service.lifecycle.delete("a")
    with pytest.raises(VersionConflictError) as caught:
        await deposit(service, "a", 4, expected_version=1)
    assert caught.value.details["current_version"] == 2
    await deposit(service, "a", 4, expected_version=2)
    rebuilt = await service.rebuild("a", update_snapshots=True)
    assert (rebuilt.version, rebuilt.state, await versions(service, "a")) == (3, {"balance": 4}, [3])
    assert [check.is_equal for check in await service.verify_snapshots("a")] == [True]
    assert (await service.rebuild("a", as_of_version=2)).state == {"balance": 0}
    with pytest.raises(HistoryGoneError, match="it was deleted and begins anew at version 3"):
        await service.rebuild("a", as_of_version=1)


async def test_no_stream_is_what_a_deleted_aggregate_is(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    await service.lifecycle.delete("a")
    with pytest.raises(VersionConflictError):
        await deposit(service, "a", 4, expected_version="stream_exists")
    await deposit(service, "a", 4, expected_version="no_stream")
    with pytest.raises(VersionConflictError):
        await deposit(service, "a", 5, expected_version="no_stream")
    await deposit(service, "a", 5, expected_version="stream_exists")
    assert await versions(service, "a") == [3, 4]


async def test_ids_of_deleted_events_are_kept_no_longer(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", 1)
    await service.lifecycle.delete("a")
    with pytest.raises(AlreadyExistsError):  # as long as the stream has the event
        await deposit(service, "a", 1)
    bus.log.drop_stream(bus.log.find_stream("default", "Account").stream_id)
    await deposit(service, "a", 1)
    assert await versions(service, "a") == [2]


async def test_a_tombstone_is_for_ever(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    done = await service.lifecycle.delete("a", hard=True)
    assert (done.action, done.status, done.version) == ("closed for ever", "DELETED", 2)
    for expected in (None, 2, 0, "no_stream"):
        with pytest.raises(InvalidStateError, match="is DELETED and takes no events"):
            await deposit(service, "a", 4, expected_version=expected)
    for action in (service.lifecycle.delete, service.lifecycle.archive, service.lifecycle.restore, service.rebuild):
        with pytest.raises(AggregateNotFoundError):
            await action("a")  # type: ignore[operator]
    with pytest.raises(AggregateNotFoundError):
        await service.load(Account, "a")
    assert await status(service, "a") is AggregateStatus.DELETED


async def test_what_was_deleted_or_archived_can_get_a_tombstone(service: EventSourcingService) -> None:
    for name in ("a", "b"):
        await deposit(service, name, 1)
    await service.lifecycle.delete("a")
    await service.lifecycle.archive("b")
    for name, events in (("a", 0), ("b", 1)):
        done = await service.lifecycle.delete(name, hard=True)
        assert (done.status, done.events) == ("DELETED", events)
    deleted = await service.list_aggregates("Account", status=AggregateStatus.DELETED)
    assert [info.aggregate_id for info in deleted] == ["a", "b"]


async def test_a_deletion_can_expect_a_version(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    with pytest.raises(VersionConflictError, match=r"is at version 2, not at 1\. Nothing was deleted") as caught:
        await service.lifecycle.delete("a", expected_version=1)
    assert [event["version"] for event in caught.value.details["events"]] == [2]
    with pytest.raises(InvalidInputError):
        await service.lifecycle.delete("a", expected_version=-1)
    assert await versions(service, "a") == [1, 2]
    await service.lifecycle.delete("a", expected_version=2)


async def test_aggregates_are_listed_by_status(service: EventSourcingService) -> None:
    for name in ("active", "again", "archived", "empty", "deleted"):
        await deposit(service, name, 1)
    await service.lifecycle.archive("archived")
    await service.lifecycle.delete("empty")
    await service.lifecycle.delete("again")
    await deposit(service, "again", 2)
    await service.lifecycle.delete("deleted", hard=True)
    told = {info.aggregate_id: info.status.value for info in await service.list_aggregates("Account")}
    assert told == {"active": "ACTIVE", "again": "ACTIVE", "archived": "ARCHIVED", "empty": "EMPTY", "deleted": "DELETED"}
    for wanted in AggregateStatus:
        found = await service.list_aggregates("Account", status=wanted)
        assert {info.aggregate_id for info in found} == {name for name, had in told.items() if had == wanted}


@pytest.mark.parametrize("action", ["archive", "delete", "scavenge"])
async def test_positions_are_never_given_again(service: EventSourcingService, action: str) -> None:
    positions = await deposit(service, "a", 1, 2, 3)
    if action == "scavenge":
        await service.lifecycle.set_retention("Account", max_age_ms=1)
        await asyncio.sleep(0.01)
        assert (await service.lifecycle.scavenge()).events == 3
    else:
        await getattr(service.lifecycle, action)("a")
    assert (await service.read()).position == 3
    assert await deposit(service, "b", 4) == [positions[-1] + 1]


# --- retention --------------------------------------------------------------------------------------------------------


async def test_of_each_aggregate_the_newest_events_are_kept(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", *range(10))
    await deposit(service, "b", 1, 2)
    retention = await service.lifecycle.set_retention("Account", max_count=3)
    assert (retention.max_count, retention.max_age_ms, retention.fold) == (3, None, "class")
    preview = await service.lifecycle.scavenge(preview=True)
    assert (preview.is_preview, preview.events) == (True, 7)
    assert await versions(service, "a") == list(range(1, 11))
    report = await service.lifecycle.scavenge()
    assert (report.aggregates, report.events, report.scavenged) == (1, 7, preview.scavenged)
    assert await versions(service, "a") == [8, 9, 10]
    assert await versions(service, "b") == [1, 2]
    info = await service.get_aggregate("a")
    assert (info.version, info.gone_version) == (10, 7)
    assert len(read_all(bus, "Account")) == 12
    assert (await service.lifecycle.scavenge()).events == 0


async def test_the_state_outlasts_the_events(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", *range(10))
    await service.lifecycle.set_retention("Account", max_count=3)
    await service.lifecycle.scavenge()
    bus.storage.aggregates.drop_snapshots("default", "a")  # what nothing could make anew stays
    for as_of in (7, 8, 9, 10):
        assert (await service.rebuild("a", as_of_version=as_of)).state == {"balance": sum(range(as_of))}
    await deposit(service, "a", 100, expected_version=10)
    await service.rebuild("a", update_snapshots=True)
    await service.lifecycle.scavenge()
    assert (await service.rebuild("a")).state == {"balance": 145}
    assert [check.told for check in await service.verify_snapshots("a")] == ["equals a replay from version 8 on"]


async def test_the_past_that_is_gone_is_an_error_and_no_partial_state(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2, 3)
    await service.lifecycle.set_retention("Account", max_count=1)
    await service.lifecycle.scavenge()
    with pytest.raises(HistoryGoneError, match=r"versions 1 to 2 .* only from version 2 on") as caught:
        await service.rebuild("a", as_of_version=1)
    assert (caught.value.details["gone_version"], caught.value.details["base_version"]) == (2, 2)
    with pytest.raises(HistoryGoneError):
        await service.rebuild("a", as_of_time=1000)
    assert (await service.rebuild("a", as_of_time=time.time_ns() // 1_000_000)).state == {"balance": 6}


async def test_a_fold_that_has_changed_cannot_go_on_from_what_another_has_kept(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", 1, 2, 3)
    await service.lifecycle.set_retention("Account", max_count=1)
    await service.lifecycle.scavenge()
    changed = service_of(bus, Changed)
    with pytest.raises(HistoryGoneError, match=r"versions 1 to 2 of the aggregate 'a' are no longer kept.*another fold"):
        await changed.rebuild("a")
    await deposit(service, "a", 4, 5)
    report = await changed.lifecycle.scavenge()
    assert (report.events, report.refusals) == (0, 1)
    assert (await service.rebuild("a")).state == {"balance": 15}


async def test_what_the_fold_cannot_apply_is_kept(service: EventSourcingService) -> None:
    await service.append_event("bad", "Account", {}, "deposited")
    await deposit(service, "bad", 1)
    await deposit(service, "good", 1, 2)
    await service.lifecycle.set_retention("Account", max_count=1)
    for preview in (True, False):
        report = await service.lifecycle.scavenge(preview=preview)
        assert [each.aggregate_id for each in report.scavenged] == ["good"]
        assert [each.aggregate_id for each in report.refused] == ["bad"]
        assert "KeyError: 'amount'" in report.refused[0].reason
    assert await versions(service, "bad") == [1, 2]


async def test_a_process_that_lacks_the_fold_drops_nothing(service: EventSourcingService, bus: Bus) -> None:
    await deposit(service, "a", 1, 2, 3)
    await service.lifecycle.set_retention("Account", max_count=1)
    without = EventSourcingService(bus.storage, folds=Folds())
    report = await without.lifecycle.scavenge()
    assert (report.events, report.refusals, report.refused[0].aggregate_id) == (0, 1, None)
    assert "set for a fold of the kind class, and that in force is the default fold" in report.refused[0].reason
    await without.lifecycle.set_retention("Account", max_count=1)  # meant so
    assert (await without.lifecycle.scavenge()).events == 2


async def test_events_go_when_they_are_old(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2)
    await deposit(service, "b", 3)
    await asyncio.sleep(0.05)
    await deposit(service, "a", 4)
    await service.lifecycle.set_retention("Account", max_age_ms=40)
    report = await service.lifecycle.scavenge()
    assert {each.aggregate_id: each.events for each in report.scavenged} == {"a": 2, "b": 1}
    assert await read_ids(service) == ["evt_a_4"]
    assert (await service.rebuild("b")).state == {"balance": 3}  # of which no event is left
    assert await status(service, "b") is AggregateStatus.ACTIVE
    assert await deposit(service, "b", 5, expected_version="stream_exists") == [5]
    assert (await service.rebuild("b")).state == {"balance": 8}


async def test_archived_aggregates_and_other_types_are_left_alone(service: EventSourcingService) -> None:
    await deposit(service, "a", 1, 2, 3)
    for n in range(3):
        await service.append_event("o", "Order", {"n": n}, "placed")
    await service.lifecycle.archive("a")
    await service.lifecycle.set_retention("Account", max_count=1)
    assert (await service.lifecycle.scavenge()).events == 0
    await service.lifecycle.restore("a")
    assert (await service.lifecycle.scavenge(aggregate_type="Order")).events == 0
    assert (await service.lifecycle.scavenge(aggregate_type="Account")).events == 2
    await service.lifecycle.archive("a")
    assert await versions(service, "a") == [3]
    assert (await service.rebuild("a")).state == {"balance": 6}


async def test_many_events_go_in_small_transactions(service: EventSourcingService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate_lifecycle, "AT_ONCE", 10)
    for name in ("a", "b", "c"):
        await deposit(service, name, *range(25))
    await service.lifecycle.set_retention("Account", max_count=1)
    assert (await service.lifecycle.scavenge()).events == 72
    for name in ("a", "b", "c"):
        assert (await service.rebuild(name)).state == {"balance": 300}


async def test_scavenging_does_not_disturb_those_who_append_and_rebuild(bus: Bus) -> None:
    service = service_of(bus)
    await service.lifecycle.set_retention("Account", max_count=2)
    done = False

    async def append() -> None:
        nonlocal done
        for n in range(150):
            await service.append_event("a", "Account", {"amount": 1}, "deposited", n)
        done = True

    async def rebuild() -> None:
        while not done:
            try:
                rebuilt = await service.rebuild("a", update_snapshots=True)
            except AggregateNotFoundError:
                continue
            assert rebuilt.state == {"balance": rebuilt.version}
            assert all(check.is_equal in (True, None) for check in await service.verify_snapshots("a"))

    async def scavenge() -> None:
        while not done:
            await service.lifecycle.scavenge()

    await asyncio.gather(append(), rebuild(), scavenge())
    await service.lifecycle.scavenge()
    assert (await service.rebuild("a")).state == {"balance": 150}
    assert await versions(service, "a") == [149, 150]


OPERATIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4)),
    st.tuples(st.just("scavenge"), st.integers(1, 3)),
    *(st.tuples(st.just(name), st.just(0)) for name in ("archive", "restore", "delete", "snapshot", "drop_snapshots")),
)


def test_whatever_is_done_the_state_is_that_of_all_events_since_the_last_deletion(bus: Bus) -> None:
    service = service_of(bus)
    tenants = count()

    @settings(max_examples=40)
    @given(st.lists(OPERATIONS, max_size=12))
    def check(operations: list[tuple[str, int]]) -> None:
        asyncio.run(follow(service, bus, f"t{next(tenants)}", operations))

    check()


async def follow(service: EventSourcingService, bus: Bus, tenant: str, operations: list[tuple[str, int]]) -> None:
    lifecycle = service.lifecycle
    amounts: list[int] = []  # of all versions
    begin, gone, is_archived = 0, 0, False
    for number, (name, n) in enumerate(operations):
        is_there = len(amounts) > begin
        if name == "append" and not is_archived:
            new = [number * 10 + i for i in range(n)]
            await deposit(service, "a", *new, expected_version=len(amounts), tenant_id=tenant)
            amounts += new
        elif name == "scavenge":
            await lifecycle.set_retention("Account", tenant, max_count=n)
            assert (await lifecycle.scavenge(tenant)).refusals == 0
            if is_there and not is_archived:
                gone = max(gone, len(amounts) - n)
        elif name == "archive" and is_there and not is_archived:
            await lifecycle.archive("a", tenant)
            is_archived = True
        elif name == "restore" and is_archived:
            await lifecycle.restore("a", tenant)
            is_archived = False
        elif name == "delete" and is_there:
            await lifecycle.delete("a", tenant)
            begin = gone = len(amounts)
            is_archived = False
        elif name == "snapshot" and is_there:
            await service.rebuild("a", None, tenant, update_snapshots=True)
        elif name == "drop_snapshots":
            bus.storage.aggregates.drop_snapshots(tenant, "a")
        if len(amounts) == begin:
            with pytest.raises(AggregateNotFoundError):
                await service.rebuild("a", None, tenant)
            continue
        events = await service.events("a", tenant)
        assert [event.version for event in events] == list(range(gone + 1, len(amounts) + 1))
        assert (await service.rebuild("a", None, tenant)).state == {"balance": sum(amounts[begin:])}
        for version in range(len(amounts) + 1):
            try:
                then = await service.rebuild("a", None, tenant, as_of_version=version)
            except HistoryGoneError:
                assert version < begin or begin < version < gone
            else:  # an old snapshot may know what it was then, although the events are gone
                assert version >= begin
                assert then.state == {"balance": sum(amounts[begin:version])}
        assert all(check.is_equal in (True, None) for check in await service.verify_snapshots("a", tenant))
        read = (await service.read(tenant_id=tenant)).events
        assert read == ([] if is_archived else events)


@pytest.mark.parametrize(
    ("aggregate_type", "limits"),
    [("Account", {"max_count": 0}), ("Account", {"max_age_ms": -1}), ("", {}), ("_x", {}), ("Account", {"max_count": True})],
)
async def test_what_is_no_retention_is_refused(
    service: EventSourcingService, aggregate_type: str, limits: dict[str, int]
) -> None:
    with pytest.raises(InvalidInputError):
        await service.lifecycle.set_retention(aggregate_type, **limits)


async def test_a_retention_can_be_lifted(service: EventSourcingService) -> None:
    await service.lifecycle.set_retention("Account", max_count=1, max_age_ms=1000)
    assert [each.aggregate_type for each in await service.lifecycle.retentions()] == ["Account"]
    lifted = await service.lifecycle.set_retention("Account")
    assert (lifted.max_count, lifted.max_age_ms, lifted.fold) == (None, None, None)
    assert await service.lifecycle.retentions() == []
    await deposit(service, "a", 1, 2)
    assert (await service.lifecycle.scavenge()).events == 0
    assert (await service.lifecycle.retention("Order")).max_count is None


async def test_a_thread_scavenges_for_all_tenants_now_and_then(
    service: EventSourcingService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for tenant in ("default", "t2"):
        for n in range(3):
            await service.append_event("a", "Account", {"amount": n}, "deposited", tenant_id=tenant)
        await service.lifecycle.set_retention("Account", tenant, max_count=1)
    await service.append_event("bad", "Account", {}, "deposited", tenant_id="t2")
    await service.append_event("bad", "Account", {}, "deposited", tenant_id="t2")
    with caplog.at_level(logging.WARNING):
        stop = service.lifecycle.start_scavenging(every_s=0.01)
        deadline_s = time.monotonic() + 30
        while len(await service.events("a", "t2")) > 1 or not caplog.records:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        stop()
    assert await versions(service, "a") == [3]
    assert [record.message for record in caplog.records if "bad" in record.message][1:] == []  # told once
