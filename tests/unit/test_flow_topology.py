"""How the processors of a flow are joined: both sides of a JOIN, ports, and what may not be read without a stream between."""

from typing import Any

import pytest

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.spec import FlowSpec, parse_flow
from event_streaming_bus.flows.topology import SourceRef

STATELESS: dict[str, dict[str, Any]] = {
    "FILTER": {"filter_expression": "payload.a == 1"},
    "MAP": {"drop": ["a"]},
    "CUSTOM": {"function": "m:f", "form": "batch"},
}
WINDOW = {"window_config": {"window_type": "tumbling", "window_size_ms": 1000}}
STATEFUL: dict[str, dict[str, Any]] = {
    "AGGREGATE": {"processing_logic": {"aggregation_function": "count"}, **WINDOW},
    "WINDOW": {"processing_logic": {"output": "marks"}, **WINDOW},
    "JOIN": {"processing_logic": {"join_stream_id": "payments", "on": ["id"], "within_ms": 1}},
    "DEDUPLICATE": {"processing_logic": {"deduplicate_by": ["id"], "within_ms": 1}},
    "CUSTOM": {"processing_logic": {"function": "m:f", "form": "keyed", "key": ["id"]}},
}


def stateless(name: str, source: str, target: str | None = "out", kind: str = "FILTER") -> dict[str, Any]:
    return {
        "processor_name": name,
        "processor_type": kind,
        "source_stream_id": source,
        "target_stream_id": target,
        "processing_logic": STATELESS[kind],
    }


def stateful(name: str, source: str, target: str | None = "out", kind: str = "AGGREGATE") -> dict[str, Any]:
    return stateless(name, source, target) | {"processor_type": kind} | STATEFUL[kind]


def a_join(name: str, left: str, right: str, target: str | None = "out") -> dict[str, Any]:
    logic = STATEFUL["JOIN"]["processing_logic"] | {"join_stream_id": right}
    return stateful(name, left, target, "JOIN") | {"processing_logic": logic}


def flow(*processors: dict[str, Any]) -> FlowSpec:
    return parse_flow({"processors": list(processors)}, name="f")


def told(*processors: dict[str, Any]) -> list[str]:
    """The problems of a flow, each as ``path: message``."""
    with pytest.raises(FlowError) as caught:
        flow(*processors)
    return str(caught.value).splitlines()


def cannot_read_late(path: str, name: str, between: str) -> str:
    return (
        f"{path}: {name!r} has state and cannot read late events directly; give {between} a target_stream_id and read that stream"
    )


# --- sources ------------------------------------------------------------------------------------------------------------


def test_a_join_reads_its_left_side_and_its_right_side() -> None:
    spec = flow(stateful("sums", "orders"), a_join("j", "payments", "sums.errors"))
    assert spec.sources_of(spec.processors[1]) == (SourceRef("payments"), SourceRef("sums", "errors"))


def test_a_source_may_be_joined_with_itself() -> None:
    spec = flow(a_join("pairs", "orders", "orders"))
    assert spec.sources_of(spec.processors[0]) == (SourceRef("orders"), SourceRef("orders"))


def test_an_output_that_only_the_right_side_of_a_join_reads_goes_somewhere() -> None:
    spec = flow(stateless("paid", "payments", None), a_join("j", "orders", "paid"))
    assert spec.sources_of(spec.processors[1]) == (SourceRef("orders"), SourceRef("paid"))


def test_an_output_must_go_somewhere_though_a_port_is_read() -> None:
    assert told(stateful("sums", "orders", None), stateless("late", "sums.late"), stateless("bad", "sums.errors")) == [
        "processors[0].target_stream_id: the output of 'sums' goes nowhere; name a target stream, "
        "or let another processor read it"
    ]


# --- ports --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STATEFUL)
def test_whatever_has_state_has_late_events(kind: str) -> None:
    spec = flow(stateful("s", "orders", kind=kind), stateless("late", "s.late"))
    assert spec.sources_of(spec.processors[1]) == (SourceRef("s", "late"),)


@pytest.mark.parametrize("kind", STATELESS)
def test_what_has_no_state_has_errors_alone(kind: str) -> None:
    spec = flow(stateless("s", "orders", kind=kind), stateless("bad", "s.errors"))
    assert spec.sources_of(spec.processors[1]) == (SourceRef("s", "errors"),)
    assert told(stateless("s", "orders", kind=kind), stateless("late", "s.late")) == [
        "processors[1].source_stream_id: 's' has no port late: it has no state, and nothing comes too late for it"
    ]


@pytest.mark.parametrize(
    ("first", "ports"),
    [(stateful("s", "orders"), "'s.late' and 's.errors'"), (stateless("s", "orders"), "'s.errors'")],
)
def test_a_port_that_there_is_not_is_told_with_those_that_there_are(first: dict[str, Any], ports: str) -> None:
    message = f"processor 's' has no port 'Late'; 's' is its output, and there is {ports}"
    assert told(first, stateless("f", "s.Late")) == [f"processors[1].source_stream_id: {message}"]
    assert told(first, a_join("j", "orders", "s.Late")) == [f"processors[1].processing_logic.join_stream_id: {message}"]


# --- late events --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STATEFUL)
def test_nothing_with_state_reads_late_events_directly(kind: str) -> None:
    assert told(stateful("s", "orders"), stateful("t", "s.late", kind=kind)) == [
        cannot_read_late("processors[1].source_stream_id", "t", "a MAP or FILTER that reads 's.late'")
    ]


def test_the_right_side_of_a_join_does_not_read_late_events_either() -> None:
    assert told(stateful("s", "orders"), a_join("j", "payments", "s.late")) == [
        cannot_read_late("processors[1].processing_logic.join_stream_id", "j", "a MAP or FILTER that reads 's.late'")
    ]


@pytest.mark.parametrize("kind", STATELESS)
def test_late_events_do_not_reach_state_through_what_has_none(kind: str) -> None:
    between = [stateless("a", "s.late", None, kind), stateless("b", "a", None)]
    assert told(stateful("s", "orders"), *between, stateful("t", "b")) == [
        cannot_read_late("processors[3].source_stream_id", "t", "'b'")
    ]


def test_late_events_that_failed_need_a_processor_that_writes_them() -> None:
    # A target stream of 'a' would hold its output, not its errors.
    several = [stateful("s", "orders"), stateless("a", "s.late"), stateful("t", "a.errors")]
    assert told(*several) == [cannot_read_late("processors[2].source_stream_id", "t", "a MAP or FILTER that reads 'a.errors'")]
    assert len(flow(*several[:2], stateless("b", "a.errors", "failed"), stateful("t", "failed")).processors) == 4


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_has_state_may_read_the_output_and_the_errors_of_what_has_state(kind: str) -> None:
    spec = flow(stateful("s", "orders", None, kind), stateful("t", "s"), stateful("u", "s.errors"))
    assert [spec.sources_of(each)[0] for each in spec.processors[1:]] == [SourceRef("s"), SourceRef("s", "errors")]


# --- circles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processors", "circle"),
    [
        ([a_join("j", "orders", "j")], "j -> j"),
        ([a_join("j", "orders", "payments", "payments")], "j -> j"),
        ([a_join("j", "orders", "f", None), stateless("f", "j")], "j -> f -> j"),
        ([a_join("j", "orders", "back"), stateless("f", "out", "back")], "j -> f -> j"),
        ([stateless("a", "a.errors")], "a -> a"),
        ([stateless("a", "b.errors"), stateless("b", "a.errors", "more")], "a -> b -> a"),
        ([stateless("a", "late", "orders"), stateful("s", "orders"), stateless("b", "s.late", "late")], "a -> s -> b -> a"),
    ],
)
def test_a_circle_through_ports_and_joined_sources_is_named(processors: list[dict[str, Any]], circle: str) -> None:
    assert told(*processors) == [f"processors[0].source_stream_id: events would run in a circle: {circle}"]
