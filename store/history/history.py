"""The history database: follows the stream ``_history`` into DuckDB, and answers questions.

DuckDB belongs to one process at a time. The position in the stream is kept in DuckDB and moves in the transaction that adds
the rows, so nothing is loaded twice or left out, and the file can be deleted and built again from the log.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from event_streaming_bus.errors import BusError, EventNotFoundError, LostDatabaseError, UnavailableError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.history.answers import QueryResult, Row, event_told, history_told
from event_streaming_bus.store.history.asking import Answering, Bounds, ask
from event_streaming_bus.store.history.database import SQL, database_errors, folder_of, open_database
from event_streaming_bus.store.history.masks import Masks
from event_streaming_bus.store.history.parquet_files import Manifest, ParquetFolder
from event_streaming_bus.store.history.reading import Record, records_of
from event_streaming_bus.store.history.roll_off import RolledOff, day_of, install, roll_off
from event_streaming_bus.store.history.rows import MAX_PAYLOAD_BYTES, MAX_ROWS, Expander
from event_streaming_bus.store.history.running import RunningQueries
from event_streaming_bus.store.history.sql_gate import check_names, check_statement, make_views, tenant_schema
from event_streaming_bus.store.history.turns import REACH_S, taken
from event_streaming_bus.store.patient_clock import patient_ms
from event_streaming_bus.store.settings import KEEP_DAYS, ROLL_OFF_DAYS
from event_streaming_bus.store.storage import Storage

Progress = Callable[[int, int], None]

FILE: Final = "history.duckdb"
_LAST_LOOK_S: Final = 5.0
_LAST_QUERIES_S: Final = 5.0
_MEMORY_TRIES: Final = 3
_READERS_S: Final = 30.0
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
        self._connecting = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._tenants: set[str] = set()
        self._is_lost = False
        self._rolled_on: date | None = None
        self._loaded: int | None = None  # the position, as far as this object has committed it
        self.queries = RunningQueries()
        self._masks = Masks(storage.schemas)
        self._db = open_database(self.path, self._split.stream_id)
        self._folder = ParquetFolder(folder_of(self.path), self._split.stream_id)
        try:
            self._install(self._folder.manifest())
        except BaseException:
            self._db.close()
            raise

    # --- loading ------------------------------------------------------------------------------------------------------

    def catch_up(self, progress: Progress | None = None) -> int:
        """Load all that the stream holds now; returns how many rows that made. ``progress(records done, records there)``."""
        rows = 0
        with self._loading, self._found_again(), database_errors(), self._cursor() as cursor:
            end = self._end()
            position = self._position(cursor)
            if position > end:
                _log.warning("the log ends before what the history has loaded of it; the history is built again")
                self._delete_rows(cursor)
                if self._position(cursor) > end:
                    self._folder.set_aside()
                    self._install(self._folder.manifest())
                    self._delete_rows(cursor)
                position = self._position(cursor)
            self._loaded = position
            start, records, tries = position, records_of(self._storage.log, self._split, position, end), _MEMORY_TRIES
            while position < end:
                try:
                    loaded = self._load(cursor, records)
                except duckdb.OutOfMemoryException:
                    if not tries:
                        raise
                    tries -= 1
                    # Loading comes first: without it, what is asked would be told less and less.
                    self.queries.stop_all("the query was stopped, for loading needed the memory")
                    self.queries.wait_for(_LAST_QUERIES_S)
                    records = records_of(self._storage.log, self._split, position, end)
                    continue
                tries = _MEMORY_TRIES
                if loaded is None:
                    break
                position, made = loaded
                self._loaded = position
                rows += made
                if progress is not None:
                    progress(position - start, end - start)
        return rows

    def reach(self, within_s: float = REACH_S) -> None:
        """As ``catch_up``, for those who ask: loading may be stuck, or take long. Raises ``UnavailableError``."""
        if self._loaded is None or self._loaded < self._end():
            with taken(self._loading, within_s, self.backlog) as progressed:
                self.catch_up(progressed)

    @contextlib.contextmanager
    def _found_again(self) -> Iterator[None]:
        """Inside, the database is one that can be used: DuckDB refuses everything after a sync that failed, say, until it is
        opened again."""
        if self._is_lost:
            self.queries.stop_all("the history is opened again, after an error of its disk")
            self.queries.wait_for(_LAST_QUERIES_S)
            with self._connecting:
                self._db.close()
                self._db = open_database(self.path, self._split.stream_id)
            self._tenants.clear()
            self._install(self._folder.manifest())
            self._is_lost = False
        try:
            yield
        except LostDatabaseError:
            self._is_lost = True
            raise

    def _load(self, cursor: duckdb.DuckDBPyConnection, records: Iterator[Record]) -> tuple[int, int] | None:
        """Load some records in one transaction; ``(the new position, rows made)``, ``None`` if there are no more."""

        def write(name: str, table: pa.Table) -> None:
            cursor.register("incoming", table)
            default = f"INSERT INTO base.{name} BY NAME FROM incoming"
            cursor.execute(SQL.get(f"insert_{name}", default))
            cursor.unregister("incoming")

        expander = Expander(self._storage.log, write, self._masks)
        position = None
        cursor.begin()
        try:
            last_day = max((day for day, _ in cursor.execute(SQL["select_days"]).fetchall()), default=date.min)
            for offset, data, written_ms in records:
                position = offset + 1
                if data is None:
                    expander.skipped_records += 1
                    continue
                if (day := day_of(written_ms)) > last_day:
                    cursor.execute(SQL["insert_day"], [day, offset])
                    last_day = day
                expander.add(offset, data)
                if expander.rows >= MAX_ROWS or expander.payload_bytes >= MAX_PAYLOAD_BYTES:
                    break
            fault_point("history.insert")
            expander.flush()
            if position is not None:
                cursor.execute(SQL["update_position"], [position, expander.skipped_events, expander.skipped_records])
            fault_point("history.commit")
            cursor.commit()
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                cursor.rollback()
            raise
        fault_point("history.committed")
        return None if position is None else (position, expander.rows)

    def _end(self) -> int:
        return self._storage.log.end_offsets(self._split.stream_id)[self._split]

    def _position(self, cursor: duckdb.DuckDBPyConnection) -> int:
        row = cursor.execute(SQL["select_position"]).fetchone()
        kept = self._storage.log.begin_offsets(self._split.stream_id)[self._split]
        return max(kept, row[0] if row else 0)

    def backlog(self) -> int:
        """How many records of the stream are not loaded yet. Does not wait for a loading that is under way."""
        if self._loaded is None:
            with database_errors(), self._cursor() as cursor:
                self._loaded = self._position(cursor)
        return max(0, self._end() - self._loaded)

    def skipped(self) -> tuple[int, int]:
        """``(events that the log no longer held when their rows were to be made, records that could not be read)``."""
        with database_errors(), self._cursor() as cursor:
            return cursor.execute(SQL["select_skipped"]).fetchone() or (0, 0)

    def rebuild(self, progress: Progress | None = None) -> int:
        """Forget every row and load all again; returns how many rows that made. Interrupted, it goes on with the next load."""
        with self._loading:
            with database_errors(), self._cursor() as cursor:
                self._delete_rows(cursor)
            return self.catch_up(progress)

    def _install(self, manifest: Manifest) -> None:
        """Have the database agree with the manifest of the Parquet files."""
        with database_errors(), self._cursor() as cursor:
            install(cursor, self._folder, manifest)
        self._folder.remove_left_over(manifest)

    def roll_off(
        self, *, days: int | None = None, keep_days: int | None = None, dry_run: bool = False, now: datetime | None = None
    ) -> RolledOff:
        """Move the rows of days (UTC) that have been over for ``days`` days into Parquet files, where questions still find them,
        and remove the files of those that have been over for ``keep_days`` days; None leaves that out. Loading waits meanwhile.
        """
        with self._loading:
            self.catch_up()
            if not dry_run:
                self._folder.remove_left_over(self._folder.manifest())
            with self._found_again(), database_errors(), self._cursor() as cursor:
                return roll_off(
                    cursor,
                    self._folder,
                    days=days,
                    keep_days=keep_days,
                    dry_run=dry_run,
                    now=now or _now(),
                    wait_for_readers=lambda: self.queries.wait_for(_READERS_S),
                    drop_records=partial(self._storage.log.drop_before, self._split),
                )

    def _roll_off_if_due(self) -> None:
        """Once for each day (UTC), as the settings say."""
        today = _now().date()
        if self._rolled_on == today:
            return
        days, keep_days = (self._storage.settings.value(name) for name in (ROLL_OFF_DAYS, KEEP_DAYS))
        if days is not None or keep_days is not None:
            done = self.roll_off(days=days, keep_days=keep_days)
            if done.days or done.removed_days:
                _log.info("rolled off %d rows of %d days; removed %d days", done.rows, len(done.days), len(done.removed_days))
        self._rolled_on = today

    def _delete_rows(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._loaded = None
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
                if self._loaded != self._end():
                    self.catch_up(self._unless_closing)
                self._roll_off_if_due()
                retry_s = _FIRST_RETRY_S
                if self._storage.log.wait({self._split: self._loaded or 0}, _WAIT_S):
                    self._closing.wait(_GATHER_S)  # a transaction for every single publish would be a flush for every one
            except Exception as error:  # whatever it is, history must go on when it has passed
                if self._closing.is_set():
                    return
                if isinstance(error, BusError):  # it says what is wrong; where in here it was met says nothing more
                    _log.error("loading history failed; trying again in %.1f s: %s", retry_s, error.message)
                else:
                    _log.exception("loading history failed; trying again in %.1f s", retry_s)
                self._closing.wait(retry_s)
                retry_s = min(_MAX_RETRY_S, retry_s * 2)

    def _unless_closing(self, done: int, there: int) -> None:
        if done < there and self._closing.is_set():
            raise UnavailableError("The history is being closed.")

    def stop(self) -> None:
        """End the thread of ``start``, after a last, short look at the stream: the next opening loads what it leaves."""
        if self._end_thread():
            with contextlib.suppress(UnavailableError):
                self.reach(_LAST_LOOK_S)

    def _end_thread(self) -> bool:
        thread, self._thread = self._thread, None
        self._closing.set()
        if thread is not None:
            thread.join()
        return thread is not None

    # --- questions ----------------------------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        *,
        tenant_id: str | None = None,
        timeout_s: float = 60.0,
        parameters: Mapping[str, Any] | None = None,
    ) -> QueryResult:
        """The answer to one reading statement over ``TABLES``, of all tenants or of one, as far as it was loaded.

        At most ``MAX_ANSWER_ROWS`` rows and about ``MAX_ANSWER_BYTES``. Raises ``QueryError`` with DuckDB's own message, and
        if it takes longer than ``timeout_s``.
        """
        with self.ask(sql, tenant_id=tenant_id, parameters=parameters, bounds=Bounds(timeout_s=timeout_s)) as answering:
            return answering.result()

    def ask(
        self,
        sql: str,
        *,
        tenant_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        bounds: Bounds | None = None,
        query_id: str | None = None,
        begun: Callable[[Answering], object] = lambda answering: None,
    ) -> Answering:
        """The same answer, to be read batch by batch. ``parameters`` are the values of ``$names`` in ``sql``.

        ``query_id`` is what ``queries`` knows it by; without one, it is given one. ``begun`` is handed the answer before the
        statement runs, for another thread to stop it.
        """
        with database_errors():
            return ask(
                self.queries,
                self._connect,
                self._views,
                sql,
                tenant_id=tenant_id,
                parameters=parameters,
                bounds=bounds or Bounds(),
                query_id=query_id,
                begun=begun,
            )

    def check(self, sql: str, tenant_id: str) -> None:
        """Raise ``QueryError`` unless a tenant may ask this; whether its tables and columns are there is not looked at."""
        check_statement(sql)
        with database_errors(), self._cursor() as cursor:
            check_names(cursor, sql, is_of_tenant=True)

    def _views(self, tenant_id: str) -> str:
        """The schema with views of the tenant's rows, made when it is first asked for."""
        schema = tenant_schema(tenant_id)
        with self._making_views:
            if schema not in self._tenants:
                with self._cursor() as cursor:
                    make_views(cursor, tenant_id)
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
        with self._connect() as cursor:
            yield cursor

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own: DuckDB refuses two calls of one at once, and making another is one."""
        with self._connecting:
            return self._db.cursor()

    def close(self) -> None:
        """Stop following and let go of the file. Closing twice is harmless."""
        self._end_thread()
        self.queries.stop_all("the history was closed")
        self.queries.wait_for(_LAST_QUERIES_S)
        with self._loading:
            self._db.close()


def _now() -> datetime:
    """The time that says what has been over for so long that it may go."""
    return datetime.fromtimestamp(patient_ms() / 1000, UTC)
