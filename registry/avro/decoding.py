"""Compiles two Avro types, the one that data was written with and the one that it is read with, into a Python function.

The function reads from bytes and gives JSON values; what the reader does not have is skipped without being made. Where data of
the writer's cannot be read, the function raises only when it meets such data. Corrupt data is found out by reading: nothing is
allocated on the word of a length or a count, and no more is looped than there are bytes left (or ``MAX_EMPTY_ITEMS``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from event_streaming_bus.registry.avro.code import MAX_NESTING, Code, TooComplexError
from event_streaming_bus.registry.avro.reading import READING, StoppedError, reason_of
from event_streaming_bus.registry.avro.resolution import Branches, fields_read, logical_mismatch, mismatch
from event_streaming_bus.registry.avro.types import MAX_DEPTH, AvroDataError, AvroType
from event_streaming_bus.registry.avro.values import shown_by

Decoder: TypeAlias = Callable[[Sequence[bytes], int], list[Any]]


def compile_decoder(writer: AvroType, reader: AvroType) -> Decoder:
    """``decode(data, offset)``: the values in ``data``, one in each, from the byte ``offset`` to the end.

    Raises ``AvroDataError`` for data that is not exactly one value, or that the reader cannot read.
    """
    code = Code("decoder", READING)
    try:
        name = code.function((id(writer), id(reader)), lambda name: _function(code, writer, reader, name))
        with code.block("def decode(data, offset):"):
            code.line("out = []")
            with code.block("try:"), code.block("for d in data:"):
                code.line("if type(d) is not bytes: d = bytes(d)")
                code.line(f"v, p = {name}(d, offset, 0, [EMPTY_ITEMS])")
                code.line("if p != len(d): trailing(d, p)")
                code.line("out.append(v)")
            with code.block("except Exception as error:"):
                code.line("raise StoppedError(len(out)) from error")
            code.line("return out")
        decode = code.compile("decode")
    except TooComplexError:
        raise AvroDataError("the two schemas are too complex to be read with each other") from None

    def explaining(data: Sequence[bytes], offset: int) -> list[Any]:
        try:
            return decode(data, offset)  # type: ignore[no-any-return]
        except StoppedError as stopped:
            cause, index = stopped.__cause__, stopped.index
        assert cause is not None  # noqa: S101 - it is raised from one
        place = code.place_of(cause.__traceback__)
        where = f"at {place if len(place) <= 200 else '...' + place[-200:]}: " if place else ""
        message = f"the data is no value of {writer.title}: {where}{reason_of(cause)}"
        raise AvroDataError(message[:1000], path=place, index=index) from cause

    return explaining


# --- writing code -------------------------------------------------------------------------------------------------------
# Variables of a function: d the data, p the position in it, k the depth, x = [empty items left]; n, b, c, e are for short use.


def _function(code: Code, writer: AvroType, reader: AvroType | None, name: str) -> None:
    with code.block(f"def {name}(d, p, k, x):"):
        code.line(f"if k > {MAX_DEPTH}: corrupt('it is nested deeper than {MAX_DEPTH} levels')")
        code.line("v = None")
        if reader is None:
            _SKIPPERS.get(writer.kind, _skip_scalar)(code, writer, 0)
        else:
            _readers(writer)(code, writer, reader, "v", 0)
        code.line("return v, p")


def _called(code: Code, writer: AvroType, reader: AvroType | None, nesting: int) -> str | None:
    """The function that reads these types, if it is better not written in place."""
    collection = writer.kind in ("record", "array", "map", "union")
    if not collection or (writer.uses <= 1 and nesting < MAX_NESTING):
        return None
    key = (id(writer), id(reader))
    return code.function(key, lambda name: _function(code, writer, reader, name))


def _read(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    """Write the lines that set the variable ``v`` to what is read."""
    if reader.kind == "union" and writer.kind != "union":  # first, so that it takes no function of its own
        found = Branches(reader).find(writer)
        if found is None:
            _refuse(code, f"{writer.title} was written, which {reader.title} does not have")
            return
        reader = found
    function = _called(code, writer, reader, nesting)
    if function:
        code.line(f"{v}, p = {function}(d, p, k + 1, x)")
    else:
        _readers(writer)(code, writer, reader, v, nesting + 1)


def _readers(writer: AvroType) -> Callable[[Code, AvroType, AvroType, str, int], None]:
    return _read_union if writer.kind == "union" else _read_type


def _read_union(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    branches = Branches(reader) if reader.kind == "union" and reader is not writer else None

    def read(branch: AvroType) -> None:
        found = branch if reader is writer else branches.find(branch) if branches else reader
        if found is None:
            _refuse(code, f"{branch.title} was written, which {reader.title} does not have")
        else:
            _read(code, branch, found, v, nesting)

    _switch(code, writer, read)


def _switch(code: Code, writer: AvroType, write: Callable[[AvroType], None]) -> None:
    index = code.variable("i")
    code.line(f"{index} = d[p]; p += 1")
    code.line(f"if {index} > 127: {index}, p = more(d, p, {index})")
    limit = 2 * len(writer.branches)
    code.line(f"if {index} & 1 or {index} >= {limit}: corrupt('a union has no such branch')")

    def halves(start: int, end: int) -> None:
        if end - start > 8:
            middle = (start + end) // 2
            with code.block(f"if {index} < {2 * middle}:"):
                halves(start, middle)
            with code.block("else:"):
                halves(middle, end)
            return
        for i in range(start, end):
            with code.block(f"{'if' if i == start else 'elif'} {index} == {2 * i}:" if i < end - 1 or i == start else "else:"):
                write(writer.branches[i])

    halves(0, len(writer.branches))


def _read_type(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    if reader.kind == "union":  # of the outermost type
        _read(code, writer, reader, v, nesting)
        return
    reason = mismatch(writer, reader)
    if reason is None and writer.logical and reader.logical and writer.logical != reader.logical:
        reason = logical_mismatch(writer, reader)
    if reason is not None:
        _refuse(code, reason.message)
        return
    _READERS.get(writer.kind, _read_scalar)(code, writer, reader, v, nesting)


def _refuse(code: Code, message: str) -> None:
    code.line(f"corrupt({message!r})")


def _read_scalar(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    _SCALARS[writer.kind](code, writer, v)
    if reader.kind in ("float", "double") and writer.kind in ("int", "long"):
        code.line(f"{v} = float({v})")
    elif reader.kind == "bytes" and writer.kind == "string":
        code.line(f"{v} = {v}.encode()")
    elif reader.kind == "string" and writer.kind == "bytes":
        code.line(f"{v} = {v}.decode('utf-8', 'replace')")
    # The writer's scale: see ``resolution``.
    show = shown_by(writer if writer.logical == reader.logical == "decimal" else reader)
    if show is not None:
        code.line(f"{v} = {code.constant(show)}({v})")


def _read_null(code: Code, writer: AvroType, v: str) -> None:
    code.line(f"{v} = None")


def _read_boolean(code: Code, writer: AvroType, v: str) -> None:
    code.line("n = d[p]; p += 1")
    code.line("if n > 1: corrupt('a boolean is neither 0 nor 1')")
    code.line(f"{v} = n == 1")


def _read_integer(code: Code, writer: AvroType, v: str) -> None:
    code.line("n = d[p]; p += 1")
    code.line(f"if n > 127: n, p = more{'_int' if writer.kind == 'int' else ''}(d, p, n)")
    code.line(f"{v} = (n >> 1) ^ -(n & 1)")


def _read_floating(code: Code, writer: AvroType, v: str) -> None:
    code.line(f"{v}, = unpack_{writer.kind}(d, p); p += {4 if writer.kind == 'float' else 8}")


def _read_bytes(code: Code, writer: AvroType, v: str) -> None:
    code.line("n = d[p]; p += 1")
    code.line("if n > 127: n, p = more(d, p, n)")
    code.line("e = p + (n >> 1)")
    code.line(f"{v} = d[p:e]; p = e")
    code.line(f"if len({v}) << 1 != n: short()")


def _read_string(code: Code, writer: AvroType, v: str) -> None:
    _read_bytes(code, writer, v)
    code.line(f"{v} = {v}.decode()")


def _read_fixed(code: Code, writer: AvroType, v: str) -> None:
    code.line(f"{v} = d[p:p + {writer.size}]; p += {writer.size}")
    code.line(f"if len({v}) != {writer.size}: short()")


def _read_enum(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    known = set(reader.symbols)
    table = code.constant(tuple(symbol if symbol in known else reader.symbol_default for symbol in writer.symbols))
    code.line("n = d[p]; p += 1")
    code.line("if n > 127: n, p = more(d, p, n)")
    code.line(f"if n & 1 or n >= {2 * len(writer.symbols)}: corrupt('an enum has no such symbol')")
    code.line(f"{v} = {table}[n >> 1]")
    if reader.symbol_default is None and not known.issuperset(writer.symbols):
        code.line(f"if {v} is None: corrupt('a symbol was written that {reader.name} does not have')")


def _read_array(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    item, append = code.variable("v"), code.variable("a")
    code.line(f"{v} = []; {append} = {v}.append")
    with _blocks(code, writer.element.min_bytes), code.at("[]"):
        _read(code, writer.element, reader.element, item, nesting)
        code.line(f"{append}({item})")


def _read_map(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    key, value = code.variable("v"), code.variable("v")
    code.line(f"{v} = {{}}")
    with _blocks(code, 1 + writer.element.min_bytes), code.at("{}"):
        _read_string(code, writer, key)
        _read(code, writer.element, reader.element, value, nesting)
        code.line(f"{v}[{key}] = {value}")


@contextmanager
def _blocks(code: Code, least: int) -> Iterator[None]:
    """The loops over the blocks of an array or map and over the items of each; what is written within reads an item."""
    count, end = code.variable("c"), code.variable("e")
    with code.block("while True:"):
        code.line(f"{count} = d[p]; p += 1")
        code.line(f"if not {count}: break")
        code.line(f"{count}, p, {end} = count_of(d, p, {count}, {least}, x)")
        with code.block(f"for _ in range({count}):"):
            yield
        code.line(f"if {end} >= 0 and p != {end}: corrupt('a block is not as long as it says')")


def _read_record(code: Code, writer: AvroType, reader: AvroType, v: str, nesting: int) -> None:
    read, unwritten = fields_read(writer, reader)
    values: dict[str, str] = {}
    for field in unwritten:
        if field.default is None:
            _refuse(code, f"{writer.name} was written without {field.name}, which has no default in {reader.name}")
            return
        shown = field.default.shown
        values[field.name] = f"copied({code.constant(shown)})" if shown and isinstance(shown, list | dict) else repr(shown)
    for name, field in writer.fields.items():
        with code.at(f".{name}"):
            target = read.get(name)
            if target is None:
                _skip(code, field.type, nesting)
            else:
                values[target.name] = code.variable("v")
                _read(code, field.type, target.type, values[target.name], nesting)
    pairs = ", ".join(f"{name!r}: {values[name]}" for name in reader.fields)
    code.line(f"{v} = {{{pairs}}}")


_SCALARS: Final[dict[str, Callable[[Code, AvroType, str], None]]] = {
    "null": _read_null,
    "boolean": _read_boolean,
    "int": _read_integer,
    "long": _read_integer,
    "float": _read_floating,
    "double": _read_floating,
    "bytes": _read_bytes,
    "string": _read_string,
    "fixed": _read_fixed,
}
_READERS: Final[dict[str, Callable[[Code, AvroType, AvroType, str, int], None]]] = {
    "enum": _read_enum,
    "array": _read_array,
    "map": _read_map,
    "record": _read_record,
}


# --- skipping what the reader does not have -----------------------------------------------------------------------------


def _skip(code: Code, writer: AvroType, nesting: int) -> None:
    function = _called(code, writer, None, nesting)
    if function:
        code.line(f"_, p = {function}(d, p, k + 1, x)")
    else:
        _SKIPPERS.get(writer.kind, _skip_scalar)(code, writer, nesting + 1)


def _skip_scalar(code: Code, writer: AvroType, nesting: int) -> None:
    fixed = {"boolean": 1, "float": 4, "double": 8, "fixed": writer.size}.get(writer.kind)
    if fixed is not None:
        code.line(f"p += {fixed}")
    elif writer.kind != "null":
        code.line("n = d[p]; p += 1")
        code.line("if n > 127: n, p = more(d, p, n)")
    if writer.kind in ("bytes", "string"):
        code.line("if n & 1: short()")
        code.line("p += n >> 1")


def _skip_union(code: Code, writer: AvroType, nesting: int) -> None:
    def skip(branch: AvroType) -> None:
        code.line("pass")
        _skip(code, branch, nesting)

    _switch(code, writer, skip)


def _skip_record(code: Code, writer: AvroType, nesting: int) -> None:
    for name, field in writer.fields.items():
        with code.at(f".{name}"):
            _skip(code, field.type, nesting)


def _skip_collection(code: Code, writer: AvroType, nesting: int) -> None:
    count = code.variable("c")
    is_map = writer.kind == "map"
    with code.block("while True:"):
        code.line(f"{count} = d[p]; p += 1")
        code.line(f"if not {count}: break")
        if not is_map and not writer.element.min_bytes:
            code.line(f"{count}, p, _ = count_of(d, p, {count}, 0, x)")
        else:
            code.line(f"{count}, p = skipped_block(d, p, {count})")
        with code.block(f"for _ in range({count}):"), code.at("{}" if is_map else "[]"):
            code.line("if p > len(d): short()")
            if is_map:
                _skip_scalar(code, AvroType(kind="string", path=(), own=True), nesting)
            _skip(code, writer.element, nesting)


_SKIPPERS: Final[dict[str, Callable[[Code, AvroType, int], None]]] = {
    "union": _skip_union,
    "record": _skip_record,
    "array": _skip_collection,
    "map": _skip_collection,
}
