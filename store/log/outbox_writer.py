"""Keeping what callers append in the outbox: whole calls, each with its condition, in one transaction of the database."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

from event_streaming_bus.errors import BusError, StreamChangedError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import Event, Position, Receipt, Split, StreamInfo
from event_streaming_bus.store.database import Connection
from event_streaming_bus.store.log.base import Append, AppendResult, Condition, Journal
from event_streaming_bus.store.log.outbox_inner import InnerLog, KnownStreams
from event_streaming_bus.store.log.outbox_rows import Kept, find_waiting, insert_rows, row_of
from event_streaming_bus.store.log.scheduled import encoded_notes

Outcome = list[AppendResult] | BusError


class OutboxRequest:
    """One call of ``append``, on its way into a transaction."""

    __slots__ = ("appends", "condition", "future", "journal", "weight")

    def __init__(self, appends: Sequence[Append], journal: Journal | None, condition: Condition[Connection] | None) -> None:
        self.appends = appends
        self.journal = journal
        self.condition = condition
        self.weight = 1 + sum(len(append.events) for append in appends)
        self.future: Future[list[AppendResult]] = Future()


def again(first: Receipt) -> Receipt:
    """The receipt for an event whose id was used before."""
    return Receipt(first.event_id, first.position, duplicate=True, deliver_at_ms=first.deliver_at_ms)


class Infos:
    """The streams of one transaction, each looked up once, before the transaction begins where possible."""

    def __init__(self, streams: KnownStreams) -> None:
        self._streams = streams
        self._found: dict[str, StreamInfo] = {}

    def of(self, stream_id: str) -> StreamInfo:
        """The stream with this id. Raises ``StreamNotFoundError``."""
        info = self._found.get(stream_id)
        if info is None:
            info = self._found[stream_id] = self._streams.info(stream_id)
        return info

    def brought_ids(self, appends: Sequence[Append]) -> dict[str, Collection[str]]:
        """The ids that callers made, by the tenant of the stream."""
        wanted: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for append in appends:
            info = self.of(append.stream_id)
            if append.events and not append.new_ids:
                wanted[info.tenant_id].update(dict.fromkeys(event.event_id for event in append.events))
        return dict(wanted)


class KnownIds:
    """Which ids are used, in the outbox and in the log.

    The log is asked beforehand, since it may take long to answer and a transaction keeps others waiting. What waited then and
    does not any more has come into the log in between, so the log is asked for it again.
    """

    def __init__(self, log: InnerLog) -> None:
        self._log = log
        self._asked: set[tuple[str, str]] = set()
        self._waited: set[tuple[str, str]] = set()
        self._places: dict[tuple[str, str], Position] = {}

    def look_up(self, db: Connection, wanted: Mapping[str, Collection[str]]) -> None:
        """Ask for ids, by tenant, before the transaction begins."""
        for tenant_id, event_ids in wanted.items():
            self._waited.update((tenant_id, event_id) for event_id in find_waiting(db, tenant_id, event_ids))
        for tenant_id, event_ids in wanted.items():
            self._ask(tenant_id, event_ids)

    def _ask(self, tenant_id: str, event_ids: Collection[str]) -> None:
        found = self._log.find_ids(tenant_id, list(event_ids)) if event_ids else {}
        self._asked.update((tenant_id, event_id) for event_id in event_ids)
        self._places.update(((tenant_id, event_id), position) for event_id, position in found.items())

    def find(self, db: Connection, tenant_id: str, event_ids: Collection[str]) -> dict[str, Receipt]:
        """The receipts of those of the ids that are used, as ``db`` and the log say; of one that both have, that of the log."""
        waiting = find_waiting(db, tenant_id, event_ids)
        new = [
            event_id
            for event_id in event_ids
            if (key := (tenant_id, event_id)) not in self._asked
            or (key in self._waited and event_id not in waiting and key not in self._places)
        ]
        self._ask(tenant_id, new)
        places = ((event_id, self._places.get((tenant_id, event_id))) for event_id in event_ids)
        return waiting | {event_id: Receipt(event_id, place) for event_id, place in places if place is not None}


class Transaction:
    """One transaction of the outbox. ``infos`` are the streams, and ``ids`` has looked up what callers brought."""

    def __init__(self, db: Connection, log: InnerLog, infos: Infos, ids: KnownIds) -> None:
        self._db = db
        self._log = log
        self._infos = infos
        self._ids = ids
        self._now_ms: Final = time.time_ns() // 1_000_000

    def admits(self, request: OutboxRequest) -> bool:
        """Whether to add the request, as its streams and its condition say. A ``BusError`` refuses it, and leaves the rest
        untouched."""
        for append in request.appends:
            config = self._infos.of(append.stream_id).config
            if append.checked is not None and append.checked != config:
                raise StreamChangedError
            for event in append.events:
                self._log.check(event)
        return request.condition is None or request.condition.admits(self._db)

    def add(self, request: OutboxRequest) -> list[AppendResult]:
        """Keep the events of a request. After an error the transaction must be given up."""
        taken: dict[tuple[str, str], Receipt] = {}
        kept: list[Kept] = []
        results = [self._keep(append, taken, kept) for append in request.appends]
        entry = None if request.journal is None else request.journal(results)
        if entry is not None:
            self._keep(entry, taken, kept)
        if request.condition is not None:
            request.condition.appended(self._db, results)
        rows = [row_of(each, self._now_ms) for each in kept]
        insert_rows(self._db, rows)
        fault_point("outbox.kept")
        return results

    def _keep(self, append: Append, taken: dict[tuple[str, str], Receipt], kept: list[Kept]) -> AppendResult:
        """The result of an append whose new events are added to ``kept``. ``taken``: ids of this very call."""
        info = self._infos.of(append.stream_id)
        tenant_id, partitions = info.tenant_id, info.config.partitions
        event_ids = [event.event_id for event in append.events]
        known = {} if append.new_ids else self._ids.find(self._db, tenant_id, dict.fromkeys(event_ids))
        keyless = (append.partition if append.partition is not None else time.monotonic_ns() // 1_000_000) % partitions
        notes = [] if append.schedule is None else encoded_notes(append.schedule)
        notes_stream_id = None if append.schedule is None else append.schedule.notes_stream_id
        receipts: list[Receipt] = []
        for i, event in enumerate(append.events):
            first = None if append.new_ids else known.get(event.event_id) or taken.get((tenant_id, event.event_id))
            if first is not None:
                receipts.append(again(first))
                continue
            partition = keyless if event.key is None else self._log.partition_of(event.key, partitions)
            due_ms = event.deliver_at_ms if append.schedule is not None and is_late(event, self._now_ms) else None
            split = Split(info.stream_id, event.priority, partition)
            new = Kept(tenant_id, event, split, due_ms, notes_stream_id if notes else None, notes[i] if notes else None)
            kept.append(new)
            receipts.append(new.receipt())
            taken[tenant_id, event.event_id] = receipts[-1]
        duplicates = sum(receipt.duplicate for receipt in receipts)
        return AppendResult(info.stream_id, event_ids, [], duplicates, lambda: receipts, len(receipts) - duplicates)


def is_late(event: Event, now_ms: int) -> bool:
    """Whether the event's time is still to come."""
    return event.deliver_at_ms is not None and event.deliver_at_ms > now_ms
