"""``esb test`` and ``esb dry-run``: the tests of flow files, and flows run over copies of real events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from event_streaming_bus.bus import Bus
from event_streaming_bus.cli.main import cli
from event_streaming_bus.errors import FlowError
from event_streaming_bus.flow_testing import run_tests
from event_streaming_bus.flows.spec import FlowSpec, parse_flow
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.testing import temporary_bus

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
PROCESSORS: list[dict[str, Any]] = [
    {
        "processor_name": "big",
        "processor_type": "FILTER",
        "source_stream_id": "orders",
        "target_stream_id": "big_orders",
        "processing_logic": {"filter_expression": "payload.total > 10"},
    },
    {
        "processor_name": "sums",
        "processor_type": "AGGREGATE",
        "source_stream_id": "big",
        "target_stream_id": "totals",
        "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["k"]},
        "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
    },
]
WINDOW = {"window_start": "1970-01-01T00:00:00.000Z", "window_end": "1970-01-01T00:00:01.000Z"}


def flow(*tests: dict[str, Any]) -> dict[str, Any]:
    return {"streams": [{"name": "big_orders"}], "processors": PROCESSORS, "tests": list(tests)}


def problems(test: dict[str, Any]) -> tuple[str, ...]:
    spec: FlowSpec = parse_flow(flow({"name": "t"} | test), name="f")
    (result,) = run_tests(spec)
    return result.problems


def order(total: Any, k: str = "a", **more: Any) -> dict[str, Any]:
    return {"payload": {"total": total, "k": k}, **more}


def test_a_test_passes_if_what_comes_out_is_what_is_expected() -> None:
    given = {"orders": [order(20), order(5), order(30, timestamp=999), order(7, timestamp=2000)]}
    expect = {"totals": [{"payload": {"k": "a", **WINDOW, "sum_total": 50}, "key": "a", "timestamp": 1000}]}
    assert problems({"given": given, "expect": expect}) == ()


def test_a_test_that_fails_says_which_field_is_different() -> None:
    expect = {"totals": [{"payload": {"k": "a", **WINDOW, "sum_total": 21}, "key": "b"}]}
    (problem,) = problems({"given": {"orders": [order(20)]}, "expect": expect})
    assert problem.splitlines()[0].startswith('totals: expected {"k":"a"')
    assert problem.splitlines()[2:] == ["      payload.sum_total: expected 21, got 20", "      key: expected 'b', got 'a'"]


def test_what_is_missing_and_what_is_too_much_are_told() -> None:
    given = {"orders": [order(20)]}
    assert problems({"given": given, "expect": {"big_orders": []}}) == ('big_orders: not expected {"total":20,"k":"a"}',)
    expect = {"big_orders": [order(20), {"payload": {"other": 1}}]}
    assert problems({"given": given, "expect": expect}) == ('big_orders: missing {"other":1}',)


def test_the_order_counts_only_if_it_is_asked_for() -> None:
    test = {"given": {"orders": [order(20), order(30)]}, "expect": {"big_orders": [order(30), order(20)]}}
    assert problems(test) == ()
    assert len(problems(test | {"ordered": True})) == 2


def test_late_events_are_compared_where_they_are_mentioned() -> None:
    given = {"orders": [order(20, timestamp=5000), order(30, timestamp=0)]}
    assert problems({"given": given}) == ()
    assert problems({"given": given, "late": {"sums": [{"total": 30, "k": "a"}]}}) == ()
    assert problems({"given": given, "late": {"sums": []}}) == ('late for sums: not expected {"total":30,"k":"a"}',)


def test_a_dead_letter_that_is_not_mentioned_fails_the_test() -> None:
    given = {"orders": [order("much")]}
    (problem,) = problems({"given": given})
    assert problem.startswith('dead in big: {"total":"much","k":"a"}\n    TypeError: ')
    assert problems({"given": given, "dead": {"big": [{"total": "much", "k": "a"}]}}) == ()


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ({"late": {"sum": []}}, "late.sum: the flow has no processor 'sum'; did you mean 'sums'? (there is big, sums)"),
        (
            {"dead": {"totals": []}},
            "dead.totals: the flow has no processor, and reads no stream, 'totals' (there is big, orders, sums)",
        ),
        (
            {"given": {"order": []}},
            "given.order: the flow neither reads nor writes the stream 'order'; did you mean 'orders'? "
            "(there is big_orders, orders, totals)",
        ),
        (
            {"given": {"big": []}},
            "given.big: the flow neither reads nor writes the stream 'big' (there is big_orders, orders, totals)",
        ),
        (
            {"expect": {"orders": []}},
            "expect.orders: the flow does not write the stream 'orders'; did you mean 'big_orders'? "
            "(there is big_orders, totals)",
        ),
        (
            {"given": {"orders": [{"payload": {"a": float("inf")}}]}},
            "given.orders[0].payload.a: expected a finite number, got inf",
        ),
        ({"given": {"orders": [{"key": "k"}]}}, "given.orders[0].payload: required, but missing"),
        (
            {"given": {"orders": [order(1, timestamp=True)]}},
            "given.orders[0].timestamp: expected RFC 3339 text such as '2013-01-01T10:00:00Z', or epoch milliseconds, got true",
        ),
        (
            {"given": {"orders": [order(1, timestamp="noon")]}},
            "given.orders[0].timestamp: 'noon' is no time; expected RFC 3339 as in 2013-01-01T10:00:00Z, or epoch milliseconds",
        ),
        (
            {"given": {"orders": [order(1, priority="URGENT")]}},
            "given.orders[0].priority: expected one of CRITICAL, HIGH, NORMAL, LOW, got 'URGENT'",
        ),
        (
            {"expect": {"totals": [order(1, priority="LOW")]}},
            "expect.totals[0].priority: unknown key (accepted: payload, key, timestamp, event_type)",
        ),
    ],
)
def test_a_test_that_cannot_be_is_told(test: dict[str, Any], problem: str) -> None:
    with pytest.raises(FlowError) as caught:
        parse_flow(flow({"name": "t", "given": {"orders": []}} | test), name="f")
    assert str(caught.value).splitlines() == [f"tests[0].{problem}"]


def test_a_test_is_named_once() -> None:
    test = {"name": "t", "given": {"orders": []}}
    with pytest.raises(FlowError, match=r"^tests\[1\]\.name: the test 't' is there already, as tests\[0\]$"):
        parse_flow(flow(test, test), name="f")


def esb(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def test_the_command_tells_each_test_and_counts(tmp_path: Path) -> None:
    good = {"name": "good", "given": {"orders": [order(20)]}, "expect": {"big_orders": [order(20)]}}
    bad = good | {"name": "bad", "expect": {"big_orders": []}}
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(flow(good, bad)))
    (tmp_path / "untested.yaml").write_text(yaml.safe_dump(flow() | {"tests": []}))
    (tmp_path / "broken.json").write_text('{"processors": []}')
    (tmp_path / "package.json").write_text('{"name": "no flow"}')
    (tmp_path / "services.yaml").write_text("a: 1\n---\nb: 2\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "old.yaml").write_text("processors: []\n")
    result = esb("test", str(tmp_path))
    assert result.return_value == 1
    lines = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split(" (")[0].replace(str(tmp_path), "") for line in lines] == [
        "FAILED /broken.json: it does not load",
        "passed /f.yaml: good",
        "FAILED /f.yaml: bad",
    ]
    assert result.stderr.startswith("1 passed, 2 failed, 1 file without tests in ")
    told = [json.loads(line) for line in esb("test", "--json", "--filter", "GOOD", str(tmp_path / "f.yaml")).stdout.splitlines()]
    assert [(each["test"], each["passed"], each["problems"]) for each in told] == [("good", True, [])]


def test_the_tests_of_the_demo_pass() -> None:
    result = esb("test", str(DEMO))
    assert (result.return_value, result.stdout.count("passed"), result.stderr.count("without")) == (0, 6, 0)


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def test_a_dry_run_tells_what_would_happen_and_writes_nothing(bus: Bus, tmp_path: Path) -> None:
    bus.log.create_stream(StreamConfig(name="orders", partitions=3))
    bus.publishing.submit(
        EventConfig(event_type="order"),
        [{"total": n if n != 95 else "much", "k": f"k{n % 5}"} for n in range(100)],
        stream_id="orders",
        keys=[f"k{n % 5}" for n in range(100)],
        timestamps_ms=[n * 100 for n in range(100)],
    ).result()
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(flow()))
    before = bus.log.version(), [s.name for s in bus.log.list_streams(internal=True)], bus.storage.catalog.list_processors(None)
    told = json.loads(esb("--data", str(bus.storage.folder), "dry-run", str(file), "--last", "20", "--json").stdout)
    assert told["read"] == {"orders": 20}
    assert [(each["name"], each["events_in"], each["events_dead"]) for each in told["processors"]] == [
        ("big", 20, 1),
        ("sums", 19, 0),
    ]
    assert sorted(event["payload"]["total"] for event in told["written"]["big_orders"]) == [*range(80, 95), *range(96, 100)]
    assert sum(event["payload"]["sum_total"] for event in told["written"]["totals"]) == sum(range(80, 100)) - 95
    assert [(each["processor"], each["payload"]["total"]) for each in told["dead"]] == [("big", "much")]
    text = esb("--data", str(bus.storage.folder), "dry-run", str(file), "--from", "orders").stdout
    assert "Over all 100 events of orders:" in text
    assert text.endswith("Nothing was written.\n")
    after = bus.log.version(), [s.name for s in bus.log.list_streams(internal=True)], bus.storage.catalog.list_processors(None)
    assert after == before


def test_a_dry_run_without_events_says_what_is_missing(tmp_path: Path, bus: Bus) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(flow()))
    assert "There is no data folder" in str(esb("--data", str(tmp_path / "none"), "dry-run", str(file)).exception)
    bus.storage.history()
    folder = str(bus.storage.folder)
    assert "There is no stream orders" in str(esb("--data", folder, "dry-run", str(file)).exception)
    wrong = esb("--data", folder, "dry-run", str(file), "--from", "ordrs").exception
    assert "--from ordrs: the flow does not read this stream; it reads orders" in str(wrong)
