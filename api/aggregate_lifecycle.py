"""The life of aggregates over REST: archive, restore, delete, and how long the events of a type are kept."""

from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post, put

from event_streaming_bus.api.aggregate_paths import aggregate_named
from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.sourcing.plain import aggregate_data
from event_streaming_bus.store.aggregate_lifecycle import LifecycleChange, Retention

_MAX_BODY_BYTES = 1 << 16


class Limits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How long events of a type are kept, and how many of each aggregate; ``None``: without end."""

    max_age_ms: int | None = None
    max_count: int | None = None


class AggregateLifecycleController(Controller):
    """Archive and delete aggregates, and drop events that are old."""

    path = "/api/v1/event-sourcing"
    tags = ["event sourcing"]  # noqa: RUF012 - as the base class has it

    @get("/aggregates/{aggregate_id:str}", summary="An aggregate without its state")
    async def aggregate(self, request: Request[Any, Any, Any], services: Services, aggregate_id: str) -> dict[str, Any]:
        return aggregate_data(await services.sourcing.get_aggregate(aggregate_named(aggregate_id), None, tenant_of(request)))

    @post("/aggregates/{aggregate_id:str}/archive", status_code=200, summary="Close an aggregate, and pack its events")
    async def archive(self, request: Request[Any, Any, Any], services: Services, aggregate_id: str) -> dict[str, Any]:
        return _change(await services.sourcing.lifecycle.archive(aggregate_named(aggregate_id), tenant_of(request)))

    @post("/aggregates/{aggregate_id:str}/restore", status_code=200, summary="Open an archived aggregate again")
    async def restore(self, request: Request[Any, Any, Any], services: Services, aggregate_id: str) -> dict[str, Any]:
        return _change(await services.sourcing.lifecycle.restore(aggregate_named(aggregate_id), tenant_of(request)))

    @delete("/aggregates/{aggregate_id:str}", status_code=200, summary="Delete an aggregate, with `hard=true` for ever")
    async def delete(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        aggregate_id: str,
        hard: bool = False,
        expected_version: int | None = None,
    ) -> dict[str, Any]:
        change = await services.sourcing.lifecycle.delete(
            aggregate_named(aggregate_id), tenant_of(request), hard=hard, expected_version=expected_version
        )
        return _change(change)

    @get("/retention", summary="The types of aggregates whose events are not kept without end")
    async def retentions(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        found = await services.sourcing.lifecycle.retentions(tenant_of(request))
        return {"retention": list(map(_retention, found))}

    @get("/retention/{aggregate_type:str}", summary="How long events of a type of aggregate are kept")
    async def retention(self, request: Request[Any, Any, Any], services: Services, aggregate_type: str) -> dict[str, Any]:
        return _retention(await services.sourcing.lifecycle.retention(aggregate_type, tenant_of(request)))

    @put("/retention/{aggregate_type:str}", summary="Say how long events of a type of aggregate are kept")
    async def set_retention(self, request: Request[Any, Any, Any], services: Services, aggregate_type: str) -> dict[str, Any]:
        limits = decode(await request.body(), Limits, _MAX_BODY_BYTES)
        retention = await services.sourcing.lifecycle.set_retention(
            aggregate_type, tenant_of(request), max_age_ms=limits.max_age_ms, max_count=limits.max_count
        )
        return _retention(retention)

    @post("/scavenge", status_code=200, summary="Drop the events that are kept no longer, or say which these are")
    async def scavenge(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        aggregate_type: str | None = None,
        preview: bool = False,
    ) -> dict[str, Any]:
        previews(request.scope, preview)
        report = await services.sourcing.lifecycle.scavenge(tenant_of(request), aggregate_type, preview=preview)
        told: dict[str, Any] = msgspec.to_builtins(report)
        return told


def _change(change: LifecycleChange) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(change)
    return {"current_version" if name == "version" else name: value for name, value in told.items()}


def _retention(retention: Retention) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(retention)
    return told
