"""Which kind of request one is, for the room that it takes: told by its path alone, before anything of it is read."""

from typing import Any, Final

from event_streaming_bus.api.audited_actions import API
from event_streaming_bus.api.load import Lane, Load

NEVER_REFUSED: Final = ("/health", "/health/live", "/health/ready", "/metrics")
"""What tells of the server has to be heard above all when there is too much to do."""

_PUBLISHING: Final = frozenset(
    f"{API}{path}" for path in ("events", "events/batch", "event-sourcing/append", "event-sourcing/append-batch")
)
_HISTORY: Final = frozenset({"events", "correlations"})
_QUESTION: Final = f"{API}history/query"
_SAVED_QUESTIONS: Final = f"{API}history/saved-queries/"
_LOOKS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def lane_of(scope: Any, load: Load) -> Lane | None:
    """Where a request has to find room; None: it always does. WebSockets are bounded where they are served."""
    if scope["type"] != "http":
        return None
    path, method = scope["path"], scope["method"]
    if path in _PUBLISHING and method == "POST":
        return load.publishing
    is_change = method not in _LOOKS
    if not path.startswith(API):
        return None if path in NEVER_REFUSED else load.changing if is_change else load.looking
    noun, _, rest = path.removeprefix(API).partition("/")
    if _is_consuming(noun, rest):
        return load.consuming
    if path == _QUESTION or (path.startswith(_SAVED_QUESTIONS) and path.endswith("/run")):
        return load.questions
    # Dead letters may be selected with SQL.
    if noun in _HISTORY or (noun == "dead-letters" and (is_change or rest == "count")):
        return load.history
    return load.changing if is_change else load.looking


def _is_consuming(noun: str, rest: str) -> bool:
    """Whether a client reads events, or waits for some."""
    if noun == "consumer-groups":
        return "/members" in rest or rest.endswith("/events")
    return (noun == "event-sourcing" and rest == "events") or (noun == "projections" and rest.endswith("/wait"))
