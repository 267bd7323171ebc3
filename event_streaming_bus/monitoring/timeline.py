"""When the events of a split were accepted, as far back as a little memory reaches."""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

MAX_RUNS: Final = 256


class Timeline:
    """Runs of neighbouring events and when each was accepted. Of more than ``MAX_RUNS`` runs every two neighbours become one,
    with the time of the first: older times are told more coarsely, and never too late."""

    __slots__ = ("_accepted_us", "_begins", "_ends")

    def __init__(self) -> None:
        self._begins = array("q")
        self._ends = array("q")
        self._accepted_us = array("q")

    def add(self, begin: int, end: int, accepted_us: int) -> None:
        """The events from ``begin`` to ``end``, which follow on those added before, were accepted then."""
        if self._ends and begin < self._ends[-1]:
            return  # told again
        if len(self._begins) >= MAX_RUNS:
            self._begins = self._begins[::2]
            self._accepted_us = self._accepted_us[::2]
            self._ends = self._ends[1::2]
        self._begins.append(begin)
        self._ends.append(end)
        self._accepted_us.append(accepted_us)

    def between(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """``(begin, end, accepted_us)`` of the parts of ``begin`` to ``end`` of which it is known."""
        at = max(bisect_right(self._begins, begin) - 1, 0)
        while at < len(self._begins) and self._begins[at] < end:
            low, high = max(begin, self._begins[at]), min(end, self._ends[at])
            if low < high:
                yield low, high, self._accepted_us[at]
            at += 1
