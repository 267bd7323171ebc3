"""Ports and changelogs of processors with state."""

from flow_steps import count, event, payloads, run, step

from event_streaming_bus.flow_testing import run_flow
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import rfc3339


def test_late_events_can_be_read_with_the_window_they_missed() -> None:
    processors = [
        count({"window_type": "tumbling", "window_size_ms": 10}),
        step("late", "MAP", {"mode": "replace", "fields": {"x": "payload.x", "until": "metadata.late.window_end"}}, "count.late"),
    ]
    processors[1]["target_stream_id"] = "latecomers"
    result = run(*processors, **{"in": [event(0, x=1), event(30, x=2), event(5, x=3)]})
    assert payloads(result, "latecomers") == [{"x": 3, "until": rfc3339(10)}]
    assert [m.events_late for m in result.metrics] == [1, 0]


def test_errors_that_are_read_are_no_dead_letters() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    processors = [
        step("f", "FILTER", {"filter_expression": "payload.x > 1"}, target_stream_id="out"),
        step("why", "MAP", {"mode": "replace", "fields": {"type": "metadata.dead_letter.error_type"}}, "f.errors"),
        count(window, "f.errors", "errors_per_window", name="errors"),
    ]
    processors[1]["target_stream_id"] = "reasons"
    result = run(*processors, **{"in": [event(0, x="text"), event(1, x=5), event(2)]})
    assert (len(result.outputs["out"]), payloads(result, "reasons")) == (1, [{"type": "TypeError"}] * 2)
    assert payloads(result, "errors_per_window")[0]["count"] == 2
    assert result.dead == []


def test_results_that_the_target_refuses_go_to_the_port_too() -> None:
    data = {
        "schemas": [{"schema_name": "few", "schema_version": "1.0", "json_schema": {"properties": {"count": {"maximum": 1}}}}],
        "streams": [{"name": "out", "schema": "few"}],
        "processors": [
            count({"window_type": "tumbling", "window_size_ms": 10}),
            step("many", "FILTER", {"filter_expression": "payload.count > 0"}, "count.errors", target_stream_id="refused"),
        ],
    }
    result = run_flow(parse_flow(data, name="f"), {"in": [event(0), event(1), event(1, "b")]})
    assert [e.payload["k"] for e in result.outputs["out"]] == ["b"]
    assert [(e.payload["k"], e.payload["count"]) for e in result.outputs["refused"]] == [("a", 2)]


def test_every_change_of_state_goes_to_the_changelog() -> None:
    window = {"window_type": "global", "emit": {"every_events": 1}}
    processor = count(window) | {"state_store_config": {"store_type": "rocksdb", "changelog_topic": "changes"}}
    reader = step("latest", "MAP", {"select": ["k", "count"]}, "changes", target_stream_id="seen")
    result = run(processor, reader, streams=("changes",), **{"in": [event(0), event(1, "b"), event(2)]})
    assert [(e.key, e.payload["count"]) for e in result.outputs["seen"] if e.key == "a"] == [("a", 1), ("a", 2)]
    assert payloads(result, "seen") == [{"k": "a", "count": 1}, {"k": "a", "count": 2}, {"k": "b", "count": 1}]


def test_what_an_aggregate_cannot_add_is_told_to_those_that_read_its_errors() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    processors = [
        count(window, aggregation_function="sum", aggregation_field="x", having="sum_x > 0"),
        count(window, "count.errors", "per_key", name="errors"),
        step("why", "MAP", {"mode": "replace", "fields": {"why": "metadata.dead_letter.error_message"}}, "count.errors"),
    ]
    processors[2]["target_stream_id"] = "reasons"
    result = run(*processors, **{"in": [event(0, x="text"), event(1, x=True), event(2, x=5)]})
    assert [p["count"] for p in payloads(result, "per_key")] == [2]
    assert [p["why"] for p in payloads(result, "reasons")] == [
        "payload.x is text; the aggregation needs a number",
        "payload.x is true or false; the aggregation needs a number",
    ]
    assert (payloads(result)[0]["sum_x"], result.dead) == (5, [])


def test_pairs_that_a_join_failed_on_are_counted_from_its_errors() -> None:
    logic = {"join_stream_id": "right", "on": ["k"], "within_ms": 1, "fields": {"sum": "left.x + right.x"}}
    processors = [
        step("join", "JOIN", logic, "left", target_stream_id="out"),
        count({"window_type": "tumbling", "window_size_ms": 10}, "join.errors", "failures", name="errors", group_by=[]),
    ]
    result = run(*processors, left=[event(0, x="text"), event(5, x=1)], right=[event(0, x=1), event(5, x=2)])
    assert payloads(result) == [{"sum": 3}]
    assert [p["count"] for p in payloads(result, "failures")] == [1]
    assert result.dead == []


def test_a_changelog_that_is_not_there_is_made_and_its_key_names_the_group() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    store = {"state_store_config": {"changelog_topic": "changes"}}
    result = run(count(window, group_by=["k", "x"]) | store, **{"in": [event(0, x=1), event(1, x=1), event(2, "b", x=None)]})
    told = sorted((str(e.key), e.payload["count"]) for e in result.outputs["changes"])
    assert told == [('["a",1]', 2), ('["b",null]', 1)]
    assert {e.event_id for e in result.outputs["changes"]}.isdisjoint(e.event_id for e in result.outputs["out"])
