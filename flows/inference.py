"""The types of expressions, and what in them cannot work or probably is not meant.

Nothing is evaluated: the types of what an expression reads give the types of what it makes. Where a type is not known, nothing
is said.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.expressions.functions import add, multiply
from event_streaming_bus.expressions.grammar import WORDS, path_of
from event_streaming_bus.flows.checker import FieldPath, describe, suggest
from event_streaming_bus.flows.findings import Report, Severity
from event_streaming_bus.flows.function_types import METHOD_RESULTS, call_type
from event_streaming_bus.flows.narrowing import ORDERING, constants, narrowed, when
from event_streaming_bus.flows.types import (
    ANY,
    BOOLEAN,
    COUNTS,
    NULL,
    NUMBER,
    TEXT,
    Kind,
    Others,
    Type,
    field_of,
    list_of,
    not_null,
    number_of,
    object_of,
    of_values,
    or_null,
    stored,
    union,
    with_field,
)

_CLASSES: Final = (COUNTS, frozenset({Kind.TEXT}), frozenset({Kind.LIST}), frozenset({Kind.OBJECT}), frozenset({Kind.NULL}))
_SIGNS: Final[dict[type[ast.AST], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.USub: "-",
    ast.UAdd: "+",
}
_FOLDED: Final[dict[type[ast.AST], Callable[[Any, Any], Any]]] = {
    ast.Add: add,
    ast.Sub: operator.sub,
    ast.Mult: multiply,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def infer(expression: Expression, root: Type, report: Report) -> Type:
    """The type of the expression where ``root`` is the object of the names it uses. What is found is reported."""
    return _Inference(root, report).of(expression.tree, root)


def assume(expression: Expression, root: Type) -> Type:
    """``root`` of those events for which the expression holds."""
    return narrowed(expression.tree, root, True)


def truth(kind: Type) -> bool | None:
    """Whether every value of the type counts as true, or every one as false; None if it may be either."""
    if kind.values:
        outcomes = {bool(value) for value in kind.values}
        return outcomes.pop() if len(outcomes) == 1 else None
    return None


def check_path(root: Type, path: FieldPath, report: Report, shown: str = "") -> Type:
    """What reading the path gives; fields that are not there are reported. ``shown`` stands in front of the path in messages."""
    kind = root
    told = shown
    for name in path:
        if kind.is_never({Kind.OBJECT}) and told:
            report(Severity.ERROR, "no-object", f"{told} is {_solid(kind)} and has no fields, so {told}.{name} is always null")
            return NULL
        if name not in kind.fields and kind.others is not Others.OPEN:
            near = suggest(name, kind.fields)
            where = told or "the payload"
            if kind.others is Others.CLOSED:
                report(Severity.ERROR, "unknown-field", f"{where} has no field {name!r}{near or '; it is always null'}")
            else:
                report(Severity.WARNING, "unknown-field", f"{where} lists no field {name!r}{near}")
            kind = ANY  # that is told; what follows from it need not be
        kind = field_of(kind, name)
        told = f"{told}.{name}" if told else name
    return kind


def _solid(kind: Type) -> str:
    return not_null(kind).told()


class _Inference:
    """The types of one expression's parts. ``first``: the names as they are before any condition, for messages."""

    def __init__(self, first: Type, report: Report) -> None:
        self._first = first
        self._report = report

    def of(self, node: ast.expr, root: Type) -> Type:
        path = path_of(node)
        if path is not None:
            return check_path(root, path, self._report)
        method: Callable[[Any, Type], Type] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        return ANY if method is None else method(node, root)

    # --- leaves and containers ------------------------------------------------------------------------------------------

    def _constant(self, node: ast.Constant, root: Type) -> Type:
        return of_values([node.value])

    def _name(self, node: ast.Name, root: Type) -> Type:
        return of_values(constants(node) or []) if node.id in WORDS else ANY

    def _attribute(self, node: ast.Attribute, root: Type) -> Type:
        return check_path(self.of(node.value, root), (node.attr,), self._report, ast.unparse(node.value))

    def _subscript(self, node: ast.Subscript, root: Type) -> Type:
        value = self.of(node.value, root)
        if isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if bound is not None:
                    self.of(bound, root)
            self.need(node.value, value, {Kind.TEXT, Kind.LIST}, "slicing")
            return msgspec.structs.replace(not_null(value), values=None)
        index = self.of(node.slice, root)
        if value.is_never({Kind.TEXT, Kind.LIST, Kind.OBJECT}):
            self._report(Severity.ERROR, "wrong-type", f"{ast.unparse(node.value)} is {_solid(value)} and has no elements")
        if value.is_only({Kind.LIST}):
            self.need(node.slice, index, {Kind.INTEGER, Kind.NUMBER}, "an index")
            return or_null(value.item or ANY)
        return or_null(TEXT) if value.is_only({Kind.TEXT}) else ANY

    def _list(self, node: ast.List | ast.Tuple, root: Type) -> Type:
        return list_of(union(*(self.of(each, root) for each in node.elts)))

    _tuple = _list

    def _dict(self, node: ast.Dict, root: Type) -> Type:
        pairs = zip(node.keys, node.values, strict=True)
        return object_of({str(key.value): self.of(value, root) for key, value in pairs if isinstance(key, ast.Constant)})

    def _joinedstr(self, node: ast.JoinedStr, root: Type) -> Type:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.of(part.value, root)
        return TEXT

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, root: Type) -> Type:
        each = node.generators[0]
        source = self.of(each.iter, root)
        self.need(each.iter, source, {Kind.LIST}, "a comprehension")
        if isinstance(each.target, ast.Name):
            root = with_field(root, (each.target.id,), source.item or ANY)
        for condition in each.ifs:
            self.of(condition, root)
            root = narrowed(condition, root, True)
        return list_of(self.of(node.elt, root))

    _generatorexp = _listcomp

    # --- logic ------------------------------------------------------------------------------------------------------------

    def _boolop(self, node: ast.BoolOp, root: Type) -> Type:
        going_on = isinstance(node.op, ast.And)
        outcomes = []
        for i, part in enumerate(node.values):
            kind = self.of(part, root)
            if i == len(node.values) - 1 or truth(kind) is (not going_on):
                outcomes.append(kind)
                break  # what follows is never evaluated
            outcomes.append(when(kind, not going_on))
            root = narrowed(part, root, going_on)
        return union(*outcomes)

    def _unaryop(self, node: ast.UnaryOp, root: Type) -> Type:
        kind = self.of(node.operand, root)
        if isinstance(node.op, ast.Not):
            outcome = truth(kind)
            return BOOLEAN if outcome is None else of_values([not outcome])
        self.need(node.operand, kind, COUNTS, _SIGNS[type(node.op)])
        if (listed := constants(node)) is not None:
            return of_values(listed)
        return number_of(kind)

    def _ifexp(self, node: ast.IfExp, root: Type) -> Type:
        outcome = truth(self.of(node.test, root))
        branches = [(True, node.body), (False, node.orelse)]
        return union(
            *(self.of(branch, narrowed(node.test, root, holds)) for holds, branch in branches if outcome is not (not holds))
        )

    def _compare(self, node: ast.Compare, root: Type) -> Type:
        outcomes: set[bool | None] = set()
        left_node, left = node.left, self.of(node.left, root)
        for sign, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.of(right_node, root)
            if isinstance(sign, ORDERING):
                outcome = self._ordering(sign, left_node, left, right_node, right)
            elif isinstance(sign, ast.In | ast.NotIn):
                outcome = self._membership(left_node, left, right_node, right)
            else:
                outcome = self._equality(left_node, left, right_node, right)
            if isinstance(sign, ast.NotIn | ast.NotEq) and outcome is not None:
                outcome = not outcome
            outcomes.add(outcome)
            left_node, left = right_node, right
        if outcomes == {True}:
            return of_values([True])
        return of_values([False]) if False in outcomes else BOOLEAN

    def _equality(self, left_node: ast.expr, left: Type, right_node: ast.expr, right: Type) -> bool | None:
        if not left.kinds or not right.kinds:
            return None
        if left.solid and right.solid and not _share_class(left.solid, right.solid):
            message = f"{_shown(left_node, left)} is never equal to {_shown(right_node, right)}"
            self._report(Severity.ERROR, "never-equal", message)
        if not _share_class(left.kinds, right.kinds):
            return False
        if left.values is not None and right.values is not None:
            if not any(value in right.values for value in left.values):
                self._never_among(left_node, left, right_node, right)
                return False
            if len(left.values) == len(right.values) == 1:
                return True
        return None

    def _never_among(self, left_node: ast.expr, left: Type, right_node: ast.expr, right: Type) -> None:
        for node, kind, other in ((left_node, left, right), (right_node, right, left)):
            if path_of(node) is not None and kind.values and other.values and len(other.values) == 1:
                near = suggest(other.values[0], [value for value in kind.values if isinstance(value, str)])
                message = f"{ast.unparse(node)} is never {describe(other.values[0])}, only {_listed(kind.values)}{near}"
                self._report(Severity.WARNING, "never-equal", message)
                return

    def _membership(self, left_node: ast.expr, left: Type, right_node: ast.expr, right: Type) -> bool | None:
        self.need(right_node, right, {Kind.LIST, Kind.TEXT, Kind.OBJECT}, "in")
        if right.is_only({Kind.TEXT}):
            self.need(left_node, left, {Kind.TEXT}, "in with text on its right")
            return None
        if not right.is_only({Kind.LIST}) or right.item is None or not isinstance(right_node, ast.List | ast.Tuple):
            return None
        if not right_node.elts:
            return False
        listed = constants(right_node)
        if listed is None:
            return None
        values = zip(right_node.elts, listed, strict=True)
        outcomes = [self._equality(left_node, left, each, of_values([value])) for each, value in values]
        return False if set(outcomes) == {False} else True if True in outcomes else None

    def _ordering(self, sign: ast.cmpop, left_node: ast.expr, left: Type, right_node: ast.expr, right: Type) -> bool | None:
        told = _SIGNS[type(sign)]
        for node, kind in ((left_node, left), (right_node, right)):
            self._need_value(node, kind, told)
            if kind.is_only({Kind.OBJECT}):
                self._report(Severity.ERROR, "wrong-type", f"{ast.unparse(node)} is an object, and {told} cannot order objects")
                return None
        if left.solid and right.solid and not _share_class(left.solid, right.solid):
            message = f"{_shown(left_node, left)} cannot be compared with {_shown(right_node, right)}; {told} always fails"
            self._report(Severity.ERROR, "wrong-type", message)
            return None
        outcome = _folded(sign, left, right)
        return None if outcome is None else bool(outcome)

    # --- arithmetic and calls ---------------------------------------------------------------------------------------------

    def _binop(self, node: ast.BinOp, root: Type) -> Type:
        left, right = self.of(node.left, root), self.of(node.right, root)
        self._check_operands(node, left, right)
        if (value := _folded(node.op, left, right)) is not None:
            return of_values([value])
        if isinstance(node.op, ast.Add) and (left.is_only({Kind.TEXT}) or right.is_only({Kind.TEXT})):
            return TEXT
        if isinstance(node.op, ast.Add) and (left.is_only({Kind.LIST}) or right.is_only({Kind.LIST})):
            return list_of(union(left.item or ANY, right.item or ANY))
        if isinstance(node.op, ast.Div | ast.Pow):
            return NUMBER
        if isinstance(node.op, ast.Add) and not (left.is_only(COUNTS) or right.is_only(COUNTS)):
            return ANY
        return number_of(left, right)

    def _check_operands(self, node: ast.BinOp, left: Type, right: Type) -> None:
        sign = _SIGNS.get(type(node.op), "this operator")
        if not isinstance(node.op, ast.Add):
            self.need(node.left, left, COUNTS, sign)
            self.need(node.right, right, COUNTS, sign)
            return
        addends = (COUNTS, frozenset({Kind.TEXT}), frozenset({Kind.LIST}))
        given = next((kinds for kinds in addends if left.is_only(kinds)), None)
        self.need(node.left, left, frozenset().union(*addends), sign)
        what = sign if given is None else f"{sign} after {_solid(left)}"
        self.need(node.right, right, given or frozenset().union(*addends), what)

    def _call(self, node: ast.Call, root: Type) -> Type:
        arguments = [self.of(each, root) for each in node.args]
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            self.need(node.func.value, self.of(node.func.value, root), {Kind.TEXT}, f"{name}()")
            if name == "join":
                self.need(node.args[0], arguments[0], {Kind.LIST}, "join()")
            return METHOD_RESULTS.get(name, TEXT)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "exists":
            kind = arguments[0]
            return of_values([False]) if kind.always_null else BOOLEAN if kind.nullable or not kind.known else of_values([True])
        result, needs = call_type(name, arguments)
        for each, kind, needed in zip(node.args, arguments, needs, strict=False):
            if needed:
                self.need(each, kind, needed, f"{name}()")
        return result

    def need(self, node: ast.expr, kind: Type, accepted: Iterable[Kind], what: str) -> None:
        """Report if ``what`` is given something else than the accepted kinds, or may be given null."""
        self._need_value(node, kind, what)
        accepted = frozenset(accepted)
        if kind.is_never(accepted):
            order = sorted(accepted - {Kind.INTEGER, Kind.BOOLEAN}, key=list(Kind).index)
            wanted = " or ".join(each.value for each in order)
            self._report(Severity.ERROR, "wrong-type", f"{ast.unparse(node)} is {_solid(kind)}, but {what} needs {wanted}")

    def _need_value(self, node: ast.expr, kind: Type, what: str) -> None:
        told = ast.unparse(node)
        if kind.always_null:
            self._report(Severity.ERROR, "always-null", f"{told} is always null, and {what} fails on null")
        elif kind.nullable:
            path = path_of(node)
            is_missing = path is not None and stored(self._first, path).optional
            may = "may be missing" if is_missing else "may be null"
            hint = f"; say {told} != null before it" if path is not None else ""
            self._report(Severity.WARNING, "maybe-null", f"{told} {may}, and {what} fails on null{hint}")


def _share_class(a: frozenset[Kind], b: frozenset[Kind]) -> bool:
    return any(a & kinds and b & kinds for kinds in _CLASSES)


def _folded(sign: ast.AST, left: Type, right: Type) -> Any:
    """The outcome for two values that are known; None if there is none."""
    apply = _FOLDED.get(type(sign))
    if apply is None or left.values is None or right.values is None or len(left.values) != 1 or len(right.values) != 1:
        return None
    try:
        return apply(left.values[0], right.values[0])
    except (TypeError, ValueError, ArithmeticError):
        return None  # it fails whenever it is evaluated, which the types have told


def _shown(node: ast.expr, kind: Type) -> str:
    return f"{ast.unparse(node)} ({_solid(kind)})"


def _listed(values: Sequence[Any]) -> str:
    shown = [describe(value) for value in values[:5]]
    return ", ".join([*shown, "..."] if len(values) > 5 else shown)
