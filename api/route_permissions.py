"""Which permission a request needs, and for which streams: one table by routes.

What is not in it follows from the resource: looking at it takes ``noun:read``, all else ``noun:manage``, for every stream. So a
new route is closed to those who have no such permission without a word here.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from event_streaming_bus.api.audited_actions import API, noun_of, told
from event_streaming_bus.publishing import DEFAULT_STREAM

MAX_LOOKED_AT_BYTES: Final = 32 << 20

Names = Callable[["Asked"], Iterable[str]]


class Asked(NamedTuple):
    """What streams are looked for in: the route's parameters, the query, and the body."""

    values: Mapping[str, Any]
    query: Mapping[str, list[str]]
    body: bytes

    def fields(self) -> dict[str, Any]:
        """The body, if it is a JSON object; the route's handler tells what is wrong with others."""
        try:
            decoded = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return decoded if isinstance(decoded, dict) else {}


class Need(NamedTuple):
    """``streams`` tells for which ones the permission is needed, None: for every one. ``is_for_any``: having it for one stream
    is enough. ``reads_body``: ``streams`` looks into the body."""

    permission: str
    streams: Names | None = None
    reads_body: bool = False
    is_for_any: bool = False


def _in_path(asked: Asked) -> list[str]:
    return [str(asked.values.get("stream", ""))]


def _published(asked: Asked) -> list[str]:
    fields = asked.fields()
    events = fields.get("events")
    named = [_text(event.get("stream_id")) for event in events if isinstance(event, dict)] if isinstance(events, list) else []
    return [_text(fields.get("stream_id")) or DEFAULT_STREAM, *filter(None, dict.fromkeys(named))]


def _named(asked: Asked) -> list[str]:
    return [_text(asked.fields().get("name"))]


def _joined(asked: Asked) -> list[str]:
    streams = asked.fields().get("streams")
    return [_text(stream) for stream in streams] if isinstance(streams, list) else []


def _streamed(asked: Asked) -> list[str]:
    return [name.strip() for text in asked.query.get("streams", []) for name in text.split(",") if name.strip()]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# A flow is its processors; whoever may manage these may manage streams and schemas too.
_RIGHTS_OF: Final[Mapping[str, str]] = {"flow": "processor"}
_MEMBERS: Final = "consumer-groups/{group}/members"
_NEEDS: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "streams"): Need("stream:read", is_for_any=True),
    ("GET", "streams/{stream}"): Need("stream:read", _in_path),
    ("GET", "asyncapi.json"): Need("stream:read"),
    ("GET", "streams/{stream}/events"): Need("event:read", _in_path),
    ("POST", "streams"): Need("stream:manage", _named, reads_body=True),
    ("DELETE", "streams/{stream}"): Need("stream:manage", _in_path),
    ("PUT", "streams/{stream}/schema"): Need("stream:manage", _in_path),
    ("POST", "events"): Need("event:publish", _published, reads_body=True),
    ("POST", "events/batch"): Need("event:publish", _published, reads_body=True),
    ("POST", _MEMBERS): Need("group:consume", _joined, reads_body=True),
    ("GET", "consumer-groups/{group}/events"): Need("group:consume", _streamed),
    ("POST", "event-sourcing/append"): Need("aggregate:append"),
    ("POST", "event-sourcing/append-batch"): Need("aggregate:append"),
    ("POST", "event-sourcing/reconstruct"): Need("aggregate:read"),
    ("POST", "event-sourcing/aggregates/{aggregate_id}/verify"): Need("aggregate:read"),
    ("POST", "history/query"): Need("history:query"),
    ("GET", "history/queries"): Need("history:query"),
    ("GET", "history/queries/{query_id}"): Need("history:query"),
    ("DELETE", "history/queries/{query_id}"): Need("history:query"),
    ("GET", "history/saved-queries"): Need("history:query"),
    ("GET", "history/saved-queries/{name}"): Need("history:query"),
    ("POST", "history/saved-queries/{name}/run"): Need("history:query"),
    ("POST", "projections/{name}/query"): Need("projection:read"),
    ("POST", "projections/{name}/wait"): Need("projection:read"),
    ("POST", "routes/try"): Need("route:read"),
    ("POST", "flows/validate"): Need("processor:read"),
    ("POST", "flows/dry-run"): Need("event:read"),
    ("POST", "flows/plan"): Need("processor:read"),
    ("POST", "flows/diff"): Need("processor:read"),
    ("POST", "flows/graph"): Need("processor:read"),
    ("POST", "schemas/check"): Need("schema:read", is_for_any=True),
    ("POST", "schemas/{schema_id}/validate"): Need("schema:read", is_for_any=True),
    ("POST", "schemas/try"): Need("event:read"),
    ("POST", "erasures/subject-report"): Need("erasure:manage"),
    ("GET", "tokens"): Need("token:manage"),
    ("GET", "tokens/{token_id}"): Need("token:manage"),
    ("POST", "audit/verify"): Need("audit:view"),
}


def need_of(scope: Mapping[str, Any]) -> Need | None:
    """What a request that has found its route needs; None if being somebody is enough."""
    if scope["type"] == "websocket":
        return Need("monitoring:read")
    method = "GET" if scope["method"] in ("HEAD", "OPTIONS") else scope["method"]
    template: str = scope.get("path_template") or ""
    if getattr(scope.get("route_handler"), "is_mount", False) or "route_handler" not in scope:
        return Need("schema:manage") if told(scope).is_management else Need("schema:read", is_for_any=True)
    if not template.startswith(API):
        return Need("monitoring:read")
    path = template.removeprefix(API)
    if path == "tokens/self":
        return None
    need = _NEEDS.get((method, path))
    if need is not None:
        return need
    noun = noun_of(path)
    noun = _RIGHTS_OF.get(noun, noun)
    if path.startswith(f"{_MEMBERS}/") and "/members/{member}" in path:
        return Need("group:consume", is_for_any=True)  # a member's id is only known to whoever joined as it
    if noun == "audit":
        return Need("audit:view")
    if method != "GET":
        return Need(f"{noun}:manage")
    if noun == "stream" and path.startswith("streams/{stream}/"):
        return Need("event:read")  # what is below a stream may be what is in it
    return Need(f"{noun}:read", is_for_any=noun == "schema")


def streams_of(need: Need, scope: Mapping[str, Any], body: bytes) -> list[str]:
    """The streams that a request is about, as it names them."""
    assert need.streams is not None  # noqa: S101 - this is asked only where they matter
    return list(need.streams(Asked(scope.get("path_params") or {}, query_of(scope), body)))


def query_of(scope: Mapping[str, Any]) -> dict[str, list[str]]:
    """The query's parameters."""
    return parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def asks_for_all_tenants(scope: Mapping[str, Any], body: bytes | None = None) -> bool:
    """Whether a request is about all tenants; without its body, whether it may be."""
    if any(value.lower() not in ("false", "0") for value in query_of(scope).get("all_tenants", [])):
        return True
    if scope["type"] != "http" or (scope["method"], scope.get("path_template")) != ("POST", f"{API}history/query"):
        return False
    return body is None or Asked({}, {}, body).fields().get("all_tenants", False) is not False
