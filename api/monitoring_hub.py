"""The samples that all clients of the live monitoring share."""

import asyncio
import logging
import time
from typing import Final

from event_streaming_bus.api.monitoring_messages import Frame
from event_streaming_bus.errors import BusError
from event_streaming_bus.monitoring.meter import Meter

EVERY_S: Final = 1.0
MAX_CONNECTIONS: Final = 100
_log: Final = logging.getLogger(__name__)


class Monitoring:
    """Takes a sample a second while somebody is connected, for all who are. Belongs to the event loop that first uses it."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._connections = 0
        self._taking: asyncio.Task[None] | None = None
        self._frame: Frame | None = None
        self._news = asyncio.Event()

    @property
    def connections(self) -> int:
        return self._connections

    def join(self) -> bool:
        """Be one of those who are connected; ``False`` if there are too many."""
        if self._connections >= MAX_CONNECTIONS:
            return False
        self._connections += 1
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take())
        return True

    def leave(self) -> None:
        """No longer be one of them. After the last one nothing is sampled."""
        self._connections -= 1
        if not self._connections and self._taking is not None:
            self._taking.cancel()
            self._taking = None
            self._frame = None

    async def next(self, after: Frame | None) -> Frame:
        """The first frame that comes next, or the newest one if others have come since ``after``."""
        while self._frame is None or self._frame is after:
            await self._news.wait()
        return self._frame

    async def _take(self) -> None:
        number, due_s = 0, time.monotonic()
        while True:
            try:
                sample = await asyncio.to_thread(self._meter.sample)
            except BusError:
                _log.exception("no sample could be taken")
            else:
                last, number = self._frame, number + 1
                is_new = last is None or last.sample is not sample
                before = None if last is None else last.sample if is_new else last.before
                self._frame = Frame(number, sample, before)
                self._news.set()
                self._news = asyncio.Event()
            due_s = max(due_s + EVERY_S, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
