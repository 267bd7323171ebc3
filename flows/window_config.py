"""The window of a windowed processor, as its ``window_config`` says."""

from typing import Any, Final

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
NEVER: Final = "never"
OTHER_WINDOW_TYPES: Final = ("hopping", "sliding", "session", "count", "calendar")


class TumblingWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of one size, side by side: an event at ``t`` is in the one that starts at the last
    ``offset_ms + k * window_size_ms`` not after ``t`` (milliseconds since 1970-01-01 UTC, ``k`` any integer).

    A window closes when the watermark passes its end plus ``grace_period_ms``. On a stream read to its end it also
    closes when the clock is ``close_when_idle_ms`` past that; None means that the clock never closes one.
    """

    window_size_ms: int
    grace_period_ms: int = 0
    offset_ms: int = 0
    close_when_idle_ms: int | None = DEFAULT_CLOSE_WHEN_IDLE_MS

    def to_data(self) -> dict[str, object]:
        return {
            "window_type": "tumbling",
            "window_size_ms": self.window_size_ms,
            "grace_period_ms": self.grace_period_ms,
            "offset_ms": self.offset_ms,
            "close_when_idle_ms": NEVER if self.close_when_idle_ms is None else self.close_when_idle_ms,
        }


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
