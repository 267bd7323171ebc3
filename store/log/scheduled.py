"""Scheduled events of the embedded log: kept aside in a table of their own until they are due.

A row is written in the transaction of the append and removed in the one that appends the event to its stream. So each event is
in one of the two, whatever happens, and one that several processes want to release is released by the first: the others find no
row any more.
"""

import json
import logging
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import CorruptLogError, InvalidInputError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import (
    LANES,
    SCHEDULED_OFFSET,
    CompressionType,
    Event,
    Position,
    Receipt,
    Split,
)
from event_streaming_bus.store.log.base import Released, Schedule, ScheduledEvent, ScheduledPage
from event_streaming_bus.store.log.record_batch import RecordBatch, StoredBatch, checksum, store_events
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("log/scheduled.sql")
MAX_RELEASED: Final = 10_000
"""How many events are released in one transaction."""
MAX_RELEASED_BYTES: Final = 16 << 20
"""After so many stored bytes a transaction releases no more."""
MAX_PAGE_EVENTS: Final = 1000
_LOOK_EVERY_S: Final = 0.05
_RETRY_S: Final = 1.0
_PUT_OFF_MS: Final = 3_600_000
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_notes: Final = msgspec.msgpack.Decoder(list[bytes]).decode
_log: Final = logging.getLogger(__name__)


class DueEvent(msgspec.Struct, frozen=True):
    """An event that is due, and its row."""

    schedule_no: int
    event: Event
    split: Split
    notes_stream_id: str | None
    notes: bytes | None


class Notes:
    """What is to be told of events that are released: neighbours with the same notes are told of together."""

    def __init__(self) -> None:
        self._runs: dict[tuple[Split, str, bytes], tuple[int, int]] = {}
        self._told: dict[str, list[bytes]] = defaultdict(list)
        self._released_us = time.time_ns() // 1000

    def add(self, due: DueEvent, offset: int) -> None:
        """An event that came into its stream at ``offset``."""
        if due.notes_stream_id is None or due.notes is None:
            return
        key = (due.split, due.notes_stream_id, due.notes)
        first, count = self._runs.get(key, (offset, 0))
        if first + count != offset:
            self._tell(*key, first, count)
            first, count = offset, 0
        self._runs[key] = (first, count + 1)

    def told(self) -> dict[str, list[bytes]]:
        """The payloads for each stream of notes."""
        for key, run in self._runs.items():
            self._tell(*key, *run)
        self._runs.clear()
        return self._told

    def _tell(self, split: Split, stream_id: str, notes: bytes, first: int, count: int) -> None:
        for note in _decode_notes(notes):
            told = Released(note, split.stream_id, split.lane.value, split.partition, first, count, self._released_us)
            self._told[stream_id].append(_encode(told))


def encoded_notes(schedule: Schedule) -> list[bytes]:
    """The notes of each event as a row has them; none, if nobody is to be told."""
    if schedule.notes_stream_id is None:
        return []
    encoded = {id(each): _encode(each) for each in schedule.notes}  # of many events it is one and the same list
    return [encoded[id(each)] for each in schedule.notes]


def stored_event(split: Split, event: Event, now_ms: int) -> tuple[bytes, int]:
    """``(body, checksum)`` of an event that is kept aside for a split since ``now_ms``. Raises ``InvalidInputError`` for one that
    cannot be written."""
    stored = store_events([event], SCHEDULED_OFFSET, CompressionType.NONE, now_ms)
    return stored.body, checksum(split, stored)


def read_event(split: Split, timestamp_ms: int, kept_at_ms: int, body: bytes, digest: int) -> Event:
    """The event that ``stored_event`` has stored. Raises ``CorruptLogError`` if it is damaged."""
    stored = StoredBatch(SCHEDULED_OFFSET, 1, CompressionType.NONE, timestamp_ms, timestamp_ms, kept_at_ms, body)
    batch = RecordBatch(split, stored)
    if checksum(split, stored) != digest:
        raise batch.damaged("its checksum does not fit its contents")
    return batch.events()[0]


def keep_aside(
    db: sqlite3.Connection,
    tenant_id: str,
    split: Split,
    split_no: int,
    events: Iterable[tuple[int, Event]],
    schedule: Schedule,
    now_ms: int,
) -> dict[int, Receipt]:
    """Write the rows of events for one split, each with its index in the ``Append``; returns their receipts by index."""
    notes = encoded_notes(schedule)
    position = Position(split, SCHEDULED_OFFSET)
    receipts: dict[int, Receipt] = {}
    rows = []
    for i, event in events:
        due_ms = event.deliver_at_ms
        receipts[i] = Receipt(event.event_id, position, deliver_at_ms=due_ms)
        body, digest = stored_event(split, event, now_ms)
        rows.append(
            (
                due_ms,
                split_no,
                tenant_id,
                event.event_id,
                event.timestamp_ms,
                now_ms,
                schedule.notes_stream_id,
                notes[i] if notes else None,
                digest,
                body,
            )
        )
    db.executemany(SQL["insert_scheduled"], rows)
    fault_point("scheduled.kept")
    return receipts


def earliest_ms(db: sqlite3.Connection) -> int | None:
    """When the next scheduled event is due."""
    (due_ms,) = db.execute(SQL["select_earliest"]).fetchone()
    return None if due_ms is None else int(due_ms)


def find_waiting(db: sqlite3.Connection, tenant_id: str, event_ids: Iterable[str]) -> dict[str, Receipt]:
    """The receipts of those of the tenant's event ids that wait."""
    return {
        event_id: Receipt(event_id, Position(Split(stream_id, LANES[lane], partition), SCHEDULED_OFFSET), deliver_at_ms=due_ms)
        for event_id, due_ms, stream_id, lane, partition in db.execute(
            SQL["select_by_ids"], (tenant_id, json.dumps(list(event_ids)))
        )
    }


def take_due(db: sqlite3.Connection, now_ms: int) -> list[DueEvent]:
    """Take out the events that are due, within the bounds of one transaction, in their order.

    A row that is damaged, or of a format of later times, is put off by an hour, so that it holds up no other event.
    """
    due: list[DueEvent] = []
    put_off: list[int] = []
    size = 0
    rows = db.execute(SQL["select_due"], (now_ms, MAX_RELEASED))
    for row in rows:
        number, *_, notes_stream_id, notes, _, body = row
        try:
            split, event = _verified(row)
        except CorruptLogError as error:
            _log.error("A scheduled event cannot be delivered and is tried again in an hour: %s", error.message)
            put_off.append(number)
            continue
        due.append(DueEvent(number, event, split, notes_stream_id, notes))
        size += len(body)
        if size >= MAX_RELEASED_BYTES:
            break
    rows.close()
    db.executemany(SQL["put_off"], [(now_ms + _PUT_OFF_MS, number) for number in put_off])
    db.executemany(SQL["delete_scheduled"], [(each.schedule_no,) for each in due])
    if not due:
        db.execute(SQL["delete_orphans"], (now_ms,))
    return due


def page_of(db: sqlite3.Connection, tenant_id: str, stream_id: str | None, limit: int, cursor: str | None) -> ScheduledPage:
    """See ``EventLog.scheduled``. Rows that cannot be read are left out."""
    due_ms, number = place_of(cursor)
    wanted = min(max(limit, 1), MAX_PAGE_EVENTS)
    given = {"tenant_id": tenant_id, "stream_id": stream_id, "due_ms": due_ms, "schedule_no": number, "limit": wanted + 1}
    rows = db.execute(SQL["select_page"], given).fetchall()
    found = []
    for row in rows[:wanted]:
        try:
            split, event = _verified(row)
        except CorruptLogError:
            continue
        found.append(ScheduledEvent(event, split, row[1], row[7]))
    return ScheduledPage(found, f"{rows[wanted - 1][1]}-{rows[wanted - 1][0]}" if len(rows) > wanted else None)


def cancel(db: sqlite3.Connection, tenant_id: str, event_id: str) -> bool:
    """See ``EventLog.cancel_scheduled``."""
    return db.execute(SQL["delete_by_id"], (tenant_id, event_id)).rowcount > 0


def drop_scheduled(db: sqlite3.Connection, split_nos: Iterable[int]) -> None:
    """Forget what waits for these splits."""
    db.executemany(SQL["delete_by_split"], [(split_no,) for split_no in split_nos])
    fault_point("stream.dropping")


def place_of(cursor: str | None) -> tuple[int, int]:
    """``(due_ms, number)`` of the last row of the page before. Raises ``InvalidInputError``."""
    if cursor is None:
        return -(1 << 63), 0
    due_ms, _, number = cursor.rpartition("-")
    if not due_ms.removeprefix("-").isdecimal() or not number.isdecimal() or len(cursor) > 40:
        raise InvalidInputError(f"cursor: expected the next_cursor of an earlier page, got {cursor!r}")
    return int(due_ms), int(number)


def _verified(row: Sequence[Any]) -> tuple[Split, Event]:
    """The split and the event of a row. ``CorruptLogError`` if it is damaged."""
    _, _, _, stream_id, lane, partition, timestamp_ms, scheduled_at_ms, _, _, digest, body = row
    split = Split(stream_id, LANES[lane], partition)
    return split, read_event(split, timestamp_ms, scheduled_at_ms, body, digest)


class Alarm:
    """When the next scheduled event is due, as far as this process knows, and whether somebody sees to it.

    Other processes schedule events as well, so the alarm looks into the table: at most every 50 ms, and only if the log has
    changed. A look that misses what is being committed is made good by the next, since that changes the version. Where nothing is
    scheduled, that is all it costs.
    """

    def __init__(self) -> None:
        self._earliest_ms: int | None = None
        self._looked_s = float("-inf")
        self._version: int | None = None
        self._quiet_until_s = float("-inf")
        self._under_way = threading.Lock()

    def rings(self, db: sqlite3.Connection, version: int | None = None) -> bool:
        """Whether an event is due. ``version``: of the log, read on ``db`` before; ``None``: not known."""
        if time.monotonic() - self._looked_s >= _LOOK_EVERY_S and (version is None or version != self._version):
            self.set(earliest_ms(db), version)
        return self.is_ringing()

    def is_ringing(self) -> bool:
        """As ``rings``, without looking."""
        due_ms = self._earliest_ms
        return due_ms is not None and due_ms <= time.time_ns() // 1_000_000 and time.monotonic() >= self._quiet_until_s

    def looks_every_s(self, version: int) -> float:
        """How often at least to ask ``rings``, while the log has this version."""
        return _LOOK_EVERY_S if self._earliest_ms is not None or self._version != version else float("inf")

    def set(self, earliest_ms: int | None, version: int | None = None) -> None:
        """Note when the next event is due."""
        self._earliest_ms, self._version, self._looked_s = earliest_ms, version, time.monotonic()

    def begin(self) -> bool:
        """Whether nobody of this process sees to it; then the caller does, until it calls ``end``."""
        return self._under_way.acquire(blocking=False)

    def end(self) -> None:
        """See ``begin``."""
        self._under_way.release()

    def failed(self, *, is_to_blame: bool) -> None:
        """A transaction that released has failed. If the release may be to blame, as on a full disk, it has a second's rest."""
        if is_to_blame:
            self._quiet_until_s = time.monotonic() + _RETRY_S
