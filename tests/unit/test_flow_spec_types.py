"""The newer types of processors and windows, read from plain data: what is accepted, what is told, and the way back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType, Lookup, Within
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.flows.spec import parse_processor, to_data
from event_streaming_bus.flows.window_config import (
    CalendarUnit,
    CalendarWindow,
    CountWindow,
    GlobalWindow,
    HoppingWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Updates,
)

ON = {"join_stream_id": "payments", "on": ["order_id"]}


def processor(kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "processor_name": "p",
        "processor_type": kind,
        "source_stream_id": "in",
        "target_stream_id": "out",
        "processing_logic": logic,
    } | more


def counting(window: dict[str, Any], **logic: Any) -> dict[str, Any]:
    return processor("AGGREGATE", {"aggregation_function": "count"} | logic, window_config=window)


def told(data: dict[str, Any]) -> list[str]:
    """The problems of a processor, each as ``path: message``."""
    with pytest.raises(FlowError) as caught:
        parse_processor(data, path="p")
    return str(caught.value).splitlines()


# --- windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "window"),
    [
        ({"window_type": "Hopping", "window_size_ms": 60, "advance_ms": 20}, HoppingWindow(window_size_ms=60, advance_ms=20)),
        ({"window_type": "sliding", "window_size_ms": 60}, SlidingWindow(window_size_ms=60)),
        ({"window_type": "session", "gap_ms": 5, "max_future_ms": "never"}, SessionWindow(gap_ms=5, max_future_ms=None)),
        ({"window_type": "count", "window_size_events": 9}, CountWindow(window_size_events=9, advance_events=9)),
        (
            {"window_type": "calendar", "calendar_unit": "day", "time_zone": "Europe/Berlin"},
            CalendarWindow(calendar_unit=CalendarUnit.DAY, time_zone="Europe/Berlin"),
        ),
        ({"window_type": "global", "emit": {"every_events": 3}}, GlobalWindow(updates=Updates(every_events=3))),
        (
            {"window_type": "tumbling", "window_size_ms": 60, "emit": {"every_ms": 5, "retract": True}},
            TumblingWindow(window_size_ms=60, updates=Updates(every_ms=5, retract=True)),
        ),
        ({"window_type": "tumbling", "window_size_ms": 60, "emit": "on_close"}, TumblingWindow(window_size_ms=60)),
    ],
)
def test_every_type_of_window_is_read(given: dict[str, Any], window: Any) -> None:
    assert parse_processor(counting(given)).window == window


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        ({"window_type": "hopping", "window_size_ms": 60}, "advance_ms: required, but missing"),
        (
            {"window_type": "hopping", "window_size_ms": 60, "advance_ms": 61},
            "advance_ms: expected at most window_size_ms, or events would be in no window, got 61",
        ),
        (
            {"window_type": "hopping", "window_size_ms": 86_400_000, "advance_ms": 1},
            "advance_ms: a window would be put together from more than 10000 parts; choose one that goes into window_size_ms",
        ),
        (
            {"window_type": "hopping", "window_size_ms": 60, "advance_ms": 20, "offset_ms": 20},
            "offset_ms: expected an offset smaller than advance_ms, got 20",
        ),
        ({"window_type": "session", "gap_ms": 0}, "gap_ms: expected an integer >= 1, got 0"),
        (
            {"window_type": "sliding", "window_size_ms": 60, "emit": "on_close"},
            "emit: a sliding window has no emit; tumbling, session, calendar and global have",
        ),
        (
            {"window_type": "count", "window_size_events": 3, "advance_events": 4},
            "advance_events: expected at most window_size_events, got 4",
        ),
        (
            {"window_type": "calendar", "calendar_unit": "day", "time_zone": "Europe/Berln"},
            "time_zone: expected a time zone of the IANA database, such as 'Europe/Berlin', got 'Europe/Berln'; "
            "did you mean 'Europe/Berlin'?",
        ),
        (
            {"window_type": "calendar", "calendar_unit": "fortnight"},
            "calendar_unit: expected one of hour, day, week, month, quarter, year, got 'fortnight'",
        ),
        ({"window_type": "global"}, "emit: required, but missing"),
        ({"window_type": "global", "emit": "on_close"}, "emit: a global window never closes: it needs every_ms or every_events"),
        (
            {"window_type": "session", "gap_ms": 5, "emit": {"every_ms": 1, "every_events": 1}},
            "emit: expected either every_ms or every_events",
        ),
        ({"window_type": "session", "gap_ms": 5, "emit": "often"}, "emit: expected on_close, got 'often'"),
        (
            {"window_type": "session", "gap_ms": 5, "emit": 7},
            "emit: expected 'on_close', or a mapping with every_ms or every_events, got 7",
        ),
        (
            {"window_type": "session", "gap_ms": 5, "gap": 5},
            "gap: unknown key; did you mean 'gap_ms'? (accepted: window_type, gap_ms, emit, grace_period_ms, "
            "close_when_idle_ms, max_future_ms)",
        ),
    ],
)
def test_a_window_that_cannot_be_is_told(window: dict[str, Any], problem: str) -> None:
    assert told(counting(window)) == [f"p.window_config.{problem}"]


timing = {
    "grace_period_ms": st.integers(0, 10**9),
    "close_when_idle_ms": st.none() | st.integers(0, 10**6),
    "max_future_ms": st.none() | st.integers(0, 10**9),
}
updates = st.builds(Updates, every_ms=st.integers(1, 10**6), retract=st.booleans()) | st.builds(
    Updates, every_events=st.integers(1, 10**6), retract=st.booleans()
)
sizes = st.integers(1, 10**6)
windows = st.one_of(
    st.builds(TumblingWindow, window_size_ms=sizes, updates=st.none() | updates, **timing),
    st.builds(
        lambda n, advance, **more: HoppingWindow(window_size_ms=n * advance, advance_ms=advance, **more),
        st.integers(1, 99),
        sizes,
        **timing,
    ),
    st.builds(SlidingWindow, window_size_ms=sizes, **timing),
    st.builds(SessionWindow, gap_ms=sizes, updates=st.none() | updates, **timing),
    st.builds(lambda n, **more: CountWindow(window_size_events=n, advance_events=1 + n // 2, **more), sizes, **timing),
    st.builds(
        CalendarWindow,
        calendar_unit=st.sampled_from(CalendarUnit),
        time_zone=st.sampled_from(["UTC", "Asia/Tokyo"]),
        updates=st.none() | updates,
        **timing,
    ),
    st.builds(GlobalWindow, updates=updates, **timing),
)


@given(windows)
def test_a_window_written_as_data_is_read_as_the_same(window: Any) -> None:
    assert parse_processor(counting(window.to_data())).window == window


# --- types --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ({"within_ms": 5}, {"within": Within(before_ms=5, after_ms=5)}),
        (
            {"within": {"after_ms": 9}, "join_type": "outer"},
            {"within": Within(before_ms=0, after_ms=9), "join_type": JoinType.OUTER},
        ),
        ({"lookup": True, "join_type": "left"}, {"lookup": Lookup(), "join_type": JoinType.LEFT}),
        ({"lookup": {"ttl_ms": 7}}, {"lookup": Lookup(ttl_ms=7)}),
    ],
)
def test_a_join_is_read(logic: dict[str, Any], expected: dict[str, Any]) -> None:
    read = parse_processor(processor("JOIN", ON | logic)).processing_logic
    assert isinstance(read, JoinLogic)
    assert {name: getattr(read, name) for name in expected} == expected
    assert (read.join_stream_id, read.on) == ("payments", ((("order_id",), ("order_id",)),))


def test_a_join_may_pair_fields_of_different_names_and_have_a_window() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    spec = parse_processor(processor("JOIN", ON | {"on": {"id": "order.id"}}, window_config=window))
    assert isinstance(spec.processing_logic, JoinLogic)
    assert spec.processing_logic.on == ((("id",), ("order", "id")),)
    assert spec.window == TumblingWindow(window_size_ms=10)


def test_the_expressions_of_a_join_are_over_its_sides() -> None:
    spec = parse_processor(processor("JOIN", ON | {"within_ms": 1, "fields": {"x": "left.a + right.b"}}))
    assert isinstance(spec.processing_logic, JoinLogic)
    (_, expression), *_ = spec.processing_logic.fields
    assert expression.compile()({"left": {"a": 1}, "right": {"b": 2}}) == 3
    assert expression.names == {"left", "right"}
    problem = told(processor("JOIN", ON | {"within_ms": 1, "fields": {"x": "payload.a"}}))[0]
    assert problem.startswith("p.processing_logic.fields.x: ")


@pytest.mark.parametrize(
    ("logic", "window", "problem"),
    [
        ({}, None, "p.processing_logic: a JOIN needs within_ms, within or lookup in its processing_logic, or a window_config"),
        ({"within_ms": 1, "lookup": True}, None, "p.processing_logic: expected either within or lookup, got both"),
        ({"within_ms": 1, "within": {}}, None, "p.processing_logic: expected either within_ms or within, got both"),
        (
            {"lookup": True, "join_type": "outer"},
            None,
            "p.processing_logic.join_type: a lookup is inner or left: rows of a table are no events without a partner",
        ),
        (
            {"within_ms": 1},
            {"window_type": "tumbling", "window_size_ms": 1},
            "p.window_config: a JOIN has either a window or within_ms; leave one of them out",
        ),
        (
            {"grace_period_ms": 1},
            {"window_type": "tumbling", "window_size_ms": 1},
            "p.processing_logic.grace_period_ms: stands in the window_config of a JOIN with a window",
        ),
        (
            {},
            {"window_type": "session", "gap_ms": 1},
            "p.window_config.window_type: a JOIN has a tumbling or calendar window; for others use within_ms",
        ),
        (
            {},
            {"window_type": "tumbling", "window_size_ms": 1, "emit": {"every_ms": 1}},
            "p.window_config.emit: a JOIN gives out its results when the window closes; leave it out",
        ),
    ],
)
def test_a_join_that_cannot_be_is_told(logic: dict[str, Any], window: dict[str, Any] | None, problem: str) -> None:
    assert told(processor("JOIN", ON | logic, window_config=window)) == [problem]


def test_a_custom_is_read_with_what_its_form_needs() -> None:
    logic = {"function": "my.flows:price", "form": "keyed", "key": ["k"], "params": {"rate": 2}, "state_ttl_ms": 9}
    read = parse_processor(processor("CUSTOM", logic)).processing_logic
    assert isinstance(read, CustomLogic)
    assert (read.form, read.key, read.params, read.state_ttl_ms) == (CustomForm.KEYED, (("k",),), {"rate": 2}, 9)


@pytest.mark.parametrize(
    ("logic", "problem"),
    [
        (
            {"function": "price"},
            "function: expected a function as module:function, such as 'my_flows.prices:convert', got 'price'",
        ),
        ({"function": "m:f", "form": "keyed"}, "key: required, but missing: the form keyed needs the fields that name the state"),
        ({"function": "m:f", "key": ["k"]}, "key: only the form keyed has state; leave key out"),
        ({"function": "m:f", "grace_period_ms": 5}, "grace_period_ms: only the form keyed has state; leave grace_period_ms out"),
        ({"function": "m:f", "params": {"a b": 1}}, "params: expected names of arguments as keys, got 'a b'"),
    ],
)
def test_a_custom_that_cannot_be_is_told(logic: dict[str, Any], problem: str) -> None:
    assert told(processor("CUSTOM", logic)) == [f"p.processing_logic.{problem}"]


def test_only_the_strategy_retry_has_a_retry() -> None:
    spec = parse_processor(processor("CUSTOM", {"function": "m:f"}, error_handling_strategy="RETRY", retry={"max_attempts": 7}))
    assert spec.retry_policy == RetryPolicy(max_attempts=7)
    assert told(processor("CUSTOM", {"function": "m:f"}, retry={})) == [
        "p.retry: only the error_handling_strategy RETRY tries again; leave it out"
    ]


@pytest.mark.parametrize(
    "data",
    [
        processor(
            "JOIN", ON | {"on": {"a": "b.c"}, "within": {"before_ms": 3}, "fields": {"x.y": "left.a"}, "grace_period_ms": 4}
        ),
        processor("JOIN", ON | {"lookup": {"ttl_ms": 3}, "join_type": "left", "max_future_ms": "never"}),
        processor("JOIN", ON | {"lookup": True}),
        processor("JOIN", ON, window_config={"window_type": "calendar", "calendar_unit": "day"}),
        processor("WINDOW", {"output": "marks", "group_by": ["a.b"]}, window_config={"window_type": "session", "gap_ms": 1}),
        processor("DEDUPLICATE", {"deduplicate_by": ["a", "b.c"], "within_ms": 5, "close_when_idle_ms": "never"}),
        processor(
            "CUSTOM", {"function": "m:f", "params": {"a": [1, None]}}, error_handling_strategy="RETRY", retry={"jitter": 0}
        ),
        processor("CUSTOM", {"function": "m:f", "form": "keyed", "key": ["k"]}, dead_letters=False, renamed_from="q"),
        processor("MAP", {"flatten": "items", "drop": ["x"]}),
        counting({"window_type": "hopping", "window_size_ms": 9, "advance_ms": 3}, having="count > 1"),
    ],
)
def test_a_processor_written_as_data_is_read_as_the_same(data: dict[str, Any]) -> None:
    spec = parse_processor(data)
    assert parse_processor(to_data(spec)) == spec
