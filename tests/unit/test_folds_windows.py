"""Folds of session, count, sliding, tumbling, calendar and global windows: what they say, and when."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from event_streaming_bus.flows.aggregations import Aggregation, AggregationFunction, FieldPlan, result
from event_streaming_bus.flows.folds.base import FOREVER, LEFT, Entry, Fold, Result, Tally
from event_streaming_bus.flows.folds.count import CountFold
from event_streaming_bus.flows.folds.session import SessionFold
from event_streaming_bus.flows.folds.sliding import SlidingFold
from event_streaming_bus.flows.folds.updates import UpdatesFold
from event_streaming_bus.flows.window_config import (
    CalendarUnit,
    CalendarWindow,
    CountWindow,
    GlobalWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Updates,
)

SUM = Aggregation(function=AggregationFunction.SUM, field=("x",), name="sum")
PLANS = (FieldPlan(("x",), summed=True, extremes=True),)


def entries(*events: tuple[int, str, int]) -> list[Entry]:
    """Entries of (time, key, value), in the order given."""
    return [Entry(t, 0, f"e{i}", LEFT, key.encode(), (x,), i) for i, (t, key, x) in enumerate(events)]


def said(results: Sequence[Result]) -> list[str]:
    """Each result as ``key [start, end] sum #revision``, with what else is to be said of it, and when it is due."""
    lines = []
    for item in results:
        value = item.value
        total = result(SUM, value.partials[0])
        kind = " retraction" if value.retraction else "" if value.is_final else " update"
        lines.append(f"{item.at_ms}: {item.key.decode()} [{value.start_ms}, {value.end_ms}] {total} #{value.revision}{kind}")
    return lines


def run(fold: Fold, *events: tuple[int, str, int]) -> list[str]:
    return said(fold.run(entries(*events), FOREVER, Tally()))


def test_a_session_goes_on_while_neighbours_are_a_gap_apart_and_closes_when_the_gap_is_over() -> None:
    fold = SessionFold(SessionWindow(gap_ms=10), PLANS)
    assert run(fold, (0, "a", 1), (10, "a", 2), (20, "a", 4), (31, "a", 8)) == ["31: a [0, 30] 7 #1", "42: a [31, 41] 8 #1"]


def test_the_sessions_of_keys_are_apart_and_those_that_close_together_are_in_order_of_their_keys() -> None:
    fold = SessionFold(SessionWindow(gap_ms=10), PLANS)
    assert run(fold, (0, "c", 1), (5, "b", 2), (5, "a", 4), (8, "c", 8)) == [
        "16: a [5, 15] 4 #1",
        "16: b [5, 15] 2 #1",
        "19: c [0, 18] 9 #1",
    ]


def test_a_session_is_given_out_by_the_horizon_alone() -> None:
    fold, tally = SessionFold(SessionWindow(gap_ms=10), PLANS), Tally()
    assert fold.run(entries((0, "a", 1), (5, "a", 2)), 15, tally) == []
    assert tally.released == 0
    assert said(fold.run([], 16, tally)) == ["16: a [0, 15] 3 #1"]
    assert tally.released == 2


def test_a_session_is_updated_at_multiples_of_every_ms_only_if_it_has_new_events() -> None:
    fold = SessionFold(SessionWindow(gap_ms=100, updates=Updates(every_ms=50)), PLANS)
    assert run(fold, (60, "a", 1), (70, "a", 2), (160, "a", 4)) == [
        "100: a [60, 170] 3 #1 update",
        "200: a [60, 260] 7 #2 update",
        "261: a [60, 260] 7 #3",
    ]


def test_a_session_that_closes_at_the_time_of_an_update_gives_only_its_final_result() -> None:
    fold = SessionFold(SessionWindow(gap_ms=9, updates=Updates(every_ms=50)), PLANS)
    assert run(fold, (40, "a", 1)) == ["50: a [40, 49] 1 #1"]


def test_a_session_with_every_event_an_update_takes_back_what_it_said() -> None:
    fold = SessionFold(SessionWindow(gap_ms=10, updates=Updates(every_events=1, retract=True)), PLANS)
    assert run(fold, (0, "a", 1), (5, "a", 2)) == [
        "1: a [0, 10] 1 #1 update",
        "6: a [0, 10] 1 #1 retraction",
        "6: a [0, 15] 3 #2 update",
        "16: a [0, 15] 3 #2 retraction",
        "16: a [0, 15] 3 #3",
    ]


def test_what_an_update_said_stays_as_it_was_when_its_window_goes_on() -> None:
    fold = SessionFold(SessionWindow(gap_ms=10, updates=Updates(every_events=1)), PLANS)
    first = fold.run(entries((0, "a", 1)), 1, Tally())
    fold.run(entries((3, "a", 50)), FOREVER, Tally())
    assert said(first) == ["1: a [0, 10] 1 #1 update"]


def test_a_count_window_is_given_out_when_full_and_events_that_never_filled_one_are_filtered() -> None:
    fold, tally = CountFold(CountWindow(window_size_events=2, advance_events=2), PLANS), Tally()
    results = fold.run(entries((0, "a", 1), (1, "b", 2), (3, "a", 4), (5, "a", 8)), FOREVER, tally)
    assert said(results) == ["4: a [0, 3] 5 #1"]
    assert (tally.released, tally.filtered) == (2, 2)


def test_overlapping_count_windows_start_when_the_first_is_full() -> None:
    fold, tally = CountFold(CountWindow(window_size_events=3, advance_events=2), PLANS), Tally()
    results = fold.run(entries(*((t, "a", 1 << t) for t in range(6))), FOREVER, tally)
    assert said(results) == ["3: a [0, 2] 7 #1", "5: a [2, 4] 28 #1"]
    assert (tally.released, tally.filtered) == (5, 1)


def test_count_windows_of_one_moment_are_told_apart() -> None:
    fold = CountFold(CountWindow(window_size_events=1, advance_events=1), PLANS)
    results = fold.run(entries((7, "a", 1), (7, "a", 2)), FOREVER, Tally())
    assert said(results) == ["8: a [7, 7] 1 #1", "8: a [7, 7] 2 #1"]
    assert results[0].identity != results[1].identity


def test_a_sliding_window_holds_the_events_since_its_size_ago_without_its_start() -> None:
    fold = SlidingFold(SlidingWindow(window_size_ms=10), PLANS)
    assert run(fold, (0, "a", 1), (9, "a", 2), (10, "a", 4), (10, "b", 100), (25, "a", 8)) == [
        "1: a [-10, 0] 1 #1",
        "10: a [-1, 9] 3 #1",
        "11: a [0, 10] 6 #1",
        "11: b [0, 10] 100 #1",
        "26: a [15, 25] 8 #1",
    ]


def test_events_of_one_time_give_one_sliding_window() -> None:
    fold = SlidingFold(SlidingWindow(window_size_ms=10), PLANS)
    assert run(fold, (3, "a", 1), (3, "b", 2), (3, "a", 4)) == ["4: a [-7, 3] 5 #1", "4: b [-7, 3] 2 #1"]


def test_a_sliding_window_holds_events_until_no_later_one_can_be_with_them() -> None:
    fold, tally = SlidingFold(SlidingWindow(window_size_ms=10), PLANS), Tally()
    fold.run(entries((3, "a", 1)), 12, tally)
    assert tally.released == 0
    fold.run([], 13, tally)
    assert tally.released == 1
    assert fold.save() == SlidingFold(SlidingWindow(window_size_ms=10), PLANS).save()


def test_a_tumbling_window_is_updated_from_its_start_on_for_the_keys_with_new_events() -> None:
    window = TumblingWindow(window_size_ms=100, offset_ms=5, updates=Updates(every_ms=40))
    assert run(UpdatesFold(window, PLANS), (6, "b", 1), (7, "a", 2), (50, "a", 4), (104, "b", 8), (105, "a", 16)) == [
        "45: a [5, 105] 2 #1 update",
        "45: b [5, 105] 1 #1 update",
        "85: a [5, 105] 6 #2 update",
        "105: a [5, 105] 6 #3",
        "105: b [5, 105] 9 #2",
        "145: a [105, 205] 16 #1 update",
        "205: a [105, 205] 16 #2",
    ]


def test_a_tumbling_window_counts_the_events_of_each_key_anew() -> None:
    window = TumblingWindow(window_size_ms=100, updates=Updates(every_events=2, retract=True))
    assert run(UpdatesFold(window, PLANS), (1, "a", 1), (2, "b", 2), (3, "a", 4), (101, "a", 8)) == [
        "4: a [0, 100] 5 #1 update",
        "100: a [0, 100] 5 #1 retraction",
        "100: a [0, 100] 5 #2",
        "100: b [0, 100] 2 #1",
        "200: a [100, 200] 8 #1",
    ]


def test_windows_before_1970_lie_on_the_same_grid() -> None:
    window = TumblingWindow(window_size_ms=100, offset_ms=5)
    assert run(UpdatesFold(window, PLANS), (-96, "a", 1), (-95, "a", 2), (4, "a", 4)) == [
        "-95: a [-195, -95] 1 #1",
        "5: a [-95, 5] 6 #1",
    ]


def test_a_calendar_day_on_which_clocks_are_set_back_has_25_hours() -> None:
    window = CalendarWindow(calendar_unit=CalendarUnit.DAY, time_zone="Europe/Berlin")
    start_ms = 1_729_980_000_000  # 2024-10-27 0:00 in Berlin
    end_ms = start_ms + 25 * 3_600_000
    assert run(UpdatesFold(window, PLANS), (start_ms, "a", 1), (end_ms - 1, "a", 2)) == [
        f"{end_ms}: a [{start_ms}, {end_ms}] 3 #1"
    ]


def test_the_global_window_goes_on_for_ever_and_never_calls_a_result_final() -> None:
    window = GlobalWindow(updates=Updates(every_ms=100))
    assert run(UpdatesFold(window, PLANS), (10, "a", 1), (120, "b", 2), (130, "a", 4)) == [
        "100: a [None, None] 1 #1 update",
        "200: a [None, None] 5 #2 update",
        "200: b [None, None] 2 #1 update",
    ]


def test_the_global_window_goes_on_after_the_end_of_what_there_was() -> None:
    fold, tally = UpdatesFold(GlobalWindow(updates=Updates(every_events=2)), PLANS), Tally()
    results = fold.run(entries((1, "a", 1), (2, "a", 2), (3, "b", 4), (3, "a", 8)), 5, tally)
    assert said(results) == ["3: a [None, None] 3 #1 update"]
    assert tally.released == 4
    assert fold.run([], FOREVER, tally) == []
    assert said(fold.run(entries((9, "a", 16)), 10, tally)) == ["10: a [None, None] 27 #2 update"]


EVERY_FOLD: dict[str, Callable[[], Fold]] = {
    "session": lambda: SessionFold(SessionWindow(gap_ms=10, updates=Updates(every_ms=7, retract=True)), PLANS),
    "count": lambda: CountFold(CountWindow(window_size_events=2, advance_events=2), PLANS),
    "sliding": lambda: SlidingFold(SlidingWindow(window_size_ms=10), PLANS),
    "tumbling": lambda: UpdatesFold(TumblingWindow(window_size_ms=10, updates=Updates(every_ms=3, retract=True)), PLANS),
}


@pytest.mark.parametrize("name", EVERY_FOLD)
def test_windows_that_are_over_and_keys_that_are_quiet_leave_nothing_behind(name: str) -> None:
    fold = EVERY_FOLD[name]()
    empty = len(pickle.dumps(fold.save()))
    many = [(t, f"key {t // 2}", 1) for t in range(2000)]
    fold.run(entries(*many), 5000, Tally())
    assert len(pickle.dumps(fold.save())) <= empty + 10


@pytest.mark.parametrize("name", EVERY_FOLD)
def test_a_fold_without_fields_counts_events(name: str) -> None:
    plain: dict[str, Fold] = {
        "session": SessionFold(SessionWindow(gap_ms=10), ()),
        "count": CountFold(CountWindow(window_size_events=2, advance_events=2), ()),
        "sliding": SlidingFold(SlidingWindow(window_size_ms=10), ()),
        "tumbling": UpdatesFold(TumblingWindow(window_size_ms=10), ()),
    }
    bare: list[Any] = [entry._replace(value=()) for entry in entries((1, "a", 0), (2, "a", 0))]
    last = plain[name].run(bare, FOREVER, Tally())[-1]
    assert (last.value.count, list(last.value.partials)) == (2, [])
