"""What the API's handlers work with, built once for the app."""

from typing import TYPE_CHECKING

from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.api.consuming_sessions import ConsumingSessions
from event_streaming_bus.api.flow_trials import FlowTrials
from event_streaming_bus.api.hosted_flows import HostedFlows
from event_streaming_bus.api.load import DEFAULT_LIMITS, Load, LoadLimits
from event_streaming_bus.api.log_watch import LogWatch
from event_streaming_bus.api.looks import Looks
from event_streaming_bus.api.metrics_page import MetricsPage
from event_streaming_bus.api.monitoring_hub import Monitoring
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.correlation.service import CorrelationService
from event_streaming_bus.erasure.service import ErasureService
from event_streaming_bus.flows.dead_letters import DeadLetterService
from event_streaming_bus.flows.service import StreamManagementService
from event_streaming_bus.monitoring import Meter
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.service import RoutingService
from event_streaming_bus.sourcing.projections import ProjectionService
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.history import History
from event_streaming_bus.store.idempotency import IdempotencyStore
from event_streaming_bus.store.saved_queries import SavedQueries
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.story.service import StoryService

if TYPE_CHECKING:
    from event_streaming_bus.store.election import Election


class Services:
    """The bus's services over one data folder. Raises ``InUseError`` if another process has its history open."""

    def __init__(self, storage: Storage, limits: LoadLimits = DEFAULT_LIMITS) -> None:
        self.storage = storage
        self.load = Load(limits)
        self.looks = Looks()
        self.election: Election | None = None  # of the node that serves, if there are others
        self.audit = AuditService(storage)
        self.tokens = TokenService(storage)
        self.history = History(storage)
        self.saved_queries = SavedQueries(storage.place("log.db"))
        self.schemas = SchemaRegistryService(storage)
        self.publishing = EventPublishingService(storage)
        self.processors = StreamManagementService(storage)
        self.flows = HostedFlows(storage)
        self.flow_trials = FlowTrials(storage)
        self.dead_letters = DeadLetterService(storage, history=self.history)
        self.routing = RoutingService(storage)
        self.sourcing = EventSourcingService(storage)
        self.correlation = CorrelationService(storage, history=self.history)
        self.story = StoryService(storage, history=self.history)
        self.erasure = ErasureService(storage)
        self.projections = ProjectionService(storage)
        self.consumer_groups = ConsumerManagementService(storage)
        self.consuming = ConsumingSessions(storage)
        self.log_watch = LogWatch(storage.log)
        self.idempotency = IdempotencyStore(storage.place("log.db"))
        self.meter = Meter(storage, history_backlog=self.history.backlog, load=self.load.sample)
        self.metrics_page = MetricsPage(self.meter)
        self.monitoring = Monitoring(self.meter)

    def close(self) -> None:
        """End the members that are hosted, stop the processors, load what is left of history, and let go of it."""
        self.consuming.abandon()
        self.looks.close()
        self.meter.close()
        self.projections.close()
        try:
            self.flows.close()
            self.processors.close()
        finally:
            try:
                self.history.stop()
            finally:
                self.history.close()
                self.saved_queries.close()
                self.audit.close()
                self.tokens.close()
                self.idempotency.close()
