"""The state of a processor in one key group: slices of time that are summed up, or a fold that takes events in order."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from event_streaming_bus.flows.aggregations import FieldPartial, FieldPlan, merge_all, summarize_all
from event_streaming_bus.flows.folds.base import FOREVER, Entry, Fold, Result, Tally, TimedQueue
from event_streaming_bus.flows.folds.windows import WindowResult, copied
from event_streaming_bus.flows.items import KeyGroupMessage, LatePartial, Partial
from event_streaming_bus.flows.slices import Slicing, missed

_ORDER: Final = itemgetter(0, 1, 2)
_TIME: Final = itemgetter(0)
_BEFORE_ALL: Final = -FOREVER
_WAITING: Final = 256
"""So many values of a key may wait in a slice to be summed up."""

MissedWindow: TypeAlias = Callable[[int], tuple[int, int]]
"""The window that an event at a time would have been in."""


class KeyedState(Protocol):
    """What a key group keeps. Time is the horizon: before it, every event has been taken."""

    def take(self, message: KeyGroupMessage, floor_ms: int | None) -> tuple[list[LatePartial], int]:
        """Take what a message holds, but for what is too late at the horizon ``floor_ms`` (``None``: nothing is).

        Returns what is late, and how many of its events were not taken at all.
        """
        ...

    def advance(self, horizon_ms: int, tally: Tally) -> list[Result]:
        """Everything that is due by the horizon, in order."""
        ...

    def close(self, horizon_ms: int, tally: Tally) -> tuple[list[Result], int]:
        """As nothing will follow them: everything that the events before the horizon still make, and the least horizon that all
        these events lie before. What comes later starts afresh."""
        ...

    def save(self) -> Any: ...

    def load(self, saved: Any) -> None: ...


class _Slot:
    """One slice of one key: how many events, and what is kept of their fields.

    Values wait in columns until there are many of them, or the window closes: summing up a column is much faster than adding
    up sums.
    """

    __slots__ = ("columns", "count", "fields")

    def __init__(self, count: int, columns: Sequence[list[Any]], fields: list[FieldPartial] | None) -> None:
        self.count = count
        self.columns = columns
        self.fields = fields

    def __setstate__(self, saved: tuple[int, Sequence[list[Any]], list[FieldPartial] | None]) -> None:
        """Reads a snapshot of before slots were saved in columns."""
        self.count, self.columns, self.fields = saved

    def sums(self, plans: Sequence[FieldPlan]) -> list[FieldPartial]:
        """What is kept of the fields, all summed up."""
        if self.columns and self.columns[0]:
            fresh = summarize_all(plans, self.columns)
            self.columns = ()
            self.add(fresh)
        return self.fields if self.fields is not None else [FieldPartial() for _ in plans]

    def add(self, fields: list[FieldPartial]) -> None:
        """More values, summed up."""
        if self.fields is None:
            self.fields = fields
        else:
            merge_all(self.fields, fields)


class SlicedState:
    """Windows that lie fixed in time, put together from slices. Each result is given out once, at the window's end."""

    def __init__(self, slicing: Slicing, plans: Sequence[FieldPlan]) -> None:
        self._slicing = slicing
        self._plans = plans
        # By slice and from_end_ms: events that are late for some of their windows count only in those that end later.
        self._slices: dict[tuple[int, int], dict[bytes, _Slot]] = {}
        self._ends = TimedQueue()

    def take(self, message: KeyGroupMessage, floor_ms: int | None) -> tuple[list[LatePartial], int]:
        late: list[LatePartial] = []
        lost = 0
        slice_ms: int | None = None
        of_slice: dict[bytes, _Slot] | None = None
        late_for_some = False
        partial: Partial
        for partial in message.content:
            if partial.slice_ms != slice_ms:  # those of a slice come together
                slice_ms, of_slice = partial.slice_ms, None
                late_for_some = floor_ms is not None and self._slicing.windows(slice_ms)[0][1] <= floor_ms
            if late_for_some or partial.from_end_ms is not None:
                first_ms, too_late = self._first_end(partial, floor_ms)
                late += too_late
                if first_ms is None:
                    lost += len(partial.indexes)
                else:
                    self._keep(self._slice((slice_ms, first_ms)), partial)
                continue
            if of_slice is None:
                of_slice = self._slice((slice_ms, _BEFORE_ALL))
            self._keep(of_slice, partial)
        return late, lost

    def _first_end(self, partial: Partial, floor_ms: int | None) -> tuple[int | None, list[LatePartial]]:
        """The end of the first window that the events can still be in (``None``: they can be in none), and the windows missed."""
        windows = self._slicing.windows(partial.slice_ms)
        first_ms = _BEFORE_ALL if partial.from_end_ms is None else partial.from_end_ms
        gone = 0 if floor_ms is None else missed(windows, floor_ms)
        if not gone or windows[gone - 1][1] <= first_ms:
            return first_ms, []
        late = [LatePartial(*window, partial.indexes) for window in windows[:gone] if window[1] > first_ms]
        return (None if gone == len(windows) else windows[gone][1]), late

    def _keep(self, of_slice: dict[bytes, _Slot], partial: Partial) -> None:
        slot = of_slice.get(partial.key)
        if slot is None:
            of_slice[partial.key] = _Slot(len(partial.indexes), partial.columns, partial.fields)
            return
        slot.count += len(partial.indexes)
        if partial.fields is not None:
            slot.add(partial.fields)
        elif not slot.columns:
            slot.columns = partial.columns
        else:
            for column, more in zip(slot.columns, partial.columns, strict=True):
                column += more
            if len(slot.columns[0]) > _WAITING:
                slot.sums(self._plans)

    def _slice(self, place: tuple[int, int]) -> dict[bytes, _Slot]:
        """What is kept of a slice; a new one is noted to close with its windows."""
        of_slice = self._slices.get(place)
        if of_slice is None:
            of_slice = self._slices[place] = {}
            for start_ms, end_ms in self._slicing.windows(place[0]):
                if end_ms >= place[1]:
                    self._ends.push(end_ms, start_ms)
        return of_slice

    def advance(self, horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        ended: tuple[int, int] | None = None
        while self._ends.next_ms <= horizon_ms and len(self._ends):
            end_ms, start_ms = self._ends.pop()
            if (start_ms, end_ms) == ended:
                continue  # each of its slices told of it
            ended = (start_ms, end_ms)
            results += self._close(start_ms, end_ms, tally)
        return results

    def close(self, horizon_ms: int, tally: Tally) -> tuple[list[Result], int]:
        results = self.advance(horizon_ms, tally)
        return results, results[-1].at_ms if results else -FOREVER

    def _close(self, start_ms: int, end_ms: int, tally: Tally) -> Iterator[Result]:
        parts: list[tuple[dict[bytes, _Slot], bool]] = []
        for slice_ms in self._slicing.slices(start_ms, end_ms):
            windows = self._slicing.windows(slice_ms)
            last = windows[-1][1] == end_ms
            for place in self._places(slice_ms, windows):
                if place[1] > end_ms:
                    continue
                part = self._slices.pop(place) if last else self._slices[place]
                if last:
                    tally.released += sum(slot.count for slot in part.values())
                parts.append((part, last))
        identity = (start_ms, end_ms)
        if len(parts) == 1 and parts[0][1]:  # a window that is one slice
            plans, of_slice = self._plans, parts[0][0]
            for key in sorted(of_slice):
                slot = of_slice[key]
                yield Result(end_ms, end_ms, key, identity, WindowResult(start_ms, end_ms, slot.count, slot.sums(plans)))
            return
        counts: dict[bytes, int] = {}
        sums: dict[bytes, list[FieldPartial]] = {}
        for part, last in parts:
            for key, slot in part.items():
                fields = slot.sums(self._plans)
                if key in counts:
                    counts[key] += slot.count
                    merge_all(sums[key], fields)
                else:
                    counts[key] = slot.count
                    sums[key] = fields if last else copied(fields)
        for key in sorted(counts):
            yield Result(end_ms, end_ms, key, identity, WindowResult(start_ms, end_ms, counts[key], sums[key]))

    def _places(self, slice_ms: int, windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Where events of the slice are kept."""
        if len(windows) == 1:
            return [(slice_ms, _BEFORE_ALL)] if (slice_ms, _BEFORE_ALL) in self._slices else []
        firsts = [_BEFORE_ALL, *(end_ms for _, end_ms in windows[1:])]
        return [(slice_ms, first_ms) for first_ms in firsts if (slice_ms, first_ms) in self._slices]

    def save(self) -> Any:
        return {place: _packed(of_slice) for place, of_slice in self._slices.items()}, self._ends.save()

    def load(self, saved: Any) -> None:
        slices, ends = saved
        self._slices = {place: kept if isinstance(kept, dict) else _unpacked(kept) for place, kept in slices.items()}
        self._ends = TimedQueue(ends)


_Packed: TypeAlias = tuple[list[bytes], list[int], list[Sequence[list[Any]]], list[list[tuple[Any, ...]] | None]]
"""The slots of a slice in columns: keys, counts, values that wait, and what is summed up. There may be a million of them, and
pickling lists of plain values is several times as fast as pickling objects."""


def _packed(of_slice: dict[bytes, _Slot]) -> _Packed:
    slots = of_slice.values()
    fields = [None if slot.fields is None else list(map(msgspec.structs.astuple, slot.fields)) for slot in slots]
    return list(of_slice), [slot.count for slot in slots], [slot.columns for slot in slots], fields


def _unpacked(kept: _Packed) -> dict[bytes, _Slot]:
    keys, *columns = kept
    slots = (
        _Slot(count, waiting, sums and [FieldPartial(*each) for each in sums])
        for count, waiting, sums in zip(*columns, strict=True)
    )
    return dict(zip(keys, slots, strict=True))


class OrderedState:
    """Events are held until the horizon has passed them, put in order, and handed to a fold."""

    def __init__(self, fold: Fold, missed_window: MissedWindow) -> None:
        self._fold = fold
        self._missed_window = missed_window
        self._held: list[Entry] = []  # in order
        self._fresh: list[Entry] = []  # not yet

    def take(self, message: KeyGroupMessage, floor_ms: int | None) -> tuple[list[LatePartial], int]:
        entries: list[Entry] = message.content
        if floor_ms is None or not entries or min(map(_TIME, entries)) >= floor_ms:
            self._fresh += entries
            return [], 0
        self._fresh += [entry for entry in entries if entry[0] >= floor_ms]
        late = [entry for entry in entries if entry[0] < floor_ms]
        return [LatePartial(*self._missed_window(entry[0]), [entry[6]]) for entry in late], len(late)

    def advance(self, horizon_ms: int, tally: Tally) -> list[Result]:
        return self._fold.run(self._due(horizon_ms), horizon_ms, tally)

    def close(self, horizon_ms: int, tally: Tally) -> tuple[list[Result], int]:
        due = self._due(horizon_ms)
        return self._fold.run(due, FOREVER, tally), due[-1][0] + 1 if due else -FOREVER

    def _due(self, horizon_ms: int) -> list[Entry]:
        """Take out what is held of the time before the horizon, in order."""
        if self._fresh:
            self._put_in_order()
        held = self._held
        if not held or held[-1][0] < horizon_ms:
            self._held = []
            return held
        due = bisect_left(held, horizon_ms, key=_TIME)
        self._held = held[due:]
        return held[:due]

    def _put_in_order(self) -> None:
        """What is fresh belongs near the end, so only that part of what is held is looked at again."""
        fresh, held = self._fresh, self._held
        fresh.sort(key=_ORDER)
        at = bisect_left(held, _ORDER(fresh[0]), key=_ORDER)
        end = held[at:] + fresh
        if at < len(held):
            end.sort(key=_ORDER)
        held[at:] = end
        self._fresh = []

    def save(self) -> Any:
        if self._fresh:
            self._put_in_order()
        return [tuple(entry) for entry in self._held], self._fold.save()

    def load(self, saved: Any) -> None:
        self._held, fold = saved
        self._fold.load(fold)
