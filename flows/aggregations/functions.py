"""The functions of an AGGREGATE and their options, as flow files write them."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    boolean,
    fraction,
    integer,
    list_of,
    listed,
    member,
    suggest,
)

DEFAULT_MAX_VALUES: Final = 100_000
DEFAULT_LIMIT: Final = 1000
MAX_MAX_VALUES: Final = 10_000_000
MAX_LIMIT: Final = 100_000
MAX_K: Final = 10_000
MAX_PERCENTILES: Final = 100


class AggregationFunction(StrEnum):
    """How values are summed up. ``count`` counts events, or with a field the events in which it is present."""

    SUM = "sum"
    COUNT = "count"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    FIRST = "first"
    LAST = "last"
    STDDEV = "stddev"
    STDDEV_POP = "stddev_pop"
    VARIANCE = "variance"
    DISTINCT = "distinct"
    APPROX_DISTINCT = "approx_distinct"
    PERCENTILE = "percentile"
    MEDIAN = "median"
    TOP_K = "top_k"
    MOST_FREQUENT = "most_frequent"
    COLLECT = "collect"


class PercentileMethod(StrEnum):
    """How percentiles are found: ``approximate`` with a t-digest, ``exact`` by keeping every value."""

    APPROXIMATE = "approximate"
    EXACT = "exact"


class SortOrder(StrEnum):
    """Which values ``top_k`` gives: the largest first, or the smallest first."""

    DESC = "desc"
    ASC = "asc"


class Aggregation(msgspec.Struct, frozen=True, kw_only=True):
    """One output value: a function over a field of the payload, its options, and the name it is written under.

    ``field`` is None for a bare ``count`` only. An option is None (``percentiles``: empty) where the function does not take it
    or its default holds; of ``percentile`` and ``percentiles``, ``percentile`` has exactly one, ``top_k`` and
    ``most_frequent`` have ``k``.
    """

    function: AggregationFunction
    field: FieldPath | None
    name: str
    percentile: float | None = None
    percentiles: tuple[float, ...] = ()
    method: PercentileMethod | None = None
    max_values: int | None = None
    k: int | None = None
    order: SortOrder | None = None
    limit: int | None = None
    distinct: bool | None = None

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {"function": self.function.value}
        if self.field is not None:
            data["field"] = ".".join(self.field)
        if self.name != default_name(self.function, self.field):
            data["as"] = self.name
        return data | dict(self._given_options())

    def _given_options(self) -> Iterator[tuple[str, object]]:
        for name in OPTIONS:
            value = getattr(self, name)
            if isinstance(value, tuple):
                value = list(value) or None
            if value is not None:
                yield name, value.value if isinstance(value, StrEnum) else value


def default_name(function: AggregationFunction, field: FieldPath | None) -> str:
    """``<function>_<field>``, dots turned into underscores; the bare function without a field."""
    return "_".join((function.value, *(field or ())))


def _share(value: object, path: Path, problems: Problems) -> Any:
    if not isinstance(value, bool) and isinstance(value, (int, float)) and 1 < value <= 100:
        return problems.reject(path, "a number from 0 to 1", value, f"; did you mean {value / 100:g}?")
    return fraction(value, path, problems)


OPTIONS: Final[Table] = {
    "percentile": Field(_share),
    "percentiles": Field(list_of(_share, least=1, most=MAX_PERCENTILES), default=()),
    "method": Field(member(PercentileMethod)),
    "max_values": Field(integer(1, MAX_MAX_VALUES)),
    "k": Field(integer(1, MAX_K)),
    "order": Field(member(SortOrder)),
    "limit": Field(integer(1, MAX_LIMIT)),
    "distinct": Field(boolean),
}
"""The options, with their readers."""

_TAKERS: Final[dict[str, tuple[AggregationFunction, ...]]] = {
    "percentile": (AggregationFunction.PERCENTILE,),
    "percentiles": (AggregationFunction.PERCENTILE,),
    "method": (AggregationFunction.PERCENTILE, AggregationFunction.MEDIAN),
    "max_values": (
        AggregationFunction.DISTINCT,
        AggregationFunction.MOST_FREQUENT,
        AggregationFunction.PERCENTILE,
        AggregationFunction.MEDIAN,
    ),
    "k": (AggregationFunction.TOP_K, AggregationFunction.MOST_FREQUENT),
    "order": (AggregationFunction.TOP_K,),
    "limit": (AggregationFunction.COLLECT,),
    "distinct": (AggregationFunction.COLLECT,),
}


def make_aggregation(values: dict[str, Any], path: Path, field_key: str, problems: Problems) -> Any:
    """The ``Aggregation`` of the values read at ``path``: ``function``, ``field``, ``as`` and the options; or ``BAD``.

    ``field_key`` is the key that the field stands under.
    """
    function, field = AggregationFunction(values["function"]), values["field"]
    given = {name: values[name] for name in OPTIONS if values[name] not in (None, ())}
    before = len(problems.found)
    if field is None and function is not AggregationFunction.COUNT:
        problems.add((*path, field_key), f"required, but missing: {function} needs a field; only count does without")
    for name in given:
        if function not in _TAKERS[name]:
            problems.add((*path, name), f"{function} does not take {name}; {_takers(name)}{_instead(name, function)}")
    if function is AggregationFunction.PERCENTILE:
        if "percentile" in given and "percentiles" in given:
            problems.add((*path, "percentiles"), "expected either percentile or percentiles, got both")
        elif "percentile" not in given and "percentiles" not in given:
            problems.add((*path, "percentile"), "required, but missing: a number from 0 to 1, or a list of them as percentiles")
    if function in _TAKERS["k"] and "k" not in given:
        problems.add((*path, "k"), f"required, but missing: {function} needs the number of values to give")
    if function in _TAKERS["method"] and "max_values" in given and given.get("method") is not PercentileMethod.EXACT:
        problems.add((*path, "max_values"), f"{function} takes max_values with method: exact only")
    if len(problems.found) > before:
        return BAD
    return Aggregation(function=function, field=field, name=values["as"] or default_name(function, field), **given)


def _takers(option: str) -> str:
    takers = [taker.value for taker in _TAKERS[option]]
    return f"only {listed(takers)} {'does' if len(takers) == 1 else 'do'}"


def _instead(option: str, function: AggregationFunction) -> str:
    return suggest(option, [name for name, takers in _TAKERS.items() if function in takers])
