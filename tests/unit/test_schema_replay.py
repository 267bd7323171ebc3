"""The contract time machine: which stored events a schema would refuse, why, and what it does when things change meanwhile."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import BusError, InvalidInputError, SchemaError, StreamNotFoundError
from event_streaming_bus.models import Event, EventConfig, EventPriority, SerializationFormat, StreamConfig
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.replay import trial as replay
from event_streaming_bus.registry.replay.tally import MAX_EXPLAINED, MAX_REASONS
from event_streaming_bus.registry.replay.trial import Report, candidate_of, try_schema
from event_streaming_bus.registry.schema_configs import read_config
from event_streaming_bus.store.log.base import Append

ORDER: dict[str, Any] = {
    "schema_name": "order",
    "json_schema": {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "total": {"type": "number"},
            "items": {"type": "array", "items": {"type": "object", "properties": {"price": {"type": "number"}}}},
        },
        "required": ["id"],
    },
    "validation_rules": {
        "business_rules": [
            {"name": "positive", "rule": "total > 0"},
            {"name": "small", "rule": "total < 1000", "severity": "warning"},
        ]
    },
}
AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "id", "type": "string"}, {"name": "total", "type": "double"}],
}
DAY_MS = 86_400_000


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path) as bus:
        yield bus


def store(bus: Bus, payloads: list[Any], stream: str = "orders", **fields: Any) -> None:
    """Append payloads as they are, to be found in any shape; bytes are not encoded. The n-th is of the n-th day."""
    try:
        info = bus.log.find_stream("default", stream)
    except StreamNotFoundError:
        info = bus.create_stream(stream)
    events = [
        Event(
            event_id=f"{stream}-{bus.log.end_offsets(info.stream_id)[info.splits()[2]]}-{i}",
            event_type="t",
            timestamp_ms=i * DAY_MS,
            data=payload if isinstance(payload, bytes) else msgspec.json.encode(payload),
            **fields,
        )
        for i, payload in enumerate(payloads)
    ]
    bus.log.append([Append(info.stream_id, events)])


def reasons(report: Report) -> dict[tuple[str, str], int]:
    return {(failure.rule, failure.path): failure.count for failure in report.failures}


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.checked, report.valid, report.invalid, report.unreadable


def test_events_are_counted_and_failures_grouped_by_rule_and_path(bus: Bus) -> None:
    good = {"id": "a", "total": 5, "items": [{"price": 1}]}
    bad_items = {"id": "a", "total": 5, "items": [{"price": "x"}, {"price": 2}, {"price": None}]}
    store(bus, [good, {"total": 1}, {"id": 1, "total": 1}, bad_items, {"id": "a", "total": -1}, {"id": "a"}])
    report = try_schema(bus.storage, ORDER, "orders")
    assert counts(report) == (6, 1, 5, 0)
    assert reasons(report) == {
        ("positive", "total"): 2,
        ("required", "id"): 1,
        ("type", "id"): 1,
        ("type", "items[].price"): 1,
        ("small", "total"): 1,
    }
    assert not report.passes
    by_rule = {failure.rule: failure for failure in report.failures}
    [example] = by_rule["required"].examples
    assert (example.event_id, example.partition, example.lane, example.offset) == ("orders-0-1", 0, EventPriority.NORMAL, 1)
    assert (example.timestamp, example.message) == ("1970-01-02T00:00:00.000Z", "'id' is a required property")
    assert [example.message for example in by_rule["positive"].examples] == [
        "does not hold: total > 0",
        "cannot be evaluated: total is null",
    ]


def test_a_warning_is_counted_and_refuses_nothing(bus: Bus) -> None:
    store(bus, [{"id": "a", "total": 5000}, {"id": "b", "total": 5}])
    report = try_schema(bus.storage, ORDER, "orders")
    assert (report.passes, report.valid, report.warnings) == (True, 2, 1)
    assert [(failure.severity, failure.rule) for failure in report.failures] == [("warning", "small")]


def test_nothing_is_registered(bus: Bus) -> None:
    store(bus, [{"id": "a", "total": 5}])
    try_schema(bus.storage, ORDER, "orders")
    assert bus.schemas.subjects.store.versions("default", deleted=True) == []


def test_examples_and_reasons_are_bounded(bus: Bus) -> None:
    closed = {"schema_name": "s", "json_schema": {"type": "object", "additionalProperties": {"type": "string"}}}
    store(bus, [{f"field_{i % 300}": i} for i in range(3000)])
    report = try_schema(bus.storage, closed, "orders", examples=2)
    assert (report.invalid, len(report.failures)) == (3000, MAX_REASONS)
    assert {len(failure.examples) for failure in report.failures} == {2}
    assert sum(failure.count for failure in report.failures) + report.unlisted == 3000


def test_counts_are_exact_where_reasons_are_too_many_to_explain(bus: Bus) -> None:
    branching = {"schema_name": "s", "json_schema": {"properties": {"n": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}}
    store(bus, [{"n": i} for i in range(MAX_EXPLAINED + 500)])
    report = try_schema(bus.storage, branching, "orders")
    assert report.invalid == MAX_EXPLAINED + 500
    assert sum(failure.count for failure in report.failures) == MAX_EXPLAINED
    assert report.unlisted == 500


@pytest.mark.parametrize("schema", ["json", "avro"])
def test_what_is_refused_is_what_a_guard_refuses(bus: Bus, schema: str) -> None:
    rng = random.Random(7)
    values = [1, -1, 1.5, 0, "x", None, True, [], {}, [{"price": 1}], [{"price": "x"}, 3], 10**20]
    payloads = [{n: rng.choice(values) for n in ("id", "total", "items") if rng.random() < 0.8} for _ in range(400)]
    payloads += [rng.choice(values) for _ in range(20)]
    store(bus, payloads)
    rules = {"validation_rules": ORDER["validation_rules"]}
    config = ORDER if schema == "json" else {"schema_name": "order", "avro_schema": AVRO, **rules}
    guard = SchemaGuard(*candidate_of(bus.schemas, "default", read_config(config)))
    found = [guard.check(payload) for payload in payloads]
    report = try_schema(bus.storage, config, "orders", examples=100)
    assert report.invalid == sum(any(v.severity == "error" for v in each) for each in found)
    assert report.warnings == sum(any(v.severity == "warning" for v in each) for each in found)
    told = {rule: sum(any(v.rule == rule for v in each) for each in found) for rule in ("positive", "small")}
    assert {rule: sum(f.count for f in report.failures if f.rule == rule) for rule in told} == told


# --- formats, earlier versions, and what cannot be read ----------------------------------------------------------------


async def publish(bus: Bus, schema_id: str, payloads: list[Any], stream: str = "orders") -> None:
    try:
        info = bus.log.find_stream("default", stream)
        bus.log.set_stream_schema(info.stream_id, schema_id)
    except StreamNotFoundError:
        bus.log.create_stream(StreamConfig(name=stream, schema_id=schema_id))
    for payload in payloads:
        await bus.publishing.publish_event(EventConfig(event_type="t"), payload, stream)


async def test_a_json_schema_is_tried_on_a_stream_of_avro(bus: Bus) -> None:
    schema_id = await bus.schemas.register_enhanced_schema({"schema_name": "order", "avro_schema": AVRO})
    await publish(bus, schema_id, [{"id": "a", "total": 5}, {"id": "b", "total": -5}])
    report = try_schema(bus.storage, ORDER | {"schema_name": "other"}, "orders")
    assert (counts(report), reasons(report)) == ((2, 1, 1, 0), {("positive", "total"): 1})


def test_an_avro_schema_is_tried_on_a_stream_of_json(bus: Bus) -> None:
    store(bus, [{"id": "a", "total": 5}, {"id": "b"}, {"id": 3, "total": 1.5}, "text"])
    report = try_schema(bus.storage, {"schema_name": "order", "avro_schema": AVRO}, "orders")
    assert counts(report) == (4, 1, 3, 0)
    assert {path for _, path in reasons(report)} == {"total", "id", ""}


async def test_avro_of_an_earlier_version_is_read_by_the_rules_of_schema_resolution(bus: Bus) -> None:
    schema_id = await bus.schemas.register_enhanced_schema({"schema_name": "order", "avro_schema": AVRO})
    await publish(bus, schema_id, [{"id": "a", "total": 5}])
    renamed = {"name": "sum", "type": "double", "aliases": ["total"]}
    fields = [AVRO["fields"][0], renamed, {"name": "note", "type": "string", "default": "-"}]
    rule = {"validation_rules": {"business_rules": [{"name": "r", "rule": "sum == 5 and note == '-'"}]}}
    config = {"schema_name": "order", "avro_schema": {**AVRO, "fields": fields}, **rule}
    assert try_schema(bus.storage, config, "orders").passes
    unreadable = {**AVRO, "fields": [AVRO["fields"][0], {"name": "total", "type": "int"}]}
    report = try_schema(bus.storage, {"schema_name": "order", "avro_schema": unreadable}, "orders")
    assert (counts(report), report.is_compatible) == ((1, 0, 1, 0), False)
    assert "cannot be read with the new version" in report.failures[0].examples[0].message


async def test_migrations_bring_events_of_earlier_versions_to_the_candidate(bus: Bus) -> None:
    def version(field: str, **more: Any) -> dict[str, Any]:
        schema = {"type": "object", "required": [field], "properties": {field: {"type": "number"}}, "additionalProperties": False}
        return {"schema_name": "order", "json_schema": schema, "evolution_strategy": "BREAKING_CHANGE", **more}

    first = await bus.schemas.register_enhanced_schema(version("a"))
    await publish(bus, first, [{"a": 1}, {"a": 2}])
    second = version("b", migration={"fields": {"b": "a * 10"}, "remove": ["a"]})
    await publish(bus, await bus.schemas.register_enhanced_schema(second), [{"b": 30}])
    store(bus, [{"c": 31}], "orders")  # written with no version: it is taken as it is
    third = version("c", migration={"fields": {"c": "b + 1"}, "remove": ["b"]})
    third["validation_rules"] = {"business_rules": [{"name": "r", "rule": "c in [11, 21, 31]"}]}
    report = try_schema(bus.storage, third, "orders")
    assert (counts(report), report.passes, report.is_breaking_declared) == ((4, 4, 0, 0), True, True)
    third["migration"] = {"fields": {"c": "b.lower()"}, "remove": ["b"]}
    report = try_schema(bus.storage, third, "orders")
    assert (counts(report), reasons(report)) == ((4, 1, 3, 0), {("migration", ""): 3})
    assert "the field c cannot be migrated" in report.failures[0].examples[0].message
    report = try_schema(bus.storage, version("c"), "orders")
    assert (report.invalid, reasons(report)[("required", "c")]) == (3, 3)


def test_payloads_that_cannot_be_read_are_counted_and_do_not_pass(bus: Bus) -> None:
    store(bus, [b'{"id": ', b"\xff\xfe", {"id": "a", "total": 1}])
    store(bus, [b"\0\0\0\0\1ab"], serialization_format=SerializationFormat.AVRO, schema_id="sch_gone")
    report = try_schema(bus.storage, ORDER, "orders")
    assert (counts(report), report.passes) == ((4, 1, 0, 3), False)
    messages = [example.message for example in report.failures[0].examples]
    assert "sch_gone" in messages[-1]


# --- which events -------------------------------------------------------------------------------------------------------


def test_only_events_between_two_times_are_checked(bus: Bus) -> None:
    store(bus, [{"id": i} for i in range(10)])
    report = try_schema(bus.storage, ORDER, "orders", since_ms=2 * DAY_MS, until_ms=5 * DAY_MS, examples=10)
    assert report.checked == 3
    [failure] = report.failures
    assert [example.timestamp[8:10] for example in failure.examples] == ["03", "04", "05"]
    assert try_schema(bus.storage, ORDER, "orders", since_ms=99 * DAY_MS).checked == 0


def test_a_limit_is_spread_over_the_splits(bus: Bus) -> None:
    info = bus.create_stream("orders", partitions=3)
    for partition, count in enumerate((100, 300, 600)):
        events = [Event(f"{partition}-{i}", "t", i, b'{"id": 1}') for i in range(count)]
        bus.log.append([Append(info.stream_id, events, partition=partition)])
    report = try_schema(bus.storage, ORDER, "orders", limit=107, examples=100)
    assert (report.checked, report.is_limited) == (107, True)
    assert {example.partition for failure in report.failures for example in failure.examples} == {0, 1, 2}
    whole = try_schema(bus.storage, ORDER, "orders", limit=1000)
    assert (whole.checked, whole.is_limited) == (1000, False)


def test_an_empty_stream_passes_if_the_schema_is_compatible(bus: Bus) -> None:
    bus.create_stream("orders")
    assert (try_schema(bus.storage, ORDER, "orders").checked, try_schema(bus.storage, ORDER, "orders").passes) == (0, True)


def test_incompatibility_is_told_with_its_differences(bus: Bus) -> None:
    store(bus, [{"id": "a", "total": 5}])
    bus.schemas.register(ORDER | {"compatibility_level": "FULL"})
    candidate = {"schema_name": "order", "json_schema": {**ORDER["json_schema"], "required": ["id", "total"]}}
    report = try_schema(bus.storage, candidate, "orders")
    assert (report.invalid, report.is_compatible, report.compatibility_level, report.passes) == (0, False, "FULL", False)
    assert report.incompatibilities[0].differences[0].kind == "REQUIRED_ATTRIBUTE_ADDED"
    breaking = try_schema(bus.storage, candidate | {"evolution_strategy": "BREAKING_CHANGE"}, "orders")
    assert (breaking.is_compatible, breaking.passes) == (False, True)


def test_references_may_leave_their_version_open(bus: Bus) -> None:
    bus.schemas.register({"schema_name": "money", "json_schema": {"type": "number"}})
    store(bus, [{"total": 5}, {"total": "5"}])
    config = {"schema_name": "order", "json_schema": {"properties": {"total": {"$ref": "money"}}}}
    config["references"] = [{"name": "money", "subject": "money", "version": "latest"}]
    assert try_schema(bus.storage, config, "orders").invalid == 1
    config["references"] = [{"name": "money", "subject": "mony"}]
    with pytest.raises(SchemaError, match=r"references\[0\].subject: Subject 'mony' not found. Did you mean 'money'"):
        try_schema(bus.storage, config, "orders")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"since_ms": 5, "until_ms": 5}, "until: expected a time after"),
        ({"limit": 0}, "limit: expected a positive number"),
        ({"workers": 0}, "workers: expected 1 to"),
        ({"examples": -1}, "examples: expected 0 to"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(bus: Bus, options: dict[str, int], told: str) -> None:
    bus.create_stream("orders")
    with pytest.raises(InvalidInputError, match=told):
        try_schema(bus.storage, ORDER, "orders", **options)  # type: ignore[arg-type]


def test_a_stream_that_is_not_there_suggests_the_nearest(bus: Bus) -> None:
    bus.create_stream("orders")
    with pytest.raises(StreamNotFoundError, match="Did you mean 'orders'"):
        try_schema(bus.storage, ORDER, "ordrs")


# --- many events, and what happens meanwhile ----------------------------------------------------------------------------


@pytest.fixture
def many(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """A stream of 10,000 events, every hundredth bad, that is large enough for several processes."""
    monkeypatch.setattr(replay, "_ALONE_EVENTS", 1000)
    monkeypatch.setattr(replay, "_MIN_PART_EVENTS", 500)
    store(bus, [{"id": "a", "total": -1 if i % 100 == 99 else 1} for i in range(10_000)])
    return bus


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "replay.workers" in " ".join(child.cmdline())]


def test_several_processes_find_what_one_finds(many: Bus) -> None:
    told: list[tuple[int, int]] = []
    one = try_schema(many.storage, ORDER, "orders", workers=1)
    two = try_schema(many.storage, ORDER, "orders", workers=2, progress=lambda done, total: told.append((done, total)))
    assert (one.workers, two.workers, one.invalid) == (1, 2, 100)
    for report in (one, two):
        assert msgspec.structs.replace(report, workers=0, seconds=0.0) == msgspec.structs.replace(one, workers=0, seconds=0.0)
    assert (told[0], told[-1]) == ((0, 10_000), (10_000, 10_000))
    assert not children()


def test_an_interruption_stops_the_processes(many: Bus) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            assert children()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_schema(many.storage, ORDER, "orders", workers=2, progress=interrupt)
    assert not children()


def test_a_process_that_is_killed_is_told(many: Bus) -> None:
    def kill(done: int, total: int) -> None:
        for child in children() if done else ():
            child.kill()

    with pytest.raises(BusError, match="ended with the exit code -9"):
        try_schema(many.storage, ORDER, "orders", workers=2, progress=kill)
    assert not children()


def test_events_that_retention_drops_meanwhile_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MIN_PART_EVENTS", 500)
    monkeypatch.setattr(replay, "_MAX_PART_EVENTS", 500)
    with open_bus(tmp_path) as bus:
        info = bus.log.create_stream(StreamConfig(name="orders", retention_ms=DAY_MS))
        for n in range(6):
            bus.log.append([Append(info.stream_id, [Event(f"{n}-{i}", "t", i, b'{"id": "a", "total": 1}') for i in range(500)])])

        def drop(done: int, total: int) -> None:
            if done == 500:
                bus.log.enforce_retention(now_ms=4_000_000_000_000)

        report = try_schema(bus.storage, ORDER, "orders", progress=drop)
    assert (report.checked, report.dropped) == (500, 2500)


def test_a_stream_that_is_dropped_meanwhile_is_told(many: Bus) -> None:
    def drop(done: int, total: int) -> None:
        if done:
            many.log.drop_stream(many.log.find_stream("default", "orders").stream_id)

    with pytest.raises(StreamNotFoundError, match="orders was dropped while it was read"):
        try_schema(many.storage, ORDER, "orders", workers=1, progress=drop)
