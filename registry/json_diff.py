"""What changed between two JSON documents."""

from typing import Any

import msgspec

from event_streaming_bus.registry.violations import pointer_to

MAX_CHANGES = 500


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place where two documents differ: ``change`` is ``added``, ``removed`` or ``changed``."""

    change: str
    pointer: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


def changes(before: Any, after: Any) -> list[Change]:
    """The places where they differ, in the order of the documents, at most ``MAX_CHANGES``. Lists are compared item by item."""
    found: list[Change] = []
    _compare(before, after, (), found)
    return found[:MAX_CHANGES]


def _compare(before: Any, after: Any, path: tuple[str | int, ...], found: list[Change]) -> None:
    if len(found) >= MAX_CHANGES or (before == after and type(before) is type(after)):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            _member(before.get(name, msgspec.UNSET), after.get(name, msgspec.UNSET), (*path, name), found)
    elif isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            old = before[i] if i < len(before) else msgspec.UNSET
            _member(old, after[i] if i < len(after) else msgspec.UNSET, (*path, i), found)
    else:
        found.append(Change("changed", pointer_to(path), before, after))


def _member(before: Any, after: Any, path: tuple[str | int, ...], found: list[Change]) -> None:
    if before is msgspec.UNSET:
        found.append(Change("added", pointer_to(path), after=after))
    elif after is msgspec.UNSET:
        found.append(Change("removed", pointer_to(path), before=before))
    else:
        _compare(before, after, path, found)
