"""The metrics for Prometheus, and the count of events that were refused at the door."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from litestar import Request, Response, get
from litestar.types import Scope

from event_streaming_bus.api.monitoring_access import check_access
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import TENANT_HEADER
from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.monitoring.exposition import negotiated

UNKNOWN_STREAM: Final = "(unknown)"


@get("/metrics", tags=["monitoring"], summary="Metrics for Prometheus, as text, OpenMetrics or protocol buffers")
async def metrics(request: Request[Any, Any, Any], services: Services, all_tenants: bool = False) -> Response[bytes]:
    """The metrics of the tenant; with ``all_tenants`` those of all, with one label more."""
    tenant_id = check_access(request, all_tenants=all_tenants)
    content_type = negotiated(request.headers.get("accept", ""))
    body = await services.metrics_page.page(None if all_tenants else tenant_id, content_type)
    # Litestar adds the charset of a text by itself.
    media_type = content_type.removesuffix("; charset=utf-8") if content_type.startswith("text/") else content_type
    return Response(body, media_type=media_type, headers={"Cache-Control": "no-store", "Vary": "Accept"})


def counting_refusals(services: Services) -> Callable[[Exception, Scope], Awaitable[None]]:
    """Counts events that a stream's schema refused; they are told to their publisher and leave no trace in the log."""

    async def count(error: Exception, scope: Scope) -> None:
        if isinstance(error, ValidationFailedError) and str(scope.get("path", "")).startswith("/api/v1/events"):
            headers = dict(scope["headers"])
            tenant_id = headers.get(TENANT_HEADER.lower().encode(), b"").decode("latin-1") or DEFAULT_TENANT
            stream = str(error.details.get("stream") or UNKNOWN_STREAM)
            services.meter.refused(tenant_id, stream, "validation", len(error.details.get("invalid_indexes") or (0,)))

    return count
