"""Folds of windows against brute force: the same answers, however the events are cut up and whenever the fold is restarted."""

import pickle
from bisect import bisect_left
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import groupby
from typing import Any, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.aggregations import Aggregation, FieldPartial, FieldPlan, result
from event_streaming_bus.flows.aggregations import AggregationFunction as F
from event_streaming_bus.flows.folds.base import FOREVER, LEFT, Entry, Fold, Result, Tally
from event_streaming_bus.flows.folds.count import CountFold
from event_streaming_bus.flows.folds.session import SessionFold
from event_streaming_bus.flows.folds.sliding import SlidingFold
from event_streaming_bus.flows.folds.updates import UpdatesFold
from event_streaming_bus.flows.folds.windows import WindowResult
from event_streaming_bus.flows.window_config import (
    CountWindow,
    GlobalWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Updates,
)

PLANS = (FieldPlan(("x",), summed=True, extremes=True), FieldPlan(("y",), summed=True, extremes=False))

Events: TypeAlias = list[Entry]
Fact: TypeAlias = tuple[Any, ...]
"""(at_ms, timestamp_ms, key, start_ms, end_ms, numbers, revision, is_final, retraction)."""

values = st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e9, 1e9))


@st.composite
def streams(draw: st.DrawFn) -> Events:
    rows = draw(st.lists(st.tuples(st.integers(-60, 60), st.sampled_from("abc"), values, values), max_size=70))
    rows.sort(key=lambda row: row[0])
    return [Entry(t, 0, f"e{i:03}", LEFT, key.encode(), (x, y), i) for i, (t, key, x, y) in enumerate(rows)]


horizons = st.lists(st.integers(-70, 140), max_size=12).map(sorted)
all_updates = st.one_of(
    st.builds(lambda n, retract: Updates(every_ms=n, retract=retract), st.integers(1, 40), st.booleans()),
    st.builds(lambda n, retract: Updates(every_events=n, retract=retract), st.integers(1, 6), st.booleans()),
)


def numbers(events: Iterable[Entry]) -> tuple[Any, ...]:
    """What a window of these events says, summed up from scratch."""
    rows = [entry.value for entry in events]
    x, y = ([row[i] for row in rows if row[i] is not None] for i in (0, 1))
    return len(rows), exact_sum(x), min(x, default=None), max(x, default=None), exact_sum(y), len(y)


def exact_sum(given: list[Any]) -> float | None:
    return float(sum(map(Fraction, given))) if given else None


def answer(function: F, partial: FieldPartial) -> Any:
    return result(Aggregation(function=function, field=("x",), name="x"), partial)


def read(value: WindowResult) -> tuple[Any, ...]:
    x, y = value.partials
    return value.count, *(answer(f, x) for f in (F.SUM, F.MIN, F.MAX)), answer(F.SUM, y), answer(F.COUNT, y)


def fact(item: Result) -> Fact:
    said = item.value
    times = (item.at_ms, item.timestamp_ms, item.key, said.start_ms, said.end_ms)
    return *times, read(said), said.revision, said.is_final, said.retraction


def by_time(facts: Iterable[Fact]) -> list[Fact]:
    """In order of ``at_ms``, then of keys; what a key says at one time stays in the order in which it is said."""
    return sorted(facts, key=lambda said: (said[0], said[2]))


def by_key(events: Events) -> list[tuple[bytes, Events]]:
    keys = sorted({entry.key for entry in events})
    return [(key, [entry for entry in events if entry.key == key]) for key in keys]


Moment: TypeAlias = tuple[int, int, int]
"""(at_ms, timestamp_ms, how many of the window's events there are by then)."""


def moments(events: Events, updates: Updates | None, since_ms: int, close_ms: int) -> list[Moment]:
    """When a window with ``events`` is updated, looking at each millisecond or each event in turn."""
    if updates is None:
        return []
    if updates.every_events is not None:
        every = updates.every_events
        return [(e.timestamp_ms + 1, e.timestamp_ms, i) for i, e in enumerate(events, 1) if i % every == 0]
    assert updates.every_ms is not None
    found, known = [], 0
    for now in range(events[0].timestamp_ms, min(close_ms, events[-1].timestamp_ms + updates.every_ms + 1)):
        count = sum(e.timestamp_ms < now for e in events)
        if (now - since_ms) % updates.every_ms == 0 and count > known:
            found.append((now, now, count))
            known = count
    return found


def revisions(
    key: bytes, events: Events, found: list[Moment], span: Callable[[Events], tuple[Any, Any]], retract: bool, closes: bool
) -> list[Fact]:
    facts: list[Fact] = []
    for i, (at_ms, timestamp_ms, count) in enumerate(found, 1):
        if i > 1 and retract:
            facts.append((at_ms, timestamp_ms, *facts[-1][2:7], False, True))
        is_final = closes and i == len(found)
        facts.append((at_ms, timestamp_ms, key, *span(events[:count]), numbers(events[:count]), i, is_final, False))
    return facts


def check(
    make: Callable[[], Fold], events: Events, cuts: list[int], expected: list[Fact], released: Callable[[Events, int], int]
) -> None:
    """Whole and in pieces, with a restart after each piece, a fold says what is ``expected``, and its tally is right throughout.

    ``released``: of the events before a horizon, how many are to be released by then.
    """
    whole = make().run(events, FOREVER, Tally())
    assert [item.at_ms for item in whole] == sorted(item.at_ms for item in whole)
    assert by_time(map(fact, whole)) == by_time(expected)
    assert len({(item.key, item.identity) for item in whole}) == len(whole)

    fold, tally, pieces, start = make(), Tally(), [], 0
    before = -FOREVER
    for horizon in [*cuts, FOREVER]:
        end = bisect_left(events, horizon, key=lambda entry: entry.timestamp_ms)
        given_out = fold.run(events[start:end], horizon, tally)
        assert all(before < item.at_ms <= horizon for item in given_out)
        assert tally.released == released(events[:end], horizon)
        pieces += given_out
        restarted = make()
        restarted.load(pickle.loads(pickle.dumps(fold.save())))
        fold, start, before = restarted, end, horizon
    assert pieces == whole
    assert tally.released + tally.filtered == len(events)


def sessions(events: Events, gap_ms: int) -> list[Events]:
    found: list[Events] = []
    for entry in events:
        if found and entry.timestamp_ms - found[-1][-1].timestamp_ms <= gap_ms:
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


@given(streams(), horizons, st.integers(0, 25), st.none() | all_updates)
def test_sessions_are_those_found_by_looking_at_all_events_at_once(
    events: Events, cuts: list[int], gap_ms: int, updates: Updates | None
) -> None:
    expected: list[Fact] = []
    for key, own in by_key(events):
        for session in sessions(own, gap_ms):
            end_ms = session[-1].timestamp_ms + gap_ms
            found = [*moments(session, updates, 0, end_ms + 1), (end_ms + 1, end_ms, len(session))]
            retract = updates is not None and updates.retract
            expected += revisions(
                key, session, found, lambda part: (part[0].timestamp_ms, part[-1].timestamp_ms + gap_ms), retract, True
            )

    def released(taken: Events, horizon: int) -> int:
        every = [session for _, own in by_key(taken) for session in sessions(own, gap_ms)]
        return sum(len(session) for session in every if session[-1].timestamp_ms + gap_ms < horizon)

    window = SessionWindow(gap_ms=gap_ms, updates=updates)
    check(lambda: SessionFold(window, PLANS), events, cuts, expected, released)


@given(streams(), horizons, st.integers(1, 40), st.integers(0, 39), st.none() | all_updates)
def test_tumbling_windows_are_updated_as_if_each_moment_was_looked_at(
    events: Events, cuts: list[int], size_ms: int, offset_ms: int, updates: Updates | None
) -> None:
    def start_of(entry: Entry) -> int:
        return max(start for start in range(-200 * size_ms + offset_ms, 100, size_ms) if start <= entry.timestamp_ms)

    expected: list[Fact] = []
    for key, own in by_key(events):
        for start_ms, group in groupby(own, start_of):
            inside, span = list(group), (start_ms, start_ms + size_ms)
            found = [*moments(inside, updates, start_ms, span[1]), (span[1], span[1], len(inside))]
            retract = updates is not None and updates.retract
            expected += revisions(key, inside, found, lambda _, span=span: span, retract, True)  # type: ignore[misc]

    def released(taken: Events, horizon: int) -> int:
        return sum(start_of(entry) + size_ms <= horizon for entry in taken)

    window = TumblingWindow(window_size_ms=size_ms, offset_ms=offset_ms, updates=updates)
    check(lambda: UpdatesFold(window, PLANS), events, cuts, expected, released)


@given(streams(), horizons, all_updates)
def test_the_global_window_is_updated_as_if_each_moment_was_looked_at(events: Events, cuts: list[int], updates: Updates) -> None:
    expected: list[Fact] = []
    for key, own in by_key(events):
        found = moments(own, updates, 0, FOREVER)
        expected += revisions(key, own, found, lambda _: (None, None), updates.retract, False)
    check(lambda: UpdatesFold(GlobalWindow(updates=updates), PLANS), events, cuts, expected, lambda taken, _: len(taken))


@given(streams(), horizons, st.integers(1, 60))
def test_sliding_windows_are_those_summed_up_anew_for_each_time(events: Events, cuts: list[int], size_ms: int) -> None:
    expected: list[Fact] = []
    for key, own in by_key(events):
        for now in sorted({entry.timestamp_ms for entry in own}):
            inside = [entry for entry in own if now - size_ms < entry.timestamp_ms <= now]
            expected.append((now + 1, now, key, now - size_ms, now, numbers(inside), 1, True, False))

    def released(taken: Events, horizon: int) -> int:
        return sum(entry.timestamp_ms + size_ms <= horizon for entry in taken)

    check(lambda: SlidingFold(SlidingWindow(window_size_ms=size_ms), PLANS), events, cuts, expected, released)


@given(streams(), horizons, st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size))))
def test_count_windows_are_slices_of_the_events_of_a_key(events: Events, cuts: list[int], shape: tuple[int, int]) -> None:
    size, advance = shape
    expected: list[Fact] = []
    for key, own in by_key(events):
        for start in range(0, len(own) - size + 1, advance):
            inside = own[start : start + size]
            last_ms = inside[-1].timestamp_ms
            expected.append((last_ms + 1, last_ms, key, inside[0].timestamp_ms, last_ms, numbers(inside), 1, True, False))

    def released(taken: Events, horizon: int) -> int:
        total = 0
        for _, own in by_key(taken):
            starts = range(0, len(own), advance)
            for place in range(len(own)):
                ends = [start + size for start in starts if start <= place < start + size]
                full = [end for end in ends if end <= len(own)]
                # Done with when the last window that it is part of is full; at the end, when any was.
                total += bool(full) and (horizon == FOREVER or max(ends) <= len(own))
        return total

    window = CountWindow(window_size_events=size, advance_events=advance)
    check(lambda: CountFold(window, PLANS), events, cuts, expected, released)
