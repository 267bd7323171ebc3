"""Streams over REST."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post, put

from event_streaming_bus.access.permissions import may
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import principal_of, tenant_of
from event_streaming_bus.models import CompressionType, InvalidEventPolicy, StreamConfig, StreamInfo, check_not_internal, rfc3339
from event_streaming_bus.registry.streams import make_stream, set_schema

_MAX_BODY_BYTES = 1 << 16


class NewStream(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A stream to make. ``schema`` is the name of a registered schema, or ``name@version``."""

    name: str
    stream_id: str | None = None
    partitions: int = 1
    compression_type: CompressionType = CompressionType.LZ4
    retention_ms: int | None = None
    retention_bytes: int | None = None
    schema: str | None = None
    on_invalid: InvalidEventPolicy = InvalidEventPolicy.REFUSE
    description: str = ""


class StreamSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The schema that a stream is to have: ``name`` or ``name@version``."""

    schema: str


class StreamsController(Controller):
    """Make, list, describe and drop streams."""

    path = "/api/v1/streams"
    tags = ["streams"]  # noqa: RUF012 - as the base class has it

    @post("/", summary="Make a stream; making it again with the same settings returns it")
    async def create(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        new = decode(await request.body(), NewStream, _MAX_BODY_BYTES)
        return await asyncio.to_thread(_create, services, tenant_of(request), new)

    @get("/", summary="List the streams, those that the token is for")
    async def list_streams(
        self, request: Request[Any, Any, Any], services: Services, limit: int = MAX_ITEMS, cursor: str | None = None
    ) -> dict[str, Any]:
        infos = await asyncio.to_thread(services.storage.log.list_streams, tenant_of(request))
        principal = principal_of(request.scope)
        if principal is not None:
            infos = [info for info in infos if may(principal, "stream:read", info.name)]
        page, following = paged(infos, lambda info: info.name, limit, cursor)
        return {"streams": [await asyncio.to_thread(_describe, services, info) for info in page], "next_cursor": following}

    @get("/{stream:str}", summary="Describe a stream, by its id or name")
    async def describe(self, request: Request[Any, Any, Any], services: Services, stream: str) -> dict[str, Any]:
        info = await asyncio.to_thread(services.storage.log.find_stream, tenant_of(request), stream)
        return await asyncio.to_thread(_describe, services, info, offsets=True)

    @put("/{stream:str}/schema", summary="Move a stream to another version of its schema, or give it one")
    async def set_schema(self, request: Request[Any, Any, Any], services: Services, stream: str) -> dict[str, Any]:
        wanted = decode(await request.body(), StreamSchema, _MAX_BODY_BYTES)
        info = await asyncio.to_thread(services.storage.log.find_stream, tenant_of(request), stream)
        moved = await asyncio.to_thread(set_schema, services.storage.log, services.schemas, info, wanted.schema)
        return await asyncio.to_thread(_describe, services, moved)

    @delete("/{stream:str}", status_code=200, summary="Drop a stream and its events for good")
    async def drop(self, request: Request[Any, Any, Any], services: Services, stream: str) -> dict[str, Any]:
        info = await asyncio.to_thread(services.storage.log.find_stream, tenant_of(request), stream)
        check_not_internal(info.name)
        await asyncio.to_thread(services.storage.log.drop_stream, info.stream_id)
        return {"stream_id": info.stream_id, "message": "Stream dropped successfully"}


def _create(services: Services, tenant_id: str, new: NewStream) -> dict[str, Any]:
    config = StreamConfig(
        name=new.name,
        tenant_id=tenant_id,
        partitions=new.partitions,
        compression_type=new.compression_type,
        retention_ms=new.retention_ms,
        retention_bytes=new.retention_bytes,
        on_invalid=new.on_invalid,
        description=new.description,
    )
    info = make_stream(services.storage.log, services.schemas, config, new.schema, new.stream_id)
    return _describe(services, info) | {"message": "Stream created successfully"}


def _describe(services: Services, info: StreamInfo, *, offsets: bool = False) -> dict[str, Any]:
    log = services.storage.log
    begins, ends = log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
    told = {
        "stream_id": info.stream_id,
        **msgspec.to_builtins(info.config),
        "created_at": rfc3339(info.created_at_ms),
        "events": sum(ends.values()) - sum(begins.values()),
        "stored_bytes": log.stored_bytes(info.stream_id),
    }
    if offsets:
        told["splits"] = [
            {"partition": s.partition, "lane": s.lane.value, "begin_offset": begins.get(s, 0), "end_offset": ends[s]}
            for s in ends
        ]
    return told
