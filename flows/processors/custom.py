"""CUSTOM: processing in Python, by a function of the user's own."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.flows.checker import (
    BAD,
    MAX_KEY_FIELDS,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    dotted_path,
    duration_ms,
    json_value,
    list_of,
    member,
    read_table,
    required,
    text,
)
from event_streaming_bus.flows.window_config import TIMING, Timing, given_timing, take_timing

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec


class CustomForm(StrEnum):
    """How the function is called: with an event, with a list of events, or with an event and the state of its key."""

    EVENT = "event"
    BATCH = "batch"
    KEYED = "keyed"


class CustomLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a CUSTOM. ``function`` is ``module:function``; ``params`` are passed on as keyword arguments.

    ``key``: the fields whose values name the state of the form ``keyed``; ``state_ttl_ms``: state not used for so long, in
    event time, is forgotten (None: never).
    """

    function: str
    form: CustomForm = CustomForm.EVENT
    key: tuple[FieldPath, ...] = ()
    params: Mapping[str, Any] = {}
    state_ttl_ms: int | None = None
    timing: Timing = Timing()

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {"function": self.function, "form": self.form.value}
        if self.key:
            data["key"] = [".".join(path) for path in self.key]
        if self.params:
            data["params"] = dict(self.params)
        if self.state_ttl_ms is not None:
            data["state_ttl_ms"] = self.state_ttl_ms
        return data | self.timing.timing_data() if self.form is CustomForm.KEYED else data


def _params(value: object, path: Path, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        return problems.reject(path, "a mapping of arguments", value)
    for name in value:
        if not isinstance(name, str) or not name.isidentifier():
            return problems.add(path, f"expected names of arguments as keys, got {name!r}")
    return json_value(value, path, problems)


_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
MODULE: Final = rf"{_NAME}(\.{_NAME})*"
FUNCTION: Final = rf"(?P<module>{MODULE}):(?P<name>{_NAME})"
"""How a function is named, as a regular expression."""
_LOGIC: Final[Table] = {
    "function": required(text(FUNCTION, "a function as module:function, such as 'my_flows.prices:convert'", 300)),
    "form": Field(member(CustomForm), default=CustomForm.EVENT),
    "key": Field(list_of(dotted_path, least=1, most=MAX_KEY_FIELDS), default=()),
    "params": Field(_params, default={}),
    "state_ttl_ms": Field(duration_ms(1)),
    **TIMING,
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``CustomLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    if values is None:
        return BAD
    fine = True
    if values["form"] is CustomForm.KEYED:
        if not values["key"]:
            problems.add((*path, "key"), "required, but missing: the form keyed needs the fields that name the state")
            fine = False
    else:
        for name in ("key", "state_ttl_ms", *given_timing(value)):
            if values.get(name) not in (None, ()):
                problems.add((*path, name), f"only the form keyed has state; leave {name} out")
                fine = False
    return CustomLogic(**take_timing(values)) if fine else BAD


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read here; the function is handed whole events, which decode on their own."""
    yield from _logic(spec).key


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one CUSTOM: events are collected for the function, or gathered by key group for one with state.

    What is collected without state: ``(index, what MAPs made of the event)``.
    """
    from event_streaming_bus.flows.gathering import event_parts, gather_entries

    logic = _logic(node.spec)
    if logic.form is CustomForm.KEYED:
        gather_entries(number, logic.key, code, reading, lambda: event_parts(reading))
    else:
        code.line(f"o{number}.append((i, {event_parts(reading)}))")


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what events are collected in."""
    from event_streaming_bus.flows.gathering import BY_KEY_GROUP

    return BY_KEY_GROUP if _logic(spec).form is CustomForm.KEYED else "[]"


def _logic(spec: "ProcessorSpec") -> CustomLogic:
    assert isinstance(spec.processing_logic, CustomLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic
