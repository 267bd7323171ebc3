"""``esb test`` and ``esb dry-run`` as processes of their own: exit codes, pipes, and the data folder left as it is."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import run_esb

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig

TIMEOUT_S = 60
DEMO = Path(__file__).parents[2] / "deploy" / "demo"
FLOW = """
streams: [{name: large}, {name: hourly}]
processors:
  - {processor_name: keep_large, processor_type: FILTER, source_stream_id: orders, target_stream_id: large,
     processing_logic: {filter_expression: payload.n >= 100}}
  - {processor_name: by_hour, processor_type: AGGREGATE, source_stream_id: orders, target_stream_id: hourly,
     processing_logic: {aggregation_function: sum, aggregation_field: n},
     window_config: {window_type: tumbling, window_size_ms: 3600000}}
tests:
  - {name: large stays, given: {orders: [{payload: {n: 100}}]}, expect: {large: [{payload: {n: 100}}]}}
"""
FAILS = "  - {name: small goes, given: {orders: [{payload: {n: 99}}]}, expect: {large: [{payload: {n: 99}}]}}\n"

Completed = subprocess.CompletedProcess[str]
Esb = Callable[..., Completed]


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Esb:
    """Runs a command in a folder with a flow file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESB_DATA", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    Path("flow.yaml").write_text(FLOW)

    def run(*arguments: str) -> Completed:
        return run_esb(arguments, timeout_s=TIMEOUT_S)

    return run


def test_tests_that_pass_leave_nothing_behind(esb: Esb) -> None:
    done = esb("test", "flow.yaml")
    assert (done.returncode, done.stdout[:29]) == (0, "passed flow.yaml: large stays")
    assert done.stderr.startswith("1 passed in ")
    assert list(Path().iterdir()) == [Path("flow.yaml")]


def test_a_failure_is_told_without_colours_in_a_pipe_and_by_the_exit_code(esb: Esb) -> None:
    Path("flow.yaml").write_text(FLOW + FAILS)
    done = esb("test", ".")
    assert done.returncode == 1
    assert done.stderr.startswith("1 passed, 1 failed in ")
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == [
        "passed flow.yaml: large stays",
        "FAILED flow.yaml: small goes",
        '    large: missing {"n":99}',
    ]
    assert esb("test", "flow.yaml", "--filter", "large").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["test"], "Missing argument"),
        (["test", "nowhere.yaml"], "does not exist"),
        (["test", "empty"], "there is no flow file below empty"),
        (["test", "flow.yaml", "--filter", "tiny"], "no test has 'tiny' in its name"),
        (["dry-run", "flow.yaml", "--last", "5", "--all"], "--last, --from-offset and --all exclude one another"),
    ],
)
def test_wrong_usage_is_exit_code_2(esb: Esb, arguments: list[str], complaint: str) -> None:
    Path("empty").mkdir()
    done = esb(*arguments)
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr


def test_the_tests_of_the_demo_pass(esb: Esb) -> None:
    done = esb("test", str(DEMO), "--json")
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(each["file"]).name for each in told} == {"departures.yaml", "flights.yaml", "weather.yaml"}
    assert all(each["passed"] for each in told)


def contents() -> dict[str, str]:
    """Every file of the data folder, by its contents."""
    files = sorted(path for path in Path("esb-data").rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_numbers() -> None:
    with open_bus() as bus:
        bus.create_stream("orders", partitions=3)
        for part in range(4):
            count = range(part * 50, part * 50 + 50)
            bus.publishing.submit(
                EventConfig(event_type="number"),
                [{"n": i} for i in count],
                stream_id="orders",
                timestamps_ms=[i * 60_000 for i in count],
            ).result()


@pytest.mark.usefixtures("esb")
def test_a_dry_run_leaves_every_file_as_it_was() -> None:
    make_numbers()
    before = contents()
    command = [str(Path(sys.executable).with_name("esb")), "dry-run", "flow.yaml", "--last", "60"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert contents() == before
    lines = done.stdout.splitlines()
    assert lines[0] == "Over the newest 60 events of orders:"
    assert "large: 60 events would be written" in lines
    assert lines[-2:] == ["Windows and joins that began before these events show only a part of theirs.", "Nothing was written."]


def test_a_dry_run_takes_all_events_or_those_from_an_offset(esb: Esb) -> None:
    make_numbers()
    told = json.loads(esb("dry-run", "flow.yaml", "--all", "--json").stdout)
    assert (told["read"], told["partial"], len(told["written"]["large"])) == ({"orders": 200}, False, 100)
    assert sum(event["payload"]["sum_n"] for event in told["written"]["hourly"]) == sum(range(200))
    with open_bus() as bus:
        ends = bus.log.end_offsets(bus.log.find_stream("default", "orders").stream_id)
    told = json.loads(esb("dry-run", "flow.yaml", "--from", "orders", "--from-offset", "20", "--json").stdout)
    assert told["read"] == {"orders": sum(max(0, end - 20) for end in ends.values())}
    assert told["partial"] is True


def test_a_dry_run_of_a_flow_that_would_not_start_says_why(esb: Esb) -> None:
    make_numbers()
    Path("flow.yaml").write_text(FLOW.replace("{name: large}", "{name: orders, partitions: 2}, {name: large}"))
    done = esb("dry-run", "flow.yaml")
    assert done.returncode == 1
    assert "stream orders exists with other settings: partitions is 3, not 2" in done.stderr
