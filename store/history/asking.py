"""Asking the history: one statement, answered batch by batch within its bounds."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from event_streaming_bus.errors import QueryError
from event_streaming_bus.store.history.answers import QueryResult
from event_streaming_bus.store.history.database import database_errors, told
from event_streaming_bus.store.history.running import RunningQueries, RunningQuery
from event_streaming_bus.store.history.sql_gate import check_names, check_statement

MAX_ANSWER_ROWS: Final = 1_000_000
MAX_ANSWER_BYTES: Final = 256 << 20
MAX_PARAMETERS: Final = 100
_BATCH_ROWS: Final = 2048
_FAILED: Final = (duckdb.Error, pa.ArrowException, OSError)  # Arrow tells errors of a stream as OSError
_SCALARS: Final = (str, int, float, bool, type(None))
_MAX_INT: Final = 1 << 127


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may be: so many rows, about so many bytes as Arrow, and so many seconds from the question to its end."""

    max_rows: int = msgspec.field(default_factory=lambda: MAX_ANSWER_ROWS)
    max_bytes: int = msgspec.field(default_factory=lambda: MAX_ANSWER_BYTES)
    timeout_s: float = 60.0


class Answering:
    """The answer to a statement, of which no more than a batch is in memory at a time. It has to be closed; as a context manager
    it closes itself. For one thread at a time."""

    def __init__(self, queries: RunningQueries, query: RunningQuery, bounds: Bounds) -> None:
        self._queries = queries
        self._query = query
        self._bounds = bounds
        self._reader: Any = None
        self._first: pa.RecordBatch | None = None
        self.schema: pa.Schema = pa.schema([])

    @property
    def query_id(self) -> str:
        return self._query.query_id

    @property
    def is_truncated(self) -> bool:
        """Whether there was more than the bounds let through; known at the end."""
        return self._query.is_truncated

    def start(self, sql: str, parameters: Mapping[str, Any], search_path: str | None) -> None:
        """Run the statement until it has its first rows. Raises ``QueryError`` with DuckDB's own message."""
        with self._fetching() as connection:
            check_names(connection, sql, is_of_tenant=search_path is not None)
            if search_path is not None:
                connection.execute(f"SET search_path = '{search_path}'")
            connection.execute("BEGIN TRANSACTION READ ONLY")
            # Not execute(), whose answer is made as a whole, in memory that nobody counts.
            relation = connection.sql(sql, params=dict(parameters)) if parameters else connection.sql(sql)
            if relation is None:
                raise QueryError("this statement has no answer")
            self._reader = relation.to_arrow_reader(_BATCH_ROWS)
            self.schema = self._reader.schema
            self._first = self._next()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows. Raises ``QueryError`` if it takes too long, needs too much memory, or is cancelled."""
        query, bounds = self._query, self._bounds
        batch = self._first
        self._first = None
        while batch is not None:
            room = bounds.max_rows - query.rows
            query.is_truncated = batch.num_rows > room
            cut = batch.slice(0, room) if query.is_truncated else batch
            query.rows += cut.num_rows
            query.size += cut.nbytes
            if cut.num_rows:
                yield cut
            if query.is_truncated:
                return
            batch = self._fetched()
            if batch is not None and query.size >= bounds.max_bytes:
                query.is_truncated = True
                return

    def result(self) -> QueryResult:
        """The whole answer."""
        batches = list(self.batches())
        return QueryResult(pa.Table.from_batches(batches, self.schema), self.is_truncated)

    def _fetched(self) -> pa.RecordBatch | None:
        with self._fetching():
            return self._next()

    def _next(self) -> pa.RecordBatch | None:
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return None
            if batch.num_rows:
                return batch

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection, for this thread alone; what goes wrong is raised as ``QueryError``, and told of the query."""
        query = self._query
        with query.in_use, database_errors():
            query.check()
            connection: Any = query.connection
            if connection is None:
                raise QueryError("the query has ended", query_id=query.query_id)
            try:
                yield connection
            except QueryError as error:
                query.error = query.error or error.message
                raise
            except _FAILED as error:
                query.error = query.error or _reason(error)
                raise QueryError(query.error, query_id=query.query_id) from error

    def close(self) -> None:
        """Let go of it, and stop it if it runs. Closing twice is harmless."""
        query = self._query
        with query.in_use:
            self._first = self._reader = None
            connection: Any = query.connection
            if connection is not None:
                with contextlib.suppress(duckdb.Error):
                    connection.execute("ROLLBACK")
            self._queries.end(query)

    def abandon(self) -> None:
        """Stop it from any thread: nobody waits for the answer any more."""
        self._query.stop("the query was given up by whoever asked")

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, Exception):
            self.abandon()
        self.close()


def ask(
    queries: RunningQueries,
    connect: Callable[[], duckdb.DuckDBPyConnection],
    views: Callable[[str], str],
    sql: str,
    *,
    tenant_id: str | None,
    parameters: Mapping[str, Any] | None,
    bounds: Bounds,
    query_id: str | None,
    begun: Callable[[Answering], object],
) -> Answering:
    """The answer to one reading statement; ``begun`` is handed it before it runs. Raises ``QueryError``."""
    values = _checked(check_statement(sql), parameters or {})
    search_path = None if tenant_id is None else views(tenant_id)
    answering = Answering(queries, queries.begin(connect, sql, tenant_id, bounds.timeout_s, query_id), bounds)
    try:
        begun(answering)
        answering.start(sql, values, search_path)
    except BaseException:
        answering.close()
        raise
    return answering


def _checked(names: list[str], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a statement's parameters. Raises ``QueryError`` for those that are missing, too many, or no plain values."""
    if len(values) > MAX_PARAMETERS:
        raise QueryError(f"parameters: {len(values)} were given; at most {MAX_PARAMETERS} are accepted")
    if missing := [name for name in names if name not in values]:
        raise QueryError(f"parameters: there is no value for ${missing[0]}")
    if more := [name for name in values if name not in names]:
        raise QueryError(f"parameters: the statement has no ${more[0]}")
    for name, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, _SCALARS) or (isinstance(each, int) and not -_MAX_INT <= each < _MAX_INT):
                raise QueryError(f"parameters.{name}: expected a text, a number, true, false, null, or a list of such")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in str(error):
        return "the query needs more memory than the history may have; let it read fewer rows or columns, or answer with fewer"
    return told(error)
