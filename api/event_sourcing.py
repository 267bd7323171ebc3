"""Event sourcing over REST: append to aggregates, rebuild them, read their events."""

from itertools import count
from typing import Any

import msgspec
from litestar import Controller, Request, get, post

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.aggregate_paths import aggregate_named
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.idempotency import derived_event_id
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.plain import aggregate_data, event_data, recorded_data
from event_streaming_bus.store.aggregate_appends import Unless
from event_streaming_bus.store.aggregates import AggregateStatus
from event_streaming_bus.store.recorded import EventQuery

_MAX_BODY_BYTES = 32 << 20


class OneEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One event for one aggregate."""

    aggregate_id: str
    aggregate_type: str
    event_type: str
    event_data: dict[str, Any]
    expected_version: int | str | None = None
    event_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    metadata: dict[str, Any] | None = None
    timestamp: Any = None
    stream: str | None = None
    user_id: str | None = None


class Condition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """No event that fits ``query`` may have been recorded after the position ``after``."""

    query: EventQuery
    after: int = 0


class ManyEvents(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Events for one or several aggregates: all are appended, or none."""

    appends: list[NewEvents]
    unless: Condition | None = None
    user_id: str | None = None


class Wanted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which aggregate is to be rebuilt, as of when."""

    aggregate_id: str
    aggregate_type: str | None = None
    update_snapshots: bool = False
    as_of_version: int | None = None
    as_of_time: Any = None


class EventSourcingController(Controller):
    """Append events to aggregates with expected versions, and rebuild what they make."""

    path = "/api/v1/event-sourcing"
    tags = ["event sourcing"]  # noqa: RUF012 - as the base class has it

    @post("/append", status_code=201, summary="Append an event to an aggregate that is at the expected version")
    async def append(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        wanted = decode(await request.body(), OneEvent, _MAX_BODY_BYTES)
        event = NewEvent(
            event_type=wanted.event_type,
            event_data=wanted.event_data,
            event_id=wanted.event_id or derived_event_id(request, 0),
            correlation_id=wanted.correlation_id,
            causation_id=wanted.causation_id,
            metadata=wanted.metadata,
            timestamp=wanted.timestamp,
            traceparent=request.headers.get("traceparent"),
        )
        recorded = await services.sourcing.append_events(
            wanted.aggregate_id,
            wanted.aggregate_type,
            [event],
            wanted.expected_version,
            tenant_of(request),
            user_of(request, wanted.user_id),
            stream=wanted.stream,
        )
        return {**recorded_data(recorded[0]), "message": "Event appended successfully"}

    @post("/append-batch", status_code=201, summary="Append to one or several aggregates: all of it, or nothing")
    async def append_many(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        wanted = decode(await request.body(), ManyEvents, _MAX_BODY_BYTES)
        unless = None if wanted.unless is None else Unless(wanted.unless.query, wanted.unless.after)
        recorded = await services.sourcing.append(
            _with_ids(request, wanted.appends), tenant_of(request), user_of(request, wanted.user_id), unless=unless
        )
        return {"events": list(map(recorded_data, recorded)), "message": "Events appended successfully"}

    @post("/reconstruct", status_code=200, summary="Rebuild an aggregate: as it is, or as of a version or a time")
    async def reconstruct(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        wanted = decode(await request.body(), Wanted, _MAX_BODY_BYTES)
        told = await services.sourcing.reconstruct_aggregate(
            wanted.aggregate_id,
            wanted.aggregate_type,
            wanted.update_snapshots,
            tenant_of(request),
            as_of_version=wanted.as_of_version,
            as_of_time=wanted.as_of_time,
        )
        return {"current_version" if name == "version" else "state" if name == "data" else name: v for name, v in told.items()}

    @get("/aggregates", summary="List the aggregates of a type")
    async def aggregates(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        aggregate_type: str,
        status: AggregateStatus | None = None,
        after: str = "",
        limit: int = 100,
    ) -> dict[str, Any]:
        found = await services.sourcing.list_aggregates(
            aggregate_type, tenant_of(request), status=status, after=after, limit=limit
        )
        following = found[-1].aggregate_id if len(found) == limit else None
        return {"aggregates": list(map(aggregate_data, found)), "next_after": following}

    @get("/aggregates/{aggregate_id:str}/events", summary="The events of an aggregate, in the order of versions")
    async def events_of(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        aggregate_id: str,
        after_version: int = 0,
        limit: int = 1000,
    ) -> dict[str, Any]:
        limit = min(max(limit, 1), 10_000)
        found = await services.sourcing.events(
            aggregate_named(aggregate_id), tenant_of(request), after_version=after_version, until_version=after_version + limit
        )
        return {"events": list(map(event_data, found))}

    @post("/aggregates/{aggregate_id:str}/verify", status_code=200, summary="Compare an aggregate's snapshots with a full replay")
    async def verify(self, request: Request[Any, Any, Any], services: Services, aggregate_id: str) -> dict[str, Any]:
        checks = await services.sourcing.verify_snapshots(aggregate_named(aggregate_id), tenant_of(request))
        return {"snapshots": [msgspec.structs.asdict(check) for check in checks]}


def _with_ids(request: Request[Any, Any, Any], appends: list[NewEvents]) -> list[NewEvents]:
    """The appends, their events with ids made from the request's key, if it has one; those with ids of their own keep them."""
    numbers = count()
    return [
        msgspec.structs.replace(
            append,
            events=[
                msgspec.structs.replace(event, event_id=event.event_id or derived_event_id(request, next(numbers)))
                for event in append.events
            ],
        )
        for append in appends
    ]
