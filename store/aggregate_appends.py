"""Appending to aggregates: what must hold is looked at, and what is appended recorded, in the transaction that appends the events
to their streams."""

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, InvalidStateError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import SCHEDULED_OFFSET, Event, Position, Receipt, Split
from event_streaming_bus.store.aggregate_errors import ConditionNotMetError, VersionConflictError
from event_streaming_bus.store.aggregates import (
    SQL,
    AggregateStatus,
    decode_event,
    encode_event,
    first_fitting,
    select_events,
    select_head,
)
from event_streaming_bus.store.database import Connection
from event_streaming_bus.store.log.base import AppendResult
from event_streaming_bus.store.log.conditional import FindIds
from event_streaming_bus.store.recorded import EventQuery, Recorded, RecordedEvent

MOST_TOLD: Final = 100
"""So many of the events that came between are told of in a conflict."""


class Expectation(StrEnum):
    """What an append expects of an aggregate, other than a version."""

    ANY = "any"
    NO_STREAM = "no_stream"
    STREAM_EXISTS = "stream_exists"


ExpectedVersion: TypeAlias = int | Expectation


class AggregateAppend(msgspec.Struct, frozen=True, kw_only=True):
    """Events for one aggregate, one after the other, if it is as ``expected``: at this version (0: it has no events), or as the
    ``Expectation`` says. Each has the aggregate's id and type in its envelope."""

    aggregate_id: str
    aggregate_type: str
    expected: ExpectedVersion
    events: Sequence[Event]


class Unless(msgspec.Struct, frozen=True):
    """Refuse the append if there is an event that fits ``query`` after the position ``after``."""

    query: EventQuery
    after: int = 0


class _Target(NamedTuple):
    """An aggregate as it is found: its row, if it has one, its category's, and the version that it is at. ``is_empty``: it was
    deleted and has had no event since."""

    aggregate_no: int | None
    category_no: int | None
    version: int
    is_empty: bool = False


class Recording:
    """The ``Condition`` of an append to the log that records its events in their aggregates.

    ``receipts`` makes the receipts of all events of all ``appends``, in order, from the results of the log. ``own_ids``: all ids
    were made for this append. ``find_ids`` tells which ids the log holds. ``keeps_ids``: what the log holds cannot be told from
    the database alone, so all ids are kept there. ``recorded`` is there once the log's append has returned: a proof for each
    event, in order.
    """

    def __init__(
        self,
        tenant_id: str,
        appends: Sequence[AggregateAppend],
        receipts: Callable[[Sequence[AppendResult]], Sequence[Receipt]],
        *,
        own_ids: bool,
        find_ids: FindIds,
        keeps_ids: bool = False,
        unless: Unless | None = None,
    ) -> None:
        self._tenant_id = tenant_id
        self._appends = appends
        self._receipts = receipts
        self._own_ids = own_ids
        self._find_ids = find_ids
        self._keeps_ids = keeps_ids or not own_ids
        self._unless = unless
        self._targets: dict[str, _Target] = {}
        self.recorded: list[Recorded] = []

    def admits(self, db: Connection) -> bool:
        """Whether to append. Raises ``VersionConflictError``, ``ConditionNotMetError``;
        ``InvalidInputError`` for an aggregate of another type; ``InvalidStateError`` for one that takes no events;
        ``AlreadyExistsError`` for an id that another event has."""
        if not self._own_ids and self._was_recorded(db):
            return False
        self._targets = {}
        heights: dict[str, int] = {}
        types: dict[str, str] = {}
        for append in self._appends:
            target = self._targets.get(append.aggregate_id)
            if target is None:
                target = self._targets[append.aggregate_id] = self._find(db, append)
                types[append.aggregate_id] = append.aggregate_type
            elif types[append.aggregate_id] != append.aggregate_type:
                raise _other_type(append, types[append.aggregate_id])
            is_empty = target.is_empty and append.aggregate_id not in heights
            version = heights.get(append.aggregate_id, target.version)
            if not _is_expected(append.expected, version, is_empty):
                raise self._conflict(db, append, target, version)
            heights[append.aggregate_id] = version + len(append.events)
        if self._unless is not None:
            met = first_fitting(db, self._tenant_id, self._unless.query, self._unless.after, MOST_TOLD)
            if met:
                raise ConditionNotMetError(
                    f"There are events that this append was not to meet: the first is {met[0].event_type} ({met[0].event_id}) at "
                    f"position {met[0].position} of aggregate {met[0].aggregate_id}. Read them, and decide anew.",
                    position=met[-1].position,
                    events=list(map(_told, met)),
                )
        return True

    def appended(self, db: Connection, results: Sequence[AppendResult]) -> None:
        """Record the events. Raises ``AlreadyExistsError`` if the log has not appended one, since another has its id: one that
        was published in the same transaction, or waits for its time."""
        now_ms = _recording_ms(db)
        position = select_head(db)
        receipts = iter(self._receipts(results))
        heights: dict[str, int] = {}
        rows, kept = [], []
        self.recorded = []
        for append in self._appends:
            target = self._targets[append.aggregate_id]
            if target.aggregate_no is None:
                target = self._targets[append.aggregate_id] = self._make(db, append, target, now_ms)
            version = heights.get(append.aggregate_id, target.version)
            for event in append.events:
                receipt = next(receipts)
                waits = receipt.position.offset == SCHEDULED_OFFSET
                if receipt.duplicate or (waits and receipt.deliver_at_ms is not None):
                    raise _taken(event.event_id)
                place = None if waits else receipt.position
                position += 1
                version += 1
                record = _record(event, append, position, version, now_ms)
                type_no = _number(db, "event_type", event.event_type)
                row = position, target.aggregate_no, version, target.category_no, type_no, encode_event(record)
                rows.append(row)
                recorded = Recorded(event.event_id, append.aggregate_id, version, position, place)
                self.recorded.append(recorded)
                if self._keeps_ids:
                    kept.append((self._tenant_id, event.event_id, _receipt(recorded)))
            heights[append.aggregate_id] = version
        db.executemany(SQL["insert_event"], rows)
        if kept:
            db.executemany(SQL["insert_event_receipt"], kept)
        fault_point("aggregate.recorded")

    # --- what is found ------------------------------------------------------------------------------------------------

    def _was_recorded(self, db: Connection) -> bool:
        """Whether these very events were recorded before; then ``recorded`` says where."""
        event_ids = [event.event_id for append in self._appends for event in append.events]
        if len(set(event_ids)) < len(event_ids):
            raise InvalidInputError("event_id: the events of one append must have ids of their own", path="event_id")
        found: dict[str, Recorded] = {}
        for event_id in event_ids:
            row = db.execute(SQL["select_event_receipt"], (self._tenant_id, event_id)).fetchone()
            if row is not None:
                found[event_id] = _recorded(event_id, row[0])
        unknown = dict.fromkeys(event_id for event_id in event_ids if event_id not in found)
        if unknown:
            found |= self._found_in_aggregates(db, unknown)
        for append in self._appends:
            for event in append.events:
                there = found.get(event.event_id)
                if there is not None and there.aggregate_id != append.aggregate_id:
                    raise _taken(event.event_id)
        if not found:
            return False
        new = [event_id for event_id in event_ids if event_id not in found]
        if new:
            known = next(iter(found))
            raise AlreadyExistsError(
                f"event_id: {known!r} was appended before, {new[0]!r} was not, so this is not the same append again. Nothing was "
                "appended.",
                event_id=known,
            )
        self.recorded = [found[event_id] for event_id in event_ids]
        return True

    def _found_in_aggregates(self, db: Connection, event_ids: Mapping[str, None]) -> dict[str, Recorded]:
        """Those of the events that are in the aggregates appended to although their ids were not kept, as ids of our own making
        are not. Raises ``AlreadyExistsError`` for the id of an event that is elsewhere in the log."""
        positions = self._find_ids(db, self._tenant_id, event_ids)
        wanted = positions.keys() | filter(ids.is_event_id, event_ids)  # the stream may have dropped it by now
        found: dict[str, Recorded] = {}
        for aggregate_id in {append.aggregate_id for append in self._appends} if wanted else ():
            row = db.execute(SQL["select_aggregate"], (self._tenant_id, aggregate_id)).fetchone()
            for event in select_events(db, row[0]) if row is not None else ():
                if event.event_id in wanted:
                    found[event.event_id] = Recorded(
                        event.event_id, aggregate_id, event.version, event.position, positions.get(event.event_id), True
                    )
        for event_id in positions:
            if event_id not in found:
                raise _taken(event_id)
        return found

    def _find(self, db: Connection, append: AggregateAppend) -> _Target:
        category = db.execute(SQL["select_category"], (self._tenant_id, append.aggregate_type)).fetchone()
        row = db.execute(SQL["select_aggregate"], (self._tenant_id, append.aggregate_id)).fetchone()
        if row is None:
            return _Target(None, None if category is None else category[0], 0)
        aggregate_no, category_no, status, version, _, _, begin_version = row
        if category is None or category_no != category[0]:
            (there,) = db.execute(SQL["select_category_name"], (category_no,)).fetchone()
            raise _other_type(append, there)
        if status != AggregateStatus.ACTIVE:
            raise InvalidStateError(
                f"The aggregate '{append.aggregate_id}' is {status} and takes no events."
                + (" Restore it first." if status == AggregateStatus.ARCHIVED else ""),
                aggregate_id=append.aggregate_id,
            )
        return _Target(aggregate_no, category_no, version, is_empty=0 < begin_version == version)

    def _make(self, db: Connection, append: AggregateAppend, target: _Target, now_ms: int) -> _Target:
        category_no = target.category_no
        if category_no is None:
            category_no = _number(db, "category", self._tenant_id, append.aggregate_type)
        made = db.execute(SQL["insert_aggregate"], (self._tenant_id, append.aggregate_id, category_no, now_ms)).fetchone()
        return _Target(made[0], category_no, target.version)

    def _conflict(
        self, db: Connection, append: AggregateAppend, target: _Target, version: int
    ) -> VersionConflictError | InvalidInputError:
        expected = append.expected
        name = f"The aggregate '{append.aggregate_id}'"
        if isinstance(expected, int) and expected > version:
            return VersionConflictError(
                f"{name} is at version {version}; expected_version {expected} lies in the future. Read it again.",
                aggregate_id=append.aggregate_id,
                expected_version=expected,
                current_version=version,
                events=[],
            )
        between: list[RecordedEvent] = []
        if isinstance(expected, int) and target.aggregate_no is not None:
            between = select_events(db, target.aggregate_no, expected, expected + MOST_TOLD)
        if expected is Expectation.STREAM_EXISTS:
            told = f"{name} has no events, and the append expects some."
        elif expected is Expectation.NO_STREAM:
            told = f"{name} exists, at version {version}, and the append expects none."
        else:
            told = (
                f"{name} is at version {version}, not at {expected}: others have appended to it. Read it again, and decide anew."
            )
        return VersionConflictError(
            told,
            aggregate_id=append.aggregate_id,
            expected_version=expected,
            current_version=version,
            events=list(map(_told, between)),
        )


def _taken(event_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"event_id: {event_id!r} is the id of another event; nothing was appended", event_id=event_id)


def _other_type(append: AggregateAppend, there: str) -> InvalidInputError:
    return InvalidInputError(
        f"aggregate_type: the aggregate '{append.aggregate_id}' is a {there}, not a {append.aggregate_type}",
        path="aggregate_type",
    )


def _is_expected(expected: ExpectedVersion, version: int, is_empty: bool) -> bool:
    if expected is Expectation.ANY:
        return True
    if expected is Expectation.NO_STREAM:
        return version == 0 or is_empty
    if expected is Expectation.STREAM_EXISTS:
        return version > 0 and not is_empty
    return expected == version


def _record(event: Event, append: AggregateAppend, position: int, version: int, now_ms: int) -> RecordedEvent:
    return RecordedEvent(
        position,
        append.aggregate_id,
        append.aggregate_type,
        version,
        event.event_type,
        event.event_id,
        event.timestamp_ms,
        now_ms,
        event.data,
        event.metadata,
        event.correlation_id,
        event.causation_id,
        event.user_id,
        event.schema_id,
        event.serialization_format,
        event.tenant_id,
    )


def _number(db: Connection, kind: str, *names: str) -> int:
    """The number of a category or an event type, given one if it has none."""
    row = db.execute(SQL[f"select_{kind}"], names).fetchone()
    if row is not None:
        return int(row[0])
    return int(db.execute(SQL[f"insert_{kind}"], names).fetchone()[0])


def _recording_ms(db: Connection) -> int:
    """When an event is recorded by which this is asked: now, and not before the last one, if the clock was set back since. What
    goes by the age of events relies on times that grow with positions."""
    now_ms = time.time_ns() // 1_000_000
    newest = db.execute(SQL["select_newest_record"]).fetchone()
    return now_ms if newest is None else max(now_ms, decode_event(newest[0]).recorded_at_ms)


def _receipt(recorded: Recorded) -> bytes:
    place = recorded.place
    split = None if place is None else (str(place.split), place.offset)
    return msgspec.msgpack.encode((recorded.position, recorded.aggregate_id, recorded.version, split))


def _recorded(event_id: str, data: bytes) -> Recorded:
    position, aggregate_id, version, split = msgspec.msgpack.decode(data)
    place = None if split is None else Position(Split.parse(split[0]), split[1])
    return Recorded(event_id, aggregate_id, version, position, place, duplicate=True)


def _told(event: RecordedEvent) -> Mapping[str, Any]:
    """An event as a conflict tells of it."""
    told: dict[str, Any] = {
        "position": event.position,
        "aggregate_id": event.aggregate_id,
        "version": event.version,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "timestamp_ms": event.timestamp_ms,
    }
    try:
        return told | {"event_data": event.payload}
    except msgspec.DecodeError:
        return told
