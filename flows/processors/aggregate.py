"""AGGREGATE: sums up the events of each group in each window.

An output payload holds the group's fields, ``window_start``, ``window_end`` and one field for each aggregation.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.expressions import Expression, Scope
from event_streaming_bus.flows.aggregations.functions import (
    OPTIONS,
    Aggregation,
    AggregationFunction,
    make_aggregation,
)
from event_streaming_bus.flows.checker import (
    BAD,
    MAX_KEY_FIELDS,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    choice,
    dotted_path,
    expression_in,
    list_of,
    read_table,
    required,
    suggest,
    text,
)
from event_streaming_bus.flows.processors.output_names import (
    UPDATE_FIELDS,
    UPDATE_NAMES,
    WINDOW_END,
    WINDOW_NAMES,
    WINDOW_START,
    OutputName,
    gives_updates,
    group_names,
    group_outputs,
    names_differ,
)

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec


MAX_AGGREGATIONS: Final = 100


class AggregateLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of an AGGREGATE. No two of its output names are equal. No ``group_by``: one group.

    ``having`` is an expression over an output payload; what it does not hold for is not written.
    """

    aggregations: tuple[Aggregation, ...]
    group_by: tuple[FieldPath, ...] = ()
    having: Expression | None = None

    @property
    def group_names(self) -> tuple[str, ...]:
        """The output name of each group field."""
        return group_names(self.group_by)

    def to_data(self) -> dict[str, object]:
        items = [item.to_data() for item in self.aggregations]
        short = {_SHORT.get(key, key): value for key, value in items[0].items()}
        data: dict[str, object] = short if len(items) == 1 else {"aggregations": items}
        if self.group_by:
            data["group_by"] = [".".join(path) for path in self.group_by]
        if self.having is not None:
            data["having"] = self.having.text
        return data


_SHORT: Final = {"function": "aggregation_function", "field": "aggregation_field"}
_FUNCTION: Final = choice([item.value for item in AggregationFunction], fold=str.lower)
_NAME: Final = text(r"[^.\s]([^.]*[^.\s])?", "a field name without dots", 200)
_AGGREGATION: Final[Table] = {
    "function": required(_FUNCTION),
    "field": Field(dotted_path),
    "as": Field(_NAME),
    **OPTIONS,
}


def _read_aggregation(value: object, path: Path, problems: Problems) -> Any:
    values = read_table(value, path, _AGGREGATION, problems)
    return BAD if values is None else make_aggregation(values, path, "field", problems)


_LOGIC: Final[Table] = {
    "aggregation_function": Field(_FUNCTION),
    "aggregation_field": Field(dotted_path),
    "as": Field(_NAME),
    **OPTIONS,
    "aggregations": Field(list_of(_read_aggregation, least=1, most=MAX_AGGREGATIONS)),
    "group_by": Field(list_of(dotted_path, most=MAX_KEY_FIELDS), default=()),
    "having": Field(expression_in(Scope.PAYLOAD)),
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``AggregateLogic`` of a ``processing_logic``, in its short form (one aggregation) or with a list of them."""
    values = read_table(value, path, _LOGIC, problems)
    if values is None:
        return BAD
    function, several = values["aggregation_function"], values["aggregations"]
    short = [key for key in (*_SHORT.values(), "as", *OPTIONS) if values[key] not in (None, ())]
    aggregations: tuple[Aggregation, ...]
    if several is not None:
        if short:
            return problems.add(path, f"expected either aggregations or {short[0]}, got both")
        aggregations = several
    elif function is None:
        return problems.add(path, "expected aggregation_function (with aggregation_field) or a list of aggregations")
    else:
        values |= {"function": function, "field": values["aggregation_field"]}
        one = make_aggregation(values, path, "aggregation_field", problems)
        if one is BAD:
            return BAD
        aggregations = (one,)
    logic = AggregateLogic(aggregations=aggregations, group_by=values["group_by"], having=values["having"])
    fine = names_differ(_outputs(logic, value), WINDOW_NAMES, path, problems)
    return logic if _having_is_over_outputs(logic, (*path, "having"), problems) and fine else BAD


def check_window(logic: AggregateLogic, window: Any, given: Any, path: Path, problems: Problems) -> bool:
    """Whether the output names and ``having`` go together with what the windows write; ``given`` is the logic's data."""
    if gives_updates(window):
        return names_differ(_outputs(logic, given), UPDATE_NAMES, path, problems)
    early = sorted(logic.having.names & {*UPDATE_FIELDS} - _own_names(logic)) if logic.having is not None else []
    for name in early:
        problems.add((*path, "having"), f"{name} is there only where the window has updates; see its emit")
    return not early


def _outputs(logic: AggregateLogic, given: Any) -> list[OutputName]:
    """The names that the logic writes, and where its data says so."""
    way_out = "name it with 'as'"
    if given.get("aggregations") is None:
        own = [OutputName("aggregation_function", ("aggregation_function",), logic.aggregations[0].name, way_out)]
    else:
        own = [
            OutputName(f"aggregations[{i}]", ("aggregations", i), item.name, way_out) for i, item in enumerate(logic.aggregations)
        ]
    return [*group_outputs(logic.group_names), *own]


def _own_names(logic: AggregateLogic) -> set[str]:
    return {*logic.group_names, *(item.name for item in logic.aggregations)}


def _having_is_over_outputs(logic: AggregateLogic, path: Path, problems: Problems) -> bool:
    if logic.having is None:
        return True
    outputs = [*logic.group_names, WINDOW_START, WINDOW_END, *(item.name for item in logic.aggregations)]
    unknown = sorted(logic.having.names - {*outputs, *UPDATE_FIELDS})
    for name in unknown:
        problems.add(path, f"{name} is no output field{suggest(name, outputs)} (output fields: {', '.join(outputs)})")
    return not unknown


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read."""
    logic = _logic(spec)
    yield from logic.group_by
    yield from (item.field for item in logic.aggregations if item.field is not None)


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one AGGREGATE: events are gathered by slice and group, or by key group. Nothing reads on from here."""
    from event_streaming_bus.flows.gathering import gather_windows

    logic = _logic(node.spec)
    gather_windows(number, logic.group_by, logic.aggregations, node.spec.window, code, reading)


def _logic(spec: "ProcessorSpec") -> AggregateLogic:
    assert isinstance(spec.processing_logic, AggregateLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what events are gathered in."""
    from event_streaming_bus.flows.gathering import collection_of_windows

    return collection_of_windows(spec.window)
