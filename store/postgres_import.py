"""Taking the tables of a data folder over into a PostgreSQL database: all of them, in one transaction, row for row.

Tables have the same names and columns in both, so nothing is known here of what they mean. The log is not among them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.errors import AlreadyExistsError, NotFoundError, StorageError
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.postgres import connected, postgres_errors
from event_streaming_bus.store.postgres_migrations import check_version
from event_streaming_bus.store.sqlite import storage_errors

if TYPE_CHECKING:
    import psycopg

FILES: Final = ("log.db", "tokens.db", "audit.db", "keys.db")
_ROWS: Final = 2_000
_BEGUN: Final = frozenset({"key_facts", "api_token_changes"})
"""Tables that have rows from the beginning; these give way."""
_NOT_TAKEN: Final = frozenset({"esb_migrations"})


class ImportedTable(msgspec.Struct, frozen=True):
    """A table that was taken over, the file that it was in, and its rows."""

    file: str
    table: str
    rows: int


def import_folder(folder: Path, place: PostgresPlace, *, is_dry: bool = False) -> list[ImportedTable]:
    """Copy what the stores of ``folder`` have into the database, whose tables must be empty; nothing is changed in the folder,
    and in the database nothing unless everything was copied. ``is_dry``: only say what would be.

    Nobody may write to the folder meanwhile: each of its files is read as of one moment, but not all as of the same. Raises
    ``NotFoundError`` for a folder that has none of the files, ``AlreadyExistsError`` for a database that is in use.
    """
    files = [folder / name for name in FILES if (folder / name).exists()]
    if not files:
        raise NotFoundError(f"{folder} is no data folder: it has none of {', '.join(FILES)}.")
    done: list[ImportedTable] = []
    with connected(place) as connection, postgres_errors(place, "importing"):
        check_version(connection, place)
        shared = _columns(connection)
        with connection.transaction(force_rollback=is_dry):
            _check_empty(connection, shared, place)
            for file in files:
                with _opened(file) as db:
                    tables = [table for table in _tables(db) if table in shared]
                    done += [ImportedTable(file.name, each, _copy(db, connection, each, shared[each])) for each in tables]
            _set_identities(connection)
    return done


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with storage_errors(file, "reading"), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        db.execute("BEGIN")
        yield db


def _tables(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]


def _columns(connection: "psycopg.Connection[Any]") -> dict[str, list[str]]:
    """The tables of the bus in the database, with their columns."""
    found: dict[str, list[str]] = {}
    rows = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() "
        "ORDER BY table_name, ordinal_position"
    )
    for table, column in rows.fetchall():
        if table not in _NOT_TAKEN:
            found.setdefault(table, []).append(column)
    return found


def _check_empty(connection: "psycopg.Connection[Any]", tables: dict[str, list[str]], place: PostgresPlace) -> None:
    for table in tables:
        if table in _BEGUN:
            connection.execute(f"DELETE FROM {table}".encode())  # noqa: S608 - our own names
        elif connection.execute(f"SELECT 1 FROM {table} LIMIT 1".encode()).fetchone() is not None:  # noqa: S608 - our own names
            raise AlreadyExistsError(f"{place} is in use: its table {table} has rows. Import into a new database.", table=table)


def _copy(db: sqlite3.Connection, connection: "psycopg.Connection[Any]", table: str, wanted: list[str]) -> int:
    there = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    columns = [column for column in wanted if column in there]
    if missing := [column for column in there if column not in wanted]:
        lost = ", ".join(missing)
        raise StorageError(f"The table {table} has the columns {lost}, which the database has not. Upgrade the bus.")
    names = ", ".join(columns)
    rows, cursor = 0, db.execute(f"SELECT {names} FROM {table}")  # noqa: S608 - names are those of our own tables
    with connection.cursor() as into, into.copy(f"COPY {table} ({names}) FROM STDIN".encode()) as copy:
        while some := cursor.fetchmany(_ROWS):
            for row in some:
                copy.write_row(row)
            rows += len(some)
    return rows


def _set_identities(connection: "psycopg.Connection[Any]") -> None:
    """Let numbers that the database gives go on behind those that were taken over."""
    rows = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND is_identity = 'YES'"
    )
    for table, column in rows.fetchall():
        highest = f"(SELECT coalesce(max({column}), 0) + 1 FROM {table})"  # noqa: S608 - names are those of our own tables
        connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {highest}, false)".encode())
