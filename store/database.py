"""Where tables are kept: in a SQLite file of the data folder, or in a PostgreSQL database that several nodes share.

Stores are written against what is here, in SQL that both understand. A query that one of them needs in other words has a variant
of its own beside it: see ``load_queries``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

import msgspec

from event_streaming_bus.errors import InvalidInputError

Values: TypeAlias = Sequence[Any] | Mapping[str, Any]
_SCHEMES: Final = ("postgresql", "postgres")


class Cursor(Protocol):
    """The answer of a statement: its rows as tuples, and how many rows it changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One thread's way to the tables. Values stand for ``?`` in order, or for ``:name`` by name."""

    def execute(self, sql: str, values: Any = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Any], /) -> object: ...


class Database(Protocol):
    """Some tables, for any thread and any number of processes. Errors of the engine come as ``StorageError``, which says what was
    being done."""

    def querying(self, doing: str) -> AbstractContextManager[Connection]:
        """A connection for single statements: each sees what is there at its moment."""
        ...

    def reading(self, doing: str) -> AbstractContextManager[Connection]:
        """A connection that sees all as it is at one moment."""
        ...

    def transaction(self, doing: str) -> AbstractContextManager[Connection]:
        """A write transaction: on disk when it ends, undone if anything is raised. One runs at a time, of all processes that
        write to these tables, so what it has read still holds when it writes."""
        ...

    def close(self) -> None:
        """Close it. Closing twice is harmless; whatever is asked afterwards raises ``ClosedError``."""
        ...


class PostgresPlace(msgspec.Struct, frozen=True):
    """A PostgreSQL database by its URL. Shown, it keeps the password to itself."""

    url: str

    def __repr__(self) -> str:
        return f"PostgresPlace({str(self)!r})"

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        at = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{at}{parts.path}"


Place: TypeAlias = Path | PostgresPlace
"""The SQLite file, or the database, that tables are in."""


def postgres_place(url: str) -> PostgresPlace:
    """The database that a URL names. Raises ``InvalidInputError`` for another kind of URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES or not rest:
        shown = f"{scheme}://" if separator else repr(url)
        raise InvalidInputError(f"database: expected postgresql://user@host:5432/name, got {shown}", path="database")
    return PostgresPlace(url)


def open_database(place: Place, *, tables: str, name: str, synchronous: str = "FULL") -> Database:
    """The tables of a store. In a SQLite file they are made by ``tables``, unless they are there; a PostgreSQL database must have
    them already: ``esb db upgrade`` makes them.

    ``name`` is the store's: on PostgreSQL, transactions of different stores go on at once. ``synchronous`` is for SQLite.
    """
    if isinstance(place, PostgresPlace):
        from event_streaming_bus.store.postgres import PostgresDatabase  # loads psycopg: only for those who need it

        return PostgresDatabase(place, name)
    from event_streaming_bus.store.sqlite import SqliteDatabase

    return SqliteDatabase(place, synchronous=synchronous, tables=tables)
