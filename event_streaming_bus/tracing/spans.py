"""The spans of one batch of events: one for each trace context that its events carry, however many events that is.

What is common to all spans of the bus is here: their attributes, after OpenTelemetry's semantic conventions for messaging, and
their bound. This module imports ``opentelemetry`` when it is first used, so only while tracing is on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from event_streaming_bus.models import Event
from event_streaming_bus.tracing.traceparent import TraceParent, parsed, sampled

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, Tracer
    from opentelemetry.util.types import AttributeValue

SYSTEM: Final = "event_streaming_bus"
MAX_SPANS: Final = 256
"""So many spans a batch at the most have a trace each. The events of further traces share one span that is linked to them."""
MAX_LINKS: Final = 128

Attributes: TypeAlias = "Mapping[str, AttributeValue]"


class Spans:
    """Spans that have begun. ``carried`` has for each traceparent of the batch that got a span of its own that span's one."""

    def __init__(self) -> None:
        self.carried: dict[str, str] = {}
        self._spans: dict[str, Span] = {}
        self._shared: Span | None = None

    def add(self, traceparent: str, span: "Span") -> None:
        """The span of the events with this traceparent."""
        self._spans[traceparent] = span
        self.carried[traceparent] = traceparent_of(span) or traceparent

    def share(self, span: "Span") -> None:
        """The span of all other events. They keep their traceparents."""
        self._shared = span

    def of(self, traceparent: str | None) -> "Span | None":
        """The span of the events with this traceparent; ``None`` if their trace is not recorded."""
        own = None if traceparent is None else self._spans.get(traceparent)
        return own if own is not None else self._shared if sampled(traceparent) is not None else None

    def traceparents(self, of_events: Sequence[str | None]) -> list[str | None]:
        """What events carry on, which came with these."""
        carried = self.carried
        return [traceparent if traceparent is None else carried.get(traceparent, traceparent) for traceparent in of_events]

    def failed(self, traceparent: str | None, error_type: str, message: str) -> None:
        """An event with this traceparent failed: the status of its span is an error."""
        span = self.of(traceparent)
        if span is not None:
            mark_failed(span, error_type, message)

    def end(self, error: BaseException | None = None, *, at_ns: int | None = None) -> None:
        """All of them are over, at ``at_ns`` (None: now), for this ``error`` if there is one."""
        for span in (*self._spans.values(), *(() if self._shared is None else (self._shared,))):
            if error is not None:
                mark_failed(span, type(error).__name__, str(error))
            span.end(at_ns)


def begin(
    tracer: "Tracer",
    operation: str,
    stream: str,
    traceparents: Iterable[str | None],
    attributes: "Attributes",
    *,
    kind: str,
    start_ns: int | None = None,
) -> Spans | None:
    """Begin the spans of events with these ``traceparents``; ``None`` if none of their traces is recorded.

    Each span is the child of the one that its events come from. It is named ``OPERATION STREAM``; ``kind`` is the name of a
    ``SpanKind``.
    """
    counts = traceparents if isinstance(traceparents, Counter) else Counter(traceparents)
    parents = {text: parent for text in counts if (parent := sampled(text)) is not None and text is not None}
    if not parents:
        return None
    spans, name, of_kind = Spans(), f"{operation} {stream}", _kind(kind)
    for text, parent in islice(parents.items(), MAX_SPANS):
        own = {**attributes, **batch_of(counts[text])}
        spans.add(text, tracer.start_span(name, context_below(parent), of_kind, own, start_time=start_ns))
    rest = list(islice(parents.items(), MAX_SPANS, None))
    if rest:
        links = [link_to(parent) for _, parent in rest[:MAX_LINKS]]
        own = {**attributes, **batch_of(sum(counts[text] for text, _ in rest))}
        spans.share(tracer.start_span(name, _root(), of_kind, own, links, start_time=start_ns))
    return spans


def messaging(operation: str, operation_type: str | None, stream: str, tenant_id: str) -> "dict[str, AttributeValue]":
    """The attributes that every span of the bus has. ``operation_type`` is one of the conventions', if one fits."""
    attributes: dict[str, AttributeValue] = {
        "messaging.system": SYSTEM,
        "messaging.destination.name": stream,
        "messaging.operation.name": operation,
        "esb.tenant.id": tenant_id,
    }
    return attributes if operation_type is None else {**attributes, "messaging.operation.type": operation_type}


def batch_of(count: int) -> "dict[str, AttributeValue]":
    """The attribute for spans of several events; those of one have none."""
    return {"messaging.batch.message_count": count} if count != 1 else {}


def mark_failed(span: "Span", error_type: str, message: str) -> None:
    """The span is one of something that failed."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, message))


def traceparent_of(span: "Span") -> str | None:
    """What an event carries that comes from this span; ``None`` for one that belongs to no trace."""
    context = span.get_span_context()
    return str(TraceParent(context.trace_id, context.span_id, int(context.trace_flags))) if context.is_valid else None


def context_of(event: Event) -> "Context | None":
    """The OpenTelemetry context of an event, to begin a span below it; ``None`` if it carries no valid ``traceparent``.

    A span made in it is the child of the one that the event comes from, in whatever process that was.
    """
    parent = parsed(event.traceparent)
    return None if parent is None else context_below(parent)


def context_below(parent: TraceParent) -> "Context":
    """The context whose spans are children of this one."""
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(_span_context(parent)), _root())


def link_to(parent: TraceParent) -> "Link":
    """A link to this span."""
    from opentelemetry.trace import Link

    return Link(_span_context(parent))


def _span_context(parent: TraceParent) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=TraceFlags(parent.flags))


def _root() -> "Context":
    from opentelemetry.context import Context

    return Context()


def _kind(name: str) -> Any:
    from opentelemetry.trace import SpanKind

    return SpanKind[name]
