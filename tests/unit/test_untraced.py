"""Failures are kept without the frames in which they were raised, so that they go without Python's collector."""

import gc
from typing import Any

import pytest
from test_flows import plan_of, processor, publish, run

from event_streaming_bus.testing import read_all, temporary_bus
from event_streaming_bus.untraced import untraced


def test_the_error_and_those_that_led_to_it_lose_their_tracebacks() -> None:
    try:
        try:
            try:
                _ = 1 / 0
            except ZeroDivisionError:
                raise KeyError("k")  # noqa: B904 - in the context of the other
        except KeyError as error:
            raise ValueError("v") from error
    except ValueError as error:
        kept = untraced(error)
    assert kept.__traceback__ is None
    assert kept.__cause__ is not None
    assert kept.__cause__.__traceback__ is None
    assert kept.__cause__.__context__ is not None
    assert kept.__cause__.__context__.__traceback__ is None


@pytest.mark.parametrize(
    ("kind", "logic"),
    [
        ("FILTER", {"filter_expression": "payload.x / payload.zero > 1"}),
        ("MAP", {"fields": {"y": "payload.x / payload.zero"}}),
    ],
)
def test_nothing_of_failed_events_is_left_when_they_are_dead_letters(kind: str, logic: dict[str, Any]) -> None:
    with temporary_bus() as bus:
        plan = plan_of(bus, processor("p", kind, logic, target_stream_id="out"))
        publish(bus, "in", [{"x": x, "zero": 0} for x in range(200)])
        gc.collect()
        before = {id(each) for each in gc.get_objects()}  # what other tests have left
        gc.disable()
        try:
            run(bus, plan)
            left = [each for each in gc.get_objects() if isinstance(each, ZeroDivisionError) and id(each) not in before]
        finally:
            gc.enable()
        assert len(read_all(bus, "_dead_letters")) == 200
    assert left == []
