"""Who may see the metrics, and of which tenant."""

from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection

from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.tenancy import TENANT_HEADER
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT

_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def check_access(connection: ASGIConnection[Any, Any, Any, Any], *, all_tenants: bool = False) -> str:
    """The tenant whose metrics the client may see; with ``all_tenants`` it asks for those of all.

    It is the tenant of the header ``X-Tenant-Id``, or, since browsers cannot set headers for a WebSocket, of the query parameter
    ``tenant_id``, or ``default``. Whether the client may ask for that tenant was told before this is asked.
    """
    return connection.headers.get(TENANT_HEADER) or connection.query_params.get("tenant_id") or DEFAULT_TENANT


def check_page(connection: ASGIConnection[Any, Any, Any, Any], hosts: Collection[str]) -> None:
    """Raise ``InvalidInputError`` for a connection that a page of another origin makes, or that names another host.

    A browser lets any page open a WebSocket to any server, and says in ``Origin`` which page it is; other clients say nothing.
    """
    host = connection.headers.get("host", "")
    check_host(host, hosts)
    origin = connection.headers.get("origin")
    if origin is not None and not _is_same_place(origin, host):
        raise InvalidInputError(f"Origin {origin[:200]}: pages of other origins may not connect")


def _is_same_place(origin: str, host: str) -> bool:
    """Whether a page of this origin comes from the server that is asked by this Host header."""
    try:
        page = urlsplit(origin)
        asked = urlsplit(f"{page.scheme}://{host}")
        port = _PORTS.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or port) == (asked.hostname, asked.port or port)
    except ValueError:
        return False
