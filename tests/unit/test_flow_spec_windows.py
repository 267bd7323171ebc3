"""Windows, read from plain data: what is accepted, what is told, and the way back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.spec import parse_processor
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


def counting(window: dict[str, Any]) -> dict[str, Any]:
    return {
        "processor_name": "p",
        "processor_type": "AGGREGATE",
        "source_stream_id": "in",
        "target_stream_id": "out",
        "processing_logic": {"aggregation_function": "count"},
        "window_config": window,
    }


def told(window: dict[str, Any]) -> list[str]:
    """The problems of a window, each as ``path: message``."""
    with pytest.raises(FlowError) as caught:
        parse_processor(counting(window), path="p")
    return str(caught.value).splitlines()


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
            {"window_type": "calendar", "calendar_unit": "day", "time_zone": "localtime"},
            "time_zone: expected a time zone of the IANA database, such as 'Europe/Berlin', got 'localtime'",
        ),
        (
            {"window_type": "calendar", "calendar_unit": "day", "time_zone": "right/UTC"},
            "time_zone: expected a time zone of the IANA database, such as 'Europe/Berlin', got 'right/UTC'; "
            "did you mean 'Etc/UTC'?",
        ),
        (
            {"window_type": "calendar", "calendar_unit": "day", "time_zone": 1},
            "time_zone: expected the name of a time zone, such as 'Europe/Berlin', got 1 (put it in quotes)",
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
        (
            {"window_type": "tumbling", "window_size_ms": 60, "emit": {"every_ms": 60}},
            "emit.every_ms: expected less than window_size_ms, or no update would come before a window closes, got 60",
        ),
        (
            {"window_type": "session", "gap_ms": 5, "emit": {"every": 1}},
            "emit.every: unknown key; did you mean 'every_ms'? (accepted: every_ms, every_events, retract)",
        ),
        (
            {"window_type": "session", "gap_ms": 5, "emit": {"every_events": 2, "retract": 1}},
            "emit.retract: expected true or false, got 1",
        ),
        ({"window_type": "session", "gap_ms": 5, "emit": {"retract": True}}, "emit: expected either every_ms or every_events"),
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
    assert told(window) == [f"p.window_config.{problem}"]


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
    st.builds(TumblingWindow, window_size_ms=st.integers(10**6 + 1, 10**9), updates=st.none() | updates, **timing),
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


def test_what_belongs_to_other_types_of_window_is_told_for_each_key() -> None:
    assert told({"window_type": "global", "emit": {"every_ms": 5}, "gap_ms": 5, "advance_ms": 1, "offset_ms": 2}) == [
        "p.window_config.gap_ms: a global window has no gap_ms; session has",
        "p.window_config.advance_ms: a global window has no advance_ms; hopping has",
        "p.window_config.offset_ms: a global window has no offset_ms; tumbling and hopping have",
    ]


def test_the_timing_of_a_window_has_defaults_and_never() -> None:
    window = {"window_type": "sliding", "window_size_ms": 5, "close_when_idle_ms": "Never"}
    read = parse_processor(counting(window)).window
    assert read == SlidingWindow(window_size_ms=5, grace_period_ms=0, close_when_idle_ms=None, max_future_ms=86_400_000)
