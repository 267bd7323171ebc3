"""Turns at what one thread does at a time, for those who would rather be told than wait."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from event_streaming_bus.errors import UnavailableError

REACH_S: Final = 10.0
"""How long somebody who asks waits for loading, whoever does it."""
_COME_AGAIN_S: Final = 5


@contextmanager
def taken(turn: "threading.RLock", within_s: float, backlog: Callable[[], int]) -> Iterator[Callable[[int, int], None]]:
    """Inside, it is this thread's turn. What is given is to be told of the progress (done, of how many).

    Raises ``UnavailableError``, with the ``backlog``, if it is not this thread's turn within that time; what is given does if
    there is more to do by then. What was done until then is done.
    """
    until_s = time.monotonic() + within_s

    def late() -> UnavailableError:
        return UnavailableError(
            f"The history is {backlog():,} records behind, and its loading has not come to an end within {within_s:g} s. "
            "Ask again later.",
            retry_after_s=_COME_AGAIN_S,
        )

    def progressed(done: int, there: int) -> None:
        if done < there and time.monotonic() > until_s:
            raise late()

    if not turn.acquire(timeout=within_s):
        raise late()
    try:
        yield progressed
    finally:
        turn.release()
