"""Compiles an Avro type into a Python function that writes values as Avro binary.

One pass checks and writes. Whatever a value is refused for surfaces as some exception, which only says that it is refused:
``violations`` explains. Generated code takes half the time of fastavro's, which checks less, and a payload that is nested
too deep is an exception here.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Final, TypeAlias

from event_streaming_bus.registry.avro.code import MAX_NESTING, Code
from event_streaming_bus.registry.avro.types import MAX_DEPTH, MAX_EMPTY_ITEMS, AvroType
from event_streaming_bus.registry.avro.values import DOUBLE, FLOAT, taken_by, zigzag
from event_streaming_bus.registry.avro.violations import CATEGORIES, branch_of, category_of, choices_of

Encoder: TypeAlias = Callable[[Sequence[Any], bytes], list[bytes]]


class RefusedError(Exception):
    """A value cannot be encoded: the one at ``index``."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def compile_encoder(kind: AvroType) -> Encoder:
    """``encode(values, prefix)``: the values as Avro binary, each after the prefix. Raises ``RefusedError``."""
    code = Code("encoder", _NAMES)
    name = code.function(id(kind), lambda name: _function(code, kind, name))
    with code.block("def encode(values, prefix):"):
        code.line("out = []")
        with code.block("try:"):
            code.line("for v in values:")
            code.line("    o = bytearray(prefix)")
            code.line(f"    {name}(v, o, 0, [EMPTY_ITEMS, {{}}])")
            code.line("    out.append(bytes(o))")
        with code.block("except Exception as error:"):
            code.line("raise RefusedError(len(out)) from error")
        code.line("return out")
    return code.compile("encode")


# --- what generated code calls: the ways off the main path --------------------------------------------------------------


def _fail() -> None:
    raise ValueError


def _put_int(o: bytearray, value: int) -> None:
    if not -0x80000000 <= value < 0x80000000:
        raise ValueError
    _put(o, value)


def _put(o: bytearray, value: int) -> None:
    number = value << 1 if value >= 0 else ~(value << 1)
    if number < 0x4000:
        if number > 127:
            o.append(number & 127 | 128)
            number >>= 7
        o.append(number)
        return
    if number >> 64:
        raise ValueError
    while number > 0x3FFF:
        o += bytes((number & 127 | 128, number >> 7 & 127 | 128))
        number >>= 14
    if number > 127:
        o.append(number & 127 | 128)
        number >>= 7
    o.append(number)


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _list(value: Any) -> Sequence[Any]:
    if category_of(value) != "list":
        raise ValueError
    return list(value)


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    return dict(value)


def _nullable(kind: AvroType, value: Any, fits: dict[Any, Any]) -> Any:
    """The value of a tuple that names a branch of a union of null and something."""
    found = branch_of(kind, value, fits)
    if found is None or (found[1] is None) != (kind.branches[found[0]].kind == "null"):
        raise ValueError
    return found[1]


_NAMES: Final[dict[str, Any]] = {
    "EMPTY_ITEMS": MAX_EMPTY_ITEMS,
    "MISSING": object(),
    "RefusedError": RefusedError,
    "fail": _fail,
    "put": _put,
    "put_int": _put_int,
    "as_int": _int,
    "as_float": _float,
    "as_str": _str,
    "as_list": _list,
    "as_dict": _dict,
    "pack_float": FLOAT.pack,
    "pack_double": DOUBLE.pack,
    "branch_of": branch_of,
    "nullable": _nullable,
}


# --- writing code -------------------------------------------------------------------------------------------------------
# Variables of a function: v the value, o the bytes so far, a its append, k the depth, x = [empty items left, what fits].


def _function(code: Code, kind: AvroType, name: str) -> None:
    with code.block(f"def {name}(v, o, k, x):"):
        code.line(f"if k > {MAX_DEPTH}: fail()")
        code.line("a = o.append")
        _WRITERS[kind.kind](code, kind, "v", 0)


def _write(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    """Write the lines that encode the variable ``v``, which they may change."""
    collection = kind.kind in ("record", "array", "map", "union")
    if collection and (kind.uses > 1 or nesting >= MAX_NESTING):
        name = code.function(id(kind), lambda name: _function(code, kind, name))
        code.line(f"{name}({v}, o, k + 1, x)")
        return
    _WRITERS[kind.kind](code, kind, v, nesting + collection)


def _null(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    code.line(f"if {v} is not None: fail()")


def _boolean(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    code.line(f"if {v} is True: a(1)")
    code.line(f"elif {v} is False: a(0)")
    code.line("else: fail()")


def _integer(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    convert = code.constant(taken_by(kind)) if kind.logical else "as_int"
    code.line(f"if type({v}) is not int: {v} = {convert}({v})")
    code.line(f"if 0 <= {v} < 64: a({v} << 1)")
    code.line(f"else: put{'_int' if kind.kind == 'int' else ''}(o, {v})")


def _floating(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    code.line(f"if type({v}) is not float: {v} = as_float({v})")
    code.line(f"o += pack_{kind.kind}({v})")


def _sized(code: Code, v: str) -> None:
    size = code.variable("n")
    code.line(f"{size} = len({v})")
    code.line(f"if {size} < 64: a({size} << 1)")
    code.line(f"else: put(o, {size})")
    code.line(f"o += {v}")


def _string(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    if kind.logical:
        code.line(f"{v} = {code.constant(taken_by(kind))}({v})")
    else:
        code.line(f"if type({v}) is not str: {v} = as_str({v})")
    code.line(f"{v} = {v}.encode()")
    _sized(code, v)


def _bytes(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    code.line(f"{v} = {code.constant(taken_by(kind))}({v})")
    _sized(code, v)


def _fixed(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    code.line(f"{v} = {code.constant(taken_by(kind))}({v})")
    code.line(f"if len({v}) != {kind.size}: fail()")
    code.line(f"o += {v}")


def _enum(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    table = code.constant({symbol: zigzag(i) for i, symbol in enumerate(kind.symbols)})
    code.line(f"o += {table}[{v}]")


def _array(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    item = code.variable("v")
    code.line(f"if type({v}) is not list: {v} = as_list({v})")
    with code.block(f"if {v}:"):
        if not kind.element.min_bytes:
            code.line(f"x[0] -= len({v})")
            code.line("if x[0] < 0: fail()")
        code.line(f"put(o, len({v}))")
        with code.block(f"for {item} in {v}:"):
            _write(code, kind.element, item, nesting)
    code.line("a(0)")


def _map(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    key, value = code.variable("v"), code.variable("v")
    code.line(f"if type({v}) is not dict: {v} = as_dict({v})")
    with code.block(f"if {v}:"):
        code.line(f"put(o, len({v}))")
        with code.block(f"for {key}, {value} in {v}.items():"):
            code.line(f"if type({key}) is not str: {key} = as_str({key})")
            code.line(f"{key} = {key}.encode()")
            _sized(code, key)
            _write(code, kind.element, value, nesting)
    code.line("a(0)")


def _record(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    value, count = code.variable("v"), code.variable("n")
    optional = any(field.default is not None for field in kind.fields.values())
    code.line(f"if type({v}) is not dict: {v} = as_dict({v})")
    if optional:
        code.line(f"{count} = len({v})")
    else:
        code.line(f"if len({v}) != {len(kind.fields)}: fail()")
    for name, field in kind.fields.items():
        if field.default is None:
            code.line(f"{value} = {v}[{name!r}]")
            _write(code, field.type, value, nesting)
            continue
        code.line(f"{value} = {v}.get({name!r}, MISSING)")
        with code.block(f"if {value} is MISSING:"):
            code.line(f"{count} += 1")
            if field.default.encoded:
                code.line(f"o += {code.constant(field.default.encoded)}")
        with code.block("else:"):
            _write(code, field.type, value, nesting)
    if optional:  # with the missing ones there are as many keys as fields: there is none besides
        code.line(f"if {count} != {len(kind.fields)}: fail()")


def _union(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    kinds = [branch.kind for branch in kind.branches]
    if len(kinds) != 2 or "null" not in kinds:
        _choose(code, kind, v, nesting)
        return
    null = kinds.index("null")
    code.line(f"if type({v}) is tuple: {v} = nullable({code.constant(kind)}, {v}, x[1])")
    code.line(f"if {v} is None: a({2 * null})")
    with code.block("else:"):
        code.line(f"a({2 - 2 * null})")
        _write(code, kind.branches[1 - null], v, nesting)


def _choose(code: Code, kind: AvroType, v: str, nesting: int) -> None:
    """A general union: the Python type decides where only one branch takes it."""
    choices = choices_of(kind)
    quick = {
        python_type: choices[category][0]
        for python_type, category in CATEGORIES.items()
        if python_type is not tuple and len(choices.get(category, ())) == 1
    }
    index = code.variable("i")
    code.line(f"{index} = {code.constant(quick)}.get(type({v}), -1)")
    code.line(f"if {index} < 0: {index}, {v} = branch_of({code.constant(kind)}, {v}, x[1], k)")
    code.line(f"put(o, {index})")
    _branches(code, kind, v, index, 0, len(kind.branches), nesting)


def _branches(code: Code, kind: AvroType, v: str, index: str, start: int, end: int, nesting: int) -> None:
    if end - start > 8:  # a union of many types: find the branch by halves
        middle = (start + end) // 2
        with code.block(f"if {index} < {middle}:"):
            _branches(code, kind, v, index, start, middle, nesting)
        with code.block("else:"):
            _branches(code, kind, v, index, middle, end, nesting)
        return
    for i in range(start, end):
        with code.block(f"{'if' if i == start else 'elif'} {index} == {i}:"):
            _write(code, kind.branches[i], v, nesting)


_WRITERS: Final[dict[str, Callable[[Code, AvroType, str, int], None]]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "string": _string,
    "bytes": _bytes,
    "fixed": _fixed,
    "enum": _enum,
    "array": _array,
    "map": _map,
    "record": _record,
    "union": _union,
}
