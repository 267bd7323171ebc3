# Made by `python -m event_streaming_bus.client.twin` of client/sourcing.py; change that one, and make this one anew.
"""The aggregates of a server."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Final, NoReturn

import msgspec

from event_streaming_bus.client.answers import RecordedEventData, aggregate_of, recorded_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import given, json_of, path_of
from event_streaming_bus.client.sync.lifecycle import AggregateLifecycle
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT, JsonValue, time_ms
from event_streaming_bus.sourcing.folds.aggregate import Aggregate as AggregateClass
from event_streaming_bus.sourcing.model import Aggregate, NewEvent, NewEvents
from event_streaming_bus.sourcing.rebuilding import SnapshotCheck
from event_streaming_bus.store.aggregate_appends import Unless
from event_streaming_bus.store.aggregates import AggregateInfo, AggregateStatus, EventPage
from event_streaming_bus.store.recorded import EVERY_EVENT, EventQuery, Recorded, RecordedEvent

_SOURCING: Final = "event-sourcing"
_WAIT_S: Final = 20.0
_PAGE_EVENTS: Final = 1000
_MOST_EVENTS: Final = 10_000
_REBUILDING_S: Final = 60.0


class _Events(msgspec.Struct):
    events: list[RecordedEventData]


class _Page(_Events):
    position: int
    is_end: bool


class EventSourcingService(RemoteService):
    """Aggregates: their events, appended under optimistic concurrency control, and their states, rebuilt by the folds that the
    server has.

    An append that has to be sent again, because the connection was lost, has an idempotency key: nothing is there twice. Payloads
    come as JSON.
    """

    # --- appending ----------------------------------------------------------------------------------------------------

    def append_event(
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
        recorded = self.append_events(aggregate_id, aggregate_type, [event], expected_version, tenant_id, user_id, stream=stream)
        return recorded[0].event_id

    def append_events(
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
        """Append several events to an aggregate, one after the other: all of them, or none. Raises ``VersionConflictError``."""
        append = NewEvents(
            aggregate_id=aggregate_id,
            aggregate_type=aggregate_type,
            events=list(events),
            expected_version=expected_version,
            stream=stream,
        )
        return self.append([append], tenant_id, user_id, unless=unless)

    def append(
        self,
        appends: Sequence[NewEvents],
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        unless: Unless | None = None,
    ) -> list[Recorded]:
        """Append to several aggregates: all of it, or nothing. A receipt for each event, in order.

        ``unless``: refuse it, with ``ConditionNotMetError``, if there is an event that fits the query after a position.
        """
        condition = None if unless is None else {"query": unless.query, "after": unless.after}
        body = {"appends": list(appends), **given(unless=condition, user_id=user_id)}
        answer = self._asked(Data, "POST", path_of(_SOURCING, "append-batch"), tenant_id, body, is_keyed=True)
        events = [event for append in appends for event in append.events]
        recorded = map(recorded_of, answer["events"])
        return [
            # An id made for this very request is there already only if the request was sent again.
            each if event.event_id is not None else msgspec.structs.replace(each, duplicate=False)
            for each, event in zip(recorded, events, strict=True)
        ]

    def append_now(
        self,
        appends: Sequence[NewEvents],
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        unless: Unless | None = None,
    ) -> list[Recorded]:
        """As ``append``, blocking."""
        return self._connection.now(self.append(appends, tenant_id, user_id, unless=unless))

    # --- rebuilding ---------------------------------------------------------------------------------------------------

    def reconstruct_aggregate(
        self,
        aggregate_id: str,
        aggregate_type: str | None = None,
        update_snapshots: bool = False,
        tenant_id: str = DEFAULT_TENANT,
        *,
        as_of_version: int | None = None,
        as_of_time: str | int | datetime | None = None,
    ) -> dict[str, Any]:
        """The aggregate as plain data: its state is under ``data``. Raises ``AggregateNotFoundError`` and ``FoldError``."""
        body = given(
            aggregate_id=aggregate_id,
            aggregate_type=aggregate_type,
            update_snapshots=update_snapshots,
            as_of_version=as_of_version,
            as_of_time=as_of_time,
        )
        path = path_of(_SOURCING, "reconstruct")
        told = self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=_REBUILDING_S)
        names = {"current_version": "version", "state": "data"}
        return {names.get(name, name): value for name, value in told.items()}

    def rebuild(
        self,
        aggregate_id: str,
        aggregate_type: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        update_snapshots: bool = False,
        as_of_version: int | None = None,
        as_of_time: str | int | datetime | None = None,
    ) -> Aggregate:
        """The aggregate as it is, as it was at a version, or as its events up to a time make it."""
        told = self.reconstruct_aggregate(
            aggregate_id,
            aggregate_type,
            update_snapshots,
            tenant_id,
            as_of_version=as_of_version,
            as_of_time=as_of_time,
        )
        last = told["last_event_timestamp"]
        return Aggregate(
            aggregate_id=told["aggregate_id"],
            aggregate_type=told["aggregate_type"],
            version=told["version"],
            state=told["data"],
            last_timestamp_ms=None if last is None else time_ms(last),
            snapshot_version=told["snapshot_version"],
            events_replayed=told["events_replayed"],
            fold=told["fold"],
        )

    def load(self, kind: type[AggregateClass], aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote(
            "rebuilding an aggregate with a class of this process",
            "rebuild has the state that the server's folds make; events has what a class can be applied to here",
        )

    def verify_snapshots(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> list[SnapshotCheck]:
        """Whether each snapshot of the aggregate is what a full replay gives."""
        path = path_of(_SOURCING, "aggregates", aggregate_id, "verify")
        told = self._asked(Data, "POST", path, tenant_id, is_repeatable=True, more_s=_REBUILDING_S)
        return msgspec.convert(told["snapshots"], list[SnapshotCheck])

    def snapshot_policy(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("asking when snapshots are left", "the settings of the server's data folder say so")

    @property
    def folds(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("registering folds", "declare them where the server runs")

    @cached_property
    def lifecycle(self) -> AggregateLifecycle:
        """What becomes of aggregates and their events in the end."""
        return AggregateLifecycle(self._connection)

    # --- reading ------------------------------------------------------------------------------------------------------

    def get_aggregate(
        self, aggregate_id: str, aggregate_type: str | None = None, tenant_id: str = DEFAULT_TENANT
    ) -> AggregateInfo:
        """The aggregate without its state. Raises ``AggregateNotFoundError``."""
        info = aggregate_of(self._asked(Data, "GET", path_of(_SOURCING, "aggregates", aggregate_id), tenant_id))
        if aggregate_type not in (None, info.aggregate_type):
            raise InvalidInputError(
                f"aggregate_type: the aggregate '{aggregate_id}' is a {info.aggregate_type}, not a {aggregate_type}",
                path="aggregate_type",
            )
        return info

    def list_types(self, tenant_id: str = DEFAULT_TENANT) -> list[str]:
        """The types of aggregates that there are, or that a retention was set for."""
        told: dict[str, Any] = self._asked(Data, "GET", path_of(_SOURCING, "types"), tenant_id)
        return list(told["aggregate_types"])

    def list_aggregates(
        self,
        aggregate_type: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        status: AggregateStatus | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[AggregateInfo]:
        """Aggregates of a type by id, those behind the id ``after``."""
        path = path_of(_SOURCING, "aggregates", aggregate_type=aggregate_type, status=status, after=after, limit=limit)
        return [aggregate_of(each) for each in (self._asked(Data, "GET", path, tenant_id))["aggregates"]]

    def events(
        self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT, *, after_version: int = 0, until_version: int | None = None
    ) -> list[RecordedEvent]:
        """The events of an aggregate, those behind ``after_version``, in the order of versions."""
        found: list[RecordedEvent] = []
        while True:
            left = _MOST_EVENTS if until_version is None else min(_MOST_EVENTS, until_version - after_version)
            path = path_of(_SOURCING, "aggregates", aggregate_id, "events", after_version=after_version, limit=max(1, left))
            page = self._asked(_Events, "GET", path, tenant_id)
            found += [each.event(self._tenant(tenant_id)) for each in page.events if left > 0]
            after_version += left
            if not page.events or left < _MOST_EVENTS:
                return found

    def read(
        self,
        query: EventQuery = EVERY_EVENT,
        tenant_id: str = DEFAULT_TENANT,
        *,
        after_position: int = 0,
        limit: int = 1000,
    ) -> EventPage:
        """A page of the events of all aggregates that fit, in the order in which they were recorded; at most 1000."""
        return self._page(query, tenant_id, after_position, limit, 0.0)

    def _page(self, query: EventQuery, tenant_id: str, after_position: int, limit: int, timeout_s: float) -> EventPage:
        """A page, for whose first event the server waits so long."""
        path = path_of(
            _SOURCING,
            "events",
            aggregate_types=_names(query.aggregate_types),
            event_types=_names(query.event_types),
            aggregate_ids=_names(query.aggregate_ids),
            where=None if query.where is None else json_of(query.where).decode(),
            after_position=after_position,
            limit=limit,
            timeout_ms=int(timeout_s * 1000) or None,
        )
        page = self._asked(_Page, "GET", path, tenant_id, more_s=timeout_s)
        return EventPage([each.event(self._tenant(tenant_id)) for each in page.events], page.position, page.is_end)

    def subscribe(
        self, query: EventQuery = EVERY_EVENT, tenant_id: str = DEFAULT_TENANT, *, after_position: int = 0
    ) -> Iterator[RecordedEvent]:
        """The events that fit, from after a position on, and then those that are recorded, for ever: the server answers as soon
        as there are any. To go on later, keep the position of the last event that was dealt with."""
        while True:
            page = self._page(query, tenant_id, after_position, _PAGE_EVENTS, _WAIT_S)
            yield from page.events
            after_position = page.position


def _names(names: Sequence[str] | None) -> Sequence[str] | None:
    """Names as a query has them. Where none is wanted, that is one that nothing has: a query cannot say so of an empty list."""
    return names if names is None or names else [""]
