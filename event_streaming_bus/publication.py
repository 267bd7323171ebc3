"""A publication: events that are checked, encoded and routed, ready to be appended in one transaction."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import msgspec

from event_streaming_bus.models import Event, Receipt, StreamInfo
from event_streaming_bus.routing import journal as routing_journal
from event_streaming_bus.routing.journal import runs_of
from event_streaming_bus.routing.router import Routed
from event_streaming_bus.store.history_records import Published, Refused, to_event
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage

T = TypeVar("T")


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """Events published to one stream by one call.

    ``appends`` is all that is to be appended: the events that stay, those that broke the stream's schema (``refused`` has their
    indexes), and what routing rules made. Their results are what ``entries`` and ``receipts`` take.
    """

    stream: StreamInfo
    events: Sequence[Event]
    """The events as they were published, in order, those that were refused or routed included."""
    appends: Sequence[Append]
    published: Published
    refused: Sequence[int]
    routed: Routed | None

    def entries(self, results: Sequence[AppendResult]) -> list[Event]:
        """What history is told of it, as events for the stream ``_history``."""
        now_us = time.time_ns() // 1000
        published, diverted = self.published, bool(self.refused)
        entries = []
        if runs := runs_of(results[0]):
            entries.append(to_event(msgspec.structs.replace(published, runs=runs, appended_us=now_us)))
        if diverted and (runs := runs_of(results[1])):
            refused = Refused(
                tenant_id=published.tenant_id,
                runs=runs,
                schema_id=published.schema_id or "",
                schema_version=published.schema_version or "",
                stream_id=self.stream.stream_id,
                observed_us=now_us,
                count=sum(run.count for run in runs),
            )
            entries.append(to_event(refused))
        if self.routed is not None:
            parts = results[1 + diverted :]
            entries += map(to_event, routing_journal.records(self.routed, results[0], parts, published, now_us))
        return entries

    def receipts(self, results: Sequence[AppendResult]) -> list[Receipt]:
        """The receipt of each event, in the order in which they were published, wherever they went."""
        receipts = results[0].receipts() if self.routed is None else self._routed_receipts(self.routed, results)
        if self.refused:
            for index, receipt in zip(self.refused, results[1].receipts(), strict=True):
                receipts.insert(index, receipt)
        return receipts

    def _routed_receipts(self, routed: Routed, results: Sequence[AppendResult]) -> list[Receipt]:
        by_part = {-1: results[0].receipts()}
        receipts: list[Receipt] = []
        for i, (part, place) in enumerate(routed.places):
            if i in routed.again:
                receipts.append(msgspec.structs.replace(receipts[routed.again[i]], duplicate=True))
                continue
            if part not in by_part:
                by_part[part] = results[1 + bool(self.refused) + part].receipts()
            receipts.append(by_part[part][place])
        return receipts


class Publications:
    """Publications that are appended together: in one transaction, with one entry of history."""

    def __init__(self, storage: Storage, parts: Sequence[Publication]) -> None:
        self._history = storage.history()  # here, not in the journal, which must not call the log
        self._parts = parts
        self.appends: list[Append] = [append for part in parts for append in part.appends]

    def journal(self, results: Sequence[AppendResult]) -> Append | None:
        """The ``Journal`` of their append."""
        entries = [entry for part, own in zip(self._parts, self._split(results), strict=True) for entry in part.entries(own)]
        return Append(self._history.stream_id, entries, new_ids=True) if entries else None

    def receipts(self, results: Sequence[AppendResult]) -> list[Receipt]:
        """The receipt of each event, publication by publication."""
        own = self._split(results)
        return [receipt for part, results in zip(self._parts, own, strict=True) for receipt in part.receipts(results)]

    def _split(self, results: Sequence[AppendResult]) -> list[Sequence[AppendResult]]:
        begin, found = 0, []
        for part in self._parts:
            found.append(results[begin : begin + len(part.appends)])
            begin += len(part.appends)
        return found


def made_of(appended: "Future[list[AppendResult]]", make: Callable[[list[AppendResult]], T]) -> "Future[T]":
    """What ``make`` makes of the results of an append, when they are there; or the append's error."""
    done: Future[T] = Future()

    def settle(appended: "Future[list[AppendResult]]") -> None:
        error = appended.exception()
        if not done.set_running_or_notify_cancel():
            return  # nobody waits any more; it is done all the same
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(make(appended.result()))

    appended.add_done_callback(settle)
    return done
