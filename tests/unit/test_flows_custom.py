"""Several events of one, duplicates and user functions in whole flows."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flow_steps import count, event, payloads, run, spans, step

FUNCTIONS = """
from event_streaming_bus import RetryableError

calls = []

def twice(event, by=2):
    if event.payload["x"] == 3:
        calls.append(event.event_id)
        raise RetryableError("the third is flaky")
    return [{**event.payload, "x": event.payload["x"] * by}] * 2

def odd_only(events):
    return [event if event.payload["x"] % 2 else None for event in events]

def counted(event, state):
    state["n"] = state.get("n", 0) + 1
    if event.payload["x"] == 13:
        raise ValueError("unlucky")
    return {"k": event.payload["k"], "n": state["n"]}

def flaky(event, state):
    state["tries"] = state.get("tries", 0) + 1
    if event.payload["x"] == 3:
        raise RetryableError("the third is flaky")
    return {"tries": state["tries"]}

def flaky_batch(events):
    if any(event.payload["x"] == 3 for event in events):
        raise RetryableError("the third is flaky")
    return events
"""


def test_a_map_flattens_a_list_into_events_of_their_own() -> None:
    processors = [
        step(
            "items",
            "MAP",
            {"flatten": "items", "fields": {"n": "payload.items.n + 1"}, "drop": ["items"]},
            target_stream_id="flat",
        ),
        count({"window_type": "tumbling", "window_size_ms": 10}, "items", aggregation_function="sum", aggregation_field="n"),
    ]
    given = [
        event(0, items=[{"n": 1}, {"n": 2}]),
        event(1, items=[]),
        event(2),
        event(3, items=[{"n": 5}, {"n": None}]),
        event(4, items=7),
    ]
    result = run(*processors, **{"in": given})
    assert payloads(result, "flat") == [{"k": "a", "n": 2}, {"k": "a", "n": 3}]
    assert spans(result, "sum_n") == [(0, 10, 5)]
    first, second = result.outputs["flat"]
    assert first.event_id != second.event_id
    assert first.causation_id == second.causation_id
    assert [(e.event.timestamp_ms, e.error_type) for e in result.dead] == [(3, "TypeError"), (4, "TypeError")]
    assert [(m.events_in, m.events_passed, m.events_filtered, m.events_out) for m in result.metrics] == [
        (5, 1, 2, 2),
        (2, 2, 0, 1),
    ]


def test_what_a_list_held_keeps_its_order() -> None:
    aggregations = [{"function": "collect", "field": "n"}, {"function": "last", "field": "n"}]
    processors = [
        step("items", "MAP", {"flatten": "items", "fields": {"n": "payload.items"}}),
        count({"window_type": "tumbling", "window_size_ms": 10}, "items", aggregations=aggregations),
        count(
            {"window_type": "count", "window_size_events": 20}, "items", "twenties", name="by_count", aggregations=aggregations
        ),
    ]
    result = run(*processors, **{"in": [event(0, items=list(range(12))), event(0, items=list(range(12, 20)))]})
    for stream in ("out", "twenties"):
        (payload,) = payloads(result, stream)
        assert (payload["collect_n"], payload["last_n"]) == (list(range(20)), 19)


def test_duplicates_within_the_span_are_dropped() -> None:
    logic = {"deduplicate_by": ["k", "x"], "within_ms": 10, "grace_period_ms": 20}
    given = [event(0, x=1), event(10, x=1), event(11, x=1), event(5, "b", x=1), event(15, "b", x=1), event(3, "b", x=1)]
    result = run(step("once", "DEDUPLICATE", logic, target_stream_id="out"), **{"in": given})
    assert sorted((e.key, e.timestamp_ms) for e in result.outputs["out"]) == [("a", 0), ("a", 11), ("b", 3), ("b", 15)]


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with functions of a user, which is allowed."""
    (tmp_path / "my_functions_of_a_test.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ESB_CUSTOM_MODULES", "my_functions_of_a_test")
    yield "my_functions_of_a_test"
    sys.modules.pop("my_functions_of_a_test", None)


def test_a_function_is_called_again_and_then_given_up(functions: str) -> None:
    retry = {"error_handling_strategy": "RETRY", "retry": {"max_attempts": 3, "backoff_ms": 1}}
    processors = [
        step("twice", "CUSTOM", {"function": f"{functions}:twice", "params": {"by": 10}}, target_stream_id="out", **retry),
        count(
            {"window_type": "tumbling", "window_size_ms": 10},
            "twice",
            "counts",
            aggregation_function="sum",
            aggregation_field="x",
        ),
    ]
    result = run(*processors, **{"in": [event(0, x=1), event(1, x=3), event(2, x=2)]})
    assert [e.payload["x"] for e in result.outputs["out"]] == [10, 10, 20, 20]
    assert payloads(result, "counts")[0]["sum_x"] == 60
    (dead,) = result.dead
    assert (dead.error_type, dead.reason) == ("RetryableError", "the third is flaky")
    assert (dead.stream, dead.event.payload) == ("in", {"k": "a", "x": 3})
    assert len(sys.modules[functions].calls) == 3


def test_a_function_gets_events_in_batches(functions: str) -> None:
    processor = step("odd", "CUSTOM", {"function": f"{functions}:odd_only", "form": "batch"}, target_stream_id="out")
    result = run(processor, **{"in": [event(n, x=n) for n in range(6)]})
    assert [e.payload["x"] for e in result.outputs["out"]] == [1, 3, 5]
    assert result.metrics[0].events_filtered == 3


def test_a_function_keeps_state_by_key_which_a_failure_leaves_alone(functions: str) -> None:
    logic = {"function": f"{functions}:counted", "form": "keyed", "key": ["k"], "grace_period_ms": 50}
    processors = [
        step("counted", "CUSTOM", logic, target_stream_id="out"),
        step("bad", "MAP", {"mode": "replace", "fields": {"why": "metadata.dead_letter.error_message"}}, "counted.errors"),
    ]
    processors[1]["target_stream_id"] = "reasons"
    given = [event(0, x=1), event(5, "b", x=1), event(20, x=13), event(30, x=1), event(10, x=1)]
    result = run(*processors, **{"in": given})
    assert sorted((e.timestamp_ms, e.key, e.payload["n"]) for e in result.outputs["out"]) == [
        (0, "a", 1),
        (5, "b", 1),
        (10, "a", 2),
        (30, "a", 3),
    ]
    assert payloads(result, "reasons") == [{"why": "unlucky"}]


@pytest.mark.parametrize(
    ("logic", "passed", "attempts"),
    [
        ({"function": "twice"}, [2, 2, 4, 4], 2),
        ({"function": "flaky_batch", "form": "batch"}, [1, 2], 3),  # twice with the others, then once alone
        ({"function": "flaky", "form": "keyed", "key": ["k"]}, [1, 2], 2),
    ],
)
def test_a_dead_letter_tells_how_often_its_function_was_called(
    functions: str, logic: dict[str, Any], passed: list[int], attempts: int
) -> None:
    retry = {"error_handling_strategy": "RETRY", "retry": {"max_attempts": 2, "backoff_ms": 1}}
    processors = [
        step("call", "CUSTOM", logic | {"function": f"{functions}:{logic['function']}"}, target_stream_id="out", **retry),
        step(
            "why",
            "MAP",
            {"mode": "replace", "fields": {"x": "payload.x", "attempts": "metadata.dead_letter.attempts"}},
            "call.errors",
            target_stream_id="reasons",
        ),
    ]
    result = run(*processors, **{"in": [event(0, x=1), event(1, x=3), event(2, x=2)]})
    assert [e.payload["tries" if "tries" in e.payload else "x"] for e in result.outputs["out"]] == passed
    assert payloads(result, "reasons") == [{"x": 3, "attempts": attempts}]
