"""Source streams that grow while a flow runs: what a run reads, when it notices, and what time it is meanwhile."""

import time
from pathlib import Path

import msgspec
import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import open_bus
from event_streaming_bus.cli.main import main
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.clock import Clock
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.growth import growth, partitions_of, with_partitions
from event_streaming_bus.flows.items import Progress
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all

FLOW = {
    "name": "pairs",
    "streams": [{"name": "left", "partitions": 2}, {"name": "right", "partitions": 3}, {"name": "out"}],
    "processors": [
        {
            "processor_name": f"keep_{side}",
            "processor_type": "FILTER",
            "source_stream_id": side,
            "target_stream_id": "out",
            "processing_logic": {"filter_expression": "payload.x > 1"},
        }
        for side in ("left", "right")
    ],
}

COUNTS = {
    "streams": [{"name": "orders", "partitions": 3}, {"name": "sums"}],
    "processors": [
        {
            "processor_name": "counts",
            "processor_type": "AGGREGATE",
            "source_stream_id": "orders",
            "target_stream_id": "sums",
            "processing_logic": {"group_by": ["k"], "aggregation_function": "count"},
            "window_config": {"window_type": "tumbling", "window_size_ms": 1000, "grace_period_ms": 0},
        }
    ],
}


def test_a_run_reads_as_many_partitions_as_it_is_told(tmp_path: Path) -> None:
    with open_bus(tmp_path) as bus:
        plan = deploy(parse_flow(FLOW, name="pairs"), bus.storage)
        left, right = (stage.source for stage in plan.stages)
        assert partitions_of(plan) == {left.stream_id: 2, right.stream_id: 3}
        fewer = with_partitions(plan, {right.stream_id: 1})
        assert partitions_of(fewer) == {left.stream_id: 2, right.stream_id: 1}
        assert [len(stage.source.splits()) for stage in fewer.stages] == [8, 4]
        assert [node.name for node in fewer.nodes()] == [node.name for node in plan.nodes()]


def test_a_stream_has_grown_if_it_has_more_partitions_than_the_run_reads(tmp_path: Path) -> None:
    with open_bus(tmp_path) as bus:
        plan = deploy(parse_flow(FLOW, name="pairs"), bus.storage)
        right = plan.stages[1].source
        assert growth(plan, bus.log) is None
        told = growth(with_partitions(plan, {right.stream_id: 1}), bus.log)
        assert told == "the stream right has 3 partitions now, not 1"


def test_a_run_that_does_not_read_all_partitions_ends_by_itself_and_makes_nothing_in_the_others_late(tmp_path: Path) -> None:
    count, keys = 400, 20
    with open_bus(tmp_path) as bus:
        plan = deploy(parse_flow(COUNTS, name="counts"), bus.storage)
        source = plan.stages[0].source
        bus.publishing.submit(
            EventConfig(event_type="t"),
            [{"k": f"k{n % keys}"} for n in range(count)],
            stream_id="orders",
            keys=[f"k{n % keys}" for n in range(count)],
            timestamps_ms=[n * 100 for n in range(count)],
        ).result()
        started = time.monotonic()
        run_main(build(with_partitions(plan, {source.stream_id: 1}), bus.storage))  # nobody stops it
        assert time.monotonic() - started < 20
        (metrics,) = flow_metrics(plan, bus.storage)
        assert 0 < metrics.events_in < count
        assert read_all(bus, "sums") == []
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
        (metrics,) = flow_metrics(plan, bus.storage)
        assert (metrics.events_in, metrics.events_late) == (count, 0)
        assert sum(msgspec.json.decode(event.data)["count"] for event in read_all(bus, "sums")) == count


def test_a_split_that_is_new_holds_back_time_while_it_has_unread_events() -> None:
    clock = Clock(("old",))
    clock.take(Progress({"old": 1}, {"old": 1}, split="old", newest=(1000, 1000)))
    assert clock.watermark_ms == 1000
    clock.take(Progress({"old": 1}, {"new": 5}))
    clock.take(Progress({"old": 2}, {"old": 2}, split="old", newest=(9000, 9000)))
    assert clock.watermark_ms == 1000
    again = Clock(("old", "new"))
    again.load(clock.save())
    again.take(Progress({"old": 2, "new": 0}, {"old": 3, "new": 5}))
    again.take(Progress({"old": 3}, {}, split="old", newest=(9500, 9500)))
    assert again.watermark_ms == 1000
    again.take(Progress({"new": 5}, {}, split="new", newest=(2000, 9000)))
    assert again.watermark_ms == 9500  # all that is there was read


def test_a_split_that_is_new_and_empty_holds_nobody_back() -> None:
    clock = Clock(("old",))
    clock.take(Progress({"old": 0}, {"old": 2, "new": 0}))
    clock.take(Progress({"old": 1}, {}, split="old", newest=(9000, 9000)))
    assert clock.watermark_ms == 9000


def test_a_stream_in_an_embedded_log_does_not_grow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_bus(tmp_path) as bus:
        stream = bus.create_stream("orders", partitions=2)
    with pytest.raises(SystemExit, match="1"):
        main(["--data", str(tmp_path), "stream", "grow", "orders", "4", "--yes"])
    assert "embedded log, where it keeps the partitions that it was made with" in capsys.readouterr().err
    with open_bus(tmp_path) as bus:
        assert bus.log.find_stream("default", "orders") == stream
