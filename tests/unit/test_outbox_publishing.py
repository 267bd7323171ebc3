"""What is published through an outbox: dead letters, routing, and what history is told of them where they come."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outboxes import outbox

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import EventNotFoundError
from event_streaming_bus.models import SCHEDULED_OFFSET, EventConfig, InvalidEventPolicy, Receipt, StreamConfig
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.testing import read_all

SCHEMA = {
    "schema_name": "order",
    "json_schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    tmp_path.joinpath("data").mkdir()
    log = outbox(tmp_path / "data", tmp_path / "data" / "log.db")
    with Bus(Storage(tmp_path / "data", log, synchronous="NORMAL")) as opened:
        opened.create_stream("orders")
        yield opened


@pytest.fixture
def history(bus: Bus) -> Iterator[History]:
    history = History(bus.storage)
    yield history
    history.close()


def publish(bus: Bus, stream: str, delay_ms: int, *payloads: Any) -> list[Receipt]:
    """Publish, so that it is delivered so much later."""
    config = EventConfig(event_type="t", deliver_at=time.time_ns() // 1_000_000 + delay_ms)
    return bus.publishing.submit(config, payloads, stream_id=stream).result()


def await_events(bus: Bus, stream: str, count: int) -> list[Any]:
    until = time.monotonic() + 10
    while len(events := read_all(bus, stream)) < count and time.monotonic() < until:
        time.sleep(0.01)
    return events


def steps_of(history: History, event_id: str, count: int) -> list[tuple[str, str, str | None]]:
    """``(stage, status, error)`` of the steps of an event, once there are so many."""
    until = time.monotonic() + 10
    while True:
        history.catch_up()
        try:
            steps = history.processing_history("default", event_id)["processing_history"]
        except EventNotFoundError:
            steps = []
        if len(steps) >= count or time.monotonic() > until:
            return [(s["processing_stage"], s["status"], s.get("error_message")) for s in steps]
        time.sleep(0.02)


def test_a_letter_of_a_delayed_publication_comes_at_once_and_history_is_told(bus: Bus, history: History) -> None:
    schema_id = bus.schemas.register(SCHEMA).schema_id
    bus.log.create_stream(StreamConfig(name="checked", schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER))
    good, *bad = publish(bus, "checked", 300, {"total": 1}, {}, {})
    assert [receipt.position.offset for receipt in (good, *bad)] == [SCHEDULED_OFFSET] * 3
    letters = await_events(bus, DEAD_LETTER_STREAM, 2)
    assert [letter.event_id for letter in letters] == [receipt.event_id for receipt in bad]
    assert read_all(bus, "checked") == []
    for receipt in bad:
        assert [step[:2] for step in steps_of(history, receipt.event_id, 1)] == [("VALIDATION", "FAILED")]
    assert [event.payload for event in await_events(bus, "checked", 1)] == [{"total": 1}]
    assert [step[:2] for step in steps_of(history, good.event_id, 2)] == [("PUBLISH", "COMPLETED"), ("VALIDATION", "COMPLETED")]


def test_what_rules_put_aside_is_told_of_each_event_with_its_own_reason(bus: Bus, history: History) -> None:
    bus.create_stream("copies")
    routes = [
        {"name": "negative", "stream": "orders", "match": "payload.n < 0", "dead_letter": "below zero"},
        {"name": "large", "stream": "orders", "match": "payload.n > 9", "dead_letter": "too large"},
        {"name": "copy", "stream": "orders", "match": "payload.n == 1", "to": ["copies"]},
    ]
    bus.routing.apply(bus.routing.read(routes, ["routes"] * 3))
    receipts = publish(bus, "orders", 200, {"n": -1}, {"n": -2}, {"n": 10}, {"n": 1})
    assert len(await_events(bus, DEAD_LETTER_STREAM, 3)) == 3
    (copy,) = await_events(bus, "copies", 1)
    told = [steps_of(history, receipt.event_id, 2)[-1] for receipt in receipts]
    assert told == [
        ("ROUTING", "FAILED", "below zero"),
        ("ROUTING", "FAILED", "below zero"),
        ("ROUTING", "FAILED", "too large"),
        ("ROUTING", "COMPLETED", None),
    ]
    assert [step[:2] for step in steps_of(history, copy.event_id, 2)] == [("PUBLISH", "COMPLETED"), ("ROUTING", "COMPLETED")]
