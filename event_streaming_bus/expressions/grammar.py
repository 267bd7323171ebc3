"""The grammar: which Python syntax is an expression of ours, and the code it becomes.

Nothing is allowed that is not listed here. The code is Python again, with names and dotted paths replaced, and with guarded
calls in place of the operators that could make something huge of little.

A comprehension becomes ``element for _budget in (_Budget(list, operations, others),) for _local_x in _budget.items``: its first
loop has one turn and gives the rest a budget (see ``budget``).
"""

import ast
from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches
from typing import Final

from event_streaming_bus.expressions.functions import FUNCTIONS, GUARDED_METHODS, MAX_BITS, METHODS, check_time_format
from event_streaming_bus.expressions.patterns import compiled_pattern

Resolve = Callable[[tuple[str, ...]], str]

MAX_DEPTH: Final = 64
WORDS: Final = {"true": "True", "false": "False", "null": "None", "True": "True", "False": "False", "None": "None"}
_COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_NATIVE: Final[dict[type[ast.operator], str]] = {ast.Sub: "-", ast.Div: "/", ast.FloorDiv: "//"}
_GUARDED: Final[dict[type[ast.operator], tuple[str, str]]] = {
    ast.Add: ("+", "_add"),
    ast.Mult: ("*", "_multiply"),
    ast.Mod: ("%", "_modulo"),
    ast.Pow: ("", "_power"),
}
_UNARY: Final[dict[type[ast.unaryop], str]] = {ast.Not: "not ", ast.USub: "-", ast.UAdd: "+"}
_PAYLOADS: Final = ("payload", "left", "right")
"""The names that are payloads, of whichever scope."""
_RUNS_OVER: Final = frozenset({"all", "any", "max", "min", "sorted", "sum", "join"})
"""What may have a comprehension without brackets as its only argument."""
_MAKES_TEXT: Final = frozenset({"concat", "format_time", "sorted", "str"})
_SMALL_OR_SPENT: Final = (ast.Compare, ast.UnaryOp, ast.BinOp, ast.Constant, ast.JoinedStr)
"""What is a number, true or false, or made anew and counted for that; other elements may be values from outside."""
_CHARS_PER_OPERATION: Final = 16
_REFUSED: Final[dict[type[ast.AST], str]] = {
    ast.Lambda: "lambda is not allowed",
    ast.NamedExpr: ":= is not allowed; an expression cannot set anything",
    ast.Await: "await is not allowed",
    ast.Yield: "yield is not allowed",
    ast.Starred: "* is not allowed here",
    ast.Set: "a set is not allowed; use a list or a tuple",
    ast.SetComp: "a set is not allowed; use a list",
    ast.DictComp: "an object comprehension is not allowed",
}


class Refused(Exception):
    """Something that the language does not have, and where it stands."""

    def __init__(self, node: ast.AST, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message


def _meant(name: str, names: Collection[str]) -> str:
    """What may have been meant by a name that there is not: one like it, or a field of a payload."""
    payloads = [each for each in _PAYLOADS if each in names]
    near = get_close_matches(name, [*names, *WORDS], 1)
    if near == ["payload"]:
        return near[0]
    *others, last = [*near, *(payloads if name in _PAYLOADS else [f"{each}.{name}" for each in payloads])]
    return f"{', '.join(others)} or {last}" if others else last


def path_of(node: ast.expr) -> tuple[str, ...] | None:
    """The name or dotted path that ``node`` is, fields in brackets included; ``None`` if it is something else."""
    parts: list[str] = []
    while True:
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            parts.append(node.slice.value)
            node = node.value
        elif isinstance(node, ast.Name) and node.id not in WORDS:
            return (node.id, *reversed(parts))
        else:
            return None


class Emitter:
    """Checks an expression's tree and writes its code.

    ``resolve`` gives the code of a name or dotted path. ``names`` are the names there are; ``None``: any. ``local`` is the
    name that a comprehension gives to its elements, if it is a part of one that is emitted; the code finds the element in
    ``_local_x`` and a budget in ``_budget``.
    """

    def __init__(self, resolve: Resolve, names: Collection[str] | None = None, local: Collection[str] = ()) -> None:
        self._resolve = resolve
        self._names = names
        self._local = frozenset(local)
        self._outside: list[str] = []
        self._depth = 0

    def emit(self, node: ast.expr) -> str:
        """The code of ``node``. Raises ``Refused``."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refused(node, f"the expression is nested more than {MAX_DEPTH} levels deep")
        path = path_of(node)
        if path is not None:
            code = self._path(node, path)
        else:
            method = getattr(self, f"_{type(node).__name__.lower()}", None)
            if method is None:
                raise Refused(node, _REFUSED.get(type(node), f"{_describe(node)} is not allowed"))
            code = method(node)
        self._depth -= 1
        return str(code)

    def _path(self, node: ast.expr, path: tuple[str, ...]) -> str:
        name = base = node
        while not isinstance(base, ast.Name):
            _check_name(base)
            base = base.value  # type: ignore[attr-defined]
        _check_name(base)
        if base.id in self._local:
            local = f"_local_{base.id}"
            return f"_get_path({local}, {path[1:]!r})" if name is not base else local
        if self._names is not None and base.id not in self._names:
            there_is = ", ".join(sorted(self._names))
            raise Refused(base, f"there is no name {base.id}; did you mean {_meant(base.id, self._names)}? There is: {there_is}")
        code = self._resolve(path)
        if self._local and code not in self._outside:
            self._outside.append(code)
        return code

    def _spend(self, code: str) -> str:
        """The code of something that makes text or a list: within a comprehension it counts against the budget."""
        return f"_budget.spend({code})" if self._local else code

    def _constant(self, node: ast.Constant) -> str:
        value = node.value
        if isinstance(value, bytes | complex) or value is ...:
            raise Refused(node, f"{value!r} is not allowed; numbers, text, true, false and null are")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise Refused(node, f"the number is too large: at most {MAX_BITS} bits are allowed")
        if isinstance(value, float) and value - value != 0:
            raise Refused(node, "the number is too large for a float")
        return repr(value)

    def _name(self, node: ast.Name) -> str:
        return WORDS[node.id]

    def _attribute(self, node: ast.Attribute) -> str:
        _check_name(node)
        return f"_get_path({self.emit(node.value)}, ({node.attr!r},))"

    def _subscript(self, node: ast.Subscript) -> str:
        value = self.emit(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = [self.emit(b) if b is not None else "None" for b in (node.slice.lower, node.slice.upper)]
            if node.slice.step is not None:
                raise Refused(node.slice.step, "a slice has a begin and an end, no step")
            return self._spend(f"_slice({', '.join([value, *bounds])})")
        return f"_index({value}, {self.emit(node.slice)})"

    def _boolop(self, node: ast.BoolOp) -> str:
        word = " and " if isinstance(node.op, ast.And) else " or "
        return word.join(f"({self.emit(value)})" for value in node.values)

    def _unaryop(self, node: ast.UnaryOp) -> str:
        if type(node.op) not in _UNARY:
            raise Refused(node, "~ is not allowed")
        return f"{_UNARY[type(node.op)]}({self.emit(node.operand)})"

    def _binop(self, node: ast.BinOp) -> str:
        left, right = self.emit(node.left), self.emit(node.right)
        operator = type(node.op)
        if operator in _NATIVE:
            return f"({left}) {_NATIVE[operator]} ({right})"
        if operator not in _GUARDED:
            raise Refused(node, "bit operators are not allowed")
        sign, guard = _GUARDED[operator]
        if _is_safe_natively(node):
            return f"({left}) {sign} ({right})"
        guarded = self._spend(f"{guard}({left}, {right})")
        if _is_integer_modulo(node) and "(" not in left:
            # Most often the field is an integer, and no guard is needed; reading it twice is cheap where it takes no call.
            return f"(({left}) % ({right}) if {left}.__class__ is _int else {guarded})"
        return guarded

    def _compare(self, node: ast.Compare) -> str:
        parts = [f"({self.emit(node.left)})" if not _is_plain(node.left) else self.emit(node.left)]
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if type(operator) not in _COMPARISONS:
                raise Refused(node, "'is' is not allowed; compare with == null")
            code = self.emit(right)
            parts += [_COMPARISONS[type(operator)], code if _is_plain(right) else f"({code})"]
        return " ".join(parts)

    def _ifexp(self, node: ast.IfExp) -> str:
        return f"({self.emit(node.body)}) if ({self.emit(node.test)}) else ({self.emit(node.orelse)})"

    def _tuple(self, node: ast.Tuple) -> str:
        return "(" + "".join(self.emit(each) + ", " for each in node.elts) + ")"

    def _list(self, node: ast.List) -> str:
        return "[" + ", ".join(self.emit(each) for each in node.elts) + "]"

    def _dict(self, node: ast.Dict) -> str:
        parts = []
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                raise Refused(key or node, "the names of an object are text in quotes")
            parts.append(f"{key.value!r}: {self.emit(value)}")
        return "{" + ", ".join(parts) + "}"

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if part.format_spec is not None or part.conversion != -1:
                    raise Refused(part, "an f-string takes plain {values}; round() or format_time() give other forms")
                parts.append(self.emit(part.value))
            else:
                parts.append(self.emit(part))
        return self._spend(f"_concat({', '.join(parts) or repr('')})")

    def _call(self, node: ast.Call) -> str:
        if node.keywords:
            raise Refused(node.keywords[0].value, "arguments have no names here")
        if isinstance(node.func, ast.Name):
            return self._function(node, node.func.id)
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func)
        raise Refused(node, "only functions and methods of text can be called")

    def _function(self, node: ast.Call, name: str) -> str:
        if name == "exists":
            if len(node.args) != 1 or not isinstance(node.args[0], ast.Name | ast.Attribute | ast.Subscript):
                raise Refused(node, "exists takes one path, as in exists(payload.a)")
            return f"({self.emit(node.args[0])}) is not None"
        function = FUNCTIONS.get(name)
        if function is None:
            near = get_close_matches(name, [*FUNCTIONS, "exists"], 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise Refused(node, f"there is no function {name}{hint} There is: {', '.join(sorted([*FUNCTIONS, 'exists']))}")
        _check_count(node, name, function.least, function.most)
        _check_literals(name, node.args)
        code = f"_call_{name}({self._arguments(name, node.args)})"
        return self._spend(code) if name in _MAKES_TEXT else code

    def _method(self, node: ast.Call, method: ast.Attribute) -> str:
        name = method.attr
        if name not in METHODS and name not in GUARDED_METHODS:
            known = sorted([*METHODS, *GUARDED_METHODS])
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise Refused(method, f"there is no method {name}{hint} Text has: {', '.join(known)}")
        value = self.emit(method.value)
        arguments = self._arguments(name, node.args)
        if name in METHODS:
            _check_count(node, name, *METHODS[name])
            return self._spend(f"({value}).{name}({arguments})")
        count = GUARDED_METHODS[name][0]
        _check_count(node, name, count, count)
        return self._spend(f"_method_{name}({value}, {arguments})")

    def _arguments(self, name: str, arguments: list[ast.expr]) -> str:
        match arguments:
            case [ast.GeneratorExp() as only] if name in _RUNS_OVER:
                # A list where a list is needed anyway; the others may stop early.
                code = self._comprehension(only)
                return f"[{code}]" if name in ("sorted", "join") else f"({code})"
        return ", ".join(self.emit(each) for each in arguments)

    def _generatorexp(self, node: ast.GeneratorExp) -> str:
        raise Refused(
            node,
            f"a comprehension stands in brackets, [x.id for x in payload.list], or alone within {', '.join(sorted(_RUNS_OVER))}",
        )

    def _listcomp(self, node: ast.ListComp) -> str:
        return f"[{self._comprehension(node)}]"

    def _comprehension(self, node: ast.GeneratorExp | ast.ListComp) -> str:
        # One at a time: nested ones would take the time of the payload's size to the power of their number.
        if self._local or len(node.generators) > 1:
            raise Refused(node, "a comprehension within a comprehension is not allowed")
        each = node.generators[0]
        if not isinstance(each.target, ast.Name) or each.is_async or each.target.id in WORDS:
            raise Refused(each.target, "a comprehension has one plain name, as in any(x > 1 for x in payload.list)")
        _check_name(each.target)
        source = self.emit(each.iter)
        name = each.target.id
        self._local, self._outside = frozenset({name}), []
        conditions = "".join(f" if ({self.emit(condition)})" for condition in each.ifs)
        of_conditions, self._outside = self._outside, []
        element = self.emit(node.elt)
        if self._outside and not isinstance(node.elt, _SMALL_OR_SPENT):
            element = f"_budget.hold({element})"
        others = "".join(f"{code}, " for code in dict.fromkeys([*of_conditions, *self._outside]))
        self._local = frozenset()
        operations = sum(map(_operations, [node.elt, *each.ifs]))
        budget = f"_Budget(_items({source}), {operations}, ({others}))"
        return f"({element}) for _budget in ({budget},) for _local_{name} in _budget.items{conditions}"


def executed_children(node: ast.expr) -> Iterator[ast.expr]:
    """The operands of a node in the order in which they are evaluated; of a call its arguments and what a method is called on."""
    match node:
        case ast.Call():
            yield from [node.func.value] if isinstance(node.func, ast.Attribute) else []
            yield from node.args
        case ast.IfExp():
            yield from (node.test, node.body, node.orelse)
        case ast.Dict():
            yield from node.values
        case ast.GeneratorExp() | ast.ListComp():
            yield node.generators[0].iter
        case _:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FormattedValue):
                    yield child.value
                elif isinstance(child, ast.Slice):
                    yield from (bound for bound in (child.lower, child.upper) if bound is not None)
                elif isinstance(child, ast.expr):
                    yield child


def _check_name(node: ast.expr) -> None:
    """Refuse dotted names with two underscores; in quotes they are a field's name like any other."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    if name.startswith("__"):
        hint = f"; a field of that name is read as ['{name}']" if isinstance(node, ast.Attribute) else ""
        raise Refused(node, f"names that begin with two underscores are not allowed{hint}")


def _check_literals(name: str, arguments: list[ast.expr]) -> None:
    """Check what can be checked of arguments before there is an event."""
    if name not in ("matches", "format_time") or len(arguments) < 2:
        return
    literal = arguments[1].value if isinstance(arguments[1], ast.Constant) else None
    try:
        if name == "format_time":
            if isinstance(arguments[1], ast.Constant) and literal != "iso":
                check_time_format(literal)
        elif isinstance(literal, str) and not literal.isprintable():
            # '\b' in plain quotes is a backspace, '\1' a control character: nobody means these.
            raise Refused(arguments[1], "the pattern holds a control character; write it as r'...' to keep its backslashes")
        elif isinstance(literal, str):
            compiled_pattern(literal)
        else:
            raise Refused(arguments[1], "the pattern is text in quotes, as in matches(payload.code, '^[A-Z]{2}[0-9]+$')")
    except ValueError as error:
        raise Refused(arguments[1], str(error)) from None


def _operations(node: ast.expr) -> int:
    """About how many operations it takes to evaluate ``node`` once."""
    return sum(
        1 + (len(each.value) // _CHARS_PER_OPERATION if isinstance(each, ast.Constant) and isinstance(each.value, str) else 0)
        for each in ast.walk(node)
        if isinstance(each, ast.expr)
    )


def _check_count(node: ast.Call, name: str, least: int, most: int | None) -> None:
    count = len(node.args)
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise Refused(node, f"{name} takes {wanted} argument{'' if wanted == '1' else 's'}, not {count}")


def _is_safe_natively(node: ast.BinOp) -> bool:
    """Whether a literal operand rules out text and lists, and integers that grow fast."""
    match node:
        case ast.BinOp(op=ast.Add(), right=ast.Constant(value=int() | float() as number)):
            return not isinstance(number, bool)
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=int() | float())):
            return True
        case (
            ast.BinOp(op=ast.Mult(), left=ast.Constant(value=float()))
            | ast.BinOp(op=ast.Mult(), right=ast.Constant(value=float()))
        ):
            return True
    return False


def _is_integer_modulo(node: ast.BinOp) -> bool:
    """Whether it is a path ``% a literal integer``: what is left of an integer is no larger than the literal."""
    match node:
        case ast.BinOp(op=ast.Mod(), right=ast.Constant(value=int())):
            return path_of(node.left) is not None
    return False


def _is_plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.Name | ast.Attribute | ast.Tuple | ast.List)


def _describe(node: ast.AST) -> str:
    return f"this ({type(node).__name__})"
