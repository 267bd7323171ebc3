"""Correlation over REST: what followed from an event, what led to it, and what belongs together."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec
from litestar import Controller, Request, Response, get

from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.correlation.forms import listed, mermaid, nested
from event_streaming_bus.correlation.model import Trace
from event_streaming_bus.correlation.service import DEFAULT_DEPTH, DEFAULT_EVENTS


class TraceForm(StrEnum):
    """``json``: nested, ``list``: events and edges, ``mermaid``: a picture as text."""

    JSON = "json"
    LIST = "list"
    MERMAID = "mermaid"


class CorrelationController(Controller):
    """Trace events by what they were caused by."""

    path = "/api/v1"
    tags = ["correlation"]  # noqa: RUF012 - as the base class has it

    @get("/events/{event_id:str}/tree", summary="An event and all that followed from it")
    async def tree(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        event_id: str,
        format: TraceForm = TraceForm.JSON,
        max_events: int = DEFAULT_EVENTS,
        max_depth: int = DEFAULT_DEPTH,
    ) -> Response[bytes]:
        trace = await services.correlation.tree(event_id, tenant_of(request), max_events=max_events, max_depth=max_depth)
        return _answer(trace, format, event_id=event_id)

    @get("/events/{event_id:str}/ancestors", summary="An event and what led to it, the first cause first")
    async def ancestors(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        event_id: str,
        format: TraceForm = TraceForm.JSON,
        max_depth: int = DEFAULT_DEPTH,
    ) -> Response[bytes]:
        trace = await services.correlation.ancestors(event_id, tenant_of(request), max_depth=max_depth)
        return _answer(trace, format, event_id=event_id)

    @get("/correlations/{correlation_id:str}", summary="All events with a correlation id, and how they follow from one another")
    async def correlation(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        correlation_id: str,
        format: TraceForm = TraceForm.JSON,
        max_events: int = DEFAULT_EVENTS,
    ) -> Response[bytes]:
        trace = await services.correlation.by_correlation(correlation_id, tenant_of(request), max_events=max_events)
        return _answer(trace, format, correlation_id=correlation_id)


_FORMS: Final[dict[TraceForm, Callable[[Trace], dict[str, Any]]]] = {TraceForm.JSON: nested, TraceForm.LIST: listed}


def _answer(trace: Trace, form: TraceForm, **asked: str) -> Response[bytes]:
    if form is TraceForm.MERMAID:
        return Response(mermaid(trace).encode(), media_type="text/plain")
    return Response(msgspec.json.encode(asked | _FORMS[form](trace)), media_type="application/json")
