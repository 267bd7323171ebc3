"""Appending past the outbox while events with the same ids wait in it: those are duplicates, whatever the log knows."""

from collections.abc import Mapping, Sequence

import msgspec

from event_streaming_bus.models import Receipt
from event_streaming_bus.store.log.base import Append, AppendResult, Journal

Waiting = Mapping[int, Receipt]
"""The receipts, by index in an ``Append``, of events whose ids wait."""


def without(append: Append, waiting: Waiting) -> Append:
    """The append without the events that wait."""
    if not waiting:
        return append
    left = [i for i in range(len(append.events)) if i not in waiting]
    schedule = append.schedule
    if schedule is not None and schedule.notes:
        schedule = msgspec.structs.replace(schedule, notes=[schedule.notes[i] for i in left])
    return msgspec.structs.replace(append, events=[append.events[i] for i in left], schedule=schedule)


def joined(append: Append, waiting: Waiting, result: AppendResult) -> AppendResult:
    """The result of the whole append, from that of what was left of it."""
    if not waiting:
        return result

    def receipts() -> list[Receipt]:
        others = iter(result.receipts())
        return [waiting[i] if i in waiting else next(others) for i in range(len(append.events))]

    event_ids = [event.event_id for event in append.events]
    return AppendResult(result.stream_id, event_ids, result.written, result.duplicates + len(waiting), receipts, result.scheduled)


class Filtered:
    """A call of ``append`` of which some events wait: what is left of it to append, and the results of the whole."""

    def __init__(self, appends: Sequence[Append], waiting: Sequence[Waiting], journal: Journal | None) -> None:
        self._appends = appends
        self._waiting = waiting
        self._journal = journal
        self.appends = list(map(without, appends, waiting))

    def journal(self, results: Sequence[AppendResult]) -> Append | None:
        """The ``Journal`` of what is left."""
        return None if self._journal is None else self._journal(self.results(results))

    def results(self, results: Sequence[AppendResult]) -> list[AppendResult]:
        """The results of the whole call."""
        return list(map(joined, self._appends, self._waiting, results))
