"""Why an expression failed: finds the innermost part that fails and says which of its operands was null or of a wrong type."""

import ast
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from event_streaming_bus.expressions.budget import Budget
from event_streaming_bus.expressions.functions import kind_of
from event_streaming_bus.expressions.grammar import executed_children, path_of
from event_streaming_bus.untraced import untraced

Compile: TypeAlias = Callable[[ast.expr, tuple[str, ...]], Callable[..., Any]]
"""Makes a function of a part; for a part of a comprehension, of a budget and the element that has the name given."""

_MAX_CODE_CHARS: Final = 60
_MAX_OPERANDS: Final = 1000
_MAX_TOLD: Final = 3


class _Element(NamedTuple):
    """The element that a comprehension is at: the name it has there, what it is called outside, and its value."""

    name: str
    called: str
    value: Any


class _Failure(NamedTuple):
    node: ast.expr
    element: _Element | None
    error: Exception


def explain_failure(node: ast.expr, compile_part: Compile, error: Exception) -> str:
    """One sentence about why evaluating ``node`` raised ``error``."""
    parts = _Parts(compile_part)
    failure = parts.failure(node, None)
    return str(error) if failure is None else parts.sentence(failure)


class _Parts:
    """Evaluates parts of an expression. A part that is not evaluated, for ``and`` and ``if`` stop early, cannot be to blame."""

    def __init__(self, compile_part: Compile) -> None:
        self._compile = compile_part
        self._functions: dict[int, Callable[..., Any]] = {}
        self._made: list[ast.expr] = []

    def value(self, node: ast.expr, element: _Element | None) -> Any:
        function = self._functions.get(id(node))
        if function is None:
            function = self._functions[id(node)] = self._compile(node, (element.name,) if element else ())
        return function(Budget((), 0, ()), element.value) if element else function()

    def failure(self, node: ast.expr, element: _Element | None) -> _Failure | None:
        """The innermost part of ``node`` that fails."""
        try:
            self.value(node, element)
            return None
        except Exception as raised:
            error = untraced(raised)
        for child, its_element in self._executed(node, element):
            found = self.failure(child, its_element)
            if found is not None:
                return found
        return _Failure(node, element, error)

    def _executed(self, node: ast.expr, element: _Element | None) -> Iterator[tuple[ast.expr, _Element | None]]:
        """The parts of ``node`` that are evaluated. Whoever takes one must have seen it succeed before asking for the next."""
        match node:
            case ast.BoolOp():
                for child in node.values:
                    yield child, element
                    if bool(self.value(child, element)) is isinstance(node.op, ast.Or):
                        return
            case ast.IfExp():
                yield node.test, element
                yield (node.body if self.value(node.test, element) else node.orelse), element
            case ast.Compare():
                yield node.left, element
                yield node.comparators[0], element
                for i, right in enumerate(node.comparators[1:], start=1):
                    so_far = ast.Compare(node.left, node.ops[:i], node.comparators[:i])
                    self._made.append(so_far)  # so that no other node gets its id
                    yield so_far, element
                    if not self.value(so_far, element):
                        return
                    yield right, element
            case ast.ListComp():
                yield from self._of_comprehension(node)
            case _ if path_of(node) is None:
                for child in executed_children(node):
                    if isinstance(child, ast.GeneratorExp):
                        yield from self._of_comprehension(child)
                    else:
                        yield child, element

    def _of_comprehension(self, node: ast.GeneratorExp | ast.ListComp) -> Iterator[tuple[ast.expr, _Element | None]]:
        (each,) = node.generators
        yield each.iter, None
        for element in self._elements(node):
            for condition in each.ifs:
                yield condition, element
                if not self.value(condition, element):
                    break
            else:
                yield node.elt, element

    def _elements(self, node: ast.GeneratorExp | ast.ListComp) -> Iterator[_Element]:
        target, over = node.generators[0].target, node.generators[0].iter
        values = self.value(over, None)
        if isinstance(target, ast.Name) and isinstance(values, list | tuple):
            for i, value in enumerate(values):
                yield _Element(target.id, f"{_called(over, None)}[{i}]", value)

    def sentence(self, failure: _Failure) -> str:
        operands = list(islice(self._operands(failure), _MAX_OPERANDS))
        code = _shortened(failure.node)
        if isinstance(failure.error, ZeroDivisionError):
            zero = next((called for called, value in reversed(operands) if value == 0), None)
            return f"division by zero: {zero} is 0" if zero else f"division by zero in {code}"
        if isinstance(failure.error, TypeError | AttributeError):
            nulls = [f"{called} is null" for called, value in operands if value is None]
            if nulls:
                return "; ".join(list(dict.fromkeys(nulls))[:_MAX_TOLD])
            told = [f"{called} is {kind_of(value)}" for called, value in operands]
            if told:
                return f"{', '.join(list(dict.fromkeys(told))[:_MAX_TOLD])}, in {code}"
        return f"{failure.error}, in {code}"

    def _operands(self, failure: _Failure) -> Iterator[tuple[str, Any]]:
        """What the failing part works with, literals left out: what it is called, and its value."""
        node, element = failure.node, failure.element
        for child in [node] if path_of(node) else executed_children(node):
            if isinstance(child, ast.GeneratorExp):
                over = child.generators[0].iter
                yield _called(over, None), self.value(over, None)
                for each in self._elements(child):
                    if all(self.value(condition, each) for condition in child.generators[0].ifs):
                        yield _called(child.elt, each), self.value(child.elt, each)
            elif not isinstance(child, ast.Constant):
                value = self.value(child, element)
                called = _called(child, element)
                yield called, value
                if isinstance(value, list | tuple) and not isinstance(child, ast.Tuple | ast.List):
                    yield from ((f"{called}[{i}]", each) for i, each in enumerate(value) if each is None)


def _called(node: ast.expr, element: _Element | None) -> str:
    path = path_of(node)
    if path is None:
        return _shortened(node)
    first = element.called if element is not None and element.name == path[0] else path[0]
    return ".".join([first, *path[1:]])


def _shortened(node: ast.expr) -> str:
    code = ast.unparse(node)
    return code if len(code) <= _MAX_CODE_CHARS else f"{code[: _MAX_CODE_CHARS - 3]}..."
