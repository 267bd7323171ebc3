"""What results of joins and windows tell of where they come from, and what history calls enrichment."""

from collections.abc import Iterator
from typing import Any

import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.enrichment import history_stages
from event_streaming_bus.flows.folds.base import LEFT, RIGHT, Entry, Tally
from event_streaming_bus.flows.folds.window_join import WindowJoinFold
from event_streaming_bus.flows.processors.join import JoinType
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig
from event_streaming_bus.monitoring.following import Follower
from event_streaming_bus.monitoring.resources import resources
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all, temporary_bus

TRACES = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2)]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        for name in ("left", "right", "out"):
            opened.create_stream(name)
        yield opened


def publish(bus: Bus, stream: str, at_ms: int, *, event_id: str, **more: Any) -> None:
    payload = more.pop("payload", {"k": "a"})
    config = EventConfig(event_type="t", timestamp=at_ms, event_id=event_id, **more)
    bus.publishing.submit(config, [payload], stream_id=stream).result()


def step(kind: str, logic: dict[str, Any], source: str = "left", name: str = "p", **more: Any) -> dict[str, Any]:
    given = {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": source}
    return given | {"target_stream_id": "out"} | more


def join(**logic: Any) -> dict[str, Any]:
    return step("JOIN", {"join_stream_id": "right", "on": ["k"]} | logic)


def run(bus: Bus, *processors: dict[str, Any]) -> list[Event]:
    """What a flow of these processors writes to ``out``."""
    plan = deploy(parse_flow({"processors": list(processors)}, name="f"), bus.storage)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    return read_all(bus, "out")


@pytest.mark.parametrize(
    ("logic", "left_ms", "cause"),
    [
        ({"within_ms": 10}, 4, "r"),
        ({"within_ms": 10}, 5, "r"),
        ({"within_ms": 10}, 6, "l"),
        ({"lookup": True}, 5, "l"),
        ({"lookup": True}, 6, "l"),
    ],
)
def test_a_joined_event_is_caused_by_the_newest_of_its_pair(bus: Bus, logic: dict[str, Any], left_ms: int, cause: str) -> None:
    publish(bus, "left", left_ms, event_id="l", traceparent=TRACES[0])
    publish(bus, "right", 5, event_id="r", traceparent=TRACES[1])
    (made,) = run(bus, join(**logic))
    assert made.causation_id == cause
    assert made.traceparent == TRACES[cause == "r"]


def test_an_event_without_a_partner_is_its_own_cause(bus: Bus) -> None:
    publish(bus, "left", 1, event_id="l", correlation_id="c")
    publish(bus, "right", 1000, event_id="r", payload={"k": "b"})
    made = run(bus, join(within_ms=10, join_type="outer"))
    assert [(each.causation_id, each.correlation_id) for each in made] == [("l", "c"), ("r", None)]


@pytest.mark.parametrize(
    ("left", "right", "shared"), [("c", "c", "c"), ("c", "d", None), ("c", None, None), (None, "c", None), (None, None, None)]
)
def test_a_joined_event_belongs_to_what_both_belong_to(bus: Bus, left: str | None, right: str | None, shared: str | None) -> None:
    publish(bus, "left", 6, event_id="l", correlation_id=left)
    publish(bus, "right", 5, event_id="r", correlation_id=right)
    (made,) = run(bus, join(within_ms=10))
    assert (made.correlation_id, made.causation_id) == (shared, "l")
    assert made.payload == {"left": {"k": "a"}, "right": {"k": "a"}}


def test_a_trace_goes_on_from_the_other_event_if_the_newest_has_none(bus: Bus) -> None:
    publish(bus, "left", 6, event_id="l")
    publish(bus, "right", 5, event_id="r", traceparent=TRACES[1])
    (made,) = run(bus, join(lookup=True))
    assert made.traceparent == TRACES[1]


def test_a_pair_that_cannot_be_made_keeps_its_payloads_in_the_dead_letter(bus: Bus) -> None:
    publish(bus, "left", 6, event_id="l", correlation_id="c", payload={"k": "a", "x": "text"})
    publish(bus, "right", 5, event_id="r", payload={"k": "a", "x": 1})
    assert run(bus, join(within_ms=10, fields={"sum": "left.x + right.x"})) == []
    (letter,) = read_all(bus, "_dead_letters")
    assert letter.payload == {"left": {"k": "a", "x": "text"}, "right": {"k": "a", "x": 1}}


def test_what_is_one_of_many_made_of_one_event_is_named_as_no_cause(bus: Bus) -> None:
    publish(bus, "left", 6, event_id="l", payload={"items": [{"k": "a"}, {"k": "a"}]})
    publish(bus, "right", 5, event_id="r")
    each = step("MAP", {"mode": "replace", "flatten": "items", "fields": {"k": "payload.items.k"}}, name="each")
    del each["target_stream_id"]
    made = run(bus, each, join(lookup=True) | {"source_stream_id": "each"})
    assert [event.causation_id for event in made] == [None, None]


def test_a_window_join_puts_the_same_event_in_order_with_and_without_more() -> None:
    fold = WindowJoinFold(JoinType.INNER, lambda t: (0, 10))
    same = [Entry(1, 0, "l", LEFT, b'["a"]', value, i) for i, value in enumerate([(b"1", None, "t"), b"1", (b"1", "c", None)])]
    results = fold.run([*same, Entry(1, 0, "r", RIGHT, b'["a"]', b"2", 3)], 10, Tally())
    assert len(results) == 3


def test_a_result_of_a_window_names_no_cause(bus: Bus) -> None:
    publish(bus, "left", 1, event_id="l", correlation_id="c", traceparent=TRACES[0])
    window = {"window_type": "tumbling", "window_size_ms": 10}
    (made,) = run(bus, step("AGGREGATE", {"aggregation_function": "count", "group_by": ["k"]}, window_config=window))
    assert (made.causation_id, made.correlation_id, made.traceparent) == (None, None, None)


def stages(bus: Bus) -> list[tuple[str, str, str]]:
    """The stage and the status of what processors did, by event."""
    history = History(bus.storage)
    try:
        history.catch_up()
        asked = "SELECT event_id, processing_stage, status FROM processing_history WHERE processor_name = 'p' ORDER BY ALL"
        return [(str(a), str(b), str(c)) for a, b, c in history.query(asked).rows()]
    finally:
        history.close()


def test_a_lookup_enriches_events_and_processes_rows(bus: Bus) -> None:
    publish(bus, "left", 6, event_id="l")
    publish(bus, "right", 5, event_id="r")
    run(bus, join(lookup=True))
    assert stages(bus) == [("l", "ENRICHMENT", "COMPLETED"), ("r", "PROCESSING", "COMPLETED")]


def test_a_join_within_a_time_processes_both_sides(bus: Bus) -> None:
    publish(bus, "left", 6, event_id="l")
    publish(bus, "right", 5, event_id="r")
    run(bus, join(within_ms=10))
    assert [stage for _, stage, _ in stages(bus)] == ["PROCESSING", "PROCESSING"]


def test_a_map_that_only_sets_fields_enriches(bus: Bus) -> None:
    fields = {"fields": {"x": "payload.x + 1"}}
    logics: list[dict[str, Any]] = [
        fields,
        {**fields, "mode": "replace"},
        {**fields, "select": ["x"]},
        {**fields, "drop": ["k"]},
        {**fields, "rename": {"k": "key"}},
        {**fields, "flatten": "x"},
        {**fields, "key": "payload.k"},
        {**fields, "event_type": "other"},
        {"drop": ["k"]},
    ]
    steps = [step("MAP", logic, name=f"p{i}") for i, logic in enumerate(logics)]
    plan = deploy(parse_flow({"processors": steps}, name="f"), bus.storage)
    found = {name: each for stage in plan.stages for name, each in history_stages(stage.roots).items()}
    assert [found[node.number] for node in plan.nodes()] == ["ENRICHMENT"] + ["PROCESSING"] * 8


def test_monitoring_counts_enrichment_as_processing(bus: Bus) -> None:
    follower = Follower(bus.storage, 10)
    publish(bus, "left", 1, event_id="l1", payload={"k": 1})
    publish(bus, "left", 2, event_id="l2", payload={"k": "text"})
    run(bus, step("MAP", {"fields": {"x": "payload.k + 1"}}))
    assert stages(bus) == [("l1", "ENRICHMENT", "COMPLETED"), ("l2", "ENRICHMENT", "FAILED")]
    follower.catch_up({info.stream_id: info for info in bus.log.list_streams()}, 5.0)
    latency = follower.streams["default", "left"]
    assert latency.errors["processing"] == 1
    assert latency.stages["processing"].count == 2


def test_the_files_of_old_history_count(bus: Bus) -> None:
    assert resources(bus.folder).files["history_parquet"] == 0
    folder = bus.folder / "history" / "parquet" / "events" / "2025-01-26"
    folder.mkdir(parents=True)
    (folder / "0-9.parquet").write_bytes(b"x" * 1000)
    (bus.folder / "history" / "parquet" / "manifest.json").write_bytes(b"{}")
    assert resources(bus.folder).files["history_parquet"] == 1002
