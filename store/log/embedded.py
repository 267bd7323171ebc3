"""The embedded log: streams in one SQLite file, shared by the processes of one machine."""

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.errors import (
    BusError,
    ClosedError,
    CorruptLogError,
    InvalidInputError,
    StorageError,
    StreamNotFoundError,
)
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import LANES, Receipt, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.adoption import adopt_batches
from event_streaming_bus.store.log.base import Append, AppendResult, Condition, Journal, Mark, ScheduledPage
from event_streaming_bus.store.log.group_commit import GroupCommit
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.log.retention import drop_all, drop_expired, drop_until, give_back, is_bounded
from event_streaming_bus.store.log.scheduled import Alarm, cancel, drop_scheduled, earliest_ms, page_of
from event_streaming_bus.store.log.split_reading import read_batches
from event_streaming_bus.store.log.stored import SQL, find_ids
from event_streaming_bus.store.log.streams import check_config, create_tables, info_of, make_stream, no_such_stream
from event_streaming_bus.store.log.tail import StreamPlace
from event_streaming_bus.store.log.waiting import WriteWatch
from event_streaming_bus.store.log.writer import Request, Transaction
from event_streaming_bus.store.patient_clock import patient_ms
from event_streaming_bus.store.sqlite import SqliteDatabase, storage_errors

_RETENTION_EVERY_S: Final = 60.0


class EmbeddedLog:
    """An ``EventLog`` in ``<folder>/log.db``. See ``EventLog`` for what is guaranteed.

    ``synchronous="NORMAL"`` gives up durability against power loss (not against ``kill -9``) for fewer disk flushes.
    """

    def __init__(self, folder: Path | str, *, synchronous: str = "FULL") -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidInputError(f"synchronous: expected 'FULL' or 'NORMAL', got {synchronous!r}")
        self.path = Path(folder) / "log.db"
        self._db = SqliteDatabase(self.path, synchronous=synchronous)
        self._places: dict[str, StreamPlace] = {}
        self._commits = GroupCommit(self._commit, "esb-log-writer")
        self._watching = WriteWatch(f"{self.path}-wal")
        self._watch_lock = threading.Lock()
        self._retention_due = time.monotonic() + _RETENTION_EVERY_S
        self._closed = False
        self._alarm = Alarm()
        self._is_releasing = False  # the transaction that is being written, or was last
        with storage_errors(self.path, "opening"), self._db.write_lock():
            create_tables(self._db.connection())
            self._watch = self._db.connect()
            is_due = self._alarm.rings(self._watch)
        if is_due and (request := self._release()) is not None:  # what fits in one transaction now, the rest behind it
            request.future.exception()  # waits; what cannot be written now is tried again later

    # --- streams ------------------------------------------------------------------------------------------------------

    def create_stream(self, config: StreamConfig, stream_id: str | None = None) -> StreamInfo:
        check_config(config)
        with self._db.transaction(f"creating stream {config.name}") as db:
            row = db.execute(SQL["select_stream_by_name"], {"tenant_id": config.tenant_id, "reference": config.name}).fetchone()
            there = None if row is None else self._place_of(row, db).info
            return make_stream(db, config, stream_id, there)

    def drop_stream(self, stream_id: str) -> None:
        place = self._place(stream_id)
        with self._db.transaction(f"dropping stream {place.info.name}") as db:
            drop_all(db, place)
            drop_scheduled(db, place.split_nos.values())
            db.executemany(SQL["delete_group_offsets"], [(no,) for no in place.split_nos.values()])
            db.execute(SQL["delete_splits"], (place.stream_no,))
            db.execute(SQL["delete_stream"], (place.stream_no,))
        self._places.pop(stream_id, None)

    def set_stream_schema(self, stream_id: str, schema_id: str | None) -> StreamInfo:
        with self._db.transaction("changing a stream's schema") as db:
            row = db.execute(SQL["select_stream_by_id"], (stream_id,)).fetchone()
            if row is None:
                raise self._dropped(stream_id)
            config = msgspec.structs.replace(info_of(row).config, schema_id=schema_id)
            db.execute(SQL["update_stream_config"], (msgspec.json.encode(config).decode(), stream_id))
        return self.find_stream(config.tenant_id, stream_id)

    def find_stream(self, tenant_id: str, reference: str) -> StreamInfo:
        with storage_errors(self.path, "looking for a stream"):
            db = self._db.connection()
            row = db.execute(SQL["select_stream_by_name"], {"tenant_id": tenant_id, "reference": reference}).fetchone()
            if row is not None:
                return self._place_of(row, db).info
        raise no_such_stream(reference, [info.name for info in self.list_streams(tenant_id, internal=True)])

    def list_streams(self, tenant_id: str | None = None, *, internal: bool = False) -> list[StreamInfo]:
        with storage_errors(self.path, "listing streams"):
            rows = self._db.connection().execute(SQL["select_streams"], {"tenant_id": tenant_id}).fetchall()
        infos = [info_of(row) for row in rows]
        return [info for info in infos if internal or not info.name.startswith("_")]

    def _place(self, stream_id: str) -> StreamPlace:
        place = self._places.get(stream_id)
        if place is None:
            with storage_errors(self.path, "looking for a stream"):
                db = self._db.connection()
                row = db.execute(SQL["select_stream_by_id"], (stream_id,)).fetchone()
                if row is None:
                    raise StreamNotFoundError(f"There is no stream with the id '{stream_id}'.", stream=stream_id)
                place = self._place_of(row, db)
        return place

    def _place_of(self, row: Sequence[str | int], db: sqlite3.Connection) -> StreamPlace:
        stream_no, stream_id = row[0], row[1]
        place = self._places.get(str(stream_id))
        if place is None or place.stream_no != stream_no or place.config != row[2]:
            splits = db.execute(SQL["select_splits"], (stream_no,)).fetchall()
            split_nos = {(partition, LANES[lane]): split_no for split_no, partition, lane, *_ in splits}
            place = self._places[str(stream_id)] = StreamPlace(info_of(row), int(stream_no), split_nos, str(row[2]))
        return place

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[sqlite3.Connection] | None = None,
    ) -> list[AppendResult]:
        request = Request(appends, [self._place(a.stream_id) for a in appends], marks, journal, condition)
        self._commits.lead(request)
        return request.future.result()

    def submit(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[sqlite3.Connection] | None = None,
    ) -> "Future[list[AppendResult]]":
        request = Request(appends, [self._place(a.stream_id) for a in appends], marks, journal, condition)
        self._commits.submit(request)
        return request.future

    def _commit(self, requests: list[Request], *, release: bool = True) -> None:
        """Write all requests in one transaction, and what is due with them; where one of them spoils it, halve them until it is
        alone."""
        try:
            outcomes = self._write(requests, release=release)
        except BaseException as error:
            if self._is_releasing:  # no append may fail for what was scheduled
                self._alarm.failed(is_to_blame=isinstance(error, StorageError) or not any(each.appends for each in requests))
                self._commit(requests, release=False)
                return
            hits_all = isinstance(error, StorageError) and not isinstance(error, CorruptLogError)
            if len(requests) > 1 and not hits_all:
                half = len(requests) // 2
                self._commit(requests[:half], release=release)
                self._commit(requests[half:], release=release)
                return
            for request in requests:
                request.future.set_exception(error)
            return
        fault_point("log.committed")
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, BusError):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)
        self._watching.tell()
        self._retain_now_and_then()

    def _write(self, requests: list[Request], *, release: bool) -> list[list[AppendResult] | BusError]:
        self._is_releasing = False
        with self._db.transaction("appending") as db:
            transaction = Transaction(db)
            if release and self._alarm.rings(db):
                self._is_releasing = True
                transaction.release(self._place)
            outcomes: list[list[AppendResult] | BusError] = []
            for request in requests:
                try:
                    is_admitted = transaction.admits(request)
                except StorageError:
                    raise
                except BusError as error:
                    outcomes.append(error)
                    continue
                outcomes.append(transaction.add(request, self._place) if is_admitted else [])
            transaction.flush()
            earliest = earliest_ms(db) if self._is_releasing else None
        if self._is_releasing:
            self._alarm.set(earliest)
        return outcomes

    def adopt(self, batches: Sequence[RecordBatch]) -> None:
        """Take over record batches of a stream with the same id in another log, as they are: each event keeps its offset, its
        partition, its lane and when it was appended. A split that is empty begins where its first batch does.

        It is all there afterwards, or nothing is. The ids of these events are not known to ``append`` and ``locate``. Raises
        ``InvalidInputError`` for a batch that does not follow on what its split holds.
        """
        by_split: dict[int, list[RecordBatch]] = {}
        for batch in batches:
            by_split.setdefault(self._split_no(batch.split), []).append(batch)
        with self._db.transaction("adopting events") as db:
            for split_no, of_split in by_split.items():
                adopt_batches(db, split_no, of_split)
        self._watching.tell()

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, split: Split, offset: int, max_bytes: int = 1 << 20) -> list[RecordBatch]:
        split_no = self._split_no(split)
        with storage_errors(self.path, f"reading {split}"):
            db = self._db.connection()
            db.execute("BEGIN")  # one snapshot of the batches and of where the split begins and ends
            try:
                return read_batches(db, split, split_no, offset, max_bytes, lambda: self._bounds(db, split, split_no))
            finally:
                db.execute("COMMIT")

    def _bounds(self, db: sqlite3.Connection, split: Split, split_no: int) -> tuple[int, int]:
        """Where the split begins and ends."""
        row = db.execute(SQL["select_split"], (split_no,)).fetchone()
        if row is None:
            raise self._dropped(split.stream_id)
        return row[0], row[1]

    def _dropped(self, stream_id: str) -> StreamNotFoundError:
        """The error for a stream that another process has dropped since this one looked it up."""
        self._places.pop(stream_id, None)
        return StreamNotFoundError(f"There is no stream with the id '{stream_id}'.", stream=stream_id)

    def _split_no(self, split: Split) -> int:
        split_no = self._place(split.stream_id).split_nos.get((split.partition, split.lane))
        if split_no is None:
            partitions = self._place(split.stream_id).info.config.partitions
            raise InvalidInputError(f"{split}: the stream has the partitions 0 to {partitions - 1}.")
        return split_no

    def locate(self, tenant_id: str, event_id: str) -> Receipt | None:
        with storage_errors(self.path, "looking for an event"):
            position = find_ids(self._db.connection(), tenant_id, {event_id: None}).get(event_id)
        return None if position is None else Receipt(event_id, position)

    def begin_offsets(self, stream_id: str) -> dict[Split, int]:
        return {split: begin for split, begin, _, _ in self._splits(stream_id)}

    def end_offsets(self, stream_id: str) -> dict[Split, int]:
        return {split: end for split, _, end, _ in self._splits(stream_id)}

    def stored_bytes(self, stream_id: str) -> int:
        return sum(size for *_, size in self._splits(stream_id))

    def _splits(self, stream_id: str) -> list[tuple[Split, int, int, int]]:
        place = self._place(stream_id)
        with storage_errors(self.path, f"reading the offsets of {place.info.name}"):
            rows = self._db.connection().execute(SQL["select_splits"], (place.stream_no,)).fetchall()
        if not rows:
            raise self._dropped(stream_id)
        return [(Split(stream_id, LANES[lane], partition), begin, end, size) for _, partition, lane, begin, end, size in rows]

    def offset_for_time(self, split: Split, time_ms: int) -> int:
        split_no = self._split_no(split)
        with storage_errors(self.path, f"reading {split}"):
            db = self._db.connection()
            (offset,) = db.execute(SQL["select_offset_for_time"], (split_no, time_ms)).fetchone()
            if offset is None:
                _, offset = self._bounds(db, split, split_no)
        return int(offset)

    # --- positions ----------------------------------------------------------------------------------------------------

    def commit(self, group: str, offsets: Mapping[Split, int]) -> None:
        rows = [(group, self._split_no(split), offset) for split, offset in offsets.items()]
        with self._db.transaction(f"committing offsets of {group}") as db:
            for split, (_, split_no, _) in zip(offsets, rows, strict=True):
                self._bounds(db, split, split_no)  # raises if another process has dropped the stream
            db.executemany(SQL["upsert_group_offset"], rows)

    def committed(self, group: str) -> dict[Split, int]:
        with storage_errors(self.path, f"reading offsets of {group}"):
            rows = self._db.connection().execute(SQL["select_group_offsets"], (group,)).fetchall()
        return {Split(stream_id, LANES[lane], partition): offset for stream_id, lane, partition, offset in rows}

    def marks(self, owner: str) -> dict[str, bytes]:
        with storage_errors(self.path, f"reading marks of {owner}"):
            return dict(self._db.connection().execute(SQL["select_marks"], (owner,)).fetchall())

    def drop_marks(self, owner: str) -> None:
        with self._db.transaction(f"dropping marks of {owner}") as db:
            db.execute(SQL["delete_marks"], (owner,))

    # --- waiting ------------------------------------------------------------------------------------------------------

    def version(self) -> int:
        with self._watch_lock, storage_errors(self.path, "watching"):
            if self._closed:
                raise ClosedError
            (version,) = self._watch.execute("PRAGMA data_version").fetchone()
            is_due = self._alarm.rings(self._watch, version)
        if is_due:
            self._release()
        return int(version)

    def wait(self, positions: Mapping[Split, int], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for split in positions:
            self._split_no(split)  # raises if there is no such split
        streams = {split.stream_id for split in positions}
        seen = None
        while True:
            writes = self._watching.writes
            version = self.version()
            if version != seen:
                if seen is not None:
                    self._watching.saw()
                seen = version
                ends = {split: end for stream_id in streams for split, end in self.end_offsets(stream_id).items()}
                if any(ends[split] > offset for split, offset in positions.items()):
                    return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._watching.wait(writes, min(left_s, self._alarm.looks_every_s(version)))

    # --- scheduled events ---------------------------------------------------------------------------------------------

    def scheduled(
        self, tenant_id: str, stream_id: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> ScheduledPage:
        with storage_errors(self.path, "listing scheduled events"):
            return page_of(self._db.connection(), tenant_id, stream_id, limit, cursor)

    def cancel_scheduled(self, tenant_id: str, event_id: str) -> bool:
        with self._db.transaction(f"cancelling the delivery of {event_id}") as db:
            return cancel(db, tenant_id, event_id)

    def _release(self) -> Request | None:
        """Have what is due released, by a transaction without appends; ``None`` if that is under way or too much else is."""
        if not self._alarm.begin():
            return None
        request = Request([], [], (), None, None)
        request.future.add_done_callback(self._released)
        with suppress(ClosedError):
            if self._commits.offer(request):
                return request
        self._alarm.end()  # what waits will do it, or who opens the log next
        return None

    def _released(self, _: object) -> None:
        self._alarm.end()
        if self._alarm.is_ringing():  # there was more than fits in one transaction
            self._release()

    # --- keeping house ------------------------------------------------------------------------------------------------

    def enforce_retention(self, now_ms: int | None = None) -> int:
        now_ms = patient_ms() if now_ms is None else now_ms
        streams = [info for info in self.list_streams(internal=True) if is_bounded(info.config)]
        dropped = sum(drop_expired(self._db, self._place(info.stream_id), info.config, now_ms) for info in streams)
        return give_back(self._db, self.path, dropped)

    def drop_before(self, split: Split, offset: int) -> int:
        dropped = drop_until(self._db, self._place(split.stream_id), self._split_no(split), offset)
        return give_back(self._db, self.path, dropped)

    def _retain_now_and_then(self) -> None:
        if time.monotonic() >= self._retention_due:
            self._retention_due = time.monotonic() + _RETENTION_EVERY_S
            try:
                self.enforce_retention()
            except BusError:
                return  # what cannot be dropped now is dropped next time; appending must not fail for it

    def close(self) -> None:
        if self._closed:
            return
        self._commits.close()
        self._watching.close()
        with self._watch_lock:
            self._closed = True
        self._db.close()
