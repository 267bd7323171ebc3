"""The relay: brings what waits in the outbox into its streams, in order, each event once.

It appends a batch of rows to the log and deletes them afterwards. If it ends in between, the next relay appends them again, and
the log knows their ids. Every process that has the outbox open has a relay; one of them works at a time.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError, InvalidInputError, StreamNotFoundError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import Event, Receipt
from event_streaming_bus.store.database import Database, Place, PostgresPlace
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.log.outbox_inner import InnerLog
from event_streaming_bus.store.log.outbox_rows import Due, delete_rows, is_due, put_off, select_due, take
from event_streaming_bus.store.log.outbox_turn import TRY_EVERY_S, turn
from event_streaming_bus.store.log.scheduled import DueEvent, Notes

MAX_EVENTS: Final = 1000
"""So many immediate events, and so many delayed ones, go in one append."""
MAX_BYTES: Final = 4 << 20
AT_OPENING: Final = 10_000
"""So many events that are due are appended before the opening of the log ends."""
_POLL_S: Final = 0.02
_RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_log: Final = logging.getLogger(__name__)


class Relay:
    """Relays from the outbox in ``place`` to ``log``. ``database`` has the outbox; ``hasty`` is the same database for what may be
    done again after a power failure."""

    def __init__(self, place: Place, database: Database, hasty: Database, log: InnerLog) -> None:
        self._place = place
        self._database = database
        self._hasty = hasty
        self._log = log
        self._try_every_s = TRY_EVERY_S[isinstance(place, PostgresPlace)]
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._failures = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bring what is due now, unless another process is at it, and what comes from now on, in a thread of its own."""
        with suppress(BusError), turn(self._place) as holds:
            left = AT_OPENING if holds is not None else 0
            while left > 0 and (count := self._relay()):
                left -= count
        self._thread = threading.Thread(target=self._run, name="esb-outbox-relay", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was written that is due at once."""
        self._changed.set()

    def close(self) -> None:
        """Stop when the batch that is under way is through."""
        self._stopped.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with turn(self._place) as holds:
                    if holds is not None:
                        self._serve(holds)
                self._stopped.wait(self._try_every_s)
            except Exception as error:  # whatever it is: what waits must not wait for a restart
                self._failed(error)

    def _serve(self, holds: Callable[[], bool]) -> None:
        """Relay as long as it is this process's turn."""
        while not self._stopped.is_set() and holds():
            self._changed.clear()
            count = self._relay()
            if self._failures:
                self._failures = 0
                _log.info("What waits in the outbox is brought into its streams again.")
            if not count:
                self._changed.wait(_POLL_S)

    def _failed(self, error: Exception) -> None:
        """Nothing is lost: what was not brought still waits. Told once, until it works again."""
        if self._stopped.is_set():
            return
        if not self._failures:
            is_known = isinstance(error, BusError)
            _log.warning(
                "What waits in the outbox cannot be brought into its streams yet, and is tried again: %s",
                error,
                exc_info=None if is_known else error,
            )
        self._stopped.wait(_RETRY_S[min(self._failures, len(_RETRY_S) - 1)])
        self._failures += 1

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _relay(self) -> int:
        """Bring a batch of rows into their streams; how many were dealt with."""
        now_ms = time.time_ns() // 1_000_000
        with self._hasty.querying("reading the outbox") as db:
            if not is_due(db, now_ms):
                return 0
            immediate = select_due(db, 0, 0, MAX_EVENTS, MAX_BYTES)
            delayed = self._taken(now_ms) if is_due(db, now_ms, delayed=True) else Due([], [])
        damaged = immediate.damaged + delayed.damaged
        if damaged:
            with self._hasty.transaction("putting off events of the outbox") as db:
                put_off(db, damaged, now_ms)
        count = len(damaged)
        for due in (immediate.events, delayed.events):
            while due:
                batch, due = _with_one_place_for_notes(due)
                self._settle(batch)
                count += len(batch)
        return count

    def _taken(self, now_ms: int) -> Due:
        """Delayed rows that are due, which nobody can cancel any more."""
        with self._database.transaction("taking events out of the outbox") as db:
            due = select_due(db, 1, now_ms, MAX_EVENTS, MAX_BYTES)
            take(db, due.events)
        return due

    def _settle(self, due: Sequence[DueEvent]) -> None:
        """Append rows and delete them; one that the log refuses is put off."""
        present = [each for each in due if self._is_there(each.split.stream_id)]
        try:
            fault_point("outbox.relay")
            if present:
                self._append(present)
        except InvalidInputError as error:
            self._settle_apart(due, error)
        else:
            fault_point("outbox.relayed")
            with self._hasty.transaction("emptying the outbox") as db:
                delete_rows(db, [each.schedule_no for each in due])

    def _settle_apart(self, due: Sequence[DueEvent], error: InvalidInputError) -> None:
        """Find the row that the log refuses."""
        if len(due) > 1:
            half = len(due) // 2
            self._settle(due[:half])
            self._settle(due[half:])
            return
        event_id = due[0].event.event_id
        _log.error("The event %s of the outbox cannot be appended and is tried again in an hour: %s", event_id, error.message)
        with self._database.transaction("putting off an event of the outbox") as db:
            put_off(db, [due[0].schedule_no], time.time_ns() // 1_000_000)

    def _is_there(self, stream_id: str) -> bool:
        """Whether there is such a stream: what waits for one that was dropped is dropped with it."""
        try:
            self._log.stream_info(stream_id)
        except StreamNotFoundError:
            return False
        return True

    def _append(self, due: Sequence[DueEvent]) -> None:
        of_split: dict[tuple[str, int], list[DueEvent]] = {}
        for each in due:
            of_split.setdefault((each.split.stream_id, each.split.partition), []).append(each)
        appends = [
            Append(stream_id, [each.event for each in parts], partition=partition)
            for (stream_id, partition), parts in of_split.items()
        ]
        told = next((each.notes_stream_id for each in due if each.notes_stream_id is not None), None)
        is_told = told is not None and self._is_there(told)
        self._log.append(appends, journal=_journal(list(of_split.values()), self._log) if is_told else None)


def _with_one_place_for_notes(due: list[DueEvent]) -> tuple[list[DueEvent], list[DueEvent]]:
    """The first rows, whose notes all go to one stream, and the others: a transaction has one stream that it tells."""
    streams: set[str] = set()
    for i, each in enumerate(due):
        if each.notes_stream_id is not None:
            streams.add(each.notes_stream_id)
            if len(streams) > 1:
                return due[:i], due[i:]
    return due, []


def _journal(parts: Sequence[Sequence[DueEvent]], log: InnerLog) -> Callable[[Sequence[AppendResult]], Append | None]:
    """What is told of rows that are appended. Of those that had been appended before, it was told then."""

    def journal(results: Sequence[AppendResult]) -> Append | None:
        notes, now_ms = Notes(), time.time_ns() // 1_000_000
        for due, result in zip(parts, results, strict=True):
            receipts: Sequence[Receipt] = result.receipts()
            for each, receipt in zip(due, receipts, strict=True):
                if not receipt.duplicate:
                    notes.add(each, receipt.position.offset)
        for stream_id, told in notes.told().items():
            events = [Event(ids.new_id(ids.EVENT), "log.released", now_ms, data, tenant_id=tenants[stream_id]) for data in told]
            return Append(stream_id, events, new_ids=True)
        return None

    told_of = {each.notes_stream_id for due in parts for each in due if each.notes_stream_id is not None}
    tenants = {stream_id: log.stream_info(stream_id).tenant_id for stream_id in told_of}
    return journal
