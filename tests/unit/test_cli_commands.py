"""The commands of ``esb``: what they print where, and their exit codes."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from running import Done, Esb, commands

from event_streaming_bus.store.storage import open_storage


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder of its own; its standard input is no terminal."""
    with commands(tmp_path, monkeypatch) as run:
        yield partial(run, code=None)


@pytest.fixture
def orders(esb: Esb) -> Esb:
    """With a stream ``orders`` of two partitions."""
    assert esb("stream", "create", "orders", "--partitions", "2").code == 0
    return esb


def lines(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def write(name: str, *rows: object) -> str:
    Path(name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return name


# --- all commands -----------------------------------------------------------------------------------------------------


def test_version_and_help(esb: Esb) -> None:
    from event_streaming_bus import __version__

    assert esb("version").out == f"{__version__}\n"
    helped = esb("--help")
    assert helped.code == 0
    for name in ("history", "publish", "read", "run", "serve", "sql", "stream", "version"):
        assert f"  {name} " in helped.out


@pytest.mark.parametrize(
    "arguments",
    [["stram"], ["stream", "create"], ["stream", "create", "x", "--partitions", "0"], ["publish", "x", "f", "--format", "xml"]],
)
def test_wrong_usage_ends_with_2(esb: Esb, arguments: list[str]) -> None:
    done = esb(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Usage: esb" in done.err


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_is_made_once_and_listed(orders: Esb) -> None:
    assert orders("stream", "create", "orders", "--partitions", "2").code == 0
    [row] = lines(orders("stream", "list", "--json"))
    assert (row["name"], row["partitions"], row["events"], row["compression_type"]) == ("orders", 2, 0, "LZ4")
    assert row["stream_id"].startswith("str_")
    assert "orders" in orders("stream", "list").out


def test_the_same_stream_with_other_settings_is_refused(orders: Esb) -> None:
    done = orders("stream", "create", "orders", "--partitions", "3")
    assert (done.code, done.out) == (1, "")
    assert done.err == "esb: stream orders exists with other settings: partitions is 2, not 3\n"


def test_a_streams_settings_are_described(esb: Esb) -> None:
    esb("stream", "create", "s", "--compression", "zstd", "--retention-ms", "5000", "--retention-bytes", "9000")
    told = json.loads(esb("stream", "describe", "s").out)
    assert (told["compression_type"], told["retention_ms"], told["retention_bytes"]) == ("ZSTD", 5000, 9000)


def test_a_stream_with_a_schema_that_is_not_registered_is_not_made(esb: Esb) -> None:
    done = esb("stream", "create", "s", "--schema", "order@1.0")
    assert done.code == 1
    assert "order" in done.err
    assert lines(esb("stream", "list", "--json")) == []


def test_drop_wants_a_yes(orders: Esb) -> None:
    refused = orders("stream", "drop", "orders")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert len(lines(orders("stream", "list", "--json"))) == 1
    assert orders("stream", "drop", "orders", "--yes").code == 0
    assert lines(orders("stream", "list", "--json")) == []


def test_streams_of_one_tenant_are_not_another_ones(orders: Esb) -> None:
    assert lines(orders("--tenant", "other", "stream", "list", "--json")) == []
    assert orders("--tenant", "other", "read", "orders").code == 1


@pytest.mark.parametrize("command", [["read", "ordrs"], ["stream", "describe", "ordrs"], ["publish", "ordrs", "-"]])
def test_a_missing_stream_suggests_the_nearest(orders: Esb, command: list[str]) -> None:
    done = orders(*command)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("esb: There is no stream 'ordrs'. Did you mean 'orders'?")


# --- publish ----------------------------------------------------------------------------------------------------------


def test_a_row_becomes_an_event(orders: Esb) -> None:
    row = {"id": "o1", "at": {"time": "2025-01-26T10:05:00+01:00"}, "total": 1.0}
    file = write("orders.ndjson", row)
    done = orders(
        *("publish", "orders", file, "--type", "order.created", "--key", "id", "--time", "at.time"),
        *("--source", "shop", "--priority", "high"),
    )
    assert done.code == 0
    assert done.out.startswith("1 events published to orders in ")
    [event] = lines(orders("read", "orders", "--json"))
    names = ("event_type", "timestamp", "stream", "lane", "offset", "key", "source_capability", "priority", "payload")
    assert tuple(event[name] for name in names) == (
        *("order.created", "2025-01-26T09:05:00.000Z", "orders", "HIGH", 0, "o1", "shop", "HIGH"),
        row,
    )


def test_without_options_the_type_is_the_streams_name_and_the_time_is_now(orders: Esb) -> None:
    orders("publish", "orders", "-", stdin='{"n": 1}\n')
    [event] = lines(orders("read", "orders", "--json"))
    assert (event["event_type"], event["key"]) == ("orders", None)
    assert event["timestamp"] > "2025"


def test_a_csv_file_with_epoch_milliseconds_is_published(orders: Esb) -> None:
    file = write("orders.csv", "at,zip,n,note", "1357034400000,007,1,NA", "1357034400001,12,2,x")
    assert orders("publish", "orders", file, "--time", "at", "--key", "n").code == 0
    events = sorted(lines(orders("read", "orders", "--json")), key=lambda event: event["timestamp"])
    assert [event["timestamp"] for event in events] == ["2013-01-01T10:00:00.000Z", "2013-01-01T10:00:00.001Z"]
    assert [event["key"] for event in events] == ["1", "2"]
    assert events[0]["payload"] == {"at": 1357034400000, "zip": "007", "n": 1, "note": None}


def test_many_batches_keep_the_order_of_a_key(orders: Esb) -> None:
    file = write("orders.ndjson", *({"k": i % 3, "n": i} for i in range(500)))
    assert orders("publish", "orders", file, "--key", "k", "--batch-size", "7").code == 0
    events = lines(orders("read", "orders", "--json"))
    assert len(events) == 500
    for key in range(3):
        assert [e["payload"]["n"] for e in events if e["key"] == str(key)] == list(range(key, 500, 3))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('{"id": ', "not a JSON object"),
        ('{"at": 1}', "no key: the field id is missing or null"),
        ('{"id": "x"}', "no time: the field at is missing or null"),
        ('{"id": "x", "at": "soon"}', "at: 'soon' is no time"),
        (json.dumps({"id": "x", "at": 1, "big": "x" * 1_100_000}), "at most 1,048,576 are accepted"),
    ],
)
def test_a_bad_row_stops_with_its_line_and_what_was_published_before(orders: Esb, bad: str, told: str) -> None:
    file = write("orders.ndjson", *({"id": "x", "at": i} for i in range(5)), bad, {"id": "x", "at": 9})
    done = orders("publish", "orders", file, "--key", "id", "--time", "at", "--batch-size", "3")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("esb: orders.ndjson, line 6: ")
    assert told in done.err
    assert done.err.endswith("(5 events were published before)\n")
    assert len(lines(orders("read", "orders", "--json"))) == 5


def test_a_bad_row_is_skipped_if_asked_for_and_the_exit_code_is_3(orders: Esb) -> None:
    file = write("orders.ndjson", {"id": 1}, "oops", {"no": 2}, {"id": 3})
    done = orders("publish", "orders", file, "--key", "id", "--on-error", "skip")
    assert done.code == 3
    assert done.out.startswith("2 events published to orders in ")
    assert done.out.endswith(", 2 rows skipped\n")
    assert "skipped orders.ndjson, line 2: not a JSON object" in done.err
    assert "skipped orders.ndjson, line 3: no key" in done.err


def test_many_skipped_rows_are_counted_but_not_all_told(orders: Esb) -> None:
    done = orders("publish", "orders", write("orders.ndjson", *["oops"] * 50), "--on-error", "skip")
    assert done.code == 3
    assert len(done.err.splitlines()) == 21
    assert done.err.endswith("esb: skipped 30 more rows\n")


@pytest.fixture
def guarded(esb: Esb) -> Esb:
    """With a stream ``orders`` whose schema wants a total of at least 10."""
    write(
        "guard.yaml",
        "schemas: [{schema_name: order, schema_version: '1.0', json_schema: {required: [total]},",
        "  validation_rules: {business_rules: [{name: minimum, rule: total >= 10}]}}]",
        "streams: [{name: orders, schema: order}, {name: large}]",
        "processors: [{processor_name: large_orders, processor_type: FILTER, source_stream_id: orders,",
        "  target_stream_id: large, processing_logic: {filter_expression: payload.total > 50}}]",
    )
    from event_streaming_bus.flows.deploy import deploy
    from event_streaming_bus.flows.spec import load_flow

    deploy(load_flow("guard.yaml"), open_storage())
    return esb


def test_a_row_that_breaks_the_schema_is_told_with_its_line_and_reason(guarded: Esb) -> None:
    file = write("orders.ndjson", {"total": 20}, {"total": 30}, {"sum": 1}, {"total": 3}, {"total": 40})
    done = guarded("publish", "orders", file)
    assert done.code == 1
    assert done.err.startswith("esb: orders.ndjson, line 3: ")
    assert "total" in done.err
    assert done.err.endswith("(2 events were published before)\n")
    assert [event["payload"]["total"] for event in lines(guarded("read", "orders", "--json"))] == [20, 30]


def test_rows_that_break_the_schema_are_skipped_each_by_itself(guarded: Esb) -> None:
    file = write("orders.ndjson", {"total": 20}, {"sum": 1}, {"total": 30}, {"total": 3}, {"total": 40})
    done = guarded("publish", "orders", file, "--on-error", "skip")
    assert done.code == 3
    assert "skipped orders.ndjson, line 2: " in done.err
    assert "skipped orders.ndjson, line 4: " in done.err
    assert [event["payload"]["total"] for event in lines(guarded("read", "orders", "--json"))] == [20, 30, 40]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.csv"], "none.csv: there is no such file (nothing was published)"),
        (["orders.xlsx"], "orders.xlsx: cannot tell its format; name it with --format ndjson|csv|parquet|avro"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(orders: Esb, arguments: list[str], told: str) -> None:
    done = orders("publish", "orders", *arguments)
    assert (done.code, done.out, done.err) == (1, "", f"esb: {told}\n")


# --- read -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def numbered(orders: Esb) -> Esb:
    """With the numbers 0 to 9 in ``orders``, published one by one."""
    file = write("numbers.ndjson", *({"n": i} for i in range(10)))
    assert orders("publish", "orders", file, "--key", "n", "--batch-size", "1").code == 0
    return orders


def test_read_prints_one_line_for_each_event(numbered: Esb) -> None:
    done = numbered("read", "orders")
    assert done.code == 0
    assert len(done.out.splitlines()) == 10
    assert all('{"n":' in line for line in done.out.splitlines())


def test_read_stops_at_its_limit(numbered: Esb) -> None:
    assert len(lines(numbered("read", "orders", "--limit", "3", "--json"))) == 3
    assert lines(numbered("read", "orders", "--limit", "0", "--json")) == []


def test_read_goes_by_the_time_of_appending(orders: Esb) -> None:
    for i in range(5):  # each publish returns before the next one begins
        orders("publish", "orders", "-", "--key", "n", stdin=json.dumps({"n": i}))
    events = lines(orders("read", "orders", "--json"))
    assert {event["partition"] for event in events} == {0, 1}
    assert [event["payload"]["n"] for event in events] == list(range(5))


def test_read_takes_one_partition_and_starts_where_it_is_told(numbered: Esb) -> None:
    everything = lines(numbered("read", "orders", "--json"))
    one = [event for event in everything if event["partition"] == 1]
    assert lines(numbered("read", "orders", "--json", "--partition", "1")) == one
    assert lines(numbered("read", "orders", "--json", "--partition", "1", "--from", "2")) == one[2:]
    assert lines(numbered("read", "orders", "--json", "--from", "end")) == []


@pytest.mark.parametrize("arguments", [["--from", "middle"], ["--partition", "2"], ["--limit", "-1"]])
def test_read_refuses_what_cannot_be_meant(numbered: Esb, arguments: list[str]) -> None:
    done = numbered("read", "orders", *arguments)
    assert (done.code, done.out) == (2, "")


def test_control_characters_of_a_key_do_not_reach_the_terminal(orders: Esb) -> None:
    orders("publish", "orders", "-", "--key", "k", stdin=json.dumps({"k": "a\x1b[2Jb\nc"}))
    done = orders("read", "orders")
    assert "a\\x1b[2Jb\\nc" in done.out
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == 1


# --- run: what is refused before any worker starts ----------------------------------------------------------------------


def test_a_wrong_flow_file_is_told_with_its_lines(esb: Esb) -> None:
    write("flow.yaml", "processors:", "  - processor_name: p", "    procesor_type: FILTER", "    source_stream_id: orders")
    done = esb("run", "flow.yaml", "--until-end")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("esb: flow.yaml:")
    assert "flow.yaml:3: processors[0].procesor_type: unknown key; did you mean 'processor_type'?" in done.err


def test_a_flow_file_that_is_not_there_is_an_error(esb: Esb) -> None:
    done = esb("run", "none.yaml")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("esb: none.yaml: ")


def test_a_flow_over_a_stream_that_is_not_there_suggests_the_nearest(guarded: Esb) -> None:
    write("flow.yaml", Path("guard.yaml").read_text().replace("source_stream_id: orders", "source_stream_id: ordrs"))
    done = guarded("run", "flow.yaml", "--until-end")
    assert done.code == 1
    assert done.err.startswith("esb: processors[0].source_stream_id: There is no stream 'ordrs'. Did you mean 'orders'?")


def test_from_start_wants_a_yes(guarded: Esb) -> None:
    done = guarded("run", "guard.yaml", "--until-end", "--from-start")
    assert done.code == 2
    assert "All output of the flow guard will be written again" in done.err


# --- sql and history --------------------------------------------------------------------------------------------------


def test_sql_answers_as_a_table_json_csv_and_parquet(numbered: Esb) -> None:
    question = (
        "select stream, count(*) as events, sum((payload ->> 'n')::integer) as total, null as nothing from events group by 1"
    )
    assert numbered("sql", question).out.split()[-3:] == ["orders", "10", "45"]
    assert lines(numbered("sql", question, "--json")) == [{"stream": "orders", "events": 10, "total": 45, "nothing": None}]
    assert numbered("sql", question, "--csv").out == "stream,events,total,nothing\norders,10,45,\n"
    done = numbered("sql", question, "--parquet", "answer.parquet")
    assert (done.code, done.out) == (0, "")
    assert parquet.read_table("answer.parquet")["events"].to_pylist() == [10]


def test_sql_of_a_tenant_sees_its_own_rows_only(numbered: Esb) -> None:
    question = "select count(*) as events from events"
    assert lines(numbered("sql", question, "--json")) == [{"events": 10}]
    assert lines(numbered("--tenant", "other", "sql", question, "--json")) == [{"events": 0}]
    assert lines(numbered("--tenant", "default", "sql", question, "--json")) == [{"events": 10}]


def test_times_are_rfc_3339_in_json(orders: Esb) -> None:
    orders("publish", "orders", "-", "--time", "at", stdin='{"at": "2013-01-01T10:00:00Z"}')
    done = orders("sql", 'select "timestamp" as at from events', "--json")
    assert lines(done) == [{"at": "2013-01-01T10:00:00.000Z"}]


@pytest.mark.parametrize("statement", ["select * from nowhere", "drop table events", "selct 1", "select 1; select 2"])
def test_sql_that_is_not_acceptable_is_one_message(numbered: Esb, statement: str) -> None:
    done = numbered("sql", statement)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("esb: ")


def test_a_parquet_file_that_cannot_be_written_is_an_error(orders: Esb) -> None:
    done = orders("sql", "select 1 as one", "--parquet", "no/such/folder/a.parquet")
    assert done.code == 1
    assert done.err.startswith("esb: --output, --parquet: no/such/folder/a.parquet cannot be written: ")


def test_two_forms_of_answer_at_once_are_wrong_usage(orders: Esb) -> None:
    assert orders("sql", "select 1", "--json", "--csv").code == 2


def test_a_rebuilt_history_has_the_same_rows(numbered: Esb) -> None:
    question = "select * from events order by event_id"
    before = numbered("sql", question, "--json").out
    for file in Path("esb-data").glob("history.duckdb*"):
        file.unlink()
    assert numbered("history", "rebuild").code == 0
    assert numbered("history", "status").out.startswith("0 records to load")
    assert numbered("sql", question, "--json").out == before
