"""What msgspec says of data that is no struct of the kind wanted, as messages for people."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final

_UNKNOWN: Final = re.compile(r"unknown field `(.+)`")


def path_and_reason(message: str) -> tuple[str, str]:
    """``(the dotted path of the place, empty for the whole, what is wrong there)``."""
    reason, _, place = message.partition(" - at `$")
    return place.rstrip("`").lstrip("."), reason


def told(message: str, accepted: Callable[[str], Sequence[str]]) -> str:
    """The message with the path in front, and for an unknown field the nearest one there is. ``accepted`` gives the names of the
    fields that are known at a path."""
    path, reason = path_and_reason(message)
    unknown = _UNKNOWN.search(reason)
    if unknown is None:
        return f"{path}: {reason}" if path else reason
    known = accepted(path)
    near = get_close_matches(unknown[1], known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    where = f"{path}.{unknown[1]}" if path else unknown[1]
    return f"{where}: unknown field{hint} (accepted: {', '.join(known)})"
