from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from event_streaming_bus import ids
from event_streaming_bus.errors import QueryError
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.history import TABLES, History
from event_streaming_bus.store.history_records import (
    DEAD_LETTER_STREAM,
    Late,
    ProcessorRun,
    Published,
    Rebalanced,
    Run,
    to_event,
)
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import open_storage

US = 1_357_034_400_000_000
SECRET = "the-other-tenants-secret"
MINE, OTHER = "mine", "o'ther"
EVENTS = 300


@pytest.fixture(scope="module", params=["in the database", "in files"])
def history(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[History]:
    """Two tenants that take turns: row by row, the numbers of one and the secrets of the other."""
    storage = open_storage(tmp_path_factory.mktemp("history"))
    entries = []
    for tenant_id, texts in ((MINE, [str(n) for n in range(EVENTS)]), (OTHER, [f'"{SECRET}"'] * EVENTS)):
        for name in ("orders", DEAD_LETTER_STREAM):
            stream = storage.log.create_stream(StreamConfig(name=name, tenant_id=tenant_id))
            events = [
                Event(event_id, "t", US // 1000, text.encode(), metadata={"secret": text, "dead_letter": {"step": text}})
                for event_id, text in zip(ids.new_ids(ids.EVENT, EVENTS), texts, strict=True)
            ]
            (result,) = storage.log.append([Append(stream.stream_id, events, new_ids=True)])
            ((split, first, count),) = result.written
            for i in range(count):
                run = Run(split.stream_id, split.lane.value, split.partition, first + i, 1)
                entries.append((i, Published(tenant_id, [run], US, US)))
        late = Late(tenant_id, "proc", texts[0], split.stream_id, "NORMAL", 0, [0], [0], [1], 2, 3)
        run_told = ProcessorRun(tenant_id, f"run_{tenant_id}", "proc", texts[0], texts[0], "RUNNING", 1, US, error=texts[0])
        shares = {texts[0]: ((split.stream_id, 0),)}
        shared = Rebalanced(tenant_id, "grp", texts[0], "range", 1, texts[0], {}, shares, US, US)
        entries += [(0, late), (0, run_told), (0, shared)]
    turns = [to_event(record) for _, record in sorted(entries, key=lambda entry: entry[0])]
    storage.log.append([Append(storage.history().stream_id, turns, new_ids=True)])
    history = History(storage)
    history.catch_up()
    assert history.skipped() == (0, 0)
    if request.param == "in files":
        assert history.roll_off(days=0, now=datetime.now(UTC) + timedelta(days=2)).rows > 2 * EVENTS
    yield history
    history.close()
    storage.close()


def ask(history: History, sql: str, tenant_id: str | None = None, **more: Any) -> list[tuple[Any, ...]]:
    return list(history.query(sql, tenant_id=tenant_id, **more).rows())


def test_an_answer_has_columns_types_and_rows(history: History) -> None:
    result = history.query("SELECT 1 AS one, 'x' AS text, TIMESTAMP '2013-01-01 10:00:00' AS at, NULL::DOUBLE AS nothing")
    assert result.columns == ["one", "text", "at", "nothing"]
    assert result.types == ["int32", "string", "timestamp[us]", "double"]
    assert [(row[0], row[1], row[2].isoformat(), row[3]) for row in result.rows()] == [(1, "x", "2013-01-01T10:00:00", None)]
    assert not result.truncated


@pytest.mark.parametrize("tenant_id", [None, MINE])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT payload->>'$' FROM events WHERE stream = 'orders' LIMIT 1",
        "FROM events LIMIT 1",
        "WITH few AS (FROM events LIMIT 1) SELECT * FROM few",
        "WITH events AS (SELECT 1) SELECT * FROM events",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT max(n) FROM t",
        "PIVOT (SELECT stream, 1 AS n FROM events) ON stream IN ('orders') USING sum(n)",
        "SELECT sum(n) FROM range(10) AS r(n)",
        "SELECT count(*) FROM Events AS a JOIN PROCESSING_HISTORY AS b USING (event_id);",
        "VALUES (1) -- a comment",
    ],
)
def test_one_reading_statement_is_answered(history: History, sql: str, tenant_id: str | None) -> None:
    assert len(ask(history, sql, tenant_id)) == 1


@pytest.mark.parametrize("sql", ["DESCRIBE events", "SHOW TABLES", "EXPLAIN SELECT * FROM events", "SUMMARIZE late_events"])
def test_the_administrator_may_look_at_tables_and_plans(history: History, sql: str) -> None:
    assert ask(history, sql)


def test_the_administrator_sees_only_the_documented_tables(history: History) -> None:
    assert sorted(name for (name,) in ask(history, "SHOW TABLES")) == sorted(TABLES)


@pytest.mark.parametrize("tenant_id", [None, MINE])
@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "INSERT INTO base.events (event_id) VALUES ('x')",
        "UPDATE base.state SET next_offset = 0",
        "DELETE FROM base.events",
        "DROP TABLE base.events",
        "TRUNCATE base.events",
        "CREATE TABLE t (a INTEGER)",
        "CREATE OR REPLACE VIEW events AS SELECT 1",
        "EXPLAIN ANALYZE DELETE FROM base.events",
        "WITH gone AS (DELETE FROM base.events RETURNING *) SELECT * FROM gone",
        "PRAGMA database_list",
        "SET threads = 1",
        "RESET threads",
        "SET enable_external_access = true",
        "ATTACH ':memory:' AS other",
        "USE base",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CHECKPOINT",
        "BEGIN",
        "COPY events TO '{folder}/stolen.csv'",
        "EXPORT DATABASE '{folder}/stolen'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/stolen.csv'",
        "SELECT * FROM read_text('{folder}/log.db')",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM result",
        "SELECT * FROM cursor",
        "CALL pragma_version()",
    ],
)
def test_nothing_else_is(history: History, sql: str, tenant_id: str | None) -> None:
    rows = "SELECT count(*) FROM events"
    before = ask(history, rows)
    with pytest.raises(QueryError):
        history.query(sql.format(folder=history.path.parent), tenant_id=tenant_id)
    assert ask(history, rows) == before
    assert not list(history.path.parent.glob("stolen*"))


# --- one tenant's rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_tenant_sees_its_own_rows_of_every_table(history: History, table: str) -> None:
    counts = dict(ask(history, f"SELECT tenant_id, count(*) FROM {table} GROUP BY tenant_id"))
    assert counts.keys() == {MINE, OTHER}
    for tenant_id, count in counts.items():
        assert ask(history, f"SELECT DISTINCT tenant_id, count(*) FROM {table} GROUP BY ALL", tenant_id) == [(tenant_id, count)]
    assert ask(history, f"SELECT count(*) FROM {table}", "nobody") == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM main.events",
        "SELECT * FROM base.events",
        "SELECT * FROM history.main.events",
        "SELECT * FROM history.base.events",
        'SELECT * FROM "history"."base"."events"',
        "SELECT (SELECT max(payload) FROM base.events)",
        "SELECT * FROM events WHERE event_id IN (SELECT event_id FROM base.events)",
        "SELECT * FROM events UNION ALL SELECT * FROM base.events",
        "WITH x AS (SELECT * FROM base.events) SELECT * FROM x",
        "SELECT * FROM (PIVOT base.events ON lane IN ('NORMAL') USING count(*))",
        "SELECT * FROM state",
        "SELECT * FROM processor_run_events",
        "SELECT * FROM (WITH processor_run_events AS (SELECT 1) FROM processor_run_events), processor_run_events",
        "SELECT * FROM (WITH duckdb_views AS (SELECT 1) FROM duckdb_views), (SELECT sql FROM duckdb_views)",
        "SELECT * FROM (WITH DUCKDB_VIEWS AS (SELECT 1) FROM duckdb_views), (SELECT sql FROM duckdb_views)",
        "SELECT * FROM (WITH sqlite_master AS (SELECT 1) FROM sqlite_master), sqlite_master",
        "SELECT * FROM (WITH pg_views AS (SELECT 1) FROM pg_views), pg_views",
        "SELECT * FROM duckdb_views()",
        "SELECT * FROM duckdb_views",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM query('SELECT * FROM base.events')",
        "SELECT * FROM query_table('base.events')",
        "SELECT * FROM query_table(['base.events'])",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM base.events'))",
        "SELECT * FROM pragma_table_info('base.events')",
        "SELECT * FROM seq_scan('base.events')",
        "DESCRIBE base.events",
        "SUMMARIZE base.events",
        "SHOW ALL TABLES",
        "EXPLAIN ANALYZE SELECT * FROM base.events",
        "SELECT " + "+".join(["1"] * 900),
    ],
)
def test_a_tenant_cannot_name_what_is_not_its_own(history: History, sql: str) -> None:
    with pytest.raises(QueryError) as refused:
        history.query(sql, tenant_id=MINE)
    assert SECRET not in refused.value.message


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM events WHERE payload::INTEGER >= 0 OR error(payload)",
        "SELECT sum(payload::INTEGER) FROM events",
        "SELECT * FROM events WHERE payload::INTEGER = 5",
        "SELECT * FROM events WHERE payload::INTEGER = 5 AND event_type = 't' AND lane LIKE '%N%'",
        "SELECT * FROM events WHERE CASE WHEN payload::INTEGER > 3 THEN error(payload) END",
        "SELECT a.payload FROM events a JOIN events b ON a.payload::INTEGER = b.payload::INTEGER",
        "SELECT max(payload::INTEGER) OVER (PARTITION BY payload) FROM events ORDER BY payload::INTEGER",
        "SELECT error(payload) FROM events",
        "SELECT error(tenant_id || error) FROM processor_runs",
        "SELECT * FROM processor_runs WHERE error::INTEGER = 0",
        f"SELECT * FROM events WHERE tenant_id = '{OTHER.replace(chr(39), chr(39) * 2)}'",
        "SELECT * FROM events WHERE true OR tenant_id = tenant_id",
    ],
)
def test_no_answer_and_no_error_shows_another_tenants_values(history: History, sql: str) -> None:
    try:
        told = repr(ask(history, sql, MINE))
    except QueryError as error:
        told = error.message
    assert SECRET not in told
    assert OTHER not in told


# --- what is told when it goes wrong ------------------------------------------------------------------------------------


def test_an_error_points_at_the_place(history: History) -> None:
    with pytest.raises(QueryError, match=r"(?s)syntax error.*SELEC 1.*\^"):
        history.query("SELEC 1")
    with pytest.raises(QueryError, match='Referenced column "carier" not found'):
        history.query("SELECT carier FROM events")


def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_is_answered(history: History) -> None:
    with pytest.raises(QueryError, match=r"longer than 0\.2 s"):
        history.query("SELECT sum(a.n * b.n) FROM range(10000000) AS a(n), range(10000000) AS b(n)", timeout_s=0.2)
    assert ask(history, "SELECT 1") == [(1,)]


def test_an_answer_that_is_too_long_is_cut_and_says_so(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_streaming_bus.store.history.asking.MAX_ANSWER_ROWS", 3000)
    result = history.query("FROM range(10000)")
    assert (len(list(result.rows())), result.truncated) == (3000, True)
    result = history.query("FROM range(3000)")
    assert (len(list(result.rows())), result.truncated) == (3000, False)


def test_an_answer_of_too_many_bytes_is_cut_and_says_so(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_streaming_bus.store.history.asking.MAX_ANSWER_BYTES", 1_000_000)
    result = history.query("SELECT repeat('x', 1000) FROM range(100000)")
    assert result.truncated
    assert result.table.nbytes < 10_000_000


def test_questions_are_answered_while_history_is_loaded(history: History) -> None:
    cursor = history._db.cursor()
    cursor.begin()
    cursor.execute("INSERT INTO base.late_events (tenant_id) VALUES ('new')")
    assert ask(history, "SELECT count(*) FROM late_events WHERE tenant_id = 'new'") == [(0,)]
    assert ask(history, "SELECT count(*) FROM late_events", "new") == [(0,)]
    cursor.rollback()


def test_the_answer_can_be_written_as_json(history: History) -> None:
    rows = list(history.query("SELECT count(*), max(published_at) FROM events").rows())
    assert msgspec.json.encode(rows) == b'[[1200,"2013-01-01T10:00:00"]]'


def test_nothing_is_written_outside_of_the_data_folder(history: History) -> None:
    (folder,) = ask(history, "SELECT current_setting('temp_directory')")[0]
    assert Path(folder).parent == history.path.parent
