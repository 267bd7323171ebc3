"""The history database: follows the stream ``_history`` into DuckDB, and answers questions.

DuckDB belongs to one process at a time. The position in the stream is kept in DuckDB and moves in the transaction that adds
the rows, so nothing is loaded twice or left out, and the file can be deleted and built again from the log.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from event_streaming_bus.errors import EventNotFoundError, QueryError
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.history.answers import QueryResult, Row, event_told, history_told
from event_streaming_bus.store.history.database import SQL, database_errors, open_database, told
from event_streaming_bus.store.history.rows import MAX_ROWS, Expander
from event_streaming_bus.store.history.sql_gate import TABLES, check_statement, check_tenant_tables, tenant_schema
from event_streaming_bus.store.storage import Storage

Progress = Callable[[int, int], None]

FILE: Final = "history.duckdb"
MAX_ANSWER_ROWS: Final = 1_000_000
MAX_ANSWER_BYTES: Final = 256 << 20
_ANSWER_BATCH_ROWS: Final = 2048
_READ_BYTES: Final = 1 << 18
_WAIT_S: Final = 0.5
_GATHER_S: Final = 0.1
_FIRST_RETRY_S: Final = 0.5
_MAX_RETRY_S: Final = 30.0
_log: Final = logging.getLogger(__name__)


class History:
    """The history of a data folder. Raises ``InUseError`` if another process has it open. Safe to use from any thread."""

    def __init__(self, storage: Storage, path: Path | None = None) -> None:
        self._storage = storage
        self.path = path or storage.folder / FILE
        self._split = Split(storage.history().stream_id, EventPriority.NORMAL, 0)
        self._loading = threading.RLock()
        self._making_views = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._tenants: set[str] = set()
        self._db = open_database(self.path, self._split.stream_id)

    # --- loading ------------------------------------------------------------------------------------------------------

    def catch_up(self, progress: Progress | None = None) -> int:
        """Load all that the stream holds now; returns how many rows that made. ``progress(records done, records there)``."""
        rows = 0
        with self._loading, database_errors(), self._cursor() as cursor:
            end = self._end()
            position = self._position(cursor)
            if position > end:
                _log.warning("the log ends before what the history has loaded of it; the history is built again")
                self._delete_rows(cursor)
                position = self._position(cursor)
            start, records = position, self._records(position, end)
            while position < end:
                loaded = self._load(cursor, records)
                if loaded is None:
                    break
                position, made = loaded
                rows += made
                if progress is not None:
                    progress(position - start, end - start)
        return rows

    def _records(self, position: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The records from ``position`` on, at least to ``end``, with their offsets."""
        while position < end:
            for batch in self._storage.log.read(self._split, position, _READ_BYTES):
                yield from enumerate(batch.payloads(), position)
                position = batch.end_offset

    def _load(self, cursor: duckdb.DuckDBPyConnection, records: Iterator[tuple[int, bytes]]) -> tuple[int, int] | None:
        """Load some records in one transaction; ``(the new position, rows made)``, ``None`` if there are no more."""

        def write(name: str, table: pa.Table) -> None:
            cursor.register("incoming", table)
            default = f"INSERT INTO base.{name} BY NAME FROM incoming"
            cursor.execute(SQL.get(f"insert_{name}", default))
            cursor.unregister("incoming")

        expander = Expander(self._storage.log, write)
        position = None
        cursor.begin()
        try:
            for offset, data in records:
                expander.add(offset, data)
                position = offset + 1
                if expander.rows >= MAX_ROWS:
                    break
            expander.flush()
            if position is not None:
                cursor.execute(SQL["update_position"], [position, expander.skipped_events, expander.skipped_records])
            cursor.commit()
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
            raise
        return None if position is None else (position, expander.rows)

    def _end(self) -> int:
        return self._storage.log.end_offsets(self._split.stream_id)[self._split]

    def _position(self, cursor: duckdb.DuckDBPyConnection) -> int:
        row = cursor.execute(SQL["select_position"]).fetchone()
        kept = self._storage.log.begin_offsets(self._split.stream_id)[self._split]
        return max(kept, row[0] if row else 0)

    def backlog(self) -> int:
        """How many records of the stream are not loaded yet."""
        with database_errors(), self._cursor() as cursor:
            return max(0, self._end() - self._position(cursor))

    def skipped(self) -> tuple[int, int]:
        """``(events that the log no longer held when their rows were to be made, records that could not be read)``."""
        with database_errors(), self._cursor() as cursor:
            row = cursor.execute(SQL["select_skipped"]).fetchone()
        return row or (0, 0)

    def rebuild(self, progress: Progress | None = None) -> int:
        """Forget every row and load all again; returns how many rows that made. Interrupted, it goes on with the next load."""
        with self._loading:
            with database_errors(), self._cursor() as cursor:
                self._delete_rows(cursor)
            return self.catch_up(progress)

    def _delete_rows(self, cursor: duckdb.DuckDBPyConnection) -> None:
        cursor.execute(f"BEGIN; {SQL['delete_rows']} COMMIT;")

    def start(self) -> None:
        """Follow the stream in a thread until ``stop``. Trouble is logged, and tried again after 0.5 s, 1 s, ... up to 30 s."""
        if self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._follow, name="esb-history", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._closing.is_set():
            try:
                self.catch_up()
                retry_s = _FIRST_RETRY_S
                with self._cursor() as cursor:
                    position = self._position(cursor)
                if self._storage.log.wait({self._split: position}, _WAIT_S):
                    self._closing.wait(_GATHER_S)  # a transaction for every single publish would be a flush for every one
            except Exception:  # whatever it is, history must go on when it has passed
                if self._closing.is_set():
                    return
                _log.exception("loading history failed; trying again in %.1f s", retry_s)
                self._closing.wait(retry_s)
                retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def stop(self) -> None:
        """End the thread of ``start``, after a last look at the stream."""
        if self._end_thread():
            self.catch_up()

    def _end_thread(self) -> bool:
        thread, self._thread = self._thread, None
        self._closing.set()
        if thread is not None:
            thread.join()
        return thread is not None

    # --- questions ----------------------------------------------------------------------------------------------------

    def query(self, sql: str, *, tenant_id: str | None = None, timeout_s: float = 60.0) -> QueryResult:
        """The answer to one reading statement over ``TABLES``, of all tenants or of one, as far as it was loaded.

        At most ``MAX_ANSWER_ROWS`` rows and about ``MAX_ANSWER_BYTES``. Raises ``QueryError`` with DuckDB's own message, and
        if it takes longer than ``timeout_s``.
        """
        check_statement(sql)
        with database_errors(), self._cursor() as cursor:
            timer = threading.Timer(timeout_s, cursor.interrupt)
            try:
                if tenant_id is not None:
                    check_tenant_tables(cursor, sql)
                    cursor.execute(f"SET search_path = '{self._views(tenant_id)}'")
                timer.start()
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                return _fetched(cursor.sql(sql))
            except duckdb.InterruptException:
                raise QueryError(f"the query took longer than {timeout_s:g} s and was stopped") from None
            except (duckdb.Error, pa.ArrowException) as error:
                raise QueryError(told(error)) from error
            finally:
                timer.cancel()
                with contextlib.suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")

    def _views(self, tenant_id: str) -> str:
        """The schema with views of the tenant's rows, made when it is first asked for."""
        schema = tenant_schema(tenant_id)
        with self._making_views:
            if schema not in self._tenants:
                quoted = tenant_id.replace("'", "''")
                with self._cursor() as cursor:
                    cursor.begin()
                    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                    for name in TABLES:
                        cursor.execute(f"CREATE OR REPLACE VIEW {schema}.{name} AS FROM main.{name} WHERE tenant_id = '{quoted}'")
                    cursor.commit()
                self._tenants.add(schema)
        return schema

    def event(self, tenant_id: str, event_id: str) -> dict[str, Any] | None:
        """The event's row, its payload and metadata decoded; ``None`` if it is not in the history."""
        rows = self._select("select_event", tenant_id, event_id)
        return event_told(rows[0]) if rows else None

    def processing_history(self, tenant_id: str, event_id: str) -> dict[str, Any]:
        """Every step of the event's processing, oldest first, and the totals. Raises ``EventNotFoundError``.

        ``overall_status`` is FAILED if a step failed, else COMPLETED. ``total_processing_time_ms`` adds the steps up.
        """
        event = self.event(tenant_id, event_id)
        steps = self._select("select_steps", tenant_id, event_id)
        if event is None and not steps:
            raise EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
        return history_told(event_id, steps, event)

    def _select(self, name: str, *values: str) -> list[Row]:
        with database_errors(), self._cursor() as cursor:
            cursor.execute(SQL[name], values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._db.cursor() as cursor:
            yield cursor

    def close(self) -> None:
        """Stop following and let go of the file. Closing twice is harmless."""
        self._end_thread()
        with self._loading:
            self._db.close()


def _fetched(relation: duckdb.DuckDBPyRelation) -> QueryResult:
    reader = relation.to_arrow_reader(_ANSWER_BATCH_ROWS)
    batches, rows, size = [], 0, 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows > MAX_ANSWER_ROWS or size > MAX_ANSWER_BYTES:
            break
    table = pa.Table.from_batches(batches, reader.schema).slice(0, MAX_ANSWER_ROWS)
    return QueryResult(table, rows > MAX_ANSWER_ROWS or size > MAX_ANSWER_BYTES)
