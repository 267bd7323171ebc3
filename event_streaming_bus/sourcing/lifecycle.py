"""The life of aggregates: archive, restore, delete, and how long the events of a type are kept.

Events that retention drops live on in the base of their aggregate, a snapshot that is made before they go. An aggregate whose
fold fails keeps its events.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.rebuilding import Rebuilder
from event_streaming_bus.store import aggregate_lifecycle as lives
from event_streaming_bus.store.aggregate_lifecycle import DueEvents, LifecycleChange, Retention
from event_streaming_bus.store.aggregate_snapshots import Snapshot
from event_streaming_bus.store.aggregates import AggregateStore
from event_streaming_bus.store.patient_clock import patient_ms

MAX_TOLD: Final = 1000
"""So many aggregates are told of in a report; all are counted."""
SCAVENGE_EVERY_S: Final = 60.0
_REST: Final = 20
_AT_ONCE: Final = 100
_MAX_NAME: Final = 200
_MAX_INTEGER: Final = (1 << 62) - 1
_log: Final = logging.getLogger(__name__)


class Scavenged(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregate whose events up to ``gone_version`` were dropped, ``events`` of them this time."""

    aggregate_id: str
    aggregate_type: str
    gone_version: int
    events: int


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregate that keeps its events although they are due, and why; without an id it is all of the type."""

    aggregate_type: str
    aggregate_id: str | None
    reason: str


class ScavengeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What retention has dropped, or, as a preview, would drop. The lists are of ``MAX_TOLD`` at most, the counts of all."""

    is_preview: bool
    aggregates: int
    events: int
    refusals: int
    scavenged: list[Scavenged]
    refused: list[Refused]


class AggregateLifecycle:
    """What becomes of aggregates and their events in the end. Safe to use from any thread and any number of processes.

    Nothing here touches streams: the copy of an event that is on one stays as long as the stream's retention says. To make
    personal data unreadable wherever it is, erase the subject.
    """

    def __init__(self, store: AggregateStore, folds: Folds, rebuilder: Rebuilder) -> None:
        self._store = store
        self._folds = folds
        self._rebuilder = rebuilder

    # --- one aggregate ------------------------------------------------------------------------------------------------

    async def archive(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> LifecycleChange:
        """Close an aggregate, and pack its events into one compressed row.

        It takes no events until it is restored, and reads of categories and of all events pass it over; asked for by its id, it
        is read and rebuilt as before. Raises ``AggregateNotFoundError``; ``InvalidStateError`` if it is archived already.
        """
        return await asyncio.to_thread(lives.archive, self._store, tenant_id, aggregate_id)

    async def restore(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> LifecycleChange:
        """Put the events of an archived aggregate back, with the positions that they had. Who has read past these does not see
        them again. Raises ``AggregateNotFoundError``; ``InvalidStateError`` if it is not archived."""
        return await asyncio.to_thread(lives.restore, self._store, tenant_id, aggregate_id)

    async def delete(
        self,
        aggregate_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        hard: bool = False,
        expected_version: int | None = None,
    ) -> LifecycleChange:
        """Delete an aggregate: its events, archive and snapshots, and the ids that its events are known by.

        It may be appended to again, as if it were new; its versions go on after the last one. With ``hard`` a tombstone is
        left, and nothing may ever be appended under this id. Raises ``AggregateNotFoundError``; ``VersionConflictError`` if it
        is not at the expected version: then nothing is deleted.
        """
        if expected_version is not None and (isinstance(expected_version, bool) or expected_version < 0):
            raise InvalidInputError(f"expected_version: expected 0 or more, got {expected_version!r}", path="expected_version")
        return await asyncio.to_thread(
            lives.delete, self._store, tenant_id, aggregate_id, hard=hard, expected_version=expected_version
        )

    # --- retention ----------------------------------------------------------------------------------------------------

    async def set_retention(
        self,
        aggregate_type: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        max_age_ms: int | None = None,
        max_count: int | None = None,
    ) -> Retention:
        """Keep events of a type for so long after they were recorded, and at most so many of each aggregate, the newest; what is
        left out is not limited. Nothing is dropped before ``scavenge``.

        Afterwards only a fold of the kind that is now in force for the type, default, declared or class, may stand for events
        that are dropped, so that no process that lacks the fold leaves a base that is of no use.
        """
        if not 1 <= len(aggregate_type) <= _MAX_NAME or aggregate_type.startswith("_"):
            raise InvalidInputError(f"aggregate_type: expected the name of a type, got {aggregate_type!r}", path="aggregate_type")
        for name, value in (("max_age_ms", max_age_ms), ("max_count", max_count)):
            if value is not None and (isinstance(value, bool) or not 1 <= value <= _MAX_INTEGER):
                raise InvalidInputError(f"{name}: expected 1 or more, got {value!r}", path=name)
        kind = self._folds.fold_of(aggregate_type).kind
        retention = Retention(aggregate_type=aggregate_type, max_age_ms=max_age_ms, max_count=max_count, fold=kind)
        await asyncio.to_thread(lives.set_retention, self._store, tenant_id, retention)
        return await self.retention(aggregate_type, tenant_id)

    async def retention(self, aggregate_type: str, tenant_id: str = DEFAULT_TENANT) -> Retention:
        """How long events of a type are kept."""
        return await asyncio.to_thread(lives.retention_of, self._store, tenant_id, aggregate_type)

    async def retentions(self, tenant_id: str = DEFAULT_TENANT) -> list[Retention]:
        """The types whose events are not kept without end."""
        return await asyncio.to_thread(lives.retentions, self._store, tenant_id)

    async def scavenge(
        self, tenant_id: str = DEFAULT_TENANT, aggregate_type: str | None = None, *, preview: bool = False
    ) -> ScavengeReport:
        """Drop the events that are kept no longer, of one type or of all, the oldest first, in small transactions.

        What an aggregate's events have made is kept as its base, a snapshot by the fold in force. If the fold fails, the
        aggregate keeps them, and the report says why. With ``preview`` nothing is changed.
        """
        return await asyncio.to_thread(self.scavenge_now, tenant_id, aggregate_type, preview=preview)

    def scavenge_now(
        self,
        tenant_id: str = DEFAULT_TENANT,
        aggregate_type: str | None = None,
        *,
        preview: bool = False,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> ScavengeReport:
        """``scavenge`` in this thread; it ends early, with what it has done, when ``is_stopped`` says so."""
        tally = _Tally(preview)
        now_ms = patient_ms()
        for retention in lives.retentions(self._store, tenant_id):
            if aggregate_type not in (None, retention.aggregate_type):
                continue
            fold = self._folds.fold_of(retention.aggregate_type)
            plan: list[tuple[DueEvents, Snapshot]] = []
            for due in lives.due_events(self._store, tenant_id, retention, now_ms):
                if is_stopped():
                    break
                if fold.kind != retention.fold:
                    tally.refuse(
                        due.aggregate_type,
                        None,
                        f"the retention was set for a fold of the kind {retention.fold}, and that in force is {fold.name}; load "
                        "the fold, or set the retention again",
                    )
                    break
                try:
                    plan.append((due, self._rebuilder.base(tenant_id, due.aggregate_id, due.until_version)))
                except BusError as error:
                    tally.refuse(due.aggregate_type, due.aggregate_id, error.message)
                if len(plan) == _AT_ONCE or sum(each.events for each, _ in plan) >= lives.AT_ONCE:
                    self._drop(tenant_id, plan, tally)
                    plan = []
            self._drop(tenant_id, plan, tally)
        return tally.report()

    def _drop(self, tenant_id: str, plan: list[tuple[DueEvents, Snapshot]], tally: "_Tally") -> None:
        counts = [due.events for due, _ in plan] if tally.is_preview else lives.drop_due(self._store, tenant_id, plan)
        for (due, _), count in zip(plan, counts, strict=True):
            if count:
                tally.add(due, count)

    # --- now and then -------------------------------------------------------------------------------------------------

    def start_scavenging(self, every_s: float = SCAVENGE_EVERY_S) -> Callable[[], None]:
        """Scavenge for all tenants again and again, in a thread, until the function is called that this returns.

        Between two times it rests for ``every_s``, or for longer where a time takes long, so that it takes a twentieth of a
        processor at most. Aggregates that keep their events are told in the log, once for each reason.
        """
        stopped = threading.Event()
        thread = threading.Thread(target=self._scavenge_on, args=(every_s, stopped), name="esb-scavenging", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        return stop

    def _scavenge_on(self, every_s: float, stopped: threading.Event) -> None:
        told: set[tuple[str, str, str]] = set()
        rest_s = every_s
        while not stopped.wait(rest_s):
            started_s = time.monotonic()
            try:
                for tenant_id in lives.tenants_with_retention(self._store):
                    report = self.scavenge_now(tenant_id, is_stopped=stopped.is_set)
                    for each in report.refused:
                        key = tenant_id, each.aggregate_id or each.aggregate_type, each.reason
                        if key not in told and len(told) < MAX_TOLD:
                            told.add(key)
                            name = f"the aggregate {each.aggregate_id}" if each.aggregate_id else f"all {each.aggregate_type}s"
                            _log.warning("events of %s (tenant %s) are due, but kept: %s", name, tenant_id, each.reason)
            except Exception:  # the next time may go well, and nobody else would tell
                _log.exception("old events of aggregates could not be dropped")
            rest_s = max(every_s, _REST * (time.monotonic() - started_s))


class _Tally:
    """What a report is made of, while it is."""

    def __init__(self, is_preview: bool) -> None:
        self.is_preview = is_preview
        self._counts = {"aggregates": 0, "events": 0, "refusals": 0}
        self._scavenged: list[Scavenged] = []
        self._refused: list[Refused] = []

    def add(self, due: DueEvents, events: int) -> None:
        self._counts["aggregates"] += 1
        self._counts["events"] += events
        if len(self._scavenged) < MAX_TOLD:
            self._scavenged.append(
                Scavenged(
                    aggregate_id=due.aggregate_id,
                    aggregate_type=due.aggregate_type,
                    gone_version=due.until_version,
                    events=events,
                )
            )

    def refuse(self, aggregate_type: str, aggregate_id: str | None, reason: str) -> None:
        self._counts["refusals"] += 1
        if len(self._refused) < MAX_TOLD:
            self._refused.append(Refused(aggregate_type=aggregate_type, aggregate_id=aggregate_id, reason=reason))

    def report(self) -> ScavengeReport:
        return ScavengeReport(is_preview=self.is_preview, **self._counts, scavenged=self._scavenged, refused=self._refused)
