"""``log.db``: its record batches, the index of ids, and whatever else in it must agree with them."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.doctor.findings import REPAIR, RESTORE, Examination, Finding, Repair, reason_of, split_place
from event_streaming_bus.doctor.log_marks import check_marks
from event_streaming_bus.doctor.sqlite_files import UNREADABLE, check_format, has_table
from event_streaming_bus.errors import BusError, CorruptLogError
from event_streaming_bus.models import LANES, Split, StreamConfig
from event_streaming_bus.store.aggregate_archives import unpack
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.log.scheduled import read_event
from event_streaming_bus.store.log.stored import id_hash, verified

FILE: Final = "log.db"
_BATCH: Final = """
    batch_no, split_no, base_offset, count, codec, min_timestamp_ms, max_timestamp_ms, appended_at_ms, body, checksum,
    id_min, id_max, explicit_ids
"""


class _Unread(NamedTuple):
    """A record batch that SQLite cannot read, and why."""

    base_offset: int
    reason: str


class _SplitSeen:
    """A split, and how far its record batches have been walked."""

    def __init__(self, row: tuple[Any, ...]) -> None:
        self.stream_id, self.stream, self.tenant_id, self.partition, self.lane, self.begin, self.end, self.stored_bytes = row
        self.next = self.begin
        self.bytes = 0

    @property
    def place(self) -> str:
        return split_place(self.stream, self.lane, self.partition)

    def split(self) -> Split:
        return Split(self.stream_id, LANES[self.lane % len(LANES)], self.partition)


def check_log(exam: Examination, db: sqlite3.Connection) -> None:
    """Check the log: every record batch against its checksum, and that each split has all of its offsets once."""
    if not check_format(exam, db, FILE):
        return
    checks = (_check_batches, _check_streams, _check_groups, _check_event_ids, _check_marks, _check_scheduled, _check_archives)
    for check in checks:
        try:
            check(exam, db)
        except UNREADABLE as error:  # the next check may read what this one cannot
            _found(exam, "where rows are read", "damaged", f"{error}, met while checking{check.__name__[6:].replace('_', ' ')}.")


def _found(
    exam: Examination, place: str, problem: str, meaning: str, advice: str = RESTORE, repair: Repair | None = None
) -> None:
    exam.found(Finding(file=FILE, place=place, problem=problem, meaning=meaning, advice=advice, repair=repair))


# --- record batches ---------------------------------------------------------------------------------------------------


def _check_batches(exam: Examination, db: sqlite3.Connection) -> None:
    splits = {
        split_no: _SplitSeen(tuple(row))
        for split_no, *row in db.execute(
            "SELECT split_no, stream_id, name, tenant_id, partition, lane, begin_offset, end_offset, stored_bytes "
            "FROM splits JOIN streams USING (stream_no)"
        )
    }
    for batch_no, split_no, row in _rows(db):
        seen = splits.get(split_no)
        if seen is None:
            _found(exam, f"record batch no. {batch_no}", "stray-batch", "A record batch belongs to no stream; nobody reads it.")
        elif isinstance(row, _Unread):
            place = f"{seen.place}, offset {row.base_offset}"
            _found(exam, place, "damaged-batch", f"The events of a record batch cannot be read: {row.reason}.", _LOST)
        else:
            _check_batch(exam, db, seen, row)
    for seen in splits.values():
        if seen.next != seen.end:
            _gap(exam, seen, seen.next, seen.end)
        elif seen.bytes != seen.stored_bytes:
            meaning = f"{seen.bytes:,} bytes are stored, but {seen.stored_bytes:,} are noted, by which retention goes."
            _found(exam, seen.place, "wrong-count", meaning, REPAIR, Repair.COUNTS)
    exam.counted("splits", len(splits))


def _rows(db: sqlite3.Connection) -> Iterator[tuple[int, int, "tuple[Any, ...] | _Unread"]]:
    """``(number, split, row)`` of every record batch, in the order in which they were written."""
    last = -1
    try:
        for row in db.execute(f"SELECT {_BATCH} FROM batches ORDER BY batch_no"):  # noqa: S608 - a constant
            last = row[0]
            yield row[0], row[1], row
        return
    except sqlite3.Error:
        pass  # a damaged page: the index still tells which batches there are, and each is tried on its own
    index = (
        "SELECT batch_no, split_no, base_offset FROM batches INDEXED BY batches_by_offset WHERE batch_no > ? ORDER BY batch_no"
    )
    for batch_no, split_no, base_offset in db.execute(index, (last,)).fetchall():
        try:
            found = db.execute(f"SELECT {_BATCH} FROM batches WHERE batch_no = ?", (batch_no,)).fetchone()  # noqa: S608
            yield batch_no, split_no, found or _Unread(base_offset, "the index of offsets names it, but it is not there")
        except sqlite3.Error as error:
            yield batch_no, split_no, _Unread(base_offset, str(error))


_LOST: Final = (
    "Events outside of it can be read. Flows and consumers stop in front of it; restore the folder from a backup (`esb "
    "restore`), or have groups go on behind it (`esb groups reset`)."
)


def _check_batch(exam: Examination, db: sqlite3.Connection, seen: _SplitSeen, row: tuple[Any, ...]) -> None:
    base, count, body = row[2], row[3], row[8]
    exam.counted("record batches")
    if type(base) is int and type(count) is int and isinstance(body, bytes):
        if base != seen.next:
            _gap(exam, seen, seen.next, base)
        seen.next, seen.bytes = base + count, seen.bytes + len(body)
        exam.read(len(body), f"{FILE}: {seen.place}")
    try:
        batch = verified(seen.split(), row[2:10])
        event_ids = batch.column("event_id")
        if len(batch.payloads()) != batch.count:
            raise ValueError("it has another number of events than its row says")
    except (CorruptLogError, TypeError, ValueError) as error:
        place = f"{seen.place}, offsets {base} to {base + count - 1}" if type(base) is type(count) is int else seen.place
        _found(exam, place, "damaged-batch", f"The {count} events of a record batch cannot be read: {reason_of(error)}.", _LOST)
        return
    exam.counted("events", batch.count)
    _check_ids(exam, db, seen, batch, event_ids, row)


def _gap(exam: Examination, seen: _SplitSeen, expected: int, found: int) -> None:
    if found > expected:
        meaning = f"The events of the offsets {expected} to {found - 1} are missing."
        _found(exam, f"{seen.place}, offset {expected}", "missing-events", meaning, _LOST)
    else:
        meaning = f"A record batch begins at offset {found}, but the one before it ends at {expected}."
        _found(exam, f"{seen.place}, offset {found}", "overlapping-events", meaning)


def _check_ids(
    exam: Examination, db: sqlite3.Connection, seen: _SplitSeen, batch: RecordBatch, event_ids: Any, row: tuple[Any, ...]
) -> None:
    """Whether the log finds each id of a batch: those that publishers brought by the index of ids, those of our own making by the
    smallest and the largest."""
    batch_no, (low, high, explicit) = row[0], row[10:13]
    indexed = set()
    if explicit:
        hashes = {id_hash(seen.tenant_id, event_id): event_id for event_id in event_ids}
        query = "SELECT hash FROM event_ids WHERE batch_no = ? AND hash IN (SELECT value FROM json_each(?))"
        indexed = {hashes[each] for (each,) in db.execute(query, (batch_no, json.dumps(list(hashes)))).fetchall()}
    elif low is None:
        return  # taken over from another log, which vouches for its ids
    lost = [each for each in event_ids if each not in indexed and not (low is not None and low <= each <= high)]
    if lost or len(indexed) < explicit - (batch.count - len(set(event_ids))):
        place = f"{seen.place}, offsets {batch.offset} to {batch.end_offset - 1}"
        meaning = f"{len(lost) or explicit - len(indexed)} event ids are not in the index of ids: publishing one again would "
        _found(exam, place, "unknown-ids", f"{meaning}append the event twice.", REPAIR, Repair.EVENT_IDS)


# --- what must agree with them ----------------------------------------------------------------------------------------


def _check_event_ids(exam: Examination, db: sqlite3.Connection) -> None:
    query = "SELECT count(*) FROM event_ids WHERE batch_no NOT IN (SELECT batch_no FROM batches INDEXED BY batches_by_offset)"
    (stray,) = db.execute(query).fetchone()
    if stray:
        meaning = f"The index of ids has {stray} entries of record batches that there are no more. They find nothing."
        _found(exam, "the index of ids", "stray-ids", meaning, REPAIR, Repair.EVENT_IDS)


def _check_streams(exam: Examination, db: sqlite3.Connection) -> None:
    known: set[str] | None = None
    if has_table(db, "schema_versions"):
        known = {schema_id for (schema_id,) in db.execute("SELECT schema_id FROM schema_versions")}
    for name, text in db.execute("SELECT name, config FROM streams ORDER BY tenant_id, name").fetchall():
        exam.counted("streams")
        try:
            config = msgspec.json.decode(text, type=StreamConfig)
        except (msgspec.DecodeError, TypeError) as error:
            _found(exam, f"stream {name}", "damaged-settings", f"The settings of the stream cannot be read: {error}.")
            continue
        if config.schema_id is not None and config.schema_id not in (known or ()):
            meaning = f"The stream's events are to be checked with the schema {config.schema_id}, which there is not."
            _found(exam, f"stream {name}", "missing-schema", meaning, "Register a schema for the stream: `esb schemas register`.")


def _check_groups(exam: Examination, db: sqlite3.Connection) -> None:
    query = """
        SELECT g.consumer_group, g.committed_offset, p.end_offset, s.name, p.lane, p.partition
        FROM group_offsets g LEFT JOIN splits p USING (split_no) LEFT JOIN streams s USING (stream_no)
    """
    for group, offset, end, stream, lane, partition in db.execute(query):
        exam.counted("group positions")
        if stream is None:
            meaning = "The group has a position in a stream that there is no more. Nobody reads it."
            _found(exam, f"group {group}", "stray-position", meaning, "There is nothing to do.")
        elif not 0 <= offset <= end:
            meaning = f"The group is at offset {offset}, but the split ends at {end}: it would pass over {offset - end} events."
            place = f"group {group}, {split_place(stream, lane, partition)}"
            _found(exam, place, "position-beyond-end", meaning, "`esb groups reset` sets the group right.")


def _check_marks(exam: Examination, db: sqlite3.Connection) -> None:
    check_marks(exam, db, FILE)


def _check_scheduled(exam: Examination, db: sqlite3.Connection) -> None:
    if not has_table(db, "scheduled_events"):
        return
    query = """
        SELECT event_id, stream_id, name, lane, partition, timestamp_ms, scheduled_at_ms, body, checksum
        FROM scheduled_events JOIN splits USING (split_no) JOIN streams USING (stream_no)
    """
    for event_id, stream_id, stream, lane, partition, *stored in db.execute(query):
        exam.counted("scheduled events")
        _readable(
            exam,
            partial(read_event, Split(stream_id, LANES[lane], partition), *stored),
            f"{split_place(stream, lane, partition)}, scheduled event {event_id}",
            "scheduled-event",
        )


def _check_archives(exam: Examination, db: sqlite3.Connection) -> None:
    if not has_table(db, "aggregate_archives"):
        return
    query = """
        SELECT aggregate_id, last_version, events, checksum, data FROM aggregate_archives JOIN aggregates USING (aggregate_no)
    """
    for aggregate_id, *row in db.execute(query):
        exam.counted("archived aggregates")
        _readable(exam, partial(unpack, aggregate_id, row), f"aggregate {aggregate_id}", "archive")


def _readable(exam: Examination, read: Callable[[], object], place: str, kind: str) -> None:
    try:
        read()
    except (CorruptLogError, msgspec.DecodeError, TypeError, ValueError) as error:
        message = error.message if isinstance(error, BusError) else str(error)
        _found(exam, place, f"damaged-{kind}", message)
