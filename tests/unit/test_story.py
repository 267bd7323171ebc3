"""Stories: one answer to why an event is where it is, and back from results to the events that made them."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from bytewax.testing import run_main
from running import commands, served

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.errors import EventNotFoundError, InvalidInputError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, InvalidEventPolicy, StreamConfig
from event_streaming_bus.routing.service import RoutingService
from event_streaming_bus.store.history.bounded import MAX_DATA_BYTES
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.redeliveries import redelivery, retry_stream_name
from event_streaming_bus.story.forms import lines
from event_streaming_bus.story.model import Story
from event_streaming_bus.story.service import StoryService
from event_streaming_bus.testing import read_all, temporary_bus


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def processor(name: str, kind: str, source: str, target: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = {"processor_name": name, "processor_type": kind, "source_stream_id": source, "target_stream_id": target}
    return given | {"processing_logic": logic} | more


def run_flow(bus: Bus, streams: list[str], *processors: dict[str, Any]) -> None:
    flow = {"streams": [{"name": name} for name in streams], "processors": list(processors)}
    plan = deploy(parse_flow(flow, name="flow"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def publish(bus: Bus, stream: str, *rows: tuple[int, Any], **config: Any) -> list[str]:
    given = EventConfig(event_type="order", **config)
    payloads, times = [payload for _, payload in rows], [at for at, _ in rows]
    return [r.event_id for r in bus.publishing.submit(given, payloads, stream_id=stream, timestamps_ms=times).result()]


def story(bus: Bus, event_id: str, **more: Any) -> Story:
    return asyncio.run(StoryService(bus.storage).story(event_id, **more))


# --- forth ------------------------------------------------------------------------------------------------------------


def test_a_story_has_every_step_in_order_with_what_it_found_out(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "2.0", "json_schema": {"required": ["total"]}})
    for name in ("orders", "big"):
        bus.log.create_stream(StreamConfig(name=name, schema_id=schema.schema_id if name == "orders" else None))
    service = RoutingService(bus.storage)
    service.apply(
        service.read([{"name": "mark", "stream": "orders", "set_metadata": {"seen": "true"}}], [""], "default"), "default"
    )
    passed, failed = publish(bus, "orders", (0, {"total": 20}), (1, {"total": None}))
    logic = {"filter_expression": "payload.total > 10"}
    run_flow(bus, ["orders", "big"][1:], processor("big_orders", "FILTER", "orders", "big", logic))

    told = story(bus, passed)
    assert [(step.stage, step.status, step.by) for step in told.steps] == [
        ("PUBLISH", "COMPLETED", "publisher"),
        ("VALIDATION", "COMPLETED", "validation"),
        ("ROUTING", "COMPLETED", "mark@1: orders (metadata.seen)"),
        ("PROCESSING", "COMPLETED", "big_orders"),
    ]
    assert [step.at for step in told.steps] == sorted(step.at for step in told.steps)
    validation, routing, work = told.steps[1:]
    assert validation.told["schema_version"] == "2.0"
    assert (routing.told["from_stream"], routing.told["rule_version"]) == ("orders", 1)
    (made,) = told.outputs
    assert (made.stream, made.by, work.outputs) == ("big", "big_orders", (made.event_id,))
    assert told.event["payload"] == {"total": 20}
    assert told.waits.keys() == {"append_ms", "lane_ms"}
    assert told.totals["failed_steps"] == 0
    assert told.totals["from_first_to_last_ms"] >= told.waits["lane_ms"] >= 0
    assert "routed by mark@1" in told.summary

    told = story(bus, failed)
    assert told.steps[-1].status == "FAILED"
    assert told.steps[-1].error is not None
    assert told.steps[-1].error.error_type == "TypeError"
    (letter,) = told.dead_letters
    assert (letter["step"], letter["processor_name"]) == ("big_orders", "big_orders")
    assert "it failed in big_orders" in told.summary

    back = story(bus, made.event_id)
    assert back.origin is not None
    assert [each.event_id for each in back.origin.events] == [passed]
    assert back.origin.found_by == "the causation_id of the event"


async def test_a_story_tells_what_consumer_groups_had(bus: Bus) -> None:
    bus.create_stream("orders")
    (event_id,) = publish(bus, "orders", (0, {"n": 1}))
    async with bus.consumer("mail", ["orders"]) as consumer:
        await polled(consumer)
    async with bus.consumer("billing", ["orders"]) as consumer:
        consumer.park((await polled(consumer))[0], "no such account")
    parked = await StoryService(bus.storage).story(event_id)
    assert [(each.group, each.state) for each in parked.deliveries] == [("mail", "DELIVERED"), ("billing", "DEAD_LETTER")]
    assert len(parked.dead_letters) == 1
    assert "it is a dead letter" in parked.summary

    group_id = GroupCoordinator(bus.storage).get("default", "billing").group_id
    stream = bus.log.create_stream(StreamConfig(name=retry_stream_name(group_id)))
    bus.log.append([Append(stream.stream_id, [redelivery(letter) for letter in read_all(bus, "_dead_letters")])])
    async with bus.consumer("billing", ["orders"]) as consumer:
        await polled(consumer)
    again = (await StoryService(bus.storage).story(event_id)).deliveries[1]
    assert (again.state, again.deliveries, again.redeliveries, again.dead_letters) == ("DELIVERED", 1, 1, 1)
    assert any("redelivered 1 times" in line for line in lines(await StoryService(bus.storage).story(event_id)))


async def polled(consumer: Consumer) -> Sequence[Event]:
    async with asyncio.timeout(5):
        while not (events := await consumer.poll(timeout_s=0.2)):
            pass
    return events


def test_an_event_that_broke_its_schema_is_told_of(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "1.0", "json_schema": {"required": ["total"]}})
    policy = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="guarded", schema_id=schema.schema_id, on_invalid=policy))
    (event_id,) = publish(bus, "guarded", (0, {}))
    told = story(bus, event_id)
    (step,) = told.steps
    assert (step.stage, step.status) == ("VALIDATION", "FAILED")
    assert step.error is not None
    assert "total" in (step.error.message or "")
    assert len(told.dead_letters) == 1


def test_a_long_payload_is_cut_and_says_so(bus: Bus) -> None:
    bus.create_stream("orders")
    (event_id,) = publish(bus, "orders", (0, {"text": "ü" * 40_000}))
    event = story(bus, event_id).event
    assert (event["truncated"], event["total_bytes"]) == (True, 80_011)
    assert len(event["payload"].encode()) <= MAX_DATA_BYTES


def test_what_is_not_there_is_said(bus: Bus) -> None:
    bus.create_stream("orders")
    (event_id,) = publish(bus, "orders", (0, {}))
    with pytest.raises(EventNotFoundError):
        story(bus, "evt_none")
    with pytest.raises(EventNotFoundError):
        story(bus, event_id, tenant_id="other")
    with pytest.raises(InvalidInputError, match="max_items"):
        story(bus, event_id, max_items=0)


# --- back -------------------------------------------------------------------------------------------------------------

SUM = {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["country"]}
TUMBLING = {"window_type": "tumbling", "window_size_ms": 1000}


def test_a_result_of_a_window_leads_back_to_the_offsets_that_made_it(bus: Bus) -> None:
    bus.create_stream("orders")
    rows = [(0, "NL", 1), (10, "DE", 2), (999, "NL", 4), (1000, "NL", 8), (9000, "NL", 16), (500, "NL", 32)]
    given = publish(bus, "orders", *((at, {"country": country, "total": total}) for at, country, total in rows))
    run_flow(bus, ["sums"], processor("by_country", "AGGREGATE", "orders", "sums", SUM, window_config=TUMBLING))
    results = {(e.key, e.payload["window_start"]): e for e in read_all(bus, "sums")}
    first = results["NL", "1970-01-01T00:00:00.000Z"]
    assert first.payload["sum_total"] == 5  # what came at 500 was late
    told = story(bus, first.event_id)
    assert told.origin is not None
    assert [each.event_id for each in told.origin.events] == [given[0], given[2]]
    assert told.origin.offsets == ({"stream": "orders", "lane": "NORMAL", "partition": 0, "first": 0, "last": 2, "events": 2},)
    assert (told.origin.processor, told.origin.window_start) == ("by_country", "1970-01-01T00:00:00.000Z")
    assert "with the key of the result" in told.origin.found_by
    assert "made of 2 events" in told.summary

    forth = story(bus, given[2])
    assert [each.event_id for each in forth.results] == [first.event_id]
    late = story(bus, given[5])
    assert [step.stage for step in late.steps].count("LATE") == 1

    cut = story(bus, first.event_id, max_items=1)
    assert cut.origin is not None
    assert (len(cut.origin.events), cut.origin.is_cut_off, cut.is_cut_off) == (1, True, True)


def test_keys_of_several_fields_numbers_and_nulls_lead_back_too(bus: Bus) -> None:
    bus.create_stream("orders")
    keys = [{"a": {"b": 1}, "c": "x"}, {"a": {"b": 2}, "c": "x"}, {"a": {"b": 1}, "c": None}, {"a": {"b": 1}}]
    given = publish(bus, "orders", *((i, key | {"total": 1}) for i, key in enumerate(keys)))
    logic = SUM | {"group_by": ["a.b", "c"]}
    run_flow(bus, ["sums"], processor("grouped", "AGGREGATE", "orders", "sums", logic, window_config=TUMBLING))
    run_until_end(bus)
    found = {}
    for event in read_all(bus, "sums")[:3]:
        origin = story(bus, event.event_id).origin
        assert origin is not None
        found[event.key] = [each.event_id for each in origin.events]
    assert found == {'[1,"x"]': [given[0]], '[2,"x"]': [given[1]], "[1,null]": given[2:]}


def run_until_end(bus: Bus) -> None:
    """Another event, long after, and the flow once more: so its windows close."""
    publish(bus, "orders", (100_000, {"total": 0, "a": {"b": 9}, "c": "z"}))
    record = next(each for each in bus.storage.catalog.list_processors("default"))
    flow = {"processors": [msgspec.json.decode(record.config)]}
    plan = deploy(parse_flow(flow, name="flow"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def test_a_result_of_a_join_leads_back_to_its_pair(bus: Bus) -> None:
    for name in ("orders", "payments"):
        bus.create_stream(name)
    orders = publish(bus, "orders", *((i, {"order": f"o{i}", "n": i}) for i in range(5)))
    payments = publish(bus, "payments", *((i, {"order": f"o{i}", "paid": True}) for i in range(1, 6)))
    publish(bus, "orders", (100_000, {"order": "last"}))
    publish(bus, "payments", (100_000, {"order": "other"}))
    logic = {
        "join_stream_id": "payments",
        "on": ["order"],
        "within": {"before_ms": 10, "after_ms": 10},
        "fields": {"n": "left.n"},
    }
    run_flow(bus, ["paid"], processor("match", "JOIN", "orders", "paid", logic))
    found = {}
    for event in read_all(bus, "paid"):
        origin = story(bus, event.event_id).origin
        assert origin is not None
        assert "no doubt" in origin.found_by
        found[event.payload["n"]] = [each.event_id for each in origin.events]
    assert found == {i: [orders[i], payments[i - 1]] for i in range(1, 5)}


# --- over REST and on the command line --------------------------------------------------------------------------------


def test_stories_over_rest_and_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        (tmp_path / "orders.ndjson").write_text('{"n": 1}\n')
        esb("stream", "create", "orders")
        esb("publish", "orders", "orders.ndjson", "--type", "order")
        event_id = esb("sql", "select event_id from events", "--csv").out.split()[1]
        told = esb("why", event_id)
        assert told.out.startswith("It is at orders/NORMAL/0@0, because it was published there.")
        assert "PUBLISH     COMPLETED publisher" in told.out
        assert "There is no event 'evt_none'" in esb("why", "evt_none", code=1).err
        with served(tmp_path / "esb-data") as url:
            answer = httpx.get(f"{url}/api/v1/events/{event_id}/story", timeout=30)
            assert answer.json()["event"]["payload"] == {"n": 1}
            assert httpx.get(f"{url}/api/v1/events/evt_none/story", timeout=30).status_code == 404
            assert esb("why", event_id).out == told.out
            assert '"event_id": "' + event_id in esb("why", event_id, "--json").out
            assert "There is no event 'evt_none'" in esb("why", "evt_none", code=1).err


def test_lines_are_bounded(bus: Bus) -> None:
    bus.create_stream("orders")
    (event_id,) = publish(bus, "orders", (0, {}))
    publish(bus, "orders", *((i, {}) for i in range(50)), causation_id=event_id)
    told = lines(story(bus, event_id, max_items=20))
    assert sum("orders/NORMAL/0@" in line for line in told[1:]) == 10
    assert "  ... and 10 more" in told
    assert told[-1] == "... there is more"
