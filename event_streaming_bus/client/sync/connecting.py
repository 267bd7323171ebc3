"""A connection for blocking code: requests are sent by the thread that makes them."""

from concurrent.futures import Future
from typing import TypeVar

from event_streaming_bus.client.options import Target
from event_streaming_bus.client.requests import Request
from event_streaming_bus.client.sync.exchange import Exchange

T = TypeVar("T")


class Connection:
    """A pool of connections to one server. Safe to use from any thread."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._exchange = Exchange(target)

    def answer(self, request: Request) -> bytes:
        """See ``Exchange.answer``."""
        return self._exchange.answer(request)

    def submit(self, work: T) -> "Future[T]":
        """What was done, as a future."""
        done: Future[T] = Future()
        done.set_result(work)
        return done

    def now(self, work: T) -> T:
        """What was done."""
        return work

    def close(self) -> None:
        """Close the connections. Closing twice is harmless."""
        self._exchange.close()
