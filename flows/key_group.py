"""The key group: the state of one processor for the keys that hash into it, and when its results come out.

User keys hash into a fixed number of key groups; a key group is one Bytewax key. All key groups of a processor are sent the
same progress, so a key that falls quiet closes with the others.

Time within a key group is its *horizon*: the watermark less the grace period. Events before it are late; windows that end by it
have closed. An event is late for a window by its own split: the split's watermark, before this event, had put the horizon at or
beyond the window's end. That depends on nothing but the split, so every interleaving of splits, every number of workers and every
restart finds the same events late (docs/decisions/0003-lateness-by-split.md). An event that comes behind the horizon of the
whole flow is late as well: a split that was read to its end held nobody back. Such a case is noted in the mark, so that after a
crash the same events are late again.

Results of other processors come in step with their horizons, and so are never late, with one exception: where all was closed at
the end of a run, what others give out in the next run may lie before that end. It comes before the horizon has moved on from
there, and is counted as late when the horizon does.

Results come out in the order of the horizons at which they are due, whatever the processor does. So one number, the horizon up to
which results have been written, makes output exactly once. After a crash the state of the last snapshot takes the same events
again, and what it gives out once more up to that horizon is left out of the log; processors that read on from here, whose
state is as old, are given it again (docs/decisions/0007-one-order-of-results.md).
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from bytewax.operators import StatefulBatchLogic

from event_streaming_bus.errors import UnsupportedFormatError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.flows.clock import Clock
from event_streaming_bus.flows.folds.base import FOREVER, Result, Tally
from event_streaming_bus.flows.items import Closed, KeyGroupMessage, LateEvents, LatePartial
from event_streaming_bus.flows.marks import Note, WindowMark
from event_streaming_bus.flows.snapshots import opened, sealed
from event_streaming_bus.flows.states import KeyedState

SNAPSHOT_FORMAT: Final = 3
"""Changes with what snapshots hold, so that none is ever misread."""

_READABLE: Final = (2, SNAPSHOT_FORMAT)

# A snapshot is taken every second or so, and a run resumes from the last one that is complete. Notes are kept for much longer.
_NOTES_KEPT_S: Final = 120.0
_POSITIONS_EVERY_S: Final = 30.0
_BEFORE_ALL: Final = -FOREVER


class KeyGroupSettings(msgspec.Struct, frozen=True):
    """What all key groups of a processor share.

    ``marks`` are what the log says has been written, by key group (Bytewax tells only messages which group this is).
    ``feeds``: whether processors with state read the results, and must be told of the horizon. ``lag_ms``: how far before the
    horizon at which it is due the time of a result may lie.
    """

    grace_period_ms: int
    close_when_idle_ms: int | None
    live_ms: int
    splits: Sequence[str]
    upstream: Sequence[str]
    marks: Mapping[str, WindowMark]
    feeds: bool
    lag_ms: int = 0


class KeyGroup(StatefulBatchLogic[KeyGroupMessage, Closed, bytes]):
    """One key group. ``resume`` is the snapshot to go on from."""

    def __init__(self, settings: KeyGroupSettings, state: KeyedState, resume: bytes | None) -> None:
        self._settings = settings
        self._state = state
        self._clock = Clock(
            settings.splits, settings.upstream, settings.close_when_idle_ms, settings.live_ms + settings.grace_period_ms
        )
        self._horizon_ms: int | None = None
        self._told_ms: int | None = None
        self._mark: WindowMark | None = None
        self._written_ms = _BEFORE_ALL
        self._closed_ms = _BEFORE_ALL
        self._behind = 0
        """Results of others that came behind ``_closed_ms``, to be counted as late when the horizon passes it."""
        self._closings: deque[int] = deque()
        self._snapshots: deque[tuple[float, dict[str, int]]] = deque()
        self._resumed: dict[str, int] = {}
        if resume is not None:
            clock, saved, self._horizon_ms, self._closed_ms, self._behind = _opened(resume)
            self._clock.load(clock)
            self._resumed = dict(self._clock.positions)
            self._state.load(saved)

    def on_batch(self, values: list[KeyGroupMessage]) -> tuple[list[Closed], bool]:
        closed = []
        for message in values:
            mark = self._mark or self._recall(message.key_group)
            late = self._take(message, mark)
            self._clock.take(message.progress)
            item = self._move_on(message.key_group, mark, late)
            if item is not None:
                closed.append(item)
        return closed, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        fault_point("recovery.state")
        if self._mark is not None and self._mark.notes:
            self._forget_notes(self._mark)
        place = (self._horizon_ms, self._closed_ms, self._behind)
        return sealed((SNAPSHOT_FORMAT, self._clock.save(), self._state.save(), *place))

    def _recall(self, key_group: str) -> WindowMark:
        """What the log says has been written already."""
        self._mark = mark = self._settings.marks.get(key_group) or WindowMark()
        if mark.horizon_ms is not None:
            self._written_ms = mark.horizon_ms
        mark.notes = [note for note in mark.notes if note.end > self._resumed.get(note.split, 0)]
        mark.closings = [closed_ms for closed_ms in mark.closings if closed_ms > self._closed_ms]
        self._closings.extend(mark.closings)
        return mark

    def _take(self, message: KeyGroupMessage, mark: WindowMark) -> list[LateEvents]:
        """Take the events of a message; returns the late ones that have not been told of before."""
        split = message.progress.split
        if split is None:
            _, lost = self._state.take(message, None if self._closed_ms == _BEFORE_ALL else self._closed_ms)
            self._behind += lost
            return []
        known = message.end <= mark.cut.get(split, 0)
        floor_ms = self._floor(message, split, mark, known)
        late, lost = self._state.take(message, floor_ms)
        if known:
            return []  # what was late has been written before
        mark.late += lost + message.lost
        if late and floor_ms is not None:
            mark.notes.append(Note(split, message.begin, message.end, floor_ms))
        return [self._late(split, message.begin, item) for item in (*message.late, *late)]

    def _floor(self, message: KeyGroupMessage, split: str, mark: WindowMark, known: bool) -> int | None:
        """The horizon before which the events of a message are late: for one that was taken before a crash, what it was then."""
        if not known:
            floor_ms = max(self._written_ms, _or_before_all(self._horizon_ms))
            return None if floor_ms == _BEFORE_ALL else floor_ms
        for note in mark.notes:
            if note.split == split and note.begin <= message.begin and message.end <= note.end:
                return note.horizon_ms
        return None

    @staticmethod
    def _late(split: str, begin: int, item: LatePartial) -> LateEvents:
        return LateEvents(split, item.window_start_ms, item.window_end_ms, [begin + i for i in item.indexes])

    def _move_on(self, key_group: str, mark: WindowMark, late: list[LateEvents]) -> Closed | None:
        """Move the horizon to where the clock is, and give out what is due."""
        before_ms = self._horizon_ms
        watermark_ms = self._clock.watermark_ms
        if watermark_ms is not None:
            target_ms = watermark_ms - self._settings.grace_period_ms
            if before_ms is None or target_ms > before_ms:
                self._horizon_ms = target_ms
        results: list[Result] = []
        again: list[Result] = []
        tally = Tally()
        if self._horizon_ms is not None and self._horizon_ms != before_ms:
            again, results = self._advance(self._horizon_ms, tally)
        finished = self._clock.all_finished
        if finished:
            again += self._repeat(FOREVER)
            results += self._close(mark, tally)
        told_ms = FOREVER if finished else self._horizon_ms
        to_write = bool(results or late or any(tally.counts()))
        if not (to_write or again) and not (self._settings.feeds and told_ms is not None and told_ms != self._told_ms):
            return None
        self._told_ms = told_ms
        if to_write:
            self._renew(mark, tally)
        horizon_ms = _BEFORE_ALL if told_ms is None else told_ms if finished else told_ms - self._settings.lag_ms
        return Closed(key_group, horizon_ms, results, again, late, tally, mark if to_write else None)

    def _advance(self, horizon_ms: int, tally: Tally) -> tuple[list[Result], list[Result]]:
        """``(results written before, new ones)``. What is counted of the former has been counted before."""
        again = self._repeat(horizon_ms)
        if self._written_ms != _BEFORE_ALL:
            return again, []
        if horizon_ms > self._closed_ms:
            self._count_behind(tally)
        return again, self._state.advance(horizon_ms, tally)

    def _count_behind(self, tally: Tally) -> None:
        tally.late += self._behind
        self._behind = 0

    def _repeat(self, horizon_ms: int) -> list[Result]:
        """The results by the horizon that were written before; all was closed where it was closed then."""
        written_ms = self._written_ms
        if written_ms == _BEFORE_ALL:
            return []
        again: list[Result] = []
        while self._closings and self._closings[0] <= min(horizon_ms, written_ms):
            self._count_behind(Tally())
            self._closed_ms = self._closings.popleft()
            again += self._state.close(self._closed_ms, Tally())[0]
        if min(horizon_ms, written_ms) > self._closed_ms:
            self._count_behind(Tally())
        again += self._state.advance(min(horizon_ms, written_ms), Tally())
        if horizon_ms > written_ms:
            self._written_ms = _BEFORE_ALL
        return again

    def _close(self, mark: WindowMark, tally: Tally) -> list[Result]:
        """Close everything. Were this not noted, what no horizon was due for would be counted once more after a crash."""
        before = tally.counts()
        self._count_behind(tally)
        results, end_ms = self._state.close(FOREVER, tally)
        if results or tally.counts() != before:
            due_ms = results[-1].at_ms if results else _BEFORE_ALL
            self._horizon_ms = self._closed_ms = max(end_ms, due_ms, _or_before_all(self._horizon_ms), self._closed_ms + 1)
            mark.closings.append(self._closed_ms)
        return results

    def _renew(self, mark: WindowMark, tally: Tally) -> None:
        mark.horizon_ms = max(_or_before_all(mark.horizon_ms), _or_before_all(self._horizon_ms))
        # A split that is read again after a crash may still be behind what was written of it: the cut never goes back.
        cut = mark.cut
        mark.cut = {s: max(at, cut.get(s, 0)) for s, at in self._clock.positions.items() if at or s in cut}
        mark.late += tally.late
        mark.released += tally.released
        mark.filtered += tally.filtered
        mark.dead += tally.dead
        mark.skipped += tally.skipped
        mark.updated_at_ms = time.time_ns() // 1_000_000

    def _forget_notes(self, mark: WindowMark) -> None:
        """Notes of events that no snapshot to resume from comes before are of no use any more."""
        now_s = time.monotonic()
        if not self._snapshots or now_s - self._snapshots[-1][0] >= _POSITIONS_EVERY_S:
            self._snapshots.append((now_s, dict(self._clock.positions)))
        taken_s, positions = self._snapshots[0]
        if now_s - taken_s > _NOTES_KEPT_S:
            self._snapshots.popleft()
            mark.notes = [note for note in mark.notes if note.end > positions.get(note.split, 0)]


def _or_before_all(horizon_ms: int | None) -> int:
    return _BEFORE_ALL if horizon_ms is None else horizon_ms


def _opened(snapshot: bytes) -> tuple[Any, Any, int | None, int, int]:
    """What a snapshot holds. Raises ``UnsupportedFormatError`` for one of another version, whose state cannot be read."""
    saved = opened(snapshot)
    if saved[0] not in _READABLE:
        raise UnsupportedFormatError(
            "The flow's state was written by another version of the bus and cannot be read by this one; esb run --from-start "
            "begins the flow anew, and writes all of its output again."
        )
    _, clock, state, horizon_ms, closed_ms, behind = saved
    return clock, state, horizon_ms, closed_ms, behind
