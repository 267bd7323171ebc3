"""The clock of a key group: where it stands in time.

Time is event time. The watermark of a split is its largest timestamp so far. Results of another processor come with its horizons,
one for each of its key groups. The watermark here is the smallest of those splits that hold unread events and of these
horizons, and the largest of all where there are neither; it never goes back. On streams that were read to their end, and are
live, time goes by the clock on the wall.
"""

from collections.abc import Sequence
from typing import Any

from event_streaming_bus.flows.folds.base import FOREVER
from event_streaming_bus.flows.items import Progress


class Clock:
    """The progress of every split, and of every key group of processors whose results are read (``upstream``).

    ``close_when_idle_ms``: how far time stays behind the clock on the wall while nothing is there to be read; None: for ever.
    ``live_ms``: events appended no longer than this after their time are live.
    """

    def __init__(
        self, splits: Sequence[str], upstream: Sequence[str] = (), close_when_idle_ms: int | None = None, live_ms: int = 0
    ) -> None:
        self.positions: dict[str, int] = dict.fromkeys(splits, 0)
        self.ends: dict[str, int | None] = dict.fromkeys(splits)
        self.watermarks: dict[str, int] = {}
        self.newest: tuple[int, int] | None = None
        self.finished: set[str] = set()
        self.watermark_ms: int | None = None
        self._unread = set(splits)
        self._horizons: dict[str, int | None] = dict.fromkeys(upstream)
        self._close_when_idle_ms = close_when_idle_ms
        self._live_ms = live_ms

    def take(self, progress: Progress) -> None:
        """Note the progress; ``watermark_ms`` is up to date afterwards."""
        if progress.horizons:
            self._take_horizons(progress.horizons)
        if progress.positions or progress.ends:
            self._take_positions(progress)
        if progress.newest is not None and (self.newest is None or progress.newest > self.newest):
            self.newest = progress.newest
        self.finished.update(progress.finished)
        self._advance(progress.clock_ms)

    def _take_horizons(self, horizons: dict[str, int]) -> None:
        known = self._horizons
        for key_group, horizon_ms in horizons.items():
            before_ms = known[key_group]
            if before_ms is None or horizon_ms > before_ms:
                known[key_group] = horizon_ms

    def _take_positions(self, progress: Progress) -> None:
        for split, end in progress.ends.items():
            known = self.ends.get(split)
            self.ends[split] = end if known is None else max(known, end)
        for split, position in progress.positions.items():
            self.positions[split] = max(position, self.positions.get(split, 0))
        if progress.split is not None and progress.newest is not None:
            timestamp_ms, _ = progress.newest
            before = self.watermarks.get(progress.split)
            self.watermarks[progress.split] = timestamp_ms if before is None else max(before, timestamp_ms)
        for split in (*progress.ends, *progress.positions):
            known_end = self.ends.get(split)
            # A split of a stream that has grown since may have no position yet.
            if known_end is None or self.positions.get(split, 0) < known_end:
                self._unread.add(split)
            else:
                self._unread.discard(split)

    def _advance(self, clock_ms: int | None) -> None:
        candidates = [self.watermarks.get(split) for split in self._unread]
        candidates += [h for h in self._horizons.values() if h != FOREVER]
        if candidates:
            known = [c for c in candidates if c is not None]
            if len(known) < len(candidates):
                return  # one that may still have something has not been heard of yet: nothing is known of its time
            watermark_ms = min(known)
        elif self.watermarks:
            watermark_ms = max(self.watermarks.values())
            if clock_ms is not None and self._close_when_idle_ms is not None and self._was_live():
                watermark_ms = max(watermark_ms, clock_ms - self._close_when_idle_ms)
        else:
            return
        if self.watermark_ms is None or watermark_ms > self.watermark_ms:
            self.watermark_ms = watermark_ms

    def _was_live(self) -> bool:
        """Whether the newest event was appended soon after its own time: history loaded late is never closed by the clock."""
        if self.newest is None:
            return False
        timestamp_ms, appended_at_ms = self.newest
        return appended_at_ms - timestamp_ms <= self._live_ms

    @property
    def all_finished(self) -> bool:
        """Whether nothing more will come: all splits have ended for good, and all results have come out."""
        return self.finished >= self.positions.keys() and all(h == FOREVER for h in self._horizons.values())

    def save(self) -> tuple[Any, ...]:
        return (dict(self.positions), dict(self.watermarks), self.newest, self.watermark_ms, dict(self._horizons))

    def load(self, saved: tuple[Any, ...]) -> None:
        """Go on from a snapshot. What is unread is found out anew: splits whose end is not known yet hold time back.

        Results that had all come out may be followed by others in this run.
        """
        positions, watermarks, self.newest, self.watermark_ms, horizons = saved
        self.positions.update(positions)
        self.watermarks = dict(watermarks)
        for key_group in self._horizons:
            horizon_ms = horizons.get(key_group)
            self._horizons[key_group] = None if horizon_ms == FOREVER else horizon_ms
