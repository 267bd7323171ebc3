"""The ``processing_logic`` of an AGGREGATE: functions, their options, and ``having``."""

import json
from typing import Any

import pytest

from event_streaming_bus.flows.aggregations import Aggregation, AggregationFunction, PercentileMethod, SortOrder
from event_streaming_bus.flows.checker import BAD, Problems, format_path
from event_streaming_bus.flows.processors.aggregate import AggregateLogic, read_logic


def logic_of(**data: Any) -> AggregateLogic:
    problems = Problems()
    logic = read_logic(data, ("p", "processing_logic"), problems)
    assert not problems.found
    assert isinstance(logic, AggregateLogic)
    return logic


def the_aggregation(function: str, **options: Any) -> Aggregation:
    (item,) = logic_of(aggregations=[{"function": function, "field": "x", **options}]).aggregations
    return item


def problems_of(**data: Any) -> list[str]:
    problems = Problems()
    assert read_logic(data, ("p",), problems) is BAD
    return [f"{format_path(path)}: {message}" for path, message in problems.found]


GOOD: list[dict[str, Any]] = [
    {"function": "percentile", "percentile": 0.95},
    {"function": "percentile", "percentile": 0},
    {"function": "percentile", "percentiles": [0.5, 1], "method": "approximate"},
    {"function": "percentile", "percentile": 0.5, "method": "exact", "max_values": 10},
    {"function": "median", "method": "exact"},
    {"function": "distinct", "max_values": 5},
    {"function": "approx_distinct"},
    {"function": "top_k", "k": 3, "order": "asc"},
    {"function": "most_frequent", "k": 3, "max_values": 7},
    {"function": "collect", "limit": 10, "distinct": True},
    {"function": "collect", "distinct": False, "as": "all"},
    *({"function": name} for name in ("first", "last", "stddev", "stddev_pop", "variance")),
]


@pytest.mark.parametrize("data", GOOD, ids=lambda data: "-".join(map(str, data.values())))
@pytest.mark.parametrize("short", [False, True])
def test_options_written_as_data_and_read_again_are_equal(data: dict[str, Any], short: bool) -> None:
    if short:
        written = {"aggregation_function": data["function"], "aggregation_field": "a.b"} | data
        del written["function"]
    else:
        written = {"aggregations": [{"field": "a.b"} | data, {"function": "count"}]}
    logic = logic_of(**written, group_by=["g"], having="g != null")
    again = logic.to_data()
    assert again == written | {"group_by": ["g"], "having": "g != null"}
    assert logic_of(**json.loads(json.dumps(again))) == logic


def test_every_function_can_be_read_and_written() -> None:
    assert {data["function"] for data in GOOD} | {"sum", "count", "avg", "min", "max"} == set(AggregationFunction)


def test_options_become_what_they_name() -> None:
    assert the_aggregation("top_k", k=2, order="asc").order is SortOrder.ASC
    item = the_aggregation("percentile", percentiles=[0, 0.5], method="exact")
    assert (item.percentiles, item.percentile, item.method) == ((0.0, 0.5), None, PercentileMethod.EXACT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"function": "sum", "k": 3}, "k: sum does not take k; only top_k and most_frequent do"),
        ({"function": "first", "limit": 3}, "limit: first does not take limit; only collect does"),
        ({"function": "median", "percentile": 0.3}, "percentile: median does not take percentile; only percentile does"),
        ({"function": "sum", "max_values": 3}, "max_values: sum does not take max_values; only distinct, most_frequent, "),
        ({"function": "top_k"}, "k: required, but missing: top_k needs the number of values to give"),
        ({"function": "top_k", "k": 0}, "k: expected an integer from 1 to 10000, got 0"),
        ({"function": "percentile"}, "percentile: required, but missing: a number from 0 to 1, or a list of them as percentiles"),
        ({"function": "percentile", "percentile": 95}, "percentile: expected a number from 0 to 1, got 95; did you mean 0.95?"),
        ({"function": "percentile", "percentile": True}, "percentile: expected a number from 0 to 1, got true"),
        ({"function": "percentile", "percentile": float("nan")}, "percentile: expected a number from 0 to 1, got nan"),
        ({"function": "percentile", "percentiles": [0.5, 1.5]}, "percentiles[1]: expected a number from 0 to 1, got 1.5"),
        ({"function": "percentile", "percentiles": []}, "percentiles: expected a list of 1 to 100 items, got 0"),
        (
            {"function": "percentile", "percentile": 0.5, "percentiles": [0.5]},
            "percentiles: expected either percentile or percentiles, got both",
        ),
        ({"function": "median", "max_values": 3}, "max_values: median takes max_values with method: exact only"),
        ({"function": "median", "method": "exakt"}, "method: expected one of approximate, exact, got 'exakt'; did you mean"),
        ({"function": "collect", "distinct": "yes"}, "distinct: expected true or false, got 'yes'"),
        ({"function": "collect", "limit": 1_000_000}, "limit: expected an integer from 1 to 100000, got 1000000"),
        ({"function": "collect", "field": None}, "field: required, but missing: collect needs a field; only count does without"),
        ({"function": "averge"}, "function: expected one of sum, count, avg, "),
    ],
)
def test_a_bad_option_is_told_with_what_takes_it(options: dict[str, Any], expected: str) -> None:
    (told,) = problems_of(aggregations=[{"field": "x"} | options])
    assert told.startswith(f"p.aggregations[0].{expected}")


def test_options_of_the_short_form_are_told_where_they_stand() -> None:
    assert problems_of(aggregation_function="sum", aggregation_field="x", limit=3) == [
        "p.limit: sum does not take limit; only collect does"
    ]
    (told,) = problems_of(aggregations=[{"function": "count"}], k=3)
    assert told == "p: expected either aggregations or k, got both"


def test_all_problems_of_an_aggregation_are_told_at_once() -> None:
    assert len(problems_of(aggregations=[{"function": "percentile", "k": 3, "limit": 2}])) == 4


# --- having -------------------------------------------------------------------------------------------------------------

REVENUE = [{"function": "sum", "field": "total", "as": "revenue"}, {"function": "count"}]


def test_having_is_an_expression_over_the_output() -> None:
    logic = logic_of(aggregations=REVENUE, group_by=["address.country"], having="revenue > 100 and count >= 2")
    assert logic.having is not None
    holds = logic.having.compile()
    assert holds({"address_country": "SE", "revenue": 100.5, "count": 2})
    assert not holds({"address_country": "SE", "revenue": 100.5, "count": 1})


@pytest.mark.parametrize(
    "having",
    [
        "address_country == 'SE'",
        "window_start >= '2024'",
        "is_final",
        "revision > 1 and window_end != null",
        True,
        "len(revenue)",
    ],
)
def test_having_knows_all_output_fields(having: object) -> None:
    assert logic_of(aggregations=REVENUE, group_by=["address.country"], having=having).having is not None


def test_a_name_in_having_that_is_no_output_field_is_told_with_the_nearest() -> None:
    assert problems_of(aggregations=REVENUE, group_by=["country"], having="revenu > 100") == [
        "p.having: revenu is no output field; did you mean 'revenue'? "
        "(output fields: country, window_start, window_end, revenue, count)"
    ]
    (told,) = problems_of(aggregation_function="sum", aggregation_field="total", having="payload.total > 100")
    assert told.startswith("p.having: payload is no output field (output fields: window_start,")


def test_a_having_that_does_not_parse_is_told() -> None:
    (told,) = problems_of(aggregations=REVENUE, having="revenue >")
    assert told.startswith("p.having: does not parse")
