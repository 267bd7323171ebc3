"""DEDUPLICATE: the first event of a key within a span of time, however the events are cut up and whenever it is restarted."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.folds.base import FOREVER, LEFT, Entry, Result, Tally
from event_streaming_bus.flows.folds.deduplicate import DeduplicateFold
from event_streaming_bus.models import Event


def entry(t: int, key: str, number: int) -> Entry:
    event_id = f"e{number:03}"
    return Entry(t, 0, event_id, LEFT, key.encode(), Event(event_id, "t", t, b"{}"), number)


def passed(*entries: Entry, within_ms: int = 10) -> list[str]:
    return [each.identity[0] for each in DeduplicateFold(within_ms).run(entries, FOREVER, Tally())]


def test_of_equal_keys_within_the_span_the_first_event_passes() -> None:
    assert passed(entry(0, "a", 0), entry(5, "a", 1), entry(5, "b", 2)) == ["e000", "e002"]


def test_the_end_of_the_span_belongs_to_it() -> None:
    assert passed(entry(0, "a", 0), entry(10, "a", 1)) == ["e000"]
    assert passed(entry(0, "a", 0), entry(11, "a", 1)) == ["e000", "e001"]


def test_a_dropped_event_does_not_prolong_the_span() -> None:
    assert passed(entry(0, "a", 0), entry(8, "a", 1), entry(16, "a", 2), entry(24, "a", 3)) == ["e000", "e002"]


def test_a_result_is_the_event_itself_due_right_after_its_time() -> None:
    first = entry(7, "a", 0)
    assert DeduplicateFold(10).run([first], 8, Tally()) == [Result(8, 7, b"a", ("e000",), first.value)]


def test_every_event_is_released_or_filtered_at_once() -> None:
    tally = Tally()
    DeduplicateFold(10).run([entry(0, "a", 0), entry(1, "a", 1), entry(2, "b", 2)], 3, tally)
    assert (tally.released, tally.filtered, tally.dead) == (2, 1, 0)


def test_keys_are_forgotten_when_no_event_can_meet_them_any_more() -> None:
    fold = DeduplicateFold(10)
    fold.run([entry(0, "a", 0), entry(1, "b", 1)], 10, Tally())
    assert fold.save() == [(b"a", 0), (b"b", 1)]
    fold.run([], 11, Tally())
    assert fold.save() == [(b"b", 1)]
    fold.run([], 12, Tally())
    assert fold.save() == []


def test_what_was_passed_on_is_known_after_the_end_of_a_run() -> None:
    fold = DeduplicateFold(10)
    fold.run([entry(0, "a", 0)], FOREVER, Tally())
    assert fold.run([entry(5, "a", 1)], 6, Tally()) == []


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.sampled_from("abc")), max_size=60),
    st.integers(0, 30),
    st.lists(st.integers(-60, 120), max_size=10).map(sorted),
)
def test_it_agrees_with_a_look_at_all_that_passed_before(rows: list[tuple[int, str]], within_ms: int, cuts: list[int]) -> None:
    entries = [entry(t, key, i) for i, (t, key) in enumerate(sorted(rows, key=lambda row: row[0]))]
    expected: list[Entry] = []
    for each in entries:
        if not any(one.key == each.key and each.timestamp_ms - one.timestamp_ms <= within_ms for one in expected):
            expected.append(each)

    fold, tally, found = DeduplicateFold(within_ms), Tally(), []
    before_ms = -FOREVER
    for horizon_ms in [*cuts, FOREVER]:
        due = [each for each in entries if before_ms <= each.timestamp_ms < horizon_ms]
        found += fold.run(due, horizon_ms, tally)
        saved = pickle.loads(pickle.dumps(fold.save()))
        assert horizon_ms == FOREVER or all(t + within_ms >= horizon_ms for _, t in saved)
        fold = DeduplicateFold(within_ms)
        fold.load(saved)
        before_ms = horizon_ms
    assert [result.value for result in found] == [each.value for each in expected]
    assert (tally.released, tally.filtered) == (len(expected), len(entries) - len(expected))
