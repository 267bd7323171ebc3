"""Sessions, joins, chains and duplicates over changing numbers of workers, killed on the way: nothing is lost or doubled."""

import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from killed_runs import run

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

EVENTS = 12_000
TARGETS = ("visits", "bought", "busy", "firsts", "sizes", "late", "_dead_letters")
FLOW = """
streams:
  - {name: clicks, partitions: 5}
  - {name: orders, partitions: 3}
  - {name: visits}
  - {name: bought}
  - {name: busy}
  - {name: firsts}
  - {name: sizes}
  - {name: late}
processors:
  - processor_name: visit
    processor_type: AGGREGATE
    source_stream_id: clicks
    target_stream_id: visits
    processing_logic: {group_by: [k], aggregations: [{function: count}, {function: collect, field: n, limit: 20}]}
    window_config: {window_type: session, gap_ms: 900, grace_period_ms: 400}
  - processor_name: purchase
    processor_type: JOIN
    source_stream_id: clicks
    target_stream_id: bought
    processing_logic:
      join_stream_id: orders
      join_type: left
      on: [k]
      within: {before_ms: 50, after_ms: 300}
      fields: {k: left.k, n: left.n, order: right.n, sum: left.n + right.n if right != null else 0}
      grace_period_ms: 400
  - processor_name: busy_seconds
    processor_type: AGGREGATE
    source_stream_id: purchase
    target_stream_id: busy
    processing_logic: {group_by: [k], aggregations: [{function: count}, {function: sum, field: sum}], having: count > 3}
    window_config: {window_type: hopping, window_size_ms: 3000, advance_ms: 1000}
  - processor_name: first_of
    processor_type: DEDUPLICATE
    source_stream_id: clicks
    target_stream_id: firsts
    processing_logic: {deduplicate_by: [k], within_ms: 2000, grace_period_ms: 400}
  - processor_name: visit_sizes
    processor_type: AGGREGATE
    source_stream_id: visit
    target_stream_id: sizes
    processing_logic: {group_by: [count], aggregation_function: count, as: visits}
    window_config: {window_type: tumbling, window_size_ms: 10000, emit: {every_ms: 2500, retract: true}}
  - processor_name: latecomers
    processor_type: FILTER
    source_stream_id: visit.late
    target_stream_id: late
    processing_logic: {filter_expression: metadata.late.processor == 'visit'}
"""


class World(NamedTuple):
    """A folder whose streams are filled, to be copied, and what an undisturbed run makes of it."""

    folder: Path
    file: Path
    expected: dict[str, Any]


def fill(bus: Bus) -> None:
    rng = random.Random(5)
    for stream, count in (("clicks", EVENTS), ("orders", EVENTS // 3)):
        step_ms = 60 * EVENTS // count
        rows = []
        for i in range(count):
            at_ms = i * step_ms // 10 + rng.randrange(500) - (rng.random() < 0.01) * rng.randrange(5000)
            n: Any = "text" if rng.random() < 0.002 else rng.randrange(100)
            rows.append((max(0, at_ms), {"k": f"k{rng.randrange(60)}", "n": n}))
        for start in range(0, count, 400):
            part = rows[start : start + 400]
            bus.publishing.submit(
                EventConfig(event_type=stream),
                [payload for _, payload in part],
                stream_id=stream,
                keys=[payload["k"] for _, payload in part],
                timestamps_ms=[at_ms for at_ms, _ in part],
            ).result()


def outcome(bus: Bus, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stream in TARGETS:
        events = read_all(bus, stream)
        assert len({event.event_id for event in events}) == len(events), stream
        found[stream] = sorted((event.event_id, event.timestamp_ms, event.key, event.data) for event in events)
    for each in flow_metrics(plan, bus.storage):
        counts = (each.events_passed, each.events_filtered, each.events_late, each.events_dead, each.events_skipped)
        assert each.events_in == sum(counts) + each.in_state, each
        found[each.name] = (each.events_in, *counts, each.events_out)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    file = folder / "flow.yaml"
    file.write_text(FLOW)
    with open_bus(folder / "filled") as bus:
        deploy(load_flow(file), bus.storage)
        fill(bus)
    shutil.copytree(folder / "filled", folder / "undisturbed")
    with open_bus(folder / "undisturbed") as bus:
        plan = deploy(load_flow(file), bus.storage)
        run(bus, plan, file, [1], [])
        expected = outcome(bus, plan)
    assert all(len(expected[stream]) > 10 for stream in TARGETS)  # the tests are about all of these
    return World(folder, file, expected)


@pytest.mark.parametrize(("workers", "kills"), [([1, 4, 2], [0.3, 0.6]), ([2, 1, 1, 3], [0.05, 0.2, 0.9])])
def test_a_change_of_workers_between_kills_changes_no_result(
    world: World, tmp_path: Path, workers: list[int], kills: list[float]
) -> None:
    shutil.copytree(world.folder / "filled", tmp_path / "data")
    with open_bus(tmp_path / "data") as bus:
        plan = deploy(load_flow(world.file), bus.storage)
        assert run(bus, plan, world.file, workers, kills) > 0
        found = outcome(bus, plan)
    for name, expected in world.expected.items():
        assert found[name] == expected, name
