"""Schemas over REST: register, find, compare, retire, and validate events against them."""

import asyncio
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put

from event_streaming_bus.api.acting import user_of
from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.events import MAX_BATCH_BYTES
from event_streaming_bus.api.paging import MAX_ITEMS, paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError, SchemaError
from event_streaming_bus.models import DEFAULT_MAX_PAYLOAD_BYTES, time_ms
from event_streaming_bus.registry.compatibility import CompatibilityLevel
from event_streaming_bus.registry.service import describe
from event_streaming_bus.store.schemas import SchemaRecord

_MAX_BODY_BYTES = 1 << 16
_JSON = "application/json"


class DeprecateSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """From ``refuse_producers_after`` on, RFC 3339 or epoch milliseconds, nothing new is taken with the version; never, if it is
    left out."""

    refuse_producers_after: str | int | None = None
    message: str = ""


class Level(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A compatibility level."""

    compatibility_level: CompatibilityLevel


class SchemasController(Controller):
    """Register, find, compare and retire schemas, and validate events against them."""

    path = "/api/v1/schemas"
    tags = ["schemas"]  # noqa: RUF012 - as the base class has it

    @post("/enhanced", summary="Register a version of a schema, with business rules")
    async def register(self, request: Request[Any, Any, Any], services: Services) -> dict[str, str]:
        config = await _schema(request)
        schema_id = await services.schemas.register_enhanced_schema(config, tenant_of(request), user_of(request, None))
        return {"schema_id": schema_id, "message": "Enhanced schema registered successfully"}

    @post("/check", status_code=200, summary="Whether a schema could be registered as a compatible version")
    async def check(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        config = await _schema(request)
        return await services.schemas.check_compatibility(config, tenant_of(request))

    @get("/", summary="List the schemas' versions, of one name or of all")
    async def list_schemas(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        name: str | None = None,
        limit: int = MAX_ITEMS,
        cursor: str | None = None,
        text: bool = False,
    ) -> dict[str, Any]:
        records = await services.schemas.list_schemas(tenant_of(request), name)
        page, following = paged(records, lambda record: f"{record.schema_name}\0{record.version:010d}", limit, cursor)
        return {"schemas": [_told(record, text) for record in page], "next_cursor": following}

    @get("/level", summary="The compatibility level that counts for new versions: of one name, or where none has its own")
    async def level(self, request: Request[Any, Any, Any], services: Services, name: str = "") -> dict[str, Any]:
        level = await asyncio.to_thread(services.schemas.subjects.settings.level, tenant_of(request), name)
        return {"schema_name": name or None, "compatibility_level": level.value}

    @put("/level", summary="Set the compatibility level for new versions: of one name, or where none has its own")
    async def set_level(self, request: Request[Any, Any, Any], services: Services, name: str = "") -> dict[str, Any]:
        level = decode(await request.body(), Level, _MAX_BODY_BYTES).compatibility_level
        changes = {"compatibilityLevel": level.value}
        await asyncio.to_thread(services.schemas.subjects.settings.set_config, tenant_of(request), name, changes)
        return {"schema_name": name or None, "compatibility_level": level.value}

    @get("/{schema_id:str}", summary="A version of a schema")
    async def schema(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, text: bool = False
    ) -> dict[str, Any]:
        return _told(await services.schemas.get_schema(schema_id, tenant_of(request)), text)

    @get("/{schema_id:str}/versions", summary="All versions of the schema that this is one of, oldest first")
    async def versions(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, text: bool = False
    ) -> dict[str, Any]:
        record = await services.schemas.get_schema(schema_id, tenant_of(request))
        records = await services.schemas.list_schemas(tenant_of(request), record.schema_name)
        return {"schema_name": record.schema_name, "versions": [_told(each, text) for each in records]}

    @get("/{schema_id:str}/diff", summary="What changed from this version to another, and what that breaks")
    async def diff(self, request: Request[Any, Any, Any], services: Services, schema_id: str, to: str) -> dict[str, Any]:
        return await services.schemas.diff_schemas(schema_id, to, tenant_of(request))

    @post("/{schema_id:str}/validate", status_code=200, summary="Validate an event's payload against a schema and its rules")
    async def validate(self, request: Request[Any, Any, Any], services: Services, schema_id: str) -> Response[bytes]:
        payload = decode(await request.body(), Any, DEFAULT_MAX_PAYLOAD_BYTES)
        answer = await services.schemas.validate_event(schema_id, payload, tenant_of(request))
        return Response(msgspec.json.encode(answer), media_type=_JSON)

    @post("/{schema_id:str}/deprecate", status_code=200, summary="Mark a version as one that should not be used any more")
    async def deprecate(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, text: bool = False
    ) -> dict[str, Any]:
        wanted = decode(await request.body() or b"{}", DeprecateSchema, _MAX_BODY_BYTES)
        after = wanted.refuse_producers_after
        try:
            after_ms = None if after is None else time_ms(after)
        except InvalidInputError as error:
            raise InvalidInputError(f"refuse_producers_after: {error.message.removeprefix('timestamp: ')}") from None
        record = await services.schemas.deprecate_schema(
            schema_id, tenant_of(request), refuse_producers_after_ms=after_ms, message=wanted.message
        )
        return _told(record, text)

    @post("/{schema_id:str}/activate", status_code=200, summary="Make a version one that is used: active, and not deprecated")
    async def activate(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, text: bool = False
    ) -> dict[str, Any]:
        return _told(await services.schemas.activate_schema(schema_id, tenant_of(request)), text)

    @post("/{schema_id:str}/deactivate", status_code=200, summary="Make a version one that nothing new is written with")
    async def deactivate(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, text: bool = False
    ) -> dict[str, Any]:
        return _told(await services.schemas.deactivate_schema(schema_id, tenant_of(request)), text)

    @delete("/{schema_id:str}", status_code=200, summary="Delete a version; what was written with it can still be read")
    async def remove(
        self, request: Request[Any, Any, Any], services: Services, schema_id: str, permanent: bool = False
    ) -> dict[str, Any]:
        record = await services.schemas.delete_schema(schema_id, tenant_of(request), permanent=permanent)
        return {"schema_id": record.schema_id, "message": "Schema deleted successfully"}


def _told(record: SchemaRecord, text: bool) -> dict[str, Any]:
    """A version as plain data, with ``text`` also the definition as it was registered."""
    told = describe(record) | {
        "group_version": record.group_version,
        "rule_set": record.text.rule_set,
        "more": record.more,
    }
    return told | {"definition": record.definition} if text else told


async def _schema(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The configuration of a schema in the body. Whatever is wrong with it is the schema's fault; how large it may be, the
    registry says."""
    try:
        return decode(await request.body(), dict[str, Any], MAX_BATCH_BYTES)
    except InvalidInputError as error:
        raise SchemaError(error.message) from None
