"""Flow files and REST bodies: what is accepted, what it means, and how what is wrong is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows import retry_policy, spec, window_config
from event_streaming_bus.flows.processors import aggregate, custom, deduplicate, join, window
from event_streaming_bus.flows.processors import filter as filter_type
from event_streaming_bus.flows.processors import map as map_type
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.filter import FilterLogic
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.flows.spec import load_flow, parse_flow, parse_processor, to_data
from event_streaming_bus.flows.topology import SourceRef
from event_streaming_bus.flows.window_config import TumblingWindow
from event_streaming_bus.models import CompressionType, ErrorHandlingStrategy, InvalidEventPolicy, ProcessorType

SEED_FILTER: dict[str, Any] = {
    "processor_name": "user_verification_filter",
    "processor_description": "Filter only verified user events",
    "processor_type": "FILTER",
    "source_stream_id": "str_user_events_123",
    "target_stream_id": "str_verified_users_456",
    "processing_logic": {
        "filter_expression": "payload.verification_status == 'verified'",
        "additional_checks": ["payload.email_verified == true", "payload.phone_verified == true"],
    },
    "parallelism": 3,
    "error_handling_strategy": "RETRY",
}
SEED_AGGREGATE: dict[str, Any] = {
    "processor_name": "daily_sales_aggregator",
    "processor_type": ProcessorType.AGGREGATE.value,
    "source_stream_id": "str_order_events",
    "target_stream_id": "str_daily_sales",
    "processing_logic": {
        "aggregation_function": "sum",
        "aggregation_field": "order_total",
        "group_by": ["customer_segment", "region"],
    },
    "window_config": {"window_type": "tumbling", "window_size_ms": 86400000, "grace_period_ms": 3600000},
    "state_store_config": {"store_type": "rocksdb", "changelog_topic": "sales-aggregator-changelog"},
}

SALES_YAML = """\
name: sales
description: Paid orders and what they come to
streams:
  - name: orders
    partitions: 4
    compression_type: ZSTD
    retention_ms: 604800000
    schema: order_event@1.0
    on_invalid: DEAD_LETTER
schemas:
  - schema_name: order_event
    schema_version: "1.0"
    json_schema: {type: object, required: [order_id]}
processors:
  - processor_name: paid_orders
    processor_type: FILTER
    source_stream_id: orders
    processing_logic:
      filter_expression: payload.status == 'paid'
  - processor_name: sales_by_country
    processor_type: AGGREGATE
    source_stream_id: paid_orders
    target_stream_id: sales
    processing_logic:
      aggregations:
        - {function: SUM, field: total.amount, as: revenue}
        - {function: count}
      group_by: [address.country]
    window_config:
      window_type: Tumbling
      window_size_ms: 3600000
      close_when_idle_ms: never
"""


TYPES = "FILTER, MAP, AGGREGATE, JOIN, WINDOW, DEDUPLICATE, CUSTOM"
WINDOWS = "tumbling, hopping, sliding, session, count, calendar, global"


def a_filter(name: str = "f", source: str = "orders", target: str | None = "out", **more: Any) -> dict[str, Any]:
    return {
        "processor_name": name,
        "processor_type": "FILTER",
        "source_stream_id": source,
        "target_stream_id": target,
        "processing_logic": {"filter_expression": "payload.a == 1"},
    } | more


def a_map(logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    return a_filter(processor_type="MAP", processing_logic=logic, **more)


def an_aggregate(logic: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    given = {
        "processor_type": "AGGREGATE",
        "processing_logic": logic or {"aggregation_function": "count"},
        "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
    }
    return a_filter(**(given | more))


def flow_error(*processors: dict[str, Any], **flow: Any) -> str:
    with pytest.raises(FlowError) as caught:
        parse_flow({"processors": list(processors)} | flow, name="f")
    return caught.value.message


def processor_error(data: object) -> str:
    with pytest.raises(FlowError) as caught:
        parse_processor(data, path="p")
    return caught.value.message


def file_error(folder: Path, name: str, content: str | bytes) -> FlowError:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FlowError) as caught:
        load_flow(path)
    return caught.value


# --- the seed's examples ----------------------------------------------------------------------------------------------


def test_the_filter_of_the_rest_example_parses() -> None:
    processor = parse_processor(SEED_FILTER)
    assert isinstance(processor.processing_logic, FilterLogic)
    assert processor.processing_logic.filter_expression.text == "payload.verification_status == 'verified'"
    assert [check.text for check in processor.processing_logic.additional_checks] == [
        "payload.email_verified == true",
        "payload.phone_verified == true",
    ]
    assert (processor.parallelism, processor.error_handling_strategy) == (3, ErrorHandlingStrategy.RETRY)
    assert processor.window is None


def test_the_aggregate_of_the_sdk_example_parses() -> None:
    processor = parse_processor(SEED_AGGREGATE)
    assert isinstance(processor.processing_logic, AggregateLogic)
    (total,) = processor.processing_logic.aggregations
    assert (total.function, total.field, total.name) == ("sum", ("order_total",), "sum_order_total")
    assert processor.processing_logic.group_names == ("customer_segment", "region")
    assert processor.window == TumblingWindow(window_size_ms=86_400_000, grace_period_ms=3_600_000)
    assert processor.error_handling_strategy is ErrorHandlingStrategy.DEAD_LETTER
    assert processor.state_store_config is not None
    assert processor.state_store_config.changelog_topic == "sales-aggregator-changelog"


@pytest.mark.parametrize("data", [SEED_FILTER, SEED_AGGREGATE], ids=["filter", "aggregate"])
def test_a_processor_comes_back_as_it_was_given(data: dict[str, Any]) -> None:
    back: Any = to_data(parse_processor(data))
    for key, value in data.items():
        assert back[key] == value if key != "window_config" else value.items() <= back[key].items()


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_flow_file_becomes_a_spec(tmp_path: Path) -> None:
    (tmp_path / "sales.yaml").write_text(SALES_YAML)
    flow = load_flow(tmp_path / "sales.yaml")
    assert (flow.name, flow.tenant_id) == ("sales", "default")
    (stream,) = flow.streams
    assert (stream.partitions, stream.compression_type, stream.schema) == (4, CompressionType.ZSTD, "order_event@1.0")
    assert stream.on_invalid is InvalidEventPolicy.DEAD_LETTER
    assert flow.schemas[0]["schema_version"] == "1.0"
    by_country = flow.processor("sales_by_country")
    assert by_country is not None
    assert by_country.window == TumblingWindow(window_size_ms=3_600_000, close_when_idle_ms=None)
    assert isinstance(by_country.processing_logic, AggregateLogic)
    assert [item.name for item in by_country.processing_logic.aggregations] == ["revenue", "count"]
    assert by_country.processing_logic.group_names == ("address_country",)


def test_yaml_json_and_toml_give_the_same_spec(tmp_path: Path) -> None:
    (tmp_path / "sales.yml").write_text(SALES_YAML)
    flow = load_flow(tmp_path / "sales.yml")
    (tmp_path / "sales.json").write_text(json.dumps(to_data(flow), indent="\t"))
    (tmp_path / "sales.toml").write_text("""
name = "sales"
description = "Paid orders and what they come to"
[[streams]]
name = "orders"
partitions = 4
compression_type = "ZSTD"
retention_ms = 604_800_000
schema = "order_event@1.0"
on_invalid = "DEAD_LETTER"
[[schemas]]
schema_name = "order_event"
schema_version = "1.0"
json_schema = {type = "object", required = ["order_id"]}
[[processors]]
processor_name = "paid_orders"
processor_type = "FILTER"
source_stream_id = "orders"
processing_logic = {filter_expression = "payload.status == 'paid'"}
[[processors]]
processor_name = "sales_by_country"
processor_type = "AGGREGATE"
source_stream_id = "paid_orders"
target_stream_id = "sales"
[processors.processing_logic]
aggregations = [{function = "sum", field = "total.amount", as = "revenue"}, {function = "count"}]
group_by = ["address.country"]
[processors.window_config]
window_type = "tumbling"
window_size_ms = 3_600_000
close_when_idle_ms = "never"
""")
    assert load_flow(tmp_path / "sales.json") == flow
    assert load_flow(tmp_path / "sales.toml") == flow


def test_a_flow_without_a_name_has_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "late-orders.json").write_text(json.dumps({"processors": [a_filter()]}))
    assert load_flow(str(tmp_path / "late-orders.json")).name == "late-orders"


def test_a_file_whose_name_is_no_flow_name_must_name_its_flow(tmp_path: Path) -> None:
    error = file_error(tmp_path, "my flow.json", json.dumps({"processors": [a_filter()]}))
    assert "name: required, for the default 'my flow' is no flow name" in error.message


def test_unquoted_yaml_words_and_dates_stay_text(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("""\
processors:
  - processor_name: f
    processor_type: MAP
    source_stream_id: NO
    target_stream_id: 2013-01-01
    processing_logic: {select: [NO, on, yes, 0123, 1e5x]}
""")
    processor = load_flow(tmp_path / "f.yaml").processors[0]
    assert (processor.source_stream_id, processor.target_stream_id) == ("NO", "2013-01-01")
    assert isinstance(processor.processing_logic, MapLogic)
    assert processor.processing_logic.select == (("NO",), ("on",), ("yes",), ("0123",), ("1e5x",))


def test_toml_dates_in_a_schema_become_text(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("""
[[schemas]]
schema_name = "s"
json_schema = {enum = [2013-01-01, 2013-01-01T10:00:00Z]}
[[processors]]
processor_name = "f"
processor_type = "FILTER"
source_stream_id = "a"
target_stream_id = "b"
processing_logic = {filter_expression = true}
""")
    flow = load_flow(tmp_path / "f.toml")
    assert flow.schemas[0]["json_schema"] == {"enum": ["2013-01-01", "2013-01-01T10:00:00+00:00"]}


def test_anchors_and_aliases_work(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("""\
processors:
  - processor_name: a
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: out
    processing_logic: &logic {filter_expression: payload.a > 1}
  - processor_name: b
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: out
    processing_logic: *logic
""")
    first, second = load_flow(tmp_path / "f.yaml").processors
    assert first.processing_logic == second.processing_logic


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.yaml", "a: [1\n", "f.yaml:2:1: not YAML: "),
        ("f.yaml", "a: 1\n b: 2", "f.yaml:2:3: not YAML: "),
        ("f.yaml", "a: *x", "f.yaml:1:4: the alias *x has no anchor &x before it"),
        ("f.yaml", "a: &a [*a]", "f.yaml:1:8: the alias *a has no anchor"),
        ("f.yaml", "a: !!python/name:os.system x", "f.yaml:1:4: tags such as "),
        ("f.yaml", "a: 1\n---\nb: 2", "f.yaml:2:1: expected one document"),
        ("f.yaml", "b: {<<: {a: 1}}", "f.yaml:1:5: merge keys (<<) are not accepted"),
        ("f.yaml", "? [a]\n: 1", "expected a key that is text"),
        ("f.yaml", "# nothing\n", "the file is empty"),
        ("f.yaml", "", "the file is empty"),
        ("f.yaml", "- 1", "expected a mapping, got a list"),
        ("f.yaml", "a: \x00", "not YAML: "),
        ("f.yaml", b"a: 1\nb: \xff", "f.yaml:2: expected UTF-8 text"),
        ("f.json", '{"a": 1,\n}', "f.json:2:1: not JSON: "),
        ("f.json", '{"a": NaN}', "NaN is not a JSON value"),
        ("f.json", '{"a": 1e999}', "expected finite numbers"),
        ("f.json", '{"a": %s}' % ("9" * 5000), "an integer of too many digits"),
        ("f.toml", "a = 1\nb = \nc = 1", "f.toml:2:5: not TOML: "),
        ("f.toml", "a = 1\na = 2", "f.toml:2: not TOML: "),
        ("f.txt", "a: 1", "expected a flow file ending in .yaml, .yml, .json, .toml, got '.txt'"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    assert expected in file_error(tmp_path, name, content).message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"nowhere\.yaml: there is no such file"):
        load_flow(tmp_path / "nowhere.yaml")


def test_a_folder_is_not_a_flow_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").mkdir()
    with pytest.raises(FlowError, match="cannot be read"):
        load_flow(tmp_path / "f.yaml")


@pytest.mark.parametrize("name", ["f.yaml", "f.json", "f.toml"])
def test_nesting_is_bounded(tmp_path: Path, name: str) -> None:
    nested = {"f.yaml": "a: " + "[" * 900_000, "f.json": "[" * 900_000, "f.toml": "a = " + "[" * 90_000}[name]
    assert "nested more than 64 levels deep" in file_error(tmp_path, name, nested).message


def test_aliases_cannot_multiply_beyond_the_bound(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
    )
    assert "more than 100000 values" in file_error(tmp_path, "f.yaml", laughs).message


def test_a_file_over_one_mebibyte_is_refused(tmp_path: Path) -> None:
    assert "at most 1048576 bytes" in file_error(tmp_path, "f.yaml", "# " + "x" * (1 << 20)).message


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [("f.yaml", "name: a\nname: b\nprocessors: []", 1), ("f.json", '{\n"name": "a",\n\t"name": "b"}', 2)],
)
def test_a_key_given_twice_is_an_error(tmp_path: Path, name: str, content: str, line: int) -> None:
    message = file_error(tmp_path, name, content).message
    assert f"{name}:{line}: name: the key is given twice, in line {line} and again in line {line + 1}" in message


# --- how problems are told --------------------------------------------------------------------------------------------


def test_every_problem_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    content = SALES_YAML.replace("partitions: 4", "partitions: 0")
    content = content.replace("processor_type: FILTER", "procesor_type: FILTER")
    content = content.replace("window_size_ms: 3600000", "window_size_ms: 3600000\n      grace_period_ms: abc")
    error = file_error(tmp_path, "sales.yaml", content)
    file = tmp_path / "sales.yaml"
    first, second, third = error.message.splitlines()
    assert first == f"{file}:5: streams[0].partitions: expected an integer from 1 to 4096, got 0"
    assert second.startswith(
        f"{file}:16: processors[0].procesor_type: unknown key; did you mean 'processor_type'? (accepted: processor_"
    )
    assert third == f"{file}:32: processors[1].window_config.grace_period_ms: expected an integer >= 0, got 'abc'"
    assert error.details["path"] == "streams[0].partitions"
    assert error.details["errors"][2] == {
        "path": "processors[1].window_config.grace_period_ms",
        "line": 32,
        "message": "expected an integer >= 0, got 'abc'",
    }


def test_a_missing_key_is_told_with_the_line_of_what_lacks_it(tmp_path: Path) -> None:
    error = file_error(tmp_path, "f.yaml", "name: f\nprocessors:\n  - processor_name: a\n    target_stream_id: b\n")
    assert f"{tmp_path / 'f.yaml'}:3: processors[0].source_stream_id: required, but missing" in error.message


def test_the_problems_told_are_bounded() -> None:
    with pytest.raises(FlowError) as caught:
        parse_flow({"processors": [a_filter(f"p{i}", parallelism=0) for i in range(50)]}, name="f")
    assert caught.value.message.endswith("\nand 30 more")
    assert len(caught.value.details["errors"]) == 20
    assert caught.value.details["count"] == 50


def test_the_source_stands_before_each_problem_of_plain_data() -> None:
    with pytest.raises(FlowError, match=r"^sales: processors: required, but missing$"):
        parse_flow({}, name="f", source="sales")


def test_the_given_path_stands_before_each_problem_of_a_processor() -> None:
    assert processor_error(a_filter(parallelism=65)) == "p.parallelism: expected an integer from 1 to 64, got 65"


def test_an_expression_that_does_not_parse_is_told_with_its_path_once() -> None:
    message = processor_error(a_filter(processing_logic={"filter_expression": "payload.a =="}))
    assert message.startswith("p.processing_logic.filter_expression: ")
    assert message.count("p.processing_logic.filter_expression") == 1
    assert "^" in message


def test_every_bad_expression_is_told() -> None:
    logic = {"filter_expression": "payload.a ==", "additional_checks": ["payload.b", "((", 7, None]}
    message = processor_error(a_filter(processing_logic=logic))
    assert "filter_expression: " in message
    assert "additional_checks[1]: " in message
    assert "additional_checks[3]: expected an expression as text, got null" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"processor_type": "FLTER"}, f"p.processor_type: expected one of {TYPES}, got 'FLTER'; did you mean 'FILTER'?"),
        ({"processor_type": ["FILTER"]}, f"p.processor_type: expected one of {TYPES}, got a list"),
        ({"processor_name": "9a"}, "p.processor_name: expected a letter or _, then"),
        ({"processor_name": "a.b"}, "p.processor_name: expected a letter or _, then"),
        ({"processor_name": 7}, "got 7 (put it in quotes)"),
        ({"source_stream_id": None}, "p.source_stream_id: required, but missing"),
        ({"target_stream_id": "a b"}, "p.target_stream_id: expected a letter or digit, then"),
        ({"target_stream_id": None}, "p.target_stream_id: required, but missing"),
        ({"processor_name": "orders"}, "p.processor_name: 'orders' is a stream's name too"),
        ({"target_stream_id": "orders"}, "p.target_stream_id: is the source too"),
        ({"parallelism": True}, "p.parallelism: expected an integer from 1 to 64, got true"),
        ({"parallelism": 1.5}, "p.parallelism: expected an integer from 1 to 64, got 1.5"),
        ({"error_handling_strategy": "DEADLETTER"}, "got 'DEADLETTER'; did you mean 'DEAD_LETTER'?"),
        ({"processing_logic": []}, "p.processing_logic: expected a mapping, got an empty list"),
        ({"window_config": {}}, "p.window_config: only AGGREGATE, WINDOW and some JOINs have a window; leave it out"),
        ({"state_store_config": {"store": "x"}}, "p.state_store_config.store: unknown key; did you mean 'store_type'?"),
        ({"a b": 1}, 'p["a b"]: unknown key (accepted:'),
        ({"\ud800\n": 1}, 'p["\\ud800\\n"]: unknown key (accepted:'),
        ({5: 1}, "p: expected keys that are text, got the key 5"),
        ({"processor_description": "\ud800"}, "p.processor_description: expected Unicode text"),
        ({"processing_logic": {}}, "p.processing_logic.filter_expression: required, but missing"),
        ({"processing_logic": {"filter_expression": "true", "checks": []}}, "processing_logic.checks: unknown key"),
    ],
)
def test_a_bad_processor_names_the_place_and_what_is_accepted(change: dict[Any, Any], expected: str) -> None:
    assert expected in processor_error(a_filter() | change)


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_a_processor_that_is_no_mapping_is_refused(data: object) -> None:
    assert "p: expected a mapping, got " in processor_error(data)


# --- MAP --------------------------------------------------------------------------------------------------------------


def test_a_map_keeps_the_order_and_paths_of_its_fields() -> None:
    processor = parse_processor(
        a_map(
            {
                "mode": "replace",
                "fields": {"who.id": "payload.user", "n": 1, "on": True},
                "key": "payload.user",
                "event_type": "user.seen",
            }
        )
    )
    logic = processor.processing_logic
    assert isinstance(logic, MapLogic)
    assert [(path, value.text) for path, value in logic.fields] == [
        (("who", "id"), "payload.user"),
        (("n",), "1"),
        (("on",), "true"),
    ]
    assert logic.key is not None
    assert (logic.key.text, logic.event_type) == ("payload.user", "user.seen")


def test_a_map_may_swap_two_names() -> None:
    logic = parse_processor(a_map({"rename": {"a": "b", "b": "a"}})).processing_logic
    assert isinstance(logic, MapLogic)
    assert logic.rename == ((("a",), ("b",)), (("b",), ("a",)))


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ({}, "p.processing_logic: expected at least one of fields, select, drop, rename"),
        ({"key": "payload.a"}, "expected at least one of fields, select, drop, rename"),
        ({"fields": {}}, "p.processing_logic.fields: expected a mapping of 1 to 1000 entries, got 0"),
        ({"fields": {"a.b": None}}, 'p.processing_logic.fields["a.b"]: expected an expression as text, got null'),
        ({"fields": {"a..b": "1"}}, "expected a dotted path such as 'customer.region', got 'a..b'"),
        ({"fields": {"a": "1", "a.b": "2"}}, "fields 'a' and fields 'a.b' write the same place"),
        ({"fields": {"a": "1"}, "rename": {"b": "a"}}, "rename 'a' and fields 'a' write the same place"),
        ({"rename": {"b": "a", "c": "a"}}, "rename 'a' and rename 'a' write the same place"),
        ({"rename": {"a": "x", "a.b": "y"}}, "rename 'a' and rename 'a.b' take the same place"),
        ({"rename": {"a.b": "c"}, "drop": ["a"]}, "'a.b' is dropped before it could be renamed"),
        ({"rename": {"a.b": "c"}, "select": ["d"]}, "'a.b' is not selected"),
        ({"select": ["a.b"], "drop": ["a"]}, "p.processing_logic.drop[0]: 'a' drops what select keeps"),
        ({"select": ["a", ""]}, "p.processing_logic.select[1]: expected a dotted path"),
        ({"select": "a"}, "p.processing_logic.select: expected a list, got 'a'"),
        (
            {"mode": "replace", "fields": {"a": "1"}, "drop": ["b"]},
            "replace starts from nothing, so drop cannot be used",
        ),
        ({"mode": "merg", "drop": ["a"]}, "expected one of merge, replace, got 'merg'; did you mean 'merge'?"),
        ({"drop": ["a"], "event_type": " "}, "event_type: expected text that is not empty"),
    ],
)
def test_a_bad_map_is_told(logic: dict[str, Any], expected: str) -> None:
    assert expected in processor_error(a_map(logic))


# --- AGGREGATE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logic", "names"),
    [
        ({"aggregation_function": "count"}, ["count"]),
        ({"aggregation_function": "COUNT", "aggregation_field": "a"}, ["count_a"]),
        ({"aggregation_function": "Avg", "aggregation_field": "a.b"}, ["avg_a_b"]),
        ({"aggregation_function": "sum", "aggregation_field": "a", "as": "total"}, ["total"]),
        ({"aggregations": [{"function": "min", "field": "a"}, {"function": "max", "field": "a"}]}, ["min_a", "max_a"]),
    ],
)
def test_aggregations_are_named(logic: dict[str, Any], names: list[str]) -> None:
    spec_logic = parse_processor(an_aggregate(logic)).processing_logic
    assert isinstance(spec_logic, AggregateLogic)
    assert [item.name for item in spec_logic.aggregations] == names
    assert spec_logic.group_by == ()


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ({"group_by": ["a"]}, "expected aggregation_function (with aggregation_field) or a list of aggregations"),
        ({"aggregation_function": "sum"}, "aggregation_field: required, but missing: sum needs a field"),
        ({"aggregations": [{"function": "sum"}]}, "aggregations[0].field: required, but missing: sum needs a field"),
        ({"aggregations": []}, "aggregations: expected a list of 1 to 100 items, got 0"),
        (
            {"aggregation_function": "count", "aggregations": [{"function": "count"}]},
            "expected either aggregations or aggregation_function, got both",
        ),
        ({"aggregation_function": "average", "aggregation_field": "a"}, "got 'average'; did you mean 'avg'?"),
        ({"aggregation_function": "count", "as": "a.b"}, "as: expected a field name without dots, got 'a.b'"),
        (
            {"aggregations": [{"function": "count"}, {"function": "sum", "field": "a", "as": "count"}]},
            "aggregations[1]: 'count' is written by aggregations[0] and by aggregations[1]; name it with 'as'",
        ),
        (
            {"aggregation_function": "count", "as": "region", "group_by": ["region"]},
            "aggregation_function: 'region' is written by group_by[0] and by aggregation_function",
        ),
        (
            {"aggregation_function": "count", "group_by": ["a.b", "a_b"]},
            "'a_b' is written by group_by[0] and by group_by",
        ),
        (
            {"aggregation_function": "count", "group_by": ["window_start"]},
            "group_by[0]: 'window_start' is written by the window's start and by group_by[0]",
        ),
        ({"aggregation_function": "count", "group_by": "a"}, "group_by: expected a list, got 'a'"),
    ],
)
def test_a_bad_aggregate_is_told(logic: dict[str, Any], expected: str) -> None:
    message = processor_error(an_aggregate(logic))
    assert message.startswith("p.processing_logic")
    assert expected in message


def test_an_aggregate_needs_a_window() -> None:
    message = processor_error(an_aggregate(window_config=None))
    assert message == "p.window_config: required, but missing: AGGREGATE needs a window"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"window_size_ms": 0}, "window_size_ms: expected an integer >= 1, got 0"),
        ({"window_size_ms": 10**30}, "window_size_ms: expected at most 3162240000000 ms"),
        ({"window_size_ms": None}, "window_size_ms: required, but missing"),
        ({"grace_period_ms": "abc"}, "grace_period_ms: expected an integer >= 0, got 'abc'"),
        ({"offset_ms": 1000}, "offset_ms: expected an offset smaller than window_size_ms, got 1000"),
        ({"close_when_idle_ms": "nver"}, "close_when_idle_ms: expected an integer >= 0 or 'never', got 'nver'"),
        ({"close_when_idle_ms": -1}, "close_when_idle_ms: expected an integer >= 0 or 'never', got -1"),
        (
            {"window_type": "session"},
            "window_size_ms: a session window has no window_size_ms; tumbling, hopping and sliding have",
        ),
        ({"window_type": "tumbing"}, f"window_type: expected one of {WINDOWS}, got 'tumbing'; did you mean 'tumbling'?"),
        ({"window_type": None}, f"window_type: required, but missing: one of {WINDOWS}"),
        ({"size_ms": 1}, "p.window_config.size_ms: unknown key"),
    ],
)
def test_a_bad_window_is_told(change: dict[str, Any], expected: str) -> None:
    config = {"window_type": "tumbling", "window_size_ms": 1000} | change
    assert expected in processor_error(an_aggregate(window_config=config))


# --- the flow as a whole ----------------------------------------------------------------------------------------------


def test_a_processor_may_read_another_ones_output_without_a_stream() -> None:
    flow = parse_flow({"processors": [a_filter("b", "a"), an_aggregate(name="a", target=None)]}, name="f")
    assert flow.processors[1].target_stream_id is None


def test_an_output_that_goes_nowhere_is_an_error() -> None:
    assert "processors[0].target_stream_id: the output of 'a' goes nowhere" in flow_error(a_filter("a", target=None))


def test_late_and_failed_events_can_be_read() -> None:
    several = [an_aggregate(name="a"), a_filter("b", "a.late", "late"), a_filter("c", "a.errors", "failed")]
    flow = parse_flow({"processors": several}, name="f")
    assert [flow.sources_of(processor) for processor in flow.processors] == [
        (SourceRef("orders"),),
        (SourceRef("a", "late"),),
        (SourceRef("a", "errors"),),
    ]


def test_what_has_no_state_has_no_late_events() -> None:
    message = flow_error(a_filter("a"), a_filter("b", "a.late"))
    assert message == ("processors[1].source_stream_id: 'a' has no port late: it has no state, and nothing comes too late for it")


def test_late_events_reach_a_processor_with_state_by_way_of_a_stream_only() -> None:
    first = an_aggregate(name="a")
    message = flow_error(first, an_aggregate(name="b", source="a.late"))
    assert "processors[1].source_stream_id: 'b' has state and cannot read late events directly" in message
    message = flow_error(first, a_filter("f", "a.late", None), an_aggregate(name="b", source="f"))
    assert "give 'f' a target_stream_id and read that stream" in message
    streamed = [first, a_filter("f", "a.late", "late"), an_aggregate(name="b", source="late")]
    assert len(parse_flow({"processors": streamed}, name="f").processors) == 3


def test_errors_that_nobody_keeps_are_an_error() -> None:
    message = flow_error(a_filter("a", dead_letters=False))
    assert message == (
        "processors[0].dead_letters: its errors would go nowhere; let a processor read 'a.errors', or leave dead_letters true"
    )
    read = [a_filter("a", dead_letters=False), a_filter("b", "a.errors", "failed")]
    assert len(parse_flow({"processors": read}, name="f").processors) == 2


def test_an_unknown_port_is_an_error() -> None:
    assert "processor 'a' has no port 'ouput'" in flow_error(a_filter("a"), a_filter("b", "a.ouput"))


def test_a_stream_with_a_dot_is_no_port() -> None:
    flow = parse_flow({"processors": [a_filter("a", "orders.late")]}, name="f")
    assert flow.processors[0].source_stream_id == "orders.late"


@pytest.mark.parametrize(
    ("processors", "circle"),
    [
        ([a_filter("a", "a", None)], "a -> a"),
        ([a_filter("a", "c", None), a_filter("b", "a", None), a_filter("c", "b", None)], "a -> b -> c -> a"),
        ([a_filter("a", "orders", "paid"), a_filter("b", "paid", "orders")], "a -> b -> a"),
        ([a_filter("a", "orders", "orders")], "a -> a"),
        ([a_filter("x", "orders", None), a_filter("a", "x", "orders")], "x -> a -> x"),
    ],
)
def test_a_circle_is_named(processors: list[dict[str, Any]], circle: str) -> None:
    assert flow_error(*processors) == f"processors[0].source_stream_id: events would run in a circle: {circle}"


def test_a_stream_read_and_written_by_several_is_no_circle() -> None:
    several = [a_filter("a", "in", "mid"), a_filter("b", "in", "mid"), a_filter("c", "mid"), a_filter("d", "mid")]
    assert len(parse_flow({"processors": several}, name="f").processors) == 4


def test_a_long_chain_is_checked_without_running_out_of_stack() -> None:
    chain = [a_filter("p0", "orders", None)] + [a_filter(f"p{i}", f"p{i - 1}", None) for i in range(1, 200)]
    chain[-1]["target_stream_id"] = "out"
    assert len(parse_flow({"processors": chain}, name="f").processors) == 200


def test_an_aggregate_may_read_an_aggregate() -> None:
    chain = [an_aggregate(name="a", target=None), a_filter("f", "a", None), an_aggregate(name="b", source="f")]
    assert len(parse_flow({"processors": chain}, name="f").processors) == 3


def test_an_aggregate_may_read_the_stream_of_an_aggregate() -> None:
    pair = [an_aggregate(name="a", target="mid"), an_aggregate(name="b", source="mid")]
    assert len(parse_flow({"processors": pair}, name="f").processors) == 2


def test_names_must_differ() -> None:
    schema = {"schema_name": "s", "schema_version": "1", "json_schema": {}}
    message = flow_error(
        a_filter("a", "in"),
        a_filter("a", "in"),
        a_filter("orders", "in"),
        a_filter("out", "in"),
        streams=[{"name": "orders"}, {"name": "orders"}],
        schemas=[schema, schema, schema | {"schema_version": "2"}],
    )
    assert message.splitlines() == [
        "streams[1].name: the stream 'orders' is there already, as streams[0]",
        "schemas[1].schema_name: the schema 's@1' is there already, as schemas[0]",
        "processors[1].processor_name: the processor 'a' is there already, as processors[0]",
        "processors[2].processor_name: 'orders' is a stream's name too; rename one of them",
        "processors[3].processor_name: 'out' is a stream's name too; rename one of them",
    ]


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ({"streams": [{}]}, "streams[0].name: required, but missing"),
        ({"streams": [{"name": "_internal"}]}, "streams[0].name: expected a letter or digit"),
        ({"streams": [{"name": "a", "tenant_id": "x"}]}, "streams[0].tenant_id: unknown key"),
        ({"streams": [{"name": "a", "schema": "s@"}]}, "streams[0].schema: expected a schema's name, or name@version"),
        ({"streams": [{"name": "a", "compression_type": "LZ5"}]}, "got 'LZ5'; did you mean 'LZ4'?"),
        ({"streams": [{"name": "a", "retention_bytes": 0}]}, "retention_bytes: expected an integer from 1 to"),
        ({"streams": {"name": "a"}}, "streams: expected a list, got a mapping"),
        ({"schemas": [{"schema_name": "s"}]}, "schemas[0].json_schema: required, but missing"),
        ({"schemas": [{"schema_nme": "s", "json_schema": {}}]}, "schemas[0].schema_nme: unknown key; did you mean"),
        ({"schemas": [{"schema_name": "s", "json_schema": {}, "schema_version": 1.0}]}, "got 1.0 (put it in quotes)"),
        ({"name": "a/b"}, "name: expected 1 to 100 of the characters"),
        ({"tenant_id": ""}, "tenant_id: expected a tenant id"),
        ({"procesors": []}, "procesors: unknown key; did you mean 'processors'?"),
        ({"processors": []}, "processors: expected a list of 1 to 200 items, got 0"),
    ],
)
def test_a_bad_flow_names_the_place_and_what_is_accepted(flow: dict[str, Any], expected: str) -> None:
    assert expected in flow_error(a_filter(), **flow)


# --- round trips and rubbish ------------------------------------------------------------------------------------------

paths = st.sampled_from(["a", "b", "c.d", "c.e", "order id", "NO"])
logics = st.one_of(
    st.builds(
        lambda first, rest: a_filter(processing_logic={"filter_expression": first, "additional_checks": rest}),
        st.sampled_from(["payload.a == 'x'", "payload.c.d > 1.5", True]),
        st.lists(st.just("payload.b != null"), max_size=2),
    ),
    st.builds(
        lambda select, kind: a_map({"select": select, "event_type": kind}),
        st.lists(paths, min_size=1, unique=True),
        st.none() | st.just("t"),
    ),
    st.builds(
        lambda functions, group, idle: an_aggregate(
            {"aggregations": [{"function": f, "field": "x.y"} for f in functions], "group_by": group},
            window_config={"window_type": "tumbling", "window_size_ms": 5, "offset_ms": 4, "close_when_idle_ms": idle},
        ),
        st.lists(st.sampled_from(["sum", "count", "avg", "min", "max"]), min_size=1, unique=True),
        st.lists(paths, unique=True),
        st.sampled_from(["never", 0, 7]),
    ),
)


@given(logics)
def test_a_spec_written_as_data_and_read_again_is_equal(data: dict[str, Any]) -> None:
    processor = parse_processor(data)
    assert parse_processor(json.loads(json.dumps(to_data(processor)))) == processor
    flow = parse_flow({"name": "n", "streams": [{"name": "out"}], "processors": [data]}, name="x")
    assert parse_flow(json.loads(json.dumps(to_data(flow))), name="x") == flow


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aF.\ud800\n", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a.", max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["processor_name", "processor_type", "source_stream_id", "target_stream_id", "processing_logic", "window_config"]


@given(st.dictionaries(st.sampled_from(KEYS), plain), st.sampled_from([a_filter(), a_map({"drop": ["a"]}), an_aggregate()]))
def test_rubbish_is_refused_and_never_a_crash(rubbish: dict[str, Any], good: dict[str, Any]) -> None:
    told: object = None
    try:
        told = to_data(parse_flow({"processors": [good | rubbish, a_filter("other")]}, name="f"))
    except FlowError as error:
        told = error.details["errors"]
    assert told


@given(st.text("ab1:-{}[]&*!|>'\"#%@\\\n\t ,?~\ud800\x00é", max_size=60))
def test_rubbish_in_a_yaml_file_is_a_flow_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(FlowError):
        load_flow(path)


# --- the reference page -----------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "flow-files.md").read_text(encoding="utf-8")


def test_the_page_gives_one_flow_in_three_formats(tmp_path: Path) -> None:
    flows = []
    for name, content in re.findall(r"<!-- test: flow-file (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(content)
        flows.append(load_flow(tmp_path / name))
    sales = [flow for flow in flows if flow.name == "sales"]
    assert len(sales) == 3
    assert sales[0] == sales[1] == sales[2]


TABLES = {
    "The flow": spec._FLOW_TABLE,
    "A stream": spec._STREAM_TABLE,
    "A schema": spec._SCHEMA_TABLE,
    "A processor": spec._PROCESSOR_TABLE,
    "FILTER": filter_type._LOGIC,
    "MAP": map_type._LOGIC,
    "AGGREGATE": {**aggregate._LOGIC, **aggregate._AGGREGATION},
    "Errors": retry_policy._POLICY,
    "JOIN": {key: field for key, field in join._LOGIC.items() if key not in window_config.TIMING},
    "WINDOW": window._LOGIC,
    "DEDUPLICATE": {key: field for key, field in deduplicate._LOGIC.items() if key not in window_config.TIMING},
    "CUSTOM": {key: field for key, field in custom._LOGIC.items() if key not in window_config.TIMING},
    "Timing": window_config.TIMING,
    "Windows": {key: field for table in window_config.WINDOW_TABLES.values() for key, field in table.items()},
}


@pytest.mark.parametrize("title", TABLES)
def test_the_page_lists_every_key_and_no_other(title: str) -> None:
    section = re.split(r"^##+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*?) \|", section, re.MULTILINE))
    assert rows.keys() == TABLES[title].keys()
    for key, field in TABLES[title].items():
        assert "**required**" in rows[key] or not field.required, key
