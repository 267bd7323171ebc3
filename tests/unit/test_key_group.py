"""The key group and its clock: when results come out, what is late, and what a restarted key group gives out again."""

import base64
import pickle
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest

from event_streaming_bus.errors import UnsupportedFormatError
from event_streaming_bus.flows.aggregations import FieldPlan
from event_streaming_bus.flows.clock import Clock
from event_streaming_bus.flows.folds.base import FOREVER, Entry, Tally
from event_streaming_bus.flows.folds.count import CountFold
from event_streaming_bus.flows.folds.session import SessionFold
from event_streaming_bus.flows.items import Closed, KeyGroupMessage, LatePartial, Partial, Progress
from event_streaming_bus.flows.key_group import KeyGroup, KeyGroupSettings
from event_streaming_bus.flows.marks import Note, WindowMark
from event_streaming_bus.flows.slices import HoppingSlices
from event_streaming_bus.flows.states import KeyedState, OrderedState, SlicedState
from event_streaming_bus.flows.window_config import CountWindow, SessionWindow

SIZE_MS = 10
KEY = b'["k"]'
NAME = "07"


def tumbling() -> KeyedState:
    return SlicedState(HoppingSlices(SIZE_MS, SIZE_MS, 0), ())


def sessions() -> KeyedState:
    fold = SessionFold(SessionWindow(gap_ms=3), (FieldPlan(("x",), summed=True, extremes=False),))
    return OrderedState(fold, lambda at_ms: (at_ms, at_ms + 3))


def pairs() -> KeyedState:
    fold = CountFold(CountWindow(window_size_events=2, advance_events=2), (FieldPlan(("x",), summed=True, extremes=False),))
    return OrderedState(fold, lambda at_ms: (at_ms, at_ms))


class Group:
    """A key group with windows of 10 ms fed by hand: each event is a chunk of its own. What it gives out is kept apart:
    new results, those given out again, late events, horizons. A mark is kept as the log would keep it: as a copy."""

    def __init__(
        self,
        splits: Sequence[str] = ("a",),
        *,
        mark: WindowMark | None = None,
        resume: bytes | None = None,
        state: Callable[[], KeyedState] = tumbling,
        upstream: Sequence[str] = (),
        feeds: bool = False,
        close_when_idle_ms: int | None = 100,
        lag_ms: int = 0,
    ) -> None:
        self.closed: list[tuple[int, int]] = []  # (when it ended, events)
        self.again: list[tuple[int, int]] = []
        self.late: list[tuple[str, int, int]] = []  # (split, window start, offset)
        self.horizons: list[int] = []
        self.mark: WindowMark | None = None
        settings = KeyGroupSettings(
            grace_period_ms=5,
            close_when_idle_ms=close_when_idle_ms,
            live_ms=SIZE_MS,
            splits=splits,
            upstream=upstream,
            marks={} if mark is None else {NAME: mark},
            feeds=feeds,
            lag_ms=lag_ms,
        )
        self.is_sliced = state is tumbling
        self.logic = KeyGroup(settings, state(), resume)

    def send(self, progress: Progress, begin: int = 0, end: int = 0, content: Sequence[Any] = (), **more: Any) -> None:
        closed, is_done = self.logic.on_batch([KeyGroupMessage(NAME, progress, begin, end, list(content), **more)])
        assert not is_done
        for each in closed:
            self._note(each)

    def _note(self, closed: Closed) -> None:
        self.closed += [(result.timestamp_ms, result.value.count) for result in closed.results]
        self.again += [(result.timestamp_ms, result.value.count) for result in closed.again]
        self.late += [(item.split, item.window_start_ms, offset) for item in closed.late for offset in item.offsets]
        self.horizons.append(closed.horizon_ms)
        if closed.mark is not None:
            mark = closed.mark
            self.mark = WindowMark(*(getattr(mark, name) for name in WindowMark.__struct_fields__))
            self.mark.cut, self.mark.notes = dict(mark.cut), list(mark.notes)

    def ends(self, positions: dict[str, int] | None = None, **ends: int) -> None:
        self.send(Progress(positions or {}, ends))

    def event(self, split: str, offset: int, at_ms: int, **ends: int) -> None:
        progress = Progress({split: offset + 1}, ends, split=split, newest=(at_ms, at_ms))
        content: Any = Partial(at_ms - at_ms % SIZE_MS, KEY, [0])
        if not self.is_sliced:
            content = Entry(at_ms, 0, f"evt_{split}{offset}", 0, KEY, (1,), 0)
        self.send(progress, offset, offset + 1, [content])

    def results_of_others(self, *times_ms: int, **horizons: int) -> None:
        content = [Partial(at_ms - at_ms % SIZE_MS, KEY, [i]) for i, at_ms in enumerate(times_ms)]
        self.send(Progress(horizons=horizons), 0, len(times_ms), content)


# When windows close


def test_a_window_closes_when_the_watermark_reaches_its_end_plus_the_grace_period() -> None:
    group = Group()
    group.ends(a=9)
    group.event("a", 0, 3)
    group.event("a", 1, 14)
    assert group.closed == []
    group.event("a", 2, 15)
    assert group.closed == [(10, 1)]


def test_an_event_within_the_grace_period_is_counted_and_one_after_it_is_late() -> None:
    group = Group()
    group.ends(a=9)
    for offset, at_ms in enumerate([3, 14, 9, 15, 9]):
        group.event("a", offset, at_ms)
    assert group.closed == [(10, 2)]
    assert group.late == [("a", 0, 4)]


def test_events_taken_in_order_are_waited_for_as_long_as_the_grace_period() -> None:
    group = Group(state=sessions)
    group.ends(a=9)
    for offset, at_ms in enumerate([3, 8, 6, 16, 12, 11]):
        group.event("a", offset, at_ms)
    assert group.closed == []
    group.event("a", 6, 30)
    assert group.closed == [(15, 5), (19, 1)]
    group.event("a", 7, 24)
    assert group.late == [("a", 24, 7)]


def test_the_split_with_unread_events_and_the_smallest_watermark_holds_the_flow_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=9)
    group.event("b", 0, 4)
    group.event("a", 0, 50)
    assert group.closed == []
    group.event("b", 1, 20)
    assert group.closed == [(10, 1)]


def test_nothing_closes_before_every_split_with_unread_events_was_seen() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=9)
    group.event("a", 0, 4)
    group.event("a", 1, 500)
    assert group.closed == []


def test_a_split_that_was_read_to_its_end_holds_nobody_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=1)
    group.event("b", 0, 4)
    group.event("a", 0, 50)
    assert group.closed == [(10, 1)]


def test_an_empty_split_holds_nobody_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=0)
    group.event("a", 0, 4)
    group.event("a", 1, 50)
    assert group.closed == [(10, 1)]


def test_events_that_were_in_the_log_before_those_just_read_hold_time_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=2, b=1)
    group.event("b", 0, 4)
    group.event("a", 0, 50, b=2)  # b has grown by one event before this one was read
    assert group.closed == []
    group.event("b", 1, 5)
    assert group.late == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_watermark_never_goes_back(order: tuple[int, int]) -> None:
    clock = Clock(("a", "b"))
    clock.take(Progress({}, {"a": 9, "b": 1}))
    progress = [
        Progress({"a": 1}, {}, split="a", newest=(50, 50)),
        Progress({"b": 1}, {}, split="b", newest=(10, 10)),
    ]
    for i in order:
        clock.take(progress[i])
    clock.take(Progress({}, {"b": 2}))  # b, which is at 10, holds unread events again
    assert clock.watermark_ms == 50


def test_times_before_1970_are_times_like_any_other() -> None:
    group = Group()
    group.ends(a=9)
    for offset, at_ms in enumerate([-25, -3, 40]):
        group.event("a", offset, at_ms)
    assert group.closed == [(-20, 1), (0, 1)]


# Idle streams


def test_the_idle_clock_closes_a_live_window_once_all_is_read() -> None:
    group = Group()
    group.ends(a=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=114))
    assert group.closed == []
    group.send(Progress({}, {}, clock_ms=115))
    assert group.closed == [(10, 1)]


def test_the_idle_clock_closes_nothing_while_a_split_holds_unread_events() -> None:
    group = Group(("a", "b"))
    group.ends(a=1, b=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=1_000_000))
    assert group.closed == []


def test_the_idle_clock_closes_nothing_of_history_that_was_loaded_late() -> None:
    group = Group()
    group.ends(a=1)
    progress = Progress({"a": 1}, {}, split="a", newest=(3, 9_999))
    group.send(progress, 0, 1, [Partial(0, KEY, [0])])
    group.send(Progress({}, {}, clock_ms=1_000_000))
    assert group.closed == []


def test_the_idle_clock_can_be_turned_off() -> None:
    group = Group(close_when_idle_ms=None)
    group.ends(a=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=1_000_000))
    assert group.closed == []


def test_an_event_behind_what_the_idle_clock_has_closed_is_late_and_noted() -> None:
    group = Group()
    group.ends(a=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=115))
    group.event("a", 1, 9, a=2)
    assert group.late == [("a", 0, 1)]
    assert group.mark is not None
    assert group.mark.notes == [Note("a", 1, 2, 10)]


# The end


def test_the_end_for_good_of_every_split_closes_all_windows_in_order() -> None:
    group = Group(("a", "b"))
    group.ends(a=2, b=0)
    group.event("a", 0, 33)
    group.event("a", 1, 31)
    group.send(Progress({}, {}, finished=("a",)))
    assert group.closed == []
    group.send(Progress({}, {}, finished=("b",)))
    assert group.closed == [(40, 2)]


def test_events_of_a_later_run_before_the_end_of_what_was_closed_at_the_end_are_late() -> None:
    first = Group()
    first.ends(a=1)
    first.event("a", 0, 3)
    first.send(Progress({}, {}, finished=("a",)))
    assert first.closed == [(10, 1)]
    second = Group(mark=first.mark, resume=first.logic.snapshot())
    second.ends({"a": 1}, a=3)
    second.event("a", 1, 4)
    second.event("a", 2, 12)
    second.send(Progress({}, {}, finished=("a",)))
    assert (second.late, second.closed) == ([("a", 0, 1)], [(20, 1)])


def test_what_was_closed_at_the_end_is_not_counted_again_after_a_crash() -> None:
    first = Group(state=pairs)
    first.ends(a=1)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    first.send(Progress({}, {}, finished=("a",)))
    assert first.mark is not None
    assert (first.mark.filtered, first.mark.horizon_ms) == (1, 4)
    second = Group(state=pairs, mark=first.mark, resume=snapshot)
    second.ends({"a": 1}, a=1)
    second.send(Progress({}, {}, finished=("a",)))
    assert second.mark is None


def test_what_was_closed_at_the_end_is_no_part_of_what_comes_after_a_crash() -> None:
    first = Group(state=pairs)
    first.ends(a=1)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    first.send(Progress({}, {}, finished=("a",)))
    second = Group(state=pairs, mark=first.mark, resume=snapshot)
    second.ends({"a": 1}, a=4)
    for offset, at_ms in enumerate([5, 9, 40], 1):
        second.event("a", offset, at_ms)
    assert second.closed == [(9, 2)]  # with the event at 3 it would have been at 5


# Restarts


def test_a_resumed_group_goes_on_from_its_snapshot() -> None:
    first = Group()
    first.ends(a=9)
    first.event("a", 0, 3)
    second = Group(resume=first.logic.snapshot())
    second.ends({"a": 1}, a=9)
    second.event("a", 1, 4)
    second.event("a", 2, 15)
    assert second.closed == [(10, 2)]


@pytest.mark.parametrize("state", [tumbling, sessions])
def test_a_resumed_group_waits_for_every_split_until_its_end_is_known(state: Callable[[], KeyedState]) -> None:
    first = Group(("a", "b"), state=state)
    first.ends(a=1, b=0)
    first.event("a", 0, 3)
    second = Group(("a", "b"), resume=first.logic.snapshot(), state=state)
    second.ends({"a": 1}, a=2)
    second.event("a", 1, 50)
    assert second.closed == []
    second.ends({"b": 0}, b=0)
    second.event("a", 2, 51)
    assert [count for _, count in second.closed] == [1]


def test_a_resumed_group_does_not_write_again_what_its_mark_says_is_written() -> None:
    first = Group()
    first.ends(a=9)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    for offset, at_ms in [(1, 4), (2, 15), (3, 9)]:
        first.event("a", offset, at_ms)
    assert (first.closed, first.late) == ([(10, 2)], [("a", 0, 3)])
    second = Group(mark=first.mark, resume=snapshot)
    second.ends({"a": 1}, a=9)
    for offset, at_ms in [(1, 4), (2, 15), (3, 9), (4, 8), (5, 30)]:
        second.event("a", offset, at_ms)
    assert second.late == [("a", 0, 4)]  # only the one after the mark
    assert second.closed == [(20, 1)]


@pytest.mark.parametrize("feeds", [False, True])
def test_what_was_written_before_a_restart_is_given_to_readers_again_and_leaves_the_mark_alone(feeds: bool) -> None:
    first = Group(feeds=feeds)
    first.ends(a=9)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    first.event("a", 1, 15)
    assert (first.closed, first.again) == ([(10, 1)], [])
    second = Group(mark=first.mark, resume=snapshot, feeds=feeds)
    second.ends({"a": 1}, a=9)
    second.event("a", 1, 15)
    assert (second.closed, second.again, second.mark) == ([], [(10, 1)], None)


def test_a_run_that_gets_further_than_the_mark_tells_old_results_from_new_ones() -> None:
    first = Group()
    first.ends(a=9)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    first.event("a", 1, 15)
    second = Group(mark=first.mark, resume=snapshot)
    second.ends({"a": 1}, a=9)
    progress = Progress({"a": 3}, {}, split="a", newest=(40, 40))
    second.send(progress, 1, 3, [Partial(10, KEY, [0])])
    assert (second.again, second.closed) == ([(10, 1)], [(20, 1)])


def test_the_mark_counts_what_was_written_over_all_runs() -> None:
    group = Group(mark=WindowMark(horizon_ms=5, late=2, released=7))
    group.ends(a=9)
    for offset, at_ms in enumerate([13, 40, 14]):
        group.event("a", offset, at_ms)
    assert group.mark is not None
    assert (group.mark.late, group.mark.released, group.mark.horizon_ms) == (3, 8, 35)


def test_late_events_of_a_split_that_is_still_read_again_are_not_counted_twice() -> None:
    group = Group(("a", "b"), mark=WindowMark(horizon_ms=100, cut={"a": 1, "b": 5}))
    group.ends(a=2, b=5)
    group.event("a", 1, 3)  # new, and late: it is written while b is still behind its cut
    assert group.mark is not None
    assert group.mark.cut == {"a": 2, "b": 5}
    group.event("b", 4, 3)  # late, but written before the crash
    assert group.late == [("a", 0, 1)]


def test_an_event_late_for_the_whole_flow_is_late_again_after_a_crash_and_others_are_not() -> None:
    first = Group(("a", "b"))
    first.ends(a=9, b=1)
    first.event("b", 0, 3)
    snapshot = first.logic.snapshot()
    first.event("a", 0, 15)  # b was read to its end: this closes its window
    first.event("b", 1, 4, b=2)  # then it gets an older event
    assert (first.closed, first.late) == ([(10, 1)], [("b", 0, 1)])
    assert first.mark is not None
    assert first.mark.notes == [Note("b", 1, 2, 10)]
    second = Group(("a", "b"), mark=first.mark, resume=snapshot)
    second.ends({"a": 0, "b": 1}, a=9, b=2)
    second.event("b", 1, 4)  # this time it is read before what had made it late
    second.event("a", 0, 15)
    assert (second.again, second.closed, second.late) == ([(10, 1)], [], [])


def test_notes_of_what_the_snapshot_holds_already_are_forgotten() -> None:
    notes = [Note("a", 1, 2, 10), Note("a", 2, 3, 10)]
    first = Group()
    first.ends(a=9)
    first.event("a", 1, 3)
    second = Group(mark=WindowMark(horizon_ms=10, cut={"a": 3}, notes=notes), resume=first.logic.snapshot())
    second.ends({"a": 2}, a=9)
    second.event("a", 3, 12)
    second.event("a", 4, 60)
    assert second.mark is not None
    assert second.mark.notes == [notes[1]]


def test_events_that_a_combiner_has_found_late_are_told_of_once() -> None:
    late: dict[str, Any] = {"late": [LatePartial(0, 10, [0])], "lost": 1}
    progress = Progress({"a": 1}, {"a": 9}, split="a", newest=(50, 50))
    first = Group()
    first.send(progress, 0, 1, **late)
    assert first.late == [("a", 0, 0)]
    assert first.mark is not None
    assert (first.mark.late, first.mark.notes) == (1, [])
    second = Group(mark=first.mark)
    second.send(progress, 0, 1, **late)
    assert second.late == []


# Results of others


def test_a_group_that_reads_others_waits_for_the_horizon_of_each_of_them() -> None:
    group = Group((), upstream=("x", "y"))
    group.results_of_others(3, x=50)
    assert group.closed == []
    group.results_of_others(y=14)
    assert group.closed == []
    group.results_of_others(4, y=15)
    assert group.closed == [(10, 2)]


def test_the_horizon_of_others_never_goes_back() -> None:
    group = Group((), upstream=("x",))
    group.results_of_others(13, x=20)
    group.results_of_others(14, x=7)
    group.results_of_others(x=25)
    assert group.closed == [(20, 2)]


def test_results_of_others_are_never_late() -> None:
    group = Group((), upstream=("x",))
    group.results_of_others(x=40)
    group.results_of_others(32, 33, x=45)
    assert (group.closed, group.late) == ([(40, 2)], [])


def test_others_that_have_given_out_all_hold_nobody_back_and_the_last_one_ends_it() -> None:
    group = Group((), upstream=("x", "y"))
    group.results_of_others(3, 23, x=FOREVER, y=15)
    assert group.closed == [(10, 1)]
    group.results_of_others(y=FOREVER)
    assert group.closed == [(10, 1), (30, 1)]


def test_others_that_had_given_out_all_may_give_out_more_in_the_next_run() -> None:
    first = Group((), upstream=("x",))
    first.results_of_others(3, x=FOREVER)
    second = Group((), upstream=("x",), mark=first.mark, resume=first.logic.snapshot())
    second.results_of_others(13, x=20)
    second.results_of_others(x=25)
    assert second.closed == [(20, 1)]


def closed_at_the_end() -> tuple[Group, bytes]:
    """A group that reads others and whose window up to 10 was closed at the end of a run, and its snapshot."""
    group = Group((), upstream=("x",))
    group.results_of_others(3, x=FOREVER)
    assert group.closed == [(10, 1)]
    return group, group.logic.snapshot()


def test_results_of_others_before_the_end_of_what_was_closed_at_the_end_are_late() -> None:
    first, snapshot = closed_at_the_end()
    second = Group((), upstream=("x",), mark=deepcopy(first.mark), resume=snapshot)
    second.results_of_others(4, 5, 12, x=9)
    assert second.mark is None  # nothing is due yet
    second.results_of_others(x=FOREVER)
    assert second.mark is not None
    assert (second.closed, second.mark.late, second.mark.released) == ([(20, 1)], 2, 2)


@pytest.mark.parametrize("horizon_ms", [40, FOREVER], ids=["as time goes on", "at the end"])
def test_results_of_others_that_came_too_late_are_counted_once_whatever_the_crash(horizon_ms: int) -> None:
    first, snapshot = closed_at_the_end()
    second = Group((), upstream=("x",), mark=deepcopy(first.mark), resume=snapshot)
    second.results_of_others(4, x=9)
    between = second.logic.snapshot()
    second.results_of_others(x=horizon_ms)
    assert second.mark is not None
    assert second.mark.late == 1
    for resume, written, counted_anew in ((snapshot, second.mark, 0), (between, second.mark, 0), (between, first.mark, 1)):
        again = Group((), upstream=("x",), mark=deepcopy(written), resume=resume)
        again.results_of_others(*([4] if resume is snapshot else []), x=9)
        again.results_of_others(x=horizon_ms)
        assert (again.mark is not None) == bool(counted_anew)
        mark = deepcopy(again.mark or second.mark)
        third = Group((), upstream=("x",), mark=mark, resume=again.logic.snapshot())
        third.results_of_others(52, x=FOREVER)
        assert third.mark is not None
        assert (third.closed, third.mark.late, third.mark.released) == ([(60, 1)], 1, 2)


def test_those_that_read_on_are_told_of_the_horizon_whenever_it_moves() -> None:
    group = Group(feeds=True)
    group.ends(a=9)
    for offset, at_ms in enumerate([3, 3, 8, 15]):
        group.event("a", offset, at_ms)
    group.send(Progress({}, {}, finished=("a",)))
    assert group.horizons == [-2, 3, 10, FOREVER]
    assert group.closed == [(10, 3), (20, 1)]


def test_the_horizon_told_lags_where_results_have_older_times() -> None:
    group = Group(feeds=True, lag_ms=4)
    group.ends(a=9)
    group.event("a", 0, 15)
    assert group.horizons == [6]


def test_a_group_that_nobody_reads_gives_out_nothing_while_nothing_is_due() -> None:
    group = Group()
    group.ends(a=9)
    for offset, at_ms in enumerate([3, 8, 14]):
        group.event("a", offset, at_ms)
    assert group.horizons == []


def test_a_snapshot_of_another_version_is_told() -> None:
    snapshot = pickle.dumps((1, (), (), None, 0))
    with pytest.raises(UnsupportedFormatError, match="another version of the bus"):
        Group(resume=snapshot)


OLD_SNAPSHOT = (
    "MN>jC!Q;$iZF2>HfCZIO0RR910000eO9Ci;l#BskluJo-eUxYcOAd2O4oeh<luHhMlysDRlqgF8iU<Gz000000KkTneUvCe1zRF(B3+b>AZ2!C"
    "ZggLBbaG{3ZE0?2Ut)E0E@o_RcXKXtbYXO5bCiq)UsG&vbd-~nDS?zr0bP_`luHL;VNQpXVnYR6B5WdElxPeofs{)|DP5F|E@gIQZggLBbaG{3"
    "ZE0?2Ut)E0E@o_RcXKXbXJ>L{XJK?{Z*FrgaA9(EX<=-Xj0{F;Wo%?nVRCe7VQiF>lqgF^O8{MzM?j+9000000AYwn0000000000M?g_P00000"
    "08UO$bd*w*VTY7rbxR702mk;800000z=o84lxPWP3@L$>O9EY#U6d$G0Y^Xt00000003oSPKT6Yb9G&mC`$@U0EU!H6iW(*lx2pLO9_ey00000"
    "0002MO8|6~E&"
)
"""What a key group with windows of 10 ms kept in format 2, with slots as objects: of ``k`` the value 7 in the first window, 1 and
2.5 in the second; of ``l`` those from 0.0 to 69.0, summed up, in the first."""


def test_a_snapshot_with_slots_as_objects_is_read_and_written_anew_in_columns() -> None:
    plans = (FieldPlan(("x",), summed=True, extremes=True),)

    def state() -> KeyedState:
        return SlicedState(HoppingSlices(SIZE_MS, SIZE_MS, 0), plans)

    group = Group(resume=base64.b85decode(OLD_SNAPSHOT), state=state)
    for _ in range(2):
        group = Group(resume=group.logic.snapshot(), state=state)
    results = group.logic._state.advance(FOREVER, Tally())
    found = [(each.timestamp_ms, each.key, each.value.count, each.value.partials[0]) for each in results]
    sums = [(at_ms, key, count, one.integers, one.floats, one.low_number, one.high_number) for at_ms, key, count, one in found]
    assert sums == [
        (10, KEY, 1, 7, [], 7, 7),
        (10, b'["l"]', 70, 0, [2415.0], 0.0, 69.0),
        (20, KEY, 2, 1, [2.5], 1, 2.5),
    ]
