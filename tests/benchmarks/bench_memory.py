"""Memory over a long run: a worker sums up Nexmark events from the log, and its resident set is watched.

    python tests/benchmarks/bench_memory.py [--events N]

State is a window of 1000 keys however long the run is, so the last third of the run must need no more memory than the first.
``ESB_BENCH_EVENTS`` is the number of events (default 400,000; 20,000,000 for the figure of the documentation: a few
minutes, and 4 GB of disk).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import psutil
from harness import Figure
from nexmark import generator
from nexmark.answers import flow_file
from nexmark.generator import Settings
from nexmark.loading import load

from event_streaming_bus.bus import open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup

EVENTS: Final = int(os.environ.get("ESB_BENCH_EVENTS", "400000"))
QUERY: Final = "sum_by_bidder"
_SAMPLE_EVERY_S: Final = 0.05
_TIMEOUT_S: Final = 3600
_MB: Final = 1 << 20


class Memory(NamedTuple):
    """The resident set of the worker in MB, from its first output on: the medians of the thirds of the run, and the highest."""

    thirds: tuple[float, float, float]
    highest: float
    events_per_second: float

    @property
    def growth(self) -> float:
        """What the last third needs more than the first."""
        return self.thirds[2] - self.thirds[0]


def watch(events: int) -> Memory:
    """Put ``events`` events into a log, then run a worker process over them to the end."""
    with tempfile.TemporaryDirectory(prefix="esb-") as folder, open_bus(folder) as bus:
        load(bus, generator.batches(events, Settings(distinct_bidders=1000)))
        plan = deploy(load_flow(flow_file(QUERY)), bus.storage)
        target = bus.log.find_stream("default", f"{QUERY}_answer").stream_id
        started_s = time.monotonic()
        until = current_ends(plan, bus.storage)
        worker = WorkerGroup(bus.storage, plan, ["--flow", str(Path(flow_file(QUERY)).resolve())], workers=1, until=until)
        samples: list[float] = []
        try:
            process = psutil.Process(worker.pids[0])
            while (code := worker.exit_code()) is None:
                time.sleep(_SAMPLE_EVERY_S)
                if samples or any(bus.log.end_offsets(target).values()):
                    try:
                        samples.append(process.memory_info().rss / _MB)
                    except psutil.NoSuchProcess:
                        break
                if time.monotonic() - started_s > _TIMEOUT_S:
                    raise TimeoutError(f"the worker did not end within {_TIMEOUT_S} s")
            code = worker.exit_code()
        finally:
            worker.kill()
        took_s = time.monotonic() - started_s
        if code != 0:
            raise RuntimeError(f"the worker ended with exit code {code}:\n{worker.log_path.read_text()}")
    samples = [sample for sample in samples if sample]  # a process that has ended needs nothing
    if len(samples) < 3:
        raise RuntimeError(f"{events} events are too few: the run was over after {took_s:.1f} s")
    third = len(samples) // 3
    parts = samples[:third], samples[third:-third], samples[-third:]
    first, second, last = map(statistics.median, parts)
    return Memory((first, second, last), max(samples), events / took_s)


FIGURES: Final = [Figure("memory: growth of a worker over the run", "MB", lambda: max(0.0, watch(EVENTS).growth), 64)]


def main() -> int:
    """Print the thirds; the exit code is 0 whether or not they are equal, for a figure is no test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=EVENTS)
    memory = watch(parser.parse_args().events)
    for name, value in zip(("first third", "second third", "last third"), memory.thirds, strict=True):
        print(f"{name:13} {value:8.1f} MB")
    print(f"{'highest':13} {memory.highest:8.1f} MB\n{memory.events_per_second:,.0f} events/s, starting the worker included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
