"""The AsyncAPI 3 document of a tenant: its streams as channels, with the schemas of what is on them."""

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, Response, get

from event_streaming_bus import __version__
from event_streaming_bus.api.delivered import DeliveredEvent
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.models import LANES, StreamInfo
from event_streaming_bus.registry.schema_configs import config_of
from event_streaming_bus.store.schemas import SchemaRecord
from event_streaming_bus.store.storage import Storage

VERSION: Final = "3.0.0"
_JSON: Final = "application/json"
_AVRO_SCHEMA: Final = "application/vnd.apache.avro+json;version=1.9.0"
_JSON_SCHEMA: Final = "application/schema+json;version="
_DEFAULT_DRAFT: Final = "draft-2020-12"
_DRAFTS: Final = {"draft-04": "draft-04", "draft-06": "draft-06", "draft-07": "draft-07", "2019-09": "draft-2019-09"}
_REF: Final = "#/components/schemas/{name}"
_ENVELOPE: Final = "Envelope"


@get("/api/v1/asyncapi.json", tags=["streams"], summary="The streams and their schemas as an AsyncAPI 3 document")
async def asyncapi(request: Request[Any, Any, Any], services: Services) -> Response[bytes]:
    """The document of the tenant, as its streams and schemas are now."""
    tenant_id, host = tenant_of(request), request.headers.get("host", "localhost")
    told = await asyncio.to_thread(document, services.storage, tenant_id, host, request.url.scheme)
    return Response(msgspec.json.encode(told), media_type=_JSON)


def document(storage: Storage, tenant_id: str, host: str, scheme: str) -> dict[str, Any]:
    """Every stream of the tenant as a channel with one message, and the operations that a client has for it.

    An operation says what the bus does: it receives what clients publish, and sends what they consume.
    """
    streams = storage.log.list_streams(tenant_id)
    schemas, messages = _envelope(), {}
    for stream in streams:
        record = None if stream.config.schema_id is None else storage.schemas.get(tenant_id, stream.config.schema_id)
        messages[stream.name] = _message(stream, record)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Event Streaming Bus",
            "version": __version__,
            "description": f"The streams of the tenant {tenant_id}, and what is on them.",
        },
        "defaultContentType": _JSON,
        "servers": {"bus": {"host": host, "protocol": scheme, "pathname": "/api/v1"}},
        "channels": {stream.name: _channel(stream) for stream in streams},
        "operations": {name: each for stream in streams for name, each in _operations(stream).items()},
        "components": {"messages": messages, "schemas": schemas},
    }


def _envelope() -> dict[str, Any]:
    """The schema of what an event has beside its payload, and those that it refers to."""
    _, components = msgspec.json.schema_components([DeliveredEvent], ref_template=_REF)
    envelope: dict[str, Any] = components.pop("DeliveredEvent")
    properties = {name: schema for name, schema in envelope["properties"].items() if not name.startswith("payload")}
    told = {"type": "object", "description": "What an event has beside its payload, and where it is.", "properties": properties}
    return {_ENVELOPE: told, **components}


def _channel(stream: StreamInfo) -> dict[str, Any]:
    config = stream.config
    return {
        "address": stream.name,
        "title": stream.name,
        "description": config.description or f"The stream {stream.name}.",
        "servers": [{"$ref": "#/servers/bus"}],
        "messages": {"event": {"$ref": f"#/components/messages/{stream.name}"}},
        "x-stream-id": stream.stream_id,
        "x-partitions": config.partitions,
        "x-lanes": [lane.value for lane in LANES],
        "x-retention-ms": config.retention_ms,
        "x-retention-bytes": config.retention_bytes,
        "x-on-invalid": config.on_invalid.value,
    }


def _operations(stream: StreamInfo) -> dict[str, Any]:
    channel = f"#/channels/{stream.name}"
    messages = [{"$ref": f"{channel}/messages/event"}]
    publish = {"action": "receive", "title": f"Publish to {stream.name}", "x-path": "/events"}
    consume = {"action": "send", "title": f"Consume {stream.name}", "x-path": "/consumer-groups/{group}/members"}
    return {
        f"publish.{stream.name}": {**publish, "channel": {"$ref": channel}, "messages": messages},
        f"consume.{stream.name}": {**consume, "channel": {"$ref": channel}, "messages": messages},
    }


def _message(stream: StreamInfo, record: SchemaRecord | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": stream.name,
        "title": f"An event of {stream.name}",
        "contentType": _JSON,
        "headers": {"$ref": _REF.format(name=_ENVELOPE)},
        "correlationId": {"location": "$message.header#/correlation_id"},
        "payload": {"description": "Any JSON value: the stream has no schema."},
    }
    if record is None:
        return told
    event_type = config_of(record).get("event_type")
    told["name"] = event_type or record.schema_name
    told["x-schema-id"] = record.schema_id
    told["x-schema"] = f"{record.schema_name}@{record.schema_version}"
    told["payload"] = _payload(record)
    return told


def _payload(record: SchemaRecord) -> dict[str, Any]:
    """The schema in its own language. Its references are within itself, so it needs a name of its own in a larger document."""
    try:
        schema = msgspec.json.decode(record.text.definition)
    except msgspec.DecodeError:  # Avro's plain types need no quotes
        schema = record.text.definition
    if record.text.format == "AVRO":
        return {"schemaFormat": _AVRO_SCHEMA, "schema": schema}
    if not isinstance(schema, dict):  # true and false are schemas, too
        return {"schemaFormat": f"{_JSON_SCHEMA}{_DEFAULT_DRAFT}", "schema": schema}
    dialect = str(schema.get("$schema", ""))
    draft = next((name for part, name in _DRAFTS.items() if part in dialect), _DEFAULT_DRAFT)
    return {"schemaFormat": f"{_JSON_SCHEMA}{draft}", "schema": {"$id": f"urn:esb:schema:{record.schema_id}", **schema}}
