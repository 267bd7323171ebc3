"""The ids of rows of the processing history: from a record's offset and an event's place in it, so that a record always makes the
same rows."""

from collections.abc import Sequence
from typing import Final

from event_streaming_bus.store.history.neighbours import Part

_DIGITS: Final = tuple(f"{number:04d}" for number in range(10_000))


def history_ids(offset: int, first: int, count: int, step: int = 1) -> list[str]:
    """The history ids of ``count`` events from place ``first`` of the record at ``offset`` on; ``step`` tells its rows apart."""
    made: list[str] = []
    while len(made) < count:
        high, low = divmod(first + len(made), len(_DIGITS))
        start = f"hist_{offset:014d}{step}{high:06d}"
        made += [start + digits for digits in _DIGITS[low : low + count - len(made)]]
    return made


def history_ids_of(parts: Sequence[Part], step: int = 1) -> list[str]:
    """The history ids of the events of parts; see ``history_ids``."""
    return [history_id for part, first, count in parts for history_id in history_ids(part.offset, first, count, step)]
