"""AGGREGATE: sums up the events of each group in each window.

An output payload holds the group's fields, ``window_start``, ``window_end`` and one field for each aggregation.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.aggregations.functions import (
    OPTIONS,
    Aggregation,
    AggregationFunction,
    make_aggregation,
)
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    choice,
    dotted_path,
    list_of,
    payload_expression,
    read_table,
    required,
    suggest,
    text,
)

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec

COLLECTION: Final = "{}"
"""What is collected: by ``(window start, group value, ...)`` the indexes of the events, then each field's values in step."""

MAX_AGGREGATIONS: Final = 100
MAX_GROUP_FIELDS: Final = 20
WINDOW_START: Final = "window_start"
WINDOW_END: Final = "window_end"
UPDATE_FIELDS: Final = ("revision", "is_final")
"""What an output has besides where windows give out updates."""


class AggregateLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of an AGGREGATE. No two of its output names are equal. No ``group_by``: one group.

    ``having`` is an expression over an output payload; what it does not hold for is not written.
    """

    aggregations: tuple[Aggregation, ...]
    group_by: tuple[FieldPath, ...] = ()
    having: Expression | None = None

    @property
    def group_names(self) -> tuple[str, ...]:
        """The output name of each group field: its path, dots turned into underscores."""
        return tuple("_".join(path) for path in self.group_by)

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
    "group_by": Field(list_of(dotted_path, most=MAX_GROUP_FIELDS), default=()),
    "having": Field(payload_expression),
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
    writers = [f"aggregations[{i}]" for i in range(len(several))] if several else ["aggregation_function"]
    fine = _names_differ(logic, writers, path, problems)
    return logic if _having_is_over_outputs(logic, (*path, "having"), problems) and fine else BAD


def _names_differ(logic: AggregateLogic, writers: list[str], path: Path, problems: Problems) -> bool:
    taken = {WINDOW_START: "the window's start", WINDOW_END: "the window's end"}
    fine = True
    rename = "rename the field with a MAP first"
    outputs: list[tuple[str, Path, str, str]]
    outputs = [(f"group_by[{i}]", ("group_by", i), name, rename) for i, name in enumerate(logic.group_names)]
    for i, (writer, item) in enumerate(zip(writers, logic.aggregations, strict=True)):
        place: Path = ("aggregations", i) if writer.endswith("]") else (writer,)
        outputs.append((writer, place, item.name, "name it with 'as'"))
    for writer, place, name, way_out in outputs:
        if name in taken:
            problems.add((*path, *place), f"{name!r} is written by {taken[name]} and by {writer}; {way_out}")
            fine = False
        taken.setdefault(name, writer)
    return fine


def _having_is_over_outputs(logic: AggregateLogic, path: Path, problems: Problems) -> bool:
    if logic.having is None:
        return True
    outputs = [*logic.group_names, WINDOW_START, WINDOW_END, *(item.name for item in logic.aggregations)]
    unknown = sorted(logic.having.names - {*outputs, *UPDATE_FIELDS})
    for name in unknown:
        problems.add(path, f"{name} is no output field{suggest(name, outputs)} (output fields: {', '.join(outputs)})")
    return not unknown


def payload_paths(spec: "ProcessorSpec") -> Iterator[FieldPath]:
    """The payload paths that are read."""
    logic = _logic(spec)
    yield from logic.group_by
    yield from (item.field for item in logic.aggregations if item.field is not None)


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]") -> None:
    """Write the lines of one AGGREGATE: events are gathered by window and group. Nothing reads on from here."""
    from event_streaming_bus.flows.aggregations import field_plans

    logic, window = _logic(node.spec), node.spec.window
    assert window is not None  # noqa: S101 - the spec stage has seen to it
    plans = field_plans(logic.aggregations)
    values = [f"v{number}_{i}" for i in range(len(plans))]
    groups = [f"g{number}_{i}" for i in range(len(logic.group_by))]
    with code.block("try:"):
        code.line(f"t = {reading.resolve(('timestamp',))}")
        shifted = f"(t - {window.offset_ms})" if window.offset_ms else "t"
        for name, path in zip(groups, logic.group_by, strict=True):
            code.line(f"{name} = {reading.field(path)}")
            with code.block(f"if {name}.__class__ is not str:"):
                code.line(f"{name} = {code.constant('_group_value', group_value)}({name}, {'.'.join(path)!r})")
        for name, plan in zip(values, plans, strict=True):
            code.line(f"{name} = {reading.field(plan.field)}")
            accepted = code.constant(f"accepted{number}_{name}", plan.accepted)
            with code.block(f"if {name}.__class__ not in {accepted}:"):
                code.line(f"{code.constant('_refuse', refuse_value)}({name}, {'.'.join(plan.field)!r}, {accepted})")
        code.line(f"k = ({', '.join([f't - {shifted} % {window.window_size_ms}', *groups])},)")
    with code.block("except Exception as error:"):
        code.line(f"failures.append(({number}, i, error))")
    with code.block("else:"):
        code.line(f"e = o{number}.get(k)")
        with code.block("if e is None:"):
            code.line(f"e = o{number}[k] = ({', '.join(['[]'] * (1 + len(plans)))},)")
        code.line("e[0].append(i)")
        for i, name in enumerate(values, 1):
            code.line(f"e[{i}].append({name})")


def group_value(value: object, path: str) -> object:
    """A group's value other than text, such that equal JSON values, and only those, are equal: ``1`` and ``1.0`` are,
    ``1`` and ``true`` are not."""
    if value is None or value.__class__ is int:
        return value
    if isinstance(value, bool):
        return (value,)  # true == 1 in Python; in a tuple it is only equal to itself
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise TypeError(f"payload.{path} is {_kind(value)}; group_by needs text, a number, true, false or null")


def group_key(values: tuple[object, ...]) -> bytes:
    """The group's values as a JSON array."""
    return msgspec.json.encode([value[0] if isinstance(value, tuple) else value for value in values])


def refuse_value(value: object, path: str, accepted: frozenset[type]) -> None:
    """Raise ``TypeError`` for a value that cannot be aggregated."""
    wanted = "a number or text" if str in accepted else "a number"
    raise TypeError(f"payload.{path} is {_kind(value)}; the aggregation needs {wanted}")


def _kind(value: object) -> str:
    kinds = {str: "text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(value.__class__, "null")


def _logic(spec: "ProcessorSpec") -> AggregateLogic:
    assert isinstance(spec.processing_logic, AggregateLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
