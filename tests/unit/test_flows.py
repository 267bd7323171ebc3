"""Flows at work on a real log, in this process: what comes out, and what becomes of events that fail."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, FlowError, SchemaNotFoundError, StreamNotFoundError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics, progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends, ends_from_json, ends_to_json
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, EventPriority, StreamConfig
from event_streaming_bus.testing import read_all, temporary_bus

MINUTE = 60_000


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def publish(bus: Bus, stream: str, rows: list[Any], **config: Any) -> None:
    """Publish payloads; a row may be ``(time, payload)``. The key is the payload's ``k``."""
    pairs = [row if isinstance(row, tuple) else (0, row) for row in rows]
    bus.publishing.submit(
        EventConfig(event_type="test", **config),
        [payload for _, payload in pairs],
        stream_id=stream,
        keys=[payload.get("k") if isinstance(payload, dict) else None for _, payload in pairs],
        timestamps_ms=[at_ms for at_ms, _ in pairs],
    ).result()


def processor(name: str, kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": "in"}
    if kind == "AGGREGATE":
        config["window_config"] = {"window_type": "tumbling", "window_size_ms": MINUTE, **more.pop("window", {})}
    return config | more


def plan_of(bus: Bus, *processors: dict[str, Any], streams: tuple[str, ...] = ("in", "out"), **flow: Any) -> Plan:
    data = {"streams": [{"name": name} for name in streams], "processors": list(processors), **flow}
    return deploy(parse_flow(data, name="flow"), bus.storage)


def run(bus: Bus, plan: Plan) -> None:
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def metrics(bus: Bus, plan: Plan) -> dict[str, ProcessorMetrics]:
    return {each.name: each for each in flow_metrics(plan, bus.storage)}


def payloads(bus: Bus, stream: str = "out") -> list[Any]:
    return [event.payload for event in read_all(bus, stream)]


def test_a_filter_passes_events_on_as_they_were(bus: Bus) -> None:
    checks = ["payload.x < 5", "key != null"]
    plan = plan_of(
        bus,
        processor("f", "FILTER", {"filter_expression": "payload.x > 1", "additional_checks": checks}, target_stream_id="out"),
    )
    publish(bus, "in", [{"x": x, "k": "k"} for x in range(8)], metadata={"a": 1}, correlation_id="c", source_capability="s")
    run(bus, plan)
    source, out = read_all(bus, "in"), read_all(bus, "out")
    assert [event.payload["x"] for event in out] == [2, 3, 4]
    for before, after in zip(source[2:5], out, strict=True):
        assert after.data == before.data
        assert after.causation_id == before.event_id
        kept = ("event_type", "timestamp_ms", "key", "metadata", "correlation_id", "source_capability", "tenant_id")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert (metrics(bus, plan)["f"].events_passed, metrics(bus, plan)["f"].events_filtered) == (3, 5)


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ({"mode": "replace", "fields": {"y": "payload.a + 1", "deep.z": "payload.b.c"}}, {"y": 2, "deep": {"z": 7}}),
        (
            {"mode": "replace", "fields": {"z": "payload.b", "y": "null", "x": "[1, 'a']"}},
            {"z": {"c": 7, "d": 8}, "y": None, "x": [1, "a"]},
        ),
        ({"mode": "replace", "fields": {'a "b"': "1", "c\\d": "2", "naïve": "3"}}, {'a "b"': 1, "c\\d": 2, "naïve": 3}),
        ({"mode": "replace", "fields": {"y": "2 ** 100"}}, {"y": 1 << 100}),
        ({"fields": {"y": "payload.a + 1"}}, {"a": 1, "b": {"c": 7, "d": 8}, "k": "k", "y": 2}),
        ({"select": ["b.c", "k"]}, {"b": {"c": 7}, "k": "k"}),
        ({"drop": ["b.c", "k", "nothing"]}, {"a": 1, "b": {"d": 8}}),
        ({"rename": {"a": "k", "k": "a"}}, {"a": "k", "b": {"c": 7, "d": 8}, "k": 1}),
        ({"select": ["b"], "rename": {"b.c": "c"}, "fields": {"b.e": "payload.a"}}, {"b": {"d": 8, "e": 1}, "c": 7}),
    ],
)
def test_a_map_builds_the_payload(bus: Bus, logic: dict[str, Any], expected: dict[str, Any]) -> None:
    plan = plan_of(bus, processor("m", "MAP", logic, target_stream_id="out"))
    publish(bus, "in", [{"a": 1, "b": {"c": 7, "d": 8}, "k": "k"}])
    run(bus, plan)
    assert payloads(bus) == [expected]


def test_a_map_can_give_a_new_key_and_event_type(bus: Bus) -> None:
    logic = {"mode": "replace", "fields": {"y": "1"}, "key": "payload.n", "event_type": "made"}
    plan = plan_of(bus, processor("m", "MAP", logic, target_stream_id="out"))
    publish(bus, "in", [{"n": 5, "k": "old"}])
    run(bus, plan)
    assert [(event.key, event.event_type) for event in read_all(bus, "out")] == [("5", "made")]


def test_a_map_writes_the_same_whether_or_not_others_read_it(bus: Bus) -> None:
    logic = {"mode": "replace", "fields": {"y": "payload.x * 0.5", "n": "payload.n", "t": "payload.t"}, "key": "payload.t"}
    plan = plan_of(
        bus,
        processor("alone", "MAP", logic, target_stream_id="out"),
        processor("read", "MAP", logic, target_stream_id="b"),
        processor("later", "FILTER", {"filter_expression": "payload.y >= 1"}, source_stream_id="read", target_stream_id="c"),
        streams=("in", "out", "b", "c"),
    )
    publish(bus, "in", [{"x": x, "t": f"t{x}é", "k": "k"} for x in range(4)])
    run(bus, plan)
    alone = [(event.data, event.key) for event in read_all(bus, "out")]
    assert alone[2] == ('{"y":1.0,"n":null,"t":"t2é"}'.encode(), "t2é")
    assert alone == [(event.data, event.key) for event in read_all(bus, "b")]
    assert alone[2:] == [(event.data, event.key) for event in read_all(bus, "c")]


@pytest.mark.parametrize("name", ['a"b', "c\\\\d", "naïve", "a b"])
def test_a_field_of_any_name_is_read(bus: Bus, name: str) -> None:
    plan = plan_of(bus, processor("f", "FILTER", {"filter_expression": f"payload['{name}'] > 1"}, target_stream_id="out"))
    publish(bus, "in", [{name.replace("\\\\", "\\"): x, "k": "k"} for x in range(4)])
    run(bus, plan)
    assert len(payloads(bus)) == 2


def test_processors_joined_by_ports_run_without_a_stream_between(bus: Bus) -> None:
    plan = plan_of(
        bus,
        processor("small", "FILTER", {"filter_expression": "payload.x < 3"}),
        processor("double", "MAP", {"fields": {"x": "payload.x * 2"}}, source_stream_id="small"),
        processor("even", "FILTER", {"filter_expression": "payload.x > 0"}, source_stream_id="double", target_stream_id="out"),
        processor("also", "FILTER", {"filter_expression": "payload.x == 1"}, source_stream_id="small", target_stream_id="b"),
        streams=("in", "out", "b"),
    )
    publish(bus, "in", [{"x": x} for x in range(6)])
    run(bus, plan)
    assert payloads(bus) == [{"x": 2}, {"x": 4}]
    assert payloads(bus, "b") == [{"x": 1}]
    counted = metrics(bus, plan)
    assert [(counted[n].events_in, counted[n].events_out) for n in ("small", "double", "even", "also")] == [
        (6, 3),
        (3, 3),
        (3, 2),
        (3, 1),
    ]


def test_what_a_map_made_goes_on_through_those_that_read_it(bus: Bus) -> None:
    plan = plan_of(
        bus,
        processor("m", "MAP", {"mode": "replace", "fields": {"y": "payload.x"}, "key": "'new'", "event_type": "made"}),
        processor("f", "FILTER", {"filter_expression": "key == 'new' and event_type == 'made'"}, source_stream_id="m"),
        processor("n", "MAP", {"fields": {"z": "payload.y + 1"}}, source_stream_id="f", target_stream_id="out"),
    )
    publish(bus, "in", [{"x": 1, "k": "old"}])
    run(bus, plan)
    assert [(event.payload, event.key, event.event_type) for event in read_all(bus, "out")] == [({"y": 1, "z": 2}, "new", "made")]


def test_an_aggregate_sums_each_group_in_each_window(bus: Bus) -> None:
    logic = {
        "group_by": ["k", "deep.g"],
        "aggregations": [
            {"function": "sum", "field": "x"},
            {"function": "count"},
            {"function": "count", "field": "x"},
            {"function": "avg", "field": "x"},
            {"function": "min", "field": "x", "as": "least"},
            {"function": "max", "field": "x"},
        ],
    }
    plan = plan_of(bus, processor("a", "AGGREGATE", logic, target_stream_id="out"))
    publish(
        bus,
        "in",
        [
            (1, {"k": "a", "deep": {"g": 1}, "x": 2}),
            (2, {"k": "a", "deep": {"g": 1}, "x": None}),
            (3, {"k": "a", "deep": {"g": True}, "x": 5}),
            (4, {"k": "a", "deep": {"g": 1.0}, "x": 4}),
            (MINUTE, {"k": "a", "deep": {"g": 1}, "x": 7}),
        ],
    )
    run(bus, plan)
    starts = "1970-01-01T00:00:00.000Z", "1970-01-01T00:01:00.000Z"
    found = sorted(payloads(bus), key=lambda p: (p["window_start"], str(p["deep_g"])))
    one = {"sum_x": 6, "count": 3, "count_x": 2, "avg_x": 3.0, "least": 2, "max_x": 4}
    assert found[0] == {"k": "a", "deep_g": 1, "window_start": starts[0], "window_end": starts[1], **one}
    assert [(p["deep_g"], p["count"]) for p in found] == [(1, 3), (True, 1), (1, 1)]
    first = min(read_all(bus, "out"), key=lambda event: event.timestamp_ms)
    assert (first.timestamp_ms, first.event_type, first.source_capability) == (MINUTE, "a", "flow")


def test_the_seeds_short_form_names_its_output_by_function_and_field(bus: Bus) -> None:
    logic = {"aggregation_function": "sum", "aggregation_field": "order_total", "group_by": ["region"]}
    plan = plan_of(bus, processor("a", "AGGREGATE", logic, target_stream_id="out"))
    publish(bus, "in", [{"order_total": 1.5, "region": "eu"}, {"order_total": 2, "region": "eu"}])
    run(bus, plan)
    assert [(p["region"], p["sum_order_total"]) for p in payloads(bus)] == [("eu", 3.5)]


def test_processors_can_read_what_an_aggregate_puts_out(bus: Bus) -> None:
    logic = {"aggregation_function": "count", "group_by": ["k"]}
    plan = plan_of(
        bus,
        processor("a", "AGGREGATE", logic),
        processor("big", "FILTER", {"filter_expression": "payload.count > 1"}, source_stream_id="a"),
        processor("m", "MAP", {"select": ["k"], "key": "payload.k"}, source_stream_id="big", target_stream_id="out"),
    )
    publish(bus, "in", [{"k": "a"}, {"k": "b"}, {"k": "a"}])
    run(bus, plan)
    assert payloads(bus) == [{"k": "a"}]
    counted = metrics(bus, plan)
    assert (counted["big"].events_in, counted["big"].events_filtered, counted["m"].events_out) == (2, 1, 1)


def test_late_events_are_counted_and_leave_the_answers_as_they_are(bus: Bus) -> None:
    plan = plan_of(bus, processor("a", "AGGREGATE", {"aggregation_function": "count"}, target_stream_id="out"))
    publish(bus, "in", [(1, {}), (2 * MINUTE, {}), (2, {}), (3, {})])
    run(bus, plan)
    assert [p["count"] for p in payloads(bus)] == [1, 1]
    counted = metrics(bus, plan)["a"]
    assert (counted.events_in, counted.events_passed, counted.events_late, counted.in_state) == (4, 2, 2, 0)


def test_the_last_window_of_a_live_stream_closes_by_the_clock_and_stopping_closes_none(bus: Bus) -> None:
    window = {"window_size_ms": 100, "close_when_idle_ms": 50}
    late = {"window_size_ms": 10 * MINUTE, "close_when_idle_ms": 50}
    plan = plan_of(
        bus,
        processor("quick", "AGGREGATE", {"aggregation_function": "count"}, target_stream_id="out", window=window),
        processor("long", "AGGREGATE", {"aggregation_function": "count"}, target_stream_id="never", window=late),
        streams=("in", "out", "never"),
    )
    stop = threading.Event()
    running = threading.Thread(target=lambda: run_main(build(plan, bus.storage, stopping=stop.is_set)))
    running.start()
    try:
        publish(bus, "in", [(time.time_ns() // 1_000_000, {}), (time.time_ns() // 1_000_000, {})])
        deadline = time.monotonic() + 30
        while sum(p["count"] for p in payloads(bus)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        running.join()
    assert payloads(bus, "never") == []
    assert metrics(bus, plan)["long"].in_state == 2


def test_the_chain_behind_the_last_session_of_a_live_stream_closes_by_the_clock(bus: Bus) -> None:
    session = {"window_type": "session", "gap_ms": 300, "close_when_idle_ms": 50}
    logic = {"aggregation_function": "count", "group_by": ["k"]}
    plan = plan_of(
        bus,
        processor("visit", "AGGREGATE", logic, window_config=session),
        processor("long", "FILTER", {"filter_expression": "payload.count > 1"}, source_stream_id="visit"),
        processor(
            "visits",
            "AGGREGATE",
            {"aggregation_function": "sum", "aggregation_field": "count"},
            source_stream_id="long",
            target_stream_id="out",
            window={"window_size_ms": 1000, "close_when_idle_ms": 50},
        ),
    )
    stop = threading.Event()
    running = threading.Thread(target=lambda: run_main(build(plan, bus.storage, stopping=stop.is_set)))
    running.start()
    try:
        now_ms = time.time_ns() // 1_000_000
        publish(bus, "in", [(now_ms, {"k": "a"}), (now_ms + 1, {"k": "a"}), (now_ms + 1, {"k": "b"})])
        deadline = time.monotonic() + 30
        while not payloads(bus):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        running.join()
    assert [p["sum_count"] for p in payloads(bus)] == [2]
    counted = metrics(bus, plan)
    assert [(counted[n].events_in, counted[n].in_state) for n in ("visit", "long", "visits")] == [(3, 0), (2, 0), (1, 0)]


def test_running_again_processes_only_what_is_new(bus: Bus) -> None:
    plan = plan_of(
        bus,
        processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"),
        processor("a", "AGGREGATE", {"aggregation_function": "count"}, target_stream_id="sums"),
        streams=("in", "out", "sums"),
    )
    publish(bus, "in", [(1, {"n": 1})])
    run(bus, plan)
    run(bus, plan)
    publish(bus, "in", [(MINUTE, {"n": 2})])
    run(bus, plan)
    assert payloads(bus) == [{"n": 1}, {"n": 2}]
    assert [p["count"] for p in payloads(bus, "sums")] == [1, 1]
    assert progress(plan, bus.storage) == (4, 4)


@pytest.mark.parametrize(("strategy", "dead", "skipped"), [("DEAD_LETTER", 2, 0), ("RETRY", 2, 0), ("SKIP", 0, 2)])
def test_events_that_fail_are_kept_apart_and_counted(bus: Bus, strategy: str, dead: int, skipped: int) -> None:
    plan = plan_of(
        bus,
        processor(
            "f", "FILTER", {"filter_expression": "payload.x > 1"}, target_stream_id="out", error_handling_strategy=strategy
        ),
    )
    publish(bus, "in", [{"x": 5}, {"x": None, "k": "key"}, {"x": "text"}, {"x": 0}])
    run(bus, plan)
    counted = metrics(bus, plan)["f"]
    assert payloads(bus) == [{"x": 5}]
    assert (counted.events_in, counted.events_dead, counted.events_skipped) == (4, dead, skipped)
    assert counted.events_in == counted.events_passed + counted.events_filtered + dead + skipped
    if dead:
        letters = read_all(bus, "_dead_letters")
        source = read_all(bus, "in")[1]
        why = (letters[0].metadata or {})["dead_letter"]
        assert (letters[0].data, letters[0].key, letters[0].causation_id) == (source.data, "key", source.event_id)
        assert (why["stream"], why["offset"], why["step"], why["attempts"]) == ("in", 1, "f", 1)
        assert "payload.x is null" in why["error_message"]


def test_stop_ends_the_flow_and_writes_nothing_of_the_chunk(bus: Bus) -> None:
    plan = plan_of(
        bus,
        processor("f", "FILTER", {"filter_expression": "payload.x > 1"}, target_stream_id="out", error_handling_strategy="STOP"),
    )
    publish(bus, "in", [{"x": 5}, {"x": None}])
    with pytest.raises(Exception, match="error"):
        run(bus, plan)
    assert payloads(bus) == []
    assert metrics(bus, plan)["f"].events_in == 0


def test_payloads_that_are_no_objects_are_dead_letters(bus: Bus) -> None:
    plan = plan_of(bus, processor("f", "FILTER", {"filter_expression": "payload.x == 1"}, target_stream_id="out"))
    publish(bus, "in", [{"x": 1}, [1, 2], "text", {"x": 1}])
    run(bus, plan)
    assert payloads(bus) == [{"x": 1}, {"x": 1}]
    assert [letter.payload for letter in read_all(bus, "_dead_letters")] == [[1, 2], "text"]


def test_a_value_that_cannot_be_summed_is_a_dead_letter_and_the_sum_goes_on(bus: Bus) -> None:
    logic = {"aggregation_function": "sum", "aggregation_field": "x"}
    plan = plan_of(bus, processor("a", "AGGREGATE", logic, target_stream_id="out"))
    publish(bus, "in", [{"x": 1}, {"x": "two"}, {"x": True}, {"x": 4}])
    run(bus, plan)
    assert [p["sum_x"] for p in payloads(bus)] == [5]
    messages = [(letter.metadata or {})["dead_letter"]["error_message"] for letter in read_all(bus, "_dead_letters")]
    assert messages == [
        "payload.x is text; the aggregation needs a number",
        "payload.x is true or false; the aggregation needs a number",
    ]


def test_output_that_breaks_the_targets_schema_is_a_dead_letter(bus: Bus) -> None:
    schema = {"schema_name": "positive", "json_schema": {"properties": {"x": {"minimum": 1}}}}
    flow = {
        "streams": [{"name": "in"}, {"name": "out", "schema": "positive"}],
        "schemas": [schema],
        "processors": [processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out")],
    }
    plan = deploy(parse_flow(flow, name="flow"), bus.storage)
    publish(bus, "in", [{"x": 1}, {"x": 0}])
    run(bus, plan)
    assert payloads(bus) == [{"x": 1}]
    assert "breaks schema positive 1.0" in (read_all(bus, "_dead_letters")[0].metadata or {})["dead_letter"]["error_message"]


def test_urgent_lanes_are_read_first_and_none_is_forgotten(bus: Bus) -> None:
    plan = plan_of(bus, processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"))
    for priority in reversed(EventPriority):
        publish(bus, "in", [{"p": priority.value}], priority=priority)
    run(bus, plan)
    written = sorted(read_all(bus, "out"), key=lambda event: event.payload["p"])
    assert [event.payload["p"] for event in written] == [event.priority.value for event in written]
    assert len(written) == 4


def test_every_tenant_has_streams_of_its_own(bus: Bus) -> None:
    bus.log.create_stream(StreamConfig(name="in", tenant_id="other"))
    plan = plan_of(bus, processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"), tenant_id="other")
    bus.publishing.submit(EventConfig(event_type="t"), [{"a": 1}], stream_id="in", tenant_id="other").result()
    run(bus, plan)
    assert [event.tenant_id for event in read_all(bus, "out", "other")] == ["other"]
    with pytest.raises(StreamNotFoundError):
        read_all(bus, "out")


def test_a_stream_that_is_not_there_is_named_with_its_place(bus: Bus) -> None:
    config = processor("f", "FILTER", {"filter_expression": "true"}, source_stream_id="oders", target_stream_id="out")
    bus.create_stream("orders")
    with pytest.raises(StreamNotFoundError, match=r"processors\[0\]\.source_stream_id: .*'oders'.*Did you mean 'orders'"):
        plan_of(bus, config, streams=("out",))


def test_two_names_of_one_stream_are_seen_through(bus: Bus) -> None:
    info = bus.create_stream("in")
    config = processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id=info.stream_id)
    with pytest.raises(FlowError, match="in a circle"):
        plan_of(bus, config, streams=())


def test_a_flow_that_declares_a_stream_otherwise_than_it_is_does_not_run(bus: Bus) -> None:
    bus.create_stream("in", partitions=3)
    with pytest.raises(AlreadyExistsError, match="partitions is 3, not 1"):
        plan_of(bus, processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"))


def test_a_schema_that_is_not_there_is_named(bus: Bus) -> None:
    flow = {
        "streams": [{"name": "in", "schema": "nope"}, {"name": "out"}],
        "processors": [processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out")],
    }
    with pytest.raises(SchemaNotFoundError, match="nope"):
        deploy(parse_flow(flow, name="flow"), bus.storage)


def test_the_ends_of_a_run_survive_the_way_to_a_worker(bus: Bus) -> None:
    plan = plan_of(bus, processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"))
    publish(bus, "in", [{}])
    ends = current_ends(plan, bus.storage)
    assert ends_from_json(ends_to_json(ends)) == ends


def test_bytewax_runs_a_flow_file_by_its_name(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from event_streaming_bus.flows import runner

    monkeypatch.setenv("ESB_DATA", str(bus.folder))
    file = tmp_path / "f.yaml"
    file.write_text(
        "streams: [{name: in}, {name: out}]\nprocessors:\n- {processor_name: f, processor_type: FILTER, source_stream_id: in,"
        " target_stream_id: out, processing_logic: {filter_expression: 'payload.x == 1'}}\n"
    )
    bus.create_stream("in")
    publish(bus, "in", [{"x": 1}, {"x": 2}])
    run_main(runner.flow(str(file), until_end=True))
    assert payloads(bus) == [{"x": 1}]


def test_output_ids_are_the_same_whoever_derives_them(bus: Bus) -> None:
    def ids(opened: Bus) -> list[str]:
        plan = plan_of(opened, processor("f", "FILTER", {"filter_expression": "true"}, target_stream_id="out"))
        event = Event("evt_1", "t", 5, b"{}")
        from event_streaming_bus.store.log.base import Append

        info = opened.log.find_stream("default", "in")
        opened.log.append([Append(info.stream_id, [event])])
        run(opened, plan)
        return [made.event_id for made in read_all(opened, "out")]

    first = ids(bus)
    assert len(first) == 1
    assert bus.log.locate("default", first[0]) is not None
