"""How much a server takes on at once: bounds, what is under way within them, and what was refused for want of room."""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.api.deadlines import Deadlines
from event_streaming_bus.api.turns import Turns
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.monitoring.sample import LoadSample

MIN_BUFFERED_BYTES: Final = 32 << 20
"""Room for the largest body that is accepted, and for small ones beside it."""
LONGEST_WAIT_S: Final = 10
"""A third of the time for which the SDK sends a request again."""
SPARE_CONNECTIONS: Final = 128
"""So many are let in above the limit, for one request each: to be told to come again, or how the server is."""
WORKERS: Final = 16
"""The threads that wait for stores and for the disk on behalf of requests."""
AT_ONCE: Final = 6
"""So many of them at most wait for the history, and as many for changes to be on disk: others can look while these are stuck."""


class LoadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a server takes on at once; whoever comes beyond that is told to come again.

    ``max_connections`` are open, WebSockets and event streams among them. ``max_requests`` publish or append, as many consume,
    and a quarter of that is for each other kind of request. ``max_buffered_bytes`` is how much of the bodies of requests is held
    in memory. A client that stands still for ``stall_s``, with a request half sent or an answer half taken, is given up.
    """

    max_connections: int = 10_000
    max_requests: int = 1_000
    max_buffered_bytes: int = 64 << 20
    stall_s: float = 30.0

    def __post_init__(self) -> None:
        for name, least in (("max_connections", 1), ("max_requests", 1), ("max_buffered_bytes", MIN_BUFFERED_BYTES)):
            if getattr(self, name) < least:
                raise InvalidInputError(f"{name}: expected at least {least:,}, got {getattr(self, name):,}")
        if not self.stall_s > 0:
            raise InvalidInputError(f"stall_s: expected more than 0, got {self.stall_s:g}")


DEFAULT_LIMITS: Final = LoadLimits()


class Limit:
    """A bound that may be met. ``option`` is what raises it; ``usual``: how many are served in a second, as far as is known."""

    __slots__ = ("_rates", "_second", "_then", "_usual", "most", "name", "option", "refused", "served")

    def __init__(self, name: str, most: int, option: str, usual: int) -> None:
        self.name = name
        self.most = most
        self.option = option
        self._usual = usual
        self.refused = 0
        """How many were refused, ever."""
        self.served = 0
        """How many found room and have left it, ever."""
        # Until this second; in the last one, as (refused, served).
        self._second, self._then, self._rates = 0, (0, 0), (0, 0)

    def refuse(self) -> int:
        """Count one that is refused; after how many seconds it may come again: not all at once, and the later the more are
        refused for each that is served, so that those who come again find room."""
        self.refused += 1
        second = int(time.monotonic())
        if second != self._second:
            is_next = second == self._second + 1
            self._rates = (self.refused - self._then[0], self.served - self._then[1]) if is_next else (0, 0)
            self._second, self._then = second, (self.refused, self.served)
        refused = max(self.refused - self._then[0], self._rates[0])
        served = max(self.served - self._then[1], self._rates[1], self._usual)
        return random.randint(1, min(LONGEST_WAIT_S, 1 + refused // served))  # noqa: S311 - it guards nothing


class Lane(Limit):
    """A bound on how many requests of one kind are worked on. Requests of other kinds do not take their room.

    ``places``, if there are any: so many are worked on at once, and the others among them wait. ``turns``: in which they begin.
    """

    __slots__ = ("in_flight", "places", "turns")

    def __init__(self, name: str, most: int, at_once: int | None = None) -> None:
        super().__init__(name, most, "--max-requests", usual=most)
        self.in_flight = 0
        self.places = None if at_once is None else asyncio.Semaphore(at_once)
        self.turns = Turns()

    def is_full(self) -> bool:
        """Whether it takes no more."""
        return self.in_flight >= self.most


class Load:
    """What a server is doing at the moment. Belongs to one event loop; other threads may read it."""

    def __init__(self, limits: LoadLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        others = max(64, limits.max_requests // 4)
        self.publishing = Lane("publishing", limits.max_requests)
        self.consuming = Lane("consuming", limits.max_requests)
        self.history = Lane("history", others, at_once=AT_ONCE)
        """Looks at the history, which wait until it has loaded what there is."""
        self.questions = Lane("questions", others)
        """SQL over the history."""
        self.changing = Lane("changing", others, at_once=AT_ONCE)
        """What makes, changes and removes things."""
        self.looking = Lane("looking", others)
        """All else."""
        self.buffering = Limit("buffered_bytes", limits.max_buffered_bytes, "--max-buffered-mb", usual=10)
        self.connecting = Limit("connections", limits.max_connections, "--max-connections", usual=100)
        self.buffered_bytes = 0
        self.deadlines = Deadlines()
        self.connections = 0

    @property
    def lanes(self) -> Iterator[Lane]:
        yield from (self.publishing, self.consuming, self.history, self.questions, self.changing, self.looking)

    def told(self) -> dict[str, Any]:
        """As JSON: what is under way, and how many were refused, by the bound that was met."""
        return {
            "connections": self.connections,
            "requests": {lane.name: lane.in_flight for lane in self.lanes},
            "buffered_bytes": self.buffered_bytes,
            "refused": self._refused(),
        }

    def sample(self) -> LoadSample:
        """The same for metrics."""
        return LoadSample(
            connections=self.connections,
            in_flight={lane.name: lane.in_flight for lane in self.lanes},
            buffered_bytes=self.buffered_bytes,
            refused=self._refused(),
        )

    def _refused(self) -> dict[str, int]:
        return {limit.name: limit.refused for limit in (*self.lanes, self.buffering, self.connecting)}


def problem_members(limit: Limit, wait_s: int) -> Mapping[str, Any]:
    """What a problem document says of a bound that was met, beside its text."""
    return {"limit": limit.name, "maximum": limit.most, "raised_by": limit.option, "retry_after_s": wait_s}
