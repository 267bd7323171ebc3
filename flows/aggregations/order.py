"""What depends on event-time order: the first and the last value, and lists of values."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias

from event_streaming_bus.flows.aggregations.distinct import JsonKey, json_key
from event_streaming_bus.flows.aggregations.kept import Entry, Kept

_place: Final = itemgetter(0, 1)
_SLACK: Final = 64
"""Lists are cut back to their limit when they are twice as long and this much longer, so that cutting costs little."""


class Edge(Kept):
    """The first entry, or with ``latest`` the last one."""

    __slots__ = ("entry", "latest")
    ordered = True

    def __init__(self, latest: bool) -> None:
        self.latest = latest
        self.entry: Entry | None = None

    def add(self, values: Sequence[Entry]) -> None:
        if values:
            candidates = values if self.entry is None else [*values, self.entry]
            self.entry = max(candidates, key=_place) if self.latest else min(candidates, key=_place)

    def absorb(self, other: "Edge") -> None:
        if other.entry is not None:
            self.add([other.entry])


class Collected(Kept):
    """The first ``limit`` entries."""

    __slots__ = ("_entries", "_limit")
    ordered = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: list[Entry] = []

    def add(self, values: Iterable[Entry]) -> None:
        self._entries.extend(values)
        if len(self._entries) > 2 * self._limit + _SLACK:
            self._entries = self._first()

    def absorb(self, other: "Collected") -> None:
        self.add(other._entries)

    def _first(self) -> list[Entry]:
        return sorted(self._entries, key=_place)[: self._limit]

    def values(self) -> list[Any]:
        return [value for _, _, value in self._first()]


_Keyed: TypeAlias = tuple[JsonKey, Entry]


class DistinctCollected(Kept):
    """Of the distinct values, each at its first entry, the first ``limit``.

    Cutting loses nothing: whatever is ahead of a value in some of the entries is ahead of it in all of them.
    """

    __slots__ = ("_entries", "_limit")
    ordered = True

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[JsonKey, Entry] = {}

    def add(self, values: Iterable[Entry]) -> None:
        self._add((json_key(entry[2]), entry) for entry in values)

    def absorb(self, other: "DistinctCollected") -> None:
        self._add(other._entries.items())

    def _add(self, keyed: Iterable[_Keyed]) -> None:
        entries = self._entries
        for key, entry in keyed:
            known = entries.get(key)
            if known is None or _place(entry) < _place(known):
                entries[key] = entry
        if len(entries) > 2 * self._limit + _SLACK:
            self._entries = dict(self._first())

    def _first(self) -> list[_Keyed]:
        return sorted(self._entries.items(), key=lambda item: _place(item[1]))[: self._limit]

    def values(self) -> list[Any]:
        return [entry[2] for _, entry in self._first()]
