"""A flow that changed: what becomes of the state of its processors, and that none is lost or misread in silence."""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from click.testing import CliRunner

from event_streaming_bus.bus import Bus
from event_streaming_bus.cli.main import cli
from event_streaming_bus.errors import FlowError, InUseError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.kept_flow import kept_flow
from event_streaming_bus.flows.marks import stage_owner, window_owner
from event_streaming_bus.flows.plan_diff import Allowed, Step, Verdict, check_state, diff, exit_code
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType, Within
from event_streaming_bus.flows.recovery import WORKER_LOCK, forget_processor, no_workers, snapshots_folder
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import FlowSpec, ProcessorSpec, parse_flow, to_data
from event_streaming_bus.models import EventConfig, ProcessorType
from event_streaming_bus.testing import read_all, temporary_bus

PAID: dict[str, Any] = {
    "processor_name": "paid",
    "processor_type": "FILTER",
    "source_stream_id": "orders",
    "processing_logic": {"filter_expression": "payload.state == 'paid'"},
}
SUMS: dict[str, Any] = {
    "processor_name": "sums",
    "processor_type": "AGGREGATE",
    "source_stream_id": "paid",
    "target_stream_id": "totals",
    "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["region"]},
    "window_config": {"window_type": "tumbling", "window_size_ms": 60_000},
}
ALERTS: dict[str, Any] = {
    "processor_name": "alerts",
    "processor_type": "FILTER",
    "source_stream_id": "totals",
    "target_stream_id": "large",
    "processing_logic": {"filter_expression": "payload.sum_total > 10"},
}


def flow(*processors: dict[str, Any]) -> FlowSpec:
    streams = [{"name": name} for name in ("orders", "totals", "large")]
    return parse_flow({"streams": streams, "processors": list(processors)}, name="sales")


def changed(base: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The processor with other settings; those of its logic and its window are merged."""
    merged = {key: base[key] | value if isinstance(base.get(key), dict) else value for key, value in more.items()}
    return base | merged


WHOLE = flow(PAID, SUMS, ALERTS)


def steps(*processors: dict[str, Any], old: FlowSpec = WHOLE) -> dict[str, Step]:
    return {step.name: step for step in diff(old, flow(*processors))}


def verdicts(*processors: dict[str, Any], old: FlowSpec = WHOLE) -> dict[str, str]:
    return {name: step.verdict.value for name, step in steps(*processors, old=old).items()}


# --- verdicts -----------------------------------------------------------------------------------------------------------


def test_an_unchanged_flow_keeps_everything() -> None:
    found = diff(WHOLE, WHOLE)
    assert [(step.verdict, step.reasons, step.notes) for step in found] == [(Verdict.KEEP, (), ())] * 3
    assert exit_code(found) == 0


def test_another_filter_expression_keeps_state_but_says_what_it_was_built_with() -> None:
    found = steps(changed(PAID, processing_logic={"filter_expression": "payload.state == 'shipped'"}), SUMS, ALERTS)
    assert {step.verdict for step in found.values()} == {Verdict.KEEP}
    assert "past results were made with the old one" in found["paid"].notes[0]
    assert "\"payload.state == 'paid'\"" in found["paid"].notes[0]
    assert found["sums"].notes == ("its state was built with paid as it was",)
    assert found["alerts"].notes == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"window_config": {"window_size_ms": 120_000}}, "window_size_ms was 60000 and is 120000"),
        ({"window_config": {"offset_ms": 1}}, "offset_ms was 0 and is 1"),
        ({"processing_logic": {"group_by": ["region", "city"]}}, "group_by was [region] and is [region, city]"),
        ({"processing_logic": {"aggregation_function": "avg"}}, "aggregations was [(function sum, field total)]"),
        ({"source_stream_id": "orders"}, "source_stream_id was paid and is orders"),
    ],
)
def test_what_shapes_state_makes_it_be_rebuilt(change: dict[str, Any], reason: str) -> None:
    paid = changed(PAID, target_stream_id="large")
    found = steps(paid, changed(SUMS, **change), ALERTS)
    assert found["sums"].verdict is Verdict.REBUILD
    assert found["sums"].reasons[0].startswith(reason)
    assert found["alerts"].notes == ("totals will have the new results of sums beside the old ones",)
    assert exit_code(found.values()) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"window_config": {"grace_period_ms": 500}},
        {"window_config": {"close_when_idle_ms": "never"}},
        {"processing_logic": {"as": "revenue"}},
        {"target_stream_id": "large"},
    ],
)
def test_what_only_shapes_results_keeps_state_and_is_noted(change: dict[str, Any]) -> None:
    found = steps(PAID, changed(SUMS, **change), old=flow(PAID, SUMS))
    assert found["sums"].verdict is Verdict.KEEP
    assert len(found["sums"].notes) == 1
    assert "from now on" in found["sums"].notes[0]


@pytest.mark.parametrize("change", [{"parallelism": 4}, {"error_handling_strategy": "SKIP"}, {"processor_description": "x"}])
def test_how_a_processor_is_run_does_not_matter(change: dict[str, Any]) -> None:
    assert steps(PAID, changed(SUMS, **change), ALERTS)["sums"].notes == ()


def test_another_type_under_the_same_name_is_incompatible() -> None:
    other = {**PAID, "processor_name": "sums", "source_stream_id": "paid", "target_stream_id": "totals"}
    found = steps(PAID, other, ALERTS)
    assert found["sums"].verdict is Verdict.INCOMPATIBLE
    assert found["sums"].reasons == ("it was of the type AGGREGATE and is of the type FILTER, which drops its state",)
    assert exit_code(found.values()) == 1


def test_a_removed_processor_drops_its_state_unless_it_may() -> None:
    found = diff(WHOLE, flow(changed(PAID, target_stream_id="large")))
    assert [(step.name, step.verdict, step.drops_state) for step in found[1:]] == [
        ("sums", Verdict.REMOVED, True),
        ("alerts", Verdict.REMOVED, False),
    ]
    assert exit_code(found) == 1
    assert exit_code(found, Allowed(drop=frozenset({"sums"}))) == 0


def test_a_rename_that_is_declared_keeps_the_state_also_of_those_who_read_it() -> None:
    paid = changed(PAID, processor_name="settled", renamed_from="paid")
    sums = changed(SUMS, processor_name="revenue", renamed_from="sums", source_stream_id="settled")
    found = diff(WHOLE, flow(paid, sums, ALERTS))
    assert [(step.name, step.renamed_from, step.verdict) for step in found] == [
        ("settled", "paid", Verdict.KEEP),
        ("revenue", "sums", Verdict.KEEP),
        ("alerts", None, Verdict.KEEP),
    ]
    again = flow(paid, changed(sums, processor_name="income"), ALERTS)
    assert [step.state_name for step in diff(flow(paid, sums, ALERTS), again)] == ["paid", "sums", "alerts"]


def test_a_rename_that_is_not_declared_is_guessed_at() -> None:
    found = steps(PAID, changed(SUMS, processor_name="revenue"), ALERTS)
    assert found["sums"].verdict is Verdict.REMOVED
    assert "revenue does the same: was it renamed?" in found["sums"].reasons
    assert found["revenue"].verdict is Verdict.ADDED


def test_a_declared_rename_has_to_stay() -> None:
    renamed = flow(PAID, changed(SUMS, processor_name="revenue", renamed_from="sums"), ALERTS)
    found = {step.verdict: step for step in diff(renamed, flow(PAID, changed(SUMS, processor_name="revenue"), ALERTS))}
    assert found[Verdict.REMOVED].state_name == "sums"
    assert found[Verdict.ADDED].notes[-1] == "its state is kept under sums: renamed_from: sums has to stay"


@pytest.mark.parametrize(
    ("processors", "message"),
    [
        ([PAID, changed(SUMS, renamed_from="sums")], "'sums' is its name now; leave it out"),
        ([PAID, changed(SUMS, renamed_from="paid")], "there still is a processor 'paid'"),
        ([changed(PAID, renamed_from="x"), changed(SUMS, renamed_from="x")], "'paid' was renamed from 'x' too"),
    ],
)
def test_two_processors_cannot_have_one_state(processors: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(FlowError, match=message):
        flow(*processors)


def test_a_rename_survives_being_written_and_read() -> None:
    spec = flow(PAID, changed(SUMS, renamed_from="totals_by_region"))
    assert parse_flow(to_data(spec), name="x") == spec


def test_an_added_processor_is_told_what_it_will_see() -> None:
    count = changed(SUMS, processor_name="counts", target_stream_id="large", processing_logic={"aggregation_function": "avg"})
    assert steps(PAID, SUMS, ALERTS, count)["counts"].notes == (
        "it sees what paid gives out from now on, not what that gave out before",
    )
    direct = changed(count, source_stream_id="orders")
    assert steps(PAID, SUMS, ALERTS, direct)["counts"].notes == ("it reads orders from its beginning",)


def of_type(kind: ProcessorType, logic: Any) -> FlowSpec:
    spec = flow(PAID, SUMS, ALERTS)
    processor = ProcessorSpec(
        processor_name="p", processor_type=kind, source_stream_id="orders", target_stream_id="x", processing_logic=logic
    )
    return msgspec.structs.replace(spec, processors=(processor,))


JOIN = JoinLogic(join_stream_id="totals", on=((("a",), ("b",)),), within=Within(before_ms=1, after_ms=2))
KEYED = CustomLogic(function="m:f", form=CustomForm.KEYED, key=(("k",),))
ONCE = DeduplicateLogic(deduplicate_by=(("id",),), within_ms=5)


@pytest.mark.parametrize(
    ("kind", "logic", "change", "verdict"),
    [
        ("JOIN", JOIN, {"within": Within(before_ms=1, after_ms=3)}, "rebuild"),
        ("JOIN", JOIN, {"join_type": JoinType.LEFT}, "rebuild"),
        ("JOIN", JOIN, {"join_stream_id": "large"}, "rebuild"),
        ("JOIN", JOIN, {"timing": msgspec.structs.replace(JOIN.timing, grace_period_ms=7)}, "keep"),
        ("DEDUPLICATE", ONCE, {"within_ms": 6}, "rebuild"),
        ("CUSTOM", KEYED, {"function": "m:g"}, "rebuild"),
        ("CUSTOM", KEYED, {"state_ttl_ms": 6}, "keep"),
        ("CUSTOM", KEYED, {"form": CustomForm.EVENT}, "incompatible"),
        ("CUSTOM", msgspec.structs.replace(KEYED, form=CustomForm.EVENT), {"function": "m:g"}, "keep"),
    ],
)
def test_every_type_knows_what_shapes_its_state(kind: str, logic: Any, change: dict[str, Any], verdict: str) -> None:
    old = of_type(ProcessorType(kind), logic)
    (step,) = diff(old, of_type(ProcessorType(kind), msgspec.structs.replace(logic, **change)))
    assert step.verdict.value == verdict


def test_state_that_would_be_lost_is_refused_with_what_can_be_done() -> None:
    check_state(None, WHOLE)
    check_state(WHOLE, WHOLE)
    wider = flow(PAID, changed(SUMS, window_config={"window_size_ms": 1}), ALERTS)
    with pytest.raises(FlowError, match=r"sums: rebuild: window_size_ms was 60000 and is 1\n +--rebuild sums begins"):
        check_state(WHOLE, wider)
    check_state(WHOLE, wider, Allowed(rebuild=frozenset({"sums"})))
    check_state(WHOLE, wider, Allowed(anything=True))
    with pytest.raises(FlowError, match=r"has no processor summs; it has alerts, paid, sums"):
        check_state(WHOLE, wider, Allowed(rebuild=frozenset({"summs"})))
    with pytest.raises(FlowError, match=r"--drop-state sums gives its state up; if it was renamed, say renamed_from: sums"):
        check_state(WHOLE, flow(changed(PAID, target_stream_id="large")))


# --- a flow that has run ------------------------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def publish(bus: Bus, *rows: tuple[int, int]) -> None:
    payloads = [{"state": "paid", "region": "n", "total": total} for _, total in rows]
    times = [at_ms for at_ms, _ in rows]
    bus.publishing.submit(EventConfig(event_type="order"), payloads, stream_id="orders", timestamps_ms=times).result()


def run(bus: Bus, spec: FlowSpec, allowed: Allowed | None = None) -> None:
    plan = deploy(spec, bus.storage, allowed or Allowed())
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def names(bus: Bus) -> set[str]:
    return {record.processor_name for record in bus.storage.catalog.list_processors("default")}


def test_a_flow_that_has_read_nothing_has_nothing_to_lose(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    assert kept_flow(bus.storage, "default", "sales") is None
    deploy(flow(changed(PAID, target_stream_id="large")), bus.storage)
    assert names(bus) == {"paid"}


def test_a_changed_flow_is_refused_before_anything_is_changed(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1), (70_000, 2))
    run(bus, WHOLE)
    kept = kept_flow(bus.storage, "default", "sales")
    assert kept is not None
    assert set(kept.processors) == set(WHOLE.processors)
    wider = flow(PAID, changed(SUMS, window_config={"window_size_ms": 1000}), ALERTS)
    for _ in range(2):
        with pytest.raises(FlowError, match="--rebuild sums"):
            deploy(wider, bus.storage)
    assert kept_flow(bus.storage, "default", "sales") == kept


def test_a_flow_that_may_be_rebuilt_reads_everything_again(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1), (30_000, 2))
    run(bus, WHOLE)
    wider = flow(PAID, changed(SUMS, window_config={"window_size_ms": 20_000}), ALERTS)
    run(bus, wider, Allowed(rebuild=frozenset({"sums"})))
    totals = [event.payload["sum_total"] for event in read_all(bus, "totals")]  # type: ignore[index,call-overload]
    assert sorted(totals) == [1, 2, 3]
    deploy(wider, bus.storage)


def test_what_is_given_up_leaves_nothing_behind(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1), (30_000, 2))
    run(bus, WHOLE)
    log = bus.storage.log
    assert log.marks(window_owner("default", "sales", "sums"))
    without = flow(changed(PAID, target_stream_id="large"))
    deploy(without, bus.storage, Allowed(drop=frozenset({"sums"})))
    assert names(bus) == {"paid"}
    assert not log.marks(window_owner("default", "sales", "sums"))
    assert not log.marks(stage_owner("default", "sales", "alerts"))
    assert log.marks(stage_owner("default", "sales", "paid"))


def test_the_snapshots_of_one_processor_can_be_dropped(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1), (30_000, 2))
    folder = snapshots_folder(bus.storage, "default", "sales")
    folder.mkdir(parents=True)
    init_db_dir(folder, 2)
    plan = deploy(WHOLE, bus.storage)
    dataflow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
    run_main(dataflow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(folder)))

    def steps_kept() -> set[str]:
        found: set[str] = set()
        for path in folder.glob("*.sqlite3"):
            with closing(sqlite3.connect(path)) as snapshots:
                found |= {step.split(":")[0] for (step,) in snapshots.execute("SELECT step_id FROM snaps")}
        return found

    assert steps_kept() == {"sales.paid", "sales.sums", "sales.alerts"}
    with no_workers(bus.storage, "default", "sales"):
        forget_processor(bus.storage, "default", "sales", "sums")
    assert steps_kept() == {"sales.paid", "sales.alerts"}


def test_a_renamed_processor_keeps_its_place_in_the_catalog(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1))
    run(bus, WHOLE)
    before = {record.processor_name: record.processor_id for record in bus.storage.catalog.list_processors("default")}
    renamed = flow(PAID, changed(SUMS, processor_name="revenue", renamed_from="sums"), ALERTS)
    deploy(renamed, bus.storage)
    after = {record.processor_name: record.processor_id for record in bus.storage.catalog.list_processors("default")}
    assert after == {"paid": before["paid"], "revenue": before["sums"], "alerts": before["alerts"]}
    deploy(renamed, bus.storage)


def test_nothing_is_given_up_while_the_flow_runs(bus: Bus) -> None:
    deploy(WHOLE, bus.storage)
    publish(bus, (0, 1))
    run(bus, WHOLE)
    folder = snapshots_folder(bus.storage, "default", "sales")
    folder.mkdir(parents=True)
    with (folder / WORKER_LOCK.format(0)).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InUseError):
            deploy(flow(changed(PAID, target_stream_id="large")), bus.storage, Allowed(drop=frozenset({"sums"})))
    assert names(bus) == {"paid", "sums", "alerts"}


# --- the command --------------------------------------------------------------------------------------------------------

FILE = """\
name: visits
streams: [{name: visits}, {name: counts}]
processors:
  - processor_name: counter
    processor_type: AGGREGATE
    source_stream_id: visits
    target_stream_id: counts
    processing_logic: {aggregation_function: count, group_by: [page]}
    window_config: {window_type: tumbling, window_size_ms: 60000}
"""


def esb(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["--data", str(folder / "data"), "plan", *arguments], standalone_mode=False)


@pytest.mark.parametrize(
    ("old", "new", "options", "code", "line"),
    [
        ("60000", "60000", (), 0, "keep          counter"),
        ("60000", "90000", (), 3, "rebuild       counter"),
        ("counter", "hits", (), 1, "removed       counter"),
        ("counter", "hits", ("--drop-state", "counter"), 0, "removed       counter"),
        ("counter", "hits\n    renamed_from: counter", (), 0, "keep          hits (was counter)"),
    ],
)
def test_plan_diff_tells_by_its_exit_code(
    tmp_path: Path, old: str, new: str, options: tuple[str, ...], code: int, line: str
) -> None:
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(FILE)
    after.write_text(FILE.replace(old, new))
    done = esb(tmp_path, "diff", str(before), str(after), *options)
    assert done.return_value == code
    assert line in done.stdout.splitlines()
    assert not (tmp_path / "data").exists()


def test_plan_diff_of_one_file_wants_a_data_folder(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FILE)
    with pytest.raises(FlowError, match="there is no data folder to compare the flow with"):
        raise esb(tmp_path, "diff", str(tmp_path / "flow.yaml")).exception


def test_plan_show_tells_what_holds_state(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FILE)
    assert json.loads(esb(tmp_path, "show", str(tmp_path / "flow.yaml"), "--json").stdout) == {
        "processor": "counter",
        "type": "AGGREGATE",
        "reads": "visits",
        "does": "count, by page, tumbling 1 min",
        "state": "counter",
        "writes": "counts",
    }
    assert "tumbling 1 min" in esb(tmp_path, "show", str(tmp_path / "flow.yaml")).stdout
