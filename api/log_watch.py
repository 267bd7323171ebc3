"""Waiting until something is written to the log, for many at once."""

import asyncio
from typing import Final

from event_streaming_bus.errors import BusError
from event_streaming_bus.store.log.base import EventLog

_TICK_S: Final = 0.005
_EACH_S: Final = 0.0005  # a write has everybody look, which takes about so long, so that many look less often


class LogWatch:
    """Asks the log for its version every few milliseconds, as long as somebody waits: once for all of them, and without a thread.
    Belongs to one event loop."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._watching: asyncio.Task[None] | None = None

    def version(self) -> int:
        """Another number whenever something was written, by anybody. Ask for it before you look, so that nothing is missed."""
        return self._log.version()

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Wait until the version is another one than ``seen``; at most so long, and never less than a few milliseconds."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[told] = seen
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([told], timeout=timeout_s)
        finally:
            del self._waiting[told]

    async def _watch(self) -> None:
        while self._waiting:
            await asyncio.sleep(max(_TICK_S, len(self._waiting) * _EACH_S))
            try:
                version: int | None = self._log.version()
            except BusError:  # those who wait meet it when they look
                version = None
            for told, seen in self._waiting.items():
                if seen != version and not told.done():
                    told.set_result(None)
