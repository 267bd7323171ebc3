"""MAP: makes one event out of each event, or with ``flatten`` one out of each element of a list in it.

The payload is built in this order: put an element in the place of the list that ``flatten`` names, start from the whole
payload (``mode: merge``) or from nothing (``replace``), keep only what ``select`` names, take away what ``drop`` names,
``rename`` (all at once, so two names can be swapped), then set ``fields``. Expressions always see the original event.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    FieldPath,
    Path,
    Problems,
    Table,
    dotted_path,
    expression,
    list_of,
    mapping_of,
    member,
    paths_apart,
    read_table,
    text,
)
from event_streaming_bus.flows.payload_structs import payload_struct
from event_streaming_bus.flows.values import kind_of_value

if TYPE_CHECKING:
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.plan import Node
    from event_streaming_bus.flows.spec import ProcessorSpec


class MapMode(StrEnum):
    """What a MAP's output payload starts from: the whole payload, or nothing."""

    MERGE = "merge"
    REPLACE = "replace"


class MapLogic(msgspec.Struct, frozen=True, kw_only=True):
    """The ``processing_logic`` of a MAP.

    No two of the paths that ``rename`` and ``fields`` write lie on each other, and nothing renamed is dropped or left
    unselected. ``key`` and ``event_type`` replace those of the event; None keeps them.
    """

    mode: MapMode = MapMode.MERGE
    select: tuple[FieldPath, ...] | None = None
    drop: tuple[FieldPath, ...] = ()
    rename: tuple[tuple[FieldPath, FieldPath], ...] = ()
    fields: tuple[tuple[FieldPath, Expression], ...] = ()
    flatten: FieldPath | None = None
    key: Expression | None = None
    event_type: str | None = None

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {"mode": self.mode.value}
        if self.select is not None:
            data["select"] = [".".join(path) for path in self.select]
        if self.drop:
            data["drop"] = [".".join(path) for path in self.drop]
        if self.rename:
            data["rename"] = {".".join(old): ".".join(new) for old, new in self.rename}
        if self.fields:
            data["fields"] = {".".join(path): value.text for path, value in self.fields}
        if self.flatten is not None:
            data["flatten"] = ".".join(self.flatten)
        if self.key is not None:
            data["key"] = self.key.text
        if self.event_type is not None:
            data["event_type"] = self.event_type
        return data


_WORK: Final = ("fields", "select", "drop", "rename", "flatten")
_PATHS: Final = list_of(dotted_path, least=1)
_LOGIC: Final[Table] = {
    "mode": Field(member(MapMode), default=MapMode.MERGE),
    "select": Field(_PATHS),
    "drop": Field(_PATHS, default=()),
    "rename": Field(mapping_of(dotted_path, dotted_path), default=()),
    "fields": Field(mapping_of(dotted_path, expression), default=()),
    "flatten": Field(dotted_path),
    "key": Field(expression),
    "event_type": Field(text(r"\S(.*\S)?", "text that is not empty", 200)),
}


def read_logic(value: object, path: Path, problems: Problems) -> Any:
    """The ``MapLogic`` of a ``processing_logic``."""
    values = read_table(value, path, _LOGIC, problems)
    if values is None:
        return BAD
    logic = MapLogic(**values)
    before = len(problems.found)
    if not any(values[name] for name in _WORK):
        problems.add(path, f"expected at least one of {', '.join(_WORK)}")
    if logic.mode is MapMode.REPLACE:
        idle = [name for name in ("select", "drop", "rename") if values[name]]
        if idle:
            told = ", ".join(idle)
            problems.add((*path, "mode"), f"replace starts from nothing, so {told} cannot be used; use merge")
    _check_paths(logic, path, problems)
    return BAD if len(problems.found) > before else logic


def _check_paths(logic: MapLogic, path: Path, problems: Problems) -> None:
    written: list[tuple[str, FieldPath]] = [("rename", new) for _, new in logic.rename]
    written += [("fields", name) for name, _ in logic.fields]
    paths_apart(written, "write", path, problems)
    paths_apart([("rename", old) for old, _ in logic.rename], "take", path, problems)
    for old, _ in logic.rename:
        here = (*path, "rename", ".".join(old))
        if any(_covers(dropped, old) for dropped in logic.drop):
            problems.add(here, f"{'.'.join(old)!r} is dropped before it could be renamed")
        elif logic.select is not None and not any(_covers(a, old) or _covers(old, a) for a in logic.select):
            problems.add(here, f"{'.'.join(old)!r} is not selected; add it to select")
    for i, dropped in enumerate(logic.drop):
        if any(_covers(dropped, selected) for selected in logic.select or ()):
            problems.add((*path, "drop", i), f"{'.'.join(dropped)!r} drops what select keeps")


def _covers(outer: FieldPath, inner: FieldPath) -> bool:
    return inner[: len(outer)] == outer


def expressions(logic: MapLogic) -> Iterator[Expression]:
    """Every expression of the logic, in the order in which they are evaluated."""
    for _, each in logic.fields:
        yield each
    if logic.key is not None:
        yield logic.key


def payload_paths(spec: "ProcessorSpec", side: int = 0) -> Iterator[FieldPath]:
    """The payload paths that are read; the empty one is the whole payload."""
    logic = _logic(spec)
    if logic.mode is MapMode.MERGE or logic.flatten is not None:
        yield ()
    for each in expressions(logic):
        yield from each.payload_paths


def generate(node: "Node", number: str, code: "Code", reading: "Reading", below: "Callable[[Reading], None]", side: int) -> None:
    """Write the lines of one MAP: the new payload, as a dict, is collected and handed on.

    What is collected: see ``collection_of``.
    """
    logic = _logic(node.spec)
    if logic.flatten is not None:
        _generate_flattening(logic, logic.flatten, number, code, reading)
        return
    code.prologue.append(f"x{number}, d{number}, y{number} = o{number}")
    with code.block("try:"):
        if node.children:
            _write_payload(logic, number, code, reading)
        else:
            _write_data(node, logic, number, code, reading)
    code.failure(f"{number}, i")
    with code.block("else:"):
        code.line(f"x{number}.append(i)")
        code.line(f"d{number}.append(m{number})")
        if logic.key is not None:
            code.line(f"y{number}.append(k{number})")
        replaced = {"key": f"k{number}"} if logic.key is not None else {}
        if logic.event_type is not None:
            replaced["event_type"] = repr(logic.event_type)
        below(reading.of_mapped(f"m{number}", replaced))


def collection_of(spec: "ProcessorSpec") -> str:
    """The code of what is collected.

    Three lists in step: the indexes, the new payloads (JSON bytes already where nothing reads on from the MAP), and the new keys
    if the MAP sets them. With ``flatten``: tuples of an index, a payload, and a key that is null if the MAP sets none.
    """
    return "[]" if _logic(spec).flatten is not None else "([], [], [])"


def output_names(spec: "ProcessorSpec") -> list[str]:
    """The fields that a MAP writes, in order, if they are all known and at the top; else none, as for what is no MAP."""
    logic = spec.processing_logic
    if not isinstance(logic, MapLogic) or logic.mode is MapMode.MERGE or logic.flatten is not None:
        return []
    names = [path[0] for path, _ in logic.fields if len(path) == 1]
    return names if len(names) == len(logic.fields) else []


def _generate_flattening(logic: MapLogic, path: FieldPath, number: str, code: "Code", reading: "Reading") -> None:
    """An event becomes as many as the list has elements, or a failure if one of them fails."""
    key = f"k{number}" if logic.key is not None else "None"
    with code.block("try:"):
        code.line(f"l{number} = []")
        with code.block(f"for q in {code.constant('_elements', elements)}({reading.payload}, {path!r}):"):
            _write_payload(logic, number, code, reading.of_mapped("q", {}))
            code.line(f"l{number}.append((i, m{number}, {key}))")
    code.failure(f"{number}, i")
    with code.block("else:"):
        code.line(f"o{number} += l{number}")


def _write_data(node: "Node", logic: MapLogic, number: str, code: "Code", reading: "Reading") -> None:
    """The lines that build the new payload as JSON bytes, and the new key if there is one.

    Where its fields are known it is a struct on the way, which costs less than a dict; or even what was decoded, if nobody else
    reads that any more.
    """
    encode = code.constant("_encode_payload", msgspec.json.Encoder().encode)
    names = output_names(node.spec)
    struct = payload_struct(names) if names else None
    if struct is None:
        _write_payload(logic, number, code, reading)
        code.line(f"m{number} = {encode}(m{number})")
        return
    _, payload_type = struct
    if reading.last == node.number:
        _write_key(logic, number, code, reading)
        fields = [(reading.field(path), reading.expression(value)) for path, value in logic.fields]
        changed = [(place, value) for place, value in fields if value != f"({place})"]
        if changed:  # all of them are computed before any is changed
            code.line(f"{', '.join(place for place, _ in changed)} = {', '.join(value for _, value in changed)}")
        code.line(f"m{number} = {encode}({reading.payload})")
        return
    values = ", ".join(reading.expression(value) for _, value in logic.fields)
    code.line(f"m{number} = {encode}({code.constant(f'payload{number}', payload_type)}({values}))")
    _write_key(logic, number, code, reading)


def _write_payload(logic: MapLogic, number: str, code: "Code", reading: "Reading") -> None:
    """The lines that build the new payload, and the new key if there is one."""
    top = [(path, value) for path, value in logic.fields if len(path) == 1]
    deep = [(path, value) for path, value in logic.fields if len(path) > 1]
    texts = {path: reading.expression(value) for path, value in logic.fields}
    parts = [f"{path[0]!r}: {texts[path]}" for path, _ in top]
    if logic.mode is MapMode.MERGE:
        start = reading.payload
        if logic.select is not None or logic.drop or logic.rename:
            start = f"{code.constant(f'shape{number}', _shape(logic))}({start})"
        parts.insert(0, f"**{start}")
    code.line(f"m{number} = {{{', '.join(parts)}}}")
    for path, _ in deep:
        code.line(f"{code.constant('_set_path', set_path)}(m{number}, {path!r}, {texts[path]})")
    _write_key(logic, number, code, reading)


def _write_key(logic: MapLogic, number: str, code: "Code", reading: "Reading") -> None:
    if logic.key is not None:
        code.line(f"k{number} = {code.constant('_key_text', key_text)}({reading.expression(logic.key)})")


def elements(payload: dict[str, Any], path: FieldPath) -> Iterator[dict[str, Any]]:
    """The payload once for each element of the list at ``path``, with the element in the list's place; null is an empty list."""
    value = _take(payload, path)
    if value is _ABSENT or value is None:
        return
    if not isinstance(value, list):
        raise TypeError(f"payload.{'.'.join(path)} is {kind_of_value(value)}; flatten needs a list")
    for element in value:
        copy = dict(payload)
        set_path(copy, path, element)
        yield copy


def _logic(spec: "ProcessorSpec") -> MapLogic:
    assert isinstance(spec.processing_logic, MapLogic)  # noqa: S101 - the spec stage has seen to it
    return spec.processing_logic


def key_text(value: object) -> str | None:
    """A key as text: text and null as they are, other JSON values as JSON."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def set_path(payload: dict[str, Any], path: FieldPath, value: object) -> None:
    """Set a nested field; the objects on the way are copied, for they may belong to the source's payload."""
    *way, last = path
    for name in way:
        inner = payload.get(name)
        payload[name] = payload = dict(inner) if isinstance(inner, dict) else {}
    payload[last] = value


_ABSENT: Final = object()


def _take(payload: object, path: FieldPath) -> object:
    for name in path:
        if not isinstance(payload, dict) or name not in payload:
            return _ABSENT
        payload = payload[name]
    return payload


def _remove(payload: dict[str, Any], path: FieldPath) -> None:
    *way, last = path
    if _take(payload, path) is _ABSENT:
        return
    for name in way:
        payload[name] = payload = dict(payload[name])
    del payload[last]


def _shape(logic: MapLogic) -> "Callable[[dict[str, Any]], dict[str, Any]]":
    """The part of a MAP that only moves fields: select, drop, rename. What it is given is left as it is."""

    def shape(payload: dict[str, Any]) -> dict[str, Any]:
        out = dict(payload)
        if logic.select is not None:
            out = {}
            for path in logic.select:
                if (value := _take(payload, path)) is not _ABSENT:
                    set_path(out, path, value)
        for path in logic.drop:
            _remove(out, path)
        moved = [(new, value) for old, new in logic.rename if (value := _take(out, old)) is not _ABSENT]
        for old, _ in logic.rename:
            _remove(out, old)
        for new, value in moved:
            set_path(out, new, value)
        return out

    return shape
