"""Answers of the history in their forms, and how queries are bounded, told of, and stopped."""

import io
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from running import ESB, commands

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, NotFoundError, QueryError
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history import running as running_module
from event_streaming_bus.store.history.asking import Bounds
from event_streaming_bus.store.history.formats import AnswerFormat, written
from event_streaming_bus.testing import temporary_bus

ENDLESS = "SELECT sum(a.n * b.n) FROM range(10000000) AS a(n), range(10000000) AS b(n)"
LONG = "SELECT range AS n, repeat('x', 100) AS text FROM range(1000000000)"
VALUES = """
SELECT * FROM (VALUES
    (1, 'a', TIMESTAMP '2025-01-26 10:30:00.125', 1.50::DECIMAL(10, 2), [1, 2], '\\x00'::BLOB, true),
    (NULL, 'with "quotes", and ü', NULL, NULL, NULL, NULL, false)
) AS v(n, text, made, price, list, raw, yes)
"""


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        opened.create_stream("orders")
        yield opened


@pytest.fixture
def history(bus: Bus) -> Iterator[History]:
    opened = History(bus.storage)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def empty() -> Iterator[History]:
    """A history without rows, for questions that need none."""
    with temporary_bus() as opened:
        found = History(opened.storage)
        yield found
        found.close()


def publish(bus: Bus, count: int, start: int = 0) -> None:
    payloads = [{"n": n} for n in range(start, start + count)]
    bus.publishing.submit(EventConfig(event_type="order"), payloads, stream_id="orders").result()


def answer(history: History, form: AnswerFormat, sql: str, **bounds: Any) -> bytes:
    with history.ask(sql, bounds=Bounds(**bounds)) as found:
        return b"".join(written(form, found.schema, found.batches(), lambda: found.is_truncated))


# --- forms ------------------------------------------------------------------------------------------------------------


def test_json_has_columns_types_and_rows(empty: History) -> None:
    told = msgspec.json.decode(answer(empty, AnswerFormat.JSON, VALUES))
    assert told["columns"] == ["n", "text", "made", "price", "list", "raw", "yes"]
    assert told["types"][:4] == ["int32", "string", "timestamp[us]", "decimal128(10, 2)"]
    assert told["rows"][0] == [1, "a", "2025-01-26T10:30:00.125000", "1.50", [1, 2], "AA==", True]
    assert told["rows"][1] == [None, 'with "quotes", and ü', None, None, None, None, False]
    assert told["truncated"] is False


def test_ndjson_is_an_object_a_row(empty: History) -> None:
    lines = answer(empty, AnswerFormat.NDJSON, VALUES).splitlines()
    assert msgspec.json.decode(lines[0])["made"] == "2025-01-26T10:30:00.125Z"
    assert [msgspec.json.decode(line)["yes"] for line in lines] == [True, False]


def test_csv_quotes_what_needs_it(empty: History) -> None:
    lines = answer(empty, AnswerFormat.CSV, VALUES).decode().splitlines()
    assert lines[0] == "n,text,made,price,list,raw,yes"
    assert lines[1] == '1,a,2025-01-26T10:30:00.125Z,1.50,"[1,2]",\0,True'
    assert lines[2] == ',"with ""quotes"", and ü",,,,,False'


def test_arrow_and_parquet_keep_the_types(empty: History) -> None:
    with pa.ipc.open_stream(answer(empty, AnswerFormat.ARROW, VALUES)) as reader:
        table = reader.read_all()
    again = parquet.read_table(io.BytesIO(answer(empty, AnswerFormat.PARQUET, VALUES)))
    for each in (table, again):
        assert each.schema.field("made").type == pa.timestamp("us")
        assert each.schema.field("price").type == pa.decimal128(10, 2)
        assert each.column("list").to_pylist() == [[1, 2], None]
    assert table.to_pylist() == again.to_pylist()


@pytest.mark.parametrize("form", AnswerFormat)
def test_an_answer_of_no_rows_has_its_columns(empty: History, form: AnswerFormat) -> None:
    body = answer(empty, form, "SELECT event_id, payload FROM events")
    names = {
        AnswerFormat.JSON: lambda: msgspec.json.decode(body)["columns"],
        AnswerFormat.NDJSON: lambda: ["event_id", "payload"] if body == b"" else None,
        AnswerFormat.CSV: lambda: body.decode().strip().split(","),
        AnswerFormat.ARROW: lambda: pa.ipc.open_stream(body).schema.names,
        AnswerFormat.PARQUET: lambda: parquet.read_schema(io.BytesIO(body)).names,
    }
    assert names[form]() == ["event_id", "payload"]


def test_a_cut_answer_says_so_where_its_form_can(empty: History) -> None:
    told = msgspec.json.decode(answer(empty, AnswerFormat.JSON, "FROM range(10000)", max_rows=3000))
    assert (len(told["rows"]), told["truncated"]) == (3000, True)
    raw = answer(empty, AnswerFormat.PARQUET, "FROM range(10000)", max_rows=3000)
    assert parquet.read_metadata(io.BytesIO(raw)).metadata[b"truncated"] == b"true"
    with pa.ipc.open_stream(answer(empty, AnswerFormat.ARROW, "FROM range(10000)", max_rows=3000)) as reader:
        marks = [told for _, told in reader.iter_batches_with_custom_metadata() if told is not None]
    assert [mark[b"truncated"] for mark in marks] == [b"true"]
    assert len(answer(empty, AnswerFormat.CSV, "FROM range(10000)", max_rows=3000).splitlines()) == 3001


def test_a_long_answer_is_written_while_it_is_read(history: History) -> None:
    before = running_module._resident_bytes()
    with history.ask(LONG, bounds=Bounds(max_rows=3_000_000, max_bytes=1 << 40, timeout_s=60)) as found:
        pieces = written(AnswerFormat.ARROW, found.schema, found.batches(), lambda: found.is_truncated)
        total = sum(map(len, pieces))
    assert total > 300_000_000
    assert running_module._resident_bytes() - before < 150_000_000


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_values_and_never_sql(bus: Bus, history: History) -> None:
    publish(bus, 5)
    history.catch_up()
    count = "SELECT count(*) FROM events WHERE published_at > $since AND (payload->>'n')::INT >= $least"
    for tenant_id in (None, "default"):
        found = history.query(count, parameters={"since": "2020-01-01", "least": 3}, tenant_id=tenant_id)
        assert list(found.rows()) == [(2,)]
        evil = history.query("SELECT $x, 1", parameters={"x": "'; DROP TABLE base.events; --"}, tenant_id=tenant_id)
        assert list(evil.rows()) == [("'; DROP TABLE base.events; --", 1)]
    assert list(history.query("SELECT len($l)", parameters={"l": [1, 2]}).rows()) == [(2,)]
    assert list(history.query("FROM range(10) LIMIT $n", parameters={"n": 2}).rows()) == [(0,), (1,)]


@pytest.mark.parametrize(
    ("sql", "values", "told"),
    [
        ("SELECT $a", {}, r"no value for \$a"),
        ("SELECT $a", {"a": 1, "b": 2}, r"has no \$b"),
        ("SELECT $a", {"a": {"x": 1}}, "parameters.a: expected"),
        ("SELECT * FROM $table", {"table": "events"}, "syntax error"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(empty: History, sql: str, values: dict[str, Any], told: str) -> None:
    with pytest.raises(QueryError, match=told):
        empty.query(sql, parameters=values, tenant_id="default")


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_eight_queries_are_answered_while_rows_are_loaded(bus: Bus, history: History) -> None:
    publish(bus, 100)
    history.start()
    failures: list[BaseException] = []
    counts: list[list[int]] = [[] for _ in range(8)]

    def question(mine: list[int], tenant_id: str | None) -> None:
        try:
            for _ in range(15):
                ((count, last),) = history.query(
                    "SELECT count(*), max((payload->>'n')::INT) FROM events WHERE stream = 'orders'", tenant_id=tenant_id
                ).rows()
                assert count == (0 if last is None else last + 1)  # no part of a transaction is seen
                mine.append(count)
        except BaseException as error:
            failures.append(error)

    asking = [threading.Thread(target=question, args=(mine, "default" if i % 2 else None)) for i, mine in enumerate(counts)]
    for thread in asking:
        thread.start()
    for start in range(100, 2000, 100):
        publish(bus, 100, start)
    for thread in asking:
        thread.join(60)
    history.stop()
    assert not failures
    assert all(mine == sorted(mine) and len(mine) == 15 for mine in counts)
    assert list(history.query("SELECT count(*) FROM events").rows()) == [(2000,)]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (ENDLESS, r"longer than 0\.5 s"),
        ("SELECT list(range) FROM range(1000000000)", "more memory than|longer than"),
        ("SELECT n FROM (SELECT unnest(range(1000000)) AS n) a, range(1000000) b ORDER BY hash(n)", "more memory|longer than"),
    ],
)
def test_endless_and_huge_queries_are_cut_while_loading_goes_on(bus: Bus, history: History, sql: str, told: str) -> None:
    history.start()
    seen: list[BaseException] = []

    def ask() -> None:
        try:
            history.query(sql, tenant_id="default", timeout_s=0.5 if sql == ENDLESS else 3)
        except QueryError as error:
            seen.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    publish(bus, 1000)
    thread.join(20)
    assert not thread.is_alive()
    history.stop()
    with pytest.raises(QueryError, match=told):
        raise seen[0]
    assert list(history.query("SELECT count(*) FROM events").rows()) == [(1000,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 2000000000)",
        "SELECT repeat('x', n) FROM (VALUES (1900000000)) AS v(n)",
        "SELECT 'x'.repeat(2000000000)",
        "SELECT system.main.repeat('x', 2000000000)",
        "SELECT lpad('x', 2000000000, ' ')",
        "SELECT rpad('x', 2000000000, ' ')",
        "SELECT range(2000000000)",
        "SELECT range(0, 2000000000, 1)",
        "SELECT generate_series(0, 2000000000)",
        "SELECT list_resize([1], 2000000000)",
        "SELECT array_resize([1], 2000000000, 0)",
        "SELECT printf('%2000000000d', 1)",
        "SELECT printf('%*d', 2000000000, 1)",
        "SELECT format('{:>2000000000}', 'x')",
        "SELECT format('{:>{}}', 'x', 2000000000)",
        "SELECT format('{:>' || '2000000000}', 'x')",
        "SELECT sleep_ms(100000)",
    ],
)
@pytest.mark.parametrize("tenant_id", [None, "default"])
def test_no_function_makes_one_value_of_boundless_size(empty: History, sql: str, tenant_id: str | None) -> None:
    before = running_module._resident_bytes()
    with pytest.raises(QueryError):
        empty.query(sql, tenant_id=tenant_id, timeout_s=5)
    assert running_module._resident_bytes() - before < 200_000_000


@pytest.mark.parametrize("sql", ["SELECT current_setting('temp_directory')", "SELECT getvariable('x')", "SELECT current_query()"])
def test_a_tenant_is_told_nothing_of_settings(empty: History, sql: str) -> None:
    with pytest.raises(QueryError, match="not allowed"):
        empty.query(sql, tenant_id="default")


def test_memory_that_duckdb_does_not_count_is_bounded_as_well(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "MAX_GROWTH_BYTES", 1)
    with pytest.raises(QueryError, match="more memory than there is for one"):
        history.query("SELECT count(*) FROM range(100000) a, range(1000000) b WHERE hash(a.range, b.range) = 1", timeout_s=20)


def test_loading_that_lacks_memory_stops_the_queries_and_goes_on(
    bus: Bus, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    publish(bus, 10)
    load, failed = history._load, []

    def lacking(*arguments: Any) -> Any:
        if not failed:
            failed.append(True)
            raise duckdb.OutOfMemoryException("there is none")
        return load(*arguments)

    monkeypatch.setattr(history, "_load", lacking)
    found = history.ask(LONG)
    assert history.catch_up() == 20
    with pytest.raises(QueryError, match="loading needed the memory"):
        list(found.batches())
    found.close()


def test_an_answer_that_nobody_reads_gives_up_its_place(history: History) -> None:
    found = history.ask(LONG, bounds=Bounds(timeout_s=0.2), query_id="left")
    deadline = time.monotonic() + 5
    while history.queries.find("left", None).ended_ms is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(QueryError, match=r"longer than 0\.2 s"):
        list(found.batches())


def test_a_tenant_does_not_take_all_the_room(history: History) -> None:
    held = [history.ask(LONG, tenant_id="default") for _ in range(running_module.MAX_OF_TENANT)]
    with pytest.raises(QueryError, match="other queries left no room"):
        history.query("SELECT 1", tenant_id="default", timeout_s=0.1)
    assert list(history.query("SELECT 1", tenant_id="other").rows()) == [(1,)]
    for each in held:
        each.close()
    assert list(history.query("SELECT 1", tenant_id="default").rows()) == [(1,)]


# --- told of, and stopped ---------------------------------------------------------------------------------------------


def test_a_query_is_cancelled_by_its_id(history: History) -> None:
    found = history.ask(LONG, tenant_id="default", query_id="mine")
    with pytest.raises(AlreadyExistsError):
        history.ask("SELECT 1", tenant_id="default", query_id="mine")
    with pytest.raises(NotFoundError):
        history.queries.cancel("mine", "other")
    assert history.queries.find("mine", "default").told()["state"] == "RUNNING"
    history.queries.cancel("mine", "default")
    with pytest.raises(QueryError, match="cancelled"):
        list(found.batches())
    found.close()
    told = history.queries.find("mine", "default").told()
    assert (told["state"], told["error"]) == ("FAILED", "the query was cancelled")
    history.query("SELECT 1", tenant_id="default")
    assert [each.told()["state"] for each in history.queries.all("default")] == ["COMPLETED", "FAILED"]
    assert history.queries.all("other") == []


def test_closing_the_history_stops_what_runs(bus: Bus) -> None:
    history = History(bus.storage)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            history.query(ENDLESS)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not history.queries.all(None):
        time.sleep(0.01)
    time.sleep(0.1)
    history.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(failures[0], QueryError)


# --- over HTTP, and on the command line -------------------------------------------------------------------------------


def eventually(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a server, which complains of nothing but answers that it broke off."""
    command = [ESB, "--data", str(folder), "serve", "--port", "0", "--auth", "off"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split(" on ")[1].split()[0]
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line for line in errors.splitlines() if "broken off" not in line and "without completing" not in line] == []


def test_a_server_answers_in_forms_and_stops_what_nobody_waits_for(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        (tmp_path / "orders.ndjson").write_text("".join(f'{{"n": {n}}}\n' for n in range(3)))
        esb("stream", "create", "orders")
        esb("publish", "orders", "orders.ndjson", "--type", "order")
        local = esb("sql", "select (payload->>'n')::int as n from events order by n", "--format", "csv")
        with serving(tmp_path / "esb-data") as url, httpx.Client(base_url=f"{url}/api/v1/history", timeout=30) as http:
            question = {"sql": "SELECT (payload->>'n')::INT AS n FROM events ORDER BY n"}
            assert http.post("/query", json=question).json()["rows"] == [[0], [1], [2]]
            csv = http.post("/query", json=question, headers={"Accept": "text/csv;q=0.9, image/png"})
            assert (csv.headers["content-type"].split(";")[0], csv.text) == ("text/csv", "n\n0\n1\n2\n")
            assert local.out == csv.text
            found = pa.ipc.open_stream(http.post("/query", json=question | {"format": "arrow"}).content).read_all()
            assert found.to_pydict() == {"n": [0, 1, 2]}
            assert http.post("/query", json=question, headers={"Accept": "image/png"}).status_code == 406
            assert http.post("/query", json={"sql": "SELEC 1"}).status_code == 400
            assert http.post("/query", json=question | {"max_rows": 0}).status_code == 400

            # A client that goes away before the first row, and one that goes away after some.
            with pytest.raises(httpx.ReadTimeout):
                http.post("/query", json={"sql": ENDLESS, "query_id": "endless"}, timeout=0.5)
            with http.stream("POST", "/query", json={"sql": LONG, "query_id": "long", "format": "csv"}) as response:
                assert response.headers["x-query-id"] == "long"
                next(response.iter_bytes())
            for query_id in ("endless", "long"):
                eventually(lambda query_id=query_id: http.get(f"/queries/{query_id}").json()["state"] == "FAILED", 3)
                assert "given up" in http.get(f"/queries/{query_id}").json()["error"]

            # One that is cancelled by somebody else.
            question = {"sql": LONG, "query_id": "mine", "max_rows": 100_000_000, "max_bytes": 1 << 34}
            with http.stream("POST", "/query", json=question) as response:
                assert http.delete("/queries/mine", headers={"X-Tenant-Id": "other"}).status_code == 404
                assert http.delete("/queries/mine").status_code == 200
                with pytest.raises(httpx.RemoteProtocolError):
                    response.read()
            assert "cancelled" in http.get("/queries/mine").json()["error"]

            # The command line asks the server, with types kept, and is told why an answer broke off.
            asked = esb("sql", "select (payload->>'n')::int as n, 1.5::decimal(5,2) as d from events order by n", "--json")
            assert asked.out.splitlines()[0] == '{"n":0,"d":1.5}'
            esb("--tenant", "default", "sql", "select $n as n", "-p", "n:=4", "-o", "four.parquet")
            assert parquet.read_table(tmp_path / "four.parquet").to_pydict() == {"n": [4]}
            failed = esb("sql", LONG.lower(), "--timeout", "0.5", "--max-rows", "100000000", "-o", "none.csv", code=1)
            assert "longer than 0.5 s" in failed.err
            assert not list(tmp_path.glob("*none*"))


def test_the_memory_of_the_history_is_set_from_outside(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_HISTORY_MEMORY", "200MiB")
    history = History(bus.storage)
    assert list(history.query("SELECT current_setting('memory_limit')").rows()) == [("200.0 MiB",)]
    history.close()
    monkeypatch.setenv("ESB_HISTORY_MEMORY", "much")
    with pytest.raises(InvalidInputError, match="as in 512MB"):
        History(bus.storage)
