"""The history: rows for everything that happened, the same after a rebuild, and SQL that can only read."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.errors import EventNotFoundError, InUseError, QueryError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig, InvalidEventPolicy, ProcessorStatus, StreamConfig
from event_streaming_bus.store.history import TABLES, History
from event_streaming_bus.testing import read_all, temporary_bus

FLOW = {
    "streams": [{"name": "orders"}, {"name": "big"}, {"name": "sums"}],
    "processors": [
        {
            "processor_name": "big_orders",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "big",
            "processing_logic": {"filter_expression": "payload.total > 10"},
        },
        {
            "processor_name": "sum",
            "processor_type": "AGGREGATE",
            "source_stream_id": "orders",
            "target_stream_id": "sums",
            "processing_logic": {"aggregation_function": "count"},
            "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
        },
    ],
}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


@pytest.fixture
def lived(bus: Bus) -> Bus:
    """A bus with some history: events, a schema, a flow, a late event, dead letters, a consumer group with a member."""
    schema = bus.schemas.register({"schema_name": "s", "schema_version": "2.0", "json_schema": {"required": ["total"]}})
    policy = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="guarded", schema_id=schema.schema_id, on_invalid=policy))
    plan = deploy(parse_flow(FLOW, name="flow"), bus.storage)
    config = EventConfig(event_type="order", metadata={"source": "test"})
    rows = [(0, {"total": 5}), (9000, {"total": 20}), (1, {"total": 30}), (9500, {"total": None})]
    bus.publishing.submit(config, [p for _, p in rows], stream_id="orders", timestamps_ms=[t for t, _ in rows]).result()
    bus.publishing.submit(config, [{"total": 1}, {"x": 1}], stream_id="guarded").result()
    record_run(bus.storage, plan, "run_1", ProcessorStatus.RUNNING, 1)
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
    record_run(bus.storage, plan, "run_1", ProcessorStatus.COMPLETED, 1)
    groups = GroupCoordinator(bus.storage)
    groups.join(groups.create("default", GroupConfig(group_name="readers")).group_id, ["orders"])
    return bus


@pytest.fixture
def history(lived: Bus) -> Iterator[History]:
    opened = History(lived.storage)
    opened.catch_up()
    yield opened
    opened.close()


def ask(history: History, sql: str, **more: Any) -> list[tuple[Any, ...]]:
    return list(history.query(sql, **more).rows())


def test_every_published_event_is_a_row(lived: Bus, history: History) -> None:
    for stream in ("orders", "big", "sums", "guarded", "_dead_letters"):
        rows = ask(history, f"SELECT event_id, \"offset\", payload FROM events WHERE stream = '{stream}' ORDER BY 2")
        events = read_all(lived, stream)
        assert [(row[0], row[2]) for row in rows] == [(e.event_id, e.data.decode()) for e in events]
    assert ask(history, "SELECT DISTINCT metadata->>'source' FROM events WHERE stream = 'orders'") == [("test",)]
    assert ask(history, "SELECT (payload->>'total')::INT FROM events WHERE stream = 'big' ORDER BY 1") == [(20,), (30,)]


def test_every_step_is_a_row(history: History) -> None:
    steps = ask(history, "SELECT processor_name, processing_stage, status, count(*) FROM processing_history GROUP BY ALL")
    assert sorted(steps) == [
        ("big_orders", "PROCESSING", "COMPLETED", 2),
        ("big_orders", "PROCESSING", "FAILED", 1),
        ("big_orders", "PROCESSING", "FILTERED", 1),
        ("publisher", "PUBLISH", "COMPLETED", 4 + 1 + 2 + 2 + 1),
        ("sum", "PROCESSING", "COMPLETED", 4),
        ("validation", "VALIDATION", "COMPLETED", 1),
        ("validation", "VALIDATION", "FAILED", 1),
    ]
    assert ask(history, "SELECT error_type FROM processing_history WHERE error_message LIKE '%payload.total is null%'") == [
        ("TypeError",)
    ]


def test_late_events_dead_letters_and_runs_have_tables(history: History) -> None:
    (late,) = ask(history, 'SELECT stream, "offset", epoch_ms(window_start), epoch_ms(window_end) FROM late_events')
    assert late == ("orders", 2, 0, 1000)
    dead = ask(history, 'SELECT step, error_type, "offset", payload_raw FROM dead_letters ORDER BY step')
    assert [row[:2] for row in dead] == [("big_orders", "TypeError"), ("validation", "ValidationFailedError")]
    assert (dead[0][2], dead[0][3]) == (3, b'{"total":null}')
    runs = ask(
        history, "SELECT processor_name, status, events_in, events_late, ended_at >= started_at FROM processor_runs ORDER BY 1"
    )
    assert runs == [("big_orders", "COMPLETED", 4, 0, True), ("sum", "COMPLETED", 4, 1, True)]


def test_a_rebuild_gives_the_same_rows(lived: Bus, history: History) -> None:
    before = {table: sorted(map(repr, ask(history, f"FROM {table}"))) for table in TABLES}
    assert history.rebuild() > 0
    assert {table: sorted(map(repr, ask(history, f"FROM {table}"))) for table in TABLES} == before
    history.close()
    history.path.unlink()
    anew = History(lived.storage)
    anew.catch_up()
    assert {table: sorted(map(repr, ask(anew, f"FROM {table}"))) for table in TABLES} == before
    assert anew.backlog() == 0
    anew.close()


def test_nothing_is_loaded_twice(lived: Bus, history: History) -> None:
    count = ask(history, "SELECT count(*) FROM processing_history")
    assert history.catch_up() == 0
    history.close()
    again = History(lived.storage)
    assert again.catch_up() == 0
    assert ask(again, "SELECT count(*) FROM processing_history") == count
    again.close()


def test_events_that_retention_has_dropped_make_no_rows_and_no_trouble(bus: Bus) -> None:
    bus.log.create_stream(StreamConfig(name="short", retention_bytes=1))
    bus.publishing.submit(EventConfig(event_type="t"), [{"n": 1}], stream_id="short").result()
    assert bus.log.enforce_retention() == 1
    bus.publishing.submit(EventConfig(event_type="t"), [{"n": 2}], stream_id="short").result()
    history = History(bus.storage)
    history.catch_up()
    assert ask(history, "SELECT payload FROM events") == [('{"n":2}',)]
    history.close()


def test_the_history_of_one_event_is_told_in_order(lived: Bus, history: History) -> None:
    source = read_all(lived, "orders")[1]
    told = history.processing_history("default", source.event_id)
    assert [(s["processing_stage"], s["status"]) for s in told["processing_history"]] == [
        ("PUBLISH", "COMPLETED"),
        ("PROCESSING", "COMPLETED"),
        ("PROCESSING", "COMPLETED"),
    ]
    assert told["processing_history"][0]["input_data"] == {"event_type": "order", "payload": {"total": 20}}
    assert (told["stages_completed"], told["overall_status"]) == (3, "COMPLETED")
    failed = history.processing_history("default", read_all(lived, "orders")[3].event_id)
    assert failed["overall_status"] == "FAILED"
    validated = history.processing_history("default", read_all(lived, "guarded")[0].event_id)
    (step,) = [s for s in validated["processing_history"] if s["processing_stage"] == "VALIDATION"]
    assert step["output_data"] == {"validation_result": "passed", "schema_version": "2.0"}
    with pytest.raises(EventNotFoundError):
        history.processing_history("default", "evt_none")
    with pytest.raises(EventNotFoundError):
        history.processing_history("other", source.event_id)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE events",
        "INSERT INTO events (event_id) VALUES ('x')",
        "SELECT 1; SELECT 2",
        "COPY events TO '/tmp/x.csv'",
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM read_text('/etc/hostname')",
        "ATTACH '/tmp/x.db'",
        "SET memory_limit = '9GB'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA version",
        "CREATE TABLE t AS SELECT 1",
        "CALL pragma_version()",
        "SELEC 1",
        "SELECT * FROM nothing",
        "",
    ],
)
@pytest.mark.parametrize("tenant_id", [None, "default"])
def test_sql_can_only_read_the_history(history: History, sql: str, tenant_id: str | None) -> None:
    with pytest.raises(QueryError):
        history.query(sql, tenant_id=tenant_id)
    assert ask(history, "SELECT count(*) > 0 FROM events") == [(True,)]


@pytest.mark.parametrize(
    "sql",
    [
        "FROM main.events",
        "FROM history.main.events",
        "SELECT (SELECT count(*) FROM main.events)",
        "WITH a AS (FROM main.events) FROM a",
        "FROM duckdb_tables()",
        "FROM query('FROM main.events')",
        "FROM query_table('main.events')",
        "FROM information_schema.tables",
        "FROM processor_run_events",
        "FROM history_position",
        "DESCRIBE events",
        "SELECT * FROM events UNION ALL FROM main.events",
    ],
)
def test_a_tenant_reaches_nothing_but_its_own_rows(history: History, sql: str) -> None:
    with pytest.raises(QueryError):
        history.query(sql, tenant_id="other")


def test_a_tenant_sees_its_own_rows_only(lived: Bus, history: History) -> None:
    lived.log.create_stream(StreamConfig(name="theirs", tenant_id="o'ther"))
    lived.publishing.submit(EventConfig(event_type="t"), [{"n": 1}], stream_id="theirs", tenant_id="o'ther").result()
    history.catch_up()
    for table in TABLES:
        tenants = ask(history, f"SELECT DISTINCT tenant_id FROM {table}", tenant_id="default")
        assert tenants == [("default",)]
    assert ask(history, "SELECT stream FROM events", tenant_id="o'ther") == [("theirs",)]
    assert ask(history, "WITH mine AS (FROM events) SELECT count(*) FROM mine, range(3)", tenant_id="o'ther") == [(3,)]


def test_a_query_that_takes_too_long_is_stopped(history: History) -> None:
    with pytest.raises(QueryError, match=r"longer than 0\.2 s"):
        history.query("SELECT count(*) FROM range(1000000000) a, range(1000000000) b", timeout_s=0.2)


def test_a_second_process_is_told_who_has_the_history(lived: Bus, history: History) -> None:
    code = f"import duckdb; duckdb.connect({str(history.path)!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    history.close()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; c = duckdb.connect({str(history.path)!r}); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(InUseError, match=rf"pid {holder.pid}"):
        History(lived.storage)
    holder.communicate("\n")


def test_a_follower_loads_what_comes(bus: Bus) -> None:
    bus.create_stream("s")
    history = History(bus.storage)
    history.start()
    bus.publishing.submit(EventConfig(event_type="t"), [{"n": 1}], stream_id="s").result()
    history.stop()
    assert ask(history, "SELECT count(*) FROM events") == [(1,)]
    history.close()
