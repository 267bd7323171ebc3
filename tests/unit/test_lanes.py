"""Lanes share by weights, and none waits for longer than it is said."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.consumers.lanes import MAX_PASSED, LaneChooser
from event_streaming_bus.models import LANES, EventPriority

CRITICAL, HIGH, NORMAL, LOW = LANES
OTHERS = (HIGH, NORMAL, LOW)


def test_critical_goes_first_always() -> None:
    chooser = LaneChooser()
    assert chooser.plan({CRITICAL: 5, HIGH: 5, LOW: 5}, 4) == [CRITICAL] * 4
    assert chooser.plan({CRITICAL: 1, HIGH: 5, LOW: 5}, 3)[0] is CRITICAL


def test_lanes_that_always_have_events_share_by_their_weights() -> None:
    chooser = LaneChooser()
    handed_out = [lane for _ in range(50) for lane in chooser.plan(dict.fromkeys(OTHERS, 1000), 7)]
    for start in range(0, 350, 10):
        ten = handed_out[start : start + 10]
        assert [ten.count(lane) for lane in OTHERS] == [6, 3, 1]


def test_where_two_lanes_wait_they_share_by_their_weights() -> None:
    plan = LaneChooser().plan({NORMAL: 1000, LOW: 1000}, 400)
    assert (plan.count(NORMAL), plan.count(LOW)) == (300, 100)


def test_a_plan_ends_where_the_next_event_of_a_lane_is_not_read_yet() -> None:
    plan = LaneChooser().plan({NORMAL: 2, LOW: 100}, 50, unread=[NORMAL])
    assert plan == [NORMAL, NORMAL]
    assert LaneChooser().plan({CRITICAL: 1, LOW: 100}, 50, unread=[CRITICAL]) == [CRITICAL]
    assert len(LaneChooser().plan({NORMAL: 2, LOW: 100}, 50)) == 50


def longest_waits(steps: list[dict[EventPriority, bool]]) -> dict[EventPriority, int]:
    """For each lane, the most events of others that passed its head by; each step says which lanes have an event."""
    chooser, passed, longest = LaneChooser(), dict.fromkeys(OTHERS, 0), dict.fromkeys(OTHERS, 0)
    for step in steps:
        waiting = {lane: 1 for lane in OTHERS if step[lane]}
        plan = chooser.plan(waiting, 1)
        assert len(plan) == min(1, len(waiting))
        for lane in OTHERS:
            passed[lane] = passed[lane] + 1 if lane in waiting and plan != [lane] else 0
            longest[lane] = max(longest[lane], passed[lane])
    return longest


@given(st.lists(st.fixed_dictionaries({lane: st.booleans() for lane in OTHERS}), max_size=300))
def test_no_event_waits_for_more_others_than_the_bound(steps: list[dict[EventPriority, bool]]) -> None:
    longest = longest_waits(steps)
    assert all(longest[lane] <= MAX_PASSED[lane] for lane in OTHERS)


@given(st.lists(st.fixed_dictionaries({lane: st.integers(0, 6) for lane in LANES}), max_size=40), st.integers(1, 9))
def test_the_bound_holds_across_plans_of_many_events(arrivals: list[dict[EventPriority, int]], most: int) -> None:
    chooser, waiting, passed = LaneChooser(), dict.fromkeys(LANES, 0), dict.fromkeys(LANES, 0)
    for arrived in arrivals:
        waiting = {lane: waiting[lane] + arrived[lane] for lane in LANES}
        plan = chooser.plan(waiting, most)
        assert len(plan) == min(most, sum(waiting.values()))
        for chosen in plan:
            assert waiting[chosen] > 0
            assert chosen is CRITICAL or not waiting[CRITICAL]
            for lane in OTHERS:
                if lane is chosen or not waiting[lane]:
                    passed[lane] = 0
                elif chosen is not CRITICAL:
                    passed[lane] += 1
                assert passed[lane] <= MAX_PASSED[lane]
            waiting[chosen] -= 1


def test_the_bound_is_exact_over_everything_that_lanes_can_do() -> None:
    """Every state of the chooser that can be reached, with lanes filling and emptying as they like."""
    reached, todo, longest = set(), [((1, 2, 6), (0, 0, 0))], dict.fromkeys(OTHERS, 0)
    while todo:
        state = todo.pop()
        if state in reached:
            continue
        reached.add(state)
        for present in product((False, True), repeat=3):
            chooser = LaneChooser()
            chooser._due = dict(zip(OTHERS, state[0], strict=True))
            waiting = {lane: 1 for lane, is_there in zip(OTHERS, present, strict=True) if is_there}
            plan = chooser.plan(waiting, 1)
            passed = tuple(n + 1 if lane in waiting and plan != [lane] else 0 for lane, n in zip(OTHERS, state[1], strict=True))
            longest = {lane: max(longest[lane], n) for lane, n in zip(OTHERS, passed, strict=True)}
            todo.append((tuple(chooser._due[lane] for lane in OTHERS), passed))
    assert len(reached) > 50
    assert longest == {lane: MAX_PASSED[lane] for lane in OTHERS}


@pytest.mark.parametrize("lane", OTHERS)
def test_a_lane_alone_gets_everything(lane: EventPriority) -> None:
    assert LaneChooser().plan({lane: 10}, 4) == [lane] * 4


def test_events_of_lanes_are_interleaved() -> None:
    plan = LaneChooser().plan(dict.fromkeys(OTHERS, 1000), 100)
    low = [i for i, lane in enumerate(plan) if lane is LOW]
    assert {b - a for a, b in pairwise(low)} == {10}
