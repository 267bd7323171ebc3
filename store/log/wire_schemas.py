"""Which version of a schema a record of another producer was written with: what its wire format or its headers name.

The log knows no schemas, so each storage that is open lends it its own, for as long as it is kept. Numbers of schemas are those
of one registry, so a number is looked up where the stream is.
"""

import threading
import time
import weakref
from typing import Final

import msgspec

from event_streaming_bus.errors import ClosedError, StreamNotFoundError
from event_streaming_bus.models import SerializationFormat
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.schemas import DEFAULT_CONTEXT, SchemaStore

_FRESH_S: Final = 1.0
_MAX_KNOWN: Final = 4096


class Written(msgspec.Struct, frozen=True):
    """What a payload was written with: a version of a schema, and the format that its schemas have."""

    schema_id: str
    format: SerializationFormat


class WireSchemas:
    """The schemas of one storage, lent to the readers of its log's records. Safe to use from any thread.

    What was found, or not found, is believed for a second.
    """

    def __init__(self, log: EventLog, schemas: SchemaStore) -> None:
        self._log = log
        self._schemas = schemas
        self._known: dict[tuple[str, str, int], tuple[float, Written | None]] = {}
        self._lock = threading.Lock()
        _lent.add(self)

    def written(self, tenant_id: str, stream_id: str, topic: str, number: int) -> Written | None:
        """The version that the number stands for. Of several with this text it is one of the stream's own schema, of the subject
        that clients name after the topic or after the stream, or else the newest."""
        key, now_s = (stream_id, topic, number), time.monotonic()
        with self._lock:
            known = self._known.get(key)
        if known is not None and now_s - known[0] < _FRESH_S:
            return known[1]
        found = self._look_up(tenant_id, stream_id, topic, number)
        with self._lock:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[key] = now_s, found
        return found

    def _look_up(self, tenant_id: str, stream_id: str, topic: str, number: int) -> Written | None:
        try:
            stream = self._log.find_stream(tenant_id, stream_id)
            guard = None if stream.config.schema_id is None else self._schemas.find(stream.config.schema_id)
            context = DEFAULT_CONTEXT if guard is None else guard.context
            versions = self._schemas.versions_of_id(tenant_id, context, number, deleted=True)
        except (StreamNotFoundError, ClosedError):
            return None
        if not versions:
            return None
        names = ["" if guard is None else guard.schema_name, f"{topic}-value", f"{stream.name}-value"]
        named = (each for name in names for each in reversed(versions) if each.schema_name == name)
        chosen = next(named, max(versions, key=lambda each: each.created_at_ms))
        try:
            return Written(chosen.schema_id, SerializationFormat(chosen.format))
        except ValueError:  # of a format that payloads of the bus do not have
            return None


_lent: "weakref.WeakSet[WireSchemas]" = weakref.WeakSet()


def written_with(tenant_id: str, stream_id: str, topic: str, number: int) -> Written | None:
    """The version of a schema with this number in the registry of the stream's storage; ``None`` if it is not known."""
    for each in list(_lent):
        found = each.written(tenant_id, stream_id, topic, number)
        if found is not None:
            return found
    return None
