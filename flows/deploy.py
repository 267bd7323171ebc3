"""Deploying a flow: its schemas registered, its streams made, its processors entered in the catalog, and its plan made."""

from collections.abc import Mapping

import msgspec

from event_streaming_bus.errors import AlreadyExistsError, ConfigError, ExpressionError, SchemaError, StreamNotFoundError
from event_streaming_bus.flows.checker import format_path
from event_streaming_bus.flows.kept_flow import settle_kept_flow, starts_anew
from event_streaming_bus.flows.plan import Plan, make_plan, missing_stream
from event_streaming_bus.flows.plan_diff import NOTHING_ALLOWED, Allowed
from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.spec import FlowSpec, StreamSpec, to_data
from event_streaming_bus.models import StreamConfig, StreamInfo
from event_streaming_bus.registry.registry_errors import IncompatibleSchemaError
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.streams import make_stream
from event_streaming_bus.store.storage import Storage


def deploy(
    spec: FlowSpec, storage: Storage, allowed: Allowed = NOTHING_ALLOWED, *, processor_ids: Mapping[str, str] | None = None
) -> Plan:
    """Make what the flow declares and is not there yet, and plan it. Doing it again changes nothing.

    ``processor_ids`` by name take the place of those in the catalog here: hosts with catalogs of their own count as one.

    Raises ``FlowError``, before anything is made, if the flow has run before and the changed one would drop or misread its state
    without leave; see ``plan_diff``. With leave, the state of processors that are gone is dropped, and a flow of which some
    processor must be rebuilt forgets all of its state, so that it starts from the beginning.
    Raises ``StreamNotFoundError`` for a stream that is neither declared nor there, ``AlreadyExistsError`` for one that is there
    with other settings, and the registry's errors for its schemas; each names the place in the flow.
    """
    anew = starts_anew(spec, storage, allowed)
    registry = SchemaRegistryService(storage)
    for i, schema in enumerate(spec.schemas):
        try:
            registry.register(schema, spec.tenant_id, created_by=f"flow:{spec.name}")
        except (ConfigError, SchemaError, ExpressionError, IncompatibleSchemaError, AlreadyExistsError) as error:
            raise type(error)(f"schemas[{i}]: {error.message}", **error.details) from error
    for stream in spec.streams:
        make_stream(storage.log, registry, _stream_config(stream, spec.tenant_id), stream.schema)
    streams = _find_streams(spec, storage)
    settle_kept_flow(spec, storage, anew=anew)
    entered = {
        processor.processor_name: storage.catalog.upsert_processor(
            spec.tenant_id,
            spec.name,
            processor.processor_name,
            msgspec.json.encode(to_data(processor)).decode(),
            created_by=f"flow:{spec.name}",
        ).processor_id
        for processor in spec.processors
    }
    return make_plan(spec, streams, {**entered, **(processor_ids or {})}, _make_changelogs(spec, storage))


def _stream_config(stream: StreamSpec, tenant_id: str) -> StreamConfig:
    return StreamConfig(
        name=stream.name,
        tenant_id=tenant_id,
        partitions=stream.partitions,
        compression_type=stream.compression_type,
        retention_ms=stream.retention_ms,
        retention_bytes=stream.retention_bytes,
        on_invalid=stream.on_invalid,
        description=stream.description,
    )


def _find_streams(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    streams: dict[str, StreamInfo] = {}
    for number, processor in enumerate(spec.processors):
        places = [(format_path(path), name) for path, name in processor.sources.items() if spec.port_of(name)[0] is None]
        if processor.target_stream_id is not None:
            places.append(("target_stream_id", processor.target_stream_id))
        for key, name in places:
            if name in streams:
                continue
            try:
                streams[name] = storage.log.find_stream(spec.tenant_id, name)
            except StreamNotFoundError as error:
                raise missing_stream(spec, number, key, error) from error
    return streams


def _make_changelogs(spec: FlowSpec, storage: Storage) -> dict[str, StreamInfo]:
    """The streams for changes of state, by processor; made where they are missing."""
    changelogs: dict[str, StreamInfo] = {}
    for processor in spec.processors:
        store = processor.state_store_config
        if store is not None and store.changelog_topic is not None and has_state(processor):
            try:
                changelogs[processor.processor_name] = storage.log.find_stream(spec.tenant_id, store.changelog_topic)
            except StreamNotFoundError:
                config = StreamConfig(name=store.changelog_topic, tenant_id=spec.tenant_id)
                changelogs[processor.processor_name] = storage.log.create_stream(config)
    return changelogs
