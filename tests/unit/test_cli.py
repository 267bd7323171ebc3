"""The command line, run as a user runs it."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from warm import run_esb

ESB = Path(sys.executable).with_name("esb")
Esb = Callable[..., "subprocess.CompletedProcess[str]"]
FLOW = """
streams: [{name: orders, partitions: 2}, {name: big}]
processors:
  - processor_name: big_orders
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: big
    processing_logic: {filter_expression: payload.total > 10}
"""


@pytest.fixture
def esb(tmp_path: Path) -> Esb:
    """Runs ``esb`` in a folder of its own; ``code`` is the exit code that is expected."""

    def run(*arguments: str, code: int = 0, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        done = run_esb(arguments, cwd=tmp_path, env=environment(tmp_path), stdin=text)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "ESB_DATA": str(folder / "data")}


def rows(done: "subprocess.CompletedProcess[str]") -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_stream_is_made_listed_described_and_dropped(esb: Esb) -> None:
    esb("stream", "create", "orders", "--partitions", "3", "--compression", "zstd", "--retention-ms", "1000")
    esb("stream", "create", "orders", "--partitions", "3", "--compression", "zstd", "--retention-ms", "1000")
    assert "partitions is 3, not 4" in esb("stream", "create", "orders", "--partitions", "4", code=1).stderr
    (row,) = rows(esb("stream", "list", "--json"))
    assert (row["name"], row["partitions"], row["compression_type"], row["events"]) == ("orders", 3, "ZSTD", 0)
    assert "orders" in esb("stream", "list").stdout
    assert json.loads(esb("stream", "describe", "orders").stdout)["retention_ms"] == 1000
    esb("stream", "drop", "orders", "--yes")
    assert esb("stream", "list", "--json").stdout == ""


def test_rows_are_published_and_read_back(esb: Esb, tmp_path: Path) -> None:
    esb("stream", "create", "s", "--partitions", "2")
    lines = [{"id": i, "who": {"name": f"k{i % 9}"}, "at": f"2013-01-01T00:00:{i:02d}Z"} for i in range(30)]
    (tmp_path / "rows.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    done = esb("publish", "s", "rows.ndjson", "--key", "who.name", "--time", "at", "--type", "row", "--batch-size", "7")
    assert "30 events published to s" in done.stdout
    events = rows(esb("read", "s", "--json"))
    assert sorted((e["payload"] for e in events), key=lambda p: p["id"]) == lines  # type: ignore[index,type-var]
    by_id = {e["payload"]["id"]: e for e in events}  # type: ignore[index]
    assert (by_id[4]["key"], by_id[4]["event_type"], by_id[4]["timestamp"]) == ("k4", "row", "2013-01-01T00:00:04.000Z")
    assert {e["partition"] for e in events} == {0, 1}
    assert len(esb("read", "s", "--limit", "3").stdout.splitlines()) == 3
    assert esb("read", "s", "--from", "end").stdout == ""


def test_standard_input_csv_gzip_and_parquet_are_read(esb: Esb, tmp_path: Path) -> None:
    esb("stream", "create", "s")
    esb("publish", "s", "-", text='{"a": 1}\n')
    csv = "a,b,c,d,e\n1,x,NA,1.5,true\n2,,7,2,false\n"
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(csv.encode()))
    esb("publish", "s", "rows.csv.gz")
    parquet.write_table(pa.table({"a": [9], "t": pa.array([0], pa.timestamp("ms", "UTC"))}), tmp_path / "rows.parquet")
    esb("publish", "s", "rows.parquet", "--time", "t")
    payloads = [row["payload"] for row in rows(esb("read", "s", "--json"))]
    assert payloads == [
        {"a": 1},
        {"a": 1, "b": "x", "c": None, "d": 1.5, "e": True},
        {"a": 2, "b": None, "c": 7, "d": 2.0, "e": False},
        {"a": 9, "t": "1970-01-01T00:00:00+00:00"},
    ]


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ('{"a": 1}\n{"a": \n', (), "rows.ndjson, line 2: not a JSON object"),
        ('{"a": 1}\n[1]\n', (), "rows.ndjson, line 2: not a JSON object"),
        ('{"a": "k"}\n{"b": 1}\n', ("--key", "a"), "line 2: no key: the field a is missing"),
        ('{"a": 5}\n{"a": "soon"}\n', ("--time", "a"), "line 2: a: 'soon' is no time"),
    ],
)
def test_a_bad_row_is_named_and_what_came_before_is_kept(
    esb: Esb, tmp_path: Path, text: str, options: tuple[str, ...], told: str
) -> None:
    esb("stream", "create", "s")
    (tmp_path / "rows.ndjson").write_text(text)
    done = esb("publish", "s", "rows.ndjson", *options, code=1)
    assert told in done.stderr
    assert "(1 events were published before)" in done.stderr
    assert len(rows(esb("read", "s", "--json"))) == 1
    done = esb("publish", "s", "rows.ndjson", *options, "--on-error", "skip", code=3)
    assert "1 rows skipped" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("publish", "oders", "x.ndjson"), 1, "Did you mean 'orders'"),
        (("publish", "orders", "none.ndjson"), 1, "none.ndjson: there is no such file"),
        (("publish", "orders", "rows.txt"), 1, "--format ndjson|csv|parquet"),
        (("read", "orders", "--from", "middle"), 2, "expected beginning, end or an offset"),
        (("read", "orders", "--partition", "5"), 2, "the partitions 0 to 0"),
        (("run", "none.yaml"), 1, "there is no such file"),
        (("run", "bad.yaml"), 1, "bad.yaml:3: processors[0].procesor_name: unknown key"),
        (("stream", "create", "a b"), 1, "stream name"),
        (("stream", "create", "x", "--partitions", "0"), 2, "0 is not in the range"),
        (("nonsense",), 2, "No such command"),
        (("sql", "SELEC 1"), 1, "syntax error"),
        (("sql", "DROP TABLE events"), 1, "read only"),
        (("serve", "--host", "0.0.0.0"), 1, "no login"),
    ],
)
def test_a_users_mistake_is_told_in_a_sentence(
    esb: Esb, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    esb("stream", "create", "orders")
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "bad.yaml").write_text("streams: []\nprocessors:\n  - procesor_name: x\n")
    assert told in esb(*arguments, code=code).stderr


def test_a_flow_file_runs_to_the_end_and_goes_on_later(esb: Esb, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    esb("stream", "create", "orders", "--partitions", "2")
    esb("publish", "orders", "-", text="".join(json.dumps({"total": i}) + "\n" for i in range(20)))
    (counted,) = rows(esb("run", "flow.yaml", "--until-end", "--json"))
    assert (counted["events_in"], counted["events_out"], counted["events_filtered"]) == (20, 9, 11)
    esb("publish", "orders", "-", text='{"total": 99}\n')
    assert "big_orders" in esb("run", "flow.yaml", "--until-end", "--workers", "2").stdout
    assert len(rows(esb("read", "big", "--json"))) == 10
    runs = rows(esb("sql", "SELECT status, events_in FROM processor_runs ORDER BY started_at", "--json"))
    assert runs == [{"status": "COMPLETED", "events_in": 20}, {"status": "COMPLETED", "events_in": 21}]


def test_a_flow_that_follows_stops_in_good_order(esb: Esb, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    esb("stream", "create", "orders", "--partitions", "2")
    running = subprocess.Popen(
        [ESB, "run", "flow.yaml", "--json"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        esb("publish", "orders", "-", text='{"total": 99}\n')
        deadline = time.monotonic() + 60
        while not esb("stream", "list").stdout.count("big") or not rows(esb("read", "big", "--json")):
            assert time.monotonic() < deadline
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert json.loads(out)["events_out"] == 1
    assert b"goes on from here" in errors


def test_a_failing_flow_says_why(esb: Esb, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW + "    error_handling_strategy: STOP\n")
    esb("stream", "create", "orders", "--partitions", "2")
    esb("publish", "orders", "-", text='{"total": null}\n')
    done = esb("run", "flow.yaml", "--until-end", code=1)
    assert "big_orders stopped the flow at event evt_" in done.stderr
    assert "payload.total is null" in done.stderr


def test_history_is_asked_in_every_form(esb: Esb, tmp_path: Path) -> None:
    esb("stream", "create", "s")
    esb("publish", "s", "-", "--time", "t", text='{"t": 0}\n{"t": 1000}\n')
    question = 'SELECT stream, "timestamp" AS t FROM events ORDER BY 2'
    assert "1970-01-01 00:00:01.000" in esb("sql", question).stdout
    assert rows(esb("sql", question, "--json"))[1] == {"stream": "s", "t": "1970-01-01T00:00:01.000Z"}
    assert esb("sql", question, "--csv").stdout == "stream,t\ns,1970-01-01T00:00:00.000Z\ns,1970-01-01T00:00:01.000Z\n"
    esb("sql", question, "--parquet", "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 2
    (tmp_path / "data" / "history.duckdb").unlink()
    assert esb("history", "rebuild").stdout == "4 rows\n"
    assert esb("history", "status").stdout == "0 records to load\n"
    esb("sql", question, "--json", "--csv", code=2)


def test_output_into_a_closed_pipe_ends_quietly(esb: Esb, tmp_path: Path) -> None:
    esb("stream", "create", "s")
    esb("publish", "s", "-", text="".join(json.dumps({"i": i, "pad": "x" * 500}) + "\n" for i in range(2000)))
    reading = subprocess.Popen(
        [ESB, "read", "s"], cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert reading.stdout is not None
    assert reading.stderr is not None
    reading.stdout.readline()
    reading.stdout.close()
    assert reading.stderr.read() == b""
    reading.stderr.close()
    assert reading.wait(timeout=30) == 0


def test_a_plain_command_loads_no_heavy_parts(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom event_streaming_bus.cli import main\n"
        "try: main(['stream', 'list'])\nexcept SystemExit: pass\n"
        "heavy = {'litestar', 'duckdb', 'pyarrow', 'bytewax', 'jsonschema'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
