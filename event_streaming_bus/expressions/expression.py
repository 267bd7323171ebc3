"""An expression: text that was checked against the grammar, and the native code it becomes."""

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final

from event_streaming_bus.errors import ExpressionError
from event_streaming_bus.expressions.explanation import explain_failure
from event_streaming_bus.expressions.functions import NAMESPACE
from event_streaming_bus.expressions.grammar import Emitter, Refused, Resolve
from event_streaming_bus.models import Event

MAX_CHARS: Final = 4096

ENVELOPE_NAMES: Final = {
    "payload": "payload",
    **{name.removesuffix("_ms"): name for name in Event.__struct_fields__ if name != "data"},
}
"""The names of an envelope's expression, and the event's attributes they stand for."""


JOIN_NAMES: Final = {name: name for name in ("left", "right", "left_timestamp", "right_timestamp")}
"""The names of a JOIN's expression: the payloads of both sides, and their times in epoch milliseconds."""


class Scope(Enum):
    """What a bare name means: a field of the envelope (``payload.total``), a field of the payload (``total``), or a side of a
    JOIN (``left.total``)."""

    ENVELOPE = "envelope"
    PAYLOAD = "payload"
    JOIN = "join"


_NAMES: Final = {Scope.ENVELOPE: ENVELOPE_NAMES, Scope.PAYLOAD: None, Scope.JOIN: JOIN_NAMES}


@dataclass(frozen=True)
class Expression:
    """A checked expression. Immutable; two are equal if their text and scope are.

    Missing fields and fields of what is no object read as null. ``==`` and ``!=`` work with null; ordering, arithmetic and
    methods on null raise when the code runs, and ``explain`` says which path was null.

    ``payload_paths`` are the paths of the payload that are read; the empty path is the whole payload. ``names`` are the names
    that are used, without what follows their first dot.
    """

    text: str
    scope: Scope
    payload_paths: frozenset[tuple[str, ...]] = field(repr=False, compare=False)
    names: frozenset[str] = field(repr=False, compare=False)
    _node: ast.expr = field(repr=False, compare=False)

    @property
    def tree(self) -> ast.expr:
        """The checked syntax tree, for those who reason about the expression. It is shared: leave it as it is."""
        return self._node

    def source(self, resolve: Resolve) -> str:
        """Python code of the expression, to be pasted into generated code in parentheses.

        Each name or dotted path, ``("payload", "a", "b")``, becomes what ``resolve`` returns for it: code that reads it without
        an error, None where there is nothing. The code uses nothing but these and the names in ``NAMESPACE``, so several
        expressions can share one function.
        """
        return Emitter(resolve).emit(self._node)

    def compile(self) -> Callable[[Any], Any]:
        """The expression as a function: of an ``Event`` in the scope ENVELOPE, of a decoded payload in the scope PAYLOAD, of a
        mapping of the names in the scope JOIN.

        What it may raise: ``TypeError``, ``AttributeError``, ``ValueError`` and ``ArithmeticError`` for values that do not
        fit, ``RecursionError`` for values nested too deep, and what decoding the event's payload raises.
        """
        return self._compiled

    @cached_property
    def _compiled(self) -> Callable[[Any], Any]:
        run = _compile(self._node, self.scope)
        if self.scope is not Scope.ENVELOPE:
            return lambda payload: run(None, payload, payload if payload.__class__ is dict else {})
        if "payload" not in self.names:
            return lambda event: run(event, None, None)

        def with_payload(event: Event) -> Any:
            payload = event.payload  # decodes
            return run(event, payload, payload if payload.__class__ is dict else {})

        return with_payload

    def explain(self, error: Exception, value: Any) -> str:
        """Why the expression raised ``error`` for ``value`` (an event or a payload): which path was null or of a wrong type.

        The innermost part that fails is found by evaluating the parts again, in the order in which they are evaluated.
        """
        event = value if self.scope is Scope.ENVELOPE else None
        try:
            payload = value if event is None else event.payload if "payload" in self.names else None
        except Exception:  # the payload itself cannot be read
            return str(error)
        fields = payload if payload.__class__ is dict else {}

        def compiled(part: ast.expr, local: tuple[str, ...]) -> Callable[..., Any]:
            run = self._run_of(part, local)
            return lambda *local_values: run(event, payload, fields, *local_values)

        return explain_failure(self._node, compiled, error)

    @cached_property
    def _parts(self) -> dict[int, dict[tuple[str, ...], Callable[..., Any]]]:
        """What was compiled of each part to explain a failure, by the part's id: where every event fails, it is used for each."""
        return {id(part): {} for part in ast.walk(self._node)}

    def _run_of(self, part: ast.expr, local: tuple[str, ...]) -> Callable[..., Any]:
        known = self._parts.get(id(part))
        if known is None:  # made while explaining, and gone afterwards: another part may get its id
            return _compile(part, self.scope, local)
        run = known.get(local)
        if run is None:
            run = known[local] = _compile(part, self.scope, local)
        return run


def parse(text: str, scope: Scope = Scope.ENVELOPE, *, where: str = "expression") -> Expression:
    """Check an expression.

    Raises ``ExpressionError``: ``where`` it stands, what is wrong, and the line with a caret under the column. Accepts at most
    ``MAX_CHARS`` characters, on one line or several.
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
        raise ExpressionError(
            f"{where}: does not parse: nested too deep, or characters that no expression has", where=where
        ) from None
    try:
        _check_own_parentheses(node, text)
        return _expression(text, scope, node)
    except Refused as refused:
        line, column = _place(refused.node, text)
        raise _error(where, text, refused.message, line, column) from None
    except RecursionError:
        raise ExpressionError(f"{where}: nested too deep", where=where) from None


def _check_own_parentheses(node: ast.expr, text: str) -> None:
    """Refuse a tree that took the parentheses around the text for its own."""
    if (node.lineno, node.col_offset) != (1, 0):
        return
    if isinstance(node, ast.Tuple) and node.elts:
        raise Refused(node.elts[-1], "a comma here makes a list, which counts as true; join conditions with 'and'")
    if isinstance(node, ast.GeneratorExp):
        raise Refused(node, "a comprehension stands in brackets, as in [x.id for x in payload.list]")
    depth = 0
    for at, sign in enumerate(text):  # a sign within quotes may mislead it; the caret is then somewhat off
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            node.lineno, node.col_offset = 1 + text.count("\n", 0, at), len(text[:at].rpartition("\n")[2].encode())
            node.col_offset += node.lineno == 1
            break
    raise Refused(node, "does not parse: this parenthesis closes nothing" if depth < 0 else "does not parse")


def _expression(text: str, scope: Scope, node: ast.expr) -> Expression:
    seen: set[tuple[str, ...]] = set()

    def note(path: tuple[str, ...]) -> str:
        seen.add(path)
        return "_"

    Emitter(note, _NAMES[scope]).emit(node)
    paths = {path[1:] for path in seen if path[0] == "payload"} if scope is Scope.ENVELOPE else seen
    return Expression(text, scope, frozenset(paths), frozenset(path[0] for path in seen), node)


def _syntax_error_place(text: str, error: SyntaxError) -> tuple[int, int]:
    """Line and column of a syntax error. In parentheses a missing end would be blamed on the parenthesis, so a text of one
    line is looked at once more as it is."""
    if "\n" not in text:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(text, mode="eval")
        except SyntaxError as bare:
            return 1, (bare.offset or 1) - 1
        except (ValueError, RecursionError, MemoryError):
            pass  # as it is it may be nested one level too deep, where in parentheses another mistake was met first
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


def _compile(node: ast.expr, scope: Scope, local: tuple[str, ...] = ()) -> Callable[..., Any]:
    """``node`` as a function of the event, the payload, and the payload again or ``{}`` if it is no object; for a part of a
    comprehension that names its elements ``local``, of a budget and an element too."""

    def resolve(path: tuple[str, ...]) -> str:
        if scope is not Scope.ENVELOPE:
            return in_payload(path)
        if path[0] == "payload":
            return in_payload(path[1:]) if len(path) > 1 else "_payload"
        value = f"_event.{ENVELOPE_NAMES[path[0]]}"
        return f"_get_path({value}, {path[1:]!r})" if len(path) > 1 else value

    def in_payload(path: tuple[str, ...]) -> str:
        top = f"_fields.get({path[0]!r})"
        return f"_get_path({top}, {path[1:]!r})" if len(path) > 1 else top

    code = Emitter(resolve, local=local).emit(node)
    parameters = ["_event", "_payload", "_fields", *(["_budget"] if local else []), *(f"_local_{name}" for name in local)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = compile(f"lambda {', '.join(parameters)}: ({code})", "<expression>", "eval")
    function: Callable[..., Any] = eval(compiled, dict(NAMESPACE))  # noqa: S307 - checked against the grammar
    return function
