"""A connection for asynchronous code: requests run on an event loop in a thread of the connection's own.

So it can be used from any thread and any number of event loops, one after the other or at once, and closed without one; as the
bus in process can.
"""

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

from event_streaming_bus.client.exchange import Exchange
from event_streaming_bus.client.options import Target
from event_streaming_bus.client.requests import Request
from event_streaming_bus.errors import ClosedError

T = TypeVar("T")
_ENDING_S: Final = 5.0


class Connection:
    """A pool of connections to one server. Safe to use from any thread and any event loop."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._exchange = Exchange(target)
        self._thread = threading.Thread(
            target=_run, args=(self._loop, self._exchange), name=f"esb-client-{target.url}", daemon=True
        )
        self._thread.start()
        # Who forgets to close it leaves no thread behind.
        self._end = weakref.finalize(self, _end, self._loop, self._thread)

    async def answer(self, request: Request) -> bytes:
        """See ``Exchange.answer``."""
        if asyncio.get_running_loop() is self._loop:
            return await self._exchange.answer(request)
        answer = self.submit(self._exchange.answer(request))
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._end.alive or (task is not None and task.cancelling()):
                raise
            raise _closed() from None

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Do this in the connection's thread. Raises ``ClosedError``."""
        if not self._end.alive:
            work.close()
            raise _closed()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this, and block until it is done."""
        try:
            return self.submit(work).result()
        except CancelledError:
            raise _closed() from None

    def close(self) -> None:
        """Give up what is being asked, and close the connections. Closing twice is harmless."""
        self._end()


def _closed() -> ClosedError:
    return ClosedError("The connection to the server is closed.")


def _run(loop: asyncio.AbstractEventLoop, exchange: Exchange) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        waiting = asyncio.all_tasks(loop)
        for task in waiting:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
        loop.run_until_complete(exchange.close())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(_ENDING_S)
