"""WINDOW: gives out the windows themselves: their events, or marks that they have closed."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.flows.aggregations import Aggregation, AggregationFunction
from event_streaming_bus.flows.checker import (
    BAD,
    MAX_KEY_FIELDS,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    dotted_path,
    integer,
    list_of,
    member,
    read_table,
)
from event_streaming_bus.flows.processors.output_names import (
    UPDATE_NAMES,
    WINDOW_NAMES,
    gives_updates,
    group_names,
    group_outputs,
    names_differ,
)

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec

MAX_EVENTS: Final = 100_000
DEFAULT_MAX_EVENTS: Final = 10_000
_COUNT: Final = {"count": "the number of events"}
_CONTENTS: Final = {"events": "the window's events"}


class WindowOutput(StrEnum):
    """What a WINDOW writes when a window of a group closes.

    ``contents``: one event with the payloads of all its events under ``events``, and their number under ``count``. ``events``:
    each of its events again, with ``window_start`` and ``window_end`` added to the payload. ``marks``: one event with
    ``count`` alone.
    """

    CONTENTS = "contents"
    EVENTS = "events"
    MARKS = "marks"


class WindowLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a WINDOW. Of a window's events the first ``max_events`` of each group are kept; ``count``
    counts all."""

    output: WindowOutput = WindowOutput.CONTENTS
    group_by: tuple[FieldPath, ...] = ()
    max_events: int = DEFAULT_MAX_EVENTS

    @property
    def group_names(self) -> tuple[str, ...]:
        """The output name of each group field."""
        return group_names(self.group_by)

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {"output": self.output.value}
        if self.output is not WindowOutput.MARKS:
            data["max_events"] = self.max_events
        if self.group_by:
            data["group_by"] = [".".join(path) for path in self.group_by]
        return data


_LOGIC: Final[Table] = {
    "output": Field(member(WindowOutput), default=WindowOutput.CONTENTS),
    "group_by": Field(list_of(dotted_path, most=MAX_KEY_FIELDS), default=()),
    "max_events": Field(integer(1, MAX_EVENTS), default=DEFAULT_MAX_EVENTS),
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``WindowLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    if values is None:
        return BAD
    logic = WindowLogic(**values)
    if logic.output is WindowOutput.MARKS and isinstance(value, Mapping) and value.get("max_events") is not None:
        return problems.add((*path, "max_events"), "the output marks has no events; leave it out")
    if logic.output is WindowOutput.EVENTS:  # what it writes are the events, without the group's fields
        return logic
    contents = _CONTENTS if logic.output is WindowOutput.CONTENTS else {}
    written = WINDOW_NAMES | _COUNT | contents
    return logic if names_differ(group_outputs(logic.group_names), written, path, problems) else BAD


def check_window(logic: WindowLogic, window: Any, given: Any, path: Path, problems: Problems) -> bool:
    """Whether the output goes together with what the windows write; ``given`` is the logic's data."""
    if not gives_updates(window):
        return True
    if logic.output is WindowOutput.EVENTS:
        told = "the output events gives out events when their window closes, and cannot go with a window that has updates"
        problems.add((*path, "output"), f"{told}; use contents or marks, or leave out its emit")
        return False
    return names_differ(group_outputs(logic.group_names), UPDATE_NAMES, path, problems)


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read; what is kept of the events is kept as bytes."""
    yield from _logic(spec).group_by


def aggregations(logic: WindowLogic) -> tuple[Aggregation, ...]:
    """What is kept of a window's events: their payloads, unless only marks are wanted."""
    if logic.output is WindowOutput.MARKS:
        return ()
    return (Aggregation(function=AggregationFunction.COLLECT, field=(), name="events", limit=logic.max_events),)


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one WINDOW: as for an AGGREGATE, with the whole payload as what is kept."""
    from event_streaming_bus.flows.gathering import gather_windows

    logic = _logic(node.spec)
    gather_windows(number, logic.group_by, aggregations(logic), node.spec.window, code, reading)


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what events are gathered in."""
    from event_streaming_bus.flows.gathering import collection_of_windows

    return collection_of_windows(spec.window)


def _logic(spec: "ProcessorSpec") -> WindowLogic:
    assert isinstance(spec.processing_logic, WindowLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
