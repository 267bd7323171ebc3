"""What shapes a processor's state, and what only shapes the results that are made of it."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.processors import has_state
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.window import WindowLogic
from event_streaming_bus.flows.spec import ProcessorSpec
from event_streaming_bus.flows.window_config import Timing

SOURCES: Final = ("join_stream_id",)
"""Fields of a processor's logic that name what it reads; they are looked at apart from the rest."""
_MANNER: Final[Mapping[type, frozenset[str]]] = {
    AggregateLogic: frozenset({"having"}),
    CustomLogic: frozenset({"state_ttl_ms", "timing"}),
    DeduplicateLogic: frozenset({"timing"}),
    JoinLogic: frozenset({"fields", "timing"}),
    WindowLogic: frozenset(),
}
"""By type of logic the fields that leave its state as it is. Every other field shapes it, one that is not known here too."""
_TIMING: Final = frozenset(Timing.__struct_fields__)


class Shape(msgspec.Struct, frozen=True):
    """What a processor is made of, by the keys of the flow file: ``state`` shapes its state, ``manner`` does not."""

    state: Mapping[str, Any]
    manner: Mapping[str, Any]


def shape_of(processor: ProcessorSpec) -> Shape:
    """What the processor's logic and window say, parted by what it means for its state."""
    logic: Any = processor.processing_logic
    window: Any = processor.window
    stateful = has_state(processor)
    harmless = _MANNER.get(type(logic), frozenset())
    state: dict[str, Any] = {}
    manner: dict[str, Any] = {}
    for name in logic.__struct_fields__:
        value = getattr(logic, name)
        if name in SOURCES:
            continue
        if isinstance(logic, AggregateLogic) and name == "aggregations":
            manner["as"] = [item.name for item in value]
            value = [msgspec.structs.replace(item, name="") for item in value]
        (state if stateful and name not in harmless else manner)[name] = value
    if window is not None:
        state["window_type"] = window.window_type
        for name in window.__struct_fields__:
            (manner if name in _TIMING else state)[name] = getattr(window, name)
    return Shape(state, manner)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, each with what it was and is."""
    return [
        f"{name} was {shown(old.get(name))} and is {shown(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def shown(value: Any) -> str:
    """A part of a flow as a person would write it."""
    if value is None:
        return "not set"
    if hasattr(value, "text"):  # an expression
        return repr(value.text)
    if isinstance(value, list | tuple):
        if value and all(isinstance(part, str) for part in value):
            return ".".join(value) if isinstance(value, tuple) else ", ".join(value)
        return f"[{', '.join(shown(part) for part in value)}]"
    if isinstance(value, msgspec.Struct):
        parts = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return f"({', '.join(f'{name} {shown(part)}' for name, part in parts if part not in (None, '', (), False))})"
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)
