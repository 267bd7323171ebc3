"""The clock that says what is old enough to be thrown away.

The clock on the wall is set by people and by programs, now and then wrongly. What it says too early of an event's age cannot be
made good: what is dropped is gone. So a jump ahead is not believed at once, but when it has lasted for an hour; until then
time goes on evenly. A jump back is followed at once, which only keeps things for longer.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

BELIEVED_AFTER_MS: Final = 3_600_000
_JUMP_MS: Final = 1000
_DRIFT: Final = 1000  # a clock that is corrected little by little gains less than a thousandth
_SINCE_BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_boot_ms() -> int:
    """How long the machine has been running, asleep or not: a clock that nobody sets, the same for all of its processes."""
    return time.clock_gettime_ns(_SINCE_BOOT) // 1_000_000


def wall_ms() -> int:
    """The clock on the wall."""
    return time.time_ns() // 1_000_000


class PatientClock:
    """A clock on the wall that does not jump ahead, from when it was made on. Safe to use from any thread."""

    def __init__(self, wall: Callable[[], int] = wall_ms, since_boot: Callable[[], int] = since_boot_ms) -> None:
        self._wall, self._since_boot = wall, since_boot
        self._wall_ms, self._boot_ms = wall(), since_boot()
        self._ahead_since_ms: int | None = None
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """The time, at most that on the wall."""
        with self._lock:
            wall_ms, boot_ms = self._wall(), self._since_boot()
            passed_ms = boot_ms - self._boot_ms
            even_ms = self._wall_ms + passed_ms
            if wall_ms > even_ms + _JUMP_MS + passed_ms // _DRIFT:
                if self._ahead_since_ms is None:
                    self._ahead_since_ms = boot_ms
                if boot_ms - self._ahead_since_ms < BELIEVED_AFTER_MS:
                    return even_ms
            self._wall_ms, self._boot_ms, self._ahead_since_ms = wall_ms, boot_ms, None
            return wall_ms


_clock: Final = PatientClock()


def patient_ms() -> int:
    """The time by the patient clock of this process, in milliseconds."""
    return _clock.now_ms()
