"""The fold of windows side by side, with results before they close."""

from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import FieldPlan
from event_streaming_bus.flows.folds.base import FOREVER, Entry, Result, Tally
from event_streaming_bus.flows.folds.windows import OpenWindow, next_multiple, rhythm
from event_streaming_bus.flows.slices import bounds_of
from event_streaming_bus.flows.window_config import CalendarWindow, GlobalWindow, TumblingWindow

_EPOCH_MS: Final = 0
_NONE_OPEN: Final = -FOREVER


class UpdatesFold:
    """Tumbling or calendar windows, with updates or without, or the global window.

    Since windows lie side by side and events come in order, all keys are in the same window at any time. Updates come at
    ``every_ms`` counted from the window's start (the epoch for the global one), for the keys with events since the last one, or
    with every ``every_events``-th event of a key in the window. Where an update by time falls together with the close, only the
    final result comes. The global window never closes, not even at FOREVER.

    Events are released when their window closes; in the global window at once. Results due together come in order of the keys.
    """

    def __init__(self, window: TumblingWindow | CalendarWindow | GlobalWindow, plans: Sequence[FieldPlan]) -> None:
        self._every_ms, self._every_events, self._retract = rhythm(window.updates)
        self._plans = plans
        self._bounds = None if isinstance(window, GlobalWindow) else bounds_of(window)
        self._start_ms = _EPOCH_MS
        self._end_ms = FOREVER if self._bounds is None else _NONE_OPEN
        self._windows: dict[bytes, OpenWindow] = {}
        self._fresh: dict[bytes, OpenWindow] = {}
        self._update_ms = FOREVER

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        windows, fresh, plans = self._windows, self._fresh, self._plans
        every_ms, every_events = self._every_ms, self._every_events
        due_ms = min(self._end_ms, self._update_ms)
        for timestamp_ms, _, _, _, key, value, _ in entries:
            if timestamp_ms >= due_ms:
                self._pass_time(timestamp_ms, results, tally)
                if self._bounds is not None and self._end_ms == _NONE_OPEN:
                    self._start_ms, self._end_ms = self._bounds(timestamp_ms)
                due_ms = min(self._end_ms, self._update_ms)
            window = windows.get(key)
            if window is None:
                window = windows[key] = OpenWindow(Accumulator(plans), timestamp_ms)
            window.accumulator.add(value)
            if every_ms:
                if not window.is_fresh:
                    window.is_fresh = True
                    if not fresh:
                        self._update_ms = next_multiple(every_ms, self._start_ms, timestamp_ms)
                        due_ms = min(due_ms, self._update_ms)
                    fresh[key] = window
            elif every_events:
                window.last_ms = timestamp_ms
                if window.accumulator.count % every_events == 0:
                    window.update(results, timestamp_ms + 1, timestamp_ms, key, self._span(), self._retract)
        if horizon_ms >= due_ms:
            self._pass_time(horizon_ms, results, tally)
        if self._bounds is None:
            tally.released += len(entries)
        return results

    def _span(self) -> tuple[int | None, int | None]:
        return (None, None) if self._bounds is None else (self._start_ms, self._end_ms)

    def _pass_time(self, until_ms: int, results: list[Result], tally: Tally) -> None:
        """Do all that is due by ``until_ms``."""
        if self._update_ms <= until_ms and self._update_ms < self._end_ms:
            for key in sorted(self._fresh):
                self._fresh[key].update(results, self._update_ms, self._update_ms, key, self._span(), self._retract)
            self._fresh.clear()
            self._update_ms = FOREVER
        if self._windows and self._end_ms <= until_ms and self._bounds is not None:
            end_ms = self._end_ms
            for key in sorted(self._windows):
                window = self._windows[key]
                window.close(results, end_ms, end_ms, key, self._span())
                tally.released += window.accumulator.count
            self._windows.clear()
            self._fresh.clear()
            self._update_ms = FOREVER
            self._end_ms = _NONE_OPEN

    def save(self) -> Any:
        windows = {key: window.save() for key, window in self._windows.items()}
        return windows, self._start_ms, self._end_ms, self._update_ms

    def load(self, saved: Any) -> None:
        windows, self._start_ms, self._end_ms, self._update_ms = saved
        self._windows = {key: OpenWindow.load(self._plans, window) for key, window in windows.items()}
        self._fresh = {key: window for key, window in self._windows.items() if window.is_fresh}
