"""Waiting, in an event loop, for futures that threads settle: one wake-up of the loop for all that are settled together."""

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class _Arrivals:
    """Futures that are settled, on their way into an event loop.

    Appends that are written together are settled one right after the other, by the thread that has written them. To wake the loop
    for each of them would cost more than all else about a small append.
    """

    def __init__(self) -> None:
        self._settled: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._is_told = False  # the loop will look, and has not begun

    def arrive(self, loop: asyncio.AbstractEventLoop, waiter: "asyncio.Future[Any]", settled: "Future[Any]") -> None:
        """From any thread. A loop that is closed by now hears nothing."""
        self._settled.append((waiter, settled))
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_told = False  # before looking: what comes from now on has the loop look again
        while self._settled:
            waiter, settled = self._settled.popleft()
            if waiter.done():  # cancelled: nobody waits any more
                continue
            error = settled.exception()
            if error is None:
                waiter.set_result(settled.result())
            else:
                waiter.set_exception(error)


_arrivals: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Arrivals]] = WeakKeyDictionary()


async def result_of(future: "Future[T]") -> T:
    """The result of a future, or its error. To stop waiting does not cancel what the future is about."""
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    arrivals = _arrivals.get(loop)
    if arrivals is None:
        arrivals = _arrivals.setdefault(loop, _Arrivals())
    waiter: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda settled: arrivals.arrive(loop, waiter, settled))
    return await waiter
