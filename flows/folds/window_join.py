"""The JOIN within a window: all left events of a key meet all its right events of the same window."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from event_streaming_bus.flows.folds.base import FOREVER, LEFT, RIGHT, Entry, Result, Tally
from event_streaming_bus.flows.folds.joins import JoinedPair, alone, has_null, kept_alone, payload_of
from event_streaming_bus.flows.processors.join import JoinType

_Held: TypeAlias = tuple[str, int, Any]
_ByKey: TypeAlias = dict[bytes, list[_Held]]
"""Event id, time and payload of the events of each key."""

_NO_WINDOW: Final = (-FOREVER, -FOREVER)


class WindowJoinFold:
    """All pairs of a left and a right event of one key in the same window, given out at the window's end with the end as their
    time; the events without a partner too.

    ``bounds`` gives the ``(start_ms, end_ms)`` of the window that a time is in. Windows lie side by side: they do not overlap.
    The identity of a result is ``(left event id, right event id, window start)``.

    Held are the events of the one window that is open. One that cannot be part of any result is ``filtered``: at once if its
    key has a null part, otherwise at the window's end, when the others are ``released``.
    """

    def __init__(self, join_type: JoinType, bounds: Callable[[int], tuple[int, int]]) -> None:
        self._kept = kept_alone(join_type)
        self._bounds = bounds
        self._window = _NO_WINDOW
        self._sides: tuple[_ByKey, _ByKey] = ({}, {})

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        sides, kept = self._sides, self._kept
        end_ms = self._window[1]
        for t, _, event_id, side, key, value, _ in entries:
            if t >= end_ms:
                self._close(tally, results)
                self._window = self._bounds(t)
                end_ms = self._window[1]
            if b"null" in key and not kept[side] and has_null(key):
                tally.filtered += 1
                continue
            by_key = sides[side]
            events = by_key.get(key)
            if events is None:
                by_key[key] = [(event_id, t, value)]
            else:
                events.append((event_id, t, value))
        if end_ms <= horizon_ms:
            self._close(tally, results)
        return results

    def save(self) -> Any:
        """The window, and for each side the events of each key."""
        lefts, rights = self._sides
        return self._window, _copy(lefts), _copy(rights)

    def load(self, saved: Any) -> None:
        self._window, lefts, rights = saved
        self._sides = _copy(lefts), _copy(rights)

    def _close(self, tally: Tally, results: list[Result]) -> None:
        start_ms, end_ms = self._window
        lefts, rights = self._sides
        for key in sorted(lefts.keys() | rights.keys()):
            left_events, right_events = sorted(lefts.get(key, ()), key=_order), sorted(rights.get(key, ()), key=_order)
            if left_events and right_events and not has_null(key):
                tally.released += len(left_events) + len(right_events)
                results += [
                    Result(end_ms, end_ms, key, (left_id, right_id, start_ms), JoinedPair(left, right, left_ms, right_ms))
                    for left_id, left_ms, left in left_events
                    for right_id, right_ms, right in right_events
                ]
                continue
            for side, events in ((RIGHT, right_events), (LEFT, left_events)):  # in the order of their identities
                if self._kept[side]:
                    tally.released += len(events)
                    results += [alone(side, key, *event, end_ms, end_ms, start_ms) for event in events]
                else:
                    tally.filtered += len(events)
        lefts.clear()
        rights.clear()
        self._window = _NO_WINDOW


def _order(event: _Held) -> tuple[str, int, bytes | None]:
    return event[0], event[1], payload_of(event[2])


def _copy(by_key: _ByKey) -> _ByKey:
    return {key: events[:] for key, events in by_key.items()}
