"""The fold of session windows."""

from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import FieldPlan
from event_streaming_bus.flows.folds.base import FOREVER, Entry, Result, Tally, TimedQueue
from event_streaming_bus.flows.folds.windows import OpenWindow, next_multiple, rhythm
from event_streaming_bus.flows.window_config import SessionWindow

_EPOCH_MS: Final = 0


class SessionFold:
    """Runs of a key's events with at most ``gap_ms`` between neighbours; a session closes at its last event + gap + 1.

    Updates come at multiples of ``every_ms`` since the epoch, for the sessions with events since the last one, or with every
    ``every_events``-th event of a session. Where an update by time falls together with the close, only the final result comes.
    Events are released when their session closes. Results due together: final ones first, each sort in order of the keys.
    """

    def __init__(self, window: SessionWindow, plans: Sequence[FieldPlan]) -> None:
        self._gap_ms = window.gap_ms
        self._every_ms, self._every_events, self._retract = rhythm(window.updates)
        self._plans = plans
        self._sessions: dict[bytes, OpenWindow] = {}
        # Each open session has one timer. An event moves no timer: it is set again when it goes off and the session went on.
        self._timers = TimedQueue()
        self._fresh: dict[bytes, OpenWindow] = {}
        self._update_ms = FOREVER

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        sessions, fresh, plans = self._sessions, self._fresh, self._plans
        every_ms, every_events = self._every_ms, self._every_events
        closes_after_ms = self._gap_ms + 1
        due_ms = min(self._timers.next_ms, self._update_ms)
        for timestamp_ms, _, _, _, key, value, _ in entries:
            if timestamp_ms >= due_ms:
                due_ms = self._pass_time(timestamp_ms, results, tally)
            session = sessions.get(key)
            if session is None:
                session = sessions[key] = OpenWindow(Accumulator(plans), timestamp_ms)
                close_ms = timestamp_ms + closes_after_ms
                self._timers.push(close_ms, key)
                if close_ms < due_ms:
                    due_ms = close_ms
            session.last_ms = timestamp_ms
            session.accumulator.add(value)
            if every_ms:
                if not session.is_fresh:
                    session.is_fresh = True
                    if not fresh:
                        self._update_ms = next_multiple(every_ms, _EPOCH_MS, timestamp_ms)
                        due_ms = min(due_ms, self._update_ms)
                    fresh[key] = session
            elif every_events and session.accumulator.count % every_events == 0:
                self._update(results, timestamp_ms + 1, timestamp_ms, key, session)
        if horizon_ms >= due_ms:
            self._pass_time(horizon_ms, results, tally)
        return results

    def _pass_time(self, until_ms: int, results: list[Result], tally: Tally) -> int:
        """Do all that is due by ``until_ms``; returns when the next is."""
        timers = self._timers
        while True:
            close_ms = timers.next_ms
            due_ms = min(close_ms, self._update_ms)
            if due_ms > until_ms or due_ms == FOREVER:
                return due_ms
            if close_ms == due_ms:
                self._close(*timers.pop(), results, tally)
            else:
                for key in sorted(self._fresh):
                    self._update(results, due_ms, due_ms, key, self._fresh[key])
                self._fresh.clear()
                self._update_ms = FOREVER

    def _close(self, at_ms: int, key: bytes, results: list[Result], tally: Tally) -> None:
        session = self._sessions[key]
        end_ms = session.last_ms + self._gap_ms
        if end_ms >= at_ms:
            self._timers.push(end_ms + 1, key)
            return
        session.close(results, at_ms, end_ms, key, (session.first_ms, end_ms))
        tally.released += session.accumulator.count
        del self._sessions[key]
        if self._fresh.pop(key, None) is not None and not self._fresh:
            self._update_ms = FOREVER

    def _update(self, results: list[Result], at_ms: int, timestamp_ms: int, key: bytes, session: OpenWindow) -> None:
        span = session.first_ms, session.last_ms + self._gap_ms
        session.update(results, at_ms, timestamp_ms, key, span, self._retract)

    def save(self) -> Any:
        return {key: session.save() for key, session in self._sessions.items()}, self._timers.save(), self._update_ms

    def load(self, saved: Any) -> None:
        sessions, timers, self._update_ms = saved
        self._sessions = {key: OpenWindow.load(self._plans, session) for key, session in sessions.items()}
        self._timers = TimedQueue(timers)
        self._fresh = {key: session for key, session in self._sessions.items() if session.is_fresh}
