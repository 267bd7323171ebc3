"""A flow in worker processes, and what it writes: undisturbed, and while something happens to the brokers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import kafka_broker
from bytewax.testing import run_main

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

_BATCH: Final = 100
_BATCHES: Final = 12
_DEADLINE_S: Final = 120.0
_FLOW: Final = """
streams: [{name: orders, partitions: 2}, {name: big}, {name: sums}]
processors:
  - {processor_name: big_orders, processor_type: FILTER, source_stream_id: orders, target_stream_id: big,
     processing_logic: {filter_expression: payload.total > 900}}
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic: {group_by: [k], aggregations: [{function: sum, field: total}, {function: count}]}
    window_config: {window_type: tumbling, window_size_ms: 1000, grace_period_ms: 1000}
"""


def _publish(bus: Bus, batch: int) -> None:
    """Publish a batch of the input; again, with the same ids, where brokers fail."""
    numbers = range(batch * _BATCH, (batch + 1) * _BATCH)
    payloads = [{"k": f"k{i % 7}", "total": i * 37 % 1000} for i in numbers]
    bus.publishing.submit(
        EventConfig(event_type="order"),
        payloads,
        stream_id="orders",
        keys=[str(payload["k"]) for payload in payloads],
        timestamps_ms=[i * 10 for i in numbers],
    ).result()


def _deployed(bus: Bus, folder: Path) -> tuple[Plan, Path]:
    file = folder / "flow.yaml"
    file.write_text(_FLOW)
    return deploy(load_flow(file), bus.storage), file


def _outcome(bus: Bus) -> dict[str, Any]:
    """What came out; each id once."""
    found = {}
    for stream in ("big", "sums"):
        events = read_all(bus, stream)
        assert len({event.event_id for event in events}) == len(events)
        found[stream] = sorted((e.timestamp_ms, e.data, e.key) for e in events)
    assert all(found.values())
    return found


def undisturbed_flow(folder: Path) -> dict[str, Any]:
    """What the flow writes on an embedded log."""
    with open_bus(folder / "embedded") as bus:
        plan, _ = _deployed(bus, folder)
        for batch in range(_BATCHES):
            _publish(bus, batch)
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
        return _outcome(bus)


def disturbed_flow(addresses: str, folder: Path, disturb: Callable[[str], Iterator[None]]) -> dict[str, Any]:
    """What it writes on Kafka in worker processes that run without end while events come in. Between batches ``disturb``, which
    is told the topic of the input, is taken one step further. The workers must not end by themselves."""
    with open_bus(kafka_broker.url_of(addresses, folder / "kafka", prefix=f"{folder.name}.")) as bus:
        plan, file = _deployed(bus, folder)
        group = WorkerGroup(bus.storage, plan, ["--flow", str(file)], workers=1, snapshot_interval_ms=200)
        try:
            steps = disturb(f"{folder.name}.orders")
            for batch in range(_BATCHES):
                _publish(bus, batch)
                if batch % 3 == 2:
                    _caught_up(bus, plan, group, batch // 3 * 3 * _BATCH)  # it runs, and is behind by a little
                    next(steps, None)
            _caught_up(bus, plan, group, _BATCHES * _BATCH)
        finally:
            group.kill()
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))  # closes the last windows
        return _outcome(bus)


def _caught_up(bus: Bus, plan: Plan, group: WorkerGroup, count: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while progress(plan, bus.storage)[0] < count:
        assert group.exit_code() is None, group.last_error()
        assert time.monotonic() < deadline
        time.sleep(0.02)
