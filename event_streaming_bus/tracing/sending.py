"""The span of publishing: begun when events are handed over, over when they are on disk."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.models import Event, EventConfig, StreamInfo
from event_streaming_bus.tracing.spans import (
    MAX_SPANS,
    batch_of,
    context_below,
    mark_failed,
    messaging,
    traceparent_of,
)
from event_streaming_bus.tracing.traceparent import SAMPLED, parsed
from event_streaming_bus.tracing.tracer import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

PUBLISH: Final = "publish"


class Sending:
    """Events that are being published. ``configs`` is to be published with: the traceparents in it are those of the spans."""

    def __init__(self, configs: EventConfig | list[EventConfig], spans: "Sequence[Span]") -> None:
        self.configs = configs
        self._spans = spans

    def failed(self, error: BaseException) -> None:
        """They are not published."""
        for span in self._spans:
            mark_failed(span, type(error).__name__, str(error))
            span.end()

    def finish(self, events: Sequence[Event], appended: "Future[Any]") -> None:
        """These events are on disk, or not, as the future says, which is done."""
        error = None if appended.cancelled() else appended.exception()
        if error is not None:
            self.failed(error)
            return
        for span in self._spans:
            if len(events) == 1:
                span.set_attribute("messaging.message.id", events[0].event_id)
            span.end()


def sending(stream: StreamInfo, event_config: EventConfig | Sequence[EventConfig], count: int) -> Sending | None:
    """Begin the spans of publishing ``count`` events; ``None`` while tracing is off.

    Events without a traceparent of their own share a span in the caller's context, or at the root of a new trace. Those that were
    given one share a span below that. One that is invalid, or whose trace is not recorded, is carried as it was given, without a
    span; so are those of more than ``MAX_SPANS`` traces in one call.
    """
    using = tracer()
    if using is None or not count:
        return None
    if isinstance(event_config, EventConfig):
        counts = Counter({event_config.traceparent: count})
    else:
        counts = Counter(config.traceparent for config in event_config)
    begun = _begin(using, stream, counts)
    carried = {traceparent: traceparent_of(span) for traceparent, span in begun.items()}
    if isinstance(event_config, EventConfig):
        return Sending(_carrying(event_config, carried), list(begun.values()))
    made: dict[int, EventConfig] = {}
    configs = [made.get(id(config)) or made.setdefault(id(config), _carrying(config, carried)) for config in event_config]
    return Sending(configs, list(begun.values()))


def _begin(using: "Tracer", stream: StreamInfo, counts: Counter[str | None]) -> "dict[str | None, Span]":
    from opentelemetry.trace import SpanKind

    attributes = messaging(PUBLISH, "send", stream.name, stream.tenant_id)
    begun: dict[str | None, Span] = {}
    for traceparent, count in islice(counts.items(), MAX_SPANS):
        parent = parsed(traceparent)
        if traceparent is not None and (parent is None or not parent.flags & SAMPLED):
            continue
        context = None if parent is None else context_below(parent)
        own = {**attributes, **batch_of(count)}
        begun[traceparent] = using.start_span(f"{PUBLISH} {stream.name}", context, SpanKind.PRODUCER, own)
    return begun


def _carrying(config: EventConfig, carried: dict[str | None, str | None]) -> EventConfig:
    own = carried.get(config.traceparent)
    return config if own is None else msgspec.structs.replace(config, traceparent=own)
