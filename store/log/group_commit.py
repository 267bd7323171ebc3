"""Group commit: what many callers submit while one transaction is being written becomes the next transaction."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, Protocol, TypeVar

from event_streaming_bus.errors import ClosedError

MAX_WAITING: Final = 10_000
MAX_WEIGHT: Final = 16_384


class Submission(Protocol):
    """What can be submitted: something with a future and a weight (its number of events)."""

    future: "Future[Any]"
    weight: int


T = TypeVar("T", bound=Submission)


class GroupCommit(Generic[T]):
    """A queue and one thread that hands ``commit`` all that waits, up to ``max_weight`` events at a time.

    ``commit`` must settle the future of everything it is given and must not raise. A caller that waits for its item anyway may
    ``lead``: while nobody else writes or waits, its own thread commits, and no other has to be woken.
    """

    def __init__(self, commit: Callable[[list[T]], None], name: str, max_weight: int = MAX_WEIGHT) -> None:
        self._commit = commit
        self._max_weight = max_weight
        self._name = name
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_led = False  # a caller commits
        self._is_busy = False  # the thread does
        self._closed = False

    def submit(self, item: T) -> None:
        """Queue ``item``; blocks while ``MAX_WAITING`` others wait."""
        with self._changed:
            while not self.offer(item):
                self._changed.wait()

    def offer(self, item: T) -> bool:
        """Queue ``item`` unless ``MAX_WAITING`` others wait."""
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._waiting) >= MAX_WAITING:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._waiting.append(item)
            self._changed.notify_all()
            return True

    def lead(self, item: T) -> None:
        """Commit ``item`` in this thread, if nothing else is under way; else queue it. Its future tells when it is settled."""
        with self._changed:
            is_free = not (self._is_led or self._is_busy or self._waiting or self._closed)
            self._is_led = self._is_led or is_free
        if not is_free:
            self.submit(item)
            return
        try:
            self._commit([item])
        finally:
            with self._changed:
                self._is_led = False
                if self._waiting or self._closed:
                    self._changed.notify_all()

    def _take(self) -> list[T]:
        with self._changed:
            self._is_busy = False
            while self._is_led or (not self._waiting and not self._closed):
                self._changed.wait()
            self._is_busy = True
            taken: list[T] = []
            weight = 0
            while self._waiting and weight < self._max_weight:
                item = self._waiting.popleft()
                weight += item.weight
                taken.append(item)
            self._changed.notify_all()
            return taken

    def _run(self) -> None:
        while taken := self._take():
            self._commit(taken)

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._is_led:
                self._changed.wait()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
