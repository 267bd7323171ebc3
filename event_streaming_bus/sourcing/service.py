"""Event sourcing: append events to aggregates with expected versions, and rebuild what they make."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from event_streaming_bus.awaiting import result_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT, JsonValue, rfc3339
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.sourcing.appender import STALE, TRIES, Appender
from event_streaming_bus.sourcing.folds.aggregate import Aggregate as AggregateClass
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.lifecycle import AggregateLifecycle
from event_streaming_bus.sourcing.model import Aggregate, NewEvent, NewEvents
from event_streaming_bus.sourcing.rebuilding import Rebuilder, SnapshotCheck, SnapshotPolicy
from event_streaming_bus.sourcing.sealing import Sealing
from event_streaming_bus.sourcing.stream_upcasters import StreamUpcasters
from event_streaming_bus.store.aggregate_appends import Unless
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError
from event_streaming_bus.store.aggregates import AggregateInfo, AggregateStatus, EventPage
from event_streaming_bus.store.recorded import EVERY_EVENT, EventQuery, Recorded, RecordedEvent
from event_streaming_bus.store.settings import SNAPSHOT_EVENTS, SNAPSHOT_MS
from event_streaming_bus.store.storage import Storage, open_storage

_LOOK_S: Final = 0.25
_PAGE_EVENTS: Final = 1024


class EventSourcingService:
    """Aggregates: their events, appended under optimistic concurrency control, and their states, rebuilt by folds.

    ``expected_version`` is the version that the aggregate must be at, 0 for one without events, or ``any`` (also what leaving it
    out means), ``no_stream`` or ``stream_exists``. If it is not, ``VersionConflictError`` tells the version that it is at, and
    the events that came between; nothing is appended. Appending an event with the same ``event_id`` again returns the first
    receipt, whatever is expected.

    What is appended is in its aggregate, and on the stream named as the aggregate's type, when the call returns; or, if it
    raises, nowhere. The stream's schema and business rules are looked at in the same transaction as the version. Where the log
    has an outbox, as on Kafka, the events of an aggregate come on their stream right after, in the order of versions.

    ``folds`` says how states are made: by default later payload fields replace earlier ones. ``lifecycle`` archives and deletes
    aggregates, and drops old events.
    """

    def __init__(
        self, storage: Storage | None = None, *, folds: Folds | None = None, snapshots: SnapshotPolicy | None = None
    ) -> None:
        self._storage = storage or open_storage()
        self._store = self._storage.aggregates
        self._appender = Appender(self._storage)
        schemas = SchemaRegistryService(self._storage)
        self.folds = folds or Folds(_versions(schemas))
        upcasters = StreamUpcasters(self._storage.log, schemas)
        self._sealing = Sealing(self._storage.subject_keys)
        self._snapshots = snapshots
        self._rebuilder = Rebuilder(self._store, self.folds, self.snapshot_policy, upcasters, self._sealing)
        self.lifecycle = AggregateLifecycle(self._store, self.folds, self._rebuilder)

    def snapshot_policy(self) -> SnapshotPolicy:
        """When snapshots are left: as was said when the service was made, or as the settings of the data folder say."""
        if self._snapshots is not None:
            return self._snapshots
        value = self._storage.settings.value
        return SnapshotPolicy(every_events=value(SNAPSHOT_EVENTS), replay_exceeds_ms=value(SNAPSHOT_MS))

    # --- appending ----------------------------------------------------------------------------------------------------

    async def append_event(
        self,
        aggregate_id: str,
        aggregate_type: str,
        event_data: dict[str, JsonValue],
        event_type: str,
        expected_version: int | str | None = None,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        metadata: dict[str, JsonValue] | None = None,
        event_id: str | None = None,
        timestamp: str | int | datetime | None = None,
        stream: str | None = None,
    ) -> str:
        """Append one event; returns its id."""
        event = NewEvent(
            event_type=event_type,
            event_data=event_data,
            event_id=event_id,
            correlation_id=correlation_id,
            causation_id=causation_id,
            metadata=metadata,
            timestamp=timestamp,
        )
        recorded = await self.append_events(
            aggregate_id, aggregate_type, [event], expected_version, tenant_id, user_id, stream=stream
        )
        return recorded[0].event_id

    async def append_events(
        self,
        aggregate_id: str,
        aggregate_type: str,
        events: Sequence[NewEvent],
        expected_version: int | str | None = None,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        stream: str | None = None,
        unless: Unless | None = None,
    ) -> list[Recorded]:
        """Append several events to an aggregate, one after the other: all of them, or none."""
        append = NewEvents(
            aggregate_id=aggregate_id,
            aggregate_type=aggregate_type,
            events=list(events),
            expected_version=expected_version,
            stream=stream,
        )
        return await self.append([append], tenant_id, user_id, unless=unless)

    async def append(
        self,
        appends: Sequence[NewEvents],
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        unless: Unless | None = None,
    ) -> list[Recorded]:
        """Append to several aggregates: all of it, or nothing.

        ``unless``: refuse it, with ``ConditionNotMetError``, if there is an event that fits the query after a position, in
        whichever aggregate: for decisions that go by more than one of them. A receipt for each event, in order.
        """
        for left in reversed(range(TRIES)):
            try:
                appended, recording = self._appender.begin(appends, tenant_id, user_id, unless)
                await result_of(appended)
                return recording.recorded
            except STALE:
                if not left:
                    raise
                self._appender.forget_streams()
        raise AssertionError("the last try returns or raises")

    def append_now(
        self,
        appends: Sequence[NewEvents],
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        unless: Unless | None = None,
    ) -> list[Recorded]:
        """As ``append``, for code that is not asynchronous: blocks until it is on disk."""
        return self._appender.append(appends, tenant_id, user_id, unless)

    # --- rebuilding ---------------------------------------------------------------------------------------------------

    async def reconstruct_aggregate(
        self,
        aggregate_id: str,
        aggregate_type: str | None = None,
        update_snapshots: bool = False,
        tenant_id: str = DEFAULT_TENANT,
        *,
        as_of_version: int | None = None,
        as_of_time: str | int | datetime | None = None,
    ) -> dict[str, Any]:
        """The aggregate as plain data: its state is under ``data``. See ``rebuild``."""
        aggregate = await self.rebuild(
            aggregate_id,
            aggregate_type,
            tenant_id,
            update_snapshots=update_snapshots,
            as_of_version=as_of_version,
            as_of_time=as_of_time,
        )
        last_ms = aggregate.last_timestamp_ms
        return {
            "aggregate_id": aggregate.aggregate_id,
            "aggregate_type": aggregate.aggregate_type,
            "version": aggregate.version,
            "data": aggregate.state,
            "last_event_timestamp": None if last_ms is None else rfc3339(last_ms),
            "snapshot_version": aggregate.snapshot_version,
            "events_replayed": aggregate.events_replayed,
            "fold": aggregate.fold,
        }

    async def rebuild(
        self,
        aggregate_id: str,
        aggregate_type: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        update_snapshots: bool = False,
        as_of_version: int | None = None,
        as_of_time: str | int | datetime | None = None,
    ) -> Aggregate:
        """The aggregate as it is, as it was at a version, or as its events up to a time make it.

        Raises ``AggregateNotFoundError``; ``FoldError`` names the event that cannot be applied. ``update_snapshots`` leaves a
        snapshot; without it, the service's policy decides.
        """
        aggregate, _ = await asyncio.to_thread(
            self._rebuilder.rebuild,
            tenant_id,
            aggregate_id,
            aggregate_type,
            as_of_version=as_of_version,
            as_of_time=as_of_time,
            update_snapshots=update_snapshots,
        )
        return aggregate

    async def load(self, kind: type[AggregateClass], aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> tuple[Any, int]:
        """``(an object of the class, its version)``: the aggregate as a class with a method per event type makes it. One without
        events is as the class begins, at version 0, or, if it was deleted, at its last version. Raises
        ``AggregateNotFoundError`` for one that was deleted for ever."""
        fold = self.folds.register(kind) if getattr(kind, "aggregate_type", None) else ClassFold(kind)

        def rebuild() -> tuple[Any, int]:
            try:
                aggregate, state = self._rebuilder.rebuild(tenant_id, aggregate_id, fold=fold)
            except AggregateNotFoundError:
                return fold.initial(), self._rebuilder.empty_version(tenant_id, aggregate_id)
            return state, aggregate.version

        return await asyncio.to_thread(rebuild)

    async def verify_snapshots(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> list[SnapshotCheck]:
        """Whether each snapshot of the aggregate is what a full replay gives."""
        return await asyncio.to_thread(self._rebuilder.verify, tenant_id, aggregate_id)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get_aggregate(
        self, aggregate_id: str, aggregate_type: str | None = None, tenant_id: str = DEFAULT_TENANT
    ) -> AggregateInfo:
        """The aggregate without its state. Raises ``AggregateNotFoundError``."""
        return await asyncio.to_thread(self._rebuilder.find, tenant_id, aggregate_id, aggregate_type)

    async def list_types(self, tenant_id: str = DEFAULT_TENANT) -> list[str]:
        """The types of aggregates that there are, or that a retention was set for."""
        return await asyncio.to_thread(self._store.categories, tenant_id)

    async def list_aggregates(
        self,
        aggregate_type: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        status: AggregateStatus | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[AggregateInfo]:
        """Aggregates of a type by id, those behind the id ``after``."""
        if not 1 <= limit <= 1000:
            raise InvalidInputError(f"limit: expected 1 to 1,000, got {limit}", path="limit")
        return await asyncio.to_thread(
            self._store.list_aggregates, tenant_id, aggregate_type, status=status, after=after, limit=limit
        )

    async def events(
        self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT, *, after_version: int = 0, until_version: int | None = None
    ) -> list[RecordedEvent]:
        """The events of an aggregate, those behind ``after_version``, in the order of versions."""
        await self.get_aggregate(aggregate_id, None, tenant_id)

        def read() -> list[RecordedEvent]:
            found = self._store.events(tenant_id, aggregate_id, after_version=after_version, until_version=until_version)
            return list(self._sealing.shown(found))

        return await asyncio.to_thread(read)

    async def read(
        self,
        query: EventQuery = EVERY_EVENT,
        tenant_id: str = DEFAULT_TENANT,
        *,
        after_position: int = 0,
        limit: int = 1000,
    ) -> EventPage:
        """A page of the events of all aggregates that fit, in the order in which they were recorded."""

        def read() -> EventPage:
            page = self._store.read(tenant_id, query, after_position=after_position, limit=limit)
            return EventPage(list(self._sealing.shown(page.events)), page.position, page.is_end)

        return await asyncio.to_thread(read)

    async def subscribe(
        self, query: EventQuery = EVERY_EVENT, tenant_id: str = DEFAULT_TENANT, *, after_position: int = 0
    ) -> AsyncIterator[RecordedEvent]:
        """The events that fit, from after a position on, and then those that are recorded, for ever: a catch-up subscription. To
        go on later, keep the position of the last event that was dealt with."""
        while True:
            page = await self.read(query, tenant_id, after_position=after_position, limit=_PAGE_EVENTS)
            for event in page.events:
                yield event
            after_position = page.position
            if page.is_end:
                await asyncio.to_thread(self._store.wait, tenant_id, after_position, _LOOK_S)


def _versions(schemas: SchemaRegistryService) -> Callable[[str], str | None]:
    """The semantic version of a schema by its id."""

    def version_of(schema_id: str) -> str | None:
        guard = schemas.payload_reader(schema_id)
        return None if guard is None else guard.schema_version

    return version_of
