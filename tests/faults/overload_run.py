"""A server under load: started, watched, measured; and what must hold of any load."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from overload_clients import Tally
from overload_server import Served, ids_of, serving
from overload_watch import STREAM, Watched, watching

STREAM_OF_LOAD: Final = "load"
API: Final = "/api/v1"
_RECOVERY_S: Final = 60.0
SLOW_S: Final = 10.0
"""What takes longer is a finding: generous, for the machine may have others to serve as well."""
# What DuckDB takes, 512 MB if it is let, would hide for a long while what else grows.
_FEW_MIB: Final = {"ESB_HISTORY_MEMORY": "128MB"}


class Sizes(NamedTuple):
    """How large an overload is. ``quiet_s`` is watched before and after it."""

    seconds: float
    quiet_s: float
    publishers: int
    max_requests: int
    large_bodies: int
    connections: int
    letters: int
    failures: int
    slow_clients: int
    stuck_s: float
    stall_s: float
    growth_mib: float
    """By how much memory may grow in the last third of a load."""


SMALL: Final = Sizes(1.5, 0.8, 60, 4, 12, 200, 2_000, 2_000, 4, 2.0, 1.0, 300)
FULL: Final = Sizes(60.0, 5.0, 2_500, 1_000, 64, 10_000, 1_000_000, 100_000, 100, 45.0, 30.0, 150)


class Outcome(NamedTuple):
    """What a scenario measured, and what it found to be wrong."""

    figures: dict[str, Any]
    findings: list[str]


class Run:
    """A server under load, what its watcher sees, and what is to be told of it."""

    def __init__(self, served: Served, seen: Watched, sizes: Sizes) -> None:
        self.served = served
        self.seen = seen
        self.sizes = sizes
        self.figures: dict[str, Any] = {}
        self.findings: list[str] = []
        self.begun_s = self.ended_s = 0.0

    def check(self, is_so: bool, otherwise: str) -> None:
        """Something that must hold."""
        if not is_so:
            self.findings.append(otherwise)

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Inside, there is load: before and after it, the server is watched for a while at rest."""
        await asyncio.sleep(self.sizes.quiet_s)
        self.begun_s = time.monotonic()
        yield
        self.ended_s = time.monotonic()

    async def measure(self) -> None:
        """Wait until the server is as fast again as it was; what was seen before, under and after the load, and what must hold of
        any."""
        usual_s = self.seen.between(0, self.begun_s).usual_s()
        await within(lambda: self.seen.recovered_s(self.ended_s, usual_s) is not None, _RECOVERY_S)
        await asyncio.sleep(self.sizes.quiet_s)
        recovered_s = self.seen.recovered_s(self.ended_s, usual_s)
        under = self.seen.between(self.begun_s, self.ended_s)
        for name, part in (
            ("before", self.seen.between(0, self.begun_s)),
            ("under", under),
            ("after", self.seen.between(self.ended_s, float("inf"))),
        ):
            self.figures[name] = part.figures()
        self.figures["recovered_s"] = None if recovered_s is None else round(recovered_s, 2)
        self.figures["growth_mib"] = growth_mib = round(under.plateau_mib(), 1)
        self.figures["machine_load"] = round(os.getloadavg()[0], 1)
        self.figures["load"] = self.served.get("/health")["load"]
        slowest_s = max((look.health_s or 99.0 for look in under.looks), default=0.0)
        self.check(slowest_s <= SLOW_S, f"/health took {slowest_s:.2f} s under the load")
        self.check(recovered_s is not None, f"within {_RECOVERY_S:g} s the server did not become as fast again as it was")
        self.check(growth_mib <= self.sizes.growth_mib, f"memory grew by {growth_mib:.0f} MiB in the last third")


Work = Callable[[Run], Awaitable[None]]


async def run(folder: Path, sizes: Sizes, work: Work, *options: str, environment: dict[str, str] | None = None) -> Outcome:
    """Let a scenario work on a server with these options."""
    with serving(folder, *options, environment=_FEW_MIB | (environment or {})) as served:
        for stream in (STREAM, STREAM_OF_LOAD):
            served.post(f"{API}/streams", {"name": stream, "partitions": 2})
        with watching(served.url, served.pid) as seen:
            at_work = Run(served, seen, sizes)
            await work(at_work)
    return Outcome(at_work.figures, at_work.findings)


def not_once(folder: Path, tally: Tally) -> list[str]:
    """What is wrong of: each acknowledged event is there once, and no event is there twice."""
    there = ids_of(folder, STREAM_OF_LOAD)
    missing = sum(event_id not in there for event_id in tally.ids())
    twice = sum(count > 1 for count in there.values())
    return [f"{missing} acknowledged events are missing, {twice} are there twice"] if missing or twice else []


async def within(is_so: Callable[[], bool], most_s: float) -> float | None:
    """After how many seconds it was so; None if it was not within ``most_s``."""
    begun = time.monotonic()
    while time.monotonic() - begun < most_s:
        if await asyncio.to_thread(is_so):
            return round(time.monotonic() - begun, 2)
        await asyncio.sleep(0.2)
    return None
