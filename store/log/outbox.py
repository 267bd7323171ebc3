"""The outbox: aggregates and delayed events for a log that keeps no event aside and knows no database.

What must be written in one transaction with a store, or not before its time, is first written to a table of the store's own
database, and is on disk there when ``append`` returns. A relay then brings it into the log.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import msgspec

from event_streaming_bus.errors import BusError, ClosedError, CorruptLogError, InvalidStateError, StorageError
from event_streaming_bus.models import Position, Receipt, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.database import Connection, Database, Place, open_database
from event_streaming_bus.store.log.base import Append, AppendResult, Condition, Journal, Mark, ScheduledPage
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.group_commit import GroupCommit
from event_streaming_bus.store.log.outbox_filter import Filtered, Waiting
from event_streaming_bus.store.log.outbox_inner import InnerLog, KnownStreams
from event_streaming_bus.store.log.outbox_relay import Relay
from event_streaming_bus.store.log.outbox_rows import SQL, cancel, drop_stream, find_waiting, is_empty, page_of
from event_streaming_bus.store.log.outbox_writer import (
    Infos,
    KnownIds,
    OutboxRequest,
    Outcome,
    Transaction,
    again,
    is_late,
)
from event_streaming_bus.store.log.record_batch import RecordBatch

_READ_BYTES: Final = 1 << 20


class OutboxLog:
    """An ``EventLog`` around another one, which it closes, with a database beside it.

    A call of ``append`` or ``submit`` that has a ``condition``, or a ``schedule`` and an event whose time is to come, goes
    through the outbox as a whole; it must have no marks. All else is the log's own business.

    - **Atomic**: all of such a call, and what its condition writes, is one transaction of the database.
    - **Later**: its receipts have the offset ``SCHEDULED_OFFSET``, also those of events that are due at once; these are in
      their streams as soon as the relay has appended them, in the order of their transactions. So events of a key keep the order
      of their appends among themselves; what is appended past the outbox may overtake them. While the log does not answer, all
      of them wait.
    - **Once**: an id is unique over the outbox and the log. Only where two callers use one id at the very same moment, one past
      the outbox and one through it, may both be told that their event is new; then one of the two comes.
    - **The journal** of such a call knows no positions; ``notes`` are told where events come.

    ``place`` is the database of the stores whose conditions are used, with the name that these transactions have there.
    ``find_ids`` is for conditions.
    """

    def __init__(self, log: InnerLog, place: Place, *, name: str = "aggregates", synchronous: str = "FULL") -> None:
        self.capabilities: Final = msgspec.structs.replace(capabilities_of(log), scheduling=True, outbox=True)
        self.inner: Final = log
        self._streams = KnownStreams(log)
        self._ids: KnownIds | None = None  # of the transaction that is being written
        self._written = 0
        self._closed = False
        tables = SQL["create_tables"]
        self._database: Database = open_database(place, tables=tables, name=name, synchronous=synchronous)
        self._hasty: Database = open_database(place, tables="", name=name, synchronous="NORMAL")
        self._commits = GroupCommit(self._commit, "esb-outbox-writer")
        self._relay = Relay(place, self._database, self._hasty, log)
        self._relay.start()

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[Connection] | None = None,
    ) -> list[AppendResult]:
        if (request := self._request(appends, marks, journal, condition)) is not None:
            self._commits.lead(request)
            return request.future.result()
        filtered = self._filtered(appends, journal)
        if filtered is None:
            return self.inner.append(appends, marks=marks, journal=journal)
        return filtered.results(self.inner.append(filtered.appends, marks=marks, journal=filtered.journal))

    def submit(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[Connection] | None = None,
    ) -> "Future[list[AppendResult]]":
        if (request := self._request(appends, marks, journal, condition)) is not None:
            self._commits.submit(request)
            return request.future
        filtered = self._filtered(appends, journal)
        if filtered is None:
            return self.inner.submit(appends, marks=marks, journal=journal)
        done: Future[list[AppendResult]] = Future()

        def settle(appended: "Future[list[AppendResult]]") -> None:
            error = appended.exception()
            if not done.set_running_or_notify_cancel():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(filtered.results(appended.result()))

        self.inner.submit(filtered.appends, marks=marks, journal=filtered.journal).add_done_callback(settle)
        return done

    def _request(
        self,
        appends: Sequence[Append],
        marks: Sequence[Mark],
        journal: Journal | None,
        condition: Condition[Connection] | None,
    ) -> OutboxRequest | None:
        """The call, if it has to go through the outbox."""
        if condition is None and not _is_delayed(appends):
            return None
        if self._closed:
            raise ClosedError
        if marks:
            raise InvalidStateError(
                "An append with marks cannot wait in the outbox: it would not be written in one transaction with them. Leave out "
                "the condition, or the times of delivery that are to come."
            )
        return OutboxRequest(appends, journal, condition)

    def _filtered(self, appends: Sequence[Append], journal: Journal | None) -> Filtered | None:
        """The call without the events whose ids wait in the outbox; ``None`` if there is none."""
        if self._closed or all(append.new_ids or not append.events for append in appends):
            return None
        waiting: list[Waiting] = []
        with self._database.querying("looking into the outbox") as db:
            if is_empty(db):
                return None
            for append in appends:
                by_id: Mapping[str, Receipt] = {}
                if append.events and not append.new_ids:
                    tenant_id = self._streams.info(append.stream_id).tenant_id
                    by_id = find_waiting(db, tenant_id, dict.fromkeys(event.event_id for event in append.events))
                    if by_id:  # what has come into the log, and is about to be deleted, is the log's
                        by_id = {i: by_id[i] for i in by_id.keys() - self.inner.find_ids(tenant_id, list(by_id)).keys()}
                events = enumerate(append.events) if by_id else ()
                waiting.append({i: again(by_id[e.event_id]) for i, e in events if e.event_id in by_id})
        return Filtered(appends, waiting, journal) if any(waiting) else None

    def find_ids(self, db: Connection, tenant_id: str, event_ids: Mapping[str, object]) -> dict[str, Position]:
        """For a ``Condition``: the places of those of the tenant's event ids that are used; of one that waits, with the offset
        ``SCHEDULED_OFFSET``."""
        found = (self._ids or KnownIds(self.inner)).find(db, tenant_id, list(event_ids))
        return {event_id: receipt.position for event_id, receipt in found.items()}

    def _commit(self, requests: list[OutboxRequest]) -> None:
        """Write all requests in one transaction; where one of them spoils it, halve them until it is alone."""
        try:
            outcomes = self._write(requests)
        except BaseException as error:
            hits_all = isinstance(error, StorageError) and not isinstance(error, CorruptLogError)
            if len(requests) > 1 and not hits_all:
                half = len(requests) // 2
                self._commit(requests[:half])
                self._commit(requests[half:])
                return
            for request in requests:
                request.future.set_exception(error)
            return
        finally:
            self._ids = None
        self._written += 1
        self._relay.wake()
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, BusError):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)

    def _write(self, requests: list[OutboxRequest]) -> list[Outcome]:
        infos, ids = Infos(self._streams), KnownIds(self.inner)
        self._ids = ids
        outcomes = self._look_up(requests, infos, ids)
        with self._database.transaction("appending by the outbox") as db:
            transaction = Transaction(db, self.inner, infos, ids)
            for i, request in enumerate(requests):
                if i in outcomes:
                    continue
                try:
                    is_admitted = transaction.admits(request)
                except StorageError:
                    raise
                except BusError as error:
                    outcomes[i] = error
                    continue
                outcomes[i] = transaction.add(request) if is_admitted else []
        return [outcomes[i] for i in range(len(requests))]

    def _look_up(self, requests: Sequence[OutboxRequest], infos: Infos, ids: KnownIds) -> dict[int, Outcome]:
        """Ask the log for the streams of the requests and for the ids that they bring; returns those that it does not answer, by
        index: who asks for nothing is not held up by those who do."""
        failed: dict[int, Outcome] = {}
        brought: dict[int, dict[str, Collection[str]]] = {}
        for i, request in enumerate(requests):
            try:
                if wanted := infos.brought_ids(request.appends):
                    brought[i] = wanted
            except BusError as error:
                failed[i] = error
        if not brought:
            return failed
        together: dict[str, dict[str, None]] = {}
        for wanted in brought.values():
            for tenant_id, event_ids in wanted.items():
                together.setdefault(tenant_id, {}).update(dict.fromkeys(event_ids))
        try:
            with self._database.querying("looking into the outbox") as db:
                ids.look_up(db, together)
        except BusError as error:
            failed |= dict.fromkeys(brought, error)
        return failed

    # --- scheduled events ---------------------------------------------------------------------------------------------

    def scheduled(
        self, tenant_id: str, stream_id: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> ScheduledPage:
        with self._database.querying("listing scheduled events") as db:
            return page_of(db, tenant_id, stream_id, limit, cursor)

    def cancel_scheduled(self, tenant_id: str, event_id: str) -> bool:
        with self._database.transaction(f"cancelling the delivery of {event_id}") as db:
            return cancel(db, tenant_id, event_id)

    def drop_stream(self, stream_id: str) -> None:
        self.inner.drop_stream(stream_id)
        with self._database.transaction("dropping what waits for a stream") as db:
            drop_stream(db, stream_id)

    # --- what is the log's own ----------------------------------------------------------------------------------------

    def create_stream(self, config: StreamConfig, stream_id: str | None = None) -> StreamInfo:
        return self.inner.create_stream(config, stream_id)

    def set_stream_schema(self, stream_id: str, schema_id: str | None) -> StreamInfo:
        return self.inner.set_stream_schema(stream_id, schema_id)

    def find_stream(self, tenant_id: str, reference: str) -> StreamInfo:
        return self.inner.find_stream(tenant_id, reference)

    def list_streams(self, tenant_id: str | None = None, *, internal: bool = False) -> list[StreamInfo]:
        return self.inner.list_streams(tenant_id, internal=internal)

    def read(self, split: Split, offset: int, max_bytes: int = _READ_BYTES) -> list[RecordBatch]:
        return self.inner.read(split, offset, max_bytes)

    def locate(self, tenant_id: str, event_id: str) -> Receipt | None:
        return self.inner.locate(tenant_id, event_id)

    def begin_offsets(self, stream_id: str) -> dict[Split, int]:
        return self.inner.begin_offsets(stream_id)

    def end_offsets(self, stream_id: str) -> dict[Split, int]:
        return self.inner.end_offsets(stream_id)

    def offset_for_time(self, split: Split, time_ms: int) -> int:
        return self.inner.offset_for_time(split, time_ms)

    def stored_bytes(self, stream_id: str) -> int:
        return self.inner.stored_bytes(stream_id)

    def commit(self, group: str, offsets: Mapping[Split, int]) -> None:
        self.inner.commit(group, offsets)

    def committed(self, group: str) -> dict[Split, int]:
        return self.inner.committed(group)

    def marks(self, owner: str) -> dict[str, bytes]:
        return self.inner.marks(owner)

    def drop_marks(self, owner: str) -> None:
        self.inner.drop_marks(owner)

    def version(self) -> int:
        """The log's, and one more for each transaction of this process's outbox."""
        return self.inner.version() + self._written

    def wait(self, positions: Mapping[Split, int], timeout_s: float) -> bool:
        return self.inner.wait(positions, timeout_s)

    def enforce_retention(self, now_ms: int | None = None) -> int:
        return self.inner.enforce_retention(now_ms)

    def drop_before(self, split: Split, offset: int) -> int:
        return self.inner.drop_before(split, offset)

    def close(self) -> None:
        """Finish what was submitted, then close. What waits stays in the outbox."""
        if self._closed:
            return
        self._commits.close()
        self._closed = True
        self._relay.close()
        self.inner.close()
        self._hasty.close()
        self._database.close()


def _is_delayed(appends: Sequence[Append]) -> bool:
    """Whether an event's time is to come."""
    scheduled = [append for append in appends if append.schedule is not None]
    now_ms = time.time_ns() // 1_000_000 if scheduled else 0
    return any(is_late(event, now_ms) for append in scheduled for event in append.events)
