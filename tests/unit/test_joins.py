"""The folds of JOIN: what meets what, when it is given out, and what is kept meanwhile."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.folds.base import FOREVER, LEFT, RIGHT, Entry, Fold, Result, Tally
from event_streaming_bus.flows.folds.interval_join import IntervalJoinFold
from event_streaming_bus.flows.folds.joins import JoinedPair
from event_streaming_bus.flows.folds.lookup_join import LookupJoinFold
from event_streaming_bus.flows.folds.window_join import WindowJoinFold
from event_streaming_bus.flows.processors.join import JoinType

INNER, OUTER = JoinType.INNER, JoinType.OUTER
WINDOW_MS: Final = 10


def tens(timestamp_ms: int) -> tuple[int, int]:
    start_ms = timestamp_ms - timestamp_ms % WINDOW_MS
    return start_ms, start_ms + WINDOW_MS


def entry(side: int, timestamp_ms: int, event_id: str, key: Any = "a", rank: int = 0) -> Entry:
    return Entry(timestamp_ms, rank, event_id, side, msgspec.json.encode([key]), b'{"id":"%s"}' % event_id.encode(), 0)


def left(timestamp_ms: int, event_id: str, key: Any = "a") -> Entry:
    return entry(LEFT, timestamp_ms, event_id, key, rank=1)


def right(timestamp_ms: int, event_id: str, key: Any = "a") -> Entry:
    return entry(RIGHT, timestamp_ms, event_id, key)


def told(results: Sequence[Result]) -> list[tuple[int, int, str, str]]:
    """When each result is due, its time, and who met."""
    return [(result.at_ms, result.timestamp_ms, *result.identity[:2]) for result in results]


def run(fold: Fold, *entries: Entry, horizon_ms: int = FOREVER) -> list[tuple[int, int, str, str]]:
    return told(fold.run(entries, horizon_ms, Tally()))


# Within an interval


def test_both_ends_of_the_interval_belong_to_it() -> None:
    rights = [right(t, f"r{t}") for t in (4, 5, 13, 14)]
    entries = sorted([*rights, left(10, "l")])
    assert run(IntervalJoinFold(INNER, 5, 3), *entries) == [(11, 10, "l", "r5"), (14, 13, "l", "r13")]


def test_an_interval_of_zero_joins_events_of_the_same_time() -> None:
    entries = [right(1, "r1"), left(1, "l1"), right(2, "r2"), left(3, "l3")]
    assert run(IntervalJoinFold(INNER, 0, 0), *entries) == [(2, 1, "l1", "r1")]


def test_events_of_different_keys_do_not_meet() -> None:
    assert run(IntervalJoinFold(INNER, 9, 9), left(1, "l", "a"), right(1, "r", "b")) == []


def test_a_result_has_the_payloads_and_the_times_of_both_events() -> None:
    (result,) = IntervalJoinFold(INNER, 9, 9).run([left(1, "l"), right(3, "r")], 4, Tally())
    assert result == Result(4, 3, b'["a"]', ("l", "r"), JoinedPair(b'{"id":"l"}', b'{"id":"r"}', 1, 3))


def test_an_event_without_a_partner_is_given_out_as_soon_as_none_can_come() -> None:
    fold = IntervalJoinFold(OUTER, 5, 3)
    assert run(fold, right(10, "r"), left(20, "l"), horizon_ms=21) == [(16, 10, "", "r")]
    assert run(fold, horizon_ms=23) == []
    assert run(fold, horizon_ms=24) == [(24, 20, "l", "")]


def test_a_left_join_gives_out_left_events_alone_but_no_right_ones() -> None:
    tally = Tally()
    results = IntervalJoinFold(JoinType.LEFT, 1, 1).run([left(1, "l"), right(5, "r")], FOREVER, tally)
    assert told(results) == [(3, 1, "l", "")]
    assert (tally.released, tally.filtered) == (1, 1)


def test_null_equals_nothing_not_even_null() -> None:
    entries = [right(1, "r", None), left(1, "l", None)]
    assert run(IntervalJoinFold(INNER, 9, 9), *entries) == []
    assert run(IntervalJoinFold(OUTER, 9, 9), *entries, horizon_ms=2) == [(2, 1, "", "r"), (2, 1, "l", "")]


def test_text_that_says_null_is_a_key_as_any_other() -> None:
    assert run(IntervalJoinFold(INNER, 9, 9), left(1, "l", "null"), right(2, "r", "null")) == [(3, 2, "l", "r")]


def test_results_due_at_the_same_time_are_in_the_order_of_their_keys_and_ids() -> None:
    rights = [right(3, "r1", "b"), right(3, "r2", "a"), right(3, "r3", "b")]
    lefts = [left(0, "l0", "c"), left(3, "l4", "b"), left(3, "l5", "a"), left(3, "l6", "b")]
    results = IntervalJoinFold(OUTER, 3, 3).run([lefts[0], *rights, *lefts[1:]], 4, Tally())
    assert [(result.at_ms, result.key, result.identity) for result in results] == [
        (4, b'["a"]', ("l5", "r2")),
        (4, b'["b"]', ("l4", "r1")),
        (4, b'["b"]', ("l4", "r3")),
        (4, b'["b"]', ("l6", "r1")),
        (4, b'["b"]', ("l6", "r3")),
        (4, b'["c"]', ("l0", "")),
    ]


def test_of_a_busy_key_only_the_events_are_kept_that_a_partner_can_come_for() -> None:
    fold = IntervalJoinFold(INNER, 5, 5)
    fold.run([left(t, f"l{t}", "hot") for t in range(100)], 100, Tally())
    assert [len(events) for events in fold._by_key[LEFT].values()] == [5]


def test_a_key_without_events_leaves_nothing_behind() -> None:
    fold = IntervalJoinFold(INNER, 5, 5)
    fold.run([left(t, f"l{t}", key=t % 7) for t in range(100)], 100, Tally())
    assert [len(side) for side in fold.save()] == [5, 0]
    assert set(fold._by_key[LEFT]) == {msgspec.json.encode([t % 7]) for t in range(95, 100)}
    fold.run([], 200, Tally())
    assert fold._by_key == ({}, {})


# Within a window


def test_all_events_of_a_key_in_a_window_meet_at_its_end() -> None:
    entries = [left(1, "l1"), right(2, "r2"), left(9, "l9"), right(10, "r10")]
    fold = WindowJoinFold(INNER, tens)
    assert run(fold, *entries[:3], horizon_ms=9 + 1) == [(10, 10, "l1", "r2"), (10, 10, "l9", "r2")]
    assert run(fold, entries[3]) == []


def test_a_window_join_gives_out_the_others_at_the_end_of_their_window() -> None:
    entries = [left(1, "l1"), left(12, "l12", None), right(13, "r13", None), right(14, "r14", "b")]
    expected = [(10, 10, "l1", ""), (20, 20, "", "r14"), (20, 20, "", "r13"), (20, 20, "l12", "")]
    assert run(WindowJoinFold(OUTER, tens), *entries) == expected


def test_the_identity_of_a_window_join_names_the_window() -> None:
    (result,) = WindowJoinFold(INNER, tens).run([left(11, "l"), right(12, "r")], 20, Tally())
    assert result.identity == ("l", "r", 10)


# Lookup


def test_a_lookup_meets_the_latest_row_as_of_its_own_time() -> None:
    entries = [left(1, "l1"), right(2, "r2"), right(3, "r3"), left(3, "l3"), left(4, "l4"), right(5, "r5")]
    expected = [(2, 1, "l1", ""), (4, 3, "l3", "r3"), (5, 4, "l4", "r3")]
    assert run(LookupJoinFold(JoinType.LEFT, None), *entries) == expected
    assert run(LookupJoinFold(INNER, None), *entries) == expected[1:]


def test_a_row_lives_as_long_as_its_ttl_says() -> None:
    entries = [right(0, "r"), left(10, "l10"), left(11, "l11")]
    expected = [(11, 10, "l10", "r"), (12, 11, "l11", "")]
    assert run(LookupJoinFold(JoinType.LEFT, 10), *entries) == expected
    fold = LookupJoinFold(JoinType.LEFT, 10)
    assert run(fold, entries[0], horizon_ms=10) + run(fold, *entries[1:]) == expected


def test_rows_that_no_event_can_meet_any_more_are_dropped() -> None:
    fold = LookupJoinFold(INNER, 10)
    hot = [right(t, f"r{t}", "hot") for t in range(30)]
    fold.run([*hot[:20], right(20, "cold", "cold"), *hot[20:]], 30, Tally())
    assert [(key, event_id) for key, _, event_id, _ in fold.save()] == [(b'["cold"]', "cold"), (b'["hot"]', "r29")]
    fold.run([], 31, Tally())
    assert [key for key, *_ in fold.save()] == [b'["hot"]']
    fold.run([], 60, Tally())
    assert fold.save() == []


def test_without_a_ttl_rows_stay() -> None:
    fold = LookupJoinFold(INNER, None)
    fold.run([right(0, "r")], FOREVER - 1, Tally())
    assert run(fold, left(FOREVER - 1, "l")) == [(FOREVER, FOREVER - 1, "l", "r")]


def test_null_is_the_key_of_no_row() -> None:
    assert run(LookupJoinFold(JoinType.LEFT, None), right(1, "r", None), left(2, "l", None)) == [(3, 2, "l", "")]


def test_an_outer_lookup_is_refused() -> None:
    with pytest.raises(ValueError, match="inner or left"):
        LookupJoinFold(OUTER, None)


# Against nested loops


class Case(NamedTuple):
    """A fold, and what it should do, said with nested loops over all events."""

    make: Callable[[], Fold]
    results: Callable[[list[Entry], list[Entry]], list[tuple[int, int, bytes, str, str]]]
    held_until_ms: Callable[[Entry], int]
    """The horizon at which an event is dropped."""
    makes_rows: bool = False
    """Whether a right event is done with when it becomes a row."""


def loops(
    join_type: JoinType,
    meets: Callable[[Entry, Entry], bool],
    pair_at: Callable[[Entry, Entry], tuple[int, int]],
    alone_at: Callable[[Entry], tuple[int, int]],
) -> Callable[[list[Entry], list[Entry]], list[tuple[int, int, bytes, str, str]]]:
    """``SELECT ... FROM lefts JOIN rights ON meets``: due, time, key and both ids, in the order of results."""

    def join(lefts: list[Entry], rights: list[Entry]) -> list[tuple[int, int, bytes, str, str]]:
        pairs = [(a, b) for a in lefts for b in rights if a.key == b.key != b"[null]" and meets(a, b)]
        out = [(*pair_at(a, b), a.key, a.event_id, b.event_id) for a, b in pairs]
        if join_type is not INNER:
            out += [(*alone_at(a), a.key, a.event_id, "") for a in lefts if all(a is not each for each, _ in pairs)]
        if join_type is OUTER:
            out += [(*alone_at(b), b.key, "", b.event_id) for b in rights if all(b is not each for _, each in pairs)]
        return sorted(out, key=lambda each: (each[0], each[2:]))

    return join


def interval_case(join_type: JoinType, before_ms: int, after_ms: int) -> Case:
    def meets(a: Entry, b: Entry) -> bool:
        return a.timestamp_ms - before_ms <= b.timestamp_ms <= a.timestamp_ms + after_ms

    def pair_at(a: Entry, b: Entry) -> tuple[int, int]:
        later_ms = max(a.timestamp_ms, b.timestamp_ms)
        return later_ms + 1, later_ms

    def held_until_ms(each: Entry) -> int:
        waits_ms = after_ms if each.side == LEFT else before_ms
        return each.timestamp_ms + 1 + (0 if each.key == b"[null]" else waits_ms)

    results = loops(join_type, meets, pair_at, lambda each: (held_until_ms(each), each.timestamp_ms))
    return Case(lambda: IntervalJoinFold(join_type, before_ms, after_ms), results, held_until_ms)


def window_case(join_type: JoinType) -> Case:
    def end_ms(each: Entry) -> int:
        return tens(each.timestamp_ms)[1]

    def held_until_ms(each: Entry) -> int:
        given_out = join_type is not INNER if each.side == LEFT else join_type is OUTER
        return each.timestamp_ms + 1 if each.key == b"[null]" and not given_out else end_ms(each)

    results = loops(
        join_type, lambda a, b: end_ms(a) == end_ms(b), lambda a, _: (end_ms(a), end_ms(a)), lambda e: (end_ms(e), end_ms(e))
    )
    return Case(lambda: WindowJoinFold(join_type, tens), results, held_until_ms)


def lookup_case(join_type: JoinType, ttl_ms: int | None) -> Case:
    def join(lefts: list[Entry], rights: list[Entry]) -> list[tuple[int, int, bytes, str, str]]:
        out = []
        for a in lefts:
            before = [b for b in rights if b.key == a.key != b"[null]" and b.timestamp_ms <= a.timestamp_ms]
            row = max(before, key=lambda b: (b.timestamp_ms, b.event_id), default=None)
            if row is not None and ttl_ms is not None and row.timestamp_ms < a.timestamp_ms - ttl_ms:
                row = None
            if row is not None or join_type is not INNER:
                out.append((a.timestamp_ms + 1, a.timestamp_ms, a.key, a.event_id, row.event_id if row else ""))
        return sorted(out, key=lambda each: (each[0], each[3]))

    return Case(lambda: LookupJoinFold(join_type, ttl_ms), join, lambda each: each.timestamp_ms + 1, makes_rows=True)


_spans_ms = st.integers(0, 12)
cases = st.one_of(
    st.builds(interval_case, st.sampled_from(JoinType), _spans_ms, _spans_ms),
    st.builds(window_case, st.sampled_from(JoinType)),
    st.builds(lookup_case, st.sampled_from([INNER, JoinType.LEFT]), st.one_of(st.none(), _spans_ms)),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Entry]:
    """Events of both sides in their order; ids say nothing about sides or times."""
    drawn = draw(st.lists(st.tuples(st.sampled_from([LEFT, RIGHT]), st.integers(-8, 25), st.sampled_from(["a", "b", None]))))
    numbers = draw(st.permutations(range(len(drawn))))
    entries = [
        entry(side, t, f"e{number:03}", key, rank=int(side == LEFT))
        for (side, t, key), number in zip(drawn, numbers, strict=True)
    ]
    return sorted(entries)


@given(cases, streams(), st.lists(st.tuples(st.integers(-10, 40), st.booleans())))
def test_joins_agree_with_nested_loops_however_they_are_cut(
    case: Case, entries: list[Entry], cuts: list[tuple[int, bool]]
) -> None:
    fold, tally = case.make(), Tally()
    results: list[Result] = []
    past_ms = -FOREVER
    for horizon_ms, restart in [*sorted(cuts), (FOREVER, False)]:
        chunk = [each for each in entries if past_ms <= each.timestamp_ms < horizon_ms]
        due = fold.run(chunk, horizon_ms, tally)
        assert all(past_ms < each.at_ms <= horizon_ms for each in due)
        results += due
        past_ms = horizon_ms
        held = sum(each.timestamp_ms < horizon_ms < case.held_until_ms(each) for each in entries)
        taken = sum(each.timestamp_ms < horizon_ms for each in entries)
        assert held == taken - tally.released - tally.filtered
        if restart:
            saved = pickle.dumps(fold.save())
            fold = case.make()
            fold.load(pickle.loads(saved))

    lefts, rights = ([each for each in entries if each.side == side] for side in (LEFT, RIGHT))
    expected = case.results(lefts, rights)
    assert [(each.at_ms, each.timestamp_ms, each.key, *each.identity[:2]) for each in results] == expected
    used = {event_id for each in results for event_id in each.identity[:2]}
    if case.makes_rows:
        used |= {each.event_id for each in rights if each.key != b"[null]"}
    assert tally.filtered == sum(each.event_id not in used for each in entries)
    by_id = {each.event_id: each for each in entries}
    for each in results:
        a, b = (by_id.get(event_id) for event_id in each.identity[:2])
        times = (a.timestamp_ms if a else None, b.timestamp_ms if b else None)
        assert each.value == JoinedPair(a.value if a else None, b.value if b else None, *times)
    assert len({(each.key, each.identity) for each in results}) == len(results)


@given(cases, streams())
def test_what_was_saved_is_not_touched_by_what_comes_after(case: Case, entries: list[Entry]) -> None:
    fold = case.make()
    fold.run([each for each in entries if each.timestamp_ms < 7], 7, Tally())
    saved = fold.save()
    before = pickle.dumps(saved)
    rest = [each for each in entries if each.timestamp_ms >= 7]
    once = fold.run(rest, FOREVER, Tally())
    assert pickle.loads(before) == saved
    for _ in range(2):
        fold = case.make()
        fold.load(saved)
        assert fold.run(rest, FOREVER, Tally()) == once
