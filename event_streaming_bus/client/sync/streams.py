# Made by `python -m event_streaming_bus.client.twin` of client/streams.py; change that one, and make this one anew.
"""The streams of a server."""

from typing import Any

from event_streaming_bus.client.answers import stream_of
from event_streaming_bus.client.requests import given, path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.models import DEFAULT_TENANT, StreamConfig, StreamInfo


class StreamCatalog(RemoteService):
    """Makes, lists and drops streams: what the log is for in process."""

    def create_stream(self, config: StreamConfig, *, schema: str | None = None) -> StreamInfo:
        """Make a stream, or find the one that is there with the same settings. ``schema`` is the name of a registered schema, or
        ``name@version``; ``config.schema_id`` will do, too. Raises ``AlreadyExistsError``."""
        tenant_id = config.tenant_id
        if schema is None and config.schema_id is not None:
            record = self._asked(Data, "GET", path_of("schemas", config.schema_id), tenant_id)
            schema = f"{record['schema_name']}@{record['schema_version']}"
        body: dict[str, Any] = given(
            name=config.name,
            partitions=config.partitions,
            compression_type=config.compression_type,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            schema=schema,
            on_invalid=config.on_invalid,
            description=config.description,
        )
        return stream_of(self._asked(Data, "POST", path_of("streams"), tenant_id, body, is_keyed=True))

    def list_streams(self, tenant_id: str = DEFAULT_TENANT) -> list[StreamInfo]:
        """The tenant's streams by name."""
        return [stream_of(each) for each in self._listed("streams", "streams", tenant_id)]

    def find_stream(self, tenant_id: str, reference: str) -> StreamInfo:
        """The stream of this id or name. Raises ``StreamNotFoundError``."""
        return stream_of(self._asked(Data, "GET", path_of("streams", reference), tenant_id))

    def drop_stream(self, reference: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Drop a stream and its events for good. Raises ``StreamNotFoundError``."""
        self._asked(Data, "DELETE", path_of("streams", reference), tenant_id)
