"""Which tenant a request is for."""

from typing import Any

from litestar import Request

from event_streaming_bus.models import DEFAULT_TENANT

TENANT_HEADER = "X-Tenant-Id"


def tenant_of(request: Request[Any, Any, Any]) -> str:
    """The tenant that the header ``X-Tenant-Id`` names, or ``default``. Requests are not authenticated in this version."""
    return request.headers.get(TENANT_HEADER) or DEFAULT_TENANT
