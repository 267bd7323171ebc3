"""Sums that do not depend on order: what an AGGREGATE keeps of one field in one window of one key.

A stream may be read in any interleaving, split over workers and replayed, so every merge here is exact. Integers are added as
Python integers. Floats are kept as a short list of floats whose exact sum is the exact sum of all values: ``math.fsum``
rounds correctly, so subtracting its result leaves the exact remainder, which is summed the same way until nothing is left
(the expansions of J. R. Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997). The sum given out is their
correctly rounded total.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.processors.aggregate import Aggregation, AggregationFunction

Number: TypeAlias = int | float
Ordered: TypeAlias = int | float | str

NUMBERS: Final[frozenset[type]] = frozenset({int, float, type(None)})
ORDERED: Final[frozenset[type]] = frozenset({int, float, str, type(None)})
_MAX_PARTS: Final = 64
_COMPACT_AT: Final = 16


class FieldPlan(msgspec.Struct, frozen=True):
    """What is kept of one field: whether it is summed, and whether its extremes are asked for."""

    field: FieldPath
    summed: bool
    extremes: bool

    @property
    def accepted(self) -> frozenset[type]:
        """The JSON types that the field may have; null counts as missing."""
        return NUMBERS if self.summed else ORDERED if self.extremes else ANYTHING


ANYTHING: Final[frozenset[type]] = frozenset({int, float, str, bool, list, dict, type(None)})


def field_plans(aggregations: Sequence[Aggregation]) -> tuple[FieldPlan, ...]:
    """One plan for each field that is aggregated, in order of appearance; a bare count needs none."""
    functions: dict[FieldPath, set[AggregationFunction]] = {}
    for item in aggregations:
        if item.field is not None:
            functions.setdefault(item.field, set()).add(item.function)
    summing, extreme = {AggregationFunction.SUM, AggregationFunction.AVG}, {AggregationFunction.MIN, AggregationFunction.MAX}
    return tuple(FieldPlan(field, bool(used & summing), bool(used & extreme)) for field, used in functions.items())


class FieldPartial(msgspec.Struct, array_like=True):
    """What is kept of one field: of how many values, their exact sum in two parts, and their extremes by type.

    ``has_floats`` makes the type of the result independent of which of two equal values came first.
    """

    count: int = 0
    integers: int = 0
    floats: list[float] = []
    has_floats: bool = False
    low_number: Number | None = None
    high_number: Number | None = None
    low_text: str | None = None
    high_text: str | None = None


def summarize(plan: FieldPlan, values: list[Any]) -> FieldPartial:
    """The partial of ``values``, all of ``plan.accepted`` types; nulls do not count."""
    kinds = set(map(type, values))
    if type(None) in kinds:
        values = [v for v in values if v is not None]
        kinds.remove(type(None))
    partial = FieldPartial(count=len(values))
    if not values or not (plan.summed or plan.extremes):
        return partial
    numbers = values
    if str in kinds:
        texts = [v for v in values if v.__class__ is str]
        partial.low_text, partial.high_text = min(texts), max(texts)
        numbers = [v for v in values if v.__class__ is not str]
    if not numbers:
        return partial
    partial.has_floats = float in kinds
    if plan.summed:
        if kinds == {int}:
            partial.integers = sum(numbers)
        else:
            partial.integers = sum(v for v in numbers if v.__class__ is int)
            partial.floats = expansion([v for v in numbers if v.__class__ is float])
    if plan.extremes:
        partial.low_number, partial.high_number = min(numbers), max(numbers)
    return partial


def merge(into: FieldPartial, other: FieldPartial) -> None:
    """Add ``other`` to ``into``."""
    into.count += other.count
    into.integers += other.integers
    into.has_floats = into.has_floats or other.has_floats
    if other.floats:
        floats = into.floats + other.floats
        into.floats = expansion(floats) if len(floats) > _COMPACT_AT else floats
    if other.low_number is not None and other.high_number is not None:
        into.low_number = other.low_number if into.low_number is None else min(into.low_number, other.low_number)
        into.high_number = other.high_number if into.high_number is None else max(into.high_number, other.high_number)
    if other.low_text is not None and other.high_text is not None:
        into.low_text = other.low_text if into.low_text is None else min(into.low_text, other.low_text)
        into.high_text = other.high_text if into.high_text is None else max(into.high_text, other.high_text)


def expansion(values: list[float]) -> list[float]:
    """Few floats with the same exact sum as ``values``. Sums beyond the range of floats become a single infinity."""
    parts: list[float] = []
    try:
        rest = values
        while len(parts) < _MAX_PARTS:
            part = math.fsum(rest)
            if part == 0.0:
                return parts
            parts.append(part)
            rest = [*rest, -part]
    except OverflowError:
        return [sum(values)]
    return parts


def result(function: AggregationFunction, partial: FieldPartial) -> Ordered | None:
    """The value given out; null where there was no value. Numbers order before text."""
    if function is AggregationFunction.COUNT:
        return partial.count
    if function is AggregationFunction.MIN:
        return _number(partial, partial.low_number) if partial.low_number is not None else partial.low_text
    if function is AggregationFunction.MAX:
        return partial.high_text if partial.high_text is not None else _number(partial, partial.high_number)
    if not partial.count:
        return None
    total = _total(partial)
    return total if function is AggregationFunction.SUM else total / partial.count


def _total(partial: FieldPartial) -> Number:
    if not partial.has_floats:
        return partial.integers
    try:
        return math.fsum([*partial.floats, *_as_floats(partial.integers)])
    except OverflowError:
        return sum(partial.floats) + partial.integers


def _as_floats(integer: int) -> list[float]:
    """Floats with the exact sum ``integer``."""
    parts = []
    while integer:
        part = float(integer)
        parts.append(part)
        integer -= int(part)
    return parts


def _number(partial: FieldPartial, value: Number | None) -> Number | None:
    return float(value) if value is not None and partial.has_floats else value
