"""What an AGGREGATE keeps of a field in one window of one key, and the values it gives out.

A stream may be read in any interleaving, split over workers and replayed, so what is kept merges: ``summarize`` makes a
``FieldPartial`` of some values, ``merge`` adds one to another, ``result`` gives a function's value. All results but those of
an approximate percentile are the same whatever the order of values and the cuts between partials.
"""

from event_streaming_bus.flows.aggregations.answers import collected, result
from event_streaming_bus.flows.aggregations.functions import Aggregation, AggregationFunction, PercentileMethod, SortOrder
from event_streaming_bus.flows.aggregations.kept import ANYTHING, NUMBERS, ORDERED
from event_streaming_bus.flows.aggregations.partial import FieldPartial, merge, merge_all, summarize, summarize_all
from event_streaming_bus.flows.aggregations.plan import FieldPlan, field_plans, payload_plan
from event_streaming_bus.flows.aggregations.sums import Number, expansion

__all__ = [
    "ANYTHING",
    "NUMBERS",
    "ORDERED",
    "Aggregation",
    "AggregationFunction",
    "FieldPartial",
    "FieldPlan",
    "Number",
    "PercentileMethod",
    "SortOrder",
    "collected",
    "expansion",
    "field_plans",
    "merge",
    "merge_all",
    "payload_plan",
    "result",
    "summarize",
    "summarize_all",
]
