"""What requests are to the audit: which are management actions, what these are called, and what they are done to.

Names follow from routes: a noun for the resource, and a verb, which is the last fixed part of the path, or else the method's. So
a new route is audited without a word here; only what would drown the audit, or changes nothing, is left out by name. A route that
may be asked to only say what it would do says so when it is: ``previews``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from event_streaming_bus.api.confluent.app import PREFIX, find
from event_streaming_bus.api.confluent.errors import Refusal
from event_streaming_bus.api.confluent.requests import segments_of
from event_streaming_bus.errors import InvalidInputError

API: Final = "/api/v1/"
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_VERBS: Final = {"POST": "create", "PUT": "set", "PATCH": "change", "DELETE": "delete"}
_NOUNS: Final = {
    "stream-processors": "processor",
    "consumer-groups": "group",
    "event-sourcing": "aggregate",
    "history": "history",
    "saved-queries": "saved-query",
    "scheduled": "scheduled-event",
}
_ABOVE: Final = "history/"  # saved queries have their address below it, and are a resource of their own
_VERB_OF: Final = {
    ("schema", "enhanced"): "register",
    ("schema", "level"): "set-level",
    ("stream", "schema"): "set-schema",
    ("aggregate", "retention"): "set-retention",
}
# Requests that publish, consume and append: they are in the log themselves. And questions that are asked with POST.
_UNTOLD: Final = frozenset(
    {
        "events",
        "events/batch",
        "event-sourcing/append",
        "event-sourcing/append-batch",
        "event-sourcing/reconstruct",
        "event-sourcing/aggregates/{aggregate_id}/verify",
        "history/query",
        "history/queries/{query_id}",
        "history/saved-queries/{name}/run",
        "projections/{name}/query",
        "projections/{name}/wait",
        "flows/validate",
        "flows/dry-run",
        "flows/plan",
        "flows/diff",
        "flows/graph",
        "routes/try",
        "schemas/check",
        "schemas/try",
        "schemas/{schema_id}/validate",
        "audit/verify",
    }
)
_PREVIEW: Final = "is_preview"
_CONSUMING: Final = "consumer-groups/{group}/members"
_REGISTRY_QUESTIONS: Final = frozenset({"lookup", "compatibility"})
# What answers, and requests, call the thing that is made, in the order in which they are looked for.
_MADE: Final = (
    *("stream_id", "processor_id", "group_id", "schema_id", "certificate_id", "token_id"),
    *("name", "processor_name", "group_name", "schema_name"),
)


_MADE_TOGETHER: Final = ("routes",)
_SHOWN_NAMES: Final = 20


class Told(NamedTuple):
    """A request as the audit tells it. ``is_management``: it is written however it ends; others only if they were refused.
    ``target`` is empty if only the answer says what was made."""

    action: str
    noun: str
    target: str
    is_management: bool


def told(scope: Mapping[str, Any]) -> Told:
    """What a request that has found its route is."""
    method: str = scope["method"]
    template: str = scope.get("path_template") or ""
    if getattr(scope.get("route_handler"), "is_mount", False) or "route_handler" not in scope:
        return _registry(method, scope.get("raw_path") or b"")
    path = template.removeprefix(API)
    if method in _READING or not template.startswith(API) or path in _UNTOLD or path.startswith(_CONSUMING):
        return Told(f"{method} {template}", "", scope["path"], False)
    segments = _segments(path)
    fixed = [segment for segment in segments[1:] if not segment.startswith("{")]
    noun = noun_of(path)
    verb = (_VERB_OF.get((noun, fixed[-1])) or _verb(method, fixed[-1])) if fixed else _VERBS.get(method, method.lower())
    values = scope.get("path_params") or {}
    return Told(f"{noun}.{verb}", noun, str(next(iter(values.values()), "")), True)


def noun_of(path: str) -> str:
    """The resource of a path, which does not have the prefix of all."""
    first = _segments(path)[0]
    return _NOUNS.get(first, first.removesuffix("s"))


def _segments(path: str) -> list[str]:
    """The path from its resource on."""
    return path.removeprefix(_ABOVE).split("/") if path.startswith(f"{_ABOVE}saved-queries") else path.split("/")


def previews(scope: Any, is_preview: bool) -> None:
    """Note, before anything is done, whether a request only asks what it would do: then the audit has nothing to tell."""
    scope.setdefault("state", {})[_PREVIEW] = is_preview


def is_preview(scope: Mapping[str, Any]) -> bool:
    """Whether a request has turned out to ask only what it would do."""
    return (scope.get("state") or {}).get(_PREVIEW) is True


def _verb(method: str, fixed: str) -> str:
    """``POST .../pause`` is ``pause``; ``DELETE .../aggregates/{id}`` deletes."""
    return fixed if method == "POST" else _VERBS.get(method, method.lower())


def _registry(method: str, raw_path: bytes) -> Told:
    try:
        segments = segments_of(raw_path)
        segments = segments[1:] if segments[:1] == [PREFIX] else segments
        segments = segments[2:] if segments[:1] == ["contexts"] and len(segments) > 2 else segments
        handler, values = find(method, segments)
    except (Refusal, ValueError, InvalidInputError):
        return Told(f"{method} /{PREFIX}", "", raw_path.decode("latin-1"), False)
    name = handler.__name__
    is_management = method not in _READING and name not in _REGISTRY_QUESTIONS
    return Told(f"registry.{name.replace('_', '-')}", "", "/".join(values.values()), is_management)


def made(content: Any) -> str:
    """What an answer says was made, or a request that was refused says should have been."""
    if not isinstance(content, dict):
        return ""
    return str(next((content[name] for name in _MADE if isinstance(content.get(name), str)), ""))


def made_together(content: Any) -> list[dict[str, Any]]:
    """What an answer says was made, where that was several things with one request."""
    if not isinstance(content, dict):
        return []
    found: list[Any] = next((content[name] for name in _MADE_TOGETHER if isinstance(content.get(name), list)), [])
    return [each for each in found if isinstance(each, dict) and isinstance(each.get("name"), str)]


def names_of(several: Sequence[Mapping[str, Any]]) -> str:
    """What several things are called, the first of them at least."""
    names = [each["name"] for each in several[:_SHOWN_NAMES]]
    more = len(several) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
