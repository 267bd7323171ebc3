"""The history database: follows the stream ``_history`` into DuckDB, and answers questions.

DuckDB belongs to one process at a time. The position in the stream is kept in DuckDB and moves in the transaction that adds
the rows, so nothing is loaded twice or left out, and the file can be deleted and built again from the log.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa

from event_streaming_bus.errors import BusError, EventNotFoundError, InUseError, QueryError, StorageError
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.history.rows import PUBLISHER, Expander
from event_streaming_bus.store.history.sql_gate import TABLES, check_statement, check_tenant_tables, tenant_schema
from event_streaming_bus.store.history_records import from_bytes
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.storage import Storage

Progress = Callable[[int, int], None]

FILE: Final = "history.duckdb"
MAX_ROWS: Final = 1_000_000
_SQL: Final = load_queries("history/tables.sql")
_LOAD_ROWS: Final = 50_000
_READ_BYTES: Final = 1 << 18
_MEMORY_LIMIT: Final = "512MB"
_FIRST_RETRY_S: Final = 0.5
_MAX_RETRY_S: Final = 30.0
_log: Final = logging.getLogger(__name__)


class QueryResult(msgspec.Struct, frozen=True):
    """The answer to a query, as Arrow. ``truncated``: there were more than ``MAX_ROWS`` rows."""

    table: pa.Table
    truncated: bool = False

    @property
    def columns(self) -> list[str]:
        return list(self.table.column_names)

    @property
    def types(self) -> list[str]:
        return [str(field.type) for field in self.table.schema]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows as Python values."""
        for batch in self.table.to_batches(max_chunksize=10_000):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class History:
    """The history of a data folder. Raises ``InUseError`` if another process has it open. Safe to use from any thread."""

    def __init__(self, storage: Storage, path: Path | None = None) -> None:
        self._storage = storage
        self.path = path or storage.folder / FILE
        self._split = Split(storage.history().stream_id, EventPriority.NORMAL, 0)
        self._loading = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._tenants: set[str] = set()
        self._db = _open(self.path)

    # --- loading ------------------------------------------------------------------------------------------------------

    def catch_up(self, progress: Progress | None = None) -> int:
        """Load all that the stream holds now; returns how many rows that made. ``progress(records done, records there)``."""
        rows = 0
        with self._loading, _errors():
            cursor = self._db.cursor()
            end = self._end()
            start = position = self._position(cursor)
            while position < end:
                position, loaded = self._load(cursor, position, end)
                rows += loaded
                if progress is not None:
                    progress(position - start, end - start)
        return rows

    def _load(self, cursor: duckdb.DuckDBPyConnection, position: int, end: int) -> tuple[int, int]:
        """Load some records in one transaction; returns ``(the new position, rows made)``."""
        expander = Expander(self._storage.log)
        while position < end and expander.rows < _LOAD_ROWS:
            for batch in self._storage.log.read(self._split, position, _READ_BYTES):
                for data in batch.payloads():
                    expander.add(position, from_bytes(data))
                    position += 1
                if expander.rows >= _LOAD_ROWS:
                    break
        cursor.begin()
        try:
            for name, table in expander.tables():
                cursor.register("incoming", table)
                cursor.execute(f"INSERT INTO main.{name} BY NAME SELECT * FROM incoming")  # noqa: S608 - our own names
                cursor.unregister("incoming")
            cursor.execute(_SQL["update_position"], [position, expander.skipped])
            cursor.commit()
        except BaseException:
            cursor.rollback()
            raise
        return position, expander.rows

    def _end(self) -> int:
        return self._storage.log.end_offsets(self._split.stream_id)[self._split]

    def _position(self, cursor: duckdb.DuckDBPyConnection) -> int:
        row = cursor.execute(_SQL["select_position"]).fetchone()
        kept = self._storage.log.begin_offsets(self._split.stream_id)[self._split]
        return max(kept, row[0] if row else 0)

    def backlog(self) -> int:
        """How many records of the stream are not loaded yet."""
        return self._end() - self._position(self._db.cursor())

    def rebuild(self, progress: Progress | None = None) -> int:
        """Forget every row and load all again; returns how many rows that made."""
        with self._loading, _errors():
            self._db.cursor().execute("BEGIN; " + _SQL["drop_all"] + " COMMIT;")
        return self.catch_up(progress)

    def start(self) -> None:
        """Follow the stream in a thread until ``stop``. Trouble is logged, and tried again after 0.5 s, 1 s, ... up to 30 s."""
        self._thread = threading.Thread(target=self._follow, name="esb-history", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._closing.is_set():
            try:
                self.catch_up()
                retry_s = _FIRST_RETRY_S
                self._storage.log.wait({self._split: self._position(self._db.cursor())}, 0.5)
            except (BusError, duckdb.Error):
                if self._closing.is_set():
                    return
                _log.exception("loading history failed; trying again in %.1f s", retry_s)
                self._closing.wait(retry_s)
                retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def stop(self) -> None:
        """End the thread of ``start``, after a last look at the stream."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.catch_up()

    # --- questions ----------------------------------------------------------------------------------------------------

    def query(self, sql: str, *, tenant_id: str | None = None, timeout_s: float = 60.0) -> QueryResult:
        """The answer to one reading statement over ``TABLES``, of all tenants or of one.

        Raises ``QueryError`` with DuckDB's own message, and if it takes longer than ``timeout_s``.
        """
        check_statement(sql)
        cursor = self._db.cursor()
        timer = threading.Timer(timeout_s, cursor.interrupt)
        try:
            if tenant_id is not None:
                check_tenant_tables(cursor, sql)
                cursor.execute(f"SET search_path = '{self._views(tenant_id)}'")
            timer.start()
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            reader = cursor.sql(sql).to_arrow_reader(10_000)
            batches, count = [], 0
            for batch in reader:
                batches.append(batch)
                count += batch.num_rows
                if count > MAX_ROWS:
                    break
            return QueryResult(pa.Table.from_batches(batches, reader.schema).slice(0, MAX_ROWS), count > MAX_ROWS)
        except duckdb.InterruptException:
            raise QueryError(f"the query took longer than {timeout_s:g} s and was stopped") from None
        except (duckdb.Error, pa.ArrowException) as error:
            raise QueryError(_told(error)) from error
        finally:
            timer.cancel()
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
            cursor.close()

    def _views(self, tenant_id: str) -> str:
        """The schema with views of the tenant's rows, made when it is first asked for."""
        schema = tenant_schema(tenant_id)
        if schema not in self._tenants:
            cursor = self._db.cursor()
            quoted = tenant_id.replace("'", "''")
            with self._loading:
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                for name in TABLES:
                    cursor.execute(
                        f"CREATE OR REPLACE VIEW {schema}.{name} AS SELECT * FROM main.{name} "  # noqa: S608 - names of ours, quoted
                        f"WHERE tenant_id = '{quoted}'"
                    )
            self._tenants.add(schema)
        return schema

    def event(self, tenant_id: str, event_id: str) -> dict[str, Any] | None:
        """The event's row, its payload and metadata decoded; ``None`` if it is not in the history."""
        with _errors():
            cursor = self._db.cursor().execute(_SQL["select_event"], [tenant_id, event_id])
            row = cursor.fetchone()
        if row is None:
            return None
        found = dict(zip([column[0] for column in cursor.description], row, strict=True))
        for name in ("payload", "metadata"):
            found[name] = _decoded(found[name])
        return {name: _utc(value) if isinstance(value, datetime) else value for name, value in found.items()}

    def processing_history(self, tenant_id: str, event_id: str) -> dict[str, Any]:
        """Every step of the event's processing, oldest first, and the totals. Raises ``EventNotFoundError``.

        ``overall_status`` is FAILED if a step failed, else COMPLETED. ``total_processing_time_ms`` adds the steps up.
        """
        event = self.event(tenant_id, event_id)
        with _errors():
            cursor = self._db.cursor().execute(_SQL["select_steps"], [tenant_id, event_id])
            names = [column[0] for column in cursor.description]
            steps = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        if event is None and not steps:
            raise EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
        told = [_step(step, event) for step in steps]
        failed = any(step["status"] == "FAILED" for step in steps)
        return {
            "event_id": event_id,
            "processing_history": told,
            "total_processing_time_ms": _whole(sum(step["processing_duration_ms"] for step in steps)),
            "stages_completed": sum(step["status"] != "FAILED" for step in steps),
            "overall_status": "FAILED" if failed else "COMPLETED",
        }

    def close(self) -> None:
        """Stop following and let go of the file."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._loading:
            self._db.close()


def _open(path: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": _MEMORY_LIMIT,
        "temp_directory": str(path.parent / "history.tmp"),
        "max_temp_directory_size": "4GB",
    }
    try:
        database = duckdb.connect(path, config=settings)
    except duckdb.IOException as error:
        owner = re.search(r"PID (\d+)", str(error))
        if owner is None:
            raise StorageError(f"The history {path} cannot be opened: {_told(error)}") from error
        raise InUseError(
            f"The history {path} is open in another process (pid {owner[1]}); ask that one, or stop it.", pid=int(owner[1])
        ) from error
    except duckdb.Error as error:
        raise StorageError(
            f"The history {path} cannot be opened: {_told(error)} Delete the file and run `esb history rebuild`."
        ) from error
    database.execute(_SQL["create_tables"])
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(f"The history database failed: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """DuckDB's message without the links it ends with."""
    return re.sub(r"\s*See also https?://\S+\s*$", "", str(error)).strip()


def _step(step: dict[str, Any], event: dict[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "history_id": step["history_id"],
        "processor_id": step["processor_id"],
        "processor_name": step["processor_name"],
        "processing_stage": step["processing_stage"],
        "status": step["status"],
        "started_at": _utc(step["started_at"]),
        "completed_at": _utc(step["completed_at"]),
        "processing_duration_ms": _whole(step["processing_duration_ms"]),
        "retry_count": step["retry_count"],
    }
    if (event is not None and step["processor_id"] == PUBLISHER) or step["processing_stage"] == "VALIDATION":
        told["input_data"] = {"event_type": event["event_type"], "payload": event["payload"]} if event else None
    if step["output"] is not None:
        told["output_data"] = _decoded(step["output"])
    for name in ("error_type", "error_message", "stack_trace"):
        if step[name] is not None:
            told[name] = step[name]
    return told


def _decoded(text: str | None) -> Any:
    """JSON decoded; text that is none stays as it is."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds") + "Z"


def _whole(value: float) -> int | float:
    rounded = round(value, 3)
    return int(rounded) if rounded == int(rounded) else rounded
