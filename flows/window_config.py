"""The window of a windowed processor, as its ``window_config`` says."""

from collections.abc import Mapping
from enum import StrEnum
from math import gcd
from typing import Any, ClassVar, Final, TypeAlias
from zoneinfo import available_timezones

import msgspec

from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Table,
    boolean,
    choice,
    duration_ms,
    integer,
    listed,
    member,
    read_table,
    required,
    suggest,
    text,
)

DEFAULT_CLOSE_WHEN_IDLE_MS: Final = 1000
DEFAULT_MAX_FUTURE_MS: Final = 86_400_000
NEVER: Final = "never"
ON_CLOSE: Final = "on_close"
MAX_ADVANCES: Final = 10_000


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

    def to_data(self) -> dict[str, object]:
        """The ``window_config`` of a window."""
        own = {name: getattr(self, name) for name in self.__struct_fields__ if name not in Timing.__struct_fields__}
        updates = own.pop("updates", None)
        data = {name: str(value) if isinstance(value, StrEnum) else value for name, value in own.items()}
        window_type = {"window_type": getattr(self, "window_type", "")}
        return {**window_type, **data, **self.timing_data(), **({} if updates is None else {"emit": updates.to_data()})}

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

    def to_data(self) -> dict[str, object]:
        often = {"every_ms": self.every_ms} if self.every_ms is not None else {"every_events": self.every_events}
        return {**often, "retract": self.retract}


class TumblingWindow(Timing, frozen=True, kw_only=True):
    """Windows of one size, side by side: an event at ``t`` is in the one that starts at the last
    ``offset_ms + k * window_size_ms`` not after ``t`` (milliseconds since 1970-01-01 UTC, ``k`` any integer).
    """

    window_type: ClassVar[str] = "tumbling"
    window_size_ms: int
    offset_ms: int = 0
    updates: Updates | None = None


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


def _or_never(value: object, path: Path, problems: Problems) -> Any:
    """A duration, or ``never``, which is read as ``NEVER``."""
    if isinstance(value, str) and value.casefold() == NEVER:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return problems.reject(path, f"an integer >= 0 or {NEVER!r}", value)
    return duration_ms(0)(value, path, problems)


TIMING: Final[Table] = {
    "grace_period_ms": Field(duration_ms(0)),
    "close_when_idle_ms": Field(_or_never),
    "max_future_ms": Field(_or_never),
}
"""The keys of a ``Timing``, in a ``window_config`` or in the ``processing_logic`` of what has state but no window."""


def given_timing(data: object) -> tuple[str, ...]:
    """The keys of a ``Timing`` that are given."""
    return tuple(name for name in TIMING if isinstance(data, Mapping) and data.get(name) is not None)


def _timing(values: dict[str, Any]) -> dict[str, Any]:
    """Take the keys of a ``Timing`` out of ``values``; what was not given is left to the defaults."""
    given = {name: values.pop(name) for name in TIMING}
    return {name: None if value == NEVER else value for name, value in given.items() if value is not None}


def take_timing(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the keys of a ``Timing`` put together as one, under ``timing``."""
    timing = Timing(**_timing(values))
    return values | {"timing": timing}


_UPDATES: Final[Table] = {
    "every_ms": Field(duration_ms(1)),
    "every_events": Field(integer(1, 1_000_000_000)),
    "retract": Field(boolean, default=False),
}


def _emit(value: object, path: Path, problems: Problems) -> Any:
    if isinstance(value, str):
        word = choice(["on_close"])(value, path, problems)
        return BAD if word is BAD else ON_CLOSE
    if not isinstance(value, Mapping):
        return problems.reject(path, "'on_close', or a mapping with every_ms or every_events", value)
    values = read_table(value, path, _UPDATES, problems)
    if values is None:
        return BAD
    if (values["every_ms"] is None) == (values["every_events"] is None):
        return problems.add(path, "expected either every_ms or every_events")
    return Updates(**values)


def _time_zone(value: object, path: Path, problems: Problems) -> Any:
    name = text(rule="the name of a time zone, such as 'Europe/Berlin'")(value, path, problems)
    if name is BAD:
        return BAD
    # Other names may be files on a machine, but not mean the same on all of them: localtime, or right/UTC with its leap seconds.
    known = available_timezones() - {"localtime"}
    if name not in known:
        near = suggest(name, known)
        return problems.add(path, f"expected a time zone of the IANA database, such as 'Europe/Berlin', got {name[:60]!r}{near}")
    return name


_OFFSET: Final = Field(duration_ms(0), default=0)
_EMIT: Final = Field(_emit, default=ON_CLOSE)
_TABLES: Final[dict[type[Any], Table]] = {
    TumblingWindow: {"window_size_ms": required(duration_ms(1)), "offset_ms": _OFFSET, "emit": _EMIT},
    HoppingWindow: {
        "window_size_ms": required(duration_ms(1)),
        "advance_ms": required(duration_ms(1)),
        "offset_ms": _OFFSET,
    },
    SlidingWindow: {"window_size_ms": required(duration_ms(1))},
    SessionWindow: {"gap_ms": required(duration_ms(1)), "emit": _EMIT},
    CountWindow: {
        "window_size_events": required(integer(1, 1_000_000)),
        "advance_events": Field(integer(1, 1_000_000)),
    },
    CalendarWindow: {
        "calendar_unit": required(member(CalendarUnit)),
        "time_zone": Field(_time_zone, default="UTC"),
        "emit": _EMIT,
    },
    GlobalWindow: {"emit": required(_emit)},
}
_TYPES: Final = {kind.window_type: kind for kind in _TABLES}
WINDOW_TABLES: Final[dict[str, Table]] = {
    name: {"window_type": required(choice(list(_TYPES))), **_TABLES[kind], **TIMING} for name, kind in _TYPES.items()
}
"""The keys of each window type."""


def read_window(value: object, path: Path, problems: Problems) -> Any:
    """The window of a ``window_config``."""
    if not isinstance(value, Mapping):
        return problems.reject(path, "a mapping", value)
    given = value.get("window_type")
    if given is None:
        return problems.add((*path, "window_type"), f"required, but missing: one of {', '.join(_TYPES)}")
    name = choice(list(_TYPES), fold=str.casefold)(given, (*path, "window_type"), problems)
    if name is BAD:
        return BAD
    table = WINDOW_TABLES[name]
    others = {key for each in WINDOW_TABLES.values() for key in each} - table.keys()
    foreign = [key for key in value if key in others]
    for key in foreign:
        owners = [each for each, of_type in WINDOW_TABLES.items() if key in of_type]
        problems.add((*path, key), f"a {name} window has no {key}; {listed(owners)} {'has' if len(owners) == 1 else 'have'}")
    rest = {key: item for key, item in value.items() if key not in foreign} | {"window_type": name}
    values = read_table(rest, path, table, problems)
    if values is None or foreign:
        return BAD
    del values["window_type"]
    if "emit" in values:
        updates = values.pop("emit")
        values["updates"] = None if updates == ON_CLOSE else updates
    values |= _timing(values)
    return _checked(_TYPES[name], values, path, problems)


def _checked(kind: type[Any], values: dict[str, Any], path: Path, problems: Problems) -> Any:
    """The window, if its numbers go together."""
    size_ms, advance_ms = values.get("window_size_ms"), values.get("advance_ms")
    if advance_ms is not None and size_ms is not None:
        if advance_ms > size_ms:
            return problems.reject((*path, "advance_ms"), "at most window_size_ms, or events would be in no window", advance_ms)
        if size_ms > MAX_ADVANCES * gcd(size_ms, advance_ms):
            return problems.add(
                (*path, "advance_ms"),
                f"a window would be put together from more than {MAX_ADVANCES} parts; choose one that goes into window_size_ms",
            )
    if values.get("offset_ms"):
        bound = "window_size_ms" if advance_ms is None else "advance_ms"
        if values["offset_ms"] >= values[bound]:
            return problems.reject((*path, "offset_ms"), f"an offset smaller than {bound}", values["offset_ms"])
    updates = values.get("updates")
    if kind is TumblingWindow and updates is not None and (updates.every_ms or 0) >= values["window_size_ms"]:
        told = "less than window_size_ms, or no update would come before a window closes"
        return problems.reject((*path, "emit", "every_ms"), told, updates.every_ms)
    if kind is CountWindow:
        size = values["window_size_events"]
        values["advance_events"] = values["advance_events"] or size
        if values["advance_events"] > size:
            return problems.reject((*path, "advance_events"), "at most window_size_events", values["advance_events"])
    if kind is GlobalWindow and values["updates"] is None:
        return problems.add((*path, "emit"), "a global window never closes: it needs every_ms or every_events")
    return kind(**values)
