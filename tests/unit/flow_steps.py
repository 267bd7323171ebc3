"""Flows of a few processors for tests, run over given events on a log of their own, and what came out of them."""

from typing import Any

from event_streaming_bus.flow_testing import run_flow
from event_streaming_bus.flows.flow_tests import GivenEvent
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.flows.trial import TrialResult
from event_streaming_bus.models import time_ms


def step(name: str, kind: str, logic: dict[str, Any], source: str = "in", **more: Any) -> dict[str, Any]:
    return {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": source, **more}


def count(
    window: dict[str, Any], source: str = "in", target: str | None = "out", name: str = "count", **logic: Any
) -> dict[str, Any]:
    logic = {"aggregation_function": "count", "group_by": ["k"]} | logic
    if "aggregations" in logic:
        del logic["aggregation_function"]
    return step(name, "AGGREGATE", logic, source, target_stream_id=target, window_config=window)


def event(at_ms: int, k: Any = "a", **payload: Any) -> GivenEvent:
    return GivenEvent(payload={"k": k, **payload}, key=str(k), timestamp_ms=at_ms)


def run(*processors: dict[str, Any], streams: tuple[str, ...] = (), **given: list[GivenEvent]) -> TrialResult:
    """Run a flow of these processors over ``given``; what became of every event must add up."""
    data = {"processors": list(processors), "streams": [{"name": name} for name in streams]}
    result = run_flow(parse_flow(data, name="f"), given)
    for each in result.metrics:
        out_of = (
            each.events_passed + each.events_filtered + each.events_late + each.events_dead + each.events_skipped + each.in_state
        )
        assert each.events_in == out_of, each
        assert each.in_state == 0, each
    return result


def payloads(result: TrialResult, stream: str = "out") -> list[Any]:
    return sorted((event.payload for event in result.outputs[stream]), key=repr)


def spans(result: TrialResult, field: str = "count") -> list[tuple[int, int, Any]]:
    """``(window start in ms, timestamp in ms, value)`` of each result in order."""
    found = [(time_ms(e.payload["window_start"]), e.timestamp_ms, e.payload[field]) for e in result.outputs["out"]]
    return sorted(found)


def join(**logic: Any) -> dict[str, Any]:
    window = logic.pop("window", None)
    more = {} if window is None else {"window_config": window}
    logic = {"join_stream_id": "right", "on": ["k"], "fields": {"l": "left.x", "r": "right.x"}, **logic}
    return step("join", "JOIN", logic, "left", target_stream_id="out", **more)


def pairs(result: TrialResult) -> list[tuple[int, Any, Any]]:
    return sorted(((e.timestamp_ms, e.payload["l"], e.payload["r"]) for e in result.outputs["out"]), key=repr)
