"""Joins at work in whole flows."""

from flow_steps import count, event, join, pairs, payloads, run, spans, step

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


def test_a_window_join_gives_out_those_without_a_partner_at_the_end_of_their_window() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 50}
    left = [(50, 1, 7), (50, 1, 8), (100, 2, 9), (100, 3, None)]
    assert pairs(run(join(window=window, join_type="left"), **SIDES)) == sorted(left, key=repr)
    assert pairs(run(join(window=window, join_type="outer"), **SIDES)) == sorted([*left, (100, None, 0)], key=repr)


def test_events_look_up_what_an_aggregate_last_said_of_their_key() -> None:
    processors = [
        count({"window_type": "tumbling", "window_size_ms": 10}, target=None, name="tens"),
        join(join_stream_id="tens", lookup=True, join_type="left", fields={"l": "left.x", "r": "right.count"}),
    ]
    given = {"in": [event(1), event(2), event(12)], "left": [event(9, x=1), event(10, x=2), event(25, x=3)]}
    assert pairs(run(*processors, **given)) == [(10, 2, 2), (25, 3, 1), (9, 1, None)]


def test_two_aggregates_of_one_stream_are_joined_window_by_window() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    processors = [
        count(window, target=None, name="counts"),
        count(window, target=None, name="sums", aggregation_function="sum", aggregation_field="x"),
        join(join_stream_id="sums", within_ms=0, fields={"l": "left.count", "r": "right.sum_x"}) | {"source_stream_id": "counts"},
    ]
    assert pairs(run(*processors, **{"in": [event(1, x=5), event(2, x=6), event(11, x=7)]})) == [(10, 2, 11), (20, 1, 7)]


def test_pairs_are_summed_up_in_windows_of_their_own() -> None:
    processors = [
        join(within_ms=5, fields={"k": "left.k", "sum": "left.x + right.x"}) | {"target_stream_id": None},
        count({"window_type": "tumbling", "window_size_ms": 100}, "join", aggregation_function="sum", aggregation_field="sum"),
    ]
    assert spans(run(*processors, **SIDES), "sum_sum") == [(0, 100, (1 + 7) + (1 + 8))]


def test_events_of_either_side_that_stay_alone_are_in_time_for_what_reads_them() -> None:
    fields = {"k": "'all'", "l": "left.x", "r": "right.x"}
    processors = [
        join(within={"before_ms": 40, "after_ms": 40}, join_type="outer", fields=fields) | {"target_stream_id": None},
        count({"window_type": "tumbling", "window_size_ms": 10}, "join"),
    ]
    given = {"left": [event(at, "l", x=1) for at in (1, 12, 95)], "right": [event(at, "r", x=2) for at in (3, 31, 99)]}
    result = run(*processors, **given)
    assert spans(result) == [(0, 10, 2), (10, 20, 1), (30, 40, 1), (90, 100, 2)]
    assert result.late == []


def test_an_event_too_late_for_its_join_is_set_aside_on_either_side() -> None:
    given = {
        "left": [event(0, x=1), event(100, x=2), event(50, x=3)],
        "right": [event(0, x=1), event(100, x=2), event(50, x=3)],
    }
    processors = [join(within_ms=5), step("late", "MAP", {"select": ["x"]}, "join.late", target_stream_id="aside")]
    result = run(*processors, **given)
    assert pairs(result) == [(0, 1, 1), (100, 2, 2)]
    assert payloads(result, "aside") == [{"x": 3}, {"x": 3}]
    assert result.metrics[0].events_late == 2
