"""What is known more of an event once a condition holds, or does not: after ``payload.delay != null`` it is not null."""

import ast
from collections.abc import Callable

import msgspec

from event_streaming_bus.expressions.grammar import WORDS, path_of
from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.types import ANY, NULL, Kind, Others, Scalar, Type, missing, not_null, of_values, union

ORDERING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_WORD_VALUES: dict[str, Scalar] = {"true": True, "false": False, "null": None}
_NO_CONSTANT = object()


def narrowed(node: ast.expr, root: Type, holds: bool) -> Type:
    """``root``, the object of the names that ``node`` uses, as it is where ``node`` was evaluated and came out true or false.

    What an expression would have failed on is ruled out too: ``payload.delay > 60`` fails on null, whatever it would be.
    """
    path = path_of(node)
    if path is not None:
        return refined(root, path, lambda kind: when(kind, holds), exists=holds)
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return narrowed(operand, root, not holds)
        case ast.BoolOp(op=operator, values=values):
            return _of_parts(values, root, holds, together=isinstance(operator, ast.And) is holds)
        case ast.Compare():
            return _of_comparison(node, root, holds)
        case ast.Call(func=ast.Name(id="exists"), args=[argument]) if (path := path_of(argument)) is not None:
            return refined(root, path, not_null, exists=True) if holds else refined(root, path, _nothing)
        case ast.Call(func=ast.Name(id="matches"), args=[argument, _]) | ast.Call(func=ast.Attribute(value=argument)):
            return _taken(argument, root)
    return root


def _of_parts(parts: list[ast.expr], root: Type, holds: bool, *, together: bool) -> Type:
    """``together``: all parts came out as ``holds``. Otherwise those up to some part did not, and that one did."""
    outcomes = []
    for part in parts:
        if not together:
            outcomes.append(narrowed(part, root, holds))
        root = narrowed(part, root, holds if together else not holds)
    return root if together else union(*outcomes)


def _of_comparison(node: ast.Compare, root: Type, holds: bool) -> Type:
    lefts = [node.left, *node.comparators[:-1]]
    if not holds and len(node.ops) > 1:
        return root
    for left, operator, right in zip(lefts, node.ops, node.comparators, strict=True):
        if isinstance(operator, ORDERING):
            root = _taken(right, _taken(left, root))
        elif isinstance(operator, ast.Eq | ast.NotEq):
            same = isinstance(operator, ast.Eq) is holds
            root = _of_equality(left, right, _of_equality(right, left, root, same), same)
        elif isinstance(operator, ast.In | ast.NotIn) and (path := path_of(left)) is not None:
            listed = constants(right) if isinstance(right, ast.List | ast.Tuple) else None
            if listed is not None:
                root = _of_membership(path, listed, root, isinstance(operator, ast.In) is holds)
    return root


def _of_equality(node: ast.expr, other: ast.expr, root: Type, same: bool) -> Type:
    path, listed = path_of(node), constants(other)
    if path is None or listed is None or not isinstance(other, ast.Constant | ast.Name):
        return root
    return _of_membership(path, listed, root, same)


def _of_membership(path: FieldPath, listed: list[Scalar], root: Type, inside: bool) -> Type:
    """The path is, or is not, equal to one of the listed values."""
    if inside:
        if listed == [None]:
            return refined(root, path, _nothing)
        return refined(root, path, lambda kind: _among(kind, listed), exists=None not in listed)
    if None in listed:
        root = refined(root, path, not_null, exists=True)
    return refined(root, path, lambda kind: _without(kind, listed))


def _nothing(kind: Type) -> Type:
    return msgspec.structs.replace(NULL, optional=kind.optional)


def _among(kind: Type, listed: list[Scalar]) -> Type:
    if None not in listed:
        kind = not_null(kind)
    if kind.values is not None:
        return of_values(value for value in kind.values if value in listed)
    # Equal numbers may be of other kinds (1, 1.0 and true are), so only text is told by its values.
    return of_values(listed) if all(isinstance(value, str) for value in listed) else kind


def _without(kind: Type, listed: list[Scalar]) -> Type:
    if kind.values is None:
        return kind
    return msgspec.structs.replace(of_values(value for value in kind.values if value not in listed), optional=kind.optional)


def _taken(node: ast.expr, root: Type) -> Type:
    path = path_of(node)
    return root if path is None else refined(root, path, not_null, exists=True)


def constants(node: ast.expr) -> list[Scalar] | None:
    """The values of a constant, or of a list of constants; None if ``node`` is something else."""
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    values = [_constant(each) for each in nodes]
    return None if _NO_CONSTANT in values else values  # type: ignore[return-value]


def _constant(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in WORDS:
            return _WORD_VALUES[name.lower() if name != "None" else "null"]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    return _NO_CONSTANT


def when(kind: Type, holds: bool) -> Type:
    """Those values of ``kind`` that count as true, or as false."""
    if kind.values is not None:
        return of_values(value for value in kind.values if bool(value) is holds)
    if kind.kinds == frozenset({Kind.BOOLEAN}):
        return of_values([holds])
    return not_null(kind) if holds else kind


def refined(kind: Type, path: FieldPath, change: Callable[[Type], Type], *, exists: bool = False) -> Type:
    """The type with what is known of the path changed; ``exists``: there is something, so all around it are objects."""
    if not path:
        return change(kind)
    name = path[0]
    inner = kind.fields.get(name)
    if inner is None:
        if kind.others is Others.CLOSED or (kind.kinds is not None and Kind.OBJECT not in kind.kinds):
            return kind
        inner = missing(ANY)
    fields = {**kind.fields, name: refined(inner, path[1:], change, exists=exists)}
    kind = msgspec.structs.replace(kind, fields=fields)
    return msgspec.structs.replace(kind, kinds=frozenset({Kind.OBJECT}), values=None, optional=False) if exists else kind
