"""The gate for users' SQL: nothing is written, no file is read, no setting changed, and a tenant sees no rows but its own."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from fuzz_choices import Choices
from fuzz_target import Target

from event_streaming_bus import ids
from event_streaming_bus.errors import QueryError
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.history import TABLES, History
from event_streaming_bus.store.history_records import Published, Run, to_event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import open_storage

MINE, OTHER, SECRET, CANARY = "mine", "other", "the-other-tenants-secret", "what-stands-in-a-file"
_US: Final = 1_357_034_400_000_000


class Kept:
    """A history of two tenants, and a file beside it."""

    def __init__(self) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix="esb-fuzz-sql-")
        self.folder = Path(self.temporary.name)
        self.storage = storage = open_storage(self.folder / "data")
        (self.folder / "canary.csv").write_text(CANARY)
        turns = []
        for tenant, text in ((MINE, "1"), (OTHER, f'"{SECRET}"')):
            stream = storage.log.create_stream(StreamConfig(name="orders", tenant_id=tenant))
            events = [Event(each, "t", _US // 1000, text.encode(), metadata={"s": text}) for each in ids.new_ids(ids.EVENT, 20)]
            (result,) = storage.log.append([Append(stream.stream_id, events, new_ids=True)])
            ((split, first, count),) = result.written
            runs = [Run(split.stream_id, split.lane.value, split.partition, first, count)]
            turns.append(to_event(Published(tenant, runs, _US, _US)))
        storage.log.append([Append(storage.history().stream_id, turns, new_ids=True)])
        self.history = History(storage)
        self.history.catch_up()
        self.before = self.state()

    def close(self) -> None:
        self.history.close()
        self.storage.close()
        self.temporary.cleanup()

    def state(self) -> tuple[object, ...]:
        """What no question may change: rows, settings, files."""
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
        settings = "(SELECT string_agg(name || '=' || coalesce(value, ''), ';' ORDER BY name) FROM duckdb_settings())"
        rows = [*self.history.query(f"SELECT {counts}, {settings}").rows()]
        return *rows, sorted(path.name for path in self.folder.iterdir())


@cache
def kept() -> Kept:
    return Kept()


def close() -> None:
    if kept.cache_info().currsize:
        kept().close()
        kept.cache_clear()


_NAMES: Final = (
    *TABLES, "base.events", "main.events", "history.base.events", '"history"."base"."events"', "duckdb_views()",
    "duckdb_views", "state",
    "sqlite_master", "information_schema.tables", "pg_catalog.pg_class", "duckdb_settings()", "duckdb_secrets()", "t",
    "processor_run_events",
    "query('FROM base.events')", "query_table('base.events')", "read_text('{folder}/canary.csv')", "'{folder}/canary.csv'",
    "read_csv('{folder}/canary.csv')", "glob('{folder}/*')", "range(3)", "unnest([1])", "json_each('{{}}')",
    "read_blob('{folder}/canary.csv')",
    "parquet_scan('{folder}/*')", "sniff_csv('{folder}/canary.csv')", "json_execute_serialized_sql('')",
    "seq_scan('base.events')",
    "pragma_table_info('base.events')", "sql_auto_complete('SEL')", "test_all_types()", "which_secret('x','y')", "duckdb_logs()",
)  # fmt: skip
_VALUES: Final = (
    "1", "payload", "tenant_id", "*", "count(*)", "error(payload)", "payload::INTEGER", "getenv('HOME')",
    "current_setting('threads')",
    "COLUMNS(*)", "COLUMNS('.*')", "(SELECT max(payload) FROM {name})", "list(payload)", "{name}", "nextval('s')",
    "sleep_ms(1)", "'x'",
    "printf('%d', 1)", "format('{{:9}}', 1)", "hash(payload)", "metadata", "[x for x in [payload]]", "struct_pack(a := payload)",
    "list_transform([1], lambda x: payload)", "json_serialize_sql('SELECT 1')", "current_query()", "main.hash(1)",
    "system.main.abs(1)",
    "repeat('x', 10)", "row_number() OVER ()", "event_id", "stream", "events.payload", "base.events.payload", "md5(payload)",
    "write_log('x')",
)  # fmt: skip
_STATEMENTS: Final = (
    "SELECT {value} FROM {name}", "FROM {name}", "SELECT {value}, {value} FROM {name} AS t",
    "WITH t AS (FROM {name}) SELECT {value} FROM t",
    "WITH events AS (SELECT {value}) FROM events, {name}", "SELECT * FROM (WITH {name} AS (SELECT 1) FROM t), {name}",
    "DESCRIBE {name}",
    "SELECT {value} FROM {name} UNION ALL FROM {name}", "PIVOT {name} ON stream USING count(*)",
    "EXPLAIN ANALYZE FROM {name}", "SHOW {name}",
    "SUMMARIZE {name}", "INSERT INTO {name} SELECT {value}", "DELETE FROM {name}", "UPDATE {name} SET payload = {value}",
    "DROP TABLE {name}",
    "COPY {name} TO '{folder}/stolen'", "SET threads = {value}", "PRAGMA threads=1", "ATTACH '{folder}/stolen' AS t",
    "CALL {name}", "CHECKPOINT",
    "SELECT {value} FROM {name} WHERE {value} = {value}", "SELECT {value} FROM {name} JOIN {name} AS t USING (event_id)",
    "VALUES ({value})",
    "CREATE TABLE t AS FROM {name}", "CREATE MACRO t() AS {value}", "INSTALL httpfs", "LOAD httpfs",
    "EXPORT DATABASE '{folder}/stolen'",
    "SELECT {value} FROM {name} POSITIONAL JOIN {name} AS t", "SELECT * REPLACE ({value} AS payload) FROM {name}",
    "SELECT 1; {value}",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t, {name} WHERE n < 3) SELECT {value} FROM t",
    "SET VARIABLE a = {value}",
    "SELECT {value} FROM {name} AT (VERSION => 1)", "UNPIVOT {name} ON COLUMNS(*)", "PREPARE q AS FROM {name}", "EXECUTE q",
    "RESET threads",
    "SELECT {value} FROM {name} QUALIFY {value} > 0", "MERGE INTO {name} USING t ON true WHEN MATCHED THEN DELETE",
    "USE base", "BEGIN",
    "SELECT * FROM (DESCRIBE {name})", "SELECT * FROM (SHOW TABLES)", "SELECT {value} FROM {name} TABLESAMPLE 50%",
    "COMMENT ON TABLE {name} IS 'x'",
)  # fmt: skip


def written(choices: Choices) -> str:
    sql = choices.of(_STATEMENTS)
    for _ in range(12):
        if "{name}" not in sql and "{value}" not in sql:
            break
        sql = sql.replace("{name}", choices.of(_NAMES), 1).replace("{value}", choices.of(_VALUES), 1)
    return sql.replace("{folder}", str(kept().folder)) + choices.raw(20).decode("utf-8", "replace")


def run(data: bytes) -> None:
    here = kept()
    sql = written(Choices(data[1:])) if data[:1] and data[0] & 1 else data[1:].decode("utf-8", "replace")
    for tenant in (MINE, None):
        try:
            answer = here.history.query(sql, tenant_id=tenant, timeout_s=0.5)
            told = repr(answer.columns) + repr([*answer.rows()][:2000])
        except QueryError as error:
            told = str(error)
        assert CANARY not in told, "a file was read"
        assert tenant is None or SECRET not in told, "another tenant's rows were read"
    assert here.state() == here.before, "something was changed"


_WORDS: Final = ("base.events", "SELECT ", " FROM ", "(", ")", "'", '"', "$$", "--", "/*", "*/", ";", "$1", "::")
SQL: Final = Target("sql", run, 1024, tuple(word.encode() for word in _WORDS), close)
