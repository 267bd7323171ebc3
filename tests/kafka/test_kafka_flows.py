"""Flows on the Kafka log: some of the tests of flows, on a bus of its own there, and workers that are killed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka_broker
import killed_runs
import pytest
from bytewax.testing import run_main
from test_flows import (  # noqa: F401 - tests that run here as well
    payloads,
    plan_of,
    processor,
    publish,
    test_a_filter_passes_events_on_as_they_were,
    test_an_aggregate_sums_each_group_in_each_window,
    test_urgent_lanes_are_read_first_and_none_is_forgotten,
)

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import progress
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

EVENTS = 3000
FLOW = """
streams: [{name: orders, partitions: 2}, {name: big}, {name: sums}]
processors:
  - {processor_name: big_orders, processor_type: FILTER, source_stream_id: orders, target_stream_id: big,
     processing_logic: {filter_expression: payload.total > 900}}
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic: {group_by: [k], aggregations: [{function: sum, field: total}, {function: count}]}
    window_config: {window_type: tumbling, window_size_ms: 10000, grace_period_ms: 1000}
"""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(kafka_broker.kafka_url(tmp_path)) as opened:
        yield opened


def test_running_again_processes_only_what_is_new(bus: Bus) -> None:
    plan = plan_of(bus, processor("keep", "FILTER", {"filter_expression": "payload.x > 1"}, target_stream_id="out"))
    for rows in ([{"x": 1}, {"x": 2}], [], [{"x": 3}]):
        publish(bus, "in", rows)
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    assert payloads(bus) == [{"x": 2}, {"x": 3}]
    done, there = progress(plan, bus.storage)
    assert done == there


def test_the_last_window_of_a_live_stream_closes_by_the_clock(bus: Bus) -> None:
    window = {"window_size_ms": 1000, "close_when_idle_ms": 50}  # so long that events count as live though their topics are new
    plan = plan_of(bus, processor("n", "AGGREGATE", {"aggregation_function": "count"}, target_stream_id="out", window=window))
    publish(bus, "in", [(0, {})])
    stop = threading.Event()
    running = threading.Thread(target=lambda: run_main(build(plan, bus.storage, stopping=stop.is_set)))
    running.start()
    try:
        now_ms = time.time_ns() // 1_000_000
        publish(bus, "in", [(now_ms, {}), (now_ms, {})])
        deadline = time.monotonic() + 30
        while sum(p["count"] for p in payloads(bus)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stop.set()
        running.join()


def outcome(bus: Bus) -> dict[str, Any]:
    """What came out; each id once."""
    found = {}
    for stream in ("big", "sums"):
        events = read_all(bus, stream)
        assert len({event.event_id for event in events}) == len(events)
        found[stream] = sorted((e.timestamp_ms, e.data, e.key) for e in events)
    return found


def test_workers_that_are_killed_write_what_undisturbed_ones_write(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW)
    found = []
    for kills in ([], [0.2]):
        with open_bus(kafka_broker.kafka_url(tmp_path / str(len(kills)))) as bus:
            plan = deploy(load_flow(file), bus.storage)
            for start in range(0, EVENTS, 200):
                rows = [(i * 10, {"k": f"k{i % 7}", "total": i * 37 % 1000}) for i in range(start, start + 200)]
                bus.publishing.submit(
                    EventConfig(event_type="order"),
                    [payload for _, payload in rows],
                    stream_id="orders",
                    keys=[str(payload["k"]) for _, payload in rows],
                    timestamps_ms=[at_ms for at_ms, _ in rows],
                ).result()
            if kills:
                assert killed_runs.run(bus, plan, file, [1] * (len(kills) + 1), kills, snapshot_interval_ms=50) > 0
            else:
                run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
            found.append(outcome(bus))
    assert found[0] == found[1]
    assert len(found[0]["big"]) == sum(i * 37 % 1000 > 900 for i in range(EVENTS))
    assert found[0]["sums"]
