"""Projections in SQLite: one file for a build, written by one connection and read by others at the same time."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import QueryError
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
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import storage_errors

SUFFIX: Final = "sqlite"
SQL: Final = load_queries("projections_tables.sql")
_TYPES: Final = {
    ColumnType.TEXT: "TEXT",
    ColumnType.INTEGER: "INTEGER",
    ColumnType.NUMBER: "REAL",
    ColumnType.BOOLEAN: "INTEGER",
    ColumnType.TIMESTAMP: "INTEGER",
    ColumnType.JSON: "TEXT",
}
_READING: Final = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_WRITING: Final = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
# They reach outside of the database, or make something huge of little.
_REFUSED_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_TROUBLE: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_BUSY}
)
_MAX_VALUE_BYTES: Final = 16 << 20
_MAX_SQL_CHARS: Final = 100_000
_STEPS_BETWEEN_LOOKS: Final = 20_000
_ROWS_AT_ONCE: Final = 256
_BUSY_TIMEOUT_S: Final = 30.0


class SqliteProjection:
    """The database of a build in a file, made with its tables if it is missing."""

    def __init__(self, path: Path, tables: Sequence[TableShape]) -> None:
        self.path = path
        self._checked: set[tuple[str, bool]] = set()
        self._tables = {table.name: _Statements(table) for table in tables}
        with storage_errors(path, "opening"):
            self._db = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                # A commit that is lost with the power is made again from the events.
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute("PRAGMA cache_size=-32768")
                self._db.execute("BEGIN IMMEDIATE")
                if not self._db.execute(SQL["select_is_made"]).fetchone():
                    for statement in SQL["create_tables"].split(";")[:-1]:
                        self._db.execute(statement)
                    for table in self._tables.values():
                        table.create(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.close()
                raise

    def progress(self) -> Progress:
        with storage_errors(self.path, "reading the position"):
            return Progress(*self._db.execute(SQL["select_progress"]).fetchone())

    def skipped(self, limit: int) -> list[SkippedEvent]:
        with storage_errors(self.path, "reading skipped events"):
            return [SkippedEvent(*row) for row in self._db.execute(SQL["select_skipped"], (limit,))]

    def begin(self) -> None:
        with storage_errors(self.path, "beginning a batch"):
            self._db.execute("BEGIN IMMEDIATE")

    def commit(self, progress: Progress, skipped: Sequence[SkippedEvent] = ()) -> None:
        with storage_errors(self.path, "committing a batch"):
            self._db.execute(SQL["update_progress"], msgspec.structs.astuple(progress))
            if skipped:
                self._db.executemany(SQL["insert_skipped"], map(msgspec.structs.astuple, skipped))
                self._db.execute(SQL["delete_skipped"], (MAX_KEPT_SKIPPED,))
            self._db.execute("COMMIT")

    def rollback(self) -> None:
        if self._db.in_transaction:
            with storage_errors(self.path, "undoing a batch"):
                self._db.execute("ROLLBACK")

    def fetch(self, table: TableShape, keys: Sequence[Key]) -> Iterator[Row]:
        statements = self._tables[table.name]
        with storage_errors(self.path, f"reading {table.name}"):
            for at in range(0, len(keys), _ROWS_AT_ONCE):
                some = keys[at : at + _ROWS_AT_ONCE]
                sql, values = statements.fetch(len(some)), [value for key in some for value in key]
                yield from map(statements.row, self._db.execute(sql, values))

    def find(self, table: TableShape, columns: Mapping[str, Any]) -> list[Row]:
        statements = self._tables[table.name]
        # IS finds nulls too.
        sql = f"{statements.select} WHERE {_all(f'{quoted(name)} IS ?' for name in columns) or 'TRUE'} {statements.order} LIMIT ?"
        values = [statements.encoded(name, value) for name, value in columns.items()]
        with storage_errors(self.path, f"reading {table.name}"):
            rows = self._db.execute(sql, (*values, MAX_FOUND_ROWS + 1)).fetchall()
        if len(rows) > MAX_FOUND_ROWS:
            raise ValueError(f"more than {MAX_FOUND_ROWS:,} rows of {table.name} are meant")
        return list(map(statements.row, rows))

    def write(self, table: TableShape, rows: Sequence[Row], gone: Sequence[Key]) -> None:
        statements = self._tables[table.name]
        with storage_errors(self.path, f"writing {table.name}"):
            if gone:
                self._db.executemany(statements.delete, gone)
            if rows:
                self._db.executemany(statements.upsert, map(statements.values, rows))

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        with self._errors_of(sql):
            self._check(sql, may_write=False)
            found = self._db.execute(sql, parameters)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found]

    def execute(self, sql: str, parameters: Sequence[Any]) -> int:
        with self._errors_of(sql):
            self._check(sql, may_write=True)
            return self._db.execute(sql, parameters).rowcount

    @contextmanager
    def _errors_of(self, sql: str) -> Iterator[None]:
        """Tell what the statement is to blame for from what the disk is."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _TROUBLE:
                raise QueryError(f"{error}, in {sql[:200]}") from error
            with storage_errors(self.path, "running a statement"):
                raise

    def _check(self, sql: str, *, may_write: bool) -> None:
        """Raise ``QueryError`` unless the statement does nothing but read, or change tables that are the projection's own."""
        if (sql, may_write) in self._checked:
            return
        told = _Authorizer(_READING | _WRITING if may_write else _READING)
        self._db.set_authorizer(told)
        try:
            self._db.execute(f"EXPLAIN {sql}", {} if ":" in sql else [None] * sql.count("?")).close()
        except sqlite3.ProgrammingError as error:
            if "binding" not in str(error):  # the parameters are not what is checked here
                raise QueryError(str(error)) from error
        except sqlite3.DatabaseError as error:
            raise QueryError(told.refusal or str(error)) from error
        finally:
            self._db.set_authorizer(None)
        if len(self._checked) < 1000:
            self._checked.add((sql, may_write))

    def close(self) -> None:
        self._db.close()


class _Statements:
    """The statements of a table, and its rows as SQLite keeps them."""

    def __init__(self, table: TableShape) -> None:
        self._table = table
        names = ", ".join(map(quoted, table.names))
        key = ", ".join(map(quoted, table.key))
        name = quoted(table.name)
        changed = [column for column in table.names if column not in table.key]
        what = f"DO UPDATE SET {', '.join(f'{quoted(c)} = excluded.{quoted(c)}' for c in changed)}" if changed else "DO NOTHING"
        marks = ", ".join("?" * len(table.columns))
        self.select = f"SELECT {names} FROM {name}"  # noqa: S608 - names are quoted
        self.order = f"ORDER BY {key}"
        self.upsert = f"INSERT INTO {name} ({names}) VALUES ({marks}) ON CONFLICT ({key}) {what}"  # noqa: S608
        self.delete = f"DELETE FROM {name} WHERE {_all(f'{quoted(column)} = ?' for column in table.key)}"  # noqa: S608
        self._fetch: dict[int, str] = {}
        self._json = [c.name for c in table.columns if c.type is ColumnType.JSON]
        self._booleans = [c.name for c in table.columns if c.type is ColumnType.BOOLEAN]

    def create(self, db: sqlite3.Connection) -> None:
        table = self._table
        columns = ", ".join(
            f"{quoted(column.name)} {_TYPES[column.type]}{' NOT NULL' if column.name in table.key else ''}"
            for column in table.columns
        )
        key = ", ".join(map(quoted, table.key))
        db.execute(f"CREATE TABLE {quoted(table.name)} ({columns}, PRIMARY KEY ({key})) WITHOUT ROWID")
        for i, index in enumerate(table.indexes):
            on = f"{quoted(table.name)} ({', '.join(map(quoted, index))})"
            db.execute(f"CREATE INDEX {quoted(f'{table.name}_by_{i}')} ON {on}")

    def fetch(self, count: int) -> str:
        """The statement that selects the rows of so many keys."""
        if count not in self._fetch:
            key = self._table.key
            one = "(" + ", ".join("?" * len(key)) + ")"
            name = quoted(self._table.name)
            columns = ", ".join(f"{name}.{quoted(column)}" for column in self._table.names)
            same = " AND ".join(f"{name}.{quoted(column)} = wanted.column{i}" for i, column in enumerate(key, 1))
            # CROSS JOIN: the keys come first, and each row is looked up by the primary key.
            self._fetch[count] = (
                f"SELECT {columns} FROM (VALUES {', '.join([one] * count)}) AS wanted CROSS JOIN {name} ON {same}"  # noqa: S608
            )
        return self._fetch[count]

    def encoded(self, name: str, value: Any) -> Any:
        return _json(value) if name in self._json else value

    def values(self, row: Row) -> tuple[Any, ...]:
        if self._json:
            row = row | {name: _json(row[name]) for name in self._json}
        return tuple(row.values())

    def row(self, values: tuple[Any, ...]) -> Row:
        row = dict(zip(self._table.names, values, strict=True))
        for name in self._json:
            if row[name] is not None:
                row[name] = msgspec.json.decode(row[name])
        for name in self._booleans:
            if row[name] is not None:
                row[name] = bool(row[name])
        return row


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _all(conditions: Iterator[str]) -> str:
    return " AND ".join(conditions)


class _Authorizer:
    """Says which actions a statement may take, and afterwards what was refused."""

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = allowed
        self.refusal: str | None = None

    def __call__(self, action: int, first: str | None, second: str | None, *more: str | None) -> int:
        name = str(first or "").lower()
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _REFUSED_FUNCTIONS:
            self.refusal = f"the function {second} is not allowed"
        elif action not in self._allowed:
            self.refusal = (
                "only one SELECT statement is allowed"
                if self._allowed == _READING
                else ("only SELECT, INSERT, UPDATE and DELETE are allowed")
            )
        elif action in _WRITING and (name.startswith((OWN_PREFIX, "sqlite_"))):
            self.refusal = f"the table {first} is not the projection's to change"
        else:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


def query_sqlite(path: Path, sql: str, parameters: Sequence[Any], bounds: Bounds) -> Answer:
    """The answer to one statement that only reads, over a connection of its own that cannot do anything else.

    The rows and the progress are of one moment. Raises ``QueryError``, also after ``bounds.timeout_s``, and
    ``FileNotFoundError`` if there is no such file.
    """
    if len(sql) > _MAX_SQL_CHARS:
        raise QueryError(f"the statement has more than {_MAX_SQL_CHARS:,} characters")
    if not path.exists():
        raise FileNotFoundError(path)
    told = _Authorizer(_READING)
    with storage_errors(path, "opening"):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
    try:
        with storage_errors(path, "reading"):
            db.execute("PRAGMA query_only=1")
            db.execute("PRAGMA trusted_schema=0")
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
            db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            db.execute("BEGIN")
            if not db.execute(SQL["select_is_made"]).fetchone():
                raise FileNotFoundError(path)  # it is just being made
            progress = Progress(*db.execute(SQL["select_progress"]).fetchone())
        db.set_authorizer(told)
        timer = _Timer(bounds.timeout_s)
        db.set_progress_handler(timer, _STEPS_BETWEEN_LOOKS)
        try:
            found = db.execute(sql, parameters)
            if found.description is None:
                raise QueryError("expected a SELECT statement")
            columns = tuple(column[0] for column in found.description)
            rows, truncated = _bounded(found, bounds)
        except (sqlite3.Error, sqlite3.Warning) as error:
            if timer.is_over:
                raise QueryError(f"the query took longer than {bounds.timeout_s:g} s and was stopped") from None
            raise QueryError(told.refusal or str(error)) from error
        return Answer(columns, rows, truncated, progress)
    finally:
        db.close()


class _Timer:
    def __init__(self, timeout_s: float) -> None:
        self._until_s = time.monotonic() + timeout_s
        self.is_over = False

    def __call__(self) -> int:
        self.is_over = time.monotonic() > self._until_s
        return self.is_over


def _bounded(found: sqlite3.Cursor, bounds: Bounds) -> tuple[list[tuple[Any, ...]], bool]:
    """The rows as far as the bounds allow, and whether there were more."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    measure: Callable[[Any], int] = lambda value: len(value) if isinstance(value, str | bytes) else 8  # noqa: E731
    for row in found:
        size += sum(map(measure, row))
        if len(rows) == bounds.max_rows or size > bounds.max_bytes:
            return rows, True
        rows.append(row)
    return rows, False
