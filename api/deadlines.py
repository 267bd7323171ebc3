"""Waiting that is given up after a while, with one timer for all: one for each would cost more than what is waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")
LOOK_S: Final = 0.25
"""How much later than its time something may be given up."""


class Deadlines:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._until_s: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.TimerHandle | None = None

    async def by(self, until_s: float, wait: Callable[[], Awaitable[T]]) -> T:
        """What ``wait`` gives. Raises ``TimeoutError`` if it does not until that time of the loop. A task waits for one thing."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine is run by one
        self._until_s[task] = until_s
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        try:
            return await wait()
        except asyncio.CancelledError:
            if task in self._late and not task.uncancel():
                raise TimeoutError from None
            raise
        finally:
            del self._until_s[task]
            self._late.discard(task)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for task, until_s in self._until_s.items():
            if until_s <= now_s and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._looking = loop.call_later(LOOK_S, self._look) if self._until_s else None
