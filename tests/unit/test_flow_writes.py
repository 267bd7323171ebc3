"""Many results at once are written in several transactions; a crash between two of them leaves nothing out and nothing twice."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import run_main

from event_streaming_bus import ids
from event_streaming_bus.flows import emitter, sink
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all, temporary_bus

KEYS = 300
FLOW: dict[str, Any] = {
    "streams": [{"name": "in"}, {"name": "out"}, {"name": "twice"}],
    "processors": [
        {
            "processor_name": "sums",
            "processor_type": "AGGREGATE",
            "source_stream_id": "in",
            "target_stream_id": "out",
            "processing_logic": {"aggregation_function": "sum", "aggregation_field": "n", "group_by": ["k"]},
            "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
        },
        {
            "processor_name": "again",
            "processor_type": "AGGREGATE",
            "source_stream_id": "sums",
            "target_stream_id": "twice",
            "processing_logic": {"aggregation_function": "count"},
            "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
        },
    ],
}


ALONE = {**FLOW, "processors": FLOW["processors"][:1]}


def rows() -> list[Event]:
    """Two events for each key, in no order of the keys."""
    return [Event(i, "e", n % 1000, b'{"k":"key-%d","n":1}' % (n % KEYS)) for n, i in enumerate(ids.new_ids(ids.EVENT, 2 * KEYS))]


@pytest.mark.parametrize("flow", [FLOW, ALONE], ids=["others read the results", "nobody reads the results"])
@pytest.mark.parametrize("crashes_after", [0, 1, 3])
def test_results_of_many_keys_are_written_in_parts_and_once(
    crashes_after: int, flow: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emitter, "MAX_RESULTS", 20)
    monkeypatch.setattr(sink, "MAX_EVENTS", 30)
    transactions = 0
    write = sink.LogSinkPartition._write

    def counted(self: sink.LogSinkPartition, items: Any) -> None:
        nonlocal transactions
        if crashes_after and transactions == crashes_after + 1:  # the first one writes how far the stage has come
            raise RuntimeError("as if the process was killed here")
        transactions += 1
        write(self, items)

    monkeypatch.setattr(sink.LogSinkPartition, "_write", counted)
    with temporary_bus() as bus:
        plan = deploy(parse_flow(flow, name="flow"), bus.storage)
        bus.log.append([Append(bus.log.find_stream("default", "in").stream_id, rows(), new_ids=True)])
        if crashes_after:
            with pytest.raises((BytewaxRuntimeError, RuntimeError)):
                run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
            assert 0 < len(read_all(bus, "out")) < KEYS
            monkeypatch.setattr(sink.LogSinkPartition, "_write", write)
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
        found = Counter((p["k"], p["sum_n"]) for p in (msgspec.json.decode(event.data) for event in read_all(bus, "out")))
        assert found == Counter({(f"key-{k}", 2): 1 for k in range(KEYS)})
        if flow is FLOW:
            assert [msgspec.json.decode(event.data)["count"] for event in read_all(bus, "twice")] == [KEYS]
        sums = flow_metrics(plan, bus.storage)[0]
        assert (sums.events_in, sums.events_passed, sums.events_out, sums.in_state) == (2 * KEYS, 2 * KEYS, KEYS, 0)
        assert crashes_after or transactions > KEYS // 40


def test_of_very_many_results_the_first_are_written_before_the_last_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitter, "MAX_RESULTS", 20)
    monkeypatch.setattr(sink, "MAX_EVENTS", 30)
    steps: list[str] = []
    make, write = emitter.ResultMaker.events, sink.LogSinkPartition._write

    def making(self: emitter.ResultMaker, results: Any) -> Any:
        steps.append("make")
        return make(self, results)

    def writing(self: sink.LogSinkPartition, items: Any) -> None:
        if any(item.events for item in items):
            steps.append("write")
        write(self, items)

    monkeypatch.setattr(emitter.ResultMaker, "events", making)
    monkeypatch.setattr(sink.LogSinkPartition, "_write", writing)
    with temporary_bus() as bus:
        plan = deploy(parse_flow(ALONE, name="flow"), bus.storage)
        bus.log.append([Append(bus.log.find_stream("default", "in").stream_id, rows(), new_ids=True)])
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
        assert len(read_all(bus, "out")) == KEYS
    assert steps.count("make") > 10
    assert steps.index("write") <= 3  # two parts fill a transaction
