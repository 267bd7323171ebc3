"""Calendar windows: hours, days, weeks, months, quarters and years as the clocks and calendars of a time zone show them."""

from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from event_streaming_bus.flows.window_config import CalendarUnit

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL_EPOCH: Final = datetime(1970, 1, 1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DAY: Final = timedelta(days=1)
_HOUR_MS: Final = 3_600_000
_SLOT_MS: Final = 900_000
_MAX_SLOTS: Final = 4096
_CYCLE_MS: Final = 146_097 * 86_400_000
"""400 years: the calendar, weekdays included, and the rules of time zones repeat after it."""
_EARLIEST_MS: Final = (datetime(400, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LATEST_MS: Final = (datetime(9600, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND


class Calendar:
    """The calendar windows of one unit in one time zone. They follow each other without gaps or overlaps.

    A day starts when the clocks of the zone first show its midnight or, where they jump over midnight, with the jump; a day that
    they jump over altogether has no window. Weeks (from Monday), months, quarters and years start with their first day. An hour
    ends when the clocks show a full hour, or jump into another one: where they are set back from 2:00 to 1:00 there are two
    windows of 60 minutes, and where they are set back from 2:00 to 1:30 there is one of 90.
    """

    __slots__ = ("_end_ms", "_last", "_slots", "_start_ms", "_unit", "_zone")

    def __init__(self, unit: CalendarUnit, time_zone: str) -> None:
        self._unit = unit
        self._zone = ZoneInfo(time_zone)
        self._start_ms = self._end_ms = 0
        self._last = (0, 0)
        self._slots: dict[int, tuple[int, int]] = {}

    def bounds(self, timestamp_ms: int) -> tuple[int, int]:
        """``(start_ms, end_ms)`` of the window that holds a time in the years 1 to 9999; the end is the start of the next."""
        if self._start_ms <= timestamp_ms < self._end_ms:
            return self._last
        # Nearly every window starts at a quarter of an hour of UTC, so what holds one time of a quarter holds all of it.
        slot = timestamp_ms // _SLOT_MS
        bounds = self._slots.get(slot)
        if bounds is None or not bounds[0] <= timestamp_ms < bounds[1]:
            bounds = self._find(timestamp_ms)
            if len(self._slots) >= _MAX_SLOTS:
                self._slots.clear()
            self._slots[slot] = bounds
        self._start_ms, self._end_ms = self._last = bounds
        return bounds

    def _find(self, timestamp_ms: int) -> tuple[int, int]:
        # Near the first and the last year that a datetime can have, one cycle off is as good and leaves room for offsets.
        shift_ms = _CYCLE_MS if timestamp_ms < _EARLIEST_MS else -_CYCLE_MS if timestamp_ms >= _LATEST_MS else 0
        at_ms = timestamp_ms + shift_ms
        if self._unit is CalendarUnit.HOUR:
            start_ms, end_ms = self._hour_start(at_ms), self._hour_end(at_ms)
        else:
            start_ms, end_ms = self._days(at_ms)
        return start_ms - shift_ms, end_ms - shift_ms

    def _local(self, at_ms: int) -> datetime:
        return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self._zone)

    def _clock_ms(self, at_ms: int) -> int:
        """What the clocks show, in milliseconds since they showed the start of 1970."""
        return (self._local(at_ms).replace(tzinfo=None) - _LOCAL_EPOCH) // _MILLISECOND

    # Days and what is made of days

    def _days(self, at_ms: int) -> tuple[int, int]:
        day = self._first_day(self._local(at_ms).date())
        start_ms = self._midnight(day)
        while True:
            day = self._next_first_day(day)
            end_ms = self._midnight(day)
            # Clocks set back over midnight show the old day again, though the new one has begun.
            if at_ms < end_ms:
                return start_ms, end_ms
            start_ms = end_ms

    def _first_day(self, day: date) -> date:
        match self._unit:
            case CalendarUnit.WEEK:
                return day - _DAY * day.weekday()
            case CalendarUnit.MONTH:
                return day.replace(day=1)
            case CalendarUnit.QUARTER:
                return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
            case CalendarUnit.YEAR:
                return day.replace(month=1, day=1)
            case _:
                return day

    def _next_first_day(self, first_day: date) -> date:
        """The first day of the window after the one that starts with ``first_day``."""
        longest_days = {CalendarUnit.WEEK: 7, CalendarUnit.MONTH: 31, CalendarUnit.QUARTER: 92, CalendarUnit.YEAR: 366}
        return self._first_day(first_day + _DAY * longest_days.get(self._unit, 1))

    def _midnight(self, day: date) -> int:
        """When the clocks first show 0:00 of ``day`` or later."""
        shown = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        shown_ms = (shown.replace(tzinfo=None) - _LOCAL_EPOCH) // _MILLISECOND
        high = (shown - _EPOCH) // _MILLISECOND  # of two such times the earlier one, since ``fold`` is 0
        if self._clock_ms(high) == shown_ms:
            return high
        low = (shown.replace(fold=1) - _EPOCH) // _MILLISECOND  # before the jump, as ``high`` is at it or after
        while high - low > 1:
            middle = (low + high) // 2
            if self._clock_ms(middle) >= shown_ms:
                high = middle
            else:
                low = middle
        return high

    # Hours

    def _hour_start(self, at_ms: int) -> int:
        while True:
            clock_ms = self._clock_ms(at_ms)
            start_ms = at_ms - clock_ms % _HOUR_MS
            jump_ms = self._last_jump(start_ms - 1, at_ms)
            if jump_ms is None:
                return start_ms
            if self._is_hour_start(jump_ms):
                return jump_ms
            at_ms = jump_ms - 1  # the clocks were set back within the hour

    def _hour_end(self, at_ms: int) -> int:
        while True:
            end_ms = at_ms + _HOUR_MS - self._clock_ms(at_ms) % _HOUR_MS
            jump_ms = self._last_jump(at_ms, end_ms)
            if jump_ms is None:
                return end_ms
            if self._is_hour_start(jump_ms):
                return jump_ms
            at_ms = jump_ms

    def _is_hour_start(self, jump_ms: int) -> bool:
        clock_ms = self._clock_ms(jump_ms)
        return clock_ms % _HOUR_MS == 0 or clock_ms // _HOUR_MS != self._clock_ms(jump_ms - 1) // _HOUR_MS

    def _last_jump(self, after_ms: int, until_ms: int) -> int | None:
        """When the clocks jumped in ``(after_ms, until_ms]``; they jump once in so short a time."""
        before = self._clock_ms(after_ms) - after_ms
        if self._clock_ms(until_ms) - until_ms == before:
            return None
        low, high = after_ms, until_ms
        while high - low > 1:
            middle = (low + high) // 2
            if self._clock_ms(middle) - middle == before:
                low = middle
            else:
                high = middle
        return high
