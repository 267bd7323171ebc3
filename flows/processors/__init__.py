"""The processor types, one file each, and the one table that lists them."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.checker import FieldPath, Reader
from event_streaming_bus.flows.processors import aggregate, filter, map
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.filter import FilterLogic
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.models import ProcessorType

if TYPE_CHECKING:
    from event_streaming_bus.flows.spec import ProcessorSpec

ProcessingLogic: TypeAlias = FilterLogic | MapLogic | AggregateLogic


class ProcessorKind(NamedTuple):
    """What there is to know of a processor type.

    ``read_logic`` reads its ``processing_logic``; ``windowed``: it needs a window. ``payload_paths`` are what it reads of the
    payload, ``generate`` writes its lines of a generated function, which add to a ``collection``. ``keeps_payload``: what reads
    its output sees the same payload. ``expressions`` are those that may fail on an event.
    """

    read_logic: Reader
    payload_paths: "Callable[[ProcessorSpec], Iterator[FieldPath]]"
    generate: Callable[..., None]
    collection: str
    expressions: Callable[[Any], Iterator[Expression]]
    keeps_payload: bool = False
    windowed: bool = False


def _kind(module: ModuleType, **more: Any) -> ProcessorKind:
    return ProcessorKind(
        module.read_logic,
        module.payload_paths,
        module.generate,
        module.COLLECTION,
        getattr(module, "expressions", lambda logic: iter(())),
        **more,
    )


PROCESSOR_TYPES: Final[dict[ProcessorType, ProcessorKind]] = {
    ProcessorType.FILTER: _kind(filter, keeps_payload=True),
    ProcessorType.MAP: _kind(map),
    ProcessorType.AGGREGATE: _kind(aggregate, windowed=True),
}
