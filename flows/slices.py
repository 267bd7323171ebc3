"""Slices: how windows that lie fixed in time are put together from parts that do not overlap.

A tumbling or calendar window is one slice. Hopping windows overlap, so time is cut where any of them starts or ends, and each
event is summed up once, in its slice; a window's result is the sum of its slices (panes, as in J. Li et al., "No Pane, No
Gain", SIGMOD Record 34, 2005).
"""

from bisect import bisect_right
from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Protocol

from event_streaming_bus.flows.folds.calendar import Calendar
from event_streaming_bus.flows.window_config import CalendarWindow, HoppingWindow, TumblingWindow, Window

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code


class Slicing(Protocol):
    """How a kind of window is cut into slices. A slice is named by its start."""

    def write(self, code: "Code", number: str) -> str:
        """Write what generated code needs, and return the code for the start of the slice of ``t``."""
        ...

    def windows(self, slice_ms: int) -> list[tuple[int, int]]:
        """``(start, end)`` of the windows that the slice is in, by their ends."""
        ...

    def slices(self, start_ms: int, end_ms: int) -> list[int]:
        """The slices of a window."""
        ...


class HoppingSlices:
    """Windows of one size that start at ``offset_ms`` plus multiples of ``advance_ms``; tumbling ones among them."""

    def __init__(self, size_ms: int, advance_ms: int, offset_ms: int) -> None:
        self._size_ms = size_ms
        self._advance_ms = advance_ms
        self._offset_ms = offset_ms
        self._slice_ms = advance_ms if size_ms % advance_ms == 0 else gcd(advance_ms, size_ms)

    def write(self, code: "Code", number: str) -> str:
        offset_ms = self._offset_ms % self._slice_ms
        shifted = f"(t - {offset_ms})" if offset_ms else "t"
        return f"t - {shifted} % {self._slice_ms}"

    def windows(self, slice_ms: int) -> list[tuple[int, int]]:
        last_ms = slice_ms - (slice_ms - self._offset_ms) % self._advance_ms
        # The windows that hold the slice start at last, last - advance, ... as long as they reach to its end.
        count = (last_ms + self._size_ms - slice_ms - self._slice_ms) // self._advance_ms + 1
        starts = range(last_ms - (count - 1) * self._advance_ms, last_ms + 1, self._advance_ms)
        return [(start_ms, start_ms + self._size_ms) for start_ms in starts]

    def slices(self, start_ms: int, end_ms: int) -> list[int]:
        return list(range(start_ms, end_ms, self._slice_ms))


class CalendarSlices:
    """The days, weeks, ... of a time zone."""

    def __init__(self, window: CalendarWindow) -> None:
        self._calendar = Calendar(window.calendar_unit, window.time_zone)
        longest_days = {"hour": 1, "day": 2, "week": 8, "month": 32, "quarter": 93, "year": 367}
        self.longest_ms = longest_days[window.calendar_unit.value] * 86_400_000

    def write(self, code: "Code", number: str) -> str:
        bounds = code.constant(f"bounds{number}", self._calendar.bounds)
        code.prologue.append(f"lo{number} = hi{number} = 0")
        with code.block(f"if not lo{number} <= t < hi{number}:"):
            code.line(f"lo{number}, hi{number} = {bounds}(t)")
        return f"lo{number}"

    def windows(self, slice_ms: int) -> list[tuple[int, int]]:
        return [self._calendar.bounds(slice_ms)]

    def slices(self, start_ms: int, end_ms: int) -> list[int]:
        return [start_ms]


def slicing_of(window: Window | None) -> Slicing | None:
    """The slicing of a window whose results come at its end; ``None`` for one whose events have to be taken in order."""
    if isinstance(window, (TumblingWindow, CalendarWindow)) and window.updates is not None:
        return None
    if isinstance(window, TumblingWindow):
        return HoppingSlices(window.window_size_ms, window.window_size_ms, window.offset_ms)
    if isinstance(window, HoppingWindow):
        return HoppingSlices(window.window_size_ms, window.advance_ms, window.offset_ms)
    if isinstance(window, CalendarWindow):
        return CalendarSlices(window)
    return None


def bounds_of(window: TumblingWindow | CalendarWindow) -> Callable[[int], tuple[int, int]]:
    """What gives the ``(start, end)`` of the window that a time is in."""
    if isinstance(window, CalendarWindow):
        return Calendar(window.calendar_unit, window.time_zone).bounds
    size_ms, offset_ms = window.window_size_ms, window.offset_ms

    def bounds(timestamp_ms: int) -> tuple[int, int]:
        start_ms = timestamp_ms - (timestamp_ms - offset_ms) % size_ms
        return start_ms, start_ms + size_ms

    return bounds


def missed(windows: list[tuple[int, int]], horizon_ms: int) -> int:
    """How many of a slice's windows had ended by the horizon."""
    return bisect_right(windows, horizon_ms, key=lambda window: window[1])
