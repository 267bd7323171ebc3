"""How the processors of a flow are joined: ports, names that stand for ports, changelogs, circles over all of them."""

from typing import Any

import pytest

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.spec import FlowSpec, parse_flow, to_data
from event_streaming_bus.flows.topology import SourceRef


def a_filter(name: str, source: str, target: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "processor_name": name,
        "processor_type": "FILTER",
        "source_stream_id": source,
        "target_stream_id": target,
        "processing_logic": {"filter_expression": "true"},
    } | more


def a_count(name: str, source: str, target: str | None = None, **more: Any) -> dict[str, Any]:
    logic = {"aggregation_function": "count"}
    window = {"window_type": "tumbling", "window_size_ms": 1000}
    return a_filter(name, source, target, processor_type="AGGREGATE", processing_logic=logic, window_config=window, **more)


def a_join(name: str, left: str, right: str, target: str | None = None) -> dict[str, Any]:
    logic = {"join_stream_id": right, "on": ["id"], "within_ms": 5}
    return a_filter(name, left, target, processor_type="JOIN", processing_logic=logic)


def read(*processors: dict[str, Any], **flow: Any) -> FlowSpec:
    return parse_flow({"processors": list(processors)} | flow, name="f")


def told(*processors: dict[str, Any], **flow: Any) -> list[str]:
    with pytest.raises(FlowError) as caught:
        read(*processors, **flow)
    return caught.value.message.splitlines()


def changes(topic: str) -> dict[str, Any]:
    return {"state_store_config": {"changelog_topic": topic}}


# --- ports ------------------------------------------------------------------------------------------------------------


def test_either_side_of_a_join_may_be_a_port() -> None:
    flow = read(a_filter("a", "in", "x"), a_filter("b", "in", "y"), a_join("j", "a.errors", "b.errors", "out"))
    assert flow.sources_of(flow.processors[2]) == (SourceRef("a", "errors"), SourceRef("b", "errors"))


@pytest.mark.parametrize("strategy", ["SKIP", "STOP"])
def test_errors_that_are_not_kept_cannot_be_read(strategy: str) -> None:
    several = [a_filter("a", "in", "x", error_handling_strategy=strategy), a_filter("b", "a.errors", "failed")]
    assert told(*several) == [
        f"processors[1].source_stream_id: nothing would come: the error_handling_strategy of 'a' is {strategy}"
    ]


def test_a_flow_with_ports_written_as_data_is_read_as_the_same() -> None:
    flow = read(
        a_count("a", "in", "x", dead_letters=False, renamed_from="before", **changes("changes")),
        a_filter("late", "a.late", "late_events"),
        a_filter("failed", "a.errors", "failures"),
    )
    assert parse_flow(to_data(flow), name="f") == flow


# --- streams whose names stand for ports ------------------------------------------------------------------------------


def test_a_stream_with_the_name_of_a_port_could_not_be_read() -> None:
    told_of = "stands for the port 'late' of processor 'a'; give the stream another name"
    assert told(a_count("a", "in", "a.late")) == [f"processors[0].target_stream_id: 'a.late' {told_of}"]
    assert told(a_count("a", "in", "x"), streams=[{"name": "a.late"}]) == [f"streams[0].name: 'a.late' {told_of}"]
    assert told(a_count("a", "in", "x", **changes("a.late"))) == [
        f"processors[0].state_store_config.changelog_topic: 'a.late' {told_of}"
    ]


def test_a_stream_with_a_dot_is_free_where_no_processor_has_its_first_part() -> None:
    flow = read(a_filter("a", "orders.late", "orders.v2"), a_filter("b", "orders.v2", "out"), streams=[{"name": "orders.late"}])
    assert [flow.sources_of(each) for each in flow.processors] == [(SourceRef("orders.late"),), (SourceRef("orders.v2"),)]


# --- changelogs, circles, old names -----------------------------------------------------------------------------------


def test_a_changelog_has_no_name_of_a_processor_and_is_not_the_target() -> None:
    assert told(a_count("a", "in", "x", **changes("b")), a_filter("b", "in", "y")) == [
        "processors[1].processor_name: 'b' is a stream's name too; rename one of them"
    ]
    assert told(a_count("a", "in", "x", **changes("x"))) == [
        "processors[0].state_store_config.changelog_topic: is the target_stream_id too; changes of state need a stream of "
        "their own"
    ]


@pytest.mark.parametrize(
    ("processors", "circle"),
    [
        ([a_count("a", "in", "x", **changes("in"))], "a -> a"),
        ([a_count("a", "in", "x", **changes("log")), a_filter("b", "log", "in")], "a -> b -> a"),
        ([a_count("a", "in", "x"), a_filter("b", "a.late", "in")], "a -> b -> a"),
        ([a_filter("a", "in", "x"), a_filter("b", "a.errors", "in")], "a -> b -> a"),
        ([a_join("j", "in", "other", "x"), a_filter("b", "j", "other")], "j -> b -> j"),
    ],
)
def test_a_circle_over_a_port_a_side_or_a_changelog_is_named(processors: list[dict[str, Any]], circle: str) -> None:
    assert told(*processors) == [f"processors[0].source_stream_id: events would run in a circle: {circle}"]


@pytest.mark.parametrize(
    ("processors", "problem"),
    [
        ([a_filter("a", "in", "x", renamed_from="a")], "processors[0].renamed_from: 'a' is its name now; leave it out"),
        (
            [a_filter("a", "in", "x", renamed_from="b"), a_filter("b", "in", "y")],
            "processors[0].renamed_from: there still is a processor 'b', whose state stays its own; leave renamed_from out",
        ),
        (
            [a_filter("a", "in", "x", renamed_from="c"), a_filter("b", "in", "y", renamed_from="c")],
            "processors[1].renamed_from: 'a' was renamed from 'c' too; the state can go to one of them only",
        ),
    ],
)
def test_state_goes_to_one_processor(processors: list[dict[str, Any]], problem: str) -> None:
    assert told(*processors) == [problem]
