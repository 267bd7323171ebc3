"""A worker at rest: how it waits while none of its sources has anything to read.

Bytewax's loop wakes up once in a millisecond, whatever its sources ask for, and that is most of what an idle worker costs. But a
source that is called may take its time: the loop goes on when it returns. So once all sources of a worker have been read to their
ends, and what they gave has been worked off, the first of them waits in its call until one of them has something to read.

A worker that is ``alone`` rests for up to ten seconds at a time, if its state was saved since it last did anything. Bytewax saves
a state again with each interval, even the same one, and waits for the disk; resting, it does not. One that shares its work gets
messages from others, which it does not see while it waits: it rests for 20 ms at a time.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import EventLog

PAUSE_S: Final = 0.001
"""How long a source that was just looked at waits, where nothing else is to be done: as long as Bytewax's loop would."""

_SHARED_S: Final = 0.02
_SHORT_S: Final = 0.1
_LONG_S: Final = 10.0
_ASK_EVERY_S: Final = 0.5
"""How often a resting worker looks whether it is to stop."""

_QUIET_CALLS: Final = 12
"""So often every source must have had nothing before the worker rests: some 100 ms, in which all is worked off."""
_AFTER_TICK: Final = 4
"""The same after the time was told: no data is on its way then."""
_SAVED_TWICE: Final = 2
"""The first time, the state may have been saved before all was worked off; the second time says that the first is done."""

_FOREVER_S: Final = float("inf")


class Rest:
    """The rest of one worker. Each of its sources takes part under a name of its own."""

    def __init__(self, log: EventLog, stopping: Callable[[], bool], *, is_alone: bool) -> None:
        self._log = log
        self._stopping = stopping
        self._is_alone = is_alone
        self._waiting_at: dict[Hashable, Mapping[Split, int] | None] = {}  # None: not at its end
        self._due_s: dict[Hashable, float] = {}
        self._pausing: set[Hashable] = set()
        self._leader: Hashable = None
        self._quiet_calls = 0
        self._saved = 0

    def join(self, source: Hashable) -> None:
        """One more source."""
        if not self._waiting_at:
            self._leader = source
        self._waiting_at[source] = None

    def gave(self, source: Hashable, *, is_tick: bool = False) -> None:
        """The source has given something: events, or only the time."""
        self._waiting_at[source] = None
        if not is_tick:
            self._pausing.discard(source)
        self._quiet_calls = min(self._quiet_calls, _QUIET_CALLS - _AFTER_TICK) if is_tick else 0
        self._saved = 0

    def saved(self, source: Hashable) -> None:
        """The source's state was asked for, to be saved."""
        if source == self._leader:
            self._saved += 1

    def pause(self, source: Hashable) -> None:
        """Wait a moment, if no source has had any events since it last paused."""
        self._pausing.add(source)
        if source == self._leader and len(self._pausing) == len(self._waiting_at):
            time.sleep(PAUSE_S)

    def wait(self, source: Hashable, positions: Mapping[Split, int], due_s: float | None) -> bool:
        """The source has nothing to read at its ``positions``, and has something to give at ``due_s`` (of the monotonic clock;
        ``None``: not by itself). Waits if all are at rest; returns whether it did."""
        self._waiting_at[source] = positions
        self._due_s[source] = _FOREVER_S if due_s is None else due_s
        if source != self._leader:
            return False
        self._quiet_calls += 1
        everywhere: dict[Split, int] = {}
        for at in self._waiting_at.values():
            if at is None:
                return False
            for split, offset in at.items():
                everywhere[split] = max(offset, everywhere.get(split, 0))
        if self._quiet_calls <= _QUIET_CALLS:
            return False
        until_s = min(time.monotonic() + self._length_s(), *self._due_s.values())
        while (left_s := until_s - time.monotonic()) > 0 and not self._stopping():
            if self._log.wait(everywhere, min(_ASK_EVERY_S, left_s)):
                break
        return True

    def _length_s(self) -> float:
        if not self._is_alone:
            return _SHARED_S
        return _LONG_S if self._saved >= _SAVED_TWICE else _SHORT_S
