"""Retention: which record batches a stream no longer keeps, and dropping them with all that points at them."""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import Split, StreamConfig
from event_streaming_bus.store.log.stored import SQL, id_hash, verified
from event_streaming_bus.store.log.tail import StreamPlace
from event_streaming_bus.store.sqlite import SqliteDatabase, storage_errors

AT_ONCE: Final = 1000


class OldBatch(msgspec.Struct, frozen=True):
    batch_no: int
    split_no: int
    base_offset: int
    count: int
    appended_at_ms: int
    stored_bytes: int
    explicit_ids: int


def expired_batches(
    db: sqlite3.Connection,
    stream_no: int,
    before_ms: int | None = None,
    keep_bytes: int | None = None,
    *,
    drop_all: bool = False,
) -> list[OldBatch]:
    """The oldest record batches of a stream: those appended before ``before_ms``, those that exceed ``keep_bytes``, or all.

    At most ``AT_ONCE`` unless ``drop_all``, so that no transaction of retention holds up writers for long.
    """
    limit = -1 if drop_all else AT_ONCE
    rows = db.execute(SQL["select_oldest_batches"], (stream_no, limit))
    splits = db.execute(SQL["select_splits"], (stream_no,)).fetchall()
    stored = sum(row[-1] for row in splits)

    def expired() -> Iterator[OldBatch]:
        nonlocal stored
        for row in rows:
            batch = OldBatch(*row)
            too_old = before_ms is not None and batch.appended_at_ms < before_ms
            too_much = keep_bytes is not None and stored > keep_bytes
            if not (drop_all or too_old or too_much):
                return
            stored -= batch.stored_bytes
            yield batch

    return list(expired())


def is_bounded(config: StreamConfig) -> bool:
    """Whether retention drops anything of such a stream."""
    return config.retention_ms is not None or config.retention_bytes is not None


def drop_all(db: sqlite3.Connection, place: StreamPlace) -> None:
    """Drop every record batch of a stream."""
    drop_batches(db, place, expired_batches(db, place.stream_no, drop_all=True))


def drop_expired(database: SqliteDatabase, place: StreamPlace, config: StreamConfig, now_ms: int) -> int:
    """Drop what a stream with these settings keeps no longer; returns how many events went."""
    before_ms = None if config.retention_ms is None else now_ms - config.retention_ms
    return _drop_in_turns(database, place, lambda db: expired_batches(db, place.stream_no, before_ms, config.retention_bytes))


def drop_until(database: SqliteDatabase, place: StreamPlace, split_no: int, offset: int) -> int:
    """Drop the record batches of a split that lie before ``offset``; returns how many events went."""

    def old(db: sqlite3.Connection) -> list[OldBatch]:
        return [OldBatch(*row) for row in db.execute(SQL["select_batches_before"], (split_no, offset, AT_ONCE))]

    return _drop_in_turns(database, place, old)


def _drop_in_turns(database: SqliteDatabase, place: StreamPlace, old: Callable[[sqlite3.Connection], list[OldBatch]]) -> int:
    """Drop what ``old`` names, at most ``AT_ONCE``, until that is all, in transactions that hold up nobody for long."""
    dropped = 0
    batches: list[OldBatch] | None = None
    while batches is None or len(batches) == AT_ONCE:
        with database.transaction(f"dropping old events of {place.info.name}") as db:
            batches = old(db)
            dropped += drop_batches(db, place, batches)
    return dropped


def give_back(database: SqliteDatabase, path: Path, dropped: int) -> int:
    """Let the file shrink by what was dropped, if anything was; returns that."""
    if dropped:
        fault_point("retention.dropped")
        with storage_errors(path, "giving back disk space"), database.write_lock():
            database.connection().execute("PRAGMA incremental_vacuum").fetchall()
    return dropped


def drop_batches(db: sqlite3.Connection, place: StreamPlace, batches: list[OldBatch]) -> int:
    """Remove the batches, take their ids from the index of ids, move the begin of their splits; returns the events dropped."""
    if not batches:
        return 0
    splits = {no: Split(place.info.stream_id, lane, partition) for (partition, lane), no in place.split_nos.items()}
    begins: dict[int, int] = {}
    sizes: dict[int, int] = defaultdict(int)
    for old in batches:
        if old.explicit_ids:
            _, *row = db.execute(SQL["select_batch"], (old.batch_no,)).fetchone()
            try:
                event_ids = verified(splits[old.split_no], row).column("event_id")
            except CorruptLogError:
                event_ids = ()  # a damaged batch goes; what points at it finds nothing
            db.executemany(
                SQL["delete_event_id"],
                [(id_hash(place.info.tenant_id, event_id), old.batch_no) for event_id in event_ids],
            )
        db.execute(SQL["delete_batch"], (old.batch_no,))
        begins[old.split_no] = old.base_offset + old.count
        sizes[old.split_no] += old.stored_bytes
    fault_point("retention.batches")
    for split_no, begin in begins.items():
        db.execute(SQL["update_split_begin"], (begin, sizes[split_no], split_no))
    return sum(old.count for old in batches)
