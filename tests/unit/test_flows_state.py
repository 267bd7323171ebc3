"""Processors with state at work in whole flows: windows, joins, ports, user functions, and how all events are accounted for."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus.flow_testing import run_flow
from event_streaming_bus.flows.flow_tests import GivenEvent
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.flows.trial import TrialResult
from event_streaming_bus.models import rfc3339, time_ms

HOUR = 3_600_000
FUNCTIONS = """
from event_streaming_bus import RetryableError

calls = []

def twice(event, by=2):
    if event.payload["x"] == 3:
        calls.append(event.event_id)
        raise RetryableError("the third is flaky")
    return [{**event.payload, "x": event.payload["x"] * by}] * 2

def odd_only(events):
    return [event if event.payload["x"] % 2 else None for event in events]

def counted(event, state):
    state["n"] = state.get("n", 0) + 1
    if event.payload["x"] == 13:
        raise ValueError("unlucky")
    return {"k": event.payload["k"], "n": state["n"]}
"""


def step(name: str, kind: str, logic: dict[str, Any], source: str = "in", **more: Any) -> dict[str, Any]:
    return {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": source, **more}


def count(
    window: dict[str, Any], source: str = "in", target: str | None = "out", name: str = "count", **logic: Any
) -> dict[str, Any]:
    logic = {"aggregation_function": "count", "group_by": ["k"]} | logic
    if "aggregations" in logic:
        del logic["aggregation_function"]
    return step(name, "AGGREGATE", logic, source, target_stream_id=target, window_config=window)


def event(at_ms: int, k: Any = "a", **payload: Any) -> GivenEvent:
    return GivenEvent(payload={"k": k, **payload}, key=str(k), timestamp_ms=at_ms)


def run(*processors: dict[str, Any], streams: tuple[str, ...] = (), **given: list[GivenEvent]) -> TrialResult:
    """Run a flow of these processors over ``given``; what became of every event must add up."""
    data = {"processors": list(processors), "streams": [{"name": name} for name in streams]}
    result = run_flow(parse_flow(data, name="f"), given)
    for each in result.metrics:
        out_of = (
            each.events_passed + each.events_filtered + each.events_late + each.events_dead + each.events_skipped + each.in_state
        )
        assert each.events_in == out_of, each
        assert each.in_state == 0, each
    return result


def payloads(result: TrialResult, stream: str = "out") -> list[Any]:
    return sorted((event.payload for event in result.outputs[stream]), key=repr)


def spans(result: TrialResult, field: str = "count") -> list[tuple[int, int, Any]]:
    """``(window start in ms, timestamp in ms, value)`` of each result in order."""
    found = [(time_ms(e.payload["window_start"]), e.timestamp_ms, e.payload[field]) for e in result.outputs["out"]]
    return sorted(found)


# --- windows ------------------------------------------------------------------------------------------------------------


def test_an_event_may_be_late_for_some_hopping_windows_and_count_in_the_later_ones() -> None:
    window = {"window_type": "hopping", "window_size_ms": 60, "advance_ms": 20}
    result = run(count(window), **{"in": [event(0), event(45), event(10)]})
    assert spans(result) == [(-40, 20, 1), (-20, 40, 1), (0, 60, 3), (20, 80, 1), (40, 100, 1)]
    assert [(e.event.timestamp_ms, e.window_start_ms, e.window_end_ms) for e in result.late] == [(10, -40, 20), (10, -20, 40)]
    assert result.metrics[0].events_late == 0  # it is late for some windows only


def test_a_hopping_window_need_not_be_a_multiple_of_its_advance() -> None:
    result = run(count({"window_type": "hopping", "window_size_ms": 50, "advance_ms": 20}), **{"in": [event(0), event(30)]})
    assert spans(result) == [(-40, 10, 1), (-20, 30, 1), (0, 50, 2), (20, 70, 1)]


def test_sessions_merge_by_event_time_whatever_the_order_within_the_grace_period() -> None:
    window = {"window_type": "session", "gap_ms": 10, "grace_period_ms": 100}
    aggregations = [{"function": "count"}, {"function": "collect", "field": "x"}, {"function": "first", "field": "x"}]
    given = [event(0, x=1), event(18, x=3), event(9, x=2), event(40, x=4)]
    result = run(count(window, aggregations=aggregations), **{"in": given})
    assert spans(result, "collect_x") == [(0, 28, [1, 2, 3]), (40, 50, [4])]
    assert [e.payload["first_x"] for e in result.outputs["out"]] == [1, 4]


def test_count_and_sliding_windows_go_by_the_order_of_times() -> None:
    given = [event(0, x=1), event(30, x=4), event(10, x=2), event(20, x=3)]
    summed = {"aggregation_function": "sum", "aggregation_field": "x"}
    result = run(count({"window_type": "count", "window_size_events": 2, "grace_period_ms": 50}, **summed), **{"in": given})
    assert spans(result, "sum_x") == [(0, 10, 3), (20, 30, 7)]
    result = run(count({"window_type": "sliding", "window_size_ms": 20, "grace_period_ms": 50}, **summed), **{"in": given})
    assert spans(result, "sum_x") == [(-20, 0, 1), (-10, 10, 3), (0, 20, 5), (10, 30, 7)]


def test_a_calendar_day_is_23_hours_long_where_clocks_go_forward() -> None:
    window = {"window_type": "calendar", "calendar_unit": "day", "time_zone": "Europe/Berlin"}
    midnight = 1_743_289_200_000  # 2025-03-30T00:00 in Berlin
    result = run(count(window), **{"in": [event(midnight + 22 * HOUR), event(midnight + 23 * HOUR)]})
    assert spans(result) == [(midnight, midnight + 23 * HOUR, 1), (midnight + 23 * HOUR, midnight + 47 * HOUR, 1)]


def test_updates_carry_their_revision_and_are_taken_back() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 100, "emit": {"every_events": 2, "retract": True}}
    result = run(count(window), **{"in": [event(1), event(2), event(3)]})
    told = [
        (e.payload["count"], e.payload["revision"], e.payload["is_final"], e.payload.get("retraction"))
        for e in result.outputs["out"]
    ]
    assert told == [(2, 1, False, None), (2, 1, False, True), (3, 2, True, None)]
    assert len({e.event_id for e in result.outputs["out"]}) == 3


def test_having_keeps_results_back_and_one_that_fails_is_a_dead_letter() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    logic = {"aggregation_function": "max", "aggregation_field": "x", "having": "max_x > 5"}
    result = run(count(window, **logic), **{"in": [event(0, "a", x=6), event(1, "b", x=5), event(2, "c", x=None)]})
    assert [e.payload["k"] for e in result.outputs["out"]] == ["a"]
    (dead,) = result.dead
    assert (dead.processor, dead.event.payload["k"], dead.error_type) == ("count", "c", "ValueError")
    assert dead.reason.startswith("having max_x > 5: ")


def test_an_event_from_the_future_is_set_aside_and_does_not_move_time() -> None:
    far = 10**13
    result = run(count({"window_type": "tumbling", "window_size_ms": 10}), **{"in": [event(0), event(far), event(5), event(12)]})
    assert spans(result) == [(0, 10, 2), (10, 20, 1)]
    assert [(e.event.timestamp_ms, e.error_type) for e in result.dead] == [(far, "FutureTimestampError")]
    assert result.late == []
    unbounded = {"window_type": "tumbling", "window_size_ms": 10, "max_future_ms": "never"}
    assert len(run(count(unbounded), **{"in": [event(0), event(far), event(5)]}).late) == 1


def test_window_gives_out_its_contents_its_events_or_marks() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    given = {"in": [event(3, x=2), event(1, x=1), event(2, "b", x=3)]}

    def told(**logic: Any) -> list[Any]:
        return payloads(
            run(step("w", "WINDOW", {"group_by": ["k"], **logic}, target_stream_id="out", window_config=window), **given)
        )

    bounds = {"window_start": rfc3339(0), "window_end": rfc3339(10)}
    assert told(output="marks") == [{"k": "a", **bounds, "count": 2}, {"k": "b", **bounds, "count": 1}]
    assert told()[0] == {"k": "a", **bounds, "count": 2, "events": [{"k": "a", "x": 1}, {"k": "a", "x": 2}]}
    assert told(max_events=1)[0] == {"k": "a", **bounds, "count": 2, "events": [{"k": "a", "x": 1}]}
    assert told(output="events") == [{"k": "a", "x": 1, **bounds}, {"k": "a", "x": 2, **bounds}, {"k": "b", "x": 3, **bounds}]


# --- joins --------------------------------------------------------------------------------------------------------------


def join(**logic: Any) -> dict[str, Any]:
    window = logic.pop("window", None)
    more = {} if window is None else {"window_config": window}
    logic = {"join_stream_id": "right", "on": ["k"], "fields": {"l": "left.x", "r": "right.x"}, **logic}
    return step("join", "JOIN", logic, "left", target_stream_id="out", **more)


def pairs(result: TrialResult) -> list[tuple[int, Any, Any]]:
    return sorted(((e.timestamp_ms, e.payload["l"], e.payload["r"]) for e in result.outputs["out"]), key=repr)


SIDES = {
    "left": [event(10, x=1), event(50, x=2), event(60, None, x=3)],
    "right": [event(5, x=7), event(12, x=8), event(60, None, x=0), event(90, x=9)],
}


def test_an_interval_join_pairs_events_that_are_near_in_time() -> None:
    assert pairs(run(join(within_ms=5), **SIDES)) == [(10, 1, 7), (12, 1, 8)]
    left = run(join(within={"after_ms": 5}, join_type="left"), **SIDES)
    assert pairs(left) == [(12, 1, 8), (50, 2, None), (60, 3, None)]
    outer = run(join(within={"after_ms": 5}, join_type="outer"), **SIDES)
    assert pairs(outer) == [(12, 1, 8), (5, None, 7), (50, 2, None), (60, 3, None), (60, None, 0), (90, None, 9)]


def test_a_lookup_finds_the_latest_row_as_of_the_event() -> None:
    assert pairs(run(join(lookup=True), **SIDES)) == [(10, 1, 7), (50, 2, 8)]
    assert pairs(run(join(lookup={"ttl_ms": 10}, join_type="left"), **SIDES)) == [(10, 1, 7), (50, 2, None), (60, 3, None)]


def test_a_window_join_pairs_all_events_of_a_window() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 50}
    assert pairs(run(join(window=window), **SIDES)) == sorted([(50, 1, 7), (50, 1, 8), (100, 2, 9)], key=repr)


def test_a_join_of_a_stream_with_itself_sees_each_event_on_both_sides() -> None:
    logic = {"join_stream_id": "in", "on": ["k"], "within": {"after_ms": 10}, "fields": {"l": "left.x", "r": "right.x"}}
    result = run(step("self", "JOIN", logic, target_stream_id="out"), **{"in": [event(0, x=1), event(5, x=2)]})
    assert pairs(result) == [(0, 1, 1), (5, 1, 2), (5, 2, 2)]
    assert result.metrics[0].events_in == 4


def test_an_expression_that_fails_makes_a_pair_a_dead_letter() -> None:
    given = {"left": [event(0, x="text")], "right": [event(0, x=1)]}
    result = run(join(within_ms=1, fields={"sum": "left.x + right.x"}), **given)
    assert (payloads(result), [(e.processor, e.event.payload["left"]) for e in result.dead]) == (
        [],
        [("join", {"k": "a", "x": "text"})],
    )


def test_two_branches_of_one_stream_can_be_joined() -> None:
    processors = [
        step("ordered", "FILTER", {"filter_expression": "payload.what == 'order'"}),
        step("paid", "MAP", {"drop": ["what"], "fields": {"x": "payload.x * 10"}}),
        join(join_stream_id="paid", within_ms=10) | {"source_stream_id": "ordered"},
    ]
    given = [event(0, what="order", x=1), event(5, what="payment", x=2)]
    assert pairs(run(*processors, **{"in": given})) == [(0, 1, 10), (5, 1, 20)]


# --- chains and ports ---------------------------------------------------------------------------------------------------


def test_results_are_summed_up_again_without_a_stream_between() -> None:
    processors = [
        count({"window_type": "tumbling", "window_size_ms": 10}, target=None, name="tens"),
        step("busy", "FILTER", {"filter_expression": "payload.count > 1"}, "tens"),
        count({"window_type": "tumbling", "window_size_ms": 100}, "busy", group_by=[]),
    ]
    given = [event(at) for at in (1, 2, 15, 21, 22, 23, 104, 105)]
    assert spans(run(*processors, **{"in": given})) == [(0, 100, 2), (100, 200, 1)]


def test_left_events_without_a_partner_are_in_time_for_what_reads_them() -> None:
    processors = [
        join(within={"after_ms": 50}, join_type="left") | {"target_stream_id": None},
        step("key", "MAP", {"fields": {"k": "'all'"}}, "join"),
        count({"window_type": "tumbling", "window_size_ms": 10}, "key"),
    ]
    given = {"left": [event(at, at, x=1) for at in (1, 5, 12, 90)], "right": [event(30, 5, x=2)]}
    assert spans(run(*processors, **given)) == [(0, 10, 1), (10, 20, 1), (30, 40, 1), (90, 100, 1)]


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


# --- several events of one, duplicates, user functions ------------------------------------------------------------------


def test_a_map_flattens_a_list_into_events_of_their_own() -> None:
    processors = [
        step(
            "items",
            "MAP",
            {"flatten": "items", "fields": {"n": "payload.items.n + 1"}, "drop": ["items"]},
            target_stream_id="flat",
        ),
        count({"window_type": "tumbling", "window_size_ms": 10}, "items", aggregation_function="sum", aggregation_field="n"),
    ]
    given = [
        event(0, items=[{"n": 1}, {"n": 2}]),
        event(1, items=[]),
        event(2),
        event(3, items=[{"n": 5}, {"n": None}]),
        event(4, items=7),
    ]
    result = run(*processors, **{"in": given})
    assert payloads(result, "flat") == [{"k": "a", "n": 2}, {"k": "a", "n": 3}]
    assert spans(result, "sum_n") == [(0, 10, 5)]
    first, second = result.outputs["flat"]
    assert first.event_id != second.event_id
    assert first.causation_id == second.causation_id
    assert [(e.event.timestamp_ms, e.error_type) for e in result.dead] == [(3, "TypeError"), (4, "TypeError")]
    assert [(m.events_in, m.events_passed, m.events_filtered, m.events_out) for m in result.metrics] == [
        (5, 1, 2, 2),
        (2, 2, 0, 1),
    ]


def test_what_a_list_held_keeps_its_order() -> None:
    aggregations = [{"function": "collect", "field": "n"}, {"function": "last", "field": "n"}]
    processors = [
        step("items", "MAP", {"flatten": "items", "fields": {"n": "payload.items"}}),
        count({"window_type": "tumbling", "window_size_ms": 10}, "items", aggregations=aggregations),
        count(
            {"window_type": "count", "window_size_events": 20}, "items", "twenties", name="by_count", aggregations=aggregations
        ),
    ]
    result = run(*processors, **{"in": [event(0, items=list(range(12))), event(0, items=list(range(12, 20)))]})
    for stream in ("out", "twenties"):
        (payload,) = payloads(result, stream)
        assert (payload["collect_n"], payload["last_n"]) == (list(range(20)), 19)


def test_duplicates_within_the_span_are_dropped() -> None:
    logic = {"deduplicate_by": ["k", "x"], "within_ms": 10, "grace_period_ms": 20}
    given = [event(0, x=1), event(10, x=1), event(11, x=1), event(5, "b", x=1), event(15, "b", x=1), event(3, "b", x=1)]
    result = run(step("once", "DEDUPLICATE", logic, target_stream_id="out"), **{"in": given})
    assert sorted((e.key, e.timestamp_ms) for e in result.outputs["out"]) == [("a", 0), ("a", 11), ("b", 3), ("b", 15)]


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with functions of a user, which is allowed."""
    (tmp_path / "my_functions_of_a_test.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ESB_CUSTOM_MODULES", "my_functions_of_a_test")
    yield "my_functions_of_a_test"
    sys.modules.pop("my_functions_of_a_test", None)


def test_a_function_is_called_again_and_then_given_up(functions: str) -> None:
    retry = {"error_handling_strategy": "RETRY", "retry": {"max_attempts": 3, "backoff_ms": 1}}
    processors = [
        step("twice", "CUSTOM", {"function": f"{functions}:twice", "params": {"by": 10}}, target_stream_id="out", **retry),
        count(
            {"window_type": "tumbling", "window_size_ms": 10},
            "twice",
            "counts",
            aggregation_function="sum",
            aggregation_field="x",
        ),
    ]
    result = run(*processors, **{"in": [event(0, x=1), event(1, x=3), event(2, x=2)]})
    assert [e.payload["x"] for e in result.outputs["out"]] == [10, 10, 20, 20]
    assert payloads(result, "counts")[0]["sum_x"] == 60
    (dead,) = result.dead
    assert (dead.error_type, dead.reason) == ("RetryableError", "the third is flaky")
    assert (dead.stream, dead.event.payload) == ("in", {"k": "a", "x": 3})
    assert len(sys.modules[functions].calls) == 3


def test_a_function_gets_events_in_batches(functions: str) -> None:
    processor = step("odd", "CUSTOM", {"function": f"{functions}:odd_only", "form": "batch"}, target_stream_id="out")
    result = run(processor, **{"in": [event(n, x=n) for n in range(6)]})
    assert [e.payload["x"] for e in result.outputs["out"]] == [1, 3, 5]
    assert result.metrics[0].events_filtered == 3


def test_a_function_keeps_state_by_key_which_a_failure_leaves_alone(functions: str) -> None:
    logic = {"function": f"{functions}:counted", "form": "keyed", "key": ["k"], "grace_period_ms": 50}
    processors = [
        step("counted", "CUSTOM", logic, target_stream_id="out"),
        step("bad", "MAP", {"mode": "replace", "fields": {"why": "metadata.dead_letter.error_message"}}, "counted.errors"),
    ]
    processors[1]["target_stream_id"] = "reasons"
    given = [event(0, x=1), event(5, "b", x=1), event(20, x=13), event(30, x=1), event(10, x=1)]
    result = run(*processors, **{"in": given})
    assert sorted((e.timestamp_ms, e.key, e.payload["n"]) for e in result.outputs["out"]) == [
        (0, "a", 1),
        (5, "b", 1),
        (10, "a", 2),
        (30, "a", 3),
    ]
    assert payloads(result, "reasons") == [{"why": "unlucky"}]


def test_a_window_with_too_many_distinct_values_is_a_dead_letter_and_the_others_go_on() -> None:
    aggregations = [{"function": "distinct", "field": "x", "max_values": 2}]
    window = {"window_type": "tumbling", "window_size_ms": 10}
    given = [*(event(n, x=n) for n in range(3)), *(event(n, "b", x=1) for n in range(3))]
    result = run(count(window, aggregations=aggregations), **{"in": given})
    assert [(e.payload["k"], e.payload["distinct_x"]) for e in result.outputs["out"]] == [("b", 1)]
    (dead,) = result.dead
    assert (dead.event.payload["k"], dead.error_type) == ("a", "ValueError")
    assert "distinct" in dead.reason
