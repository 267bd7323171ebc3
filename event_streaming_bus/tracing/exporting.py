"""Where spans go, as the environment says: the standard variables ``OTEL_...`` of OpenTelemetry.

Spans are exported if ``OTEL_TRACES_EXPORTER`` names an exporter, or else if ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``) says where a collector is. Exporter, sampler and batches read variables of
their own.
"""

import logging
import os
from typing import Any, Final

NAME: Final = "event-streaming-bus"
"""The ``service.name`` of a process whose environment gives it none."""

_EXPORTERS: Final = "opentelemetry_traces_exporter"
_OTLP: Final = "otlp"
_log: Final = logging.getLogger(__name__)


def wanted_exporters() -> list[str]:
    """The exporters that the environment asks for; none if it says nothing, ``none``, or ``OTEL_SDK_DISABLED``."""
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return []
    named = _variable("OTEL_TRACES_EXPORTER")
    if not named and (_variable("OTEL_EXPORTER_OTLP_ENDPOINT") or _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        named = _OTLP
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "none")]


def set_up_from_environment() -> bool:
    """Set the process's tracer provider if the environment asks for one and the program has set none; whether it was set.

    What is asked for and cannot be had is told as a warning, and leaves tracing off. Spans that wait are exported when the
    process ends.
    """
    names = wanted_exporters()
    if not names:
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        _log.warning("the environment asks for traces, but %s; install the extra 'otel': event-streaming-bus[otel]", error)
        return False
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    exporters = [exporter for name in names if (exporter := _exporter(name)) is not None]
    if not exporters:
        return False
    has_name = _variable("OTEL_SERVICE_NAME") or "service.name=" in _variable("OTEL_RESOURCE_ATTRIBUTES")
    provider = TracerProvider(resource=Resource.create({} if has_name else {"service.name": NAME}))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return True


def _exporter(name: str) -> Any:
    """The exporter of this name, as installed packages declare it; ``None``, with a warning, if there is none."""
    from importlib.metadata import entry_points

    protocol = _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or _variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    declared = {_OTLP: "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"}.get(name, name)
    for entry in entry_points(group=_EXPORTERS, name=declared):
        try:
            return entry.load()()
        except Exception as error:  # whatever a package of others, or its settings, may raise
            _log.warning("the trace exporter %s cannot be used: %s", name, error)
            return None
    _log.warning("no trace exporter %s is installed; spans do not go there", declared)
    return None


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()
