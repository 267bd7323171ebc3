"""The fold of count windows."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import FieldPlan
from event_streaming_bus.flows.folds.base import FOREVER, Entry, Result, Tally
from event_streaming_bus.flows.folds.partial_queue import PartialQueue
from event_streaming_bus.flows.folds.windows import WindowResult
from event_streaming_bus.flows.window_config import CountWindow


class _Recent:
    """A key's latest events, in panes: all windows start and end between panes."""

    __slots__ = ("accumulator", "has_given", "panes", "starts_ms")

    def __init__(self, accumulator: Accumulator) -> None:
        self.accumulator = accumulator
        """The pane that is being filled."""
        self.starts_ms: deque[int] = deque()
        """The time of each pane's first event, the one being filled included."""
        self.panes = PartialQueue()
        self.has_given = False


class CountFold:
    """The last ``window_size_events`` events of a key: first when there are so many, then with every ``advance_events`` more.

    ``advance_events`` is at most the size. An event is released with the last window that it is part of; those that never were
    part of one are filtered at FOREVER. The identity of a result has the id of its last event, since windows of other events
    may start and end at the same times.
    """

    def __init__(self, window: CountWindow, plans: Sequence[FieldPlan]) -> None:
        self._size_events = window.window_size_events
        self._advance_events = window.advance_events
        self._pane_events = math.gcd(window.window_size_events, window.advance_events)
        self._plans = plans
        self._keys: dict[bytes, _Recent] = {}

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        keys, plans, pane_events = self._keys, self._plans, self._pane_events
        panes_per_window = self._size_events // pane_events
        for timestamp_ms, _, event_id, _, key, value, _ in entries:
            recent = keys.get(key)
            if recent is None:
                recent = keys[key] = _Recent(Accumulator(plans))
            accumulator = recent.accumulator
            if not accumulator.count:
                recent.starts_ms.append(timestamp_ms)
            accumulator.add(value)
            if accumulator.count == pane_events:
                recent.panes.push(accumulator.partials())
                recent.accumulator = Accumulator(plans)
                if len(recent.panes) == panes_per_window:
                    self._give_out(results, timestamp_ms, event_id, key, recent)
                    tally.released += self._advance_events
        if horizon_ms >= FOREVER:
            self._finish(tally)
        return results

    def _give_out(self, results: list[Result], timestamp_ms: int, event_id: str, key: bytes, recent: _Recent) -> None:
        start_ms = recent.starts_ms[0]
        value = WindowResult(start_ms, timestamp_ms, self._size_events, list(recent.panes.total()))
        results.append(Result(timestamp_ms + 1, timestamp_ms, key, (start_ms, event_id, 1, False), value))
        recent.has_given = True
        for _ in range(self._advance_events // self._pane_events):
            recent.panes.pop()
            recent.starts_ms.popleft()
        if not recent.panes:
            del self._keys[key]

    def _finish(self, tally: Tally) -> None:
        for recent in self._keys.values():
            held = len(recent.panes) * self._pane_events + recent.accumulator.count
            given = self._size_events - self._advance_events if recent.has_given else 0
            tally.released += given
            tally.filtered += held - given
        self._keys.clear()

    def save(self) -> Any:
        return {
            key: (recent.accumulator.save(), list(recent.starts_ms), recent.panes.save(), recent.has_given)
            for key, recent in self._keys.items()
        }

    def load(self, saved: Any) -> None:
        self._keys = {}
        for key, (accumulator, starts_ms, panes, has_given) in saved.items():
            recent = self._keys[key] = _Recent(Accumulator.load(self._plans, accumulator))
            recent.starts_ms = deque(starts_ms)
            recent.panes = PartialQueue.load(panes)
            recent.has_given = has_given
