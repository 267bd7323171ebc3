"""The fold of sliding windows."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import FieldPlan
from event_streaming_bus.flows.folds.base import Entry, Result, Tally
from event_streaming_bus.flows.folds.partial_queue import PartialQueue
from event_streaming_bus.flows.folds.windows import WindowResult
from event_streaming_bus.flows.window_config import SlidingWindow


class _Recent:
    """What a key has in the window: a pane of partials for each time, and the number of all events."""

    __slots__ = ("count", "panes")

    def __init__(self) -> None:
        self.count = 0
        self.panes = PartialQueue()


class SlidingFold:
    """For each time ``t`` at which a key has events, the key's events in ``(t - window_size_ms, t]``; due at ``t + 1``.

    An event is released when it has left the window of any event that may still come. Results due together come in the order of
    their keys' first events.
    """

    def __init__(self, window: SlidingWindow, plans: Sequence[FieldPlan]) -> None:
        self._size_ms = window.window_size_ms
        self._plans = plans
        self._keys: dict[bytes, _Recent] = {}
        # Of all keys together, oldest first. All windows have one size, so panes leave in the order in which they came.
        self._panes: deque[tuple[int, bytes, int]] = deque()

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        plans = self._plans
        # The events of one time come in one call, so nothing of this is left when it ends.
        present: dict[bytes, Accumulator] = {}
        present_ms = 0
        for timestamp_ms, _, _, _, key, value, _ in entries:
            if timestamp_ms != present_ms and present:
                self._take(present_ms, present, results, tally)
                present = {}
            present_ms = timestamp_ms
            accumulator = present.get(key)
            if accumulator is None:
                accumulator = present[key] = Accumulator(plans)
            accumulator.add(value)
        if present:
            self._take(present_ms, present, results, tally)
        self._release(horizon_ms - self._size_ms, tally)
        return results

    def _take(self, timestamp_ms: int, present: dict[bytes, Accumulator], results: list[Result], tally: Tally) -> None:
        """Take the events of one time, and give out each key's window that ends with them."""
        start_ms = timestamp_ms - self._size_ms
        self._release(start_ms, tally)
        keys, panes = self._keys, self._panes
        for key, accumulator in present.items():
            recent = keys.get(key)
            if recent is None:
                recent = keys[key] = _Recent()
            recent.panes.push(accumulator.partials())
            recent.count += accumulator.count
            panes.append((timestamp_ms, key, accumulator.count))
            value = WindowResult(start_ms, timestamp_ms, recent.count, list(recent.panes.total()))
            results.append(Result(timestamp_ms + 1, timestamp_ms, key, (start_ms, timestamp_ms, 1, False), value))

    def _release(self, until_ms: int, tally: Tally) -> None:
        """Drop what happened at ``until_ms`` or before."""
        keys, panes = self._keys, self._panes
        while panes and panes[0][0] <= until_ms:
            _, key, count = panes.popleft()
            tally.released += count
            recent = keys[key]
            recent.count -= count
            if recent.count:
                recent.panes.pop()
            else:
                del keys[key]

    def save(self) -> Any:
        return {key: (recent.count, recent.panes.save()) for key, recent in self._keys.items()}, list(self._panes)

    def load(self, saved: Any) -> None:
        keys, panes = saved
        self._keys = {}
        for key, (count, queue) in keys.items():
            recent = self._keys[key] = _Recent()
            recent.count = count
            recent.panes = PartialQueue.load(queue)
        self._panes = deque(panes)
