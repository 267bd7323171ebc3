"""The tables of the stores in a PostgreSQL database, which any number of nodes share.

What SQLite gives by its one writer, transactions of one store give each other here by an advisory lock, held until they end; a
node that stops answering in the middle of one loses it after ``_IDLE_MS``. Statements are put together here rather than by the
server, which could not tell the type of a value that stands for itself alone, as in ``:tenant_id IS NULL``.
"""

import logging
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import ClientCursor, errors
from psycopg.adapt import Dumper
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from event_streaming_bus.errors import ClosedError, DiskFullError, StorageError, UnavailableError
from event_streaming_bus.store.database import PostgresPlace, Values
from event_streaming_bus.store.postgres_migrations import check_version
from event_streaming_bus.store.postgres_sql import translated

MAX_CONNECTIONS: Final = 16
"""So many connections a process has to one database at the most."""
_CONNECT_S: Final = 8.0
_CONNECTION: Final[dict[str, Any]] = {
    "autocommit": True,
    "connect_timeout": int(_CONNECT_S),
    "application_name": "event-streaming-bus",
}
_LOCK_MS: Final = 30_000
_IDLE_MS: Final = 20_000  # less than others wait for the lock
_TOGETHER: Final = 500
# What the pool tells while a server is away comes as an error to whoever waits for a connection.
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
_SESSION: Final = f"SET lock_timeout = {_LOCK_MS}; SET idle_in_transaction_session_timeout = {_IDLE_MS}; SET timezone = 'UTC'"


class PostgresCursor:
    """The answer of a statement, which is here in whole."""

    def __init__(self, cursor: "ClientCursor[Any]") -> None:
        self.rowcount = cursor.rowcount
        self._rows = iter(cursor.fetchall() if cursor.description is not None else ())

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class PostgresConnection:
    """A connection that takes the SQL of the stores.

    What ``executemany`` writes has no answer to wait for: it is sent with the next statement, or with the end of the transaction.
    An error of it is raised there.
    """

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        self._unsent: list[str] = []

    def execute(self, sql: str, values: Values = (), /) -> PostgresCursor:
        with ClientCursor(self._connection) as cursor:
            if self._unsent:
                self._unsent.append(cursor.mogrify(_query(translated(sql)), values or None))
                self.flush(cursor)
            else:
                cursor.execute(_query(translated(sql)), values or None)
            return PostgresCursor(cursor)

    def executemany(self, sql: str, rows: Iterable[Values], /) -> None:
        query = _query(translated(sql))
        cursor = ClientCursor(self._connection)
        for row in rows:
            self._unsent.append(cursor.mogrify(query, row).rstrip(";"))
            if len(self._unsent) >= _TOGETHER:
                self.flush(cursor)

    def flush(self, cursor: "ClientCursor[Any] | None" = None) -> None:
        """Send what was not sent yet; the cursor has the answer of the last statement."""
        unsent, self._unsent = self._unsent, []
        if unsent:
            cursor = cursor or ClientCursor(self._connection)
            cursor.execute(";".join(unsent).encode())
            while cursor.nextset():
                pass


class PostgresDatabase:
    """``Database`` on PostgreSQL. ``name`` is that of the store: its transactions run one at a time, of all nodes."""

    def __init__(self, place: PostgresPlace, name: str) -> None:
        self.place = place
        self._lock_key = zlib.crc32(f"event-streaming-bus {name}".encode())
        self._pool = _Pools.taken(place)
        self._closed = False

    @contextmanager
    def querying(self, doing: str) -> Iterator[PostgresConnection]:
        """A connection for single statements."""
        with self._errors(doing), self._pool.connection() as connection:
            wrapped = PostgresConnection(connection)
            yield wrapped
            wrapped.flush()

    @contextmanager
    def reading(self, doing: str) -> Iterator[PostgresConnection]:
        """A connection that sees all as it is at one moment."""
        with self._errors(doing), self._pool.connection() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield PostgresConnection(connection)
            finally:
                _end(connection, "COMMIT")

    @contextmanager
    def transaction(self, doing: str) -> Iterator[PostgresConnection]:
        """A write transaction, one at a time of this store."""
        with self._errors(doing), self._pool.connection() as connection:
            connection.execute(_query(f"BEGIN; SELECT pg_advisory_xact_lock({self._lock_key})"))
            wrapped = PostgresConnection(connection)
            try:
                yield wrapped
                wrapped.flush()
            except BaseException:
                _end(connection, "ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def session_lock(self, doing: str) -> Iterator["psycopg.Connection[Any] | None"]:
        """A lock named as this store, which lasts as long as its connection: ``None`` if another process has it. The connection
        is to be asked now and then whether it still stands; the lock is gone with it."""
        with self._errors(doing), connected(self.place) as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,)).fetchone()
            yield connection if row is not None and row[0] else None

    def close(self) -> None:
        """Close it; the last one of a place closes its connections."""
        if not self._closed:
            self._closed = True
            _Pools.give_back(self.place)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        if self._closed:
            raise ClosedError
        with postgres_errors(self.place, doing):
            yield


@contextmanager
def postgres_errors(place: PostgresPlace, doing: str) -> Iterator[None]:
    """Raise PostgreSQL's errors as ``StorageError``s that say what was being done, and where."""
    try:
        yield
    except PoolClosed as error:
        raise ClosedError from error
    except PoolTimeout as error:
        raise UnavailableError(
            f"{doing}: no connection to {place} within {_CONNECT_S:g} seconds: it is not there, or has no connection to spare."
        ) from error
    except errors.DiskFull as error:
        raise DiskFullError(f"The disk of {place} is full: {doing} was undone. Free some space and try again.") from error
    except errors.LockNotAvailable as error:
        raise StorageError(f"{doing}: others have been writing to {place} for {_LOCK_MS // 1000} seconds. Try again.") from error
    except (psycopg.OperationalError, errors.IdleInTransactionSessionTimeout) as error:
        raise StorageError(f"{doing} failed, since the connection to {place} did: {_said(error)}") from error
    except psycopg.Error as error:
        raise StorageError(f"{doing} in {place} failed: {_said(error)}") from error


def connected(place: PostgresPlace) -> "psycopg.Connection[Any]":
    """A connection of its own. Raises ``StorageError`` with what is wrong: the address, the user, the password, the database."""
    with postgres_errors(place, "connecting"):
        return psycopg.connect(place.url, **_CONNECTION)


class _Pools:
    """The pools of this process, by place: the stores of one share theirs."""

    _open: Final[dict[PostgresPlace, tuple["ConnectionPool[psycopg.Connection[Any]]", int]]] = {}
    _registry: Final = threading.Lock()

    @classmethod
    def taken(cls, place: PostgresPlace) -> "ConnectionPool[psycopg.Connection[Any]]":
        """The pool of a place, with one more user; opened, after a look at what is there, with the first."""
        with cls._registry:
            pool, users = cls._open.get(place) or (_opened(place), 0)
            cls._open[place] = pool, users + 1
            return pool

    @classmethod
    def give_back(cls, place: PostgresPlace) -> None:
        """One user less; with the last, it is closed."""
        with cls._registry:
            pool, users = cls._open.pop(place)
            if users > 1:
                cls._open[place] = pool, users - 1
                return
        pool.close()


def _opened(place: PostgresPlace) -> "ConnectionPool[psycopg.Connection[Any]]":
    with connected(place) as connection:
        check_version(connection, place)
    return ConnectionPool(
        place.url,
        min_size=1,
        max_size=MAX_CONNECTIONS,
        timeout=_CONNECT_S,
        max_idle=60,
        reconnect_timeout=_CONNECT_S,
        kwargs=_CONNECTION,
        configure=_configure,
        check=ConnectionPool.check_connection,
        open=True,
    )


class _TruthDumper(Dumper):
    """Truth as SQLite has it: 0 or 1."""

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"

    quote = dump


def _configure(connection: "psycopg.Connection[Any]") -> None:
    connection.execute(_query(_SESSION))
    connection.adapters.register_dumper(bool, _TruthDumper)


def _end(connection: "psycopg.Connection[Any]", how: str) -> None:
    """End a transaction that nothing depends on any more; where the connection is gone, the server has ended it."""
    if not connection.broken and not connection.closed:
        connection.execute(_query(how))


@lru_cache(maxsize=1024)
def _query(sql: str) -> bytes:
    return sql.encode()  # what is given as bytes may be made when the program runs


def _said(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
