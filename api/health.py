"""Whether the server is well. It answers also when much else does not: nothing here waits for long, or for a place."""

import time
from collections import Counter
from typing import Any, Final

import msgspec
from litestar import Request, Response, get

from event_streaming_bus import __version__
from event_streaming_bus.api.problems import UNAVAILABLE, problem
from event_streaming_bus.api.services import Services

LOOK_S: Final = 2.0
"""How long the storage may take to answer before it is told that it does not."""
_STARTED_S = time.monotonic()


@get("/health", tags=["health"], summary="How the server is")
async def health(services: Services) -> dict[str, Any]:
    """Status, version, and what there is to do. ``stuck`` for a status: the storage does not answer, and what it holds is left
    out."""

    def look() -> dict[str, Any]:
        processors = services.storage.catalog.list_processors(None)
        return {
            "streams": len(services.storage.log.list_streams()),
            "processors": dict(Counter(record.status.value for record in processors)),
            "history_backlog": services.history.backlog(),
            **_nodes(services),
        }

    try:
        status, seen = "ok", await services.looks.at("health", look, LOOK_S)
    except TimeoutError:
        status, seen = "stuck", {}
    told = {"status": status, "version": __version__, "uptime_s": round(time.monotonic() - _STARTED_S, 1)}
    return {**told, **seen, "load": services.load.told()}


@get("/health/live", tags=["health"], summary="The process answers")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/health/ready", tags=["health"], summary="The storage answers")
async def ready(request: Request[Any, Any, Any], services: Services) -> Response[Any]:
    """The storage answers as well."""
    try:
        await services.looks.at("ready", services.storage.log.version, LOOK_S)
    except TimeoutError:
        told = f"The storage has not answered within {LOOK_S:g} s."
        answer = problem(UNAVAILABLE, "Unavailable", told, request.url.path, retry_after_s=1)
        answer.headers["Retry-After"] = "1"
        return answer
    return Response({"status": "ok"})


def _nodes(services: Services) -> dict[str, Any]:
    """Where several nodes serve: whether this one leads, and all of them."""
    if services.election is None:
        return {}
    return {"leads": services.election.leads, "nodes": [msgspec.structs.asdict(node) for node in services.election.nodes()]}
