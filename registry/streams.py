"""Streams with schemas: made with the schema that a reference names, and moved to another version of it."""

import msgspec

from event_streaming_bus.errors import AlreadyExistsError, StreamNotFoundError
from event_streaming_bus.models import StreamConfig, StreamInfo, check_not_internal
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.log.base import EventLog


def make_stream(
    log: EventLog, registry: SchemaRegistryService, config: StreamConfig, schema: str | None, stream_id: str | None = None
) -> StreamInfo:
    """Make a stream that the schema ``schema`` (``name``, its newest version, or ``name@version``) guards; see
    ``EventLog.create_stream``. One that is there already, with the same settings but another version of the schema, is moved to
    this version. Raises ``SchemaNotFoundError`` too."""
    check_not_internal(config.name)
    if schema is None:
        return log.create_stream(config, stream_id)
    record = registry.find_reference(config.tenant_id, schema)
    config = msgspec.structs.replace(config, schema_id=record.schema_id)
    there = _find(log, config)
    before = registry.guard_of(there) if there is not None else None
    if there is not None and before is not None and before.schema_name == record.schema_name:
        log.create_stream(msgspec.structs.replace(config, schema_id=there.config.schema_id), stream_id)  # it has these settings
        return log.set_stream_schema(there.stream_id, record.schema_id)
    return log.create_stream(config, stream_id)


def set_schema(log: EventLog, registry: SchemaRegistryService, stream: StreamInfo, schema: str) -> StreamInfo:
    """Move a stream to another version of its schema, or give it one. Raises ``SchemaNotFoundError``, and
    ``AlreadyExistsError`` if it has another schema: its events could not be read with this one."""
    check_not_internal(stream.name)
    record = registry.find_reference(stream.tenant_id, schema)
    before = registry.guard_of(stream)
    if before is not None and before.schema_name != record.schema_name:
        raise AlreadyExistsError(f"stream {stream.name} has the schema {before.schema_name}, not {record.schema_name}")
    return log.set_stream_schema(stream.stream_id, record.schema_id)


def _find(log: EventLog, config: StreamConfig) -> StreamInfo | None:
    try:
        return log.find_stream(config.tenant_id, config.name)
    except StreamNotFoundError:
        return None
