"""The key group: the state of one AGGREGATE for the keys that hash into it, and when its windows close.

User keys hash into a fixed number of key groups; a key group is one Bytewax key. All key groups of an AGGREGATE are sent the
same progress, so a key that falls quiet closes with the others.

Time is event time. The watermark of a split is its largest timestamp so far. The watermark of the flow is the smallest of
those splits that hold unread events, and the largest of all where none does; it never goes back. A window closes when the
watermark reaches its end plus the grace period.

An event is late for a window that had closed for the split it comes in: the split's own watermark, before this event, had
reached the window's end plus the grace period. That depends on nothing but the split, so every interleaving of splits, every
number of workers and every restart finds the same events late (docs/decisions/0003-lateness-by-split.md). An event that
comes after its window has closed for the whole flow is late as well: a split that was read to its end held nobody back.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import xxhash
from bytewax.operators import StatefulBatchLogic

from event_streaming_bus.flows.aggregations import FieldPartial, merge
from event_streaming_bus.flows.items import KeyGroupMessage, Partial, Progress, SinkItem
from event_streaming_bus.flows.marks import WindowMark
from event_streaming_bus.flows.window_config import TumblingWindow

KEY_GROUPS: Final = 64


def key_group_of(key: bytes) -> int:
    """The key group of a group key, given as JSON: XXH3 (64 bits) modulo the number of key groups."""
    return xxhash.xxh3_64_intdigest(key) % KEY_GROUPS


class WindowState(msgspec.Struct, array_like=True):
    """One window of one key: the number of events and a partial for each aggregated field."""

    count: int
    fields: list[FieldPartial]


class ClosedWindow(msgspec.Struct, frozen=True):
    """A window that has closed: its final state."""

    start_ms: int
    end_ms: int
    key: bytes
    state: WindowState


class LateEvents(msgspec.Struct, frozen=True):
    """Events of one split that came after their window had closed."""

    split: str
    window_start_ms: int
    window_end_ms: int
    offsets: list[int]


class Clock:
    """Where a key group stands in time: the progress of every split, and how far windows have closed."""

    def __init__(self, splits: Sequence[str]) -> None:
        self.positions: dict[str, int] = dict.fromkeys(splits, 0)
        self.ends: dict[str, int | None] = dict.fromkeys(splits)
        self.watermarks: dict[str, int] = {}
        self.newest: tuple[int, int] | None = None
        self.finished: set[str] = set()
        self.watermark_ms: int | None = None
        self._unread = set(splits)

    def take(self, progress: Progress) -> None:
        """Note the progress; ``watermark_ms`` is up to date afterwards."""
        for split, end in progress.ends.items():
            known = self.ends.get(split)
            self.ends[split] = end if known is None else max(known, end)
        for split, position in progress.positions.items():
            self.positions[split] = max(position, self.positions.get(split, 0))
        if progress.split is not None and progress.newest is not None:
            timestamp_ms, _ = progress.newest
            before = self.watermarks.get(progress.split)
            self.watermarks[progress.split] = timestamp_ms if before is None else max(before, timestamp_ms)
            if self.newest is None or progress.newest > self.newest:
                self.newest = progress.newest
        self.finished.update(progress.finished)
        for split in {*progress.ends, *progress.positions}:
            known_end = self.ends.get(split)
            if known_end is None or self.positions[split] < known_end:
                self._unread.add(split)
            else:
                self._unread.discard(split)
        self._advance()

    def _advance(self) -> None:
        if self._unread:
            candidates = [self.watermarks.get(split) for split in self._unread]
            known = [c for c in candidates if c is not None]
            if len(known) < len(candidates):
                return  # a split that holds unread events has not been seen yet: nothing is known of its time
            watermark_ms = min(known)
        elif self.watermarks:
            watermark_ms = max(self.watermarks.values())
        else:
            return
        if self.watermark_ms is None or watermark_ms > self.watermark_ms:
            self.watermark_ms = watermark_ms

    @property
    def all_read(self) -> bool:
        return not self._unread

    @property
    def all_finished(self) -> bool:
        return self.finished >= self.positions.keys()

    def save(self) -> tuple[Any, ...]:
        return (dict(self.positions), dict(self.ends), dict(self.watermarks), self.newest, self.watermark_ms)

    def load(self, saved: tuple[Any, ...]) -> None:
        """Go on from a snapshot. What is unread is found out anew: splits whose end is not known yet hold time back."""
        positions, _, self.watermarks, self.newest, self.watermark_ms = saved
        self.positions.update(positions)
        self.watermarks = dict(self.watermarks)


class KeyGroup(StatefulBatchLogic[KeyGroupMessage, SinkItem, bytes]):
    """The state of one key group.

    ``emit`` makes what is written of closed windows and late events, with the new mark. ``marks`` are what the log says has
    been written, by key group (Bytewax tells only messages which group this is); ``resume`` is the snapshot to go on from.
    Windows that the mark says are written are not written again, and of the late events that come by again those before
    the mark's cut are left out: they have been written as well.
    """

    def __init__(
        self,
        window: TumblingWindow,
        splits: Sequence[str],
        emit: Callable[[str, list[ClosedWindow], list[LateEvents], WindowMark], SinkItem],
        marks: Mapping[str, WindowMark],
        resume: bytes | None,
    ) -> None:
        self._window = window
        self._emit = emit
        self._clock = Clock(splits)
        self._windows: dict[int, dict[bytes, WindowState]] = {}
        self._closed_through_ms: int | None = None
        self._marks = marks
        self._mark: WindowMark | None = None
        if resume is not None:
            clock, self._windows, self._closed_through_ms = pickle.loads(resume)  # noqa: S301 - our own snapshot
            self._clock.load(clock)

    def on_batch(self, values: list[KeyGroupMessage]) -> tuple[list[SinkItem], bool]:
        items = []
        for message in values:
            mark = self._mark or self._recall(message.key_group)
            late = self._take(message, mark)
            self._clock.take(message.progress)
            closed = self._close(message.progress)
            if closed or late:
                items.append(self._write(message.key_group, mark, closed, late))
        return items, StatefulBatchLogic.RETAIN

    def _recall(self, key_group: str) -> WindowMark:
        """Leave out what the log says has been written already."""
        self._mark = mark = self._marks.get(key_group) or WindowMark()
        written_ms = mark.closed_through_ms
        if written_ms is not None and (self._closed_through_ms is None or written_ms > self._closed_through_ms):
            self._closed_through_ms = written_ms
            for start_ms in [s for s in self._windows if self._close_time_ms(s) <= written_ms]:
                del self._windows[start_ms]
        return mark

    def snapshot(self) -> bytes:
        return pickle.dumps((self._clock.save(), self._windows, self._closed_through_ms), pickle.HIGHEST_PROTOCOL)

    def _close_time_ms(self, start_ms: int) -> int:
        return start_ms + self._window.window_size_ms + self._window.grace_period_ms

    def _take(self, message: KeyGroupMessage, mark: WindowMark) -> list[LateEvents]:
        late = []
        split = message.progress.split or ""
        news = message.end > mark.cut.get(split, 0)  # else what was late has been written before
        if news:
            late += [self._late(split, message, item.window_start_ms, item.indexes) for item in message.late]
        for partial in message.partials:
            close_time_ms = self._close_time_ms(partial.window_start_ms)
            if self._closed_through_ms is not None and close_time_ms <= self._closed_through_ms:
                if news:
                    late.append(self._late(split, message, partial.window_start_ms, partial.indexes))
                continue
            self._add(partial)
        return late

    def _late(self, split: str, message: KeyGroupMessage, start_ms: int, indexes: list[int]) -> LateEvents:
        offsets = [message.begin + i for i in indexes]
        return LateEvents(split, start_ms, start_ms + self._window.window_size_ms, offsets)

    def _add(self, partial: Partial) -> None:
        window = self._windows.get(partial.window_start_ms)
        if window is None:
            window = self._windows[partial.window_start_ms] = {}
        state = window.get(partial.key)
        if state is None:
            window[partial.key] = WindowState(len(partial.indexes), partial.fields)
        else:
            state.count += len(partial.indexes)
            for into, other in zip(state.fields, partial.fields, strict=True):
                merge(into, other)

    def _close(self, progress: Progress) -> list[ClosedWindow]:
        """Close what is due; the windows in order of their ends, then keys."""
        through_ms = self._clock.watermark_ms
        if self._clock.all_finished:
            through_ms = self._latest(through_ms, (self._close_time_ms(s) for s in self._windows))
        elif progress.clock_ms is not None and self._clock_may_close():
            until_ms = progress.clock_ms - (self._window.close_when_idle_ms or 0)
            due = (t for s in self._windows if (t := self._close_time_ms(s)) <= until_ms)
            through_ms = self._latest(through_ms, due)
        if through_ms is None or (self._closed_through_ms is not None and through_ms <= self._closed_through_ms):
            return []
        self._closed_through_ms = through_ms
        due_starts = sorted(s for s in self._windows if self._close_time_ms(s) <= through_ms)
        size_ms = self._window.window_size_ms
        return [
            ClosedWindow(start_ms, start_ms + size_ms, key, state)
            for start_ms in due_starts
            for key, state in sorted(self._windows.pop(start_ms).items())
        ]

    @staticmethod
    def _latest(first_ms: int | None, others_ms: Iterator[int]) -> int | None:
        return max((t for t in (first_ms, *others_ms) if t is not None), default=None)

    def _clock_may_close(self) -> bool:
        """Whether the stream is idle and was live: its newest event was appended soon after its own time."""
        if self._window.close_when_idle_ms is None or not self._clock.all_read or self._clock.newest is None:
            return False
        timestamp_ms, appended_at_ms = self._clock.newest
        return appended_at_ms - timestamp_ms <= self._window.window_size_ms + self._window.grace_period_ms

    def _write(self, key_group: str, mark: WindowMark, closed: list[ClosedWindow], late: list[LateEvents]) -> SinkItem:
        mark.closed_through_ms = self._closed_through_ms
        # A split that is read again after a crash may still be behind what was written of it: the cut never goes back.
        cut = mark.cut
        mark.cut = {s: max(at, cut.get(s, 0)) for s, at in self._clock.positions.items() if at or s in cut}
        mark.late += sum(len(item.offsets) for item in late)
        mark.emitted += sum(window.state.count for window in closed)
        mark.windows += len(closed)
        mark.updated_at_ms = time.time_ns() // 1_000_000
        return self._emit(key_group, closed, late, mark)
