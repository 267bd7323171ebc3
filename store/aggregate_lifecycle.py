"""How events of aggregates come to their end: archived and restored, deleted, and dropped as the retention of their type says.

Each action is one transaction, but for dropping old events, which is many small ones. Positions that were given are never given
again. What is on streams stays there, as the retention of the stream says.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import CorruptLogError, InvalidStateError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.aggregate_archives import pack, unpack
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError, VersionConflictError
from event_streaming_bus.store.aggregate_snapshots import Snapshot, snapshot_row
from event_streaming_bus.store.aggregates import (
    SQL,
    AggregateInfo,
    AggregateStatus,
    AggregateStore,
    decode_event,
    select_events,
    select_head,
    select_info,
)
from event_streaming_bus.store.database import Connection

MAX_ARCHIVE_BYTES: Final = 256 << 20
"""An aggregate whose records are larger is not archived: all of them are in memory at once."""
AT_ONCE: Final = 1000
"""So many events are dropped in one transaction, so that none holds up those who append for long."""
_PAGE: Final = 1000
_MOST_TOLD: Final = 100
_NEVER: Final = (1 << 63) - 1


class HistoryGoneError(InvalidStateError):
    """Events that the state is made of are no longer kept, and the fold in force has left no snapshot to go on from. ``details``
    has ``gone_version``."""


class LifecycleChange(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to an aggregate, and how it is now: ``events`` is how many were archived, restored or deleted;
    ``archive_bytes`` what they take, or took, in the archive."""

    action: str
    aggregate_id: str
    aggregate_type: str
    status: AggregateStatus
    version: int
    events: int
    archive_bytes: int = 0


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long events of a type of aggregate are kept. ``max_age_ms``: since they were recorded. ``max_count``: so many of each
    aggregate, the newest. ``None``: without end. ``fold``: the kind of fold that was in force when this was set."""

    aggregate_type: str
    max_age_ms: int | None = None
    max_count: int | None = None
    fold: str | None = None


class DueEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest events of an aggregate, up to ``until_version``, that are to be dropped."""

    aggregate_id: str
    aggregate_type: str
    begin_version: int
    until_version: int
    events: int


# --- one aggregate ----------------------------------------------------------------------------------------------------


def archive(store: AggregateStore, tenant_id: str, aggregate_id: str) -> LifecycleChange:
    """Close an aggregate, and move its events into one compressed row, where only who asks for this aggregate reads them.

    Raises ``AggregateNotFoundError``, and ``InvalidStateError`` if it is archived already or too large.
    """
    with store.writing("archiving an aggregate") as db:
        number, info = _present(db, tenant_id, aggregate_id)
        if info.status is AggregateStatus.ARCHIVED:
            raise InvalidStateError(f"The aggregate '{aggregate_id}' is archived already.", aggregate_id=aggregate_id)
        (size,) = db.execute(SQL["select_record_bytes"], (number,)).fetchone()
        if size > MAX_ARCHIVE_BYTES:
            raise InvalidStateError(
                f"The aggregate '{aggregate_id}' has {size:,} bytes of events; at most {MAX_ARCHIVE_BYTES:,} can be archived.",
                aggregate_id=aggregate_id,
            )
        records = [record for (record,) in db.execute(SQL["select_records"], (number, _NEVER, _NEVER))]
        packed = pack(aggregate_id, info.version, records)
        now_ms = time.time_ns() // 1_000_000
        row = number, packed.last_version, packed.events, now_ms, packed.checksum, packed.data
        db.execute(SQL["insert_archive"], row)
        fault_point("aggregate.archive")
        _drop_rows(db, number, _NEVER)
        db.execute(SQL["update_aggregate_status"], (AggregateStatus.ARCHIVED.value, number))
        return _change("archived", db, tenant_id, aggregate_id, packed.events, len(packed.data))


def restore(store: AggregateStore, tenant_id: str, aggregate_id: str) -> LifecycleChange:
    """Put the events of an archived aggregate back where they were, at the same positions, and open it for more.

    Raises ``AggregateNotFoundError``, ``InvalidStateError`` if it is not archived, ``CorruptLogError`` if the archive is damaged.
    """
    with store.writing("restoring an aggregate") as db:
        number, info = _present(db, tenant_id, aggregate_id)
        row = db.execute(SQL["select_archive"], (number,)).fetchone()
        if info.status is not AggregateStatus.ARCHIVED or row is None:
            raise InvalidStateError(f"The aggregate '{aggregate_id}' is {info.status}, not archived.", aggregate_id=aggregate_id)
        (category_no,) = db.execute(SQL["select_category"], (tenant_id, info.aggregate_type)).fetchone()
        numbers: dict[str, int] = {}
        rows = []
        for record in unpack(aggregate_id, row):
            event = decode_event(record)
            type_no = numbers.get(event.event_type)
            if type_no is None:
                (type_no,) = db.execute(SQL["select_event_type"], (event.event_type,)).fetchone()
                numbers[event.event_type] = type_no
            rows.append((event.position, number, event.version, category_no, type_no, record))
        db.executemany(SQL["insert_event"], rows)
        fault_point("aggregate.restore")
        db.execute(SQL["delete_archive"], (number,))
        db.execute(SQL["update_aggregate_status"], (AggregateStatus.ACTIVE.value, number))
        return _change("restored", db, tenant_id, aggregate_id, len(rows), len(row[-1]))


def delete(
    store: AggregateStore, tenant_id: str, aggregate_id: str, *, hard: bool = False, expected_version: int | None = None
) -> LifecycleChange:
    """Delete the events of an aggregate, its archive, its snapshots, and the ids that its events are known by.

    It may be appended to again, as if it were new, and its versions go on; unless ``hard``: then never again. Raises
    ``AggregateNotFoundError``; ``VersionConflictError`` if it is not at the expected version.
    """
    with store.writing("deleting an aggregate") as db:
        number, info = _present(db, tenant_id, aggregate_id, even_empty=hard)
        if expected_version is not None and expected_version != info.version:
            raise _conflict(db, number, info, expected_version)
        try:
            events = select_events(db, number)
        except CorruptLogError:
            events = []  # a damaged archive can be deleted all the same
        db.executemany(SQL["delete_event_receipt"], [(tenant_id, event.event_id) for event in events])
        _drop_rows(db, number, _NEVER)
        db.execute(SQL["delete_archive"], (number,))
        db.execute(SQL["delete_snapshots"], (number,))
        db.execute(SQL["delete_base"], (number,))
        status = AggregateStatus.DELETED if hard else AggregateStatus.ACTIVE
        db.execute(SQL["update_aggregate_deleted"], (status.value, info.version, info.version, number))
        return _change("closed for ever" if hard else "deleted", db, tenant_id, aggregate_id, len(events))


def _present(db: Connection, tenant_id: str, aggregate_id: str, *, even_empty: bool = False) -> tuple[int, AggregateInfo]:
    number, info = select_info(db, tenant_id, aggregate_id)
    if info.status is AggregateStatus.DELETED or (info.status is AggregateStatus.EMPTY and not even_empty):
        raise AggregateNotFoundError(f"The aggregate '{aggregate_id}' was deleted.", aggregate_id=aggregate_id)
    return number, info


def _change(
    action: str, db: Connection, tenant_id: str, aggregate_id: str, events: int, archive_bytes: int = 0
) -> LifecycleChange:
    _, info = select_info(db, tenant_id, aggregate_id)
    return LifecycleChange(
        action=action,
        aggregate_id=aggregate_id,
        aggregate_type=info.aggregate_type,
        status=info.status,
        version=info.version,
        events=events,
        archive_bytes=archive_bytes,
    )


def _conflict(db: Connection, number: int, info: AggregateInfo, expected_version: int) -> VersionConflictError:
    between = select_events(db, number, expected_version, expected_version + _MOST_TOLD)
    names = ("position", "version", "event_id", "event_type", "timestamp_ms")
    return VersionConflictError(
        f"The aggregate '{info.aggregate_id}' is at version {info.version}, not at {expected_version}. Nothing was deleted; read "
        "it again, and decide anew.",
        aggregate_id=info.aggregate_id,
        expected_version=expected_version,
        current_version=info.version,
        events=[{name: getattr(event, name) for name in names} for event in between],
    )


def _drop_rows(db: Connection, number: int, until_version: int) -> None:
    """Take events from the table, and see to it that their positions are not given again."""
    db.execute(SQL["keep_positions"], (select_head(db),))
    db.execute(SQL["delete_events"], (number, until_version))


# --- retention --------------------------------------------------------------------------------------------------------


def set_retention(store: AggregateStore, tenant_id: str, retention: Retention) -> None:
    """Say how long events of a type of aggregate are kept, in place of what was said before."""
    with store.writing("setting the retention of aggregates") as db:
        fold = retention.fold if _is_limit(retention) else None
        row = tenant_id, retention.aggregate_type, retention.max_age_ms, retention.max_count, fold
        db.execute(SQL["upsert_retention"], row)


def retention_of(store: AggregateStore, tenant_id: str, aggregate_type: str) -> Retention:
    """How long events of a type of aggregate are kept."""
    with store.reading("reading the retention of aggregates") as db:
        row = db.execute(SQL["select_retention"], (tenant_id, aggregate_type)).fetchone()
    return Retention(aggregate_type=aggregate_type) if row is None else _retention(row)


def retentions(store: AggregateStore, tenant_id: str) -> list[Retention]:
    """The types of aggregates whose events are not kept without end."""
    with store.reading("reading the retention of aggregates") as db:
        return list(map(_retention, db.execute(SQL["select_retentions"], (tenant_id,))))


def tenants_with_retention(store: AggregateStore) -> list[str]:
    """The tenants that have such types."""
    with store.reading("reading the retention of aggregates") as db:
        return [tenant_id for (tenant_id,) in db.execute(SQL["select_tenants_with_retention"])]


def _retention(row: Sequence[Any]) -> Retention:
    aggregate_type, max_age_ms, max_count, fold = row
    return Retention(aggregate_type=aggregate_type, max_age_ms=max_age_ms, max_count=max_count, fold=fold)


def _is_limit(retention: Retention) -> bool:
    return retention.max_age_ms is not None or retention.max_count is not None


def due_events(store: AggregateStore, tenant_id: str, retention: Retention, now_ms: int) -> Iterator[DueEvents]:
    """What is to be dropped, aggregate by aggregate, in the order of their ids. Archived aggregates are left as they are."""
    after = ""
    while True:
        with store.reading("looking for old events") as db:
            category = db.execute(SQL["select_category"], (tenant_id, retention.aggregate_type)).fetchone()
            if category is None or not _is_limit(retention):
                return
            old = 0 if retention.max_age_ms is None else _last_before(db, now_ms - retention.max_age_ms)
            most = _NEVER if retention.max_count is None else retention.max_count
            wanted = {"category_no": category[0], "after": after, "old": old, "max_count": most, "count": _PAGE}
            rows = db.execute(SQL["select_due"], wanted).fetchall()
            found = [_due(db, retention, old, row) for row in rows]
        yield from found
        if len(rows) < _PAGE:
            return
        after = rows[-1][1]


def _due(db: Connection, retention: Retention, old: int, row: Sequence[Any]) -> DueEvents:
    number, aggregate_id, begin_version, first_version, last_version, first_position = row
    until = 0 if retention.max_count is None else last_version - retention.max_count
    if first_position <= old:
        until = max(until, db.execute(SQL["select_version_until"], (number, old)).fetchone()[0])
    return DueEvents(
        aggregate_id=aggregate_id,
        aggregate_type=retention.aggregate_type,
        begin_version=begin_version,
        until_version=until,
        events=until - first_version + 1,
    )


def _last_before(db: Connection, time_ms: int) -> int:
    """The position of the last event that was recorded before a time; positions and times grow together."""
    low, high = 0, select_head(db)
    while low < high:
        middle = (low + high + 1) // 2
        row = db.execute(SQL["select_record_from"], (middle,)).fetchone()
        if row is None or decode_event(row[1]).recorded_at_ms >= time_ms:
            high = middle - 1
        else:
            low = row[0]
    return low


def drop_due(store: AggregateStore, tenant_id: str, plan: Sequence[tuple[DueEvents, Snapshot]]) -> list[int]:
    """Drop events that are due, the oldest first, and keep what they had made as the base of their aggregate: both together.

    How many were dropped of each aggregate; one that was archived or deleted in the meantime is left alone.
    """
    counts = [0] * len(plan)
    at = 0
    while at < len(plan):
        left = AT_ONCE
        with store.writing("dropping old events of aggregates") as db:
            while at < len(plan) and left > 0:
                dropped, is_done = _drop_some(db, tenant_id, *plan[at], left)
                counts[at] += dropped
                left -= max(dropped, 1)
                at += is_done
    return counts


def _drop_some(db: Connection, tenant_id: str, due: DueEvents, base: Snapshot, most: int) -> tuple[int, bool]:
    number, info = select_info(db, tenant_id, due.aggregate_id)
    if info.status is not AggregateStatus.ACTIVE or info.begin_version != due.begin_version:
        return 0, True
    until = min(due.until_version, base.version)
    events = [decode_event(record) for (record,) in db.execute(SQL["select_records"], (number, until, most))]
    if not events:
        return 0, True
    db.execute(SQL["replace_base"], snapshot_row(number, base))
    last = events[-1].version
    db.executemany(SQL["delete_event_receipt"], [(tenant_id, event.event_id) for event in events])
    _drop_rows(db, number, last)
    db.execute(SQL["update_aggregate_gone"], (last, number))
    return len(events), last >= until
