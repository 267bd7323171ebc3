"""The partial: what is kept of one field in one window of one key, and how partials are made and merged."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.aggregations.kept import Kept, Need
from event_streaming_bus.flows.aggregations.plan import FieldPlan
from event_streaming_bus.flows.aggregations.sums import Number, expansion

_COMPACT_AT: Final = 16
_INTEGERS: Final[set[type]] = {int}


class FieldPartial(msgspec.Struct, array_like=True, gc=False):
    """What is kept of one field: of how many values, their exact sum in two parts, and their extremes by type.

    ``has_floats`` makes the type of the result independent of which of two equal values came first. ``kept`` has the states
    of the functions that need more; it is None as long as there was no value.
    """

    count: int = 0
    integers: int = 0
    floats: list[float] = []
    has_floats: bool = False
    low_number: Number | None = None
    high_number: Number | None = None
    low_text: str | None = None
    high_text: str | None = None
    kept: dict[Need, Kept] | None = None


def summarize(plan: FieldPlan, values: Sequence[Any]) -> FieldPartial:
    """The partial of ``values``, all of ``plan.accepted`` types, or of entries with such values where the plan is ordered.
    Nulls do not count."""
    if plan.needs:
        return _summarize_with_needs(plan, values)
    kinds = set(map(type, values))
    if kinds == _INTEGERS and not plan.extremes:
        return FieldPartial(len(values), sum(values) if plan.summed else 0)
    if type(None) in kinds:
        values = [v for v in values if v is not None]
        kinds.remove(type(None))
    partial = FieldPartial(count=len(values))
    if values and (plan.summed or plan.extremes):
        _summarize_numbers(plan, values, kinds, partial)
    return partial


def summarize_all(plans: Sequence[FieldPlan], columns: Iterable[Sequence[Any]]) -> list[FieldPartial]:
    """The partial of each plan, of its column of values."""
    return [summarize(plan, column) for plan, column in zip(plans, columns, strict=True)]


def _summarize_numbers(plan: FieldPlan, values: Sequence[Any], kinds: set[type], partial: FieldPartial) -> None:
    numbers = values
    if str in kinds:
        texts = [v for v in values if v.__class__ is str]
        partial.low_text, partial.high_text = min(texts), max(texts)
        numbers = [v for v in values if v.__class__ is not str]
    if not numbers:
        return
    partial.has_floats = float in kinds
    if plan.summed:
        if kinds == {int}:
            partial.integers = sum(numbers)
        else:
            partial.integers = sum(v for v in numbers if v.__class__ is int)
            partial.floats = expansion([v for v in numbers if v.__class__ is float])
    if plan.extremes:
        partial.low_number, partial.high_number = min(numbers), max(numbers)


def _summarize_with_needs(plan: FieldPlan, values: Sequence[Any]) -> FieldPartial:
    entries: Sequence[Any] = ()
    if plan.ordered:
        entries = [entry for entry in values if entry[2] is not None]
        values = [value for _, _, value in entries]
    else:
        values = [v for v in values if v is not None]
    partial = FieldPartial(count=len(values))
    if not values:
        return partial
    if plan.summed or plan.extremes:
        _summarize_numbers(plan, values, set(map(type, values)), partial)
    partial.kept = {}
    for need in plan.needs:
        state = partial.kept[need] = need.empty()
        state.add(entries if need.kind.ordered else values)
    return partial


def merge_all(into: Sequence[FieldPartial], others: Sequence[FieldPartial]) -> None:
    """Add ``others``, partials of the same plans, to ``into``."""
    for one, other in zip(into, others, strict=True):
        merge(one, other)


def merge(into: FieldPartial, other: FieldPartial) -> None:
    """Add ``other``, a partial of the same plan, to ``into``. ``other`` stays as it is."""
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
    if other.kept is not None:
        if into.kept is None:
            into.kept = {need: need.empty() for need in other.kept}
        for need, state in other.kept.items():
            into.kept[need].absorb(state)
