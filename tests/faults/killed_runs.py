"""Runs of a flow in worker processes, killed on the way."""

import time
from collections.abc import Sequence
from pathlib import Path

from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.metrics import progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.workers import WorkerGroup


def run(
    bus: Bus, plan: Plan, file: Path, workers: Sequence[int], kills: Sequence[float], *, snapshot_interval_ms: int = 50
) -> int:
    """Run to the end with these numbers of workers; all runs but the last are killed at their share of all work. Returns how
    many were."""
    until, killed = current_ends(plan, bus.storage), 0
    for count, share in zip(workers, (*kills, None), strict=True):
        group = WorkerGroup(
            bus.storage,
            plan,
            ["--flow", str(file)],
            workers=count,
            until=until,
            snapshot_interval_ms=snapshot_interval_ms,
        )
        while (code := group.exit_code()) is None:
            time.sleep(0.001)
            done, there = progress(plan, bus.storage)
            if share is not None and done > share * there:
                group.kill()
                killed += 1
                break
        assert code in (0, None), group.last_error()
    return killed
