"""Consumer groups over REST: make, describe and delete them, their lag, rebalancing, pausing and resetting."""

from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.audited_actions import previews
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.consumers.service import group_data

_MAX_BODY_BYTES = 1 << 16


class Reset(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a group is to go on: ``"earliest"``, ``"latest"``, ``{"offset": n}`` or ``{"timestamp": ...}``; on which streams
    (names or ids), partitions and lanes: all, where that is left out."""

    to: Any
    streams: list[str] | None = None
    partitions: list[int] | None = None
    lanes: list[str] | None = None


class ConsumerGroupsController(Controller):
    """Make, describe and delete consumer groups, see how far behind they are, and set them right."""

    path = "/api/v1/consumer-groups"
    tags = ["consumer groups"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Make a consumer group; making it again with the same settings returns it")
    async def create(self, request: Request[Any, Any, Any], services: Services) -> dict[str, str]:
        config = decode(await request.body(), dict[str, Any], _MAX_BODY_BYTES)
        group_id = await services.consumer_groups.create_consumer_group(config, tenant_of(request), user_of(request, None))
        return {"group_id": group_id, "message": "Consumer group created successfully"}

    @get("/", summary="List the consumer groups")
    async def list_groups(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> dict[str, Any]:
        groups = await services.consumer_groups.list_consumer_groups(tenant_of(request))
        page, following = paged(groups, lambda group: group.config.group_name, limit, cursor)
        return {"consumer_groups": [group_data(group) for group in page], "next_cursor": following}

    @get("/{group:str}", summary="Describe a consumer group, by its id or name, with its members")
    async def describe(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
        return await services.consumer_groups.describe_consumer_group(group, tenant_of(request))

    @delete("/{group:str}", status_code=200, summary="Delete a consumer group and what it has committed")
    async def remove(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, str]:
        deleted = await services.consumer_groups.delete_consumer_group(group, tenant_of(request))
        return {"group_id": deleted.group_id, "message": "Consumer group deleted successfully"}

    @get("/{group:str}/members", summary="The members of a consumer group, and what each of them reads")
    async def members(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
        told = await services.consumer_groups.describe_consumer_group(group, tenant_of(request))
        return {name: told[name] for name in ("group_id", "group_name", "state", "generation", "members")}

    @get("/{group:str}/lag", summary="How far behind a consumer group is, and whether that is a cause for concern")
    async def lag(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
        return await services.consumer_groups.get_consumer_lag(group, tenant_of(request))

    @post("/{group:str}/rebalance", status_code=200, summary="Let all members join anew")
    async def rebalance(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, str]:
        await services.consumer_groups.trigger_rebalance(group, tenant_of(request))
        return {"message": "Consumer group rebalance triggered successfully"}

    @post("/{group:str}/pause", status_code=200, summary="Give the members no events until the group is resumed")
    async def pause(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
        return group_data(await services.consumer_groups.pause(group, tenant_of(request)))

    @post("/{group:str}/resume", status_code=200, summary="Let a paused group go on from what it has committed")
    async def resume(self, request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
        return group_data(await services.consumer_groups.resume(group, tenant_of(request)))

    @post("/{group:str}/reset-offsets", status_code=200, summary="Say what a reset would do, or with preview=false do it")
    async def reset_offsets(
        self, request: Request[Any, Any, Any], services: Services, group: str, preview: bool = True
    ) -> dict[str, Any]:
        previews(request.scope, preview)
        wanted = decode(await request.body(), Reset, _MAX_BODY_BYTES)
        groups = services.consumer_groups
        act = groups.preview_reset if preview else groups.reset_offsets
        told = await act(
            group, tenant_of(request), to=wanted.to, streams=wanted.streams, partitions=wanted.partitions, lanes=wanted.lanes
        )
        message = "Nothing was changed; preview=false resets" if preview else "Offsets reset successfully"
        return {"is_preview": preview, **told, "message": message}
