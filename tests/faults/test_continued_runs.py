"""Chains that were run to their end, which closes everything, and then go on: what comes too late for that is told as late."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from killed_runs import run

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

BEFORE_MS, AFTER_MS = range(0, 100_000, 37), range(100_001, 400_000, 37)
TARGETS = ("minutes", "visits", "sums")
FLOW = """
streams:
  - {name: clicks, partitions: 2}
  - {name: orders}
  - {name: minutes}
  - {name: visits}
  - {name: sums}
processors:
  - processor_name: purchase
    processor_type: JOIN
    source_stream_id: clicks
    processing_logic: {join_stream_id: orders, on: [k], within: {after_ms: 300}, join_type: left, fields: {k: left.k, n: left.n}}
  - processor_name: per_minute
    processor_type: AGGREGATE
    source_stream_id: purchase
    target_stream_id: minutes
    processing_logic: {group_by: [k], aggregation_function: sum, aggregation_field: n}
    window_config: {window_type: tumbling, window_size_ms: 60000}
  - processor_name: visit
    processor_type: AGGREGATE
    source_stream_id: purchase
    target_stream_id: visits
    processing_logic: {group_by: [k], aggregation_function: count}
    window_config: {window_type: session, gap_ms: 3000}
  - processor_name: all_visits
    processor_type: AGGREGATE
    source_stream_id: visit
    target_stream_id: sums
    processing_logic: {aggregation_function: sum, aggregation_field: count}
    window_config: {window_type: tumbling, window_size_ms: 60000}
"""
Outcome = dict[str, Any]
GoOn = Callable[[Path, list[int], list[float]], Outcome]
"""Runs on a copy of the folder with these numbers of workers, killed on the way, and tells what came out."""


def publish(bus: Bus, times_ms: Sequence[int]) -> None:
    for stream, every in (("clicks", 1), ("orders", 7)):
        chosen = times_ms[::every]
        payloads = [{"k": f"k{at_ms % 11}", "n": at_ms % 5} for at_ms in chosen]
        keys = [payload["k"] for payload in payloads]
        bus.publishing.submit(
            EventConfig(event_type=stream), payloads, stream_id=stream, keys=keys, timestamps_ms=list(chosen)
        ).result()


def outcome(bus: Bus, plan: Plan) -> Outcome:
    found: Outcome = {}
    for stream in TARGETS:
        found[stream] = sorted((event.event_id, event.timestamp_ms, event.data) for event in read_all(bus, stream))
    for each in flow_metrics(plan, bus.storage):
        found[each.name] = (each.events_in, each.events_passed, each.events_filtered, each.events_late, each.in_state)
        assert each.events_in == sum(found[each.name][1:]) + each.events_dead + each.events_skipped, each
    return found


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> GoOn:
    """A flow that was run to its end at 100 s, and has events from there on; and what runs it on."""
    folder = tmp_path_factory.mktemp("continued")
    file = folder / "flow.yaml"
    file.write_text(FLOW)
    with open_bus(folder / "data") as bus:
        plan = deploy(load_flow(file), bus.storage)
        publish(bus, BEFORE_MS)
        run(bus, plan, file, [1], [])
        publish(bus, AFTER_MS)

    def go_on(copy: Path, workers: list[int], kills: list[float]) -> Outcome:
        shutil.copytree(folder / "data", copy)
        with open_bus(copy) as bus:
            plan = deploy(load_flow(file), bus.storage)
            assert run(bus, plan, file, workers, kills) == len(kills)
            return outcome(bus, plan)

    return go_on


def test_what_comes_after_the_end_of_a_chain_is_late_where_all_was_closed_already(tmp_path: Path, continued: GoOn) -> None:
    found = continued(tmp_path / "data", [1], [])
    late = {name: found[name][3] for name in ("purchase", "per_minute", "visit", "all_visits")}
    # The minute from 60 s to 120 s was closed with what there was at 100 s, so the clicks of the 20 s that followed came too late
    # for it, or for the join already, where it had told of a click without an order that it would have none.
    assert late["purchase"] > 0
    assert late["purchase"] + late["per_minute"] == len([at_ms for at_ms in AFTER_MS if at_ms < 120_000])
    # For the visits only the clicks came too late that would have belonged to one that was closed.
    assert 0 < late["visit"] < late["per_minute"]
    assert late["all_visits"] == 0
    assert [found[name][-1] for name in late] == [0, 0, 0, 0]


def test_a_chain_that_goes_on_after_its_end_is_killed_without_losing_count(tmp_path: Path, continued: GoOn) -> None:
    undisturbed = continued(tmp_path / "undisturbed", [1], [])
    killed = continued(tmp_path / "killed", [2, 1, 3], [0.3, 0.6])
    for name, expected in undisturbed.items():
        assert killed[name] == expected, name
