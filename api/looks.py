"""Looks at things that may be stuck: whoever asks is answered in time, and is told if there is no answer."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")
_THREADS: Final = 4
"""No fewer than there are names, so that no look waits for another one that is stuck."""


class Looks:
    """One look at a time for each name, in threads that nothing else uses. Belongs to one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "esb-look")
        self._under_way: dict[str, Future[Any]] = {}

    async def at(self, name: str, look: Callable[[], T], within_s: float) -> T:
        """What ``look`` sees, or what it raises; if it is under way already, what that one sees, which began at most ``within_s``
        ago or is stuck. Raises ``TimeoutError``; the look goes on, and is not begun again before it has ended."""
        under_way = self._under_way.get(name)
        if under_way is None or under_way.done():
            under_way = self._under_way[name] = self._threads.submit(look)
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(under_way)), within_s)

    def close(self) -> None:
        """Begin no more. Does not wait for what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
