"""The span of routing: events that rules sent to other streams come from it, and not from their publishing any more."""

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from event_streaming_bus.models import StreamInfo
from event_streaming_bus.routing.router import Arrival, Routed
from event_streaming_bus.tracing.spans import begin, messaging

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ROUTE: Final = "route"
_MAX_NAMED: Final = 32


def trace_routed(tracer: "Tracer", stream: StreamInfo, routed: Routed) -> None:
    """Make the spans of what was routed, below those that published it, and let the events in ``routed.parts`` carry them.

    Events that stay in their stream still come from their publishing.
    """
    arrivals = [arrival for part in routed.parts for arrival in part.arrivals]
    if not any(arrival.event.traceparent for arrival in arrivals):
        return
    steps = {step for arrival in arrivals for step in arrival.trail}
    attributes = messaging(ROUTE, None, stream.name, stream.tenant_id) | {
        "esb.route.rules": list(islice(sorted({step.rule for step in steps}), _MAX_NAMED)),
        "esb.route.to": list(islice(sorted({name for step in steps for name in step.to}), _MAX_NAMED)),
    }
    came_with = [arrival.event.traceparent for arrival in arrivals]
    start_ns = routed.started_us * 1000
    spans = begin(tracer, ROUTE, stream.name, came_with, attributes, kind="INTERNAL", start_ns=start_ns)
    if spans is None:
        return
    for part in routed.parts:
        part.arrivals = [_carrying(arrival, spans.carried) for arrival in part.arrivals]
    spans.end(at_ns=routed.completed_us * 1000)


def _carrying(arrival: Arrival, carried: dict[str, str]) -> Arrival:
    event = arrival.event
    own = None if event.traceparent is None else carried.get(event.traceparent)
    return arrival if own is None else arrival._replace(event=msgspec.structs.replace(event, traceparent=own))
