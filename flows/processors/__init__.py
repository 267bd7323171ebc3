"""The processor types, one file each, and the one table that lists them."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.aggregations import Aggregation
from event_streaming_bus.flows.checker import FieldPath, Path, Problems, Reader
from event_streaming_bus.flows.processors import aggregate, custom, deduplicate, filter, join, map, window
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.filter import FilterLogic
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.flows.processors.window import WindowLogic
from event_streaming_bus.flows.window_config import Timing
from event_streaming_bus.models import ProcessorType

if TYPE_CHECKING:
    from event_streaming_bus.flows.spec import ProcessorSpec

ProcessingLogic: TypeAlias = FilterLogic | MapLogic | AggregateLogic | JoinLogic | WindowLogic | DeduplicateLogic | CustomLogic


class ProcessorKind(NamedTuple):
    """What there is to know of a processor type.

    ``read_logic`` reads its ``processing_logic``; ``windowed``: whether it needs a window (``None``: it may have one).
    ``payload_paths`` are what it reads of the payload on a side, ``generate`` writes its lines of a generated function, which
    add to a collection that ``collection_of`` gives the code of. ``keeps_payload``: what reads its output sees the same payload.
    ``expressions`` are those that may fail on an event. ``check_window`` reports what of the logic does not go with the window;
    it is given the logic, the window, the logic's data and where that stands.
    """

    read_logic: Reader
    payload_paths: "Callable[[ProcessorSpec, int], Iterator[FieldPath]]"
    generate: Callable[..., None]
    collection_of: "Callable[[ProcessorSpec], str]"
    expressions: Callable[[Any], Iterator[Expression]]
    check_window: Callable[[Any, Any, Any, Path, Problems], bool]
    keeps_payload: bool = False
    windowed: bool | None = False


def _kind(module: ModuleType, **more: Any) -> ProcessorKind:
    return ProcessorKind(
        module.read_logic,
        module.payload_paths,
        module.generate,
        getattr(module, "collection_of", lambda spec: "[]"),
        getattr(module, "expressions", lambda logic: iter(())),
        getattr(module, "check_window", lambda logic, window, given, path, problems: True),
        **more,
    )


PROCESSOR_TYPES: Final[dict[ProcessorType, ProcessorKind]] = {
    ProcessorType.FILTER: _kind(filter, keeps_payload=True),
    ProcessorType.MAP: _kind(map),
    ProcessorType.AGGREGATE: _kind(aggregate, windowed=True),
    ProcessorType.JOIN: _kind(join, windowed=None),
    ProcessorType.WINDOW: _kind(window, windowed=True),
    ProcessorType.DEDUPLICATE: _kind(deduplicate),
    ProcessorType.CUSTOM: _kind(custom),
}

_STATEFUL: Final = (AggregateLogic, JoinLogic, WindowLogic, DeduplicateLogic)


def kind_of(spec: "ProcessorSpec") -> ProcessorKind:
    """The kind of a processor."""
    return PROCESSOR_TYPES[spec.processor_type]


def has_state(spec: "ProcessorSpec") -> bool:
    """Whether the processor keeps state, in key groups."""
    return keeps_state(spec.processing_logic)


def keeps_state(logic: object) -> bool:
    """Whether a processor with this logic keeps state."""
    return isinstance(logic, _STATEFUL) or (isinstance(logic, CustomLogic) and logic.form is CustomForm.KEYED)


def flattens(spec: "ProcessorSpec") -> bool:
    """Whether the processor is a MAP that makes several events of one."""
    return isinstance(spec.processing_logic, MapLogic) and spec.processing_logic.flatten is not None


def ends_tree(spec: "ProcessorSpec") -> bool:
    """Whether what reads the processor's output cannot run in the same loop: it has state, or makes several events of one."""
    return has_state(spec) or flattens(spec) or spec.processor_type is ProcessorType.CUSTOM


def takes_events(spec: "ProcessorSpec") -> bool:
    """Whether the processor's state is handed whole events."""
    return has_state(spec) and isinstance(spec.processing_logic, (DeduplicateLogic, CustomLogic))


def timing_of(spec: "ProcessorSpec") -> Timing:
    """How a processor with state deals with time."""
    logic = spec.processing_logic
    if spec.window is not None:
        return spec.window
    assert isinstance(logic, (JoinLogic, DeduplicateLogic, CustomLogic))  # noqa: S101 - the others have windows
    return logic.timing


def key_of(spec: "ProcessorSpec") -> tuple[FieldPath, ...]:
    """The fields by which an AGGREGATE or a WINDOW groups events; nothing for what is no such processor."""
    logic = spec.processing_logic
    return logic.group_by if isinstance(logic, (AggregateLogic, WindowLogic)) else ()


def aggregations_of(spec: "ProcessorSpec") -> tuple[Aggregation, ...]:
    """What an AGGREGATE or a WINDOW keeps of its windows, as aggregations."""
    logic = spec.processing_logic
    if isinstance(logic, WindowLogic):
        return window.aggregations(logic)
    assert isinstance(logic, AggregateLogic)  # noqa: S101 - nothing else is summed up
    return logic.aggregations
