"""Flows looked over: what is told, where, and what is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from event_streaming_bus.bus import Bus
from event_streaming_bus.cli.main import cli
from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.flows.checker import format_path
from event_streaming_bus.flows.disorder import Disorder, measure
from event_streaming_bus.flows.findings import Finding
from event_streaming_bus.flows.lint import check_file, lint
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType, Lookup, Within
from event_streaming_bus.flows.schema_types import type_of_schema
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, parse_flow
from event_streaming_bus.flows.types import ANY, NULL, TEXT, Kind, Others, at
from event_streaming_bus.models import EventConfig, ProcessorType, StreamConfig
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.testing import temporary_bus

ORDER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "total", "state", "customer"],
    "properties": {
        "id": {"type": "integer"},
        "total": {"type": "number"},
        "note": {"type": "string"},
        "state": {"enum": ["open", "paid", "shipped"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "customer": {
            "type": "object",
            "required": ["age"],
            "properties": {"region": {"type": "string"}, "age": {"type": ["integer", "null"]}},
        },
    },
}
FINE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def processor(name: str, kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "processor_name": name,
        "processor_type": kind,
        "processing_logic": logic,
        "source_stream_id": "orders",
    }
    if "target_stream_id" not in more:
        config["target_stream_id"] = f"of_{name}"
    if kind == "AGGREGATE":
        config["window_config"] = {"window_type": "tumbling", "window_size_ms": 60_000, **more.pop("window", {})}
    return {key: value for key, value in (config | more).items() if value is not None}


def flow(*processors: dict[str, Any], schema: Any = ORDER, streams: tuple[dict[str, Any], ...] = (), **stream: Any) -> FlowSpec:
    data: dict[str, Any] = {
        "schemas": [{"schema_name": "order", "json_schema": schema}],
        "streams": [{"name": "orders", "schema": "order", **stream}, *streams],
        "processors": list(processors),
    }
    return parse_flow(data, name="flow")


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f"{finding.severity}", finding.code) for finding in findings]


def of_filter(*conditions: str, schema: Any = ORDER) -> list[Finding]:
    first, *more = conditions
    return lint(flow(processor("f", "FILTER", {"filter_expression": first, "additional_checks": more}), schema=schema))


def of_aggregate(window: dict[str, Any] | None = None, **logic: Any) -> list[Finding]:
    return lint(flow(processor("a", "AGGREGATE", logic, window=window or {})))


# --- expressions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "severity", "code", "message"),
    [
        ("payload.totl > 10", "error", "unknown-field", "payload has no field 'totl'; did you mean 'total'?"),
        ("payload['totl'] == 1", "error", "unknown-field", "did you mean 'total'"),
        (
            "payload.customer.regin == 'a'",
            "warning",
            "unknown-field",
            "payload.customer lists no field 'regin'; did you mean 'region'?",
        ),
        ("payload.state.code == 'a'", "error", "no-object", "payload.state is text and has no fields"),
        ("payload.note.lower() == 'a'", "warning", "maybe-null", "payload.note may be missing, and lower() fails on null"),
        ("payload.customer.age > 5", "warning", "maybe-null", "payload.customer.age may be null, and > fails on null"),
        ("1 + payload.customer.age == 5", "warning", "maybe-null", "payload.customer.age may be null, and + after an integer"),
        ("len(payload.tags) > 1", "warning", "maybe-null", "payload.tags may be missing, and len() fails on null"),
        (
            "payload.total > '5'",
            "error",
            "wrong-type",
            "payload.total (a number) cannot be compared with '5' (text); > always fails",
        ),
        ("payload.total == '5'", "error", "never-equal", "payload.total (a number) is never equal to '5' (text)"),
        ("payload.total in ('5', '6')", "error", "never-equal", "never equal to '6'"),
        (
            "payload.state == 'payd'",
            "warning",
            "never-equal",
            "is never 'payd', only 'open', 'paid', 'shipped'; did you mean 'paid'?",
        ),
        ("payload.state in ('opn', 'paid')", "warning", "never-equal", "did you mean 'open'?"),
        ("priority == 'critical'", "warning", "never-equal", "did you mean 'CRITICAL'?"),
        ("payload.total.lower() == 'x'", "error", "wrong-type", "payload.total is a number, but lower() needs text"),
        ("payload.id * payload.state == 2", "error", "wrong-type", "payload.state is text, but * needs a number"),
        ("payload.state + 1 == 'a1'", "error", "wrong-type", "1 is an integer, but + after text needs text"),
        ("-payload.state == 1", "error", "wrong-type", "payload.state is text, but - needs a number"),
        ("hour(payload.state) == 1", "error", "wrong-type", "payload.state is text, but hour() needs a number"),
        ("any(t.code == 1 for t in payload.tags or [])", "error", "no-object", "t is text and has no fields"),
        ("[x for x in payload.state] == []", "error", "wrong-type", "payload.state is text, but a comprehension needs a list"),
        (
            "payload.customer < payload.customer",
            "error",
            "wrong-type",
            "payload.customer is an object, and < cannot order objects",
        ),
        ("'a' in payload.total", "error", "wrong-type", "payload.total is a number, but in needs text or a list or an object"),
        (
            "payload.customer.age == null and payload.customer.age > 1",
            "error",
            "always-null",
            "is always null, and > fails on null",
        ),
        ("true", "warning", "always-true", "this always holds"),
        ("payload.id != null", "warning", "always-true", "this always holds"),
        ("1 > 2 and payload.total > 1", "warning", "always-false", "this never holds"),
        ("payload.id == null", "warning", "always-false", "this never holds"),
        ("not (payload.total > 1 or 1 < 2)", "warning", "always-false", "this never holds"),
    ],
)
def test_what_an_expression_gets_wrong_is_told(expression: str, severity: str, code: str, message: str) -> None:
    found = [finding for finding in of_filter(expression) if (finding.severity, finding.code) == (severity, code)]
    assert any(message in finding.message for finding in found), of_filter(expression)
    assert {format_path(finding.path) for finding in found} == {"processors[0].processing_logic.filter_expression"}


@pytest.mark.parametrize(
    "expression",
    [
        "payload.total > 10 and payload.state == 'paid'",
        "payload.note != null and payload.note.lower() == 'a'",
        "exists(payload.note) and payload.note.startswith('a')",
        "payload.note and payload.note.lower() == 'a'",
        "payload.note == null or payload.note.lower() == 'a'",
        "not (payload.note == null or payload.note.lower() == 'a')",
        "payload.note.lower() == 'a' if payload.note != null else payload.total > 1",
        "payload.customer.age not in (null, 5) and payload.customer.age > 5",
        "payload.note in ('a', 'b') and payload.note < 'b'",
        "coalesce(payload.customer.age, 0) > 5",
        "payload.id + payload.total > 1.5 and payload.id % 2 == 1",
        "payload.id == 1.0 or payload.id == true",
        "payload.tags != null and any(t.startswith('a') for t in payload.tags)",
        "payload.tags != null and payload.tags[0] == 'a'",
        "concat(payload.note, payload.id) == 'a1' or f'{payload.note}' == 'b'",
        "metadata != null and metadata.source == 'web'",
        "key == null or key.startswith('a')",
        "timestamp > 0 and hour(timestamp) > 8 and event_type == 'order.placed'",
        "payload.state + payload.state == 'openopen'",
        "max(payload.total, payload.id) > 3 and round(payload.total) > 3",
    ],
)
def test_what_is_fine_is_not_told(expression: str) -> None:
    assert of_filter(expression) == []


@pytest.mark.parametrize("expression", ["payload.anything.at.all > 'x'", "payload.a + payload.b == payload.c.lower()"])
def test_without_a_schema_nothing_is_said_of_fields(expression: str) -> None:
    assert of_filter(expression, schema={}) == []
    assert of_filter(expression, schema={"type": "object", "additionalProperties": True, "properties": {"x": {}}}) == []


def test_what_a_check_has_ruled_out_is_known_to_the_next_and_to_those_who_read_the_filter() -> None:
    notes = processor("notes", "FILTER", {"filter_expression": "payload.note != null"}, target_stream_id=None)
    upper = {"mode": "replace", "fields": {"note": "payload.note.upper()"}}
    assert lint(flow(notes, processor("upper", "MAP", upper, source_stream_id="notes"))) == []
    assert told(lint(flow(processor("upper", "MAP", upper)))) == [("warning", "maybe-null")]
    assert of_filter("payload.note != null", "payload.note.upper() == 'A'") == []


def test_a_field_that_is_not_there_is_told_once_not_for_all_that_follows_from_it() -> None:
    assert told(of_filter("payload.totl > 10 and payload.total > 1")) == [("error", "unknown-field")]


def test_rules_of_a_schema_are_looked_over_too() -> None:
    rules = {"business_rules": [{"name": "a", "rule": "totl > 0"}, {"name": "b", "rule": "note.isalpha()"}]}
    spec = flow(processor("f", "FILTER", {"filter_expression": "payload.total > 1"}))
    spec = msgspec.structs.replace(spec, schemas=({**spec.schemas[0], "validation_rules": rules},))
    found = lint(spec)
    assert told(found) == [("error", "unknown-field"), ("warning", "maybe-null")]
    assert format_path(found[1].path) == "schemas[0].validation_rules.business_rules[1].rule"


def test_a_schema_that_the_registry_would_refuse_is_an_error() -> None:
    found = of_filter("payload.a == 1", schema={"type": "objekt"})
    assert told(found) == [("error", "bad-schema")]


# --- what processors make -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logic", "code", "message"),
    [
        ({"aggregation_function": "sum", "aggregation_field": "state"}, "wrong-type", "state is text, but sum needs a number"),
        (
            {"aggregation_function": "max", "aggregation_field": "tags"},
            "wrong-type",
            "tags is a list, but max needs a number or text",
        ),
        ({"aggregation_function": "sum", "aggregation_field": "totl"}, "unknown-field", "did you mean 'total'?"),
        ({"aggregation_function": "count", "group_by": ["staet"]}, "unknown-field", "did you mean 'state'?"),
        ({"aggregation_function": "count", "group_by": ["total"]}, "float-key", "total may have a fraction"),
        ({"aggregation_function": "count", "group_by": ["customer"]}, "bad-key", "customer is an object, but a key needs"),
    ],
)
def test_what_an_aggregate_cannot_take_is_told(logic: dict[str, Any], code: str, message: str) -> None:
    (finding,) = of_aggregate(**logic)
    assert finding.code == code
    assert message in finding.message


def test_an_aggregate_gives_its_groups_its_window_and_its_results() -> None:
    sums = processor(
        "sums", "AGGREGATE", {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["customer.region"]}
    )
    ends = "payload.window_end.endswith('Z') and payload.customer_region != null"
    fine = processor("fine", "FILTER", {"filter_expression": ends}, source_stream_id="sums")
    wrong = processor("wrong", "FILTER", {"filter_expression": "payload.sum_totl > 1"}, source_stream_id="sums")
    null = processor("null", "FILTER", {"filter_expression": "payload.sum_total > 1"}, source_stream_id="sums")
    found = lint(flow(sums, fine, wrong, null))
    assert [(finding.path[1], finding.code) for finding in found] == [(2, "unknown-field"), (3, "maybe-null")]
    assert "'sum_total'" in found[0].message


def test_a_map_moves_renames_drops_and_sets_fields() -> None:
    logic = {"drop": ["tags"], "rename": {"customer.region": "region"}, "fields": {"price.net": "payload.total / 2"}}
    mapped = processor("m", "MAP", logic, target_stream_id=None)

    def reader(expression: str) -> list[Finding]:
        return lint(flow(mapped, processor("f", "FILTER", {"filter_expression": expression}, source_stream_id="m")))

    assert reader("payload.price.net > 1 and payload.region != null and payload.customer.age == 1") == []
    assert told(reader("payload.tags == null")) == [("error", "unknown-field")]
    assert told(reader("payload.price.net == 'a'")) == [("error", "never-equal"), ("warning", "always-false")]
    assert told(reader("payload.region > 'a'")) == [("warning", "maybe-null")]


@pytest.mark.parametrize(
    ("fields", "severity", "message"),
    [
        ({"b": "1"}, "error", "the output never has the field a, which the schema of fine requires"),
        ({"a": "payload.state"}, "error", "a is text, but the schema of fine wants an integer"),
        ({"a": "payload.customer.age"}, "warning", "a may be null, but the schema of fine wants an integer"),
        ({"a": "payload.id"}, None, ""),
        ({"a": "payload.total"}, None, ""),
    ],
)
def test_what_is_written_is_held_against_the_schema_of_the_target(fields: Any, severity: str | None, message: str) -> None:
    spec = flow(processor("m", "MAP", {"mode": "replace", "fields": fields}, target_stream_id="fine"))
    fine = parse_flow(
        {
            "schemas": [{"schema_name": "fine", "json_schema": FINE}],
            "streams": [{"name": "fine", "schema": "fine"}],
            "processors": [],
        }
        | {"processors": [processor("x", "FILTER", {"filter_expression": "payload.a == 1"}, source_stream_id="fine")]},
        name="fine",
    )
    found = lint(msgspec.structs.replace(spec, schemas=spec.schemas + fine.schemas, streams=spec.streams + fine.streams))
    assert [(finding.severity.value, finding.message) for finding in found] == ([(severity, message)] if severity else [])


def test_a_closed_schema_takes_no_other_fields() -> None:
    closed = {**FINE, "additionalProperties": False}
    mapped = processor("m", "MAP", {"mode": "replace", "fields": {"a": "1", "extra": "2"}}, target_stream_id="orders")
    found = lint(flow(mapped | {"source_stream_id": "others"}, schema=closed))
    assert [finding.message for finding in found] == ["the schema of orders allows no field extra"]


def join(logic: JoinLogic, *more: ProcessorSpec) -> FlowSpec:
    joined = ProcessorSpec(
        processor_name="j",
        processor_type=ProcessorType.JOIN,
        source_stream_id="orders",
        target_stream_id="pairs",
        processing_logic=logic,  # type: ignore[arg-type]
    )
    return msgspec.structs.replace(
        flow(processor("f", "FILTER", {"filter_expression": "payload.id > 1"})), processors=(joined, *more)
    )


def test_a_join_is_looked_at_from_both_sides() -> None:
    on = ((("id",), ("state",)),)
    logic = JoinLogic(join_stream_id="orders", on=on, within=Within(before_ms=1, after_ms=1))
    (finding,) = lint(join(logic))
    assert finding.code == "never-equal"
    assert finding.message == "id (an integer) of the left side never equals state (text) of the right side"


def test_a_left_join_may_have_no_right_side() -> None:
    fields = ((("age",), parse("right.id + 1", Scope.PAYLOAD)), (("own",), parse("left.id + 1", Scope.PAYLOAD)))
    logic = JoinLogic(
        join_stream_id="orders",
        join_type=JoinType.LEFT,
        on=((("id",), ("id",)),),
        within=Within(before_ms=1, after_ms=1),
        fields=fields,
    )
    (finding,) = lint(join(logic))
    assert finding.message.startswith("right.id may be missing, and + fails on null")


def test_state_without_a_bound_is_remarked() -> None:
    lookup = JoinLogic(join_stream_id="orders", on=((("id",), ("id",)),), lookup=Lookup())
    keyed = ProcessorSpec(
        processor_name="c",
        processor_type=ProcessorType.CUSTOM,
        source_stream_id="orders",
        target_stream_id="made",
        processing_logic=CustomLogic(function="a:b", form=CustomForm.KEYED, key=(("id",),)),  # type: ignore[arg-type]
    )
    twice = ProcessorSpec(
        processor_name="d",
        processor_type=ProcessorType.DEDUPLICATE,
        source_stream_id="orders",
        target_stream_id="once",
        processing_logic=DeduplicateLogic(deduplicate_by=(("id",),), within_ms=0),  # type: ignore[arg-type]
    )
    found = lint(join(lookup, keyed, twice))
    assert told(found) == [("info", "unbounded-state"), ("info", "unbounded-state"), ("warning", "no-span")]


# --- the flow as a whole ------------------------------------------------------------------------------------------------


def test_what_stands_behind_a_filter_that_never_holds_is_unreachable() -> None:
    never = processor("never", "FILTER", {"filter_expression": "payload.state == 'open' and payload.state == 'paid'"})
    behind = processor("behind", "FILTER", {"filter_expression": "payload.id > 1"}, source_stream_id="never")
    beyond = processor("beyond", "FILTER", {"filter_expression": "payload.id > 2"}, source_stream_id="behind")
    found = [finding for finding in lint(flow(never, behind, beyond)) if finding.code == "unreachable"]
    assert [finding.path[1] for finding in found] == [1, 2]
    assert found[1].message == "no event comes here: the filter of never never holds"


def test_streams_and_schemas_that_nothing_uses_are_told() -> None:
    spec = flow(processor("f", "FILTER", {"filter_expression": "payload.a == 1"}, source_stream_id="other"))
    assert told(lint(spec)) == [("warning", "unused-stream")]
    bare = msgspec.structs.replace(spec, streams=())
    assert told(lint(bare)) == [("info", "unused-schema")]


def test_a_window_larger_than_retention_is_told() -> None:
    count = processor("a", "AGGREGATE", {"aggregation_function": "count"}, window={"grace_period_ms": 1})
    assert told(lint(flow(count, retention_ms=60_000))) == [("warning", "beyond-retention")]
    assert lint(flow(count, retention_ms=60_001)) == []


def test_stop_is_remarked_where_it_stops_others() -> None:
    stop = processor("f", "FILTER", {"filter_expression": "payload.id > 1"}, error_handling_strategy="STOP")
    assert lint(flow(stop)) == []
    other = processor("g", "FILTER", {"filter_expression": "payload.id > 1"})
    assert told(lint(flow(stop, other))) == [("info", "stops-all")]


# --- with a data folder -------------------------------------------------------------------------------------------------


def publish(bus: Bus, times_ms: list[int]) -> None:
    payloads = [{"id": 1, "total": 1, "state": "open", "customer": {"age": 1}} for _ in times_ms]
    bus.publishing.submit(EventConfig(event_type="order"), payloads, stream_id="orders", timestamps_ms=times_ms).result()


def test_the_newest_events_tell_how_much_grace_is_needed(bus: Bus) -> None:
    info = bus.storage.log.create_stream(StreamConfig(name="orders"))
    publish(bus, [0, 5000, 3000, 9000, 5500, 9000, 10_000])
    assert measure(bus.storage.log, info) == Disorder(7, 2, 3500)
    spec = flow(processor("a", "AGGREGATE", {"aggregation_function": "count"}, window={"grace_period_ms": 3499}))
    bus.storage.log.create_stream(StreamConfig(name="of_a"))
    (finding,) = lint(spec, bus.storage)
    assert finding.code == "short-grace"
    assert "of the newest 7 events of orders, 2 came after a later one, by up to 3500 ms" in finding.message
    enough = flow(processor("a", "AGGREGATE", {"aggregation_function": "count"}, window={"grace_period_ms": 3500}))
    assert lint(enough, bus.storage) == []


def test_only_the_newest_events_are_looked_at(bus: Bus) -> None:
    info = bus.storage.log.create_stream(StreamConfig(name="orders"))
    publish(bus, [9000, 0, *range(10_000, 10_100)])
    assert measure(bus.storage.log, info, sample_events=100) == Disorder(100, 0, 0)
    assert measure(bus.storage.log, info) == Disorder(102, 1, 9000)


def test_schemas_and_streams_of_the_data_folder_are_known(bus: Bus) -> None:
    SchemaRegistryService(bus.storage).register({"schema_name": "order", "json_schema": ORDER})
    schema_id = bus.schemas.find("default", "order").schema_id
    bus.storage.log.create_stream(StreamConfig(name="orders", schema_id=schema_id))
    data = {"processors": [processor("f", "FILTER", {"filter_expression": "payload.totl > 1"}, target_stream_id="ordrs")]}
    spec = parse_flow(data, name="flow")
    assert lint(spec) == []
    found = lint(spec, bus.storage)
    assert told(found) == [("error", "unknown-field"), ("warning", "no-stream")]
    assert "did you mean 'orders'?" in found[1].message


# --- files and the command ----------------------------------------------------------------------------------------------

BAD = """\
schemas:
  - schema_name: order
    json_schema: {type: object, additionalProperties: false, properties: {total: {type: number}, note: {type: string}}}
streams:
  - {name: orders, schema: order}
processors:
  - processor_name: adder
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic:
      aggregations:
        - function: sum
          field: note
    window_config: {window_type: tumbling, window_size_ms: 1000}
"""
WARNED = """\
streams: [{name: unused}]
processors:
  - processor_name: f
    processor_type: FILTER
    source_stream_id: a
    target_stream_id: b
    processing_logic: {filter_expression: payload.a == 1}
"""


def esb(tmp_path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["--data", str(tmp_path / "data"), *arguments], standalone_mode=False)


def test_a_finding_has_the_path_as_it_is_written_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    (finding,) = check_file(tmp_path / "bad.yaml")
    assert (finding.where, finding.line) == ("processors[0].processing_logic.aggregations[0].field", 14)
    short = BAD.replace(
        "aggregations:\n        - function: sum\n          field: note",
        "aggregation_function: sum\n      aggregation_field: note",
    )
    (tmp_path / "short.yaml").write_text(short)
    (finding,) = check_file(tmp_path / "short.yaml")
    assert (finding.where, finding.line) == ("processors[0].processing_logic.aggregation_field", 13)


def test_the_command_tells_the_findings_of_all_files_and_makes_nothing(tmp_path: Path) -> None:
    bad, warned, broken = (tmp_path / name for name in ("bad.yaml", "warned.yaml", "broken.yaml"))
    bad.write_text(BAD)
    warned.write_text(WARNED)
    broken.write_text(WARNED.replace("processor_type", "procesor_type"))
    done = esb(tmp_path, "check", str(bad), str(warned), str(broken))
    assert done.return_value == 1
    lines = done.stdout.splitlines()
    place = "processors[0].processing_logic.aggregations[0].field"
    assert lines[0] == f"{bad}:14: {place}: error: note is text, but sum needs a number [wrong-type]"
    assert lines[1] == f"{warned}:1: streams[0].name: warning: no processor reads or writes the stream unused [unused-stream]"
    assert all(line.startswith(f"{broken}:") and line.endswith("[does-not-load]") for line in lines[2:])
    assert done.stderr.startswith("3 files checked: ")
    assert not (tmp_path / "data").exists()


def test_warnings_fail_the_command_only_if_it_is_strict(tmp_path: Path) -> None:
    file = tmp_path / "warned.yaml"
    file.write_text(WARNED)
    assert esb(tmp_path, "check", str(file)).return_value == 0
    done = esb(tmp_path, "check", str(file), "--strict", "--json")
    assert done.return_value == 1
    assert json.loads(done.stdout) == {
        "file": str(file),
        "line": 1,
        "path": "streams[0].name",
        "severity": "warning",
        "code": "unused-stream",
        "message": "no processor reads or writes the stream unused",
    }


# --- types of schemas ---------------------------------------------------------------------------------------------------


def test_references_and_combinations_of_schemas_are_followed() -> None:
    kind = type_of_schema(
        {
            "$defs": {"name": {"type": ["string", "null"]}, "tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}},
            "allOf": [{"properties": {"a": {"$ref": "#/$defs/name"}}}, {"required": ["a"]}],
            "properties": {"b": {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "c": {"const": "x"}},
            "required": ["b", "c"],
            "type": "object",
        }
    )
    assert at(kind, ("a",)).kinds == {Kind.TEXT, Kind.NULL}
    assert at(kind, ("b",)).kinds == {Kind.INTEGER, Kind.TEXT}
    assert at(kind, ("c",)).values == ("x",)
    assert kind.others is Others.UNLISTED


def test_a_schema_that_refers_to_itself_ends() -> None:
    kind = type_of_schema(
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}}
    )
    assert Kind.OBJECT in (at(kind, ("next",)).kinds or ())
    assert at(kind, ("next", "next", "next")) == ANY


def test_schemas_that_refer_to_each_other_in_many_ways_end_too() -> None:
    names = [f"n{i}" for i in range(12)]
    every = {"type": "object", "properties": {name: {"$ref": f"#/$defs/{name}"} for name in names}}
    kind = type_of_schema({**every, "$defs": dict.fromkeys(names, every)})
    assert Kind.OBJECT in (at(kind, ("n0",)).kinds or ())


def test_what_a_schema_does_not_say_is_unknown() -> None:
    assert type_of_schema(True) == ANY
    assert at(type_of_schema({"properties": {"a": {}}, "required": ["a"]}), ("a",)) == ANY
    closed = type_of_schema(
        {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "string"}}, "required": ["a"]}
    )
    assert (at(closed, ("a",)), at(closed, ("b",))) == (TEXT, NULL)
    assert type_of_schema({"patternProperties": {"^x": {}}, "additionalProperties": False}).others is Others.OPEN
