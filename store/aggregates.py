"""The event store: the events of each aggregate, in the order of versions, and of all of them, in the order of recording.

It lies in the log's own database, so that an event is in its aggregate and on its stream by one transaction. It keeps events
itself: what a stream's retention drops is still in its aggregate. Appending is in ``aggregate_appends``, what ends the life of
events in ``aggregate_lifecycle``.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.aggregate_archives import unpack
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError
from event_streaming_bus.store.aggregate_snapshots import Snapshot, read_snapshot, snapshot_row
from event_streaming_bus.store.database import Connection, Place, open_database
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.recorded import EVERY_EVENT, EventQuery, RecordedEvent
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("aggregates.sql")
MAX_PAGE_EVENTS: Final = 100_000
_LAST: Final = (1 << 63) - 1
_POLL_S: Final = 0.005
_ASK_S: Final = 0.03
_LOOKED_AT: Final = 4096

decode_event: Final = msgspec.msgpack.Decoder(RecordedEvent).decode
encode_event: Final = msgspec.msgpack.Encoder().encode


class AggregateStatus(StrEnum):
    """ACTIVE: it takes events. EMPTY: it was deleted, and takes events again. ARCHIVED: it is closed and stays readable. DELETED:
    it was deleted and closed for ever."""

    ACTIVE = "ACTIVE"
    EMPTY = "EMPTY"
    ARCHIVED = "ARCHIVED"
    DELETED = "DELETED"


class AggregateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregate as it is. ``version`` is that of its newest event; events up to ``gone_version`` are no longer kept.

    Those up to ``begin_version`` were deleted with all that they had made, so a fold begins behind them; what else is gone was
    dropped by retention, and what it had made is in a snapshot.
    """

    aggregate_id: str
    aggregate_type: str
    status: AggregateStatus
    version: int
    gone_version: int
    begin_version: int
    created_at_ms: int


class EventPage(msgspec.Struct, frozen=True):
    """Some events; ``position`` is how far it was looked, so go on after it; ``is_end``: there was nothing more."""

    events: list[RecordedEvent]
    position: int
    is_end: bool


class Material(NamedTuple):
    """What an aggregate is rebuilt of, as of one moment: a snapshot to go on from, and the events behind it."""

    info: AggregateInfo
    snapshot: Snapshot | None
    events: list[RecordedEvent]


class AggregateStore:
    """The aggregates of all tenants. Safe to use from any thread and any number of processes; every method blocks."""

    def __init__(self, place: Place, log: EventLog, *, synchronous: str = "FULL") -> None:
        self._log = log
        self._has_outbox = capabilities_of(log).outbox
        self._db = open_database(place, tables=SQL["create_tables"], name="aggregates", synchronous=synchronous)

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    @contextmanager
    def reading(self, doing: str) -> Iterator[Connection]:
        """A connection that sees the store as it is at one moment."""
        with self._db.reading(doing) as db:
            yield db

    @contextmanager
    def writing(self, doing: str) -> Iterator[Connection]:
        """A write transaction: kept at the end, undone if anything is raised."""
        with self._db.transaction(doing) as db:
            yield db

    # --- events -------------------------------------------------------------------------------------------------------

    def events(
        self, tenant_id: str, aggregate_id: str, *, after_version: int = 0, until_version: int | None = None
    ) -> list[RecordedEvent]:
        """The events of an aggregate with ``after_version < version <= until_version``, in the order of versions. None, if
        there is no such aggregate. Those of an archived one are read as before."""
        with self.reading(f"reading aggregate {aggregate_id}") as db:
            row = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            if row is None:
                return []
            return select_events(db, row[0], after_version, until_version)

    def read(
        self,
        tenant_id: str,
        query: EventQuery = EVERY_EVENT,
        *,
        after_position: int = 0,
        until_position: int | None = None,
        limit: int = 4096,
    ) -> EventPage:
        """The tenant's events that fit, in the order of positions, at most ``limit``.

        A page may be short, or empty, although more are to come: see ``is_end``. Whoever has read up to a position has missed
        none before it.
        """
        limit = max(1, min(limit, MAX_PAGE_EVENTS))
        with self.reading("reading events of aggregates") as db:
            until = select_head(db)
            if until_position is not None:
                until = min(until, until_position)
            if query.where is None:
                return _page(db, tenant_id, query, after_position, until, limit)
            page = _page(db, tenant_id, query, after_position, until, max(limit, _LOOKED_AT))
        events = [event for event in page.events if _fits(event, query.where)]
        if len(events) <= limit:
            return EventPage(events, page.position, page.is_end)
        return EventPage(events[:limit], events[limit - 1].position, is_end=False)

    def find_event(self, tenant_id: str, event_id: str) -> RecordedEvent | None:
        """The event of an aggregate with this id. Looked for by the log, so one that its retention has dropped is not found,
        unless the caller who appended it had brought the id, or the log has an outbox: then all ids are kept here."""
        with self.reading("looking for an event") as db:
            row = db.execute(SQL["select_event_receipt"], (tenant_id, event_id)).fetchone()
        if row is not None:
            _, aggregate_id, version, _ = msgspec.msgpack.decode(row[0])
            found = self.events(tenant_id, aggregate_id, after_version=version - 1, until_version=version)
            return found[0] if found else None
        if self._has_outbox:
            return None
        receipt = self._log.locate(tenant_id, event_id)
        if receipt is None:
            return None
        for batch in self._log.read(*receipt.position, 1):
            aggregate_id = batch.event(0).aggregate_id
            found = self.events(tenant_id, aggregate_id) if aggregate_id is not None else []
            return next((event for event in found if event.event_id == event_id), None)
        return None

    def head(self, tenant_id: str) -> int:
        """The position that was given last, to whichever tenant; 0 if none was."""
        with self.reading("looking for the newest event") as db:
            return select_head(db)

    def wait(self, tenant_id: str, after_position: int, timeout_s: float) -> bool:
        """Block until there is a position after this one, at most so long; whether there is. Wakes within 100 ms of an append by
        any process."""
        deadline_s = time.monotonic() + timeout_s
        seen = None
        while True:
            version = (
                None if self._has_outbox else self._log.version()
            )  # by an outbox, events are here before they are in the log
            if version is None or version != seen:
                seen = version
                if self.head(tenant_id) > after_position:
                    return True
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(_POLL_S if version is not None else _ASK_S, left_s))

    # --- aggregates ---------------------------------------------------------------------------------------------------

    def find(self, tenant_id: str, aggregate_id: str) -> AggregateInfo:
        """The aggregate with this id. Raises ``AggregateNotFoundError``."""
        with self.reading("looking for an aggregate") as db:
            return select_info(db, tenant_id, aggregate_id)[1]

    def material(
        self,
        tenant_id: str,
        aggregate_id: str,
        fold_hash: str,
        *,
        until_version: int | None = None,
        until_ms: int | None = None,
        open_snapshot: Callable[[Snapshot], Snapshot | None] = lambda snapshot: snapshot,
    ) -> Material:
        """What the fold needs to rebuild an aggregate of its events up to a version, or with a timestamp up to ``until_ms``.

        ``open_snapshot`` makes a snapshot readable, or says that it is not: then it is as if it were not there.
        Whether events in between are gone is for the caller to see. Raises ``AggregateNotFoundError``.
        """
        with self.reading(f"rebuilding aggregate {aggregate_id}") as db:
            aggregate_no, info = select_info(db, tenant_id, aggregate_id)
            row = db.execute(SQL["select_snapshot"], (aggregate_no, fold_hash)).fetchone()
            kept = [] if row is None else [read_snapshot(fold_hash, *row)]
            base = db.execute(SQL["select_base"], (aggregate_no,)).fetchone() if info.gone_version > info.begin_version else None
            if base is not None and base[0] == fold_hash:
                kept.append(read_snapshot(*base))
            usable = [
                each
                for each in kept
                if (until_version is None or each.version <= until_version)
                and (until_ms is None or each.max_timestamp_ms <= until_ms)
            ]
            usable.sort(key=lambda each: each.version, reverse=True)
            snapshot = next((opened for each in usable if (opened := open_snapshot(each)) is not None), None)
            begin = info.begin_version if snapshot is None else snapshot.version
            events = select_events(db, aggregate_no, begin, until_version)
        if until_ms is not None:
            events = [event for event in events if event.timestamp_ms <= until_ms]
        return Material(info, snapshot, events)

    def categories(self, tenant_id: str) -> list[str]:
        """The types that the tenant has aggregates of, or has set a retention for."""
        with self.reading("listing categories") as db:
            return [name for _, name in db.execute(SQL["select_categories"], (tenant_id,))]

    def list_aggregates(
        self, tenant_id: str, aggregate_type: str, *, status: AggregateStatus | None = None, after: str = "", limit: int = 100
    ) -> list[AggregateInfo]:
        """Aggregates of a type in the order of their ids, those after the id ``after``."""
        with self.reading("listing aggregates") as db:
            category = db.execute(SQL["select_category"], (tenant_id, aggregate_type)).fetchone()
            if category is None:
                return []
            wanted = {
                "category_no": category[0],
                "after": after,
                "status": None if status is None else status.value,
                "count": limit,
            }
            rows = db.execute(SQL["select_aggregates"], wanted).fetchall()
        return [_info(aggregate_id, aggregate_type, (0, *row)) for aggregate_id, *row in rows]

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def snapshot(self, tenant_id: str, aggregate_id: str, fold_hash: str) -> Snapshot | None:
        """The snapshot that this very fold has made of an aggregate, if there is one."""
        with self.reading("reading a snapshot") as db:
            aggregate = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            if aggregate is None:
                return None
            row = db.execute(SQL["select_snapshot"], (aggregate[0], fold_hash)).fetchone()
        return None if row is None else read_snapshot(fold_hash, *row)

    def snapshots(self, tenant_id: str, aggregate_id: str) -> list[Snapshot]:
        """All snapshots of an aggregate, those of other folds included."""
        with self.reading("reading snapshots") as db:
            aggregate = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            rows = [] if aggregate is None else db.execute(SQL["select_snapshots"], (aggregate[0],)).fetchall()
        return [read_snapshot(*row) for row in rows]

    def base(self, tenant_id: str, aggregate_id: str) -> Snapshot | None:
        """What was left when retention dropped events of an aggregate: the state that they had made, by the fold of then."""
        with self.reading("reading the base of an aggregate") as db:
            aggregate = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            row = None if aggregate is None else db.execute(SQL["select_base"], (aggregate[0],)).fetchone()
        return None if row is None else read_snapshot(*row)

    def put_snapshot(self, tenant_id: str, aggregate_id: str, snapshot: Snapshot, *, alone: bool = False) -> None:
        """Keep a snapshot, unless there is a later one of the same fold, or its events were deleted meanwhile. ``alone``: those
        of other folds go."""
        with self.writing("keeping a snapshot") as db:
            row = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            if row is None:
                return
            aggregate_no, _, status, *_, begin_version = row
            if status == AggregateStatus.DELETED or snapshot.version <= begin_version:
                return
            if alone:
                db.execute(SQL["delete_other_snapshots"], (aggregate_no, snapshot.fold_hash))
            db.execute(SQL["upsert_snapshot"], snapshot_row(aggregate_no, snapshot))
            fault_point("aggregate.snapshot")

    def drop_snapshots(self, tenant_id: str, aggregate_id: str, *, even_base: bool = False) -> None:
        """Forget the snapshots of an aggregate. Its base stays, since nothing could make it anew; with ``even_base`` it goes as
        well, and the aggregate cannot be rebuilt any more."""
        with self.writing("dropping snapshots") as db:
            aggregate = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
            if aggregate is not None:
                db.execute(SQL["delete_snapshots"], (aggregate[0],))
                if even_base:
                    db.execute(SQL["delete_base"], (aggregate[0],))


def select_info(db: Connection, tenant_id: str, aggregate_id: str) -> tuple[int, AggregateInfo]:
    """``(its number, the aggregate)``. Raises ``AggregateNotFoundError``."""
    row = db.execute(SQL["select_aggregate"], (tenant_id, aggregate_id)).fetchone()
    if row is None:
        raise AggregateNotFoundError(f"There is no aggregate '{aggregate_id}'.", aggregate_id=aggregate_id)
    (aggregate_type,) = db.execute(SQL["select_category_name"], (row[1],)).fetchone()
    return row[0], _info(aggregate_id, aggregate_type, row)


def select_events(
    db: Connection, aggregate_no: int, after_version: int = 0, until_version: int | None = None
) -> list[RecordedEvent]:
    """The events of an aggregate, of some versions, wherever they are kept."""
    after_version, until = min(after_version, _LAST), min(_LAST if until_version is None else until_version, _LAST)
    rows = db.execute(SQL["select_events"], (aggregate_no, after_version, until)).fetchall()
    if rows:  # an archived aggregate has none here
        return [decode_event(record) for (record,) in rows]
    archive = db.execute(SQL["select_archive"], (aggregate_no,)).fetchone()
    if archive is None:
        return []
    (aggregate_id,) = db.execute(SQL["select_aggregate_id"], (aggregate_no,)).fetchone()
    events = map(decode_event, unpack(aggregate_id, archive))
    return [event for event in events if after_version < event.version <= until]


def select_head(db: Connection) -> int:
    """The position that was given last."""
    (head,) = db.execute(SQL["select_head"]).fetchone()
    return int(head)


def first_fitting(db: Connection, tenant_id: str, query: EventQuery, after_position: int, most: int) -> list[RecordedEvent]:
    """The first events after a position that fit."""
    found: list[RecordedEvent] = []
    until = select_head(db)
    while len(found) < most:
        page = _page(db, tenant_id, query, after_position, until, _LOOKED_AT if query.where is not None else most)
        found += page.events if query.where is None else [event for event in page.events if _fits(event, query.where)]
        after_position = page.position
        if page.is_end:
            break
    return found[:most]


def _page(db: Connection, tenant_id: str, query: EventQuery, after: int, until: int, limit: int) -> EventPage:
    """Events that fit but for ``where``."""
    categories = {name: no for no, name in db.execute(SQL["select_categories"], (tenant_id,))}
    types = query.aggregate_types
    wanted = [no for name, no in categories.items() if types is None or name in types]
    bounds: dict[str, Any] = {"after": after, "until": until, "count": limit}
    plain = query.event_types is None and query.aggregate_ids is None
    if not wanted or after >= until:
        return EventPage([], max(after, until), is_end=True)
    if plain and len(wanted) == 1 and len(categories) > 1:
        rows = db.execute(SQL["select_page_of_category"], bounds | {"category": wanted[0]}).fetchall()
    elif plain and len(wanted) == len(categories) and not db.execute(SQL["select_other_tenant"], (tenant_id,)).fetchone():
        rows = db.execute(SQL["select_page_of_all"], bounds).fetchall()
    else:
        chosen = bounds | {"categories": _json(wanted), "event_types": None, "aggregates": None}
        if query.event_types is not None:
            chosen["event_types"] = _json(_column(db, "select_event_types", _json(query.event_types)))
        if query.aggregate_ids is not None:
            chosen["aggregates"] = _json(_column(db, "select_aggregate_nos", tenant_id, _json(query.aggregate_ids)))
        rows = db.execute(SQL["select_page"], chosen).fetchall()
    events = [decode_event(record) for (record,) in rows]
    is_end = len(events) < limit
    return EventPage(events, until if is_end else events[-1].position, is_end)


def _column(db: Connection, query: str, *values: str) -> list[int]:
    return [row[0] for row in db.execute(SQL[query], values)]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _fits(event: RecordedEvent, where: Mapping[str, Any]) -> bool:
    try:
        payload = event.payload
    except msgspec.DecodeError:
        return False
    return isinstance(payload, dict) and all(name in payload and payload[name] == value for name, value in where.items())


def _info(aggregate_id: str, aggregate_type: str, row: Sequence[Any]) -> AggregateInfo:
    _, _, status, version, gone_version, created_at_ms, begin_version = row
    is_empty = status == AggregateStatus.ACTIVE and 0 < begin_version == version
    return AggregateInfo(
        aggregate_id=aggregate_id,
        aggregate_type=aggregate_type,
        status=AggregateStatus.EMPTY if is_empty else AggregateStatus(status),
        version=version,
        gone_version=gone_version,
        begin_version=begin_version,
        created_at_ms=created_at_ms,
    )
