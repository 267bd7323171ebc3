"""The window of a windowed processor, as its ``window_config`` says."""

from enum import StrEnum
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Table,
    choice,
    duration_ms,
    read_table,
    required,
)

DEFAULT_CLOSE_WHEN_IDLE_MS: Final = 1000
DEFAULT_MAX_FUTURE_MS: Final = 86_400_000
NEVER: Final = "never"
OTHER_WINDOW_TYPES: Final = ("hopping", "sliding", "session", "count", "calendar", "global")


class CalendarUnit(StrEnum):
    """What a calendar window spans. A week begins on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How a processor with state deals with time.

    An event is waited for until the watermark is ``grace_period_ms`` past its time. On a stream read to its end, time goes by
    the clock, ``close_when_idle_ms`` behind it; None means that the clock is never asked. An event whose time is more than
    ``max_future_ms`` after it was appended is a dead letter, and does not move the watermark; None means that there is no bound.
    """

    grace_period_ms: int = 0
    close_when_idle_ms: int | None = DEFAULT_CLOSE_WHEN_IDLE_MS
    max_future_ms: int | None = DEFAULT_MAX_FUTURE_MS

    def timing_data(self) -> dict[str, object]:
        return {
            "grace_period_ms": self.grace_period_ms,
            "close_when_idle_ms": NEVER if self.close_when_idle_ms is None else self.close_when_idle_ms,
            "max_future_ms": NEVER if self.max_future_ms is None else self.max_future_ms,
        }


class Updates(msgspec.Struct, frozen=True, kw_only=True):
    """Results before a window closes: at every multiple of ``every_ms`` in event time since the window's start (since
    1970-01-01 UTC for a session or global window), or with every ``every_events`` events of a key; one of the two is set.

    An update, too, waits for the grace period, so that it is the same in every run. ``retract``: what the last update said is
    taken back, by an event that says the same with ``retraction: true``, before the next one.
    """

    every_ms: int | None = None
    every_events: int | None = None
    retract: bool = False


class TumblingWindow(Timing, frozen=True, kw_only=True):
    """Windows of one size, side by side: an event at ``t`` is in the one that starts at the last
    ``offset_ms + k * window_size_ms`` not after ``t`` (milliseconds since 1970-01-01 UTC, ``k`` any integer).
    """

    window_type: ClassVar[str] = "tumbling"
    window_size_ms: int
    offset_ms: int = 0
    updates: Updates | None = None

    def to_data(self) -> dict[str, object]:
        return {
            "window_type": "tumbling",
            "window_size_ms": self.window_size_ms,
            "offset_ms": self.offset_ms,
            "grace_period_ms": self.grace_period_ms,
            "close_when_idle_ms": NEVER if self.close_when_idle_ms is None else self.close_when_idle_ms,
        }


class HoppingWindow(Timing, frozen=True, kw_only=True):
    """Windows of ``window_size_ms`` that start every ``advance_ms``: at ``offset_ms + k * advance_ms``. ``advance_ms`` is at
    most the size."""

    window_type: ClassVar[str] = "hopping"
    window_size_ms: int
    advance_ms: int
    offset_ms: int = 0


class SlidingWindow(Timing, frozen=True, kw_only=True):
    """For each time ``t`` at which a key has events, the window of the key's events in ``(t - window_size_ms, t]``."""

    window_type: ClassVar[str] = "sliding"
    window_size_ms: int


class SessionWindow(Timing, frozen=True, kw_only=True):
    """Runs of a key's events with no more than ``gap_ms`` between neighbours. It starts with its first event and ends
    ``gap_ms`` after its last."""

    window_type: ClassVar[str] = "session"
    gap_ms: int
    updates: Updates | None = None


class CountWindow(Timing, frozen=True, kw_only=True):
    """Every ``advance_events`` events of a key (in the order of their times), the last ``window_size_events`` of them. The two
    are equal unless the windows overlap. It starts with its first event and ends with its last. Windows that are not full at
    the end are never given out."""

    window_type: ClassVar[str] = "count"
    window_size_events: int
    advance_events: int


class CalendarWindow(Timing, frozen=True, kw_only=True):
    """Hours, days, weeks, ... of a time zone (of the IANA database); a day is 23 or 25 hours long when clocks change."""

    window_type: ClassVar[str] = "calendar"
    calendar_unit: CalendarUnit
    time_zone: str = "UTC"
    updates: Updates | None = None


class GlobalWindow(Timing, frozen=True, kw_only=True):
    """One window for all time, which never closes: its results are updates. It starts and ends nowhere (``window_start`` and
    ``window_end`` are null)."""

    window_type: ClassVar[str] = "global"
    updates: Updates


Window: TypeAlias = TumblingWindow | HoppingWindow | SlidingWindow | SessionWindow | CountWindow | CalendarWindow | GlobalWindow


def _close_when_idle(value: object, path: Path, problems: Problems) -> Any:
    if isinstance(value, str) and value.casefold() == NEVER:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return problems.reject(path, f"an integer >= 0 or {NEVER!r}", value)
    return duration_ms(0)(value, path, problems)


_WINDOW: Final[Table] = {
    "window_type": required(choice(["tumbling"], unavailable=OTHER_WINDOW_TYPES, fold=str.casefold)),
    "window_size_ms": required(duration_ms(1)),
    "grace_period_ms": Field(duration_ms(0), default=0),
    "offset_ms": Field(duration_ms(0), default=0),
    "close_when_idle_ms": Field(_close_when_idle, default=DEFAULT_CLOSE_WHEN_IDLE_MS),
}


def read_window(value: object, path: Path, problems: Problems) -> Any:
    """The ``TumblingWindow`` of a ``window_config``."""
    values = read_table(value, path, _WINDOW, problems)
    if values is None:
        return BAD
    if values["offset_ms"] >= values["window_size_ms"]:
        return problems.reject((*path, "offset_ms"), "an offset smaller than window_size_ms", values["offset_ms"])
    del values["window_type"]
    return TumblingWindow(**values)
