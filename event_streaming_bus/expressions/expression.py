"""An expression: text that was checked against the grammar, and the native code it becomes."""

import ast
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final

from event_streaming_bus.errors import ExpressionError
from event_streaming_bus.expressions.functions import NAMESPACE, kind_of
from event_streaming_bus.expressions.grammar import WORDS, Emitter, Refused, Resolve, path_of
from event_streaming_bus.models import Event

MAX_CHARS: Final = 4096

ENVELOPE_NAMES: Final = {
    "payload": "payload",
    "timestamp": "timestamp_ms",
    **{name: name for name in Event.__struct_fields__ if name not in ("data", "timestamp_ms")},
}
"""The names of an envelope's expression, and the event's attributes they stand for."""


class Scope(Enum):
    """What a bare name means: a field of the envelope (``payload.total``), or a field of the payload (``total``)."""

    ENVELOPE = "envelope"
    PAYLOAD = "payload"


class Expression:
    """A checked expression. Immutable; two are equal if their text and scope are.

    Missing fields and fields of what is no object read as null. ``==`` and ``!=`` work with null; ordering, arithmetic and
    methods on null raise when the code runs, and ``explain`` says which path was null.
    """

    __slots__ = ("_compiled", "_node", "names", "payload_paths", "scope", "text")

    def __init__(self, text: str, scope: Scope, node: ast.expr) -> None:
        self.text = text
        self.scope = scope
        self._node = node
        self._compiled: Callable[[Any], Any] | None = None
        seen: set[tuple[str, ...]] = set()

        def note(path: tuple[str, ...]) -> str:
            _check_name(path, scope, node)
            seen.add(path)
            return "_"

        Emitter(note).emit(node)
        in_payload = {path if scope is Scope.PAYLOAD else path[1:] for path in seen if _reads_payload(path, scope)}
        self.payload_paths: frozenset[tuple[str, ...]] = frozenset(in_payload)
        """The paths of the payload that are read; the empty path is the whole payload."""
        self.names: frozenset[str] = frozenset(path[0] for path in seen)
        """The names that are used, without what follows their first dot."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and (self.text, self.scope) == (other.text, other.scope)

    def __hash__(self) -> int:
        return hash((self.text, self.scope))

    def __repr__(self) -> str:
        return f"<Expression {self.text}>"

    def source(self, resolve: Resolve) -> str:
        """Python code of the expression, to be pasted into generated code in parentheses.

        Each name or dotted path, ``("payload", "a", "b")``, becomes what ``resolve`` returns for it. The code uses nothing but
        these and the names in ``NAMESPACE``.
        """
        return Emitter(resolve).emit(self._node)

    def compile(self) -> Callable[[Any], Any]:
        """The expression as a function: of an ``Event`` in the scope ENVELOPE, of a decoded payload in the scope PAYLOAD."""
        if self._compiled is None:
            self._compiled = _compile(self._node, self.scope)
        return self._compiled

    def explain(self, error: Exception, value: Any) -> str:
        """Why the expression raised ``error`` for ``value`` (an event or a payload): which path was null or of a wrong type.

        The innermost part that fails is found by evaluating the parts one after the other.
        """
        for part in _parts(self._node):
            try:
                _compile(part, self.scope)(value)
            except Refused:
                continue
            except Exception as raised:
                operands = [
                    f"{'.'.join(path)} is {kind_of(found)}"
                    for path, found in self._operands(part, value)
                    if found is None or not isinstance(found, int | float) or isinstance(found, bool)
                ]
                return "; ".join(dict.fromkeys(operands)) or str(raised)
        return str(error)

    def _operands(self, part: ast.expr, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The paths in ``part`` and what they are in ``value``."""
        path = path_of(part)
        if path is not None:
            try:
                yield path, _compile(part, self.scope)(value)
            except Refused:
                return  # the name of a comprehension
            return
        for child in _children(part):
            yield from self._operands(child, value)


def parse(text: str, scope: Scope = Scope.ENVELOPE, *, where: str = "expression") -> Expression:
    """Check an expression.

    Raises ``ExpressionError``: ``where`` it stands, what is wrong, and the line with a caret under the column. Accepts at most
    ``MAX_CHARS`` characters.
    """
    if not isinstance(text, str) or not text.strip():
        raise ExpressionError(f"{where}: expected an expression, got nothing", where=where)
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"{where}: {len(text):,} characters; at most {MAX_CHARS:,} are allowed", where=where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # In parentheses an expression may go over several lines; the column of the first line is one off for it.
            node = ast.parse(f"({text}\n)", mode="eval").body
    except SyntaxError as error:
        raise _error(where, text, "does not parse", *_syntax_error_place(text, error)) from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{where}: does not parse: nested too deep, or characters that no expression has") from None
    try:
        return Expression(text, scope, node)
    except Refused as refused:
        line, column = _place(refused.node, text)
        raise _error(where, text, refused.message, line, column) from None
    except RecursionError:
        raise ExpressionError(f"{where}: nested too deep", where=where) from None


def _syntax_error_place(text: str, error: SyntaxError) -> tuple[int, int]:
    """Line and column of a syntax error. In parentheses a missing end would be blamed on the parenthesis, so a text of one
    line is looked at once more as it is."""
    if "\n" not in text:
        try:
            ast.parse(text, mode="eval")
        except SyntaxError as bare:
            return 1, (bare.offset or 1) - 1
    line = error.lineno or 1
    return line, (error.offset or 1) - 1 - (line == 1)


def _place(node: ast.AST, text: str) -> tuple[int, int]:
    if isinstance(node, ast.Attribute):  # what is wrong with one is its last name
        line, column_bytes = node.end_lineno or 1, (node.end_col_offset or 1) - len(node.attr.encode())
    else:
        line, column_bytes = getattr(node, "lineno", 1), getattr(node, "col_offset", 1)
    column_bytes -= line == 1
    lines = text.split("\n")
    if line > len(lines):
        return len(lines), len(lines[-1])
    return line, len(lines[line - 1].encode()[: max(0, column_bytes)].decode("utf-8", "ignore"))


def _error(where: str, text: str, message: str, line: int, column: int) -> ExpressionError:
    lines = text.split("\n")
    line = min(line, len(lines))
    shown = lines[line - 1]
    column = max(0, min(column, len(shown)))
    at = f"line {line}, column {column + 1}" if len(lines) > 1 else f"column {column + 1}"
    return ExpressionError(f"{where}: {message} ({at})\n    {shown}\n    {' ' * column}^", where=where, column=column + 1)


def _reads_payload(path: tuple[str, ...], scope: Scope) -> bool:
    return scope is Scope.PAYLOAD or path[0] == "payload"


def _check_name(path: tuple[str, ...], scope: Scope, node: ast.expr) -> None:
    if scope is Scope.PAYLOAD or path[0] in ENVELOPE_NAMES:
        return
    name = path[0]
    near = get_close_matches(name, [*ENVELOPE_NAMES, *WORDS], 1)
    hint = f"did you mean {near[0]}" if near else f"did you mean payload.{name}"
    found = next((n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name), node)
    raise Refused(found, f"there is no name {name}; {hint}? There is: {', '.join(sorted(ENVELOPE_NAMES))}")


def _compile(node: ast.expr, scope: Scope) -> Callable[[Any], Any]:
    def resolve(path: tuple[str, ...]) -> str:
        _check_name(path, scope, node)
        if scope is Scope.PAYLOAD:
            return f"_get_path(_value, {path!r})"
        value = f"_value.{ENVELOPE_NAMES[path[0]]}"
        return f"_get_path({value}, {path[1:]!r})" if len(path) > 1 else value

    code = Emitter(resolve).emit(node)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = compile(f"lambda _value: ({code})", "<expression>", "eval")
    function: Callable[[Any], Any] = eval(compiled, dict(NAMESPACE))  # noqa: S307 - checked against the grammar
    return function


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of an expression, innermost first, itself last; what lies within a comprehension has no value by itself."""
    if path_of(node) is None:
        for child in _children(node):
            yield from _parts(child)
    yield node


def _children(node: ast.expr) -> list[ast.expr]:
    """The operands of a node: of a call its arguments and what a method is called on, not the function's name."""
    if isinstance(node, ast.Call):
        return [*([node.func.value] if isinstance(node.func, ast.Attribute) else []), *node.args]
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return [node.generators[0].iter]
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
