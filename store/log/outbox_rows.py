"""The rows of the outbox: events that are on disk, and not in their streams yet.

A row is *immediate*, to be appended as soon as possible in the order of the numbers, or *delayed*: its event has a time that is
to come. A delayed row is *taken* before its event is appended; from then on it can no longer be cancelled. All functions work on
a connection that the caller has, in the caller's transaction if there is one.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import LANES, SCHEDULED_OFFSET, Event, Position, Receipt, Split
from event_streaming_bus.store.database import Connection
from event_streaming_bus.store.log.base import ScheduledEvent, ScheduledPage
from event_streaming_bus.store.log.scheduled import MAX_PAGE_EVENTS, DueEvent, place_of, read_event, stored_event
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("log/outbox.sql")
_PUT_OFF_MS: Final = 3_600_000
_log: Final = logging.getLogger(__name__)


class Kept(NamedTuple):
    """An event that is to be kept: the split it is for, when it is due (``None``: at once), and what to tell where it comes."""

    tenant_id: str
    event: Event
    split: Split
    deliver_at_ms: int | None
    notes_stream_id: str | None
    notes: bytes | None

    def receipt(self) -> Receipt:
        """Proof that it is kept."""
        position = Position(self.split, SCHEDULED_OFFSET)
        return Receipt(self.event.event_id, position, deliver_at_ms=self.deliver_at_ms)


def row_of(kept: Kept, now_ms: int) -> tuple[Any, ...]:
    """The row of an event. Raises ``InvalidInputError`` for one that cannot be written."""
    tenant_id, event, split, deliver_at_ms, notes_stream_id, notes = kept
    body, digest = stored_event(split, event, now_ms)
    return (
        deliver_at_ms or 0,
        deliver_at_ms,
        tenant_id,
        event.event_id,
        split.stream_id,
        LANES.index(split.lane),
        split.partition,
        event.timestamp_ms,
        now_ms,
        notes_stream_id,
        notes,
        digest,
        body,
    )


def insert_rows(db: Connection, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, in this order."""
    db.executemany(SQL["insert_row"], rows)


def is_empty(db: Connection) -> bool:
    """Whether nothing waits."""
    return db.execute(SQL["select_any"]).fetchone() is None


def is_due(db: Connection, now_ms: int, *, delayed: bool = False) -> bool:
    """Whether a row is due; with ``delayed``, a delayed one."""
    (due_ms,) = db.execute(SQL["select_earliest_delayed" if delayed else "select_earliest"]).fetchone()
    return due_ms is not None and due_ms <= now_ms


def find_waiting(db: Connection, tenant_id: str, event_ids: Collection[str]) -> dict[str, Receipt]:
    """The receipts of those of the tenant's event ids that wait."""
    if not event_ids:
        return {}
    rows = db.execute(SQL["select_by_ids"], (tenant_id, msgspec.json.encode(list(event_ids)).decode()))
    return {
        event_id: Receipt(event_id, Position(_split(stream_id, lane, partition), SCHEDULED_OFFSET), deliver_at_ms=deliver_at_ms)
        for event_id, stream_id, lane, partition, deliver_at_ms in rows
    }


def page_of(db: Connection, tenant_id: str, stream_id: str | None, limit: int, cursor: str | None) -> ScheduledPage:
    """See ``EventLog.scheduled``. Rows that cannot be read are left out."""
    due_ms, number = place_of(cursor)
    wanted = min(max(limit, 1), MAX_PAGE_EVENTS)
    given = {"tenant_id": tenant_id, "stream_id": stream_id, "due_ms": due_ms, "outbox_no": number, "count": wanted + 1}
    rows = db.execute(SQL["select_page"], given).fetchall()
    found = []
    for _, row_due_ms, row_stream_id, lane, partition, timestamp_ms, kept_at_ms, digest, body in rows[:wanted]:
        split = _split(row_stream_id, lane, partition)
        try:
            event = read_event(split, timestamp_ms, kept_at_ms, body, digest)
        except CorruptLogError:
            continue
        found.append(ScheduledEvent(event, split, row_due_ms, kept_at_ms))
    return ScheduledPage(found, f"{rows[wanted - 1][1]}-{rows[wanted - 1][0]}" if len(rows) > wanted else None)


def cancel(db: Connection, tenant_id: str, event_id: str) -> bool:
    """Forget a delayed row, unless it is taken; whether there was one."""
    return db.execute(SQL["delete_waiting"], (tenant_id, event_id)).rowcount > 0


def drop_stream(db: Connection, stream_id: str) -> None:
    """Forget what waits for a stream."""
    db.execute(SQL["delete_of_stream"], (stream_id,))


class Due(NamedTuple):
    """Rows that are due, in order, and the numbers of those that cannot be read."""

    events: list[DueEvent]
    damaged: list[int]


def select_due(db: Connection, begin_ms: int, until_ms: int, count: int, max_bytes: int) -> Due:
    """The rows that are due from one time to another, in their order: so many, and so many bytes of them, at the most, or one."""
    given = {"begin_ms": begin_ms, "until_ms": until_ms, "count": count, "max_bytes": max_bytes}
    found = Due([], [])
    for row in db.execute(SQL["select_due"], given):
        number, stream_id, lane, partition, timestamp_ms, kept_at_ms, notes_stream_id, notes, digest, body = row
        split = _split(stream_id, lane, partition)
        try:
            event = read_event(split, timestamp_ms, kept_at_ms, body, digest)
        except CorruptLogError as error:
            _log.error("An event of the outbox cannot be delivered and is tried again in an hour: %s", error.message)
            found.damaged.append(number)
            continue
        found.events.append(DueEvent(number, event, split, notes_stream_id, notes))
    return found


def take(db: Connection, due: Iterable[DueEvent]) -> None:
    """See to it that these delayed rows are not cancelled any more."""
    db.executemany(SQL["take"], [(each.schedule_no,) for each in due])


def put_off(db: Connection, numbers: Iterable[int], now_ms: int) -> None:
    """Leave rows alone for an hour, so that they hold up no other."""
    db.executemany(SQL["put_off"], [(now_ms + _PUT_OFF_MS, number) for number in numbers])


def delete_rows(db: Connection, numbers: Iterable[int]) -> None:
    """Take out rows: their events are in their streams, or have none."""
    db.executemany(SQL["delete_row"], [(number,) for number in numbers])


def _split(stream_id: str, lane: int, partition: int) -> Split:
    return Split(stream_id, LANES[lane], partition)
