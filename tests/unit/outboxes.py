"""Outboxes for tests, around an embedded log that is asked for nothing that Kafka could not do."""

from collections.abc import Sequence
from pathlib import Path

from event_streaming_bus.errors import StreamNotFoundError
from event_streaming_bus.models import CompressionType, Event, Position, StreamInfo
from event_streaming_bus.store.database import Place
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.outbox import OutboxLog
from event_streaming_bus.store.log.record_batch import store_events
from event_streaming_bus.store.log.stored import find_ids
from event_streaming_bus.store.log.writer import partition_of
from event_streaming_bus.store.sqlite import SqliteDatabase


class InnerEmbeddedLog(EmbeddedLog):
    """An embedded log as what an outbox stands around."""

    partition_of = staticmethod(partition_of)

    def stream_info(self, stream_id: str) -> StreamInfo:
        for info in self.list_streams(internal=True):
            if info.stream_id == stream_id:
                return info
        raise StreamNotFoundError(stream=stream_id)

    def find_ids(self, tenant_id: str, event_ids: Sequence[str]) -> dict[str, Position]:
        database = SqliteDatabase(self.path, synchronous="NORMAL")
        try:
            return find_ids(database.connection(), tenant_id, dict.fromkeys(event_ids))
        finally:
            database.close()

    def check(self, event: Event) -> object:
        return store_events([event], 0, CompressionType.NONE, 0)


def outbox(folder: Path, place: Place) -> OutboxLog:
    """An outbox in ``place`` around the log in ``folder``, as another process would open it."""
    return OutboxLog(InnerEmbeddedLog(folder, synchronous="NORMAL"), place, synchronous="NORMAL")
