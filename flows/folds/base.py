"""The fold: what a processor with state computes for one key group, as a pure function of events in event-time order.

A key group hands a fold its events in one total order: by time, then side, then event id. So a fold gives the same results
for the same events, however they came in: live or replayed, over one split or many, on any number of workers.

Time within a fold is the *horizon*: every event with an earlier time has been handed over, and none will follow. A result
is due at the horizon ``at_ms``; results come out in the order of ``at_ms``. Since that order never changes, one number says
which results have been written.
"""

import heapq
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

LEFT: Final = 0
RIGHT: Final = 1
FOREVER: Final = 1 << 62
"""The horizon at which nothing more will come."""


class Entry(NamedTuple):
    """One event on its way into a fold.

    ``side``: LEFT or RIGHT for a JOIN, otherwise LEFT. The RIGHT side of a lookup is handed over before the LEFT one at the
    same time (``rank`` says so: it sorts before the event id). ``key``: the group's values as a JSON array. ``value`` is what
    the fold keeps of the event: a tuple of the aggregated fields' values, or the ``Event``. ``place``: the index of the event in
    its chunk.
    """

    timestamp_ms: int
    rank: int
    event_id: str
    side: int
    key: bytes
    value: Any
    place: int


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a fold gives out: due at ``at_ms``, with the event time ``timestamp_ms``.

    ``key`` and ``identity`` together tell it from every other result of the processor, in every run: its event id is derived from
    them. ``value`` is the fold's business and that of what makes a payload of it.
    """

    at_ms: int
    timestamp_ms: int
    key: bytes
    identity: tuple[Any, ...]
    value: Any


class Tally(msgspec.Struct):
    """What became of the events that a fold was handed. Events held = taken - released - filtered - dead.

    ``released``: done with, part of some result. ``filtered``: done with, part of none (a duplicate, say). ``dead``: the
    processor failed on them; ``failures`` has each, for the dead letter. ``late``: results of others that were never handed to
    it, for they came after all had been closed at the end of an earlier run.
    """

    released: int = 0
    filtered: int = 0
    dead: int = 0
    skipped: int = 0
    late: int = 0
    failures: list["Failure"] = []

    def counts(self) -> tuple[int, ...]:
        """All that was counted: while it is the same, nothing more was."""
        return self.released, self.filtered, self.dead, self.skipped, self.late


class Failure(msgspec.Struct, frozen=True):
    """An event that a processor with state failed on, at the horizon ``at_ms``, after so many attempts."""

    at_ms: int
    entry: Entry
    error: Exception
    attempts: int = 1


class Fold(Protocol):
    """The state of one processor for one key group."""

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        """Take ``entries`` and move on to ``horizon_ms``; returns the results due by then, in order of ``at_ms``.

        ``entries`` are in order, all with times before ``horizon_ms`` and not before the previous horizon. A result that is due
        because of an event at time ``t`` has ``at_ms = t + 1``. What is due at ``T`` for the passing of time (a window's end)
        is given out before events at ``T`` or later are taken. ``horizon_ms = FOREVER`` gives out everything.
        """
        ...

    def save(self) -> Any:
        """The state as plain picklable data."""
        ...

    def load(self, saved: Any) -> None:
        """Go on from what ``save`` returned."""
        ...


class TimedQueue:
    """Things to be done at a horizon, earliest first; of equal times in the order of ``what`` (it must be comparable)."""

    def __init__(self, items: Sequence[tuple[int, Any]] = ()) -> None:
        self._heap: list[tuple[int, Any]] = list(items)
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, at_ms: int, what: Any) -> None:
        heapq.heappush(self._heap, (at_ms, what))

    @property
    def next_ms(self) -> int:
        """When the first one is due; ``FOREVER`` if there is none."""
        return self._heap[0][0] if self._heap else FOREVER

    def pop(self) -> tuple[int, Any]:
        """Take the first one out."""
        return heapq.heappop(self._heap)

    def save(self) -> list[tuple[int, Any]]:
        return list(self._heap)
