"""Calls that block, made for a consumer in threads of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from event_streaming_bus.errors import ClosedError, StorageError
from event_streaming_bus.store.log.base import EventLog

_THREADS: Final = 2  # one for a poll that waits, one for a commit meanwhile
P = ParamSpec("P")
T = TypeVar("T")


class BlockingCalls:
    """Two threads, made when they are needed, each with its own connection to the database."""

    def __init__(self, log: EventLog, name: str) -> None:
        self._log = log
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"esb-consumer-{name}")

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns. If the data folder was closed below it, that is ``ClosedError`` whatever it raised."""
        try:
            call = self._executor.submit(partial(function, *args, **kwargs))
        except RuntimeError as error:
            raise ClosedError("The consumer is closed.") from error
        try:
            return await asyncio.wrap_future(call)
        except StorageError:
            self._log.version()
            raise

    def close(self, *, wait: bool = False) -> None:
        """End the threads, with ``wait`` not before they have done what they are at."""
        self._executor.shutdown(wait=wait)
