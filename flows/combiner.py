"""Combiners: what a chunk of events means for each key group of a processor with state.

One message goes to every key group with each chunk: those without events of the chunk are told of the progress. Which events are
late by their own split is found here, where the split is at hand.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.aggregations import field_plans, summarize_all
from event_streaming_bus.flows.gathering import KnownKeys
from event_streaming_bus.flows.items import Chunk, KeyGroupMessage, LatePartial, Partial, Progress, ToKeyGroup
from event_streaming_bus.flows.joined_envelopes import carrying
from event_streaming_bus.flows.key_groups import KEY_GROUP_NAMES, KEY_GROUPS
from event_streaming_bus.flows.outputs import with_parts
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors import aggregations_of, key_of, takes_events, timing_of
from event_streaming_bus.flows.rows import select_events
from event_streaming_bus.flows.segments import Gathered
from event_streaming_bus.flows.slices import Slicing, missed
from event_streaming_bus.flows.state_factory import missed_window_of, slicing_for
from event_streaming_bus.models import ProcessorType

_LONG_AGO: Final = -(1 << 62)
_SUM_UP_FROM: Final = 64
"""From so many values on, it is their sum that is sent to the key group, not the values."""


class SplitTime:
    """The watermark of a split before each event of a chunk."""

    def __init__(self, chunk: Chunk, timestamps_ms: Sequence[int]) -> None:
        self._timestamps_ms = timestamps_ms
        self._future = chunk.future
        self._first_ms = _LONG_AGO if chunk.watermark_ms is None else chunk.watermark_ms
        newest_ms = chunk.progress.newest[0] if chunk.progress.newest is not None else _LONG_AGO
        self.highest_ms = max(newest_ms, self._first_ms)
        self._before: list[int] | None = None

    def before(self, index: int) -> int:
        """The watermark before the event at ``index``."""
        return self._watermarks()[index]

    def reaches(self, watermark_ms: int) -> int:
        """The index of the first event before which the watermark is this far."""
        return bisect_left(self._watermarks(), watermark_ms)

    def _watermarks(self) -> list[int]:
        if self._before is None:
            times: Sequence[int] = self._timestamps_ms
            if self._future:
                times = [_LONG_AGO if i in self._future else t for i, t in enumerate(times)]
            self._before = list(accumulate(times, max, initial=self._first_ms))
        return self._before


class _Group(msgspec.Struct):
    """What one key group is sent."""

    content: list[Any]
    late: list[LatePartial]
    lost: int = 0


class Combiner:
    """Makes messages for the key groups of one processor of what was gathered for it."""

    def __init__(self, node: Node) -> None:
        self._number = node.number
        self._grace_ms = timing_of(node.spec).grace_period_ms
        self._slicing = slicing_for(node.spec)
        self._plans = field_plans(aggregations_of(node.spec)) if self._slicing is not None else ()
        self._takes_events = takes_events(node.spec)
        self._joins = node.spec.processor_type is ProcessorType.JOIN
        self._missed_window = missed_window_of(node.spec)
        self._keys = KnownKeys(len(key_of(node.spec)))

    def messages(
        self, gathered: Sequence[Gathered], progress: Progress, begin: int = 0, end: int = 0, time: SplitTime | None = None
    ) -> list[ToKeyGroup]:
        """One message for every key group. ``time`` is that of the split; without one, nothing is late."""
        groups = [_Group([], []) for _ in range(KEY_GROUPS)]
        for each in gathered:
            if self._slicing is not None:
                self._sum_up(each, self._slicing, groups, time)
            else:
                self._take_entries(each, groups, time)
        number = self._number
        return [
            (number, name, KeyGroupMessage(name, progress, begin, end, group.content, group.late, group.lost))
            for name, group in zip(KEY_GROUP_NAMES, groups, strict=True)
        ]

    def _sum_up(self, gathered: Gathered, slicing: Slicing, groups: list[_Group], time: SplitTime | None) -> None:
        known, place_of, roots = self._keys.known, self._keys.place, gathered.rows.roots
        direct = isinstance(roots, range)
        horizon_ms = _LONG_AGO if time is None else time.highest_ms - self._grace_ms
        for slice_ms, by_key in gathered.collected.items():
            windows = slicing.windows(slice_ms)
            # From this event of the chunk on, those of the slice are late for its first window at least.
            late_from: float = inf
            if time is not None and windows[0][1] <= horizon_ms:
                late_from = time.reaches(windows[0][1] + self._grace_ms)
            for values, (indexes, *columns) in by_key.items():
                number, key = known.get(values) or place_of(values)
                group = groups[number]
                places = indexes if direct else [roots[i] for i in indexes]
                if time is not None and (places[-1] if direct else max(places)) >= late_from:
                    self._sum_up_late(slice_ms, key, indexes, columns, windows, group, time, roots)
                elif len(places) < _SUM_UP_FROM:
                    group.content.append(Partial(slice_ms, key, places, columns))
                else:
                    group.content.append(self._partial(slice_ms, key, places, columns))

    def _partial(
        self, slice_ms: int, key: bytes, indexes: list[int], columns: list[list[Any]], from_end_ms: int | None = None
    ) -> Partial:
        if len(indexes) < _SUM_UP_FROM:
            return Partial(slice_ms, key, indexes, columns, None, from_end_ms)
        return Partial(slice_ms, key, indexes, (), summarize_all(self._plans, columns), from_end_ms)

    def _sum_up_late(
        self,
        slice_ms: int,
        key: bytes,
        indexes: list[int],
        columns: list[list[Any]],
        windows: list[tuple[int, int]],
        group: _Group,
        time: SplitTime,
        roots: Sequence[int],
    ) -> None:
        """As some events of the slice may be late for some of its windows: keep those together that are alike."""
        alike: dict[int, list[int]] = {}
        for n, i in enumerate(indexes):
            gone = missed(windows, time.before(roots[i]) - self._grace_ms)
            alike.setdefault(gone, []).append(n)
        for gone, members in sorted(alike.items()):
            places = [roots[indexes[n]] for n in members]
            group.late += [LatePartial(*window, places) for window in windows[:gone]]
            if gone == len(windows):
                group.lost += len(places)
                continue
            own = [[column[n] for n in members] for column in columns]
            group.content.append(self._partial(slice_ms, key, places, own, windows[gone][1] if gone else None))

    def _take_entries(self, gathered: Gathered, groups: list[_Group], time: SplitTime | None) -> None:
        by_group: list[list[Any]] = gathered.collected
        if self._takes_events:
            by_group = _with_events(gathered)
        elif self._joins:
            by_group = carrying(gathered.rows, by_group)
        roots = gathered.rows.roots
        if not isinstance(roots, range):
            by_group = [[(*entry[:6], roots[entry[6]]) for entry in entries] for entries in by_group]
        horizon_ms = _LONG_AGO if time is None else time.highest_ms - self._grace_ms
        for entries, group in zip(by_group, groups, strict=True):
            if not entries:
                continue
            if time is None or min(entry[0] for entry in entries) >= horizon_ms:
                group.content += entries
                continue
            for entry in entries:
                if entry[0] < time.before(entry[6]) - self._grace_ms:
                    group.late.append(LatePartial(*self._missed_window(entry[0]), [entry[6]]))
                    group.lost += 1
                else:
                    group.content.append(entry)


def _with_events(gathered: Gathered) -> list[list[Any]]:
    """The entries with the event itself as their value."""
    by_group: list[list[Any]] = gathered.collected
    made = iter(select_events(gathered.rows, [entry[6] for entries in by_group for entry in entries], {}))
    pairs = [[(entry, next(made)) for entry in entries] for entries in by_group]
    if gathered.is_mapped:
        pairs = [[(entry, with_parts(event, entry[5])) for entry, event in of_group] for of_group in pairs]
    return [[(*entry[:5], event, entry[6]) for entry, event in of_group] for of_group in pairs]
