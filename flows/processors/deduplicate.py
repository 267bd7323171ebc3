"""DEDUPLICATE: passes on the first event of each key within a time span, and drops the others."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.flows.checker import (
    BAD,
    MAX_KEY_FIELDS,
    FieldPath,
    Path,
    Problems,
    Table,
    dotted_path,
    duration_ms,
    list_of,
    read_table,
    required,
)
from event_streaming_bus.flows.window_config import TIMING, Timing, take_timing

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec


class DeduplicateLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a DEDUPLICATE: an event is dropped if one with equal ``deduplicate_by`` fields was passed on
    at most ``within_ms`` before it."""

    deduplicate_by: tuple[FieldPath, ...]
    within_ms: int
    timing: Timing = Timing()

    def to_data(self) -> dict[str, object]:
        return {
            "deduplicate_by": [".".join(path) for path in self.deduplicate_by],
            "within_ms": self.within_ms,
            **self.timing.timing_data(),
        }


_LOGIC: Final[Table] = {
    "deduplicate_by": required(list_of(dotted_path, least=1, most=MAX_KEY_FIELDS)),
    "within_ms": required(duration_ms(1)),
    **TIMING,
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``DeduplicateLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    return BAD if values is None else DeduplicateLogic(**take_timing(values))


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read."""
    yield from _logic(spec).deduplicate_by


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one DEDUPLICATE: events are gathered by key group."""
    from event_streaming_bus.flows.gathering import event_parts, gather_entries

    gather_entries(number, _logic(node.spec).deduplicate_by, code, reading, lambda: event_parts(reading))


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what events are gathered in."""
    from event_streaming_bus.flows.gathering import BY_KEY_GROUP

    return BY_KEY_GROUP


def _logic(spec: "ProcessorSpec") -> DeduplicateLogic:
    assert isinstance(spec.processing_logic, DeduplicateLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
