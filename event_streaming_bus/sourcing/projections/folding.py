"""Projects batches of events: all of a batch in one transaction together with the position, so that each event counts once."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from event_streaming_bus.errors import StorageError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.sourcing.projections.classes import ClassProgram, Projection
from event_streaming_bus.sourcing.projections.definition import OnError, ProjectionDefinition
from event_streaming_bus.sourcing.projections.program import DeclaredProgram, Program
from event_streaming_bus.sourcing.projections.tables import Tables
from event_streaming_bus.store.projections import EventFailure
from event_streaming_bus.store.projections_base import Progress, ProjectionDatabase, SkippedEvent
from event_streaming_bus.store.recorded import RecordedEvent

_MAX_MESSAGE_CHARS = 2000


class _Failed(NamedTuple):
    """The event ``at`` this place of a batch could not be projected. ``is_undone``: nothing is left of it."""

    at: int
    message: str
    is_undone: bool


class _Unreadable(NamedTuple):
    """What stands for a payload that cannot be decoded."""

    reason: str


_Read: TypeAlias = tuple[RecordedEvent, Any]


class Fold:
    """A build's events, one batch after the other, into its database. For one thread.

    ``progress`` is what is in the database. ``skip_position`` names an event that is skipped whatever ``on_error`` says.
    """

    def __init__(
        self,
        definition: ProjectionDefinition,
        database: ProjectionDatabase,
        cls: type[Projection] | None = None,
        *,
        skip_position: int | None = None,
    ) -> None:
        self.progress = database.progress()
        self._database = database
        self._tables = Tables(definition.tables, database)
        self._skips = definition.on_error is OnError.SKIP
        self._skip_position = skip_position
        self._program: Program = DeclaredProgram(definition, self._tables) if cls is None else ClassProgram(cls, self._tables)

    def project(self, events: Sequence[RecordedEvent], position: int) -> EventFailure | None:
        """Project events that follow on the progress, and keep ``position``, up to which there are no others.

        If one of them fails, the progress is kept that there was before it, and why is returned; with ``on_error: skip`` it is
        noted, and the rest goes on. Raises ``StorageError`` if the database fails: then nothing of what was not kept is.
        """
        skipped: list[SkippedEvent] = []
        read = [(event, _payload(event)) for event in events]
        start = 0
        try:
            self._database.begin()
            self._program.prefetch(each for each in read if each[1].__class__ is not _Unreadable)
            while True:
                failed = self._apply(read, start)
                if failed is None:
                    self._commit(events, len(events), position, skipped)
                    return None
                if not failed.is_undone:
                    # Its SQL has changed tables: go back to before the batch, and project again what came before it.
                    passed_over = {each.position for each in skipped}
                    self._back([each for each in read[: failed.at] if each[0].position not in passed_over])
                event = events[failed.at]
                if not self._skips and event.position != self._skip_position:
                    self._commit(events, failed.at, event.position - 1, skipped)
                    return _failure(event, failed.message)
                skipped.append(_skipped(event, failed.message))
                start = failed.at + 1
                if not failed.is_undone:
                    self._commit(events, start, event.position, skipped)
                    events, read, start, skipped = events[start:], read[start:], 0, []
                    self._database.begin()
        except BaseException:
            self._tables.forget()
            self._database.rollback()
            raise

    def _apply(self, read: Sequence[_Read], start: int) -> _Failed | None:
        """Project the events from ``start`` on in memory, up to the first that fails."""
        tables, program = self._tables, self._program
        apply, clear = program.apply, tables.undo.clear
        for i in range(start, len(read)):
            event, payload = read[i]
            if payload.__class__ is _Unreadable:
                return _Failed(i, f"the payload cannot be read: {payload.reason}", is_undone=True)
            clear()
            tables.has_run_sql = False
            try:
                apply(event, payload)
            except StorageError:
                raise
            except Exception as error:
                message = _explained(program, error, event, payload)
                tables.undo_event()
                return _Failed(i, message, not tables.has_run_sql)
        return None

    def _back(self, read: Sequence[_Read]) -> None:
        """Begin the transaction again, with these events, none of which has failed in it."""
        self._database.rollback()
        self._tables.forget()
        self._database.begin()
        again = self._apply(read, 0)
        if again is not None:
            raise RuntimeError(f"the event {read[again.at][0].event_id} failed when projected again: {again.message}")

    def _commit(self, events: Sequence[RecordedEvent], count: int, position: int, skipped: Sequence[SkippedEvent]) -> None:
        fault_point("projection.write")
        self._tables.write()
        fault_point("projection.written")
        before = self.progress
        newest = events[count - 1].recorded_at_ms if count else before.recorded_at_ms
        done = before.events + count - len(skipped)
        progress = Progress(position, done, before.skipped + len(skipped), newest)
        self._database.commit(progress, skipped)
        fault_point("projection.committed")
        self.progress = progress
        self._tables.undo.clear()
        self._tables.trim()


def _payload(event: RecordedEvent) -> Any:
    try:
        return event.payload
    except Exception as error:
        return _Unreadable(str(error))


def _explained(program: Program, error: Exception, event: RecordedEvent, payload: Any) -> str:
    try:
        return program.explain(error, event, payload)[:_MAX_MESSAGE_CHARS]
    except Exception:
        return f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARS]


def _failure(event: RecordedEvent, message: str) -> EventFailure:
    return EventFailure(message, _now_ms(), event.position, event.event_id, event.event_type, event.aggregate_id)


def _skipped(event: RecordedEvent, message: str) -> SkippedEvent:
    return SkippedEvent(event.position, event.event_id, event.event_type, event.aggregate_id, message, _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
