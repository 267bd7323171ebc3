"""Appending to aggregates and rebuilding them, by the service."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from event_streaming_bus import Aggregate, AppliedEvent, EventSourcingService, applies
from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, StreamNotFoundError, ValidationFailedError
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.rebuilding import SnapshotPolicy
from event_streaming_bus.sourcing.sourcing_errors import FoldError
from event_streaming_bus.store.aggregate_appends import Unless
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError, ConditionNotMetError, VersionConflictError
from event_streaming_bus.store.recorded import EventQuery
from event_streaming_bus.testing import read_all, temporary_bus

NEVER = SnapshotPolicy(every_events=None, replay_exceeds_ms=None)
BANK = """
aggregate_type: Account
initial: {balance: 0}
apply:
  deposited: {balance: state.balance + payload.amount}
otherwise: fail
"""


class Account(Aggregate):
    balance: int = 0

    @applies("deposited")
    def deposited(self, event: AppliedEvent) -> None:
        self.balance += event.payload["amount"]


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    monkeypatch.setenv("ESB_SYNCHRONOUS", "NORMAL")  # nothing here is about power cuts
    with temporary_bus() as opened:
        yield opened


@pytest.fixture
def service(bus: Bus) -> EventSourcingService:
    return EventSourcingService(bus.storage, snapshots=NEVER)


def deposit(amount: int, event_id: str | None = None) -> NewEvent:
    return NewEvent(event_type="deposited", event_data={"amount": amount}, event_id=event_id)


def account(aggregate_id: str, *amounts: int, expected: int | str | None = None) -> NewEvents:
    events = list(map(deposit, amounts))
    return NewEvents(aggregate_id=aggregate_id, aggregate_type="Account", events=events, expected_version=expected)


async def versions(service: EventSourcingService, aggregate_id: str) -> list[int]:
    return [event.version for event in await service.events(aggregate_id)]


# --- expected versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [None, "any", "no_stream", 0])
async def test_an_aggregate_is_begun_where_none_is_expected(service: EventSourcingService, expected: int | str | None) -> None:
    [first, second] = await service.append([account("a", 1, 2, expected=expected)])
    assert (first.version, second.version, first.position, second.position) == (1, 2, 1, 2)


@pytest.mark.parametrize("expected", [None, "any", "stream_exists", 2])
async def test_an_aggregate_goes_on_where_it_is(service: EventSourcingService, expected: int | str | None) -> None:
    await service.append([account("a", 1, 2)])
    assert [event.version for event in await service.append([account("a", 3, expected=expected)])] == [3]


@pytest.mark.parametrize(
    ("amounts", "expected", "told"),
    [
        ((1, 2), 1, "is at version 2, not at 1"),
        ((1, 2), 0, "is at version 2, not at 0"),
        ((1, 2), "no_stream", "exists, at version 2"),
        ((1, 2), 3, "expected_version 3 lies in the future"),
        ((), "stream_exists", "has no events"),
        ((), 1, "lies in the future"),
    ],
)
async def test_an_append_elsewhere_is_refused(
    service: EventSourcingService, bus: Bus, amounts: tuple[int, ...], expected: int | str, told: str
) -> None:
    if amounts:
        await service.append([account("a", *amounts)])
    with pytest.raises(VersionConflictError, match=told) as caught:
        await service.append([account("a", 9, expected=expected)])
    assert caught.value.details["current_version"] == len(amounts)
    assert caught.value.details["expected_version"] == expected
    if amounts:
        assert await versions(service, "a") == [1, 2]
        assert len(read_all(bus, "Account")) == 2


async def test_a_conflict_tells_what_came_between(service: EventSourcingService) -> None:
    await service.append([account("a", 1, 2, 3)])
    with pytest.raises(VersionConflictError) as caught:
        await service.append([account("a", 4, expected=1)])
    between = caught.value.details["events"]
    assert [(event["version"], event["event_type"], event["event_data"]) for event in between] == [
        (2, "deposited", {"amount": 2}),
        (3, "deposited", {"amount": 3}),
    ]


async def test_of_many_who_expect_the_same_version_one_wins(service: EventSourcingService) -> None:
    tries = [service.append([account("a", n, expected=0)]) for n in range(20)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, VersionConflictError) for each in done) == 19
    assert await versions(service, "a") == [1]


@pytest.mark.parametrize("expected", [-1, "sometimes", True, 1.5])
async def test_what_is_no_expectation_is_refused(service: EventSourcingService, expected: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected_version: expected 0 or more"):
        await service.append([account("a", 1, expected=expected)])


# --- idempotency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [None, 0, "no_stream", "stream_exists", 7])
async def test_the_same_event_again_gives_the_first_receipt_whatever_is_expected(
    service: EventSourcingService, bus: Bus, expected: int | str | None
) -> None:
    [first] = await service.append_events("a", "Account", [deposit(1, "evt_1")])
    await service.append([account("a", 2)])
    [again] = await service.append_events("a", "Account", [deposit(1, "evt_1")], expected)
    assert again.duplicate
    assert (again.version, again.position, again.place) == (first.version, first.position, first.place)
    assert await versions(service, "a") == [1, 2]
    assert len(read_all(bus, "Account")) == 2


async def test_an_id_of_our_making_is_known_too(service: EventSourcingService) -> None:
    [first] = await service.append([account("a", 1)])
    [again] = await service.append_events("a", "Account", [deposit(1, first.event_id)])
    assert (again.version, again.duplicate) == (1, True)


async def test_a_batch_is_the_same_only_as_a_whole(service: EventSourcingService) -> None:
    await service.append_events("a", "Account", [deposit(1, "evt_1"), deposit(2, "evt_2")])
    again = await service.append_events("a", "Account", [deposit(1, "evt_1"), deposit(2, "evt_2")], 0)
    assert [(event.version, event.duplicate) for event in again] == [(1, True), (2, True)]
    with pytest.raises(AlreadyExistsError, match="'evt_1' was appended before, 'evt_3' was not"):
        await service.append_events("a", "Account", [deposit(1, "evt_1"), deposit(3, "evt_3")])
    with pytest.raises(InvalidInputError, match="ids of their own"):
        await service.append_events("a", "Account", [deposit(1, "evt_4"), deposit(1, "evt_4")])
    assert await versions(service, "a") == [1, 2]


async def test_an_id_of_an_event_of_a_stream_is_taken(service: EventSourcingService, bus: Bus) -> None:
    bus.create_stream("s")
    await bus.publishing.publish_event(EventConfig(event_type="t", event_id="evt_1"), {}, stream_id="s")
    with pytest.raises(AlreadyExistsError, match="another event"):
        await service.append_events("a", "Account", [deposit(1, "evt_1")])


# --- several aggregates -----------------------------------------------------------------------------------------------


async def test_several_aggregates_are_appended_to_together(service: EventSourcingService, bus: Bus) -> None:
    order = NewEvents(aggregate_id="o", aggregate_type="Order", events=[NewEvent(event_type="placed", event_data={})])
    done = await service.append([account("a", 1), order, account("b", 2), account("a", 3)])
    assert [(each.aggregate_id, each.version, each.position) for each in done] == [
        ("a", 1, 1),
        ("o", 1, 2),
        ("b", 1, 3),
        ("a", 2, 4),
    ]
    assert [len(read_all(bus, name)) for name in ("Account", "Order")] == [3, 1]


async def test_one_conflict_undoes_all_of_it(service: EventSourcingService, bus: Bus) -> None:
    await service.append([account("b", 1)])
    with pytest.raises(VersionConflictError) as caught:
        await service.append([account("a", 1), account("b", 2, expected=0)])
    assert caught.value.details["aggregate_id"] == "b"
    with pytest.raises(AggregateNotFoundError):
        await service.get_aggregate("a")
    assert len(read_all(bus, "Account")) == 1


async def test_a_second_part_for_the_same_aggregate_expects_what_the_first_has_made(service: EventSourcingService) -> None:
    await service.append([account("a", 1, expected=0), account("a", 2, expected=1)])
    with pytest.raises(VersionConflictError, match="is at version 3, not at 2"):
        await service.append([account("a", 3, expected=2), account("a", 4, expected=2)])
    assert await versions(service, "a") == [1, 2]


# --- the dynamic consistency boundary ---------------------------------------------------------------------------------


async def test_an_append_is_refused_if_an_event_that_fits_came_since(service: EventSourcingService) -> None:
    taken = EventQuery(event_types=("seat.taken",), where={"seat": 7})

    def take(ride: str, seat: int, after: int) -> Any:
        event = NewEvent(event_type="seat.taken", event_data={"seat": seat})
        return service.append_events(ride, "Ride", [event], unless=Unless(taken, after))

    await take("r1", 6, 0)
    [recorded] = await take("r1", 7, 0)
    with pytest.raises(ConditionNotMetError, match="the first is seat") as caught:
        await take("r2", 7, 0)
    assert [event["aggregate_id"] for event in caught.value.details["events"]] == ["r1"]
    assert caught.value.details["position"] == recorded.position
    [later] = await take("r2", 7, recorded.position)  # who has seen it may decide so all the same
    assert later.position == 3


@pytest.mark.parametrize(
    ("query", "is_met"),
    [
        (EventQuery(), True),
        (EventQuery(aggregate_types=("Account",)), True),
        (EventQuery(aggregate_types=("Order",)), False),
        (EventQuery(aggregate_ids=("a",)), True),
        (EventQuery(aggregate_ids=("b",)), False),
        (EventQuery(event_types=("deposited", "x")), True),
        (EventQuery(event_types=("x",)), False),
        (EventQuery(where={"amount": 1}), True),
        (EventQuery(where={"amount": 2}), False),
        (EventQuery(where={"missing": None}), False),
    ],
)
async def test_what_fits_a_query(service: EventSourcingService, query: EventQuery, is_met: bool) -> None:
    await service.append([account("a", 1)])
    if is_met:
        with pytest.raises(ConditionNotMetError):
            await service.append([account("c", 5)], unless=Unless(query))
    else:
        await service.append([account("c", 5)], unless=Unless(query))
    assert bool((await service.read(query)).events) is is_met


async def test_of_many_decisions_on_the_same_grounds_one_is_kept(service: EventSourcingService) -> None:
    grounds = Unless(EventQuery(event_types=("deposited",)))
    tries = [service.append([account(f"a{n}", n)], unless=grounds) for n in range(10)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, ConditionNotMetError) for each in done) == 9


# --- streams, schemas and routes --------------------------------------------------------------------------------------

SCHEMA = {
    "schema_name": "account",
    "json_schema": {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]},
    "validation_rules": {"business_rules": [{"name": "positive", "rule": "amount > 0"}]},
}


@pytest.mark.parametrize("data", [{"amount": "1"}, {}, {"amount": -1}])
async def test_what_breaks_the_schema_of_the_stream_is_nowhere(
    service: EventSourcingService, bus: Bus, data: dict[str, Any]
) -> None:
    schema_id = SchemaRegistryService(bus.storage).register(SCHEMA).schema_id
    bus.log.create_stream(StreamConfig(name="Account", schema_id=schema_id))
    bad = NewEvents(aggregate_id="a", aggregate_type="Account", events=[NewEvent(event_type="deposited", event_data=data)])
    order = NewEvents(aggregate_id="o", aggregate_type="Order", events=[NewEvent(event_type="placed", event_data={})])
    with pytest.raises(ValidationFailedError):
        await service.append([order, account("a", 1), bad])
    assert (await service.read()).events == []
    assert read_all(bus, "Account") == read_all(bus, "Order") == []


async def test_the_schema_in_force_is_looked_at_with_the_version(service: EventSourcingService, bus: Bus) -> None:
    await service.append([account("a", 1)])
    schema_id = SchemaRegistryService(bus.storage).register(SCHEMA).schema_id
    stream = bus.log.find_stream("default", "Account")
    bus.log.set_stream_schema(stream.stream_id, schema_id)
    with pytest.raises(ValidationFailedError):  # although the service knows the stream without one
        await service.append_event("a", "Account", {"amount": "x"}, "deposited")
    await service.append_event("a", "Account", {"amount": 2}, "deposited")
    assert [event.schema_id for event in await service.events("a")] == [None, schema_id]


async def test_events_are_routed_as_all_that_is_published(service: EventSourcingService, bus: Bus) -> None:
    bus.create_stream("Account")
    bus.create_stream("large")
    await bus.routing.set_route({"name": "r", "stream": "Account", "match": "payload.amount > 10", "to": ["large"]})
    [small, large] = await service.append([account("a", 1, 100)])
    assert [event.payload["amount"] for event in read_all(bus, "large")] == [100]
    assert [event.payload["amount"] for event in await service.events("a")] == [1, 100]
    assert small.place is not None
    assert large.place is not None


async def test_the_envelope_is_kept(service: EventSourcingService, bus: Bus) -> None:
    await service.append_event(
        "a",
        "Account",
        {"amount": 1},
        "deposited",
        None,
        user_id="ann",
        correlation_id="c",
        causation_id="d",
        metadata={"source": "app"},
        timestamp="2025-01-26T10:00:00Z",
    )
    [recorded] = await service.events("a")
    [published] = read_all(bus, "Account")
    for event in (recorded, published):
        assert (event.user_id, event.correlation_id, event.causation_id) == ("ann", "c", "d")
        assert event.metadata == {"source": "app"}
        assert event.timestamp_ms == 1_737_885_600_000
        assert event.payload == {"amount": 1}
    assert (published.aggregate_id, published.aggregate_type) == ("a", "Account")


async def test_another_stream_can_be_named_but_is_not_made(service: EventSourcingService, bus: Bus) -> None:
    bus.create_stream("bank")
    await service.append_event("a", "Account", {}, "opened", stream="bank")
    assert len(read_all(bus, "bank")) == 1
    with pytest.raises(StreamNotFoundError):
        await service.append_event("a", "Account", {}, "opened", stream="bnak")


async def test_an_event_stays_in_its_aggregate_when_its_stream_is_dropped(service: EventSourcingService, bus: Bus) -> None:
    await service.append([account("a", 1)])
    bus.log.drop_stream(bus.log.find_stream("default", "Account").stream_id)
    assert await versions(service, "a") == [1]
    await service.append([account("a", 2)])
    assert await versions(service, "a") == [1, 2]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"aggregate_id": ""}, "aggregate_id: expected 1 to 200"),
        ({"aggregate_id": "x" * 201}, "aggregate_id: expected 1 to 200"),
        ({"aggregate_type": ""}, "aggregate_type: expected"),
        ({"aggregate_type": "_history"}, "aggregate_type: expected"),
        ({"aggregate_type": "a b"}, "aggregate_type: expected"),
        ({"events": []}, "events: expected 1 to 10,000"),
        ({"events": [NewEvent(event_type="", event_data={})]}, "event_type: expected 1 to 200"),
        ({"events": [NewEvent(event_type="t", event_data=[1])]}, "event_data: expected an object, got list"),  # type: ignore[arg-type]
        ({"events": [NewEvent(event_type="t", event_data={}, timestamp="soon")]}, "timestamp"),
    ],
)
async def test_what_cannot_be_appended_is_refused_with_its_place(
    service: EventSourcingService, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInputError, match=told):
        await service.append([msgspec.structs.replace(account("a", 1), **change)])
    assert (await service.read()).events == []


async def test_an_aggregate_has_one_type(service: EventSourcingService) -> None:
    await service.append([account("a", 1)])
    with pytest.raises(InvalidInputError, match="the aggregate 'a' is a Account, not a Order"):
        await service.append_event("a", "Order", {}, "placed")
    with pytest.raises(InvalidInputError, match="is a Account, not a Order"):
        await service.rebuild("a", "Order")


async def test_tenants_have_aggregates_of_their_own(service: EventSourcingService) -> None:
    await service.append([account("a", 1)])
    [other] = await service.append([account("a", 2, expected="no_stream")], "t2")
    assert (other.version, other.position) == (1, 2)
    assert [event.payload["amount"] for event in (await service.read(tenant_id="t2")).events] == [2]
    assert (await service.rebuild("a", tenant_id="t2")).state == {"amount": 2}


# --- rebuilding -------------------------------------------------------------------------------------------------------


async def test_by_default_later_fields_replace_earlier_ones(service: EventSourcingService) -> None:
    await service.append_event("a", "User", {"name": "Ann", "tags": [1]}, "created", timestamp=1000)
    await service.append_event("a", "User", {"tags": [2], "name": None}, "updated", timestamp=2000)
    told = await service.reconstruct_aggregate("a", "User")
    assert told == {
        "aggregate_id": "a",
        "aggregate_type": "User",
        "version": 2,
        "data": {"name": None, "tags": [2]},
        "last_event_timestamp": "1970-01-01T00:00:02.000Z",
        "snapshot_version": None,
        "events_replayed": 2,
        "fold": "the default fold",
    }


async def test_what_is_not_there_is_not_found(service: EventSourcingService) -> None:
    for asked in (service.rebuild("a"), service.events("a"), service.verify_snapshots("a")):
        with pytest.raises(AggregateNotFoundError):
            await asked
    assert await service.load(Account, "a") == (Account(), 0)


async def test_folds_of_a_file_and_of_a_class(service: EventSourcingService, tmp_path: Path) -> None:
    (tmp_path / "bank.yaml").write_text(BANK)
    await service.append([account("a", 1, 2)])
    service.folds.load_file(tmp_path / "bank.yaml")
    assert (await service.rebuild("a")).state == {"balance": 3}
    service.folds.register(Account, replace=True)
    loaded, version = await service.load(Account, "a")
    assert (loaded.balance, version) == (3, 2)


@pytest.mark.parametrize("as_of", [0, 1, 2, 3])
async def test_as_of_a_version_is_what_it_was_then_whatever_snapshots_there_are(
    service: EventSourcingService, as_of: int
) -> None:
    service.folds.register(Account)
    await service.append([account("a", 1, 2, 4)])
    for _ in range(2):
        then = await service.rebuild("a", as_of_version=as_of)
        assert (then.version, then.state) == (as_of, {"balance": [0, 1, 3, 7][as_of]})
        await service.rebuild("a", update_snapshots=True)


@pytest.mark.parametrize("as_of", [-1, 4])
async def test_a_version_that_was_never_there_is_refused(service: EventSourcingService, as_of: int) -> None:
    await service.append([account("a", 1, 2, 4)])
    with pytest.raises(InvalidInputError, match="as_of_version: the aggregate 'a' has the versions 0 to 3"):
        await service.rebuild("a", as_of_version=as_of)


async def test_as_of_a_time_goes_by_the_time_of_events(service: EventSourcingService) -> None:
    service.folds.register(Account)
    for amount, at in ((1, 1000), (2, 3000), (4, 2000)):  # the last one came late
        await service.append_event("a", "Account", {"amount": amount}, "deposited", timestamp=at)
    await service.rebuild("a", update_snapshots=True)
    balances = [(await service.rebuild("a", as_of_time=at)).state["balance"] for at in (0, 1000, 2000, 3000)]
    assert balances == [0, 1, 5, 7]
    assert (await service.rebuild("a", as_of_time="1970-01-01T00:00:03Z")).state == {"balance": 7}
    with pytest.raises(InvalidInputError):
        await service.rebuild("a", as_of_time="yesterday")


async def test_an_event_that_the_fold_cannot_apply_is_named(service: EventSourcingService) -> None:
    service.folds.register(Account)
    await service.append([account("a", 1)])
    await service.append_event("a", "Account", {"amonut": 2}, "deposited")
    with pytest.raises(FoldError, match="KeyError: 'amount'") as caught:
        await service.rebuild("a", update_snapshots=True)
    assert (caught.value.details["version"], caught.value.details["event_type"]) == (2, "deposited")
    assert (await service.rebuild("a", as_of_version=1)).state == {"balance": 1}
    assert await service.verify_snapshots("a") == []


# --- snapshots --------------------------------------------------------------------------------------------------------


async def test_a_snapshot_is_gone_on_from(service: EventSourcingService) -> None:
    await service.append([account("a", 1, 2)])
    await service.rebuild("a", update_snapshots=True)
    await service.append([account("a", 4)])
    rebuilt = await service.rebuild("a")
    assert (rebuilt.snapshot_version, rebuilt.events_replayed, rebuilt.state) == (2, 1, {"amount": 4})
    await service.rebuild("a", update_snapshots=True)
    rebuilt = await service.rebuild("a", update_snapshots=True)
    assert (rebuilt.snapshot_version, rebuilt.events_replayed, rebuilt.version) == (3, 0, 3)
    assert rebuilt.last_timestamp_ms == (await service.events("a"))[-1].timestamp_ms


@pytest.mark.parametrize(
    ("policy", "is_due"),
    [
        (SnapshotPolicy(every_events=3, replay_exceeds_ms=None), True),
        (SnapshotPolicy(every_events=4, replay_exceeds_ms=None), False),
        (SnapshotPolicy(every_events=None, replay_exceeds_ms=0), True),
        (NEVER, False),
    ],
)
async def test_the_policy_says_when_a_snapshot_is_left(bus: Bus, policy: SnapshotPolicy, is_due: bool) -> None:
    service = EventSourcingService(bus.storage, snapshots=policy)
    await service.append([account("a", 1, 2, 3)])
    await service.rebuild("a", as_of_version=3)  # of the past none is left
    assert (await service.rebuild("a")).snapshot_version is None
    assert (await service.rebuild("a")).snapshot_version == (3 if is_due else None)


async def test_a_snapshot_of_another_fold_is_never_read(service: EventSourcingService, tmp_path: Path) -> None:
    await service.append([account("a", 1, 2)])
    await service.rebuild("a", update_snapshots=True)
    (tmp_path / "bank.yaml").write_text(BANK)
    service.folds.load_file(tmp_path / "bank.yaml")
    rebuilt = await service.rebuild("a", update_snapshots=True)
    assert (rebuilt.snapshot_version, rebuilt.state) == (None, {"balance": 3})
    by_default, declared = await service.verify_snapshots("a")
    assert (by_default.is_current, by_default.is_equal) == (False, None)
    assert (declared.is_current, declared.is_equal, declared.version) == (True, True, 2)


async def test_a_snapshot_that_differs_from_a_full_replay_is_found(service: EventSourcingService, bus: Bus) -> None:
    await service.append([account("a", 1)])
    await service.rebuild("a", update_snapshots=True)
    store = bus.storage.aggregates
    [snapshot] = store.snapshots("default", "a")
    store.put_snapshot("default", "a", msgspec.structs.replace(snapshot, state=b'\x00{"amount":2}'))
    [check] = await service.verify_snapshots("a")
    assert (check.is_equal, check.told) == (False, "differs from a full replay")
    store.drop_snapshots("default", "a")
    assert (await service.rebuild("a")).state == {"amount": 1}


async def test_a_damaged_snapshot_is_left_and_told_of(
    service: EventSourcingService, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    await service.append([account("a", 1)])
    await service.rebuild("a", update_snapshots=True)
    store = bus.storage.aggregates
    [snapshot] = store.snapshots("default", "a")
    store.put_snapshot("default", "a", msgspec.structs.replace(snapshot, state=b"\x01damaged"))
    rebuilt = await service.rebuild("a")
    assert (rebuilt.state, rebuilt.snapshot_version) == ({"amount": 1}, None)
    assert "the snapshot of aggregate a at version 1 is left" in caplog.text
    [check] = await service.verify_snapshots("a")
    assert (check.is_equal, check.told) == (False, "is damaged, so it is never read")


async def test_erasing_a_person_makes_the_snapshots_of_their_data_unreadable(service: EventSourcingService, bus: Bus) -> None:
    config = {
        "schema_name": "user",
        "json_schema": {
            "type": "object",
            "properties": {"email": {"type": "string", "x-personal": True}, "plan": {"type": "string"}},
        },
    }
    schema_id = await bus.schemas.register_enhanced_schema(config)
    bus.log.create_stream(StreamConfig(name="User", schema_id=schema_id))
    for data in ({"email": "ann@company.com", "plan": "free"}, {"plan": "paid"}):
        await service.append_event("ann", "User", data, "user.updated")
    whole = {"email": "ann@company.com", "plan": "paid"}
    assert (await service.rebuild("ann", update_snapshots=True)).state == whole
    rebuilt = await service.rebuild("ann")
    assert (rebuilt.state, rebuilt.snapshot_version) == (whole, 2)
    [snapshot] = bus.storage.aggregates.snapshots("default", "ann")
    assert b"ann@company.com" not in snapshot.state
    assert [event.payload.get("email") for event in await service.events("ann")] == ["ann@company.com", None]

    await bus.erasure.erase_subject("ann", reason="asked for")
    rebuilt = await service.rebuild("ann")
    assert (rebuilt.state, rebuilt.snapshot_version) == ({"email": "[erased]", "plan": "paid"}, None)
    [check] = await service.verify_snapshots("ann")
    assert check.is_equal is None


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_all_events_are_read_page_by_page_in_the_order_of_recording(service: EventSourcingService) -> None:
    for n in range(5):
        await service.append([account(f"a{n % 2}", n)])
    first = await service.read(limit=3)
    rest = await service.read(after_position=first.position)
    assert [event.payload["amount"] for event in first.events + rest.events] == [0, 1, 2, 3, 4]
    assert (first.is_end, rest.is_end) == (False, True)


async def test_a_subscription_catches_up_and_goes_on(service: EventSourcingService) -> None:
    await service.append([account("a", 1)])
    subscription = service.subscribe(EventQuery(aggregate_types=("Account",)))
    assert (await anext(subscription)).payload == {"amount": 1}
    waiting = asyncio.ensure_future(anext(subscription))
    await service.append_event("o", "Order", {}, "placed")
    await service.append([account("b", 2)])
    assert (await asyncio.wait_for(waiting, 10)).aggregate_id == "b"
    await subscription.aclose()  # type: ignore[attr-defined]


async def test_aggregates_are_listed_by_id(service: EventSourcingService) -> None:
    for name in ("b", "a", "c"):
        await service.append([account(name, 1)])
    assert [info.aggregate_id for info in await service.list_aggregates("Account", limit=2)] == ["a", "b"]
    assert [info.aggregate_id for info in await service.list_aggregates("Account", after="b")] == ["c"]
    assert await service.list_aggregates("Order") == []
    assert await service.list_types() == ["Account"]
    with pytest.raises(InvalidInputError, match="limit"):
        await service.list_aggregates("Account", limit=0)
