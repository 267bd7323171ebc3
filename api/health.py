"""Whether the server is well."""

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
from litestar import get

from event_streaming_bus import __version__
from event_streaming_bus.api.services import Services

_STARTED_S = time.monotonic()


@get("/health", tags=["health"], summary="How the server is")
async def health(services: Services) -> dict[str, Any]:
    """Status, version, and what there is to do."""

    def look() -> dict[str, Any]:
        processors = services.storage.catalog.list_processors(None)
        return {
            "status": "ok",
            "version": __version__,
            "uptime_s": round(time.monotonic() - _STARTED_S, 1),
            "streams": len(services.storage.log.list_streams()),
            "processors": dict(Counter(record.status.value for record in processors)),
            "history_backlog": services.history.backlog(),
            **_nodes(services),
        }

    return await asyncio.to_thread(look)


@get("/health/live", tags=["health"], summary="The process answers")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/health/ready", tags=["health"], summary="The storage answers")
async def ready(services: Services) -> dict[str, str]:
    """The storage answers as well."""
    await asyncio.to_thread(services.storage.log.version)
    return {"status": "ok"}


def _nodes(services: Services) -> dict[str, Any]:
    """Where several nodes serve: whether this one leads, and all of them."""
    if services.election is None:
        return {}
    return {"leads": services.election.leads, "nodes": [msgspec.structs.asdict(node) for node in services.election.nodes()]}
