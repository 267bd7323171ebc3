"""The bound on series: which names get their own, and the sum of those that do not."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

OTHER: Final = "(other)"
"""What stands for all names that got no series of their own."""

K = TypeVar("K", bound=Hashable)


class Slots(Generic[K]):
    """At most ``limit`` keys have series of their own: who came first keeps its place until it is gone.

    A key that came later never gets one while it lives. What such keys have counted is summed, that of keys that are gone
    included, so that the sum never falls: to Prometheus a counter that falls has begun anew, and all of it would count again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._named: dict[K, None] = {}
        self._hidden: dict[K, Sequence[float]] = {}
        self._gone: list[float] = []

    def settle(self, totals: Mapping[K, Sequence[float]]) -> tuple[list[K], list[float] | None]:
        """``(keys with series of their own, the sum over all others)`` for what each key has counted, several numbers each, as
        many for every key. ``None`` if there never were others."""
        self._named = {key: None for key in self._named if key in totals}
        for key in [key for key in self._hidden if key not in totals]:
            self._gone = _sum(self._gone, self._hidden.pop(key))
        for key, counted in totals.items():
            if key in self._named:
                continue
            if key not in self._hidden and len(self._named) < self.limit:
                self._named[key] = None
            else:
                self._hidden[key] = counted
        others = self._gone
        for counted in self._hidden.values():
            others = _sum(others, counted)
        return list(self._named), list(others) or None


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)] if a else list(b)
