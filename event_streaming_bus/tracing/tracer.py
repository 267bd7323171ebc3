"""Whether this process traces, and with what: the one switch of all tracing."""

import sys
from typing import TYPE_CHECKING, Final

from event_streaming_bus.tracing.exporting import set_up_from_environment

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

SCOPE: Final = "event_streaming_bus"
_API: Final = "opentelemetry.trace"

_tracer: "Tracer | None" = None
_has_looked = False  # at the environment


def tracer() -> "Tracer | None":
    """What makes spans; ``None`` while tracing is off. Cheap enough to ask for every batch.

    The first call sets up an exporter if the environment asks for one (see ``exporting``). Without that, tracing is on from when
    the program sets a tracer provider, or calls ``use``. Once on, it stays on, with that provider.
    """
    return _tracer if _tracer is not None else _found()


def use(provider: "TracerProvider | None") -> None:
    """Trace with this provider in the place of the program's; ``None``: forget what was used, and look again."""
    global _tracer
    _tracer = None if provider is None else _tracer_of(provider)


def _found() -> "Tracer | None":
    global _tracer, _has_looked
    if not _has_looked:
        _has_looked = True
        set_up_from_environment()
    api = sys.modules.get(_API)
    if api is None:  # then nobody can have set a provider
        return None
    provider = api.get_tracer_provider()
    if provider.__class__ in (api.ProxyTracerProvider, api.NoOpTracerProvider):
        return None
    _tracer = _tracer_of(provider)
    return _tracer


def _tracer_of(provider: "TracerProvider") -> "Tracer":
    from importlib.metadata import version

    return provider.get_tracer(SCOPE, version("event-streaming-bus"))
