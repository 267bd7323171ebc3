"""The schema registry's migrations, for the events of aggregates."""

import threading
from typing import Final

from event_streaming_bus.errors import StreamNotFoundError
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.upcasting import Upcaster
from event_streaming_bus.store.log.base import EventLog

_MAX_KNOWN: Final = 256


class StreamUpcasters:
    """What brings payloads to the version of the schema that the stream of their aggregate's type has now. Safe to use from any
    thread."""

    def __init__(self, log: EventLog, registry: SchemaRegistryService) -> None:
        self._log = log
        self._registry = registry
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[str, Upcaster]] = {}

    def of(self, tenant_id: str, aggregate_type: str) -> Upcaster | None:
        """The upcaster of the stream named as the type; ``None`` if there is none, or it has no schema."""
        try:
            stream = self._log.find_stream(tenant_id, aggregate_type)
        except StreamNotFoundError:
            return None
        schema_id = stream.config.schema_id
        if schema_id is None:
            return None
        with self._lock:
            known = self._known.get((tenant_id, aggregate_type))
            if known is None or known[0] != schema_id:
                upcaster = Upcaster(self._registry, stream, lambda: self._log.find_stream(tenant_id, aggregate_type))
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                known = self._known[tenant_id, aggregate_type] = schema_id, upcaster
        return known[1]
