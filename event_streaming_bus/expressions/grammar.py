"""The grammar: which Python syntax is an expression of ours, and the code it becomes.

Nothing is allowed that is not listed here. The code is Python again, with names and dotted paths replaced, and with guarded
calls in place of the operators that could make something huge of little.
"""

import ast
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final

from event_streaming_bus.expressions.functions import FUNCTIONS, GUARDED_METHODS, MAX_BITS, METHODS

Resolve = Callable[[tuple[str, ...]], str]

MAX_DEPTH: Final = 40
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


def path_of(node: ast.expr, local: frozenset[str] = frozenset()) -> tuple[str, ...] | None:
    """The name or dotted path that ``node`` is, fields in brackets included; ``None`` if it is something else."""
    parts: list[str] = []
    while True:
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            parts.append(node.slice.value)
            node = node.value
        elif isinstance(node, ast.Name) and node.id not in WORDS and node.id not in local:
            return (node.id, *reversed(parts))
        else:
            return None


class Emitter:
    """Checks an expression's tree and writes its code. ``resolve`` gives the code of a name or dotted path."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._local: frozenset[str] = frozenset()
        self._depth = 0

    def emit(self, node: ast.expr) -> str:
        """The code of ``node``. Raises ``Refused``."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Refused(node, f"the expression is nested more than {MAX_DEPTH} levels deep")
        path = path_of(node, self._local)
        if path is not None:
            self._check_names(node, path)
            code = self._resolve(path)
        else:
            method = getattr(self, f"_{type(node).__name__.lower()}", None)
            if method is None:
                raise Refused(node, _REFUSED.get(type(node), f"{_describe(node)} is not allowed"))
            code = method(node)
        self._depth -= 1
        return str(code)

    @staticmethod
    def _check_names(node: ast.expr, path: tuple[str, ...]) -> None:
        if any(part.startswith("__") for part in path):
            raise Refused(node, "names that begin with two underscores are not allowed")

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
        return WORDS[node.id] if node.id in WORDS and node.id not in self._local else f"_local_{node.id}"

    def _attribute(self, node: ast.Attribute) -> str:
        self._check_names(node, (node.attr,))
        return f"_get_path({self.emit(node.value)}, ({node.attr!r},))"

    def _subscript(self, node: ast.Subscript) -> str:
        value = self.emit(node.value)
        if isinstance(node.slice, ast.Slice):
            bounds = [self.emit(b) if b is not None else "" for b in (node.slice.lower, node.slice.upper)]
            if node.slice.step is not None:
                raise Refused(node.slice.step, "a slice has a begin and an end, no step")
            return f"({value})[{':'.join(bounds)}]"
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
        small = isinstance(node.op, ast.Add | ast.Mod) and _is_small_number(node.left if guard == "_modulo" else node.right)
        return f"({left}) {sign} ({right})" if small else f"{guard}({left}, {right})"

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
        return f"_concat({', '.join(parts) or repr('')})"

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
            if len(node.args) != 1 or path_of(node.args[0], self._local) is None:
                raise Refused(node, "exists takes one path, as in exists(payload.a)")
            return f"({self.emit(node.args[0])}) is not None"
        function = FUNCTIONS.get(name)
        if function is None:
            near = get_close_matches(name, [*FUNCTIONS, "exists"], 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise Refused(node, f"there is no function {name}{hint} There is: {', '.join(sorted([*FUNCTIONS, 'exists']))}")
        _check_count(node, name, function.least, function.most)
        return f"_call_{name}({', '.join(self.emit(each) for each in node.args)})"

    def _method(self, node: ast.Call, method: ast.Attribute) -> str:
        name = method.attr
        if name not in METHODS and name not in GUARDED_METHODS:
            known = sorted([*METHODS, *GUARDED_METHODS])
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise Refused(method, f"there is no method {name}{hint} Text has: {', '.join(known)}")
        value = self.emit(method.value)
        arguments = [self.emit(each) for each in node.args]
        if name in METHODS:
            _check_count(node, name, *METHODS[name])
            return f"({value}).{name}({', '.join(arguments)})"
        count = GUARDED_METHODS[name][0]
        _check_count(node, name, count, count)
        return f"_method_{name}({', '.join([value, *arguments])})"

    def _generatorexp(self, node: ast.GeneratorExp) -> str:
        return f"({self._comprehension(node.elt, node.generators, node)})"

    def _listcomp(self, node: ast.ListComp) -> str:
        return f"[{self._comprehension(node.elt, node.generators, node)}]"

    def _comprehension(self, element: ast.expr, generators: Sequence[ast.comprehension], node: ast.expr) -> str:
        # One at a time: nested ones would take the time of the payload's size to the power of their number.
        if self._local or len(generators) > 1:
            raise Refused(node, "a comprehension within a comprehension is not allowed")
        (each,) = generators
        if not isinstance(each.target, ast.Name) or each.is_async:
            raise Refused(each.target, "a comprehension has one plain name, as in any(x > 1 for x in payload.list)")
        source = self.emit(each.iter)
        self._local = frozenset({each.target.id})
        conditions = "".join(f" if ({self.emit(condition)})" for condition in each.ifs)
        code = f"({self.emit(element)}) for _local_{each.target.id} in _items({source}){conditions}"
        self._local = frozenset()
        return code


def _check_count(node: ast.Call, name: str, least: int, most: int | None) -> None:
    count = len(node.args)
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise Refused(node, f"{name} takes {wanted} argument{'' if wanted == '1' else 's'}, not {count}")


def _is_small_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _is_plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.Name | ast.Attribute | ast.Tuple | ast.List)


def _describe(node: ast.AST) -> str:
    return f"this ({type(node).__name__})"
