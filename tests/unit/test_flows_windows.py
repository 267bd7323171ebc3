"""Windows at work in whole flows."""

from typing import Any

from flow_steps import count, event, payloads, run, spans, step

from event_streaming_bus.models import rfc3339, time_ms

HOUR = 3_600_000


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


def test_a_window_with_too_many_distinct_values_is_a_dead_letter_and_the_others_go_on() -> None:
    aggregations = [{"function": "distinct", "field": "x", "max_values": 2}]
    window = {"window_type": "tumbling", "window_size_ms": 10}
    given = [*(event(n, x=n) for n in range(3)), *(event(n, "b", x=1) for n in range(3))]
    result = run(count(window, aggregations=aggregations), **{"in": given})
    assert [(e.payload["k"], e.payload["distinct_x"]) for e in result.outputs["out"]] == [("b", 1)]
    (dead,) = result.dead
    assert (dead.event.payload["k"], dead.error_type) == ("a", "ValueError")
    assert "distinct" in dead.reason


def test_percentiles_come_through_a_flow() -> None:
    aggregations = [
        {"function": "percentile", "field": "x", "percentile": 0.9, "as": "p90"},
        {"function": "median", "field": "x"},
    ]
    window = {"window_type": "tumbling", "window_size_ms": 1000}
    (told,) = payloads(run(count(window, aggregations=aggregations), **{"in": [event(n, x=n) for n in range(1, 102)]}))
    assert (told["p90"], told["median_x"]) == (91, 51)


def test_a_global_window_goes_on_for_ever_and_says_so() -> None:
    window = {"window_type": "global", "emit": {"every_events": 2, "retract": True}}
    result = run(count(window), **{"in": [event(0), event(HOUR), event(2 * HOUR), event(3 * HOUR)]})
    told = [(e.payload["count"], e.payload["revision"], e.payload.get("retraction")) for e in result.outputs["out"]]
    assert told == [(2, 1, None), (2, 1, True), (4, 2, None)]
    assert {(e.payload["window_start"], e.payload["window_end"], e.payload["is_final"]) for e in result.outputs["out"]} == {
        (None, None, False)
    }


def test_updates_by_time_come_while_there_is_something_new_to_tell() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 100, "emit": {"every_ms": 30}}
    result = run(count(window), **{"in": [event(1), event(35), event(36), event(99)]})
    told = [(e.timestamp_ms, e.payload["count"], e.payload["is_final"]) for e in result.outputs["out"]]
    assert told == [(30, 1, False), (60, 3, False), (100, 4, True)]


def test_a_calendar_day_is_updated_and_taken_back_over_a_change_of_clocks() -> None:
    midnight = 1_743_289_200_000  # 2025-03-30T00:00 in Berlin
    berlin = {"window_type": "calendar", "calendar_unit": "day", "time_zone": "Europe/Berlin"}
    window = berlin | {"emit": {"every_events": 2, "retract": True}}
    given = [event(midnight), event(midnight + 1), event(midnight + 22 * HOUR), event(midnight + 23 * HOUR)]
    result = run(count(window), **{"in": given})
    told = [
        (time_ms(p["window_start"]) - midnight, p["count"], p["is_final"], p.get("retraction"))
        for p in (e.payload for e in result.outputs["out"])
    ]
    assert told == [(0, 2, False, None), (0, 2, False, True), (0, 3, True, None), (23 * HOUR, 1, True, None)]


def test_window_gives_out_the_contents_of_sessions_and_of_so_many_events() -> None:
    given = {"in": [event(0, x=1), event(5, x=2), event(40, x=3), event(45, x=4)]}

    def contents(window: dict[str, Any]) -> list[list[int]]:
        logic = {"group_by": ["k"], "output": "contents"}
        result = run(step("w", "WINDOW", logic, target_stream_id="out", window_config=window), **given)
        return [[each["x"] for each in e.payload["events"]] for e in result.outputs["out"]]

    assert contents({"window_type": "session", "gap_ms": 10}) == [[1, 2], [3, 4]]
    assert contents({"window_type": "count", "window_size_events": 3, "advance_events": 1}) == [[1, 2, 3], [2, 3, 4]]
    assert contents({"window_type": "sliding", "window_size_ms": 10}) == [[1], [1, 2], [3], [3, 4]]
