"""Trials: flows run over given events or copies of real ones, and how what comes is compared with what was expected."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from bytewax.testing import run_main
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, FlowError, InvalidInputError, ValidationFailedError
from event_streaming_bus.flow_testing import GivenEvent, run_flow, run_tests
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.custom_functions import CUSTOM_MODULES
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.differences import event_differences
from event_streaming_bus.flows.flow_tests import ExpectedEvent
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.samples import copy_events, newest
from event_streaming_bus.flows.spec import FlowSpec, parse_flow
from event_streaming_bus.flows.trial import trial
from event_streaming_bus.models import Event, EventConfig, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.store.log.writer import partition_of
from event_streaming_bus.testing import read_all, temporary_bus

COUNTS: dict[str, Any] = {
    "processor_name": "counts",
    "processor_type": "AGGREGATE",
    "source_stream_id": "orders",
    "target_stream_id": "totals",
    "processing_logic": {"aggregation_function": "count", "as": "n"},
    "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
}


def spec_of(*processors: dict[str, Any], **more: Any) -> FlowSpec:
    return parse_flow({"processors": list(processors), **more}, name="f")


def at(time_ms: int, payload: Any = None, **more: Any) -> GivenEvent:
    return GivenEvent(payload={} if payload is None else payload, timestamp_ms=time_ms, **more)


# --- flows over given events ------------------------------------------------------------------------------------------


def test_a_flow_file_is_run_over_events_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(yaml.safe_dump({"processors": [COUNTS]}))
    result = run_flow(tmp_path / "f.yaml", {"orders": [at(0), at(10), at(2500)]})
    assert [event.payload["n"] for event in result.outputs["totals"]] == [2, 1]
    assert (result.written, result.late_count, result.dead_count) == ({"totals": 2}, 0, 0)
    assert [(each.name, each.events_in, each.events_out) for each in result.metrics] == [("counts", 3, 2)]


def test_a_flow_that_reads_a_stream_it_writes_is_run_through() -> None:
    mapped = {
        "processor_name": "mapped",
        "processor_type": "MAP",
        "source_stream_id": "raw",
        "target_stream_id": "orders",
        "processing_logic": {"fields": {"twice": "payload.n * 2"}},
    }
    result = run_flow(spec_of(COUNTS, mapped), {"raw": [at(0, {"n": 1}), at(1, {"n": 2})]})
    assert [event.payload["n"] for event in result.outputs["totals"]] == [2]
    assert result.written == {"totals": 1, "orders": 2}


def test_changes_of_state_are_among_the_outputs() -> None:
    result = run_flow(spec_of(COUNTS | {"state_store_config": {"changelog_topic": "changes"}}), {"orders": [at(0)]})
    assert [event.payload["n"] for event in result.outputs["changes"]] == [1]


def test_a_late_event_comes_with_every_window_that_it_missed() -> None:
    hopping = COUNTS | {"window_config": {"window_type": "hopping", "window_size_ms": 1000, "advance_ms": 500}}
    result = run_flow(spec_of(hopping), {"orders": [at(9000), at(1200, {"late": 1})]})
    assert [(each.processor, each.event.payload, each.window_start_ms, each.window_end_ms) for each in result.late] == [
        ("counts", {"late": 1}, 500, 1500),
        ("counts", {"late": 1}, 1000, 2000),
    ]
    assert result.late_count == 2


def test_events_without_a_key_go_to_partition_0_in_every_run() -> None:
    spec = spec_of(COUNTS, streams=[{"name": "orders", "partitions": 7}])
    key = next(key for key in map(str, range(100)) if partition_of(key, 7) == 0)
    # The event of time 0 is late only because it shares its partition with that of 5000.
    assert [run_flow(spec, {"orders": [at(5000, key=key), at(0)]}).late_count for _ in range(4)] == [1, 1, 1, 1]


def test_what_the_schema_of_a_stream_sets_aside_is_dead_in_that_stream() -> None:
    schema = {"type": "object", "required": ["n"]}
    data: dict[str, Any] = {
        "schemas": [{"schema_name": "order", "schema_version": "1.0", "json_schema": schema}],
        "streams": [{"name": "orders", "schema": "order", "on_invalid": "DEAD_LETTER"}],
        "processors": [COUNTS],
    }
    (dead,) = run_flow(parse_flow(data, name="f"), {"orders": [at(0, {"m": 1})]}).dead
    assert (dead.processor, dead.stream, dead.event.payload, dead.error_type) == (
        None,
        "orders",
        {"m": 1},
        "ValidationFailedError",
    )
    assert "dead_letter" not in (dead.event.metadata or {})
    test = {"name": "t", "given": {"orders": [{"payload": {"m": 1}}]}, "dead": {"orders": [{"m": 1}]}}
    assert [result.problems for result in run_tests(parse_flow(data | {"tests": [test]}, name="f"))] == [()]
    data["streams"][0].pop("on_invalid")
    with pytest.raises(ValidationFailedError, match="'n' is a required property"):
        run_flow(parse_flow(data, name="f"), {"orders": [at(0, {"m": 1})]})


def test_events_for_a_stream_that_the_flow_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"given\.ordrs: the flow has no such stream; it has orders, totals"):
        run_flow(spec_of(COUNTS), {"ordrs": [at(0)]})


def test_a_processor_that_stops_the_flow_raises_its_error() -> None:
    stops = COUNTS | {
        "processing_logic": {"aggregation_function": "sum", "aggregation_field": "n"},
        "error_handling_strategy": "STOP",
    }
    with pytest.raises(FlowError, match="counts stopped the flow"):
        run_flow(spec_of(stops), {"orders": [at(0, {"n": "much"})]})


def test_what_is_tried_again_is_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trial_functions.py").write_text(
        "calls = []\ndef down(event):\n    calls.append(event)\n    raise OSError('down')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(CUSTOM_MODULES, "trial_functions")
    call = {
        "processor_name": "call",
        "processor_type": "CUSTOM",
        "source_stream_id": "orders",
        "target_stream_id": "called",
        "processing_logic": {"function": "trial_functions:down"},
        "error_handling_strategy": "RETRY",
        "retry": {"max_attempts": 4, "backoff_ms": 8000, "max_backoff_ms": 8000},
    }
    started_s = time.monotonic()
    (dead,) = run_flow(spec_of(call), {"orders": [at(0)]}).dead
    assert time.monotonic() - started_s < 8
    assert (dead.processor, dead.reason) == ("call", "down")
    assert len(sys.modules["trial_functions"].calls) == 4


def test_no_more_is_kept_than_asked_for_and_all_is_counted() -> None:
    spec = spec_of(COUNTS | {"window_config": COUNTS["window_config"] | {"window_size_ms": 1}})
    with trial() as tried:
        tried.prepare(spec)
        stream = tried.log.find_stream(spec.tenant_id, "orders")
        publish(tried.storage, stream, [(t, None) for t in (*range(50), *range(20))])
        result = tried.run(most=3)
    assert (len(result.outputs["totals"]), result.written) == (3, {"totals": 50})
    assert (len(result.late), result.late_count) == (3, 20)


def test_a_flow_that_would_not_deploy_is_not_tried() -> None:
    known = StreamInfo(stream_id="stream_x", config=StreamConfig(name="orders", partitions=3), created_at_ms=0)
    with trial() as tried, pytest.raises(AlreadyExistsError, match="partitions is 3, not 1"):
        tried.prepare(spec_of(COUNTS, streams=[{"name": "orders"}]), [known])


# --- samples of streams -----------------------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def publish(storage: Any, stream: StreamInfo, events: list[tuple[int, str | None]], **config: Any) -> None:
    EventPublishingService(storage).submit(
        EventConfig(event_type="order", **config),
        [{"i": i} for i in range(len(events))],
        stream_id=stream.name,
        timestamps_ms=[time_ms for time_ms, _ in events],
        keys=[key for _, key in events],
    ).result()


def scattered(bus: Bus, appends: int = 24) -> StreamInfo:
    """A stream of four partitions with events in several lanes, with and without keys, some of them out of order."""
    stream = bus.create_stream("orders", partitions=4)
    for n in range(appends):
        lane = EventPriority.HIGH if n % 5 == 0 else EventPriority.NORMAL
        keys = [None, f"k{n % 3}"]
        publish(bus.storage, stream, [(n * 1000 + i * 100 - 3000 * (i == 3), keys[n % 2]) for i in range(6)], priority=lane)
        time.sleep(0.002)  # appended one after the other
    return stream


def rows(log: Any, stream: StreamInfo, begins: dict[Split, int] | None = None) -> dict[Split, list[tuple[int, int, Event]]]:
    """By split: the offset, the time of appending, and the event."""
    found: dict[Split, list[tuple[int, int, Event]]] = {}
    for split, begin in (begins or log.begin_offsets(stream.stream_id)).items():
        offset = begin
        while batches := log.read(split, offset):
            for batch in batches:
                of_split = found.setdefault(split, [])
                of_split += [(batch.offset + i, batch.appended_at_ms, event) for i, event in enumerate(batch.events())]
            offset = batches[-1].end_offset
    return found


@pytest.mark.parametrize("count", [1, 7, 40, 143, 1000])
def test_the_newest_events_are_those_appended_last_without_gaps(bus: Bus, count: int) -> None:
    stream = scattered(bus)
    begins = newest(bus.log, stream, count)
    everything = [row for of_split in rows(bus.log, stream).values() for row in of_split]
    sample = [row for of_split in rows(bus.log, stream, begins).values() for row in of_split]
    assert len(sample) == min(count, len(everything))
    left = {event.event_id for *_, event in everything} - {event.event_id for *_, event in sample}
    oldest_ms = min(appended_ms for _, appended_ms, _ in sample)
    assert all(appended_ms <= oldest_ms for _, appended_ms, event in everything if event.event_id in left)


def test_a_copy_has_every_event_in_its_place_as_it_was_appended(bus: Bus) -> None:
    stream = scattered(bus)
    begins, ends = newest(bus.log, stream, 50), bus.log.end_offsets(stream.stream_id)
    with trial() as tried:
        tried.log.create_stream(stream.config, stream.stream_id)
        assert copy_events(bus.log, tried.log, begins, ends) == 50
        assert rows(tried.log, stream) == rows(bus.log, stream, begins)
        copied = {split: end if begins[split] < end else 0 for split, end in ends.items()}
        assert tried.log.end_offsets(stream.stream_id) == copied


def test_events_appended_while_a_stream_is_copied_are_left_out(bus: Bus) -> None:
    stream = scattered(bus, appends=4)
    begins, ends = bus.log.begin_offsets(stream.stream_id), bus.log.end_offsets(stream.stream_id)
    publish(bus.storage, stream, [(0, "k1")] * 5)
    with trial() as tried:
        tried.log.create_stream(stream.config, stream.stream_id)
        assert copy_events(bus.log, tried.log, begins, ends) == sum(ends.values()) == 24


def test_batches_that_do_not_follow_are_refused_and_nothing_of_them_is_kept(bus: Bus) -> None:
    stream = bus.create_stream("orders")
    for _ in range(3):
        publish(bus.storage, stream, [(0, None), (1, None)])
    (split,) = [split for split, end in bus.log.end_offsets(stream.stream_id).items() if end]
    first, _, third = bus.log.read(split, 0)
    with trial() as tried:
        tried.log.create_stream(stream.config, stream.stream_id)
        with pytest.raises(InvalidInputError, match="ends at the offset 2; a batch at 4 does not follow it"):
            tried.log.adopt([first, third])
        assert tried.log.end_offsets(stream.stream_id)[split] == 0
        tried.log.adopt([first])
        assert tried.log.read(split, 0)[0].events() == first.events()


def test_a_flow_over_a_copy_does_what_it_does_over_the_stream(bus: Bus) -> None:
    stream = scattered(bus)
    spec = spec_of(COUNTS, streams=[{"name": "totals"}])
    with trial() as tried:
        tried.prepare(spec, [stream])
        copy_events(bus.log, tried.log, newest(bus.log, stream, 1000), bus.log.end_offsets(stream.stream_id))
        result = tried.run()
    plan = deploy(spec, bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    assert [event.data for event in read_all(bus, "totals")] == [event.data for event in result.outputs["totals"]]
    (real,), (tried_metrics,) = flow_metrics(plan, bus.storage), result.metrics
    assert real.events_late > 0
    names = ("events_in", "events_passed", "events_late", "events_out", "watermark_ms")
    assert [getattr(real, name) for name in names] == [getattr(tried_metrics, name) for name in names]


# --- comparing --------------------------------------------------------------------------------------------------------


def came(payload: Any, key: str | None = None, time_ms: int = 0) -> Event:
    return Event("event", "t", time_ms, msgspec.json.encode(payload), key)


def differences(expected: list[ExpectedEvent], found: list[Event], *, ordered: bool = False) -> list[str]:
    return event_differences("out", expected, found, ordered=ordered)


def test_numbers_are_compared_by_value_and_true_is_no_number() -> None:
    assert differences([ExpectedEvent(payload={"a": 1, "b": [2.0]})], [came({"b": [2], "a": 1.0})]) == []
    assert differences([ExpectedEvent(payload=1), ExpectedEvent(payload=True)], [came(True)]) == ["out: missing 1"]
    assert differences([ExpectedEvent(payload=[])], [came({})])[0].startswith("out: missing []")


def test_an_expected_event_makes_way_for_one_that_asks_for_more() -> None:
    found = [came(1, "b", 1), came(1, "b", 2)]
    assert differences([ExpectedEvent(payload=1), ExpectedEvent(payload=1, key="b", timestamp_ms=1)], found) == []
    assert differences([ExpectedEvent(payload=1, key="b"), ExpectedEvent(payload=1, timestamp_ms=1)], found) == []
    assert differences([ExpectedEvent(payload=1, timestamp_ms=1), ExpectedEvent(payload=1, timestamp_ms=1)], found) == [
        "out: missing 1",
        "out: not expected 1",
    ]


@given(st.data())
def test_events_that_say_less_than_what_came_always_find_it(data: st.DataObject) -> None:
    events = st.builds(came, st.integers(0, 1), st.sampled_from(["a", "b"]), st.integers(0, 2))
    found = data.draw(st.lists(events, max_size=8))
    expected = [
        ExpectedEvent(
            payload=event.payload,
            key=event.key if data.draw(st.booleans()) else None,
            timestamp_ms=event.timestamp_ms if data.draw(st.booleans()) else None,
        )
        for event in found
    ]
    assert differences(data.draw(st.permutations(expected)), found) == []


def test_in_order_one_event_too_few_or_too_many_is_told_as_just_that() -> None:
    expected = [ExpectedEvent(payload={"n": n}) for n in range(5)]
    found = [came({"n": n}) for n in range(5)]
    assert differences(expected, found[1:], ordered=True) == ['out: missing {"n":0}']
    assert differences(expected, [*found[:2], came({"n": 9}), *found[2:]], ordered=True) == ['out: not expected {"n":9}']
    (problem,) = differences(expected, [*found[:2], came({"n": 9}), *found[3:]], ordered=True)
    assert problem.splitlines() == ['out[2]: expected {"n":2}', '    got      {"n":9}', "      payload.n: expected 2, got 9"]


def test_of_many_differences_a_few_are_told_and_the_others_counted() -> None:
    problems = differences([ExpectedEvent(payload=n) for n in range(100)], [came(f"n{n}") for n in range(40)])
    assert (len(problems), problems[-1]) == (11, "out: and 130 more")
