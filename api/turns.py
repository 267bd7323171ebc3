"""Turns of the event loop, shared out: so many requests are begun in one, and others wait for the next.

An event loop does all that is ready before it looks for more. If a thousand requests are ready, whose bodies each take a
millisecond to decode, then somebody who asks how the server is waits for a second, and again after each step of the answer.
"""

import asyncio
from collections import deque
from typing import Final

MOST: Final = 16
MOST_BYTES: Final = 256 << 10


class Turns:
    """In each turn of the loop ``most`` may begin, or fewer with more than ``most_bytes`` together, but one at least. Who comes
    first begins first. Belongs to one event loop."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._begun = self._bytes = 0  # in this turn
        self._is_ending = False  # the turn is: the loop will say so
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def come(self, size: int) -> None:
        """Wait until something of so many bytes may begin."""
        loop = asyncio.get_running_loop()
        if not self._waiting and self._has_room(size):
            self._begin(size)
            if not self._is_ending:
                self._is_ending = True
                loop.call_soon(self._next, loop)
            return
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append((waiter, size))
        await waiter

    def _has_room(self, size: int) -> bool:
        return not self._begun or (self._begun < self._most and self._bytes + size <= self._most_bytes)

    def _begin(self, size: int) -> None:
        self._begun += 1
        self._bytes += size

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """The next turn."""
        self._begun = self._bytes = 0
        self._is_ending = False
        while self._waiting and self._has_room(self._waiting[0][1]):
            waiter, size = self._waiting.popleft()
            if not waiter.done():  # whoever gave up has no part in it
                self._begin(size)
                waiter.set_result(None)
        if self._begun:
            self._is_ending = True
            loop.call_soon(self._next, loop)
