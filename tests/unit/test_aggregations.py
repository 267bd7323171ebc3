"""Aggregation partials: exact, whatever the order and the cuts."""

import math
import pickle
import statistics
from collections import Counter
from fractions import Fraction
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.flows.aggregations import (
    Aggregation,
    FieldPartial,
    FieldPlan,
    PercentileMethod,
    SortOrder,
    expansion,
    field_plans,
    merge,
    result,
    summarize,
)
from event_streaming_bus.flows.aggregations import AggregationFunction as F

numbers = st.one_of(
    st.integers(min_value=-(10**18), max_value=10**18),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=3)
json_values = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2.0]) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
randoms = st.randoms(use_true_random=False)


def aggregation(function: F, **options: Any) -> Aggregation:
    return Aggregation(function=function, field=("x",), name="y", **options)


BASIC = [aggregation(f) for f in (F.SUM, F.AVG, F.MIN, F.MAX, F.COUNT)]
ON_NUMBERS = [
    *BASIC,
    *(aggregation(f) for f in (F.STDDEV, F.STDDEV_POP, F.VARIANCE, F.DISTINCT, F.APPROX_DISTINCT, F.MEDIAN)),
    aggregation(F.PERCENTILE, percentiles=(0.0, 0.1, 0.95, 1.0)),
    aggregation(F.PERCENTILE, percentile=0.3, method=PercentileMethod.EXACT),
    aggregation(F.TOP_K, k=3),
    aggregation(F.TOP_K, k=2, order=SortOrder.ASC),
    aggregation(F.MOST_FREQUENT, k=2),
]
IN_ORDER = [
    aggregation(F.COUNT),
    aggregation(F.FIRST),
    aggregation(F.LAST),
    aggregation(F.COLLECT),
    aggregation(F.COLLECT, limit=3),
    aggregation(F.COLLECT, limit=2, distinct=True),
    aggregation(F.DISTINCT),
    aggregation(F.DISTINCT, max_values=1000),
    aggregation(F.MOST_FREQUENT, k=3),
]


def plan_of(*aggregations: Aggregation) -> FieldPlan:
    (plan,) = field_plans(aggregations)
    return plan


def merged(plan: FieldPlan, *parts: list[Any]) -> FieldPartial:
    total = FieldPartial()
    for part in parts:
        merge(total, pickle.loads(pickle.dumps(summarize(plan, part))))
    return total


def answer(item: Aggregation, *parts: list[Any]) -> Any:
    return result(item, merged(plan_of(item), *parts))


def cut(values: list[Any], random: Any) -> list[list[Any]]:
    """``values`` in another order, cut into some parts."""
    shuffled = values[:]
    random.shuffle(shuffled)
    parts: list[list[Any]] = [[] for _ in range(random.randint(1, 5))]
    for value in shuffled:
        random.choice(parts).append(value)
    return parts


def entries(values: list[Any], random: Any) -> list[tuple[int, str, Any]]:
    """The values as entries, in an order of their own; some share a timestamp."""
    return [(random.randint(0, 3), f"e{i:03}", value) for i, value in enumerate(values)]


# --- whatever the order ------------------------------------------------------------------------------------------------


@given(st.lists(numbers, max_size=60), randoms)
def test_every_order_and_every_cut_gives_the_same_answers(values: list[Any], random: Any) -> None:
    plan = plan_of(*ON_NUMBERS)
    whole, pieces = merged(plan, values), merged(plan, *cut(values, random))
    for item in ON_NUMBERS:
        assert repr(result(item, whole)) == repr(result(item, pieces)), item


@given(st.lists(st.none() | json_values, max_size=40), randoms)
def test_every_order_and_every_cut_gives_the_same_lists_and_edges(values: list[Any], random: Any) -> None:
    plan = plan_of(*IN_ORDER)
    placed = entries(values, random)
    whole, pieces = merged(plan, placed), merged(plan, *cut(placed, random))
    for item in IN_ORDER:
        assert repr(result(item, whole)) == repr(result(item, pieces)), item


@given(st.lists(st.one_of(numbers, texts), max_size=40), randoms)
def test_numbers_and_text_together_have_the_same_ranking_in_every_order(values: list[Any], random: Any) -> None:
    for item in (aggregation(F.TOP_K, k=4), aggregation(F.TOP_K, k=4, order=SortOrder.ASC), aggregation(F.MAX)):
        assert repr(answer(item, values)) == repr(answer(item, *cut(values, random)))


@pytest.mark.parametrize("item", [aggregation(F.APPROX_DISTINCT), aggregation(F.DISTINCT), aggregation(F.STDDEV)], ids=str)
def test_many_values_give_the_same_answer_in_every_order(item: Aggregation) -> None:
    values = [i * 0.37 for i in range(20_000)]
    whole = answer(item, values)
    assert whole == answer(item, values[::-1])
    assert whole == answer(item, values[::2], values[1::2])
    assert whole == answer(item, *(values[i : i + 64] for i in range(0, len(values), 64)))


def test_merging_leaves_the_other_partial_as_it_is() -> None:
    plan = plan_of(*ON_NUMBERS)
    pane = summarize(plan, [1, 2.5, 3])
    before = [result(item, pane) for item in ON_NUMBERS]
    for _ in range(2):
        window = FieldPartial()
        merge(window, pane)
        merge(window, summarize(plan, [40, 50]))
    assert [result(item, pane) for item in ON_NUMBERS] == before


# --- sums and extremes --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150), min_size=1))
def test_the_sum_of_floats_is_the_exact_sum_correctly_rounded(values: list[float]) -> None:
    assert answer(aggregation(F.SUM), values) == math.fsum(values)
    assert sum(map(Fraction, expansion(values))) == sum(map(Fraction, values))


def test_integers_are_added_without_bounds() -> None:
    assert answer(aggregation(F.SUM), [2**62] * 9, [1]) == 9 * 2**62 + 1


@pytest.mark.parametrize("parts", [(), ([], []), ([None], [None, None])], ids=["nothing", "empty", "nulls"])
def test_a_field_without_values_gives_null_a_count_of_zero_or_an_empty_list(parts: tuple[list[Any], ...]) -> None:
    total = merged(plan_of(*ON_NUMBERS), *parts)
    for item in ON_NUMBERS:
        counts, lists = {F.COUNT, F.DISTINCT, F.APPROX_DISTINCT}, {F.TOP_K, F.MOST_FREQUENT, F.COLLECT}
        assert result(item, total) == (0 if item.function in counts else [] if item.function in lists else None)


def test_text_has_extremes_and_orders_after_numbers() -> None:
    assert answer(aggregation(F.MIN), ["b", 7], ["a", 3]) == 3
    assert answer(aggregation(F.MAX), ["b", 7], ["a", 3]) == "b"
    assert answer(aggregation(F.MIN), ["b"], ["a"]) == "a"


@pytest.mark.parametrize("order", [[10, 10.0], [10.0, 10]])
def test_the_type_of_an_extreme_does_not_depend_on_which_equal_value_came_first(order: list[Any]) -> None:
    assert repr(answer(aggregation(F.MAX), order[:1], order[1:])) == "10.0"


@pytest.mark.parametrize("order", [[0.0, -0.0], [-0.0, 0.0]])
def test_the_sign_of_zero_does_not_depend_on_which_zero_came_first(order: list[Any]) -> None:
    for item in (aggregation(F.MAX), aggregation(F.MIN), aggregation(F.TOP_K, k=1), aggregation(F.MEDIAN)):
        assert repr(answer(item, order[:1], order[1:])).strip("[]") == "0.0"


def test_a_sum_beyond_the_range_of_floats_is_infinite_instead_of_an_error() -> None:
    assert answer(aggregation(F.SUM), [1.7e308, 1.7e308]) == math.inf
    assert answer(aggregation(F.AVG), [10**400], [10**400]) == math.inf


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_values_of_a_map_are_no_error(value: float) -> None:
    for item in ON_NUMBERS:
        answer(item, [1.0, value], [2.0, -value])


# --- variance -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(-(10**30), 10**30), floats), min_size=1, max_size=30))
def test_variance_and_deviation_are_exact_and_correctly_rounded(values: list[Any]) -> None:
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    squares = sum((value - mean) ** 2 for value in exact)
    half = len(values) // 2
    for function, divisor in ((F.STDDEV, len(values) - 1), (F.STDDEV_POP, len(values)), (F.VARIANCE, len(values) - 1)):
        found = answer(aggregation(function), values[:half], values[half:])
        if not divisor:
            assert found is None
        elif function is F.VARIANCE:
            assert found == _nearest_float(squares / divisor)
        else:
            assert_is_rounded_root(found, squares / divisor)


def _nearest_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def assert_is_rounded_root(found: float, square: Fraction) -> None:
    """No float is nearer to the root: it lies between the midpoints to the neighbours."""
    if math.isinf(found):
        assert square >= Fraction(math.nextafter(math.inf, 0.0)) ** 2
        return
    below, above = math.nextafter(found, 0.0), math.nextafter(found, math.inf)
    assert ((Fraction(found) + Fraction(below)) / 2) ** 2 <= square
    assert math.isinf(above) or square <= ((Fraction(found) + Fraction(above)) / 2) ** 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_the_deviation_agrees_with_pythons_statistics(values: list[float]) -> None:
    assert answer(aggregation(F.STDDEV), values) == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-12)
    assert answer(aggregation(F.STDDEV_POP), values) == pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-12)


def test_small_differences_of_large_numbers_are_not_lost() -> None:
    assert answer(aggregation(F.VARIANCE), [1e15 + 1, 1e15 + 2], [1e15 + 3]) == 1.0
    assert answer(aggregation(F.VARIANCE), [0.1] * 7, [0.1] * 6) == 0.0


def test_one_value_has_no_sample_deviation() -> None:
    assert answer(aggregation(F.STDDEV), [5]) is None
    assert answer(aggregation(F.STDDEV_POP), [5]) == 0.0


# --- distinct -----------------------------------------------------------------------------------------------------------


def same_json(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
    return type(left) not in (list, dict) and type(right) not in (list, dict) and left == right


@given(st.lists(json_values, max_size=30))
def test_distinct_counts_json_values(values: list[Any]) -> None:
    seen: list[Any] = []
    for value in values:
        if not any(same_json(value, other) for other in seen):
            seen.append(value)
    assert answer(aggregation(F.DISTINCT), values) == len(seen)
    assert answer(aggregation(F.APPROX_DISTINCT), values) == len(seen)


def test_numbers_that_are_equal_are_one_value_and_true_is_another() -> None:
    assert answer(aggregation(F.DISTINCT), [1, 1.0, True, "1", "true", "", [1], [1.0], [True]]) == 6 + 1
    assert answer(aggregation(F.APPROX_DISTINCT), [1, 1.0, True, "1", "true", "", [1], [1.0], [True]]) == 6 + 1


def test_long_values_are_told_apart() -> None:
    text = "x" * 1000
    assert answer(aggregation(F.DISTINCT), [text + "a", text + "b", text + "a"], [[text], [text], {"a": text}]) == 4


def test_too_many_distinct_values_are_an_error_that_names_the_way_out() -> None:
    item = aggregation(F.DISTINCT, max_values=3)
    assert answer(item, [1, 2], [3, 1]) == 3
    with pytest.raises(ValueError, match=r"distinct met more than 3 distinct values .* use approx_distinct, or raise max_values"):
        answer(item, [1, 2], [3, 4])


@pytest.mark.parametrize("count", [10, 300, 5_000, 200_000])
def test_the_estimate_of_distinct_values_is_as_near_as_promised_and_as_duckdbs(count: int) -> None:
    values = [f"user-{i}" for i in range(count)]
    found = answer(aggregation(F.APPROX_DISTINCT), values, values[: count // 2])
    assert found == pytest.approx(count, rel=0.05)
    assert found == count or count > 300
    (theirs,) = duckdb.execute(f"select approx_count_distinct('user-' || i) from range({count}) as t(i)").fetchone() or (0,)
    assert abs(found - count) <= max(abs(theirs - count), 0.05 * count)


@given(st.lists(st.sampled_from(["a", "b", 1, 2.5, True]), max_size=30))
def test_the_most_frequent_values_are_those_that_occur_most(values: list[Any]) -> None:
    counts = Counter((type(value), value) for value in values)
    found = answer(aggregation(F.MOST_FREQUENT, k=2), values)
    assert [item["count"] for item in found] == [count for _, count in counts.most_common(2)]
    assert all(counts[type(item["value"]), item["value"]] == item["count"] for item in found)


def test_of_equally_frequent_values_numbers_come_first() -> None:
    values = [{"b": 1, "a": 2.0}, "b", "a", 2, 1.5, {"a": 2, "b": 1}]
    found = answer(aggregation(F.MOST_FREQUENT, k=4), values)
    assert [item["value"] for item in found] == [{"a": 2, "b": 1}, 1.5, 2, "a"]


# --- percentiles --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=100), st.floats(0, 1))
def test_percentiles_of_few_values_are_those_of_duckdb(values: list[float], share: float) -> None:
    query = f"select quantile_cont(x, {share!r}::double) from (select unnest($1::double[]) as x)"
    (theirs,) = duckdb.execute(query, [values]).fetchone() or (None,)
    for method in PercentileMethod:
        found = answer(aggregation(F.PERCENTILE, percentile=share, method=method), values)
        assert found == pytest.approx(theirs, rel=1e-9, abs=1e-6)


def test_the_median_agrees_with_pythons() -> None:
    assert answer(aggregation(F.MEDIAN), [5, 1], [4, 2]) == statistics.median([5, 1, 4, 2])


@pytest.mark.parametrize("shape", ["uniform", "skewed", "sorted", "repeated"])
@pytest.mark.parametrize("part", [64, 1000, 8192])
def test_approximate_percentiles_of_many_values_are_near_in_rank(shape: str, part: int) -> None:
    values = [(i * 7919 % 100_003) / 100_003 for i in range(100_000)]
    if shape == "skewed":
        values = [math.exp(10 * value) for value in values]
    elif shape == "sorted":
        values.sort()
    elif shape == "repeated":
        values = [round(value * 20) for value in values]
    item = aggregation(F.PERCENTILE, percentiles=(0.01, 0.25, 0.5, 0.95, 0.99))
    found = answer(item, *(values[i : i + part] for i in range(0, len(values), part)))
    for share, value in zip(item.percentiles, found, strict=True):
        allowed = 0.02 if 0.1 < share < 0.9 else 0.005
        below = sum(v < value - 0.6 * (shape == "repeated") for v in values) / len(values)
        upto = sum(v <= value + 0.6 * (shape == "repeated") for v in values) / len(values)
        assert below - allowed <= share <= upto + allowed


def test_approximate_percentiles_depend_on_order_alone() -> None:
    values = [math.sin(i) * i for i in range(30_000)]
    item = aggregation(F.PERCENTILE, percentiles=(0.01, 0.5, 0.99))
    whole = answer(item, values)
    assert whole == answer(item, *(values[i : i + 64] for i in range(0, len(values), 64)))
    assert whole == answer(item, *(values[i : i + 777] for i in range(0, len(values), 777)))


def test_a_digest_that_was_pickled_goes_on_like_one_that_was_not() -> None:
    item = aggregation(F.MEDIAN)
    plan = plan_of(item)
    values = [math.sin(i) * i for i in range(20_000)]
    kept, restored = FieldPartial(), FieldPartial()
    for at in range(0, len(values), 300):
        merge(kept, summarize(plan, values[at : at + 300]))
        restored = pickle.loads(pickle.dumps(restored))
        merge(restored, summarize(plan, values[at : at + 300]))
        result(item, restored)
    assert result(item, kept) == result(item, restored)


def test_too_many_values_for_an_exact_percentile_are_an_error_that_names_the_way_out() -> None:
    item = aggregation(F.MEDIAN, method=PercentileMethod.EXACT, max_values=4)
    assert answer(item, [1, 2], [3, 4]) == 2.5
    with pytest.raises(ValueError, match=r"an exact percentile met more than 4 values .* use method: approximate, or raise"):
        answer(item, [1, 2, 3], [4, 5])


# --- order and rank -----------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | json_values, max_size=30), randoms)
def test_first_last_and_collect_go_by_event_time_then_event_id(values: list[Any], random: Any) -> None:
    placed = entries(values, random)
    in_order = [value for _, _, value in sorted(placed, key=lambda e: e[:2]) if value is not None]
    parts = cut(placed, random)
    assert repr(answer(aggregation(F.FIRST), *parts)) == repr(in_order[0] if in_order else None)
    assert repr(answer(aggregation(F.LAST), *parts)) == repr(in_order[-1] if in_order else None)
    assert repr(answer(aggregation(F.COLLECT), *parts)) == repr(in_order)
    assert repr(answer(aggregation(F.COLLECT, limit=4), *parts)) == repr(in_order[:4])
    unique = [v for i, v in enumerate(in_order) if not any(same_json(v, other) for other in in_order[:i])]
    assert repr(answer(aggregation(F.COLLECT, limit=3, distinct=True), *parts)) == repr(unique[:3])


@pytest.mark.parametrize("distinct", [False, True])
def test_a_bounded_list_stays_small_and_keeps_the_first(distinct: bool) -> None:
    item = aggregation(F.COLLECT, limit=5, distinct=distinct)
    total = FieldPartial()
    for at in range(10_000, 0, -100):
        merge(total, summarize(plan_of(item), [(i, "e", i) for i in range(at, at - 100, -1)]))
    assert result(item, total) == [1, 2, 3, 4, 5]
    assert len(pickle.dumps(total)) < 5_000


@given(st.lists(numbers, max_size=40), st.integers(1, 10))
def test_top_k_gives_the_largest_or_the_smallest_as_often_as_they_occur(values: list[Any], k: int) -> None:
    half = len(values) // 2
    assert answer(aggregation(F.TOP_K, k=k), values[:half], values[half:]) == sorted(values, reverse=True)[:k]
    smallest = aggregation(F.TOP_K, k=k, order=SortOrder.ASC)
    assert answer(smallest, values[:half], values[half:]) == sorted(values)[:k]


# --- several functions of one field -------------------------------------------------------------------------------------


def test_one_field_has_one_plan_for_all_its_functions() -> None:
    items = [aggregation(F.LAST), aggregation(F.SUM), aggregation(F.MEDIAN), aggregation(F.STDDEV), aggregation(F.VARIANCE)]
    plan = plan_of(*items)
    assert plan.ordered
    assert plan.accepted == {int, float, type(None)}
    assert len(plan.needs) == 3
    total = merged(plan, [(2, "b", 30), (1, "a", None)], [(1, "c", 10.5)])
    assert [result(item, total) for item in items[:3]] == [30, 40.5, 20.25]


def test_a_plan_accepts_what_all_functions_of_its_field_accept() -> None:
    assert bool in plan_of(aggregation(F.COLLECT)).accepted
    assert plan_of(aggregation(F.COLLECT), aggregation(F.TOP_K, k=1)).accepted == {int, float, str, type(None)}
    assert not plan_of(aggregation(F.DISTINCT), aggregation(F.MIN)).ordered


def test_a_bare_count_needs_no_plan() -> None:
    assert field_plans([Aggregation(function=F.COUNT, field=None, name="count")]) == ()
