"""The accumulator, and the collecting of whole payloads."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import (
    Aggregation,
    FieldPartial,
    collected,
    field_plans,
    merge,
    payload_plan,
    result,
    summarize,
)
from event_streaming_bus.flows.aggregations import AggregationFunction as F

ITEMS = [
    Aggregation(function=F.SUM, field=("n",), name="sum"),
    Aggregation(function=F.STDDEV, field=("n",), name="stddev"),
    Aggregation(function=F.APPROX_DISTINCT, field=("n",), name="approx"),
    Aggregation(function=F.PERCENTILE, field=("n",), name="p", percentiles=(0.1, 0.9)),
    Aggregation(function=F.LAST, field=("s",), name="last"),
    Aggregation(function=F.COLLECT, field=("s",), name="list", limit=7),
]
PLANS = field_plans(ITEMS)
numbers = st.none() | st.integers(-1000, 1000) | st.floats(-1000, 1000)


def answers(accumulator: Accumulator) -> list[Any]:
    by_field = dict(zip((plan.field for plan in PLANS), accumulator.partials(), strict=True))
    return [accumulator.count, *(result(item, by_field[item.field or ()]) for item in ITEMS)]


def rows_of(values: list[Any]) -> list[tuple[Any, ...]]:
    return [(value, (i // 3, f"e{i:04}", f"s{i % 5}")) for i, value in enumerate(values)]


def accumulated(rows: list[tuple[Any, ...]]) -> Accumulator:
    accumulator = Accumulator(PLANS)
    for row in rows:
        accumulator.add(row)
    return accumulator


@given(st.lists(numbers, max_size=200), st.randoms(use_true_random=False))
def test_adding_one_by_one_gives_what_summing_up_a_column_gives(values: list[Any], random: Any) -> None:
    rows = rows_of(values)
    partials = (
        [summarize(plan, list(column)) for plan, column in zip(PLANS, zip(*rows, strict=True), strict=True)] if rows else []
    )
    by_field = dict(zip((plan.field for plan in PLANS), partials, strict=True)) if rows else {}
    expected = [len(rows), *(result(item, by_field.get(item.field or (), FieldPartial())) for item in ITEMS)]
    random.shuffle(rows)
    assert repr(answers(accumulated(rows))) == repr(expected)


@given(st.lists(numbers, max_size=200), st.integers(0, 200))
def test_one_accumulator_absorbs_another(values: list[Any], at: int) -> None:
    rows = rows_of(values)
    left, right = accumulated(rows[:at]), accumulated(rows[at:])
    left.absorb(right)
    assert repr(answers(left)) == repr(answers(accumulated(rows)))


@given(st.lists(numbers, max_size=200), st.integers(0, 200))
def test_a_saved_accumulator_goes_on_where_it_was(values: list[Any], at: int) -> None:
    rows = rows_of(values)
    saved = pickle.loads(pickle.dumps(accumulated(rows[:at]).save()))
    restored = Accumulator.load(PLANS, saved)
    for row in rows[at:]:
        restored.add(row)
    assert repr(answers(restored)) == repr(answers(accumulated(rows)))


def test_looking_at_partials_does_not_disturb_what_is_added_later() -> None:
    rows = rows_of([float(i) for i in range(150)])
    accumulator = Accumulator(PLANS)
    for row in rows:
        accumulator.add(row)
        answers(accumulator)
    assert answers(accumulator) == answers(accumulated(rows))


def test_an_accumulator_without_plans_counts() -> None:
    accumulator = Accumulator(())
    accumulator.add(())
    accumulator.add(())
    assert (accumulator.count, accumulator.partials()) == (2, [])


def test_whole_payloads_are_collected_as_they_are_and_all_are_counted() -> None:
    plan = payload_plan(3)
    total = FieldPartial()
    merge(total, summarize(plan, [(5, "e", b'{"n": 5}'), (1, "a", b'{"n" :1}')]))
    merge(total, pickle.loads(pickle.dumps(summarize(plan, [(3, "c", b"\x00"), (1, "b", b"{}")]))))
    assert plan.ordered
    assert collected(total) == [b'{"n" :1}', b"{}", b"\x00"]
    assert total.count == 4
    assert collected(FieldPartial()) == []


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_collected_payloads_come_in_event_time_order_and_bounded(limit: int) -> None:
    accumulator = Accumulator([payload_plan(limit)])
    for i in reversed(range(500)):
        accumulator.add(((i, f"e{i}", b"%d" % i),))
    (partial,) = accumulator.partials()
    assert collected(partial) == [b"%d" % i for i in range(500)][:limit]
    assert partial.count == 500
