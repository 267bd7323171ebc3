"""Pages of lists that are held as a whole: in the order of a key, from the one that a cursor names."""

import base64
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from event_streaming_bus.errors import InvalidInputError

MAX_ITEMS: Final = 1000
T = TypeVar("T")


def paged(items: Iterable[T], key: Callable[[T], str], limit: int, cursor: str | None) -> tuple[list[T], str | None]:
    """``(items, the cursor of the next page)``: at most ``limit`` of those behind ``cursor``, in the order of their keys; that
    cursor is None if there are no more. No two items may have the same key. What comes and goes between pages moves nothing else.

    Raises ``InvalidInputError`` for a limit that is out of bounds, and for what is no cursor.
    """
    if not 1 <= limit <= MAX_ITEMS:
        raise InvalidInputError(f"limit: expected 1 to {MAX_ITEMS:,}, got {limit:,}", path="limit")
    ordered = sorted(items, key=key)
    start = 0 if cursor is None else bisect_right(ordered, _key_of(cursor), key=key)
    page = ordered[start : start + limit]
    is_last = start + limit >= len(ordered)
    return page, None if is_last else base64.urlsafe_b64encode(key(page[-1]).encode()).decode().rstrip("=")


def _key_of(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except ValueError:
        raise InvalidInputError(
            f"cursor: expected the next_cursor of an earlier page, got {cursor[:100]!r}", path="cursor"
        ) from None
