"""What services do in process beyond the everyday, they do at a URL: no field is lost, no method is missing."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client_buses import KINDS, bus_of, done
from running import served

from event_streaming_bus import EventConfig
from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.model import Partition
from event_streaming_bus.errors import (
    ConfigError,
    ExpressionError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    StreamNotFoundError,
)
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import InvalidEventPolicy, StreamConfig
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError
from event_streaming_bus.store.letters import LetterFilter
from event_streaming_bus.store.recorded import EventQuery
from event_streaming_bus.store.settings import SETTINGS, SNAPSHOT_EVENTS

ORDER = {"schema_name": "order", "json_schema": {"type": "object", "required": ["order_id"]}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(params=KINDS)
def bus(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[Any]:
    with bus_of(request.param, url, tmp_path) as bus:
        yield bus


async def append(bus: Any, aggregate_id: str, *payloads: dict[str, Any], kind: str = "Account") -> Any:
    events = [NewEvent(event_type="changed", event_data=payload) for payload in payloads]
    return await done(bus.sourcing.append([NewEvents(aggregate_id=aggregate_id, aggregate_type=kind, events=events)]))


# --- aggregates -------------------------------------------------------------------------------------------------------


async def test_an_event_is_told_with_its_place_and_a_state_with_its_fold(bus: Any) -> None:
    first, second = await append(bus, "a", {"n": 1}, {"n": 2})
    assert first.place.split == second.place.split
    assert (first.place.offset, second.place.offset) == (0, 1)
    consumer = bus.consumer("g", ["Account"])
    events = await done(consumer.poll(timeout_s=10))
    assert [consumer.position(event) for event in events] == [first.place, second.place]
    await done(consumer.close())
    assert (await done(bus.sourcing.rebuild("a"))).fold == "the default fold"
    await done(bus.sourcing.lifecycle.delete("a"))
    await append(bus, "a", {"n": 3})
    assert (await done(bus.sourcing.get_aggregate("a"))).begin_version == 2
    await append(bus, "o", {}, kind="Order")
    assert sorted(await done(bus.sourcing.list_types())) == ["Account", "Order"]


async def test_the_feed_can_be_asked_for_some_events(bus: Any) -> None:
    await append(bus, "a", {"n": 1, "by": "ann"}, {"n": 2, "by": None})
    await append(bus, "b/ %", {"n": 3, "by": "ann"})

    async def found(**query: Any) -> list[Any]:
        page = await done(bus.sourcing.read(EventQuery(**query)))
        assert page.is_end
        return [event.payload["n"] for event in page.events]

    assert await found(aggregate_ids=("b/ %",)) == [3]
    assert await found(aggregate_ids=("a", "b/ %")) == [1, 2, 3]
    assert await found(where={"by": "ann"}) == [1, 3]
    assert await found(where={"by": None}) == [2]
    assert await found(where={"by": "ann"}, aggregate_ids=("a",), event_types=("changed",)) == [1]
    for nothing in ({"aggregate_ids": ()}, {"aggregate_types": ()}, {"event_types": ()}, {"where": {"by": "bob"}}):
        assert await found(**nothing) == []


async def test_a_subscription_is_told_at_once_and_asks_seldom(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bus_of(KINDS[1], url, tmp_path) as bus:
        answer, asked = bus.sourcing._connection.answer, []

        async def counted(request: Any) -> bytes:
            asked.append(request.path)
            body: bytes = await answer(request)
            return body

        monkeypatch.setattr(bus.sourcing._connection, "answer", counted)
        subscription = bus.sourcing.subscribe(EventQuery(where={"by": "ann"}))
        first = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.6)
        for by in ("bob", "ann"):
            await append(bus, "a", {"by": by})
        sent_s = time.monotonic()
        assert (await asyncio.wait_for(first, 10)).payload == {"by": "ann"}
        assert time.monotonic() - sent_s < 2
        assert len([path for path in asked if "/events?" in path]) == 1
        await subscription.aclose()


# --- routes and projections -------------------------------------------------------------------------------------------


async def test_several_rules_are_applied_at_once_or_not_at_all(bus: Any) -> None:
    streams = {name: bus.create_stream(name) for name in ("orders", "large", "small")}
    rules = [
        {"name": "large", "stream": "orders", "match": "payload.total > 10", "to": ["large"]},
        {"name": "small", "stream": streams["orders"].stream_id, "match": "payload.total < 5", "to": streams["small"].stream_id},
    ]
    read = bus.routing.read(rules, ["routes[0]", "routes[1]"])
    assert [(route.stream, route.to) for route in read] == [("orders", ("large",)), ("orders", ("small",))]
    assert [(each.name, each.verdict.value) for each in bus.routing.preview(read)] == [("large", "new"), ("small", "new")]
    assert bus.routing.rules() == []
    assert [each.version for each in await done(bus.routing.apply_routes(rules))] == [1, 1]
    changed = [msgspec.structs.replace(read[0], match="payload.total > 20"), read[1]]
    large, small = bus.routing.apply(changed)
    assert (large.verdict.value, large.version, small.verdict.value, small.changes) == ("changed", 2, "unchanged", [])
    ((change, pointer, before, after),) = [(each.change, each.pointer, each.before, each.after) for each in large.changes]
    assert (change, pointer, before, after) == ("changed", "/match", "payload.total > 10", "payload.total > 20")
    broken = [rules[0] | {"order": 1}, rules[1] | {"match": "1 +"}]
    with pytest.raises(ExpressionError, match=r"^routes\[1\].match: "):
        await done(bus.routing.apply_routes(broken))
    with pytest.raises(ConfigError, match="a cycle"):
        bus.routing.apply(bus.routing.read([{"name": "back", "stream": "large", "to": "orders"}], [""]))
    with pytest.raises(StreamNotFoundError, match=r"^rules\[0\].to\[0\]: "):
        bus.routing.read([rules[0] | {"to": ["nowhere"]}], ["rules[0]"])
    with pytest.raises(ConfigError, match="two rules with the name 'large'"):
        bus.routing.read([rules[0], rules[0]], ["a", "b"])
    assert [(rule.route.name, rule.version, rule.route.order) for rule in bus.routing.rules()] == [
        ("large", 2, 100),
        ("small", 1, 100),
    ]


async def test_a_projection_can_be_read_and_previewed(bus: Any, tmp_path: Path) -> None:
    declared = {
        "name": "accounts",
        "from": {"aggregate_types": ["Account"]},
        "tables": {"accounts": {"columns": {"id": "text", "n": "integer"}, "key": ["id"]}},
        "on": {"opened": [{"upsert": {"id": "aggregate_id", "n": "payload.n"}, "table": "accounts"}]},
    }
    file = tmp_path / "accounts.json"
    file.write_bytes(msgspec.json.encode(declared))
    (definition,) = bus.projections.read(file)
    assert bus.projections.read(declared) == [definition] == bus.projections.read(definition)
    with pytest.raises(ProjectionConfigError):
        bus.projections.read({"name": "accounts"})
    for _ in range(2):  # it stays new: nothing was declared
        assert [tuple(each) for each in await done(bus.projections.preview(file))] == [("accounts", "new")]
    await done(bus.projections.apply(definition))
    assert [each[1].value for each in await done(bus.projections.preview(declared))] == ["unchanged"]
    await done(bus.projections.delete("accounts"))


# --- dead letters and schemas -----------------------------------------------------------------------------------------


async def test_dead_letters_are_counted_and_reported_one_by_one(bus: Any) -> None:
    schema_id = await done(bus.schemas.register_enhanced_schema(ORDER))
    config = StreamConfig(name="orders", schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER)
    if isinstance(bus, Bus):
        bus.log.create_stream(config)
    else:
        await done(bus.streams.create_stream(config))
    await done(bus.publishing.publish_batch(EventConfig(event_type="t"), [{"a": n} for n in range(3)], "orders", keys="xyz"))
    letters = bus.dead_letters
    assert (letters.count(LetterFilter()), letters.count(LetterFilter(key="y")), letters.count(LetterFilter(key="n"))) == (
        3,
        1,
        0,
    )
    with pytest.raises(InvalidInputError, match="one of the three"):
        letters.count()
    with pytest.raises(InvalidInputError, match=r"filter\.status"):
        letters.count(LetterFilter(status=None))
    reports = list(letters.retry(where=LetterFilter(key="x")))
    assert [(report.result.value, report.events_written) for report in reports] == [("FAILED", 0)]
    assert "order_id" in (reports[0].message or "")
    dropped = list(letters.drop([reports[0].dead_letter_id]))
    assert [(report.dead_letter_id, report.result.value) for report in dropped] == [(reports[0].dead_letter_id, "DROPPED")]
    assert letters.count(LetterFilter(processor="validation")) == 2
    if not isinstance(bus, Bus):  # in process there is no history unless somebody opens it
        assert letters.count(sql="SELECT dead_letter_id FROM dead_letters LIMIT 0") == 0


async def test_a_schema_is_told_as_it_was_registered(bus: Any) -> None:
    text = '{ "type": "record",   "name": "order", "fields": [] }'
    record = bus.schemas.register({"schema_name": "order", "avro_schema": text})
    assert (record.definition, record.group_version, record.more, record.text.rule_set) == (text, 1, None, None)
    assert await done(bus.schemas.list_versions("order")) == [record]
    assert (await done(bus.schemas.deprecate_schema(record.schema_id))).definition == text
    assert await done(bus.schemas.activate_schema(record.schema_id)) == record


# --- consuming and settings -------------------------------------------------------------------------------------------


async def test_partitions_rest_until_they_are_resumed(bus: Any) -> None:
    stream = bus.create_stream("orders", partitions=2)
    consumer = bus.consumer("g", ["orders"], max_poll_events=3, max_unacknowledged=50)
    with pytest.raises(InvalidStateError):
        consumer.pause(Partition(stream.stream_id, 0))
    keys = [f"k{n}" for n in range(20)]
    await done(bus.publishing.publish_batch(EventConfig(event_type="t"), [{}] * 20, "orders", keys=keys))

    async def partitions(timeout_s: float) -> list[int]:
        found = []
        while events := await done(consumer.poll(timeout_s=timeout_s)):
            found += [consumer.position(event).split.partition for event in events]
        return found

    assert await done(consumer.poll(max_events=1, timeout_s=10))
    await done(consumer.commit())
    consumer.pause(Partition(stream.stream_id, 0))
    assert set(await partitions(0.4)) == {1}
    with pytest.raises(InvalidStateError):
        consumer.pause(Partition(stream.stream_id, 7))
    consumer.resume(Partition(stream.stream_id, 0))
    assert set(await partitions(0.4)) == {0}
    await done(consumer.close())


async def test_what_was_read_ahead_rests_too(url: str, tmp_path: Path) -> None:
    with bus_of(KINDS[2], url, tmp_path) as bus:
        stream = bus.create_stream("orders", partitions=2)
        bus.publishing.publish_batch(EventConfig(event_type="t"), [{}] * 20, "orders", keys=[f"k{n}" for n in range(20)])
        seen: list[int] = []
        with bus.consumer("g", ["orders"]) as consumer:
            for event in consumer:  # reads all of it ahead
                seen.append(consumer.position(event).split.partition)
                if len(seen) == 1:
                    rests = seen[0]
                    consumer.pause(Partition(stream.stream_id, rests))
                    others = sum(held.place.partition != rests for held in consumer._hands._ahead)
                    assert 0 < others < 19
                elif len(seen) == 1 + others:
                    assert set(seen[1:]) == {1 - rests}
                    consumer.resume(Partition(stream.stream_id, rests))
                elif len(seen) == 20:
                    break
        assert set(seen[1 + others :]) == {rests}


async def test_a_consumer_says_how_much_it_holds_and_when_to_try_again(bus: Any) -> None:
    bus.create_stream("orders")
    await done(bus.publishing.publish_batch(EventConfig(event_type="t"), [{"n": n} for n in range(5)], "orders"))
    retry = RetryPolicy(backoff_ms=60_000, max_backoff_ms=60_000)
    consumer = bus.consumer("g", ["orders"], auto_commit=False, max_unacknowledged=2, retry=retry)
    first, second = await done(consumer.poll(timeout_s=10))
    assert await done(consumer.poll(timeout_s=0.3)) == []
    consumer.ack(first)
    consumer.nack(second, "no")
    assert [event.payload for event in await done(consumer.poll(timeout_s=10))] == [{"n": 2}]
    assert await done(consumer.poll(timeout_s=0.4)) == []  # by default it would be here again by now
    await done(consumer.close())


async def test_settings_are_told_set_and_reset(bus: Any) -> None:
    settings = bus.settings
    assert [each["name"] for each in settings.told()] == list(SETTINGS)
    assert settings.value(SNAPSHOT_EVENTS) == 200
    settings.set(SNAPSHOT_EVENTS, 7)
    assert (settings.value(SNAPSHOT_EVENTS), settings.told(SNAPSHOT_EVENTS)[0]["source"]) == (7, "set")
    settings.set(SNAPSHOT_EVENTS, None)
    assert settings.value(SNAPSHOT_EVENTS) is None
    settings.reset(SNAPSHOT_EVENTS)
    assert settings.told(SNAPSHOT_EVENTS)[0]["source"] == "default"
    for wrong in (0, "7"):
        with pytest.raises(InvalidInputError):
            settings.set(SNAPSHOT_EVENTS, wrong)
    for ask in (settings.value, settings.told, settings.reset, lambda name: settings.set(name, 1)):
        with pytest.raises(NotFoundError, match="There is no setting 'colour'"):
            ask("colour")
