"""Histograms with buckets that grow by a constant factor, as Prometheus' native histograms have them.

A bucket's upper bound is 2 ** (index / 8), so each is 9 % wider than the one before, whatever the scale: a quantile read from it
is off by at most 4.5 %. Only buckets that hold something take room, and there are at most 321 of them: times below a microsecond
count as a microsecond, those above twelve days as twelve days.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

SCHEMA: Final = 3
"""Prometheus' name of the resolution: the bounds are powers of 2 ** (2 ** -SCHEMA)."""
_PER_OCTAVE: Final = 1 << SCHEMA
_LEAST: Final = -20 * _PER_OCTAVE
_MOST: Final = 20 * _PER_OCTAVE

BOUNDS: Final = tuple(2.0**exponent for exponent in range(-12, 9, 2))
"""Bounds of the classic buckets, from a quarter of a millisecond to 256 s; each is a native bound too: no count is guessed."""
_BOUND_INDEXES: Final = tuple(int(math.log2(bound)) * _PER_OCTAVE for bound in BOUNDS)

SLOT_S: Final = 10
SLOTS: Final = 6
"""A ``Recent`` looks back over so many slots, each ``SLOT_S`` long; the newest one is not over yet."""


class Native(NamedTuple):
    """The buckets as a native histogram has them: runs of neighbours as ``(buckets left out before it, buckets in it)``, and of
    each bucket the difference of its count to that of the bucket before."""

    spans: list[tuple[int, int]]
    deltas: list[int]


def index_of(seconds: float) -> int | None:
    """The bucket of a time; ``None`` for none at all."""
    if seconds <= 0:
        return None
    index = math.ceil(math.log2(seconds) * _PER_OCTAVE)
    return _LEAST if index < _LEAST else _MOST if index > _MOST else index


class Histogram:
    """How often which time in seconds was seen; times are not negative."""

    __slots__ = ("count", "counts", "total_s", "zeros")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.zeros = 0
        self.count = 0
        self.total_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """It was seen, so many times."""
        self.put(index_of(seconds), seconds, times)

    def put(self, index: int | None, seconds: float, times: int) -> None:
        """As ``observe``, for whom knows the index of the bucket."""
        self.count += times
        if index is None:
            self.zeros += times
            return
        self.total_s += seconds * times
        self.counts[index] = self.counts.get(index, 0) + times

    def add(self, other: "Histogram") -> None:
        """Take in what the other one has seen."""
        self.count += other.count
        self.zeros += other.zeros
        self.total_s += other.total_s
        for index, times in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + times

    def copy(self) -> "Histogram":
        made = Histogram()
        made.count, made.zeros, made.total_s, made.counts = self.count, self.zeros, self.total_s, self.counts.copy()
        return made

    def quantiles(self, wanted: Sequence[float]) -> list[float]:
        """The times below which such parts of what was seen lie, NaN if nothing was. ``wanted`` ascends."""
        if not self.count:
            return [math.nan] * len(wanted)
        found: list[float] = []
        seen, ordered = self.zeros, iter(sorted(self.counts.items()))
        value = 0.0
        for part in wanted:
            while seen < part * self.count:
                index, times = next(ordered)
                seen += times
                value = 2 ** ((index - 0.5) / _PER_OCTAVE)
            found.append(value)
        return found

    def below(self) -> list[int]:
        """How often a time was at or below each of ``BOUNDS``."""
        found, seen = [], self.zeros
        ordered = sorted(self.counts.items())
        at = 0
        for bound in _BOUND_INDEXES:
            while at < len(ordered) and ordered[at][0] <= bound:
                seen += ordered[at][1]
                at += 1
            found.append(seen)
        return found

    def native(self) -> Native:
        """The buckets, without the zeros."""
        spans: list[tuple[int, int]] = []
        deltas: list[int] = []
        last_index, last_count = None, 0
        for index, times in sorted(self.counts.items()):
            if last_index is not None and index == last_index + 1:
                left_out, size = spans[-1]
                spans[-1] = (left_out, size + 1)
            else:
                spans.append((index if last_index is None else index - last_index - 1, 1))
            deltas.append(times - last_count)
            last_index, last_count = index, times
        return Native(spans, deltas)


class Recent:
    """What was seen during about the last minute."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[int, Histogram] = {}

    def put(self, index: int | None, seconds: float, times: int, at_s: float) -> None:
        """It was seen at ``at_s``."""
        slot = int(at_s) // SLOT_S
        histogram = self._slots.get(slot)
        if histogram is None:
            self._drop(slot)
            if self._slots and slot <= max(self._slots) - SLOTS:
                return
            histogram = self._slots[slot] = Histogram()
        histogram.put(index, seconds, times)

    def now(self, now_s: float) -> Histogram:
        """All of it, as seen from ``now_s``."""
        self._drop(int(now_s) // SLOT_S)
        made = Histogram()
        for histogram in self._slots.values():
            made.add(histogram)
        return made

    def _drop(self, newest: int) -> None:
        for slot in [slot for slot in self._slots if slot <= newest - SLOTS]:
            del self._slots[slot]
