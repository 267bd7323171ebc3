"""The bus at a URL for code that is not asynchronous: the services of ``event_streaming_bus.client`` with methods that block.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

_NAMES: Final = {
    "AggregateLifecycle": "event_streaming_bus.client.sync.lifecycle",
    "AuditService": "event_streaming_bus.client.sync.audit",
    "ClientOptions": "event_streaming_bus.client.options",
    "Consumer": "event_streaming_bus.client.sync.consumer",
    "ConsumerManagementService": "event_streaming_bus.client.sync.consumer_groups",
    "CorrelationService": "event_streaming_bus.client.sync.correlation",
    "DeadLetterService": "event_streaming_bus.client.sync.dead_letters",
    "ErasureService": "event_streaming_bus.client.sync.erasure",
    "EventPublishingService": "event_streaming_bus.client.sync.publishing",
    "EventSourcingService": "event_streaming_bus.client.sync.sourcing",
    "NotRemoteError": "event_streaming_bus.client.client_errors",
    "ProjectionService": "event_streaming_bus.client.sync.projections",
    "RemoteBus": "event_streaming_bus.client.sync.bus",
    "RemoteHistory": "event_streaming_bus.client.sync.history",
    "RoutingService": "event_streaming_bus.client.sync.routing",
    "SchemaRegistryService": "event_streaming_bus.client.sync.schemas",
    "ServerUnreachableError": "event_streaming_bus.client.client_errors",
    "Settings": "event_streaming_bus.client.sync.settings",
    "StreamCatalog": "event_streaming_bus.client.sync.streams",
    "StreamManagementService": "event_streaming_bus.client.sync.processors",
    "TokenService": "event_streaming_bus.client.sync.tokens",
    "connect": "event_streaming_bus.client.sync.bus",
}

__all__ = [
    "AggregateLifecycle",
    "AuditService",
    "ClientOptions",
    "Consumer",
    "ConsumerManagementService",
    "CorrelationService",
    "DeadLetterService",
    "ErasureService",
    "EventPublishingService",
    "EventSourcingService",
    "NotRemoteError",
    "ProjectionService",
    "RemoteBus",
    "RemoteHistory",
    "RoutingService",
    "SchemaRegistryService",
    "ServerUnreachableError",
    "Settings",
    "StreamCatalog",
    "StreamManagementService",
    "TokenService",
    "connect",
]

if TYPE_CHECKING:
    from event_streaming_bus.client.client_errors import NotRemoteError, ServerUnreachableError
    from event_streaming_bus.client.options import ClientOptions
    from event_streaming_bus.client.sync.audit import AuditService
    from event_streaming_bus.client.sync.bus import RemoteBus, connect
    from event_streaming_bus.client.sync.consumer import Consumer
    from event_streaming_bus.client.sync.consumer_groups import ConsumerManagementService
    from event_streaming_bus.client.sync.correlation import CorrelationService
    from event_streaming_bus.client.sync.dead_letters import DeadLetterService
    from event_streaming_bus.client.sync.erasure import ErasureService
    from event_streaming_bus.client.sync.history import RemoteHistory
    from event_streaming_bus.client.sync.lifecycle import AggregateLifecycle
    from event_streaming_bus.client.sync.processors import StreamManagementService
    from event_streaming_bus.client.sync.projections import ProjectionService
    from event_streaming_bus.client.sync.publishing import EventPublishingService
    from event_streaming_bus.client.sync.routing import RoutingService
    from event_streaming_bus.client.sync.schemas import SchemaRegistryService
    from event_streaming_bus.client.sync.settings import Settings
    from event_streaming_bus.client.sync.sourcing import EventSourcingService
    from event_streaming_bus.client.sync.streams import StreamCatalog
    from event_streaming_bus.client.sync.tokens import TokenService


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
