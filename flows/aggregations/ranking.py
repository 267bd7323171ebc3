"""The largest and the smallest values."""

import heapq
from collections.abc import Sequence
from typing import TypeAlias

from event_streaming_bus.flows.aggregations.kept import ORDERED, Kept
from event_streaming_bus.flows.aggregations.sums import Number

_Value: TypeAlias = Number | str


class TopValues(Kept):
    """The ``k`` largest values, or with ``smallest`` the smallest, as often as they occur. Numbers order before text."""

    __slots__ = ("_k", "_smallest", "_values")
    accepted = ORDERED

    def __init__(self, k: int, smallest: bool) -> None:
        self._k = k
        self._smallest = smallest
        self._values: list[_Value] = []

    def add(self, values: Sequence[_Value]) -> None:
        candidates = [*self._values, *values]
        pick = heapq.nsmallest if self._smallest else heapq.nlargest
        # Values of one type compare by themselves, which is much faster.
        key = None if len(set(map(type, candidates))) <= 1 else _rank
        self._values = pick(self._k, candidates, key=key)

    def absorb(self, other: "TopValues") -> None:
        self.add(other._values)

    def values(self) -> list[_Value]:
        """In order, the first one the largest (with ``smallest``, the smallest)."""
        return [v + 0.0 if isinstance(v, float) else v for v in self._values]  # -0.0 becomes what it equals


def _rank(value: _Value) -> tuple[bool, _Value, bool]:
    """A total order: of an integer and an equal float, the integer is the smaller one."""
    return value.__class__ is str, value, value.__class__ is float
