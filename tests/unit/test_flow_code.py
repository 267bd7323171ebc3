"""The generated code of a chain: neighbours that read the same payload do not see what others make of it."""

from itertools import permutations
from typing import Any

import pytest
from flow_steps import event, run, step

from event_streaming_bus.flows.trial import TrialResult

SWAP = step("swap", "MAP", {"mode": "replace", "fields": {"b": "payload.a", "a": "payload.b"}}, target_stream_id="swapped")
SAME = step("same", "MAP", {"mode": "replace", "fields": {"a": "payload.a", "b": "payload.b"}}, target_stream_id="unchanged")
MORE = step("more", "MAP", {"mode": "replace", "fields": {"b": "payload.b", "a": "payload.a + 1"}}, target_stream_id="higher")
SOME = step("some", "FILTER", {"filter_expression": "payload.a > payload.b"}, target_stream_id="passed")
STREAMS = ("swapped", "unchanged", "higher", "passed")


def data_of(result: TrialResult, stream: str) -> list[bytes]:
    return [each.data for each in sorted(result.outputs[stream], key=lambda each: each.timestamp_ms)]


@pytest.mark.parametrize("order", list(permutations([SWAP, MORE, SOME])))
def test_a_map_that_writes_the_fields_it_reads_changes_them_for_nobody_else(order: tuple[dict[str, Any], ...]) -> None:
    given = [event(0, a=1, b=2), event(1, a=4, b=3)]
    result = run(SAME, *order, streams=STREAMS, **{"in": given})
    assert data_of(result, "swapped") == [b'{"b":1,"a":2}', b'{"b":4,"a":3}']
    assert data_of(result, "unchanged") == [b'{"a":1,"b":2}', b'{"a":4,"b":3}']
    assert data_of(result, "higher") == [b'{"b":2,"a":2}', b'{"b":3,"a":5}']
    assert [each.payload for each in result.outputs["passed"]] == [{"k": "a", "a": 4, "b": 3}]


def test_a_field_that_is_missing_is_null_and_one_that_fails_is_a_dead_letter_of_what_was_read() -> None:
    given = [event(0, a=1), event(1, a="x", b=2), event(2, a=3, b=[1])]
    result = run(MORE, streams=STREAMS, **{"in": given})
    assert data_of(result, "higher") == [b'{"b":null,"a":2}', b'{"b":[1],"a":4}']
    (letter,) = result.dead
    assert letter.event.payload == {"k": "a", "a": "x", "b": 2}


def test_a_filter_marks_what_passes_and_the_others_are_counted() -> None:
    given = [event(n, a=n, b=n % 3) for n in range(10)]
    few, most, all_of = (
        step(name, "FILTER", {"filter_expression": text}, target_stream_id="passed")
        for name, text in (("few", "payload.a > 8"), ("most", "payload.a > 0"), ("all", "payload.a >= 0"))
    )
    result = run(few, most, all_of, streams=STREAMS, **{"in": given})
    assert [(m.events_in, m.events_passed, m.events_filtered) for m in result.metrics] == [(10, 1, 9), (10, 9, 1), (10, 10, 0)]
    assert len(result.outputs["passed"]) == 20
