"""Readers of payloads for processes that may never need one: the registry is loaded when it is first asked."""

from typing import TYPE_CHECKING

from event_streaming_bus import payloads

if TYPE_CHECKING:
    from event_streaming_bus.registry.service import SchemaRegistryService
    from event_streaming_bus.store.storage import Storage


class StorageReaders:
    """Finds readers in a data folder, for as long as this object is kept."""

    def __init__(self, storage: "Storage") -> None:
        self._storage = storage
        self._registry: SchemaRegistryService | None = None
        payloads.add_source(self)

    def payload_reader(self, schema_id: str) -> payloads.PayloadReader | None:
        """See ``payloads.ReaderSource``."""
        if self._registry is None:
            from event_streaming_bus.registry.service import SchemaRegistryService

            self._registry = SchemaRegistryService(self._storage)
        return self._registry.payload_reader(schema_id)
