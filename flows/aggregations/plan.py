"""The plan: what has to be kept of each aggregated field."""

from collections.abc import Sequence

import msgspec

from event_streaming_bus.flows.aggregations.distinct import DistinctValues, HyperLogLog, Occurrences
from event_streaming_bus.flows.aggregations.functions import (
    DEFAULT_LIMIT,
    DEFAULT_MAX_VALUES,
    Aggregation,
    AggregationFunction,
    PercentileMethod,
    SortOrder,
)
from event_streaming_bus.flows.aggregations.kept import ANYTHING, NUMBERS, ORDERED, Need
from event_streaming_bus.flows.aggregations.moments import Moments
from event_streaming_bus.flows.aggregations.order import Collected, DistinctCollected, Edge
from event_streaming_bus.flows.aggregations.quantiles import AllValues, Digest
from event_streaming_bus.flows.aggregations.ranking import TopValues
from event_streaming_bus.flows.checker import FieldPath

_SUMMING = frozenset({AggregationFunction.SUM, AggregationFunction.AVG})
_EXTREME = frozenset({AggregationFunction.MIN, AggregationFunction.MAX})


class FieldPlan(msgspec.Struct, frozen=True):
    """What is kept of one field: whether it is summed, whether its extremes are asked for, and what else is needed."""

    field: FieldPath
    summed: bool
    extremes: bool
    needs: tuple[Need, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether values are handed over as entries: ``(timestamp in ms, event id, value)``."""
        return any(need.kind.ordered for need in self.needs)

    @property
    def accepted(self) -> frozenset[type]:
        """The JSON types that the field may have; null counts as missing."""
        types = NUMBERS if self.summed else ORDERED if self.extremes else ANYTHING
        for need in self.needs:
            types &= need.kind.accepted
        return types


def field_plans(aggregations: Sequence[Aggregation]) -> tuple[FieldPlan, ...]:
    """One plan for each field that is aggregated, in order of appearance; a bare count needs none."""
    by_field: dict[FieldPath, list[Aggregation]] = {}
    for item in aggregations:
        if item.field is not None:
            by_field.setdefault(item.field, []).append(item)
    return tuple(_field_plan(field, items) for field, items in by_field.items())


def _field_plan(field: FieldPath, items: Sequence[Aggregation]) -> FieldPlan:
    functions = {item.function for item in items}
    needs = dict.fromkeys(need for item in items if (need := need_of(item)) is not None)
    return FieldPlan(field, bool(functions & _SUMMING), bool(functions & _EXTREME), tuple(needs))


def payload_plan(limit: int) -> FieldPlan:
    """The plan that collects the raw payloads of a window's events, the first ``limit`` in event-time order; see
    ``collected``. Its values are entries of ``bytes``."""
    return FieldPlan((), summed=False, extremes=False, needs=(Need(Collected, (limit,)),))


def need_of(item: Aggregation) -> Need | None:
    """The state that the aggregation is answered from; None if count, sums and extremes are enough."""
    max_values = item.max_values or DEFAULT_MAX_VALUES
    match item.function:
        case AggregationFunction.FIRST:
            return Need(Edge, (False,))
        case AggregationFunction.LAST:
            return Need(Edge, (True,))
        case AggregationFunction.STDDEV | AggregationFunction.STDDEV_POP | AggregationFunction.VARIANCE:
            return Need(Moments)
        case AggregationFunction.DISTINCT:
            return Need(DistinctValues, (max_values,))
        case AggregationFunction.APPROX_DISTINCT:
            return Need(HyperLogLog)
        case AggregationFunction.PERCENTILE | AggregationFunction.MEDIAN:
            return Need(AllValues, (max_values,)) if item.method is PercentileMethod.EXACT else Need(Digest)
        case AggregationFunction.TOP_K:
            return Need(TopValues, (item.k, item.order is SortOrder.ASC))
        case AggregationFunction.MOST_FREQUENT:
            return Need(Occurrences, (max_values,))
        case AggregationFunction.COLLECT:
            return Need(DistinctCollected if item.distinct else Collected, (item.limit or DEFAULT_LIMIT,))
    return None
