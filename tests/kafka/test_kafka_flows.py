"""Flows on the Kafka log: some of the tests of flows, on a bus of its own there, and workers that are killed or stopped."""

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka_broker
import killed_runs
import msgspec
import pytest
from bytewax.testing import run_main
from confluent_kafka import Consumer, TopicPartition
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
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import EventConfig, time_ms
from event_streaming_bus.store.log.kafka_settings import parse_url

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


def publish_orders(bus: Bus) -> None:
    """``EVENTS`` orders of seven keys, whose sums have one right answer."""
    for start in range(0, EVENTS, 200):
        rows = [(i * 10, {"k": f"k{i % 7}", "total": i * 37 % 1000}) for i in range(start, start + 200)]
        bus.publishing.submit(
            EventConfig(event_type="order"),
            [payload for _, payload in rows],
            stream_id="orders",
            keys=[str(payload["k"]) for _, payload in rows],
            timestamps_ms=[at_ms for at_ms, _ in rows],
        ).result()


def committed(url: str, topic: str) -> list[tuple[bytes, bytes]]:
    """``(id, value)`` of the records that a plain consumer reads in decided transactions."""
    settings = parse_url(url, "unused")
    consumer = Consumer(
        settings.options(
            group_id="plain", auto_offset_reset="earliest", isolation_level="read_committed", enable_partition_eof=True
        )
    )
    found: list[tuple[bytes, bytes]] = []
    consumer.assign([TopicPartition(settings.prefix + topic, 0, 0)])
    while (message := consumer.poll(10)) is not None and message.error() is None:
        headers: Any = dict(message.headers() or ())
        found.append((headers["ce_id"], message.value() or b""))
    consumer.close()
    assert message is not None  # the end was reached
    return found


def sums_expected() -> dict[tuple[str, int], tuple[int, int]]:
    """By key and start of the window: the sum and the count."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for i in range(EVENTS):
        place = f"k{i % 7}", i * 10 // 10_000 * 10_000
        total, count = found.get(place, (0, 0))
        found[place] = total + i * 37 % 1000, count + 1
    return found


def check(url: str) -> None:
    """The streams hold what an undisturbed run gives, once."""
    big, sums = committed(url, "big"), committed(url, "sums")
    for records in (big, sums):
        assert len({event_id for event_id, _ in records}) == len(records)
    totals = sorted(msgspec.json.decode(value)["total"] for _, value in big)
    assert totals == sorted(total for total in (i * 37 % 1000 for i in range(EVENTS)) if total > 900)
    rows = [msgspec.json.decode(value) for _, value in sums]
    found = {(row["k"], time_ms(row["window_start"])): (row["sum_total"], row["count"]) for row in rows}
    assert len(rows) == len(found)
    assert found == sums_expected()


def wait_for_share(bus: Bus, plan: Plan, group: WorkerGroup, share: float) -> None:
    """Wait until the workers have done this share of all work, or all of it."""
    while group.exit_code() is None:
        done, there = progress(plan, bus.storage)
        if done > share * there:
            return
        time.sleep(0.001)
    assert group.exit_code() == 0, group.last_error()


def test_two_workers_that_are_killed_write_what_undisturbed_ones_write(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW)
    url = kafka_broker.kafka_url(tmp_path / "data")
    with open_bus(url) as bus:
        plan = deploy(load_flow(file), bus.storage)
        publish_orders(bus)
        killed_runs.run(bus, plan, file, [2, 2], [random.uniform(0.05, 0.7)], snapshot_interval_ms=50)
        check(url)
        ends = {split: end for split, end in bus.storage.log.end_offsets(plan.stages[0].source.stream_id).items() if end}
        done = bus.storage.log.committed("esb-flow.flow.big_orders")
        assert {split: offset for split, offset in done.items() if offset} == ends  # what kafka-consumer-groups.sh shows


def test_workers_that_were_stopped_and_come_back_after_others_took_over_write_nothing(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW)
    shared = {"prefix": f"{uuid.uuid4().hex[:8]}.", "transaction_timeout_ms": "2000"}
    # Two machines: nothing but the cluster tells one of the other.
    url, elsewhere = (kafka_broker.kafka_url(tmp_path / each, **shared) for each in ("one", "two"))
    with open_bus(url) as bus, open_bus(elsewhere) as other:
        plan = deploy(load_flow(file), bus.storage)
        publish_orders(bus)
        until, target = current_ends(plan, bus.storage), ["--flow", str(file)]
        zombies = WorkerGroup(bus.storage, plan, target, workers=2, until=until, snapshot_interval_ms=50)
        try:
            wait_for_share(bus, plan, zombies, random.uniform(0.05, 0.5))
            for pid in zombies.pids:
                os.kill(pid, signal.SIGSTOP)
            theirs = deploy(load_flow(file), other.storage)
            group = WorkerGroup(other.storage, theirs, target, workers=2, until=until, snapshot_interval_ms=50)
            wait_for_share(other, theirs, group, 2)
            check(url)
            for pid in zombies.pids:
                os.kill(pid, signal.SIGCONT)
            deadline = time.monotonic() + 30
            while (code := zombies.exit_code()) is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            # Fenced, or told that the brokers gave it up; one that had written nothing yet may even end in order.
            assert code == 0 or "esb: " in zombies.log_path.read_text()
        finally:
            zombies.kill()
        check(url)
