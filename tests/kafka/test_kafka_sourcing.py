"""Aggregates and delayed events on Kafka: by the outbox beside the log."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kafka_broker
import pytest

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import EventNotFoundError
from event_streaming_bus.models import Event, EventConfig
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.log.base import Append, Schedule
from event_streaming_bus.testing import read_all

APPENDER = Path(__file__).with_name("kafka_appenders.py")
HISTORY = [
    ("user.created", {"user_name": "john.doe", "email": "john@old.example", "status": "new"}),
    ("user.updated", {"status": "invited"}),
    ("user.updated", {"status": "active"}),
    ("user.updated", {"email": "john.doe@old.example"}),
    ("user.updated", {"last_login": "2025-01-25T08:00:00Z"}),
]


@pytest.fixture(scope="module")
def bus(url: str) -> Iterator[Bus]:
    with open_bus(url) as opened:
        yield opened


def until(is_so: Callable[[], Any], timeout_s: float = 20) -> Any:
    """What ``is_so`` gives, as soon as that is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def await_events(bus: Bus, stream: str, count: int) -> list[Any]:
    """The events of a stream, once there are so many."""

    def read() -> list[Any]:
        events = read_all(bus, stream)
        return events if len(events) >= count else []

    found: list[Any] = until(read)
    return found


def told(bus: Bus, event_id: str) -> list[tuple[str, str]]:
    """``(stage, status)`` of what history tells of an event, once it tells of it."""
    history = History(bus.storage)
    try:

        def steps() -> list[tuple[str, str]]:
            history.catch_up()
            try:
                steps = history.processing_history("default", event_id)["processing_history"]
            except EventNotFoundError:
                return []
            return [(step["processing_stage"], step["status"]) for step in steps]

        found: list[tuple[str, str]] = until(steps)
        return found
    finally:
        history.close()


async def append(bus: Bus, aggregate_id: str, data: dict[str, Any], version: int | None = None, **fields: Any) -> str:
    return await bus.sourcing.append_event(aggregate_id, "Order", data, "order.changed", version, **fields)


# --- aggregates -------------------------------------------------------------------------------------------------------


async def test_an_event_is_appended_at_the_expected_version_and_the_state_is_rebuilt(bus: Bus) -> None:
    service = bus.sourcing
    for version, (event_type, data) in enumerate(HISTORY):
        await service.append_event("user_123", "User", data, event_type, version, user_id="user_456")
    changed = {"email": "john.doe@company.com", "last_login": "2025-01-26T10:30:00Z"}
    event = NewEvent(
        event_type="user.updated", event_data=changed, correlation_id="corr_456", metadata={"source": "user_service"}
    )
    (recorded,) = await service.append_events("user_123", "User", [event], 5)
    assert (recorded.version, recorded.place) == (6, None)
    state = await service.reconstruct_aggregate("user_123", "User", update_snapshots=True)
    assert (state["version"], state["data"]) == (6, {"user_name": "john.doe", "status": "active", **changed})
    with pytest.raises(VersionConflictError):
        await service.append_events("user_123", "User", [event], 5)
    on_topic = await_events(bus, "User", 6)
    assert [each.payload for each in on_topic] == [data for _, data in HISTORY] + [changed]
    last = on_topic[-1]
    assert (last.event_id, last.key, last.aggregate_type) == (recorded.event_id, "user_123", "User")
    assert (last.correlation_id, last.metadata) == ("corr_456", {"source": "user_service"})
    assert told(bus, recorded.event_id) == [("PUBLISH", "COMPLETED")]


async def test_an_event_is_found_before_it_is_on_its_topic_and_its_id_is_taken(bus: Bus) -> None:
    event_id = await append(bus, "o-1", {"total": 1}, 0)
    found = bus.storage.aggregates.find_event("default", event_id)
    assert found is not None
    assert (found.aggregate_id, found.version) == ("o-1", 1)
    own = await append(bus, "o-1", {"total": 2}, 1, event_id="mine")
    assert own == "mine"
    assert await append(bus, "o-1", {"total": 2}, 1, event_id="mine") == "mine"  # the same again, whatever is expected
    (receipt,) = await bus.publishing.publish_batch(EventConfig(event_type="t", event_id="mine"), [{}], stream_id="Order")
    assert receipt.duplicate
    assert [each.event_id for each in await_events(bus, "Order", 2)] == [event_id, "mine"]


async def test_who_waits_for_events_of_aggregates_is_woken_by_the_append(bus: Bus) -> None:
    store = bus.storage.aggregates
    head = store.head("default")
    assert not store.wait("default", head, 0.05)
    await append(bus, "o-2", {})
    started = time.monotonic()
    assert store.wait("default", head, 5)
    assert time.monotonic() - started < 0.5


def test_versions_hold_between_processes_and_a_killed_one_loses_and_doubles_nothing(url: str, tmp_path: Path) -> None:
    url = kafka_broker.url_of(kafka_broker.shared_broker().address, tmp_path)
    writers = {
        owner: subprocess.Popen(
            [sys.executable, str(APPENDER), url, "race", owner], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for owner in ("one", "two")
    }
    lines: dict[str, list[str]] = {owner: [] for owner in writers}
    for owner, writer in writers.items():
        assert writer.stdout is not None
        while sum(line != "conflict\n" for line in lines[owner]) < 15:
            lines[owner].append(writer.stdout.readline())
    for owner, writer in writers.items():
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        lines[owner] += [line for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        writer.wait()
    acknowledged = {line.split()[1]: int(line.split()[0]) for each in lines.values() for line in each if line != "conflict\n"}
    with open_bus(url) as bus:
        kept = bus.storage.aggregates.events("default", "race")
        assert [event.version for event in kept] == list(range(1, len(kept) + 1))
        names = [(f"{p['owner']}-{p['number']}", p["part"]) for p in (event.payload for event in kept)]  # type: ignore[index,call-overload]
        assert len(set(names)) == len(names)
        assert names[::2] == [(name, "a") for name, _ in names[1::2]]
        ends = {name: event.version for event, (name, part) in zip(kept, names, strict=True) if part == "b"}
        assert acknowledged.items() <= ends.items()
        on_topic = await_events(bus, "Race", len(kept))
        assert [event.event_id for event in on_topic] == [event.event_id for event in kept]
        time.sleep(0.1)
        assert len(read_all(bus, "Race")) == len(kept)


# --- delayed events ---------------------------------------------------------------------------------------------------


async def test_a_delayed_event_comes_once_it_is_due_unless_it_is_cancelled(bus: Bus) -> None:
    bus.create_stream("reminders")
    due_ms = time.time_ns() // 1_000_000 + 400
    configs = [EventConfig(event_type="t", key="k", deliver_at=due_ms) for _ in range(3)]
    receipts = await bus.publishing.publish_batch(configs, [{"n": n} for n in range(3)], stream_id="reminders")
    assert {(receipt.position.offset, receipt.deliver_at_ms) for receipt in receipts} == {(-1, due_ms)}
    assert [each.event.event_id for each in bus.log.scheduled("default").events] == [r.event_id for r in receipts]
    assert bus.log.cancel_scheduled("default", receipts[1].event_id)
    await bus.publishing.publish_event(EventConfig(event_type="t", key="k"), {"n": "now"}, stream_id="reminders")
    assert [event.payload for event in await_events(bus, "reminders", 3)] == [{"n": "now"}, {"n": 0}, {"n": 2}]
    assert time.time_ns() // 1_000_000 >= due_ms
    assert told(bus, receipts[2].event_id) == [("PUBLISH", "COMPLETED")]


async def test_what_rules_and_schemas_make_of_an_event_of_an_aggregate_is_told_where_it_comes(bus: Bus) -> None:
    bus.create_stream("Ticket")
    bus.create_stream("large")
    rule = {"name": "large-tickets", "stream": "Ticket", "match": "payload.amount > 10", "to": ["large"]}
    await bus.routing.set_route(rule)
    event_id = await bus.sourcing.append_event("t-1", "Ticket", {"amount": 100}, "ticket.sold")
    (copy,) = await_events(bus, "large", 1)
    (original,) = await_events(bus, "Ticket", 1)
    assert (original.event_id, copy.payload) == (event_id, {"amount": 100})
    assert ("ROUTING", "COMPLETED") in told(bus, copy.event_id)


def test_an_event_that_the_brokers_refuse_holds_up_no_other(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    stream = bus.create_stream("sizes")
    due_ms = time.time_ns() // 1_000_000 + 100
    events = [Event(name, "t", 0, b" " * size, deliver_at_ms=due_ms) for name, size in (("large", 9 << 20), ("small", 2))]
    bus.log.append([Append(stream.stream_id, events, schedule=Schedule())])
    assert [event.event_id for event in await_events(bus, "sizes", 1)] == ["small"]
    until(lambda: [each.event.event_id for each in bus.log.scheduled("default", stream.stream_id).events] == ["large"])
    assert "The event large of the outbox cannot be appended" in caplog.text


# --- the brokers are away ---------------------------------------------------------------------------------------------


def test_aggregates_take_events_while_the_broker_is_away_and_they_come_when_it_is_back(tmp_path: Path) -> None:
    broker = kafka_broker.Broker(folder := kafka_broker.temporary_folder())
    try:
        with open_bus(kafka_broker.url_of(broker.address, tmp_path)) as bus:

            def change(version: int) -> None:
                event = NewEvent(event_type="t", event_data={"version": version})
                new = NewEvents(aggregate_id="a", aggregate_type="Far", events=[event], expected_version=version)
                bus.sourcing.append_now([new])

            for version in range(3):
                change(version)
            await_events(bus, "Far", 3)
            broker.stop(kill=True)
            started = time.monotonic()
            for version in range(3, 20):
                change(version)
            assert time.monotonic() - started < 5
            broker.start()
            events = await_events(bus, "Far", 20)
            assert [event.payload for event in events] == [{"version": version} for version in range(20)]
    finally:
        broker.stop(kill=True)
        shutil.rmtree(folder)
