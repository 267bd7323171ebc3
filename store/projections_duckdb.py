"""Projections in DuckDB: one file for a build, which belongs to the process that writes it.

Others read it only while nobody has it open. Users' SQL is let through by what it names: the projection's own tables.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from event_streaming_bus.errors import BusError, InUseError, LostDatabaseError, QueryError, StorageError
from event_streaming_bus.store.history.database import drop_unmade, is_unmade, told
from event_streaming_bus.store.history.sql_gate import check_statement, nodes_of, tree_of
from event_streaming_bus.store.projections_base import (
    MAX_FOUND_ROWS,
    MAX_KEPT_SKIPPED,
    OWN_PREFIX,
    Answer,
    Bounds,
    ColumnType,
    Key,
    Progress,
    Row,
    SkippedEvent,
    TableShape,
    quoted,
)
from event_streaming_bus.store.projections_sqlite import SQL

SUFFIX: Final = "duckdb"
_TYPES: Final = {
    ColumnType.TEXT: "VARCHAR",
    ColumnType.INTEGER: "BIGINT",
    ColumnType.NUMBER: "DOUBLE",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.TIMESTAMP: "TIMESTAMP_MS",
    ColumnType.JSON: "JSON",
}
_ARROW: Final = {
    ColumnType.TEXT: pa.string(),
    ColumnType.INTEGER: pa.int64(),
    ColumnType.NUMBER: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.TIMESTAMP: pa.timestamp("ms"),
    ColumnType.JSON: pa.string(),
}
_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "256MB",
    "max_temp_directory_size": "2GB",
    "threads": "2",
}
_READING: Final = frozenset({duckdb.StatementType.SELECT})
_CHANGING: Final = _READING | {duckdb.StatementType.INSERT, duckdb.StatementType.UPDATE, duckdb.StatementType.DELETE}
_TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree", "repeat"})
_OWN_TABLE: Final = re.compile(re.escape(OWN_PREFIX), re.IGNORECASE)
_BATCH_ROWS: Final = 1024


class DuckdbProjection:
    """The database of a build in a file, made with its tables if it is missing.

    Raises ``InUseError`` if another process has the file open. ``query`` may be called from any thread, the rest from one.
    """

    def __init__(self, path: Path, tables: Sequence[TableShape]) -> None:
        self.path = path
        self._tables = {table.name: _Statements(table) for table in tables}
        self._in_transaction = False
        # DuckDB refuses two calls of one connection at once: even making a cursor is one.
        self._lock = threading.Lock()
        drop_unmade(path)
        self._instance = _connect(path)
        try:
            with _errors(path, "opening"):
                self._db = self._instance.cursor()
                if not self._db.execute(SQL["duckdb_select_is_made"]).fetchone():
                    self._db.begin()
                    self._db.execute(SQL["duckdb_create_tables"])
                    for table in self._tables.values():
                        self._db.execute(table.create)
                    self._db.commit()
        except BaseException:
            self._instance.close()
            raise

    def progress(self) -> Progress:
        with _errors(self.path, "reading the position"), self._cursor() as cursor:
            return _progress(cursor)

    def skipped(self, limit: int) -> list[SkippedEvent]:
        with _errors(self.path, "reading skipped events"), self._cursor() as cursor:
            return [SkippedEvent(*row) for row in cursor.execute(SQL["select_skipped"], [limit]).fetchall()]

    def begin(self) -> None:
        with _errors(self.path, "beginning a batch"):
            self._db.begin()
            self._in_transaction = True

    def commit(self, progress: Progress, skipped: Sequence[SkippedEvent] = ()) -> None:
        with _errors(self.path, "committing a batch"):
            self._db.execute(SQL["update_progress"], list(msgspec.structs.astuple(progress)))
            if skipped:
                self._db.executemany(SQL["insert_skipped"], [list(msgspec.structs.astuple(each)) for each in skipped])
                self._db.execute(SQL["delete_skipped"], [MAX_KEPT_SKIPPED])
            self._db.commit()
            self._in_transaction = False

    def rollback(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            with suppress(duckdb.Error):  # a transaction that failed may be over already
                self._db.rollback()

    def fetch(self, table: TableShape, keys: Sequence[Key]) -> Iterator[Row]:
        statements = self._tables[table.name]
        with _errors(self.path, f"reading {table.name}"):
            if len(keys) == 1:
                found = self._db.execute(statements.fetch_one, list(keys[0])).fetchall()
            else:
                self._db.register("incoming", statements.keys(keys))
                found = self._db.execute(statements.fetch).fetchall()
                self._db.unregister("incoming")
        return map(statements.row, found)

    def find(self, table: TableShape, columns: Mapping[str, Any]) -> list[Row]:
        statements = self._tables[table.name]
        conditions, values = [], []
        for name, value in columns.items():
            column = table.column(name)
            is_time = column is not None and column.type is ColumnType.TIMESTAMP
            left = f"epoch_ms({quoted(name)})" if is_time else quoted(name)
            conditions.append(f"{left} IS NOT DISTINCT FROM ?")
            values.append(_json(value) if column is not None and column.type is ColumnType.JSON else value)
        sql = f"{statements.select} WHERE {' AND '.join(conditions) or 'TRUE'} {statements.order} LIMIT {MAX_FOUND_ROWS + 1}"
        with _errors(self.path, f"reading {table.name}"):
            rows = self._db.execute(sql, values).fetchall()
        if len(rows) > MAX_FOUND_ROWS:
            raise ValueError(f"more than {MAX_FOUND_ROWS:,} rows of {table.name} are meant")
        return list(map(statements.row, rows))

    def write(self, table: TableShape, rows: Sequence[Row], gone: Sequence[Key]) -> None:
        statements = self._tables[table.name]
        with _errors(self.path, f"writing {table.name}"):
            for values, sql in ((statements.keys(gone), statements.delete), (statements.arrow(rows), statements.upsert)):
                if values.num_rows:
                    self._db.register("incoming", values)
                    self._db.execute(sql)
                    self._db.unregister("incoming")

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        found = self._run(sql, parameters, _READING)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        row = self._run(sql, parameters, _CHANGING).fetchone()
        return row[0] if row and isinstance(row[0], int) else -1

    def _run(self, sql: str, parameters: Sequence[Any], allowed: frozenset[Any]) -> duckdb.DuckDBPyConnection:
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in allowed or _OWN_TABLE.search(sql):
                raise QueryError(
                    f"one statement that {'reads' if allowed == _READING else 'changes'} own tables is allowed: {sql}"
                )
            return self._db.execute(sql, list(parameters))
        except (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException) as error:
            raise StorageError(f"running a statement in {self.path} failed: {told(error)}") from error
        except duckdb.Error as error:
            raise QueryError(f"{told(error)}, in {sql[:200]}") from error

    def query(self, sql: str, parameters: Sequence[Any], bounds: Bounds) -> Answer:
        """The answer to one statement that only reads the projection's tables, of one moment with its progress."""
        check_statement(sql)
        with _errors(self.path, "reading"), self._cursor() as cursor:
            return _query(cursor, sql, parameters, bounds)

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one reader. The file stays open until the last of them is closed."""
        with self._lock:
            cursor = self._instance.cursor()
        with cursor:
            yield cursor

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._instance.close()


class _Statements:
    """The statements of a table, and its rows as DuckDB keeps them."""

    def __init__(self, table: TableShape) -> None:
        self._table = table
        name = quoted(table.name)
        key = ", ".join(map(quoted, table.key))
        shown = [f"epoch_ms({quoted(c.name)})" if c.type is ColumnType.TIMESTAMP else quoted(c.name) for c in table.columns]
        changed = [column for column in table.names if column not in table.key]
        what = f"DO UPDATE SET {', '.join(f'{quoted(c)} = excluded.{quoted(c)}' for c in changed)}" if changed else "DO NOTHING"
        columns = ", ".join(f"{quoted(column.name)} {_TYPES[column.type]}" for column in table.columns)
        same = " AND ".join(f"{name}.{quoted(column)} = incoming.{quoted(column)}" for column in table.key)
        self.create = f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))"
        self.select = f"SELECT {', '.join(shown)} FROM {name}"  # noqa: S608 - names are quoted
        self.order = f"ORDER BY {key}"
        self.fetch = f"{self.select} SEMI JOIN incoming ON {same}"
        times = {c.name for c in table.columns if c.type is ColumnType.TIMESTAMP}
        one = [f"epoch_ms({quoted(c)}) = ?" if c in times else f"{quoted(c)} = ?" for c in table.key]
        self.fetch_one = f"{self.select} WHERE {' AND '.join(one)}"
        self.delete = f"DELETE FROM {name} USING incoming WHERE {same}"  # noqa: S608
        self.upsert = f"INSERT INTO {name} BY NAME FROM incoming ON CONFLICT ({key}) {what}"
        self._json = [c.name for c in table.columns if c.type is ColumnType.JSON]
        self._schema = pa.schema([(column.name, _ARROW[column.type]) for column in table.columns])
        self._key_schema = pa.schema([self._schema.field(column) for column in table.key])

    def arrow(self, rows: Sequence[Row]) -> pa.Table:
        if self._json:
            rows = [row | {name: _json(row[name]) for name in self._json} for row in rows]
        return pa.Table.from_pylist(list(rows), self._schema)

    def keys(self, keys: Sequence[Key]) -> pa.Table:
        columns = zip(*keys, strict=True) if keys else [()] * len(self._key_schema)
        return pa.table([list(each) for each in columns], schema=self._key_schema)

    def row(self, values: tuple[Any, ...]) -> Row:
        row = dict(zip(self._table.names, values, strict=True))
        for name in self._json:
            if row[name] is not None:
                row[name] = msgspec.json.decode(row[name])
        return row


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _connect(path: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    try:
        db = duckdb.connect(path, read_only=read_only, config=_SETTINGS | {"temp_directory": str(path.with_suffix(".tmp"))})
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
    except duckdb.IOException as error:
        if "lock" not in str(error).lower():
            raise StorageError(f"{path} cannot be opened: {told(error)}") from error
        owner = re.search(r"PID (\d+)", str(error))
        pid = int(owner[1]) if owner else None
        raise InUseError(f"{path.name} is open in another process; ask that one, as over REST, or stop it.", pid=pid) from error
    except duckdb.Error as error:
        if "different configuration" in str(error) or "locked" in str(error):
            raise InUseError(f"{path.name} is open in this process already; use what has it open.") from error
        raise StorageError(f"{path} cannot be opened: {told(error)}") from error
    return db


@contextmanager
def _errors(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except BusError:
        raise
    except (duckdb.FatalException, duckdb.InternalException) as error:
        raise LostDatabaseError(f"{doing} in {path} failed, and it is opened again: {told(error)}") from error
    except (duckdb.Error, pa.ArrowException) as error:
        raise StorageError(f"{doing} in {path} failed: {told(error)}") from error


def _progress(db: duckdb.DuckDBPyConnection) -> Progress:
    return Progress(*(db.execute(SQL["select_progress"]).fetchone() or ()))


def query_duckdb(path: Path, sql: str, parameters: Sequence[Any], bounds: Bounds) -> Answer:
    """As ``DuckdbProjection.query``, of a file that nobody has open. Raises ``InUseError`` if somebody has, and
    ``FileNotFoundError`` if there is none."""
    if not path.exists() or is_unmade(path):
        raise FileNotFoundError(path)
    check_statement(sql)
    with _errors(path, "reading"), _connect(path, read_only=True) as db:
        if not db.execute(SQL["duckdb_select_is_made"]).fetchone():
            raise FileNotFoundError(path)  # whoever was making it has been killed
        return _query(db, sql, parameters, bounds)


def _query(db: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any], bounds: Bounds) -> Answer:
    """The answer to a statement that reads, over a connection that nobody else uses."""
    _check_names(db, sql)
    timer = threading.Timer(bounds.timeout_s, db.interrupt)
    timer.start()
    try:
        db.execute("BEGIN TRANSACTION READ ONLY")
        progress = _progress(db)
        db.execute(sql, list(parameters))
        columns = tuple(column[0] for column in db.description or ())
        rows: list[tuple[Any, ...]] = []
        size = 0
        while len(rows) <= bounds.max_rows and size <= bounds.max_bytes and (some := db.fetchmany(_BATCH_ROWS)):
            rows += some
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for row in some for value in row)
        truncated = len(rows) > bounds.max_rows or size > bounds.max_bytes
        return Answer(columns, rows[: bounds.max_rows], truncated, progress)
    except duckdb.InterruptException:
        raise QueryError(f"the query took longer than {bounds.timeout_s:g} s and was stopped") from None
    except duckdb.Error as error:
        raise QueryError(told(error)) from error
    finally:
        timer.cancel()
        with suppress(duckdb.Error):
            db.execute("ROLLBACK")


def _check_names(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise ``QueryError`` unless the statement names nothing but the tables of the file, its own WITH tables, and a few
    harmless table functions: what else DuckDB offers tells of the machine."""
    tree = tree_of(cursor, sql)
    tables = {name.lower() for (name,) in cursor.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    views = {name.lower() for (name,) in cursor.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    own = {entry["key"].lower() for node in nodes_of(tree) for entry in (node.get("cte_map") or {}).get("map", [])}
    if taken := own & (tables | views):
        # Outside of its WITH such a name would mean the table of DuckDB's.
        raise QueryError(f"WITH {min(taken)}: this name is taken; choose another")
    for node in nodes_of(tree):
        match node.get("type"):
            case "BASE_TABLE":
                name = str(node.get("table_name", ""))
                if node.get("schema_name") or node.get("catalog_name") or name.lower() not in tables | own:
                    shown = ", ".join(sorted(each for each in tables if not each.startswith(OWN_PREFIX)))
                    raise QueryError(f"there is no table {name}; there is {shown}")
            case "TABLE_FUNCTION":
                name = str(node.get("function", {}).get("function_name", "")).lower()
                if name not in _TABLE_FUNCTIONS:
                    raise QueryError(f"the table function {name} is not allowed; {', '.join(sorted(_TABLE_FUNCTIONS))} are")
            case "SHOW_REF":
                raise QueryError("DESCRIBE, SHOW and SUMMARIZE are not allowed here")
