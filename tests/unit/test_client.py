"""The client of a server: what is done by the SDK in process is done alike at a URL, and ends alike if it fails."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client_buses import KINDS, bus_of, done, groups_of
from running import served

from event_streaming_bus import EventConfig
from event_streaming_bus.bus import Bus
from event_streaming_bus.client.client_errors import NotRemoteError
from event_streaming_bus.erasure.service import SubjectNotKnownError
from event_streaming_bus.errors import (
    AlreadyExistsError,
    BusError,
    InvalidInputError,
    SchemaNotFoundError,
    StreamNotFoundError,
    ValidationFailedError,
)
from event_streaming_bus.models import EventPriority, InvalidEventPolicy, StreamConfig
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.letters import LetterFilter

ORDER = {
    "schema_name": "order",
    "json_schema": {
        "type": "object",
        "properties": {"order_id": {"type": "string"}, "total": {"type": "number", "minimum": 0}},
        "required": ["order_id", "total"],
    },
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(params=KINDS[:2])
def bus(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[Any]:
    with bus_of(request.param, url, tmp_path) as bus:
        yield bus


async def told(call: Any) -> tuple[type[BusError], str, dict[str, Any]]:
    """How a call fails: ids are left out."""
    with pytest.raises(BusError) as caught:
        await done(call())
    text = msgspec.json.encode([caught.value.message, caught.value.details], enc_hook=str).decode()
    message, details = msgspec.json.decode(
        re.sub(r"(str|sch|evt|idem|proc|grp)_[0-9A-Za-z_]{20,}|(?<=_ms\":)[0-9]{13}|(?<=position\":)[0-9]+", "0", text)
    )
    return type(caught.value), message, details


async def make_guarded(bus: Any, **more: Any) -> str:
    """A stream of orders with a schema; the schema's id."""
    schema_id = await done(bus.schemas.register_enhanced_schema(ORDER))
    config = StreamConfig(name="orders", schema_id=schema_id, **more)
    if isinstance(bus, Bus):
        bus.log.create_stream(config)
    else:
        await done(bus.streams.create_stream(config))
    return str(schema_id)


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bus", KINDS, indirect=True)
async def test_events_are_published_with_all_that_is_said_of_them(bus: Any) -> None:
    stream = bus.create_stream("orders", partitions=2)
    config = EventConfig(event_type="order.created", priority=EventPriority.HIGH, metadata={"a": 1}, correlation_id="c")
    event_id = await done(bus.publishing.publish_event(config, {"n": 1}, "orders", user_id="ann"))
    receipts = await done(
        bus.publishing.publish_batch(config, [{"n": 2}, b'{"n":3}'], stream.stream_id, keys=["k", "k"], timestamps_ms=[7, 8])
    )
    assert [receipt.duplicate for receipt in receipts] == [False, False]
    first, second = (receipt.position for receipt in receipts)
    assert first.split == second.split
    assert (second.offset - first.offset, first.split.lane, first.split.stream_id) == (1, EventPriority.HIGH, stream.stream_id)
    consumer = bus.consumer("g", ["orders"])
    events = {event.event_id: event for event in await done(consumer.poll(timeout_s=10))}
    assert len(events) == 3
    event = events[event_id]
    assert (event.payload, event.priority, event.metadata, event.correlation_id, event.user_id) == (
        {"n": 1},
        EventPriority.HIGH,
        {"a": 1},
        "c",
        "ann",
    )
    assert [(events[r.event_id].payload, events[r.event_id].timestamp_ms, events[r.event_id].key) for r in receipts] == [
        ({"n": 2}, 7, "k"),
        ({"n": 3}, 8, "k"),
    ]
    await done(consumer.close())


async def test_an_event_with_an_id_of_its_own_is_there_once(bus: Any) -> None:
    bus.create_stream("orders")
    config = EventConfig(event_type="t", event_id="mine")
    first, second = [(await done(bus.publishing.publish_batch(config, [{}], "orders")))[0] for _ in range(2)]
    assert (first.event_id, first.duplicate, second.duplicate) == ("mine", False, True)
    assert first.position == second.position


async def test_an_event_may_be_delivered_later(bus: Any) -> None:
    bus.create_stream("orders")
    config = EventConfig(event_type="t", deliver_at="2034-01-01T00:00:00Z")
    (receipt,) = await done(bus.publishing.publish_batch(config, [{}], "orders"))
    assert (receipt.position.offset, receipt.deliver_at_ms) == (-1, 2_019_686_400_000)


@pytest.mark.parametrize("bus", KINDS, indirect=True)
def test_publishing_need_not_be_waited_for(bus: Any) -> None:
    bus.create_stream("orders")
    futures = [bus.publishing.submit(EventConfig(event_type="t"), [{"n": n}], stream_id="orders") for n in range(3)]
    assert len({future.result(timeout=30)[0].position.offset for future in futures}) == 3


async def test_what_fails_fails_alike(url: str, tmp_path: Path) -> None:
    async def failures(bus: Any) -> list[Any]:
        await make_guarded(bus)
        bus.create_stream("free")
        await done(bus.sourcing.append_event("a", "Account", {"n": 1}, "opened", "no_stream"))
        publish, order = bus.publishing.publish_batch, EventConfig(event_type="t")
        calls = [
            lambda: publish(order, [{}], "nowhere"),
            lambda: publish(order, [{"order_id": "a", "total": 1}, {"order_id": 1, "total": -1}], "orders"),
            lambda: publish(order, [b"{no json"], "free"),
            lambda: publish(order, [object()], "free"),
            lambda: publish(order, [{}], "free", keys=["a", "b"]),
            lambda: publish(EventConfig(event_type="t", timestamp="yesterday"), [{}], "free"),
            lambda: publish(EventConfig(event_type="t"), ["x" * 1_100_000], "free"),
            lambda: bus.sourcing.append_event("a", "Account", {"n": 1}, "opened", 0, event_id="evt_second"),
            lambda: bus.sourcing.rebuild("b"),
            lambda: bus.schemas.register_enhanced_schema({"schema_name": "s", "json_schema": {"type": "objekt"}}),
            lambda: bus.schemas.get_schema("sch_none"),
            lambda: bus.routing.set_route({"name": "r", "stream": "orders", "match": "1 +", "to": "free"}),
            lambda: bus.routing.get_route("none"),
            lambda: bus.processors.create_stream_processor({"processor_name": "p", "processor_type": "NONE"}),
            lambda: bus.processors.start_stream_processor("proc_none"),
            lambda: groups_of(bus).get_consumer_group("none"),
            lambda: groups_of(bus).create_consumer_group({"group_name": "g", "max_retries": -1}),
            lambda: bus.dead_letters.retry_dead_letter("none"),
            lambda: bus.projections.describe("none"),
            lambda: bus.erasure.get_certificate("none"),
            lambda: bus.correlation.tree("none"),
        ]
        return [await told(call) for call in calls]

    found = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        with bus_of(kind, url, tmp_path / kind) as bus:
            found.append(await failures(bus))
    in_process, remote, blocking = found
    for ours, theirs, without_await in zip(in_process, remote, blocking, strict=True):
        assert theirs == ours
        assert without_await == ours


async def test_errors_are_those_that_programs_catch(bus: Any) -> None:
    await make_guarded(bus)
    with pytest.raises(StreamNotFoundError):
        await done(bus.publishing.publish_event(EventConfig(event_type="t"), {}, "nowhere"))
    with pytest.raises(ValidationFailedError) as caught:
        await done(bus.publishing.publish_event(EventConfig(event_type="t"), {"order_id": "a", "total": -1}, "orders"))
    assert caught.value.details["violations"][0]["pointer"] == "/total"
    await done(bus.sourcing.append_event("a", "Account", {"n": 1}, "opened", 0))
    with pytest.raises(VersionConflictError) as conflict:
        await done(bus.sourcing.append_event("a", "Account", {"n": 1}, "opened", 0))
    assert conflict.value.details["current_version"] == 1


# --- schemas, routes, groups ------------------------------------------------------------------------------------------


async def test_schemas_are_registered_found_and_retired(bus: Any) -> None:
    schema_id = await make_guarded(bus, on_invalid=InvalidEventPolicy.DEAD_LETTER)
    assert schema_id == await done(bus.schemas.register_enhanced_schema(ORDER))
    second = bus.schemas.register(ORDER | {"evolution_strategy": "COMPATIBLE", "metadata": {"team": "shop"}})
    listed = await done(bus.schemas.list_versions("order"))
    assert [record.schema_id for record in listed] == [schema_id, second.schema_id]
    assert msgspec.json.decode(listed[0].definition) == ORDER["json_schema"]
    assert (listed[1].text.metadata, listed[1].version, listed[1].is_active) == ({"team": "shop"}, 2, True)
    tenant = listed[0].tenant_id
    assert bus.schemas.find_reference(tenant, f"order@{listed[0].schema_version}").schema_id == schema_id
    with pytest.raises(SchemaNotFoundError, match="There is no version"):
        bus.schemas.find(tenant, "order", "9.9")
    answer = await done(bus.schemas.validate_event(schema_id, {"order_id": 1, "total": 1}))
    assert (answer["is_valid"], answer["validation_errors"][0]["path"]) == (False, "order_id")
    retired = await done(bus.schemas.deprecate_schema(schema_id, refuse_producers_after_ms=2_019_686_400_000, message="old"))
    assert (retired.deprecation.refuse_after_ms, retired.deprecation.message) == (2_019_686_400_000, "old")
    assert not (await done(bus.schemas.deactivate_schema(schema_id))).is_active
    assert (await done(bus.schemas.delete_schema(second.schema_id))).schema_id == second.schema_id
    assert [record.schema_id for record in await done(bus.schemas.list_schemas())] == [schema_id]


async def test_routes_are_set_looked_at_and_removed(bus: Any) -> None:
    for name in ("orders", "large"):
        bus.create_stream(name)
    config = {"name": "big", "stream": "orders", "match": "payload.total > 10", "to": ["large"], "set_metadata": {"a": 1}}
    rule = await done(bus.routing.set_route(config))
    assert (rule.version, rule.route.to, rule.route.set_metadata) == (1, ("large",), {"a": 1})
    assert await done(bus.routing.list_routes(stream="orders")) == [rule] == bus.routing.rules()
    assert (await done(bus.routing.set_route(config | {"to": "large", "order": 5}))).version == 2
    assert (await done(bus.routing.get_route("big", version=1))).route == rule.route
    assert (await done(bus.routing.remove_route("big"))).version == 2
    assert await done(bus.routing.list_routes()) == []


async def test_groups_are_managed(bus: Any) -> None:
    bus.create_stream("orders", partitions=2)
    groups = groups_of(bus)
    group_id = await done(groups.create_consumer_group({"group_name": "g", "max_retries": 1}))
    with pytest.raises(AlreadyExistsError):
        await done(groups.create_consumer_group({"group_name": "g", "max_retries": 2}))
    await done(bus.publishing.publish_batch(EventConfig(event_type="t"), [{"n": n} for n in range(4)], "orders"))
    consumer = bus.consumer("g", ["orders"], client_id="me")
    await done(consumer.poll(timeout_s=10))
    await done(consumer.commit())
    group = await done(groups.get_consumer_group("g"))
    assert (group.group_id, group.config.max_retries, group.is_paused) == (group_id, 1, False)
    (member,) = group.members
    stream_id = member.assignment[0].stream_id
    assert (member.client_id, member.streams, [each.partition for each in member.assignment]) == ("me", (stream_id,), [0, 1])
    assert consumer.assignment == member.assignment
    assert await done(groups.list_consumer_groups()) == [await done(groups.get_consumer_group(group_id))]
    assert (await done(groups.get_consumer_lag("g")))["total_lag"] == 0
    await done(consumer.close())
    assert (await done(groups.pause("g"))).is_paused
    assert not (await done(groups.resume("g"))).is_paused
    preview = await done(groups.preview_reset("g", to="earliest"))
    assert preview == await done(groups.reset_offsets("g", to="earliest"))
    assert (preview["events_read_again"], preview["is_allowed"]) == (4, True)
    assert (await done(groups.delete_consumer_group("g"))).group_id == group_id
    assert await done(groups.list_consumer_groups()) == []


# --- aggregates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bus", KINDS, indirect=True)
async def test_aggregates_are_appended_to_and_rebuilt(bus: Any) -> None:
    event_id = await done(
        bus.sourcing.append_event("user/1 %", "User", {"name": "Ann"}, "user.made", 0, user_id="u", correlation_id="c")
    )
    recorded = await done(
        bus.sourcing.append(
            [
                NewEvents(
                    aggregate_id="user/1 %",
                    aggregate_type="User",
                    events=[NewEvent(event_type="user.changed", event_data={"age": n}) for n in range(2)],
                    expected_version=1,
                )
            ]
        )
    )
    assert [(each.version, each.duplicate) for each in recorded] == [(2, False), (3, False)]
    aggregate = await done(bus.sourcing.rebuild("user/1 %"))
    assert (aggregate.version, aggregate.state, aggregate.aggregate_type) == (3, {"name": "Ann", "age": 1}, "User")
    data = await done(bus.sourcing.reconstruct_aggregate("user/1 %", "User", as_of_version=1))
    assert (data["version"], data["data"], data["aggregate_id"]) == (1, {"name": "Ann"}, "user/1 %")
    events = await done(bus.sourcing.events("user/1 %"))
    assert (events[0].event_id, events[0].payload, events[0].user_id, events[0].correlation_id) == (
        event_id,
        {"name": "Ann"},
        "u",
        "c",
    )
    assert [each.version for each in await done(bus.sourcing.events("user/1 %", after_version=1, until_version=2))] == [2]
    assert await done(bus.sourcing.events("user/1 %", after_version=3, until_version=3)) == []
    page = await done(bus.sourcing.read(after_position=events[0].position))
    assert ([each.version for each in page.events], page.is_end) == ([2, 3], True)
    info = await done(bus.sourcing.get_aggregate("user/1 %", "User"))
    assert [info] == await done(bus.sourcing.list_aggregates("User"))
    with pytest.raises(InvalidInputError, match="is a User, not a Other"):
        await done(bus.sourcing.get_aggregate("user/1 %", "Other"))
    change = await done(bus.sourcing.lifecycle.archive("user/1 %"))
    assert (change.action, change.events, change.version) == ("archived", 3, 3)
    assert (await done(bus.sourcing.lifecycle.restore("user/1 %"))).events == 3
    retention = await done(bus.sourcing.lifecycle.set_retention("User", max_count=1))
    assert [retention] == await done(bus.sourcing.lifecycle.retentions())
    assert (await done(bus.sourcing.lifecycle.scavenge(preview=True))).events == 2


async def test_a_subscription_goes_on(url: str, tmp_path: Path) -> None:
    with bus_of("at a URL", url, tmp_path) as bus:
        await bus.sourcing.append_event("a", "Account", {"n": 1}, "opened")
        seen = []
        subscription = bus.sourcing.subscribe()
        async for event in subscription:
            seen.append(event.payload)
            if len(seen) == 1:
                await bus.sourcing.append_event("a", "Account", {"n": 2}, "changed")
            else:
                break
        await subscription.aclose()
        assert seen == [{"n": 1}, {"n": 2}]


async def test_projections_are_declared_and_asked(bus: Any) -> None:
    declared = {
        "name": "accounts",
        "from": {"aggregate_types": ["Account"]},
        "tables": {"accounts": {"columns": {"id": "text", "n": "integer"}, "key": ["id"]}},
        "on": {"opened": [{"upsert": {"id": "aggregate_id", "n": "payload.n"}, "table": "accounts"}]},
    }
    bus.projections.start()
    ((name, verdict),) = await done(bus.projections.apply(declared))
    assert (name, verdict.value) == ("accounts", "new")
    assert [each[1].value for each in await done(bus.projections.apply(declared))] == ["unchanged"]
    (recorded,) = await done(bus.sourcing.append_events("a", "Account", [NewEvent(event_type="opened", event_data={"n": 1})]))
    assert await done(bus.projections.wait_for("accounts", recorded.position)) >= recorded.position
    rows = await done(bus.projections.rows("accounts", where={"n": {"ge": 1}}, position=recorded.position))
    assert rows["rows"] == [{"id": "a", "n": 1}]
    answer = await done(bus.projections.sql("accounts", "SELECT n FROM accounts WHERE id = ?", parameters=["a"]))
    assert (answer["columns"], answer["rows"]) == (["n"], [[1]])
    assert [each["name"] for each in await done(bus.projections.list_projections())] == ["accounts"]
    await done(bus.projections.delete("accounts"))
    if isinstance(bus, Bus):
        await asyncio.to_thread(bus.projections.close)


# --- what became of events --------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_retried_and_dropped(bus: Any) -> None:
    await make_guarded(bus, on_invalid=InvalidEventPolicy.DEAD_LETTER)
    bad = [{"order_id": "a"}, {"order_id": "b"}]
    await done(bus.publishing.publish_batch(EventConfig(event_type="t"), bad, "orders"))
    letters = bus.dead_letters
    page = await done(letters.list_dead_letters(limit=1))
    ids = [each["dead_letter_id"] for each in page["dead_letters"]]
    page = await done(letters.list_dead_letters(limit=1, cursor=page["next_cursor"]))
    ids += [each["dead_letter_id"] for each in page["dead_letters"]]
    assert (len(set(ids)), page["next_cursor"]) == (2, None)
    letter = await done(letters.get_dead_letter(ids[0]))
    assert (letter["payload"], letter["error_type"]) == (bad[0], "ValidationFailedError")
    assert (await done(letters.preview_retry(ids)))["would"]["fail"] == 2
    assert (await done(letters.retry_dead_letters(ids)))["counts"]["failed"] == 2
    assert (await done(letters.drop_dead_letter(ids[0])))["result"] == "DROPPED"
    assert (await done(letters.drop_dead_letters(where=LetterFilter())))["counts"]["dropped"] == 1


async def test_events_are_traced(bus: Any) -> None:
    bus.create_stream("orders")
    publish = bus.publishing.publish_event
    cause = await done(publish(EventConfig(event_type="a", correlation_id="c"), {}, "orders"))
    effect = await done(publish(EventConfig(event_type="b", correlation_id="c", causation_id=cause), {}, "orders"))
    trace = await done(bus.correlation.tree(cause))
    assert [(event.event_id, event.event_type) for event in trace.events] == [(cause, "a"), (effect, "b")]
    assert [(edge.cause, edge.effect) for edge in trace.edges] == [(cause, effect)]
    assert await done(bus.correlation.by_correlation("c")) == trace
    assert [event.event_id for event in (await done(bus.correlation.ancestors(effect))).events] == [cause, effect]


async def test_subjects_are_erased(bus: Any) -> None:
    config = {
        "schema_name": "person",
        "json_schema": {"type": "object", "properties": {"name": {"type": "string", "x-personal": True}}},
    }
    schema_id = await done(bus.schemas.register_enhanced_schema(config))
    stream = StreamConfig(name="people", schema_id=schema_id)
    if isinstance(bus, Bus):
        bus.log.create_stream(stream)
    else:
        await done(bus.streams.create_stream(stream))
    await done(bus.publishing.publish_event(EventConfig(event_type="t", key="ann"), {"name": "Ann"}, "people"))
    report = await done(bus.erasure.subject_report("ann", count_events=True))
    assert (report.has_key, report.events) == (True, {"people": 1})
    certificate = await done(bus.erasure.erase_subject("ann", reason="asked for", count_events=True))
    assert (certificate.reason, certificate.events, certificate.number) == ("asked for", 1, 1)
    assert await done(bus.erasure.list_certificates()) == [certificate]
    assert await done(bus.erasure.get_certificate(certificate.certificate_id)) == certificate
    assert (await done(bus.erasure.verify_certificates())).is_intact
    with pytest.raises(SubjectNotKnownError):
        await done(bus.erasure.erase_subject("ann", reason="asked for"))


async def test_processors_are_managed(bus: Any) -> None:
    for name in ("orders", "large"):
        bus.create_stream(name)
    config = {
        "processor_name": "large_orders",
        "processor_type": "FILTER",
        "source_stream_id": "orders",
        "target_stream_id": "large",
        "processing_logic": {"filter_expression": "payload.n > 1"},
    }
    processor_id = await done(bus.processors.create_stream_processor(config))
    assert processor_id == await done(bus.processors.create_stream_processor(config))
    shown = await done(bus.processors.get_stream_processor(processor_id))
    assert (shown["processor_name"], shown["status"]) == ("large_orders", "CREATED")
    assert await done(bus.processors.list_stream_processors()) == [shown]
    assert (await done(bus.processors.get_processor_metrics(processor_id)))["events_processed"] == 0
    assert await done(bus.processors.get_processor_logs(processor_id)) == []
    await done(bus.processors.delete_stream_processor(processor_id))
    assert await done(bus.processors.list_stream_processors()) == []


# --- only at a URL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_the_history_answers_in_sql(kind: str, url: str, tmp_path: Path) -> None:
    with bus_of(kind, url, tmp_path) as bus:
        bus.create_stream("orders")
        event_id = await done(bus.publishing.publish_event(EventConfig(event_type="a"), {"n": 1}, "orders"))
        answer = await done(bus.history.query("SELECT event_id FROM events WHERE event_type = $kind", parameters={"kind": "a"}))
        assert (answer.columns, list(answer.rows()), answer.truncated) == (["event_id"], [(event_id,)], False)
        assert (await done(bus.history.event(event_id)))["payload"] == {"n": 1}


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_what_needs_the_bus_in_process_says_what_to_do_instead(kind: str, url: str, tmp_path: Path) -> None:
    with bus_of(kind, url, tmp_path) as bus:
        calls: list[Callable[[], Any]] = [
            lambda: bus.log,
            lambda: bus.sourcing.folds,
            lambda: bus.sourcing.load(object, "a"),
            lambda: bus.projections.apply(dict),
            lambda: bus.dead_letters.box(),
            lambda: bus.schemas.guard("default", "sch_1"),
            lambda: bus.consumer("g", ["orders"], on_assigned=print),
        ]
        for call in calls:
            with pytest.raises(NotRemoteError, match="not possible over HTTP: "):
                await done(call())


def test_streams_are_listed_page_by_page(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_streaming_bus.client.sync.remote_service._PAGE_ITEMS", 2)
    with bus_of("blocking", url, tmp_path) as bus:
        for name in ("a", "b", "c"):
            bus.create_stream(name)
        assert [info.name for info in bus.streams.list_streams()] == ["a", "b", "c"]
        bus.streams.drop_stream("b")
        with pytest.raises(StreamNotFoundError):
            bus.streams.find_stream("default", "b")
        with pytest.raises(InvalidInputError):
            bus.streams.find_stream("default", "..")
