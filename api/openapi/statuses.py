"""Which errors an operation may answer with: by what it takes, and for a few by name."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from event_streaming_bus.api.idempotency import ROUTES
from event_streaming_bus.api.openapi.bodies import BODIES
from event_streaming_bus.api.preconditions import resource_of

PROBLEM: Final = "application/problem+json"
API: Final = "/api/v1/"
MEANINGS: Final[Mapping[int, str]] = {
    400: "What is asked for makes no sense; the problem names the place.",
    401: "Nobody knows who asks: a token is missing, or is none that counts.",
    403: "Whoever asks does not have the permission.",
    404: "There is no such thing.",
    406: "The answer does not come in a form that is accepted.",
    409: "Something is in the way: another thing of this name, or the state that it is in.",
    412: "It is not as the precondition says.",
    413: "The body is too large.",
    416: "The offset is outside of what is kept.",
    422: "The body is understood, and not acceptable; the problem names the place.",
    429: "Too many requests, or members.",
    500: "A fault of the server; its log has the reason.",
    503: "The server stops, or cannot do this at the moment.",
    507: "The disk is full.",
}
_EVERYWHERE: Final = (400, 401, 403, 429, 500, 503)
_MORE: Final[Mapping[tuple[str, str], tuple[int, ...]]] = {
    ("GET", f"{API}streams/{{stream}}/events"): (422,),
    ("GET", f"{API}dead-letters"): (404,),
    ("GET", f"{API}scheduled"): (404,),
    ("GET", f"{API}routes"): (404,),
    ("GET", f"{API}schemas/{{schema_id}}/diff"): (409, 422),
    ("GET", f"{API}projections/{{name}}/rows"): (409, 422),
    ("GET", f"{API}projections/{{name}}/skipped"): (409, 422),
    ("POST", f"{API}consumer-groups/{{group}}/reset-offsets"): (416,),
    ("POST", f"{API}consumer-groups/{{group}}/members/{{member}}/seek"): (416,),
    ("GET", f"{API}consumer-groups/{{group}}/events"): (409, 416),
    ("POST", f"{API}history/query"): (406, 409),
    ("POST", f"{API}history/saved-queries/{{name}}/run"): (406, 409),
    ("POST", f"{API}streams"): (404,),
    ("POST", f"{API}events"): (404,),
    ("POST", f"{API}events/batch"): (404,),
}


def errors_of(method: str, path: str) -> Iterator[int]:
    """The statuses of the errors of an operation, ascending."""
    found: set[int] = set()
    if path.startswith(API):
        found.update(_EVERYWHERE)
        if "{" in path:
            found.add(404)
        if method != "GET":
            found |= {409, 422, 507}
            if "{" in path:
                found.add(400)
        if (method, path) in BODIES:
            found |= {400, 404, 409, 413, 422}
        if method != "GET" and resource_of(path) is not None:
            found.add(412)
        if path in ROUTES and method == "POST":
            found |= {409, 422}
        found.update(_MORE.get((method, path), ()))
    else:
        found.update((400, 503) if path.startswith("/health") else (400, 401, 403, 429, 503))
    return iter(sorted(found))


def problem_schema() -> dict[str, Any]:
    """The JSON Schema of a problem document (RFC 9457)."""
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457). Further members are facts about it, such as `path`, where it is in the body.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string", "description": "What sort of problem it is."},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What went wrong this time, and what would be accepted."},
            "instance": {"type": "string", "description": "The path that was asked for."},
        },
        "required": ["type", "title", "status", "detail", "instance"],
    }
