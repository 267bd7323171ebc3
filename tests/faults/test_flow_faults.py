"""Flows killed in the middle and started again: the output equals that of an undisturbed run, on any number of workers."""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import killed_runs
import pytest

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import InUseError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")
EVENTS = 100_000
FLOW = """
streams: [{name: orders, partitions: 3}, {name: big}, {name: sums}]
processors:
  - processor_name: big_orders
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: big
    processing_logic: {filter_expression: payload.total > 900}
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic:
      group_by: [k]
      aggregations: [{function: sum, field: total}, {function: avg, field: price}, {function: count}]
    window_config: {window_type: tumbling, window_size_ms: 10000, grace_period_ms: 1000}
"""


def fill(bus: Bus, seed: int) -> None:
    """Events out of order within and beyond the grace period, a few that fail, over uneven partitions."""
    rng = random.Random(seed)
    rows: list[tuple[int, dict[str, Any]]] = []
    for i in range(EVENTS):
        at_ms = i * 10 + rng.randrange(1500) - (rng.random() < 0.02) * rng.randrange(60_000)
        total = None if rng.random() < 0.005 else rng.randrange(1000)
        rows.append((max(0, at_ms), {"k": f"k{int(rng.expovariate(0.2))}", "total": total, "price": rng.random() * 1e6}))
    for start in range(0, EVENTS, 500):
        part = rows[start : start + 500]
        bus.publishing.submit(
            EventConfig(event_type="order"),
            [payload for _, payload in part],
            stream_id="orders",
            keys=[payload["k"] for _, payload in part],
            timestamps_ms=[at_ms for at_ms, _ in part],
        ).result()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW)
    return path


def prepared(folder: Path, file: Path, seed: int) -> tuple[Bus, Plan]:
    bus = open_bus(folder)
    plan = deploy(load_flow(file), bus.storage)
    fill(bus, seed)
    return bus, plan


def outcome(bus: Bus, plan: Plan) -> dict[str, Any]:
    """What came out, without what differs by nature: the source's ids, and so those derived from them."""
    found: dict[str, Any] = {
        stream: sorted((e.timestamp_ms, e.data, e.key) for e in read_all(bus, stream))
        for stream in ("big", "sums", "_dead_letters")
    }
    for stream in ("big", "sums"):
        ids = [event.event_id for event in read_all(bus, stream)]
        assert len(ids) == len(set(ids))
    for metrics in flow_metrics(plan, bus.storage):
        counts = (metrics.events_in, metrics.events_passed, metrics.events_filtered, metrics.events_late, metrics.events_dead)
        assert metrics.events_in == sum(counts[1:]) + metrics.in_state
        found[metrics.name] = counts
    return found


def run(bus: Bus, plan: Plan, file: Path, workers: int, kills: list[float]) -> int:
    """Run to the end, always with so many workers; returns how many runs were killed."""
    return killed_runs.run(bus, plan, file, [workers] * (len(kills) + 1), kills, snapshot_interval_ms=100)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    file = folder / "flow.yaml"
    file.write_text(FLOW)
    bus, plan = prepared(folder / "data", file, seed=1)
    run(bus, plan, file, 1, [])
    found = outcome(bus, plan)
    bus.close()
    assert found["sums_of_keys"][3] > 100  # the test is about late events too
    return found


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (1, 2), (2, 3)])
def test_a_flow_killed_in_the_middle_writes_what_an_undisturbed_one_writes(
    tmp_path: Path, file: Path, undisturbed: dict[str, Any], workers: int, seed: int
) -> None:
    bus, plan = prepared(tmp_path / "data", file, seed=1)
    rng = random.Random(seed)
    killed = run(bus, plan, file, workers, sorted(rng.uniform(0, 0.7) for _ in range(4)))
    assert outcome(bus, plan) == undisturbed
    assert killed > 0
    bus.close()


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, file: Path) -> None:
    bus, plan = prepared(tmp_path / "data", file, seed=1)
    command = [ESB, "--data", str(tmp_path / "data"), "run", str(file)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not read_all(bus, "big"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.kill()
    running.wait()
    # Had the worker stayed, its lock would keep this run waiting for it until it gives up.
    subprocess.run([*command, "--until-end"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    assert flow_metrics(plan, bus.storage)[0].events_in == EVENTS
    bus.close()


def test_a_flow_does_not_run_twice_at_a_time(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from event_streaming_bus.flows import worker

    monkeypatch.setattr(worker, "_LOCK_PATIENCE_S", 0.2)
    with worker._lock(tmp_path, 0), pytest.raises(InUseError, match="running already"):
        worker._lock(tmp_path, 0)
