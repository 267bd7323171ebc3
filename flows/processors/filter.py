"""FILTER: passes on the events for which every expression holds, and drops the others."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    expression,
    list_of,
    read_table,
    required,
)

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec

MAX_CHECKS: Final = 100


class FilterLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a FILTER: an event passes if the filter expression and all checks hold."""

    filter_expression: Expression
    additional_checks: tuple[Expression, ...] = ()

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {"filter_expression": self.filter_expression.text}
        if self.additional_checks:
            data["additional_checks"] = [check.text for check in self.additional_checks]
        return data


_LOGIC: Final[Table] = {
    "filter_expression": required(expression),
    "additional_checks": Field(list_of(expression, most=MAX_CHECKS), default=()),
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``FilterLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    return BAD if values is None else FilterLogic(**values)


def expressions(logic: FilterLogic) -> Iterator[Expression]:
    """Every expression of the logic, in the order in which they are evaluated."""
    yield logic.filter_expression
    yield from logic.additional_checks


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read; the empty one is the whole payload."""
    for each in expressions(_logic(spec)):
        yield from each.payload_paths


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one FILTER: what passes is marked and handed on."""
    conditions = " and ".join(reading.expression(each) for each in expressions(_logic(node.spec)))
    with code.block("try:"):
        code.line(f"v{number} = {conditions}")
    code.failure(f"{number}, i")
    with code.block("else:"), code.block(f"if v{number}:"):
        code.line(f"o{number}[i] = 1")
        below(reading)


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what is collected: a byte for each event, 1 where it passes."""
    return "bytearray(count)"


def _logic(spec: "ProcessorSpec") -> FilterLogic:
    assert isinstance(spec.processing_logic, FilterLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
