"""Aggregation partials: exact, whatever the order and the cuts."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.aggregations import FieldPartial, FieldPlan, expansion, merge, result, summarize
from event_streaming_bus.flows.processors.aggregate import AggregationFunction as F

PLAN = FieldPlan(("x",), summed=True, extremes=True)
numbers = st.one_of(
    st.integers(min_value=-(10**18), max_value=10**18),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150),
)


def merged(*parts: list[Any]) -> FieldPartial:
    total = FieldPartial()
    for part in parts:
        merge(total, summarize(PLAN, part))
    return total


@given(st.lists(numbers, max_size=60), st.randoms(use_true_random=False))
def test_every_order_and_every_cut_gives_the_same_answers(values: list[Any], random: Any) -> None:
    shuffled = values[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(values))
    whole, pieces = merged(values), merged(shuffled[:cut], shuffled[cut:])
    for function in (F.SUM, F.AVG, F.MIN, F.MAX, F.COUNT):
        assert repr(result(function, whole)) == repr(result(function, pieces))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150), min_size=1))
def test_the_sum_of_floats_is_the_exact_sum_correctly_rounded(values: list[float]) -> None:
    assert result(F.SUM, merged(values)) == math.fsum(values)
    assert sum(map(Fraction, expansion(values))) == sum(map(Fraction, values))


def test_integers_are_added_without_bounds() -> None:
    assert result(F.SUM, merged([2**62] * 9, [1])) == 9 * 2**62 + 1


def test_a_field_without_values_gives_null_and_a_count_of_zero() -> None:
    empty = merged([], [])
    assert [result(f, empty) for f in (F.SUM, F.AVG, F.MIN, F.MAX)] == [None] * 4
    assert result(F.COUNT, empty) == 0


def test_text_has_extremes_and_orders_after_numbers() -> None:
    both = merged(["b", 7], ["a", 3])
    assert (result(F.MIN, both), result(F.MAX, both)) == (3, "b")
    assert result(F.MIN, merged(["b"], ["a"])) == "a"


@pytest.mark.parametrize("order", [[10, 10.0], [10.0, 10]])
def test_the_type_of_an_extreme_does_not_depend_on_which_equal_value_came_first(order: list[Any]) -> None:
    assert repr(result(F.MAX, merged(order[:1], order[1:]))) == "10.0"


def test_a_sum_beyond_the_range_of_floats_is_infinite_instead_of_an_error() -> None:
    assert result(F.SUM, merged([1.7e308, 1.7e308])) == math.inf
