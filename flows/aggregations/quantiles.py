"""Percentiles: exact ones from all values, approximate ones from a t-digest."""

import math
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from event_streaming_bus.flows.aggregations.kept import NUMBERS, Kept
from event_streaming_bus.flows.aggregations.sums import Number, as_float

if TYPE_CHECKING:
    from datasketches import tdigest_double

_COMPRESSION: Final = 200
_BATCH: Final = 1000


class AllValues(Kept):
    """Every value, as floats, up to ``max_values``. Beyond that nothing more is kept, and ``quantiles`` raises."""

    __slots__ = ("_max_values", "_values")
    accepted = NUMBERS

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._values: array[float] | None = array("d")

    def add(self, values: Sequence[Number]) -> None:
        if self._values is not None:
            self._values.extend(map(as_float, values))
            if len(self._values) > self._max_values:
                self._values = None

    def absorb(self, other: "AllValues") -> None:
        if other._values is None:
            self._values = None
        else:
            self.add(other._values)

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        if self._values is None:
            raise ValueError(
                f"an exact percentile met more than {self._max_values:,} values in one window of one group; "
                "use method: approximate, or raise max_values"
            )
        return interpolated(self._values, shares)


class Digest(Kept):
    """A t-digest, from Apache DataSketches. Up to 1,000 values they are kept as they are, and percentiles are exact.

    The digest takes values in batches of 1,000, so it depends on their order alone: not on how they were split over
    partials of up to 1,000 values that are merged in that order, nor on when it was pickled.
    """

    __slots__ = ("_digest", "_recent")
    accepted = NUMBERS

    def __init__(self) -> None:
        self._recent: array[float] = array("d")
        self._digest: tdigest_double | None = None

    def add(self, values: Sequence[Number]) -> None:
        self._recent.extend(map(as_float, values))
        if len(self._recent) > _BATCH:
            self._take_batches()

    def _take_batches(self) -> None:
        from datasketches import tdigest_double

        if self._digest is None:
            self._digest = tdigest_double(_COMPRESSION)
        recent = memoryview(self._recent)
        batches = (len(recent) - 1) // _BATCH  # at least one value stays
        for at in range(0, batches * _BATCH, _BATCH):
            self._digest.update(recent[at : at + _BATCH])
            self._digest.compress()  # as pickling does: a digest that was saved goes on like one that was not
        self._recent = self._recent[batches * _BATCH :]

    def absorb(self, other: "Digest") -> None:
        if other._digest is not None:
            if self._digest is None:
                self._digest = _copied(other._digest)
            else:
                self._digest.merge(other._digest)
                self._digest.compress()
        self.add(other._recent)

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        if self._digest is None:
            return interpolated(self._recent, shares)
        digest = _copied(self._digest)
        digest.update(memoryview(self._recent))
        return [digest.get_quantile(share) for share in shares]

    def __getstate__(self) -> tuple[bytes, bytes | None]:
        return self._recent.tobytes(), self._digest.serialize() if self._digest is not None else None

    def __setstate__(self, saved: tuple[bytes, bytes | None]) -> None:
        recent, digest = saved
        self._recent = array("d", recent)
        self._digest = _loaded(digest) if digest is not None else None


def _copied(digest: "tdigest_double") -> "tdigest_double":
    return _loaded(digest.serialize())


def _loaded(saved: bytes) -> "tdigest_double":
    from datasketches import tdigest_double

    return tdigest_double.deserialize(saved)


def interpolated(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """The quantiles of at least one value, between neighbours interpolated linearly (``percentile_cont`` of SQL)."""
    ordered = sorted(values)
    found = []
    for share in shares:
        rank = share * (len(ordered) - 1)
        below = int(rank)
        low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
        share_of_high = rank - below
        if math.isfinite(high - low):
            found.append(low + (high - low) * share_of_high + 0.0)  # + 0.0 makes -0.0 what it equals
        else:
            found.append(low if share_of_high == 0 else low * (1 - share_of_high) + high * share_of_high)
    return found
