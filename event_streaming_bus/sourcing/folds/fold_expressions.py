"""Expressions of declared folds: over the state, the payload and the envelope of the event, and what their values become.

The names are those of the envelope of flows, as far as recorded events have them, and ``state``, ``version``, ``position``
and ``recorded_at``. Values are plain JSON: tuples become lists, and a number that JSON cannot hold is an error.
"""

import ast
import math
from collections.abc import Callable
from typing import Any, Final

from event_streaming_bus.expressions import NAMESPACE, Expression, Scope
from event_streaming_bus.expressions.functions import MAX_BITS
from event_streaming_bus.expressions.grammar import Emitter, Refused
from event_streaming_bus.flows.checker import BAD, Path, Problems, expression_in
from event_streaming_bus.store.recorded import RecordedEvent

NAMES: Final = {
    "state": "",
    "payload": "",
    "timestamp": "timestamp_ms",
    "recorded_at": "recorded_at_ms",
    **{
        name: name
        for name in (
            *("event_type", "event_id", "version", "position", "aggregate_id", "aggregate_type", "user_id", "metadata"),
            *("correlation_id", "causation_id", "tenant_id", "schema_id"),
        )
    },
}
"""The names there are, and the event's attributes they stand for."""

_parse: Final = expression_in(Scope.PAYLOAD)


def read_expression(value: object, path: Path, problems: Problems) -> Any:
    """A reader of expressions of folds. A number, true, false and null stand for themselves."""
    expression = _parse("null" if value is None else value, path, problems)
    if expression is BAD:
        return BAD
    try:
        Emitter(lambda _: "_", NAMES).emit(expression.tree)
    except Refused as refused:
        return problems.add(path, f"{refused.message} ({_place(refused.node, expression.text)})")
    return expression


def _place(node: ast.AST, text: str) -> str:
    # The text is parsed in parentheses, so that columns of its first line are one off.
    line = getattr(node, "lineno", 1)
    column = getattr(node, "col_offset", 1) + (line > 1)
    return f"column {column}" if "\n" not in text.strip() else f"line {line}, column {column}"


def names_of(event: RecordedEvent, state: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """The values of all names, for ``Expression.explain``."""
    return {
        "state": state,
        "payload": payload,
        **{name: getattr(event, attribute) for name, attribute in NAMES.items() if attribute},
    }


def source_of(expression: Expression) -> str:
    """Python code of the expression over ``_event``, ``_state`` and ``_payload``, for the names in ``CONSTANTS``."""
    return f"_fit({_Emitter(_resolve).emit(expression.tree)})"


def _resolve(path: tuple[str, ...]) -> str:
    name, *rest = path
    if name in ("state", "payload"):
        if not rest:
            # The state is being changed while the events are applied, so it cannot be a part of itself.
            return f"_dict(_{name})"
        top, rest = f"_{name}.get({rest[0]!r})", rest[1:]
    else:
        top = f"_event.{NAMES[name]}"
    return f"_get_path({top}, {tuple(rest)!r})" if rest else top


class _Emitter(Emitter):
    """Brings what is put together to what JSON can hold. What comes from the state or a payload is that already."""

    def _list(self, node: ast.List) -> str:
        return f"_plain({super()._list(node)})"

    def _dict(self, node: ast.Dict) -> str:
        return f"_plain({super()._dict(node)})"

    def _listcomp(self, node: ast.ListComp) -> str:
        return f"_plain({super()._listcomp(node)})"

    def _function(self, node: ast.Call, name: str) -> str:
        code = super()._function(node, name)
        return f"_plain({code})" if name == "sorted" else code


def fit(value: Any) -> Any:
    """The value of an expression as it is kept; lists and objects are fit already. Raises ``ValueError``."""
    kind = value.__class__
    if kind is float:
        if not math.isfinite(value):
            raise ValueError("the result is too large for a number")
    elif kind is int:
        if value.bit_length() > MAX_BITS:
            raise ValueError(f"the result is too large: an integer of more than {MAX_BITS} bits")
    elif kind is tuple:
        return plain(value)
    return value


def plain(value: Any) -> Any:
    """The value with all that is in it as it is kept. Raises ``ValueError``."""
    kind = value.__class__
    if kind is list or kind is tuple:
        return [plain(each) for each in value]
    if kind is dict:
        return {name: plain(each) for name, each in value.items()}
    return fit(value)


CONSTANTS: Final[dict[str, Callable[..., Any] | Any]] = {**NAMESPACE, "_fit": fit, "_plain": plain, "_dict": dict}
