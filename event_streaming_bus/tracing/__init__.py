"""OpenTelemetry traces of events: from publishing through routing and flows to delivery, along each event's ``traceparent``.

The package ``opentelemetry`` (the extra ``otel``) is never imported unless the program has done so, or the environment asks for
traces. What is off costs one call of ``tracer`` a batch.
"""

from event_streaming_bus.tracing.spans import context_of
from event_streaming_bus.tracing.tracer import tracer, use

__all__ = ["context_of", "tracer", "use"]
