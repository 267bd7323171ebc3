"""Delayed and expiring events, from publishing to the history: what they are told, what waits, and what comes when."""

import asyncio
import json
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient
from running import commands

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.expressions import parse
from event_streaming_bus.models import (
    LANES,
    SCHEDULED_OFFSET,
    Event,
    EventConfig,
    EventPriority,
    InvalidEventPolicy,
    Receipt,
    Split,
    StreamConfig,
    rfc3339,
)
from event_streaming_bus.store.dead_letters import dead_letter, original
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM, Processed, Published, from_bytes
from event_streaming_bus.store.log import scheduled
from event_streaming_bus.store.log.base import Append, EventLog, Schedule
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.storage import open_storage
from event_streaming_bus.testing import read_all, temporary_bus

SCHEMA = {
    "schema_name": "order",
    "json_schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
}
YEAR_MS = 366 * 86_400_000


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        opened.create_stream("orders")
        yield opened


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def publish(bus: Bus, *payloads: Any, stream: str = "orders", **config: Any) -> list[Receipt]:
    return bus.publishing.submit(EventConfig(event_type="t", **config), payloads, stream_id=stream).result()


def eventually(holds: Callable[[], bool], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def comes(bus: Bus, stream: str, count: int = 1) -> None:
    """Wait until the stream has so many events, as a reader does."""

    def holds() -> bool:
        bus.log.version()
        return len(read_all(bus, stream)) >= count

    eventually(holds)


def records(bus: Bus) -> list[Any]:
    return [from_bytes(event.data) for event in read_all(bus, "_history", "_system")]


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_delayed_event_is_published_at_once_and_delivered_later(bus: Bus) -> None:
    due_ms = now_ms() + 150
    published_ms = now_ms()
    (receipt,) = publish(bus, {"n": 1}, deliver_at=due_ms, expires_at=rfc3339(due_ms + 60_000), key="k")
    assert (receipt.position.offset, receipt.deliver_at_ms, receipt.duplicate) == (SCHEDULED_OFFSET, due_ms, False)
    assert read_all(bus, "orders") == []
    comes(bus, "orders")
    (event,) = read_all(bus, "orders")
    assert (event.deliver_at_ms, event.expires_at_ms, event.event_id) == (due_ms, due_ms + 60_000, receipt.event_id)
    assert abs(event.timestamp_ms - published_ms) < 100  # the event time is that of the publishing


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(days=400)])
def test_an_event_whose_time_has_come_is_delivered_at_once(bus: Bus, ago: timedelta) -> None:
    (receipt,) = publish(bus, {}, deliver_at=datetime.now(UTC) - ago, expires_at=now_ms() + 60_000)
    assert (receipt.position.offset, receipt.deliver_at_ms) == (0, None)
    assert len(read_all(bus, "orders")) == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"deliver_at": "soon"}, "deliver_at: 'soon' is no time"),
        ({"expires_at": True}, "expires_at: expected RFC 3339 text"),
        ({"deliver_at": lambda: now_ms() + 11 * YEAR_MS}, "deliver_at: .* too far ahead; expected a time within 10 years"),
        ({"expires_at": lambda: now_ms() - 1}, "expires_at: .* is not later than now"),
        (
            {"deliver_at": lambda: now_ms() + 9000, "expires_at": lambda: now_ms() + 8000},
            "expires_at: .* later than deliver_at",
        ),
        ({"deliver_at": lambda: now_ms() - 9000, "expires_at": lambda: now_ms() - 10}, "expires_at: .* not later than now"),
    ],
)
def test_times_that_make_no_sense_are_refused_by_name(bus: Bus, fields: dict[str, Any], told: str) -> None:
    fields = {name: value() if callable(value) else value for name, value in fields.items()}
    with pytest.raises(InvalidInputError, match=f"^{told}") as caught:
        publish(bus, {}, {}, **fields)
    assert caught.value.details == {}  # it is about all events
    configs = [EventConfig(event_type="t"), EventConfig(event_type="t", **fields)]
    with pytest.raises(InvalidInputError, match=f"^{told.replace('_at: ', '_at.1.: ', 1)}") as caught:
        bus.publishing.submit(configs, [{}, {}], stream_id="orders")
    assert caught.value.details == {"index": 1}
    assert read_all(bus, "orders") == []


def test_ten_years_are_allowed(bus: Bus) -> None:
    (receipt,) = publish(bus, {}, deliver_at=datetime.now(UTC) + timedelta(days=3650))
    assert receipt.deliver_at_ms is not None


def test_a_batch_may_have_both_and_its_receipts_come_in_order(bus: Bus) -> None:
    due_ms = now_ms() + 100
    configs = [EventConfig(event_type="t", event_id=f"e{i}", deliver_at=due_ms if i % 2 else None) for i in range(6)]
    receipts = bus.publishing.submit(configs, list(range(6)), stream_id="orders").result()
    assert [(r.event_id, r.position.offset) for r in receipts] == [
        ("e0", 0),
        ("e1", -1),
        ("e2", 1),
        ("e3", -1),
        ("e4", 2),
        ("e5", -1),
    ]
    comes(bus, "orders", 6)
    assert [e.payload for e in read_all(bus, "orders")] == [0, 2, 4, 1, 3, 5]


def test_publishing_a_delayed_id_again_returns_its_receipt_before_and_after_its_delivery(bus: Bus) -> None:
    due_ms = now_ms() + 100
    (first,) = publish(bus, {"n": 1}, event_id="order-1", deliver_at=due_ms)
    assert publish(bus, {"n": 2}, event_id="order-1") == [
        Receipt("order-1", first.position, duplicate=True, deliver_at_ms=due_ms)
    ]
    comes(bus, "orders")
    (later,) = publish(bus, {"n": 3}, event_id="order-1", deliver_at=due_ms + 60_000)
    assert (later.duplicate, later.position.offset, later.deliver_at_ms) == (True, 0, None)
    assert [e.payload for e in read_all(bus, "orders")] == [{"n": 1}]


# --- schemas, routes, dead letters ------------------------------------------------------------------------------------


def test_an_event_that_breaks_its_schema_is_put_aside_at_publishing(bus: Bus) -> None:
    schema_id = bus.schemas.register(SCHEMA).schema_id
    bus.log.create_stream(StreamConfig(name="checked", schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER))
    due_ms = now_ms() + 100
    good, bad = publish(bus, {"total": 1}, {}, stream="checked", deliver_at=due_ms, expires_at=due_ms + 60_000)
    (letter,) = read_all(bus, DEAD_LETTER_STREAM)
    assert (letter.event_id, letter.deliver_at_ms, letter.expires_at_ms) == (bad.event_id, None, None)
    assert bad.position.offset == 0
    assert good.position.offset == SCHEDULED_OFFSET
    again = original(letter)
    assert (again.deliver_at_ms, again.expires_at_ms, again.metadata) == (None, due_ms + 60_000, None)
    comes(bus, "checked")
    published = [r for r in records(bus) if isinstance(r, Published)]
    assert [(r.schema_id, r.runs[0].offset, r.runs[0].count) for r in published] == [(schema_id, 0, 1)]


def test_a_letter_of_an_event_without_times_has_none_to_tell() -> None:
    with temporary_bus() as bus:
        stream = bus.create_stream("s")
        event = Event("e", "t", 0, b"1")
        made = dead_letter(event, event_id="l", stream=stream, step="s", error_type="E", message="m", failed_at_ms=0)
        assert original(made) == event
        assert made.metadata is not None
        assert not {"deliver_at_ms", "expires_at_ms"} & set(made.metadata["dead_letter"])


def test_rules_are_applied_at_publishing_and_what_they_make_comes_at_the_same_time(bus: Bus) -> None:
    for name in ("copies", "moved"):
        bus.create_stream(name)
    routes = [
        {"name": "bad", "stream": "orders", "match": "payload.n < 0", "dead_letter": "negative"},
        {"name": "copy", "stream": "orders", "match": "deliver_at - timestamp > 50", "to": ["copies"]},
        {"name": "move", "stream": "orders", "match": "payload.n == 2", "to": ["moved"], "move": True},
    ]
    bus.routing.apply(bus.routing.read(routes, ["routes"] * 3))
    due_ms = now_ms() + 200
    receipts = publish(bus, {"n": 1}, {"n": -1}, {"n": 2}, {"n": 1}, deliver_at=due_ms)
    assert [r.position.offset for r in receipts] == [SCHEDULED_OFFSET, 0, SCHEDULED_OFFSET, SCHEDULED_OFFSET]
    (letter,) = read_all(bus, DEAD_LETTER_STREAM)
    assert (letter.payload, letter.deliver_at_ms) == ({"n": -1}, None)
    for name in ("orders", "copies", "moved"):
        assert read_all(bus, name) == []
    bus.routing.remove("copy")  # too late: it has been applied
    comes(bus, "copies", 3)
    assert [e.payload["n"] for e in read_all(bus, "orders")] == [1, 1]
    assert [e.payload["n"] for e in read_all(bus, "copies")] == [1, 2, 1]
    assert [(e.event_id, e.deliver_at_ms) for e in read_all(bus, "moved")] == [(receipts[2].event_id, due_ms)]
    ids = {bus.log.find_stream("default", name).stream_id: name for name in ("orders", "copies", "moved")}
    steps = [r for r in records(bus) if isinstance(r, Processed) and r.run.stream_id in ids]
    assert sorted((r.processor_id, ids[r.run.stream_id], r.run.offset, r.run.count) for r in steps) == [
        ("route_copy", "copies", 0, 3),
        ("route_copy", "moved", 0, 1),
        ("route_copy", "orders", 0, 2),
        ("route_move", "moved", 0, 1),
    ]


def test_expressions_know_both_times() -> None:
    event = Event("e", "t", 5, b"{}", deliver_at_ms=10)
    assert parse("deliver_at - timestamp").compile()(event) == 5
    assert parse("expires_at == null").compile()(event) is True


# --- history ----------------------------------------------------------------------------------------------------------


def test_the_history_shows_the_publishing_with_the_wait(bus: Bus) -> None:
    due_ms = now_ms() + 150
    receipts = publish(bus, *({"n": n} for n in range(3)), deliver_at=due_ms)
    history = History(bus.storage)
    history.catch_up()
    assert history.event("default", receipts[0].event_id) is None
    comes(bus, "orders", 3)
    history.catch_up()
    event = history.event("default", receipts[2].event_id)
    assert event is not None
    assert (event["offset"], event["deliver_at"], event["expires_at"]) == (2, rfc3339(due_ms), None)
    assert event["published_at"] >= rfc3339(due_ms)
    (step,) = history.processing_history("default", receipts[2].event_id)["processing_history"]
    assert (step["processing_stage"], step["status"]) == ("PUBLISH", "COMPLETED")
    assert 140 <= step["processing_duration_ms"] < 1000
    assert sum(isinstance(record, Published) for record in records(bus)) == 1  # one record tells of all three
    history.close()


def test_a_history_without_the_columns_builds_itself_anew(bus: Bus) -> None:
    publish(bus, {})
    history = History(bus.storage)
    history.catch_up()
    history._db.execute("DROP VIEW main.events")
    for column in ("deliver_at", "expires_at"):
        history._db.execute(f"ALTER TABLE base.events DROP COLUMN {column}")
    history._db.execute("UPDATE base.state SET format = 2")
    history.close()
    history = History(bus.storage)
    assert history.catch_up() == 2
    assert list(history.query("SELECT deliver_at, expires_at FROM events").rows()) == [(None, None)]
    history.close()


# --- the log's own ----------------------------------------------------------------------------------------------------


DELAYS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from("abc"), st.sampled_from(LANES[:2])), min_size=1, max_size=30
)


@settings(max_examples=25, deadline=None)
@given(DELAYS)
def test_events_come_once_in_the_order_of_their_due_times_and_none_before(
    delays: list[tuple[int, int, str, EventPriority]],
) -> None:
    with temporary_bus() as bus:
        info = bus.create_stream("s", partitions=2)
        start_ms = now_ms() + 50
        appends: dict[int, list[Event]] = {}
        for n, (append, delay_ms, key, lane) in enumerate(delays):
            event = Event(str(n), "t", 0, b"1", key=key, priority=lane, deliver_at_ms=start_ms + delay_ms)
            appends.setdefault(append, []).append(event)
        published: list[str] = []
        for _, events in sorted(appends.items()):
            published += [e.event_id for e in events]
            bus.log.append([Append(info.stream_id, events, schedule=Schedule())])
        all_waited = now_ms() < start_ms
        comes(bus, "s", len(delays))
        order = {event_id: i for i, event_id in enumerate(published)}
        seen: list[str] = []
        for split in info.splits():
            events, offset = [], 0
            while batches := bus.log.read(split, offset):
                for batch in batches:
                    events += batch.events()
                    assert all(batch.appended_at_ms >= (e.deliver_at_ms or 0) for e in batch.events())
                offset = batches[-1].end_offset
            seen += [e.event_id for e in events]
            if all_waited:
                assert events == sorted(events, key=lambda e: (e.deliver_at_ms, order[e.event_id]))
        assert sorted(seen) == sorted(published)


def test_more_than_fits_in_one_transaction_is_released_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduled, "MAX_RELEASED", 7)
    log = EmbeddedLog(tmp_path)
    info = log.create_stream(StreamConfig(name="s"))
    events = [Event(f"{i:03}", "t", 0, b"1", deliver_at_ms=now_ms() + 50) for i in range(100)]
    log.append([Append(info.stream_id, events, schedule=Schedule())])
    log.close()
    time.sleep(0.1)
    log = EmbeddedLog(tmp_path)
    split = Split(info.stream_id, EventPriority.NORMAL, 0)
    assert log.end_offsets(info.stream_id)[split] >= 7  # what fits in one is there at once
    eventually(lambda: log.end_offsets(info.stream_id)[split] == 100)  # nobody asks for the version
    assert [e.event_id for batch in log.read(split, 0) for e in batch.events()] == [e.event_id for e in events]
    log.close()


def damage(folder: Path, event_id: str) -> None:
    with sqlite3.connect(folder / "log.db") as database:
        (body,) = database.execute("SELECT body FROM scheduled_events WHERE event_id = ?", (event_id,)).fetchone()
        database.execute("UPDATE scheduled_events SET body = ? WHERE event_id = ?", (body[:-1] + b"\0", event_id))
    database.close()


def test_a_damaged_event_holds_up_no_other(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    due_ms = now_ms() + 150
    for name in ("a", "b"):
        publish(bus, name, event_id=name, deliver_at=due_ms)
    damage(bus.folder, "a")
    comes(bus, "orders")
    assert [e.event_id for e in read_all(bus, "orders")] == ["b"]
    assert "tried again in an hour" in caplog.text
    assert bus.log.scheduled("default").events == []  # it cannot be shown
    assert publish(bus, "a", event_id="a")[0].duplicate  # it is still there
    assert bus.log.cancel_scheduled("default", "a")


def refuse_releases(folder: Path, refuse: bool) -> None:
    statement = "CREATE TRIGGER full BEFORE DELETE ON scheduled_events BEGIN SELECT raise(ABORT, 'no'); END"
    with sqlite3.connect(folder / "log.db") as database:
        database.execute(statement if refuse else "DROP TRIGGER full")
    database.close()


def test_an_append_does_not_fail_for_what_cannot_be_released(bus: Bus) -> None:
    publish(bus, "later", deliver_at=now_ms() + 50)
    refuse_releases(bus.folder, True)
    time.sleep(0.1)
    assert [publish(bus, n)[0].position.offset for n in range(3)] == [0, 1, 2]
    bus.log.version()
    assert publish(bus, 3)[0].position.offset == 3
    refuse_releases(bus.folder, False)
    comes(bus, "orders", 5)
    assert read_all(bus, "orders")[-1].payload == "later"


def test_what_another_process_schedules_is_seen_by_one_that_only_reads(bus: Bus) -> None:
    reader: EventLog = EmbeddedLog(bus.folder)
    info = bus.log.find_stream("default", "orders")
    reader.version()
    due_ms = now_ms() + 60
    publish(bus, "x", deliver_at=due_ms)
    assert reader.wait({Split(info.stream_id, EventPriority.NORMAL, 0): 0}, 5)
    assert due_ms <= now_ms() <= due_ms + 500
    reader.close()


async def test_consumers_get_it_when_it_is_due(bus: Bus) -> None:
    due_ms = now_ms() + 200
    publish(bus, "later", deliver_at=due_ms)
    publish(bus, "now")
    got: list[Any] = []
    async with bus.consumer("group", ["orders"]) as consumer:
        async with asyncio.timeout(10):
            async for event in consumer:
                got.append((event.payload, now_ms()))
                if len(got) == 2:
                    break
    assert [payload for payload, _ in got] == ["now", "later"]
    assert due_ms <= got[1][1] <= due_ms + 1000


# --- the command line and REST ----------------------------------------------------------------------------------------


def test_the_command_line_publishes_lists_and_cancels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        esb("stream", "create", "orders")
        at = rfc3339(now_ms() + 3_600_000)
        done = esb(
            "publish", "orders", "-", "--deliver-at", at, "--expires-at", str(now_ms() + 7_200_000), stdin='{"n":1}\n{"n":2}\n'
        )
        assert re.search(rf"2 events published to orders in \d+\.\d s, to be delivered at {re.escape(at)}", done.out)
        rows = [json.loads(line) for line in esb("scheduled", "list", "--json").out.splitlines()]
        assert [(row["stream"], row["deliver_at"]) for row in rows] == [("orders", at)] * 2
        first, second = (row["event_id"] for row in rows)
        table = esb("scheduled", "list", "--stream", "orders", "--limit", "1")
        assert first in table.out
        assert second not in table.out
        assert "more than 1" in table.err
        done = esb("scheduled", "cancel", first, "unknown", code=3)
        assert done.out == "1 event cancelled\n"
        assert "'unknown'" in done.err
        assert first not in esb("scheduled", "list").out
        esb("scheduled", "cancel", second)
        assert "no events wait" in esb("scheduled", "list").err
        refused = esb("publish", "orders", "-", "--deliver-at", "soon", stdin='{"n":1}\n', code=1)
        assert "deliver_at: 'soon' is no time" in refused.err
        esb("publish", "orders", "-", "--deliver-at", "0", stdin='{"n":3}\n')
        (read,) = (json.loads(line) for line in esb("read", "orders", "--json").out.splitlines())
        assert (read["payload"], read["deliver_at"], read["expires_at"]) == ({"n": 3}, "1970-01-01T00:00:00.000Z", None)


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
def test_rest_publishes_lists_and_cancels(tmp_path: Path) -> None:
    with open_bus(tmp_path / "data") as bus, TestClient(create_app(Services(open_storage(bus.folder)), hosts=["*"])) as http:
        bus.create_stream("orders")
        at = rfc3339(now_ms() + 3_600_000)
        event = {"event_type": "t", "payload": {}, "event_id": "later", "deliver_at": at, "expires_at": now_ms() + 7_200_000}
        made = http.post("/api/v1/events", json=event | {"stream_id": "orders"})
        assert made.status_code == 201, made.text
        assert made.json() | {"stream_id": "x"} == {
            "event_id": "later", "stream_id": "x", "partition": 0, "lane": "NORMAL", "offset": -1, "duplicate": False,
            "deliver_at": at, "message": "Event scheduled successfully",
        }  # fmt: skip
        batch = http.post(
            "/api/v1/events/batch", json={"stream_id": "orders", "events": [event, {"event_type": "t", "payload": 1}]}
        )
        assert [r.get("deliver_at") for r in batch.json()["receipts"]] == [at, None]
        assert [r["duplicate"] for r in batch.json()["receipts"]] == [True, False]
        refused = http.post("/api/v1/events/batch", json={"events": [event, event | {"event_id": "x", "expires_at": at}]})
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith("expires_at[1]: ")
        listed = http.get("/api/v1/scheduled", params={"stream_id": "orders", "limit": 1}).json()
        assert [(e["event_id"], e["stream"], e["deliver_at"]) for e in listed["events"]] == [("later", "orders", at)]
        assert listed["next_cursor"] is None
        assert http.get("/api/v1/scheduled", params={"cursor": "x"}).status_code == 400
        assert http.get("/api/v1/scheduled", params={"limit": 0}).status_code == 400
        assert http.get("/api/v1/scheduled", headers={"X-Tenant-Id": "other"}).json() == {"events": [], "next_cursor": None}
        assert http.delete("/api/v1/scheduled/later").json()["event_id"] == "later"
        assert http.delete("/api/v1/scheduled/later").status_code == 404
