"""What the API's handlers work with, built once for the app."""

from event_streaming_bus.api.consuming_sessions import ConsumingSessions
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.flows.dead_letters import DeadLetterService
from event_streaming_bus.flows.service import StreamManagementService
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.service import RoutingService
from event_streaming_bus.store.history import History
from event_streaming_bus.store.storage import Storage


class Services:
    """The bus's services over one data folder. Raises ``InUseError`` if another process has its history open."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.history = History(storage)
        self.schemas = SchemaRegistryService(storage)
        self.publishing = EventPublishingService(storage)
        self.processors = StreamManagementService(storage)
        self.dead_letters = DeadLetterService(storage)
        self.routing = RoutingService(storage)
        self.consumer_groups = ConsumerManagementService(storage)
        self.consuming = ConsumingSessions(storage)

    def close(self) -> None:
        """End the members that are hosted, stop the processors, load what is left of history, and let go of it."""
        self.consuming.abandon()
        try:
            self.processors.close()
        finally:
            try:
                self.history.stop()
            finally:
                self.history.close()
