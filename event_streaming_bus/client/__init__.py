"""The bus at a URL: the services of the SDK over HTTP, asynchronous here, blocking in ``event_streaming_bus.client.sync``.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

_NAMES: Final = {
    "AggregateLifecycle": "lifecycle",
    "AuditService": "audit",
    "ClientOptions": "options",
    "Consumer": "consumer",
    "ConsumerManagementService": "consumer_groups",
    "CorrelationService": "correlation",
    "DeadLetterService": "dead_letters",
    "ErasureService": "erasure",
    "EventPublishingService": "publishing",
    "EventSourcingService": "sourcing",
    "NotRemoteError": "client_errors",
    "ProjectionService": "projections",
    "RemoteBus": "bus",
    "RemoteHistory": "history",
    "RoutingService": "routing",
    "SchemaRegistryService": "schemas",
    "ServerUnreachableError": "client_errors",
    "Settings": "settings",
    "StreamCatalog": "streams",
    "StreamManagementService": "processors",
    "TokenService": "tokens",
    "connect": "bus",
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
    from event_streaming_bus.client.audit import AuditService
    from event_streaming_bus.client.bus import RemoteBus, connect
    from event_streaming_bus.client.client_errors import NotRemoteError, ServerUnreachableError
    from event_streaming_bus.client.consumer import Consumer
    from event_streaming_bus.client.consumer_groups import ConsumerManagementService
    from event_streaming_bus.client.correlation import CorrelationService
    from event_streaming_bus.client.dead_letters import DeadLetterService
    from event_streaming_bus.client.erasure import ErasureService
    from event_streaming_bus.client.history import RemoteHistory
    from event_streaming_bus.client.lifecycle import AggregateLifecycle
    from event_streaming_bus.client.options import ClientOptions
    from event_streaming_bus.client.processors import StreamManagementService
    from event_streaming_bus.client.projections import ProjectionService
    from event_streaming_bus.client.publishing import EventPublishingService
    from event_streaming_bus.client.routing import RoutingService
    from event_streaming_bus.client.schemas import SchemaRegistryService
    from event_streaming_bus.client.settings import Settings
    from event_streaming_bus.client.sourcing import EventSourcingService
    from event_streaming_bus.client.streams import StreamCatalog
    from event_streaming_bus.client.tokens import TokenService


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
