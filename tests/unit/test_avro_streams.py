"""Streams of Avro events: published in the wire format, read in flows, brought from version to version."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from bytewax.testing import run_main

from event_streaming_bus import payloads
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.cli import main
from event_streaming_bus.errors import InvalidInputError, ValidationFailedError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, InvalidEventPolicy, SerializationFormat, StreamConfig
from event_streaming_bus.registry import wire
from event_streaming_bus.registry.streams import make_stream
from event_streaming_bus.testing import read_all, temporary_bus

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "k", "type": "string"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
RULES = {"business_rules": [{"name": "some", "rule": "total > 0 and note != 'no'"}]}
FIRST = {"k": "a", "total": 12.5, "at": "2013-01-01T10:00:00.000Z", "note": None}
SECOND = {"k": "b", "total": 1, "at": "1970-01-01T00:00:00.000Z", "note": "n"}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def stream(bus: Bus, name: str = "in", schema: Any = ORDER, schema_name: str = "order", **more: Any) -> Any:
    stream_config = more.pop("stream", {})
    bus.schemas.register({"schema_name": schema_name, "avro_schema": schema, **more})
    return make_stream(bus.log, bus.schemas, StreamConfig(name=name, **stream_config), schema_name)


def publish(bus: Bus, payloads: list[Any], name: str = "in", times_ms: list[int] | None = None) -> None:
    keys = [payload.get("k") if isinstance(payload, dict) else None for payload in payloads]
    config = EventConfig(event_type="t")
    bus.publishing.submit(config, payloads, stream_id=name, keys=keys, timestamps_ms=times_ms or [0] * len(payloads)).result()


def run(bus: Bus, *processors: dict[str, Any], **flow: Any) -> None:
    data = {"processors": [{"source_stream_id": "in", **processor} for processor in processors], **flow}
    plan = deploy(parse_flow(data, name="flow"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def of(bus: Bus, name: str = "out") -> list[Any]:
    return [event.payload for event in read_all(bus, name)]


def keep(name: str = "keep", expression: str = "true", **more: Any) -> dict[str, Any]:
    logic = {"filter_expression": expression}
    return {"processor_name": name, "processor_type": "FILTER", "processing_logic": logic, "target_stream_id": "out", **more}


# --- publishing -------------------------------------------------------------------------------------------------------


def test_events_are_kept_in_the_wire_format_and_read_as_json_values(bus: Bus) -> None:
    info = stream(bus)
    publish(bus, [{**FIRST, "total": Decimal("12.50"), "at": datetime(2013, 1, 1, 10, tzinfo=UTC)}, {**SECOND, "at": 0}])
    first, second = read_all(bus, "in")
    record = bus.schemas.find("default", "order")
    assert first.serialization_format is SerializationFormat.AVRO
    assert (first.data[0], wire.id_of(first.data), first.schema_id) == (0, record.id, info.config.schema_id)
    assert [first.payload, second.payload] == [FIRST, SECOND]


def test_another_process_reads_them_by_their_ids(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST])
    with open_bus(bus.folder) as again:
        assert of(again, "in") == [FIRST]


@pytest.mark.parametrize(
    ("payload", "path"),
    [({"k": "a"}, "total"), ({**FIRST, "k": 1}, "k"), ({**FIRST, "x": 1}, "x"), (7, ""), ({**FIRST, "total": -1}, "")],
)
def test_what_breaks_the_schema_or_a_rule_is_refused_with_its_place(bus: Bus, payload: Any, path: str) -> None:
    stream(bus, validation_rules=RULES)
    with pytest.raises(ValidationFailedError) as caught:
        publish(bus, [FIRST, payload])
    (violation,) = caught.value.details["violations"]
    assert violation["index"] == 1
    assert path in violation["path"]
    assert of(bus, "in") == []


def test_a_rule_sees_defaults_where_fields_are_missing(bus: Bus) -> None:
    stream(bus, validation_rules={"business_rules": [{"name": "old", "rule": "at.startswith('1970')"}]})
    publish(bus, [{"k": "a", "total": 1}])
    with pytest.raises(ValidationFailedError, match=r"does not hold"):
        publish(bus, [FIRST])


def test_an_invalid_event_goes_to_the_dead_letters_as_json(bus: Bus) -> None:
    stream(bus, stream={"on_invalid": InvalidEventPolicy.DEAD_LETTER})
    publish(bus, [FIRST, {"k": "broken"}, SECOND])
    (letter,) = read_all(bus, "_dead_letters")
    assert of(bus, "in") == [FIRST, SECOND]
    assert letter.payload == {"k": "broken"}
    assert "total" in letter.metadata["dead_letter"]["error_message"]  # type: ignore[index]


def test_bytes_are_json_or_already_in_the_wire_format(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST])
    (written,) = read_all(bus, "in")
    publish(bus, [msgspec.json.encode(SECOND), msgspec.Raw(msgspec.json.encode(FIRST)), written.data])
    assert of(bus, "in") == [FIRST, SECOND, FIRST, FIRST]


def test_wire_format_of_another_schema_or_damaged_is_refused(bus: Bus) -> None:
    stream(bus)
    bus.schemas.register({"schema_name": "other", "avro_schema": "string"})
    other = bus.schemas.find("default", "other").id
    with pytest.raises(InvalidInputError, match="no version of order"):
        publish(bus, [wire.prefix(other) + b"\x02a"])
    with pytest.raises(InvalidInputError, match="payload"):
        publish(bus, [wire.prefix(bus.schemas.find("default", "order").id) + b"\x02"])
    assert of(bus, "in") == []


def test_an_older_version_in_the_wire_format_keeps_its_id(bus: Bus) -> None:
    stream(bus)
    old = bus.schemas.find("default", "order")
    newer = {**ORDER, "fields": [*ORDER["fields"], {"name": "extra", "type": "int", "default": 7}]}
    publish(bus, [FIRST])
    (written,) = read_all(bus, "in")
    stream(bus, schema=newer)
    publish(bus, [written.data, SECOND])
    assert [event.schema_id == old.schema_id for event in read_all(bus, "in")] == [True, True, False]


# --- flows ------------------------------------------------------------------------------------------------------------


def test_a_filter_passes_the_bytes_on_where_the_schema_is_the_same(bus: Bus) -> None:
    stream(bus)
    make_stream(bus.log, bus.schemas, StreamConfig(name="out"), "order")
    publish(bus, [FIRST, SECOND])
    run(bus, keep(expression="payload.total > 5"))
    assert [event.data for event in read_all(bus, "out")] == [read_all(bus, "in")[0].data]
    assert of(bus) == [FIRST]


def test_a_stream_without_a_schema_gets_json(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST, SECOND])
    run(bus, keep(expression="payload.at.startswith('2013')"), streams=[{"name": "out"}])
    (out,) = read_all(bus, "out")
    assert (out.serialization_format, out.schema_id, msgspec.json.decode(out.data)) == (SerializationFormat.JSON, None, FIRST)


def test_json_becomes_avro_where_the_target_has_an_avro_schema(bus: Bus) -> None:
    stream(bus, "out")
    logic = {"fields": {"total": "payload.x * 2"}, "drop": ["x"]}
    mapped = {"processor_name": "m", "processor_type": "MAP", "processing_logic": logic, "target_stream_id": "out"}
    bus.log.create_stream(StreamConfig(name="in"))
    publish(bus, [{"k": "a", "x": 1}, {"k": "b", "x": "text"}, {"k": "c", "x": 0.001}])
    run(bus, mapped)
    assert [(p["k"], p["total"], p["note"]) for p in of(bus)] == [("a", 2, None)]
    letters = read_all(bus, "_dead_letters")
    assert sorted(letter.payload["k"] for letter in letters) == ["b", "c"]
    assert any("total" in letter.metadata["dead_letter"]["error_message"] for letter in letters)  # type: ignore[index]


def test_a_map_of_avro_events_is_written_by_the_targets_schema(bus: Bus) -> None:
    stream(bus)
    stream(bus, "out", {**ORDER, "name": "Out"}, "out")
    publish(bus, [FIRST])
    logic = {"fields": {"note": "'was ' + str(payload.total)"}}
    run(bus, {"processor_name": "m", "processor_type": "MAP", "processing_logic": logic, "target_stream_id": "out"})
    (out,) = read_all(bus, "out")
    assert out.payload == {**FIRST, "note": "was 12.5"}
    assert wire.id_of(out.data) == bus.schemas.find("default", "out").id


def test_sums_joins_and_windows_read_avro(bus: Bus) -> None:
    stream(bus)
    stream(bus, "right", {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]}, "right")
    publish(bus, [FIRST, {**FIRST, "total": 7.5}, SECOND])
    publish(bus, [{"k": "a"}], "right")
    window = {"window_type": "tumbling", "window_size_ms": 60_000}
    join = {"join_stream_id": "right", "on": ["k"], "fields": {"k": "left.k", "total": "left.total"}, "within_ms": 1000}
    run(
        bus,
        {
            "processor_name": "sum",
            "processor_type": "AGGREGATE",
            "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["k"]},
            "window_config": window,
            "target_stream_id": "sums",
        },
        {"processor_name": "join", "processor_type": "JOIN", "processing_logic": join, "target_stream_id": "joined"},
        {
            "processor_name": "window",
            "processor_type": "WINDOW",
            "processing_logic": {"group_by": ["k"], "output": "contents"},
            "window_config": window,
            "target_stream_id": "windows",
        },
        streams=[{"name": name} for name in ("sums", "joined", "windows")],
    )
    totals = {payload["k"]: payload for payload in of(bus, "sums")}
    assert {key: 20.0 in payload.values() or 1 in payload.values() for key, payload in totals.items()} == {"a": True, "b": True}
    assert sorted(payload["total"] for payload in of(bus, "joined")) == [7.5, 12.5]
    assert [[each["total"] for each in payload["events"]] for payload in of(bus, "windows") if payload["k"] == "a"] == [
        [12.5, 7.5]
    ]


def test_whole_events_that_wait_stay_what_they_are(bus: Bus) -> None:
    stream(bus)
    make_stream(bus.log, bus.schemas, StreamConfig(name="out"), "order")
    publish(bus, [FIRST, FIRST, SECOND])
    unique = {
        "processor_name": "once",
        "processor_type": "DEDUPLICATE",
        "processing_logic": {"deduplicate_by": ["k"], "within_ms": 1000},
        "target_stream_id": "out",
    }
    run(bus, unique)
    assert sorted(payload["k"] for payload in of(bus)) == ["a", "b"]
    assert {event.serialization_format for event in read_all(bus, "out")} == {SerializationFormat.AVRO}


def test_an_event_that_fails_keeps_its_bytes(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST, SECOND])
    run(bus, keep(expression="payload.note + 'x' == 'nx'"), streams=[{"name": "out"}])
    (letter,) = read_all(bus, "_dead_letters")
    assert letter.data == read_all(bus, "in")[0].data
    assert letter.payload == FIRST
    assert "payload.note is null" in letter.metadata["dead_letter"]["error_message"]  # type: ignore[index]


# --- upcasting --------------------------------------------------------------------------------------------------------


NEWER = {**ORDER, "fields": [*ORDER["fields"], {"name": "extra", "type": "int", "default": 7}]}


def test_events_of_an_older_version_are_read_by_the_newer_one(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST])
    stream(bus, schema=NEWER)
    publish(bus, [{**SECOND, "extra": 1}])
    run(bus, keep(expression="payload.extra > 0"), streams=[{"name": "out"}])
    assert of(bus) == [{**FIRST, "extra": 7}, {**SECOND, "extra": 1}]


def test_migrations_are_applied_version_after_version(bus: Bus) -> None:
    def schema(*fields: str) -> dict[str, Any]:
        return {"type": "record", "name": "Order", "fields": [{"name": name, "type": "string"} for name in fields]}

    breaking = {"evolution_strategy": "BREAKING_CHANGE"}
    stream(bus, schema=schema("first", "last"))
    publish(bus, [{"first": "Ada", "last": "L"}])
    stream(
        bus, schema=schema("name"), migration={"fields": {"name": "first + ' ' + last"}, "remove": ["first", "last"]}, **breaking
    )
    publish(bus, [{"name": "Grace H"}])
    shout = {"fields": {"title": "name.upper()"}, "remove": ["name"]}
    stream(bus, schema=schema("title"), migration=shout, **breaking)
    publish(bus, [{"title": "now"}])
    run(bus, keep(), streams=[{"name": "out"}])
    assert of(bus) == [{"title": "ADA L"}, {"title": "GRACE H"}, {"title": "now"}]


def test_json_events_are_migrated_too(bus: Bus) -> None:
    def register(properties: dict[str, Any], **more: Any) -> None:
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        bus.schemas.register({"schema_name": "order", "json_schema": schema, **more})
        make_stream(bus.log, bus.schemas, StreamConfig(name="in"), "order")

    register({"total": {"type": "number"}})
    publish(bus, [{"total": 1.5}, {"total": "none"}][:1])
    register(
        {"cents": {"type": "integer"}},
        migration={"fields": {"cents": "int(total * 100)"}, "remove": ["total"]},
        evolution_strategy="BREAKING_CHANGE",
    )
    publish(bus, [{"cents": 7}])
    run(bus, keep(expression="payload.cents > 0"), streams=[{"name": "out"}])
    assert of(bus) == [{"cents": 150}, {"cents": 7}]


def test_what_cannot_be_migrated_is_dead_and_as_it_was(bus: Bus) -> None:
    stream(bus, schema={"type": "record", "name": "O", "fields": [{"name": "n", "type": ["null", "int"]}]})
    publish(bus, [{"n": None}, {"n": 2}])
    before = read_all(bus, "in")
    stream(
        bus,
        schema={"type": "record", "name": "O", "fields": [{"name": "double", "type": "int"}]},
        migration={"fields": {"double": "n * 2"}, "remove": ["n"]},
        evolution_strategy="BREAKING_CHANGE",
    )
    run(bus, keep(), streams=[{"name": "out"}])
    assert of(bus) == [{"double": 4}]
    (letter,) = read_all(bus, "_dead_letters")
    assert letter.data == before[0].data
    told = letter.metadata["dead_letter"]["error_message"]  # type: ignore[index]
    assert "cannot be brought to order 2.0" in told
    assert "n is null" in told


def test_an_event_alone_is_read_with_the_version_it_was_written_with(bus: Bus) -> None:
    stream(bus)
    publish(bus, [FIRST])
    stream(bus, schema=NEWER)
    assert of(bus, "in") == [FIRST]


def test_a_schema_that_nobody_knows_is_told(bus: Bus) -> None:
    event = Event("e", "t", 0, b"\0\0\0\0\1x", serialization_format=SerializationFormat.AVRO, schema_id="sch_unknown")
    with pytest.raises(msgspec.DecodeError, match="sch_unknown"):
        _ = event.payload
    assert "payload_base64" in event.payload_data()


# --- seen from outside --------------------------------------------------------------------------------------------------


def test_history_and_the_command_line_show_json(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    stream(bus)
    publish(bus, [FIRST])
    bus.close()
    payloads._readers.clear()
    with pytest.raises(SystemExit):
        main(["--data", str(bus.folder), "read", "in"])
    assert '"total":12.5' in capsys.readouterr().out
    payloads._readers.clear()
    with pytest.raises(SystemExit):
        main(["--data", str(bus.folder), "sql", "--json", "SELECT payload->>'k' FROM events WHERE stream = 'in'"])
    assert '"a"' in capsys.readouterr().out
