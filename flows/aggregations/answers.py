"""The answers: the value of a function, from the partial of its field."""

from typing import Any, cast

from event_streaming_bus.flows.aggregations.distinct import DistinctValues, HyperLogLog, Occurrences
from event_streaming_bus.flows.aggregations.functions import Aggregation, AggregationFunction
from event_streaming_bus.flows.aggregations.moments import Moments
from event_streaming_bus.flows.aggregations.order import Collected, DistinctCollected, Edge
from event_streaming_bus.flows.aggregations.partial import FieldPartial
from event_streaming_bus.flows.aggregations.plan import need_of
from event_streaming_bus.flows.aggregations.quantiles import AllValues, Digest
from event_streaming_bus.flows.aggregations.ranking import TopValues
from event_streaming_bus.flows.aggregations.sums import Number, as_float, quotient, rounded_sum

_LISTS = frozenset({AggregationFunction.TOP_K, AggregationFunction.MOST_FREQUENT, AggregationFunction.COLLECT})
_COUNTS = frozenset({AggregationFunction.DISTINCT, AggregationFunction.APPROX_DISTINCT})


def result(aggregation: Aggregation, partial: FieldPartial) -> Any:
    """The value given out. Where there was no value it is null; a count is then 0, a list empty. Numbers order before text.

    Raises ``ValueError``, with the way out, if a bounded function met more values than its ``max_values``.
    """
    match aggregation.function:
        case AggregationFunction.COUNT:
            return partial.count
        case AggregationFunction.MIN:
            return _number(partial, partial.low_number) if partial.low_number is not None else partial.low_text
        case AggregationFunction.MAX:
            return partial.high_text if partial.high_text is not None else _number(partial, partial.high_number)
        case AggregationFunction.SUM:
            return _total(partial) if partial.count else None
        case AggregationFunction.AVG:
            return quotient(_total(partial), partial.count) if partial.count else None
    return _from_kept(aggregation, partial)


def _from_kept(aggregation: Aggregation, partial: FieldPartial) -> Any:
    function, need = aggregation.function, need_of(aggregation)
    state = partial.kept.get(need) if partial.kept is not None and need is not None else None
    match state:
        case Edge():
            return state.entry[2] if state.entry is not None else None
        case Moments() if function is AggregationFunction.VARIANCE:
            return state.variance(sample=True)
        case Moments():
            return state.deviation(sample=function is AggregationFunction.STDDEV)
        case DistinctValues():
            return state.count()
        case HyperLogLog():
            return state.estimate()
        case Occurrences():
            return state.most(aggregation.k or 1)
        case TopValues() | Collected() | DistinctCollected():
            return state.values()
        case AllValues() | Digest():
            if aggregation.percentiles:
                return state.quantiles(aggregation.percentiles)
            return state.quantiles([0.5 if aggregation.percentile is None else aggregation.percentile])[0]
    return 0 if function in _COUNTS else [] if function in _LISTS else None


def collected(partial: FieldPartial) -> list[bytes]:
    """The payloads that a partial of ``payload_plan`` holds, in event-time order. ``partial.count`` is the number of all."""
    states = list((partial.kept or {}).values())
    return cast("Collected", states[0]).values() if states else []


def _total(partial: FieldPartial) -> Number:
    return rounded_sum(partial.integers, partial.floats) if partial.has_floats else partial.integers


def _number(partial: FieldPartial, value: Number | None) -> Number | None:
    return as_float(value) + 0.0 if value is not None and partial.has_floats else value  # + 0.0 makes -0.0 what it equals
