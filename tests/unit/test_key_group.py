"""When windows close, what is late, and what a restarted key group leaves out."""

from typing import Any

import pytest

from event_streaming_bus.flows.aggregations import FieldPartial
from event_streaming_bus.flows.items import KeyGroupMessage, Partial, Progress, SinkItem
from event_streaming_bus.flows.key_group import Clock, ClosedWindow, KeyGroup, LateEvents
from event_streaming_bus.flows.marks import WindowMark
from event_streaming_bus.flows.window_config import TumblingWindow

WINDOW = TumblingWindow(window_size_ms=10, grace_period_ms=5, close_when_idle_ms=100)


class Group:
    """A key group fed by hand: each event is a chunk of its own."""

    def __init__(
        self,
        splits: tuple[str, ...] = ("a",),
        mark: WindowMark | None = None,
        resume: bytes | None = None,
        window: TumblingWindow = WINDOW,
    ) -> None:
        self.window = window
        self.closed: list[tuple[int, int]] = []  # (start, events)
        self.late: list[tuple[str, int, int]] = []  # (split, window start, offset)
        self.mark: WindowMark | None = None
        self.logic = KeyGroup(window, splits, self._emit, {} if mark is None else {"07": mark}, resume)

    def _emit(self, group: str, closed: list[ClosedWindow], late: list[LateEvents], mark: WindowMark) -> SinkItem:
        self.closed += [(window.start_ms, window.state.count) for window in closed]
        self.late += [(item.split, item.window_start_ms, offset) for item in late for offset in item.offsets]
        self.mark = mark
        return SinkItem({}, ())

    def send(self, progress: Progress, begin: int = 0, end: int = 0, partials: Any = ()) -> None:
        self.logic.on_batch([KeyGroupMessage("07", progress, begin, end, list(partials))])

    def ends(self, positions: dict[str, int] | None = None, **ends: int) -> None:
        self.send(Progress(positions or {}, ends))

    def event(self, split: str, offset: int, at_ms: int, **ends: int) -> None:
        start = at_ms - at_ms % self.window.window_size_ms
        progress = Progress({split: offset + 1}, ends, split=split, newest=(at_ms, at_ms))
        self.send(progress, offset, offset + 1, [Partial(start, b'["k"]', [0], [FieldPartial()])])


def test_a_window_closes_when_the_watermark_reaches_its_end_plus_the_grace_period() -> None:
    group = Group()
    group.ends(a=9)
    group.event("a", 0, 3)
    group.event("a", 1, 14)
    assert group.closed == []
    group.event("a", 2, 15)
    assert group.closed == [(0, 1)]


def test_an_event_within_the_grace_period_is_counted_and_one_after_it_is_late() -> None:
    group = Group()
    group.ends(a=9)
    for offset, at_ms in enumerate([3, 14, 9, 15, 9]):
        group.event("a", offset, at_ms)
    assert group.closed == [(0, 2)]
    assert group.late == [("a", 0, 4)]


def test_the_split_with_unread_events_and_the_smallest_watermark_holds_the_flow_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=9)
    group.event("b", 0, 4)
    group.event("a", 0, 50)
    assert group.closed == []
    group.event("b", 1, 20)
    assert group.closed == [(0, 1)]


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
    assert group.closed == [(0, 1)]


def test_an_empty_split_holds_nobody_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=9, b=0)
    group.event("a", 0, 4)
    group.event("a", 1, 50)
    assert group.closed == [(0, 1)]


def test_events_that_were_in_the_log_before_those_just_read_hold_time_back() -> None:
    group = Group(("a", "b"))
    group.ends(a=2, b=1)
    group.event("b", 0, 4)
    group.event("a", 0, 50, b=2)  # b has grown by one event before this one was read
    assert group.closed == []
    group.event("b", 1, 5)
    assert group.late == []


def test_the_idle_clock_closes_a_live_window_once_all_is_read() -> None:
    group = Group()
    group.ends(a=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=114))
    assert group.closed == []
    group.send(Progress({}, {}, clock_ms=115))
    assert group.closed == [(0, 1)]


def test_the_idle_clock_closes_nothing_of_history_that_was_loaded_late() -> None:
    group = Group()
    group.ends(a=1)
    progress = Progress({"a": 1}, {}, split="a", newest=(3, 9_999))
    group.send(progress, 0, 1, [Partial(0, b'["k"]', [0], [FieldPartial()])])
    group.send(Progress({}, {}, clock_ms=1_000_000))
    assert group.closed == []


def test_the_idle_clock_can_be_turned_off() -> None:
    group = Group(window=TumblingWindow(window_size_ms=10, close_when_idle_ms=None))
    group.ends(a=1)
    group.event("a", 0, 3)
    group.send(Progress({}, {}, clock_ms=1_000_000))
    assert group.closed == []


def test_the_end_for_good_of_every_split_closes_all_windows_in_order() -> None:
    group = Group(("a", "b"))
    group.ends(a=2, b=0)
    group.event("a", 0, 33)
    group.event("a", 1, 31)
    group.send(Progress({}, {}, finished=("a",)))
    assert group.closed == []
    group.send(Progress({}, {}, finished=("b",)))
    assert group.closed == [(30, 2)]


def test_a_resumed_group_goes_on_from_its_snapshot() -> None:
    first = Group()
    first.ends(a=9)
    first.event("a", 0, 3)
    second = Group(resume=first.logic.snapshot())
    second.ends({"a": 1}, a=9)
    second.event("a", 1, 4)
    second.event("a", 2, 15)
    assert second.closed == [(0, 2)]


def test_a_resumed_group_does_not_write_again_what_its_mark_says_is_written() -> None:
    first = Group()
    first.ends(a=9)
    first.event("a", 0, 3)
    snapshot = first.logic.snapshot()
    for offset, at_ms in [(1, 4), (2, 15), (3, 9)]:
        first.event("a", offset, at_ms)
    assert (first.closed, first.late) == ([(0, 2)], [("a", 0, 3)])
    second = Group(mark=first.mark, resume=snapshot)
    second.ends({"a": 1}, a=9)
    for offset, at_ms in [(1, 4), (2, 15), (3, 9), (4, 8), (5, 30)]:
        second.event("a", offset, at_ms)
    assert second.late == [("a", 0, 4)]  # only the one after the mark
    assert second.closed == [(10, 1)]


def test_the_mark_counts_what_was_written_over_all_runs() -> None:
    group = Group(mark=WindowMark(closed_through_ms=5, late=2, emitted=7, windows=3))
    group.ends(a=9)
    for offset, at_ms in enumerate([13, 40, 14]):
        group.event("a", offset, at_ms)
    assert group.mark is not None
    assert (group.mark.late, group.mark.emitted, group.mark.windows) == (3, 8, 4)


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


def test_late_events_of_a_split_that_is_still_read_again_are_not_counted_twice() -> None:
    group = Group(("a", "b"), mark=WindowMark(closed_through_ms=100, cut={"a": 1, "b": 5}))
    group.ends(a=2, b=5)
    group.event("a", 1, 3)  # new, and late: it is written while b is still behind its cut
    assert group.mark is not None
    assert group.mark.cut == {"a": 2, "b": 5}
    group.event("b", 4, 3)  # late, but written before the crash
    assert group.late == [("a", 0, 1)]
