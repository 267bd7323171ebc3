"""An event streaming bus and dataflow pipeline framework on Bytewax.

The public names are imported when they are first used, so that a worker never loads the web stack and a publisher never
loads Bytewax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

__version__: Final = "0.1.0"

_NAMES: Final = {
    "Aggregate": "sourcing.folds.aggregate",
    "AppliedEvent": "sourcing.folds.events",
    "Bus": "bus",
    "Consumer": "consumers.consumer",
    "ConsumerManagementService": "consumers.service",
    "CorrelationService": "correlation.service",
    "DeadLetterService": "flows.dead_letters",
    "ErasureService": "erasure.service",
    "Event": "models",
    "EventConfig": "models",
    "EventPriority": "models",
    "EventPublishingService": "publishing",
    "EventSourcingService": "sourcing.service",
    "Folds": "sourcing.folds.folds",
    "KeyState": "flows.key_state",
    "Projection": "sourcing.projections",
    "ProjectionService": "sourcing.projections",
    "RetryableError": "flows.retries",
    "RoutingService": "routing.service",
    "SchemaRegistryService": "registry.service",
    "StreamConfig": "models",
    "StreamManagementService": "flows.service",
    "applies": "sourcing.folds.aggregate",
    "open_bus": "bus",
    "projects": "sourcing.projections",
    "upcasts": "sourcing.folds.upcasts",
}

__all__ = [
    "Aggregate",
    "AppliedEvent",
    "Bus",
    "Consumer",
    "ConsumerManagementService",
    "CorrelationService",
    "DeadLetterService",
    "ErasureService",
    "Event",
    "EventConfig",
    "EventPriority",
    "EventPublishingService",
    "EventSourcingService",
    "Folds",
    "KeyState",
    "Projection",
    "ProjectionService",
    "RetryableError",
    "RoutingService",
    "SchemaRegistryService",
    "StreamConfig",
    "StreamManagementService",
    "__version__",
    "applies",
    "open_bus",
    "projects",
    "upcasts",
]

if TYPE_CHECKING:
    from event_streaming_bus.bus import Bus, open_bus
    from event_streaming_bus.consumers.consumer import Consumer
    from event_streaming_bus.consumers.service import ConsumerManagementService
    from event_streaming_bus.correlation.service import CorrelationService
    from event_streaming_bus.erasure.service import ErasureService
    from event_streaming_bus.flows.dead_letters import DeadLetterService
    from event_streaming_bus.flows.key_state import KeyState
    from event_streaming_bus.flows.retries import RetryableError
    from event_streaming_bus.flows.service import StreamManagementService
    from event_streaming_bus.models import Event, EventConfig, EventPriority, StreamConfig
    from event_streaming_bus.publishing import EventPublishingService
    from event_streaming_bus.registry.service import SchemaRegistryService
    from event_streaming_bus.routing.service import RoutingService
    from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies
    from event_streaming_bus.sourcing.folds.events import AppliedEvent
    from event_streaming_bus.sourcing.folds.folds import Folds
    from event_streaming_bus.sourcing.folds.upcasts import upcasts
    from event_streaming_bus.sourcing.projections import Projection, ProjectionService, projects
    from event_streaming_bus.sourcing.service import EventSourcingService


def __getattr__(name: str) -> Any:
    try:
        module = import_module(f"{__name__}.{_NAMES[name]}")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
