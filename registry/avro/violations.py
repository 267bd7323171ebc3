"""What is wrong with a payload that an Avro schema cannot encode, and which branch of a union a value belongs to.

The compiled encoder decides on the hot path; this explains, and chooses between branches where a value's Python type does not.

The branch of a union: a tuple ``(name, value)`` names it. Otherwise a branch that holds the value as it is comes before one that
converts it (a float rather goes into a double than into a float, an int into a long rather than into a double, text into a string
rather than as base64 into bytes); among equals the first that the value fits. A dict fits a record only if all of its keys are
fields and no field without a default is missing.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, Final
from uuid import UUID

from event_streaming_bus.registry.avro.types import MAX_DEPTH, MAX_EMPTY_ITEMS, AvroType, Path
from event_streaming_bus.registry.avro.values import (
    FLOAT,
    INT_RANGE,
    LONG_RANGE,
    NotAcceptedError,
    taken_by,
)
from event_streaming_bus.registry.violations import MAX_VIOLATIONS, Violation, violation

_REPR: Final = Repr()
_REPR.maxstring = _REPR.maxother = 60
_REPR.maxlong = 40

CATEGORIES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    bytearray: "bytes",
    dict: "object",
    list: "list",
    tuple: "list",
    Decimal: "decimal",
    datetime: "datetime",
    date: "date",
    time: "time",
    UUID: "uuid",
}
_ABSTRACT: Final[tuple[tuple[Any, str], ...]] = (
    *((kind, name) for kind, name in CATEGORIES.items() if kind not in (date, tuple)),
    (date, "date"),
    (Integral, "int"),
    (Real, "float"),
    (Mapping, "object"),
    (memoryview, "bytes"),
    (Sequence, "list"),
)
# What goes into a type, by the category of the value, and how well: 0 as it is, more the more it is changed.
_RANKS: Final[dict[str, dict[str, int]]] = {
    "null": {"null": 0},
    "boolean": {"boolean": 0},
    "int": {"int": 0},
    "long": {"int": 0},
    "float": {"float": 1, "int": 3},
    "double": {"float": 0, "int": 2},
    "string": {"text": 0},
    "bytes": {"bytes": 0, "text": 4},
    "fixed": {"bytes": 0, "text": 4},
    "enum": {"text": 0},
    "array": {"list": 0},
    "map": {"object": 0},
    "record": {"object": 0},
    "date": {"date": 0, "text": 0, "datetime": 1, "int": 1},
    "time": {"time": 0, "text": 0, "int": 1},
    "timestamp": {"datetime": 0, "text": 0, "int": 1},
    "uuid": {"uuid": 0, "text": 0, "bytes": 4},
    "decimal": {"decimal": 0, "float": 1, "int": 1, "bytes": 1, "text": 3},
}


class _EnoughError(Exception):
    """As many violations as are asked for have been found."""


class _Walk:
    """A search for violations, ``limit`` at most. ``fits`` remembers what is known of records, so that nested unions do not make
    the search exponential; it keeps the values, so that no other value gets their ids. ``explains``: what keeps a value from the
    branches of a union is told, not only that it fits none."""

    def __init__(self, limit: int, fits: dict[tuple[int, int], tuple[Any, bool]], explains: bool = True) -> None:
        self.found: list[Violation] = []
        self.fits = fits
        self.explains = explains
        self.empty_items = 0
        self._limit = limit

    def add(self, path: Path, rule: str, message: str) -> None:
        self.found.append(violation(path, rule, message))
        if len(self.found) >= self._limit:
            raise _EnoughError


def violations_of(kind: AvroType, value: Any) -> list[Violation]:
    """What keeps ``value`` from being encoded, at most ``MAX_VIOLATIONS``."""
    walk = _Walk(MAX_VIOLATIONS, {})
    try:
        _check(kind, value, (), walk, 0)
    except _EnoughError:
        pass
    except RecursionError:
        walk.found.append(violation((), "depth", f"the value is nested deeper than {MAX_DEPTH} levels"))
    return walk.found


def branch_of(union: AvroType, value: Any, fits: dict[Any, Any], depth: int = 0) -> tuple[int, Any] | None:
    """The position of the branch that a value goes into, and the value without its tuple; ``None`` if there is none."""
    chosen = _chosen(union, value, fits, depth)
    return chosen[:2] if chosen else None


def _chosen(union: AvroType, value: Any, fits: dict[Any, Any], depth: int) -> tuple[int, Any, bool] | None:
    """As ``branch_of``, and whether it is known that the value fits."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        named = _named_branch(union, value[0])
        if named is not None:
            return named, value[1], False
    candidates = _candidates(union, value)
    if len(candidates) > 1:
        for i in candidates:
            if _fits(union.branches[i], value, fits, depth):
                return i, value, True
        return None
    return (candidates[0], value, False) if candidates else None


def choices_of(union: AvroType) -> dict[str, tuple[int, ...]]:
    """The branches that values of each category may go into, best first."""
    if union.choices is None:
        choices: dict[str, list[tuple[int, int]]] = {}
        for i, branch in enumerate(union.branches):
            key = branch.logical or branch.kind
            key = "timestamp" if "timestamp" in key else "time" if key.startswith("time-") else key
            for category, rank in _RANKS[key].items():
                choices.setdefault(category, []).append((rank, i))
        union.choices = {category: tuple(i for _, i in sorted(found)) for category, found in choices.items()}
    found_choices: dict[str, tuple[int, ...]] = union.choices
    return found_choices


def category_of(value: Any) -> str:
    """The category of a value's Python type; empty for types that no Avro type takes."""
    found = CATEGORIES.get(type(value))
    return found or next((name for kind, name in _ABSTRACT if isinstance(value, kind)), "")


def _named_branch(union: AvroType, name: str) -> int | None:
    for i, branch in enumerate(union.branches):
        if name == (branch.name or branch.kind):
            return i
    simple = [i for i, branch in enumerate(union.branches) if branch.name and branch.simple_name == name]
    return simple[0] if len(simple) == 1 else None


def _candidates(union: AvroType, value: Any) -> Sequence[int]:
    category = category_of(value)
    found = choices_of(union).get(category, ())
    if category == "object" and len(found) > 1:
        keyed = [i for i in found if union.branches[i].kind == "map" or _keys_fit(union.branches[i], value)]
        return keyed or found
    return found


def _keys_fit(record: AvroType, value: Mapping[str, Any]) -> bool:
    return len(value) <= len(record.fields) and not (value.keys() - record.fields.keys()) and not _missing(record, value)


def _missing(record: AvroType, value: Mapping[str, Any]) -> list[str]:
    if len(value) == len(record.fields) and value.keys() == record.fields.keys():
        return []
    return [name for name, field in record.fields.items() if field.default is None and name not in value]


def _fits(kind: AvroType, value: Any, fits: dict[tuple[int, int], tuple[Any, bool]], depth: int) -> bool:
    key = (id(value), id(kind))
    known = fits.get(key)
    if known is None:
        walk = _Walk(1, fits, explains=False)
        with suppress(_EnoughError):
            _check(kind, value, (), walk, depth)
        known = value, not walk.found
        if kind.kind in ("record", "array", "map"):
            fits[key] = known
    return known[1]


def _check(kind: AvroType, value: Any, path: Path, walk: _Walk, depth: int) -> None:
    if depth > MAX_DEPTH * 2:
        walk.add(path, "depth", f"the value is nested deeper than {MAX_DEPTH} levels")
        raise _EnoughError
    match kind.kind:
        case "union":
            _check_union(kind, value, path, walk, depth)
        case "record":
            _check_record(kind, value, path, walk, depth)
        case "array":
            _check_array(kind, value, path, walk, depth)
        case "map":
            if not isinstance(value, Mapping):
                walk.add(path, "type", f"expected an object, got {_shown(value)}")
                return
            for key, each in value.items():
                if not isinstance(key, str) or not _is_unicode(key):
                    walk.add(path, "type", f"expected keys that are text, got {_shown(key)}")
                else:
                    _check(kind.element, each, (*path, key), walk, depth + 1)
        case _:
            _check_scalar(kind, value, path, walk)


def _check_union(kind: AvroType, value: Any, path: Path, walk: _Walk, depth: int) -> None:
    chosen = _chosen(kind, value, walk.fits, depth + 1)
    if chosen is not None:
        branch, inner, fits = chosen
        if not fits:
            _check(kind.branches[branch], inner, path, walk, depth + 1)
        return
    reasons = ""
    for i in _candidates(kind, value)[:3] if walk.explains else ():
        part = _Walk(1, walk.fits, explains=False)
        try:
            _check(kind.branches[i], value, (), part, depth + 1)
        except _EnoughError:
            first = part.found[0]
            reasons += f"; not {kind.branches[i].title}: {first.path + ': ' if first.path else ''}{first.message[:200]}"
    walk.add(path, "union", f"expected {kind.title}, got {_shown(value)}{reasons}")


def _check_record(kind: AvroType, value: Any, path: Path, walk: _Walk, depth: int) -> None:
    if not isinstance(value, Mapping):
        walk.add(path, "type", f"expected an object for {kind.title}, got {_shown(value)}")
        return
    for name, field in kind.fields.items():
        if name in value:
            _check(field.type, value[name], (*path, name), walk, depth + 1)
        elif field.default is None:
            walk.add((*path, name), "required", f"is missing and has no default; expected {field.type.title}")
    for name in value:
        if name not in kind.fields:
            known = ", ".join(list(kind.fields)[:20]) or "none"
            part = name if isinstance(name, str) else _shown(name)
            walk.add((*path, part), "additionalProperties", f"{kind.title} has no such field; its fields: {known}")


def _check_array(kind: AvroType, value: Any, path: Path, walk: _Walk, depth: int) -> None:
    if category_of(value) != "list":
        walk.add(path, "type", f"expected a list, got {_shown(value)}")
        return
    if not kind.element.min_bytes:
        walk.empty_items += len(value)
        if walk.empty_items > MAX_EMPTY_ITEMS:
            walk.add(path, "size", f"more than {MAX_EMPTY_ITEMS:,} items of {kind.element.title}, which take no bytes")
            return
    for i, item in enumerate(value):
        _check(kind.element, item, (*path, i), walk, depth + 1)


def _check_scalar(kind: AvroType, value: Any, path: Path, walk: _Walk) -> None:
    name = kind.kind
    if kind.logical or name in ("bytes", "fixed"):
        value = _taken(kind, value, path, walk)
        if value is None:
            return
    category = category_of(value)
    if name == "enum":
        if category != "text" or value not in kind.symbols:
            walk.add(path, "enum", f"expected one of {', '.join(kind.symbols[:50])}, got {_shown(value)}")
    elif category != "int" and (name in ("int", "long") or (name in ("float", "double") and category != "float")):
        walk.add(path, "type", f"expected {_TYPES[name]}, got {_shown(value)}")
    elif name in ("int", "long"):
        low, high = INT_RANGE if name == "int" else LONG_RANGE
        if not low <= value <= high:
            walk.add(path, "range", f"expected a whole number from {low} to {high}, got {_shown(value)}")
    elif name in ("float", "double"):
        if not _fits_float(name, value):
            walk.add(path, "range", f"expected a number in the range of a {name}, got {_shown(value)}")
    elif name == "fixed":
        if len(value) != kind.size:
            walk.add(path, "size", f"expected {kind.size} bytes, got {len(value)}")
    elif name in ("null", "boolean", "string") and category != _CATEGORY[name]:
        walk.add(path, "type", f"expected {_TYPES[name]}, got {_shown(value)}")
    elif name == "string" and not _is_unicode(value):
        walk.add(path, "type", "expected text that is Unicode, got lone surrogates")


_CATEGORY: Final = {"null": "null", "boolean": "boolean", "string": "text"}
_TYPES: Final = {
    "null": "null",
    "boolean": "true or false",
    "string": "a text",
    "int": "a whole number",
    "long": "a whole number",
    "float": "a number",
    "double": "a number",
}


def _taken(kind: AvroType, value: Any, path: Path, walk: _Walk) -> Any:
    """The value that would be written; ``None`` after telling why there is none."""
    taken = taken_by(kind)
    assert taken is not None  # noqa: S101 - only asked of types with a converter
    try:
        return taken(value)
    except NotAcceptedError as error:
        accepted = str(error)
    except Exception as error:  # a value whose own methods fail
        accepted = f"a value for {kind.title} ({error!r})"
    walk.add(path, "logicalType" if kind.logical else "type", f"expected {accepted}, got {_shown(value)}")
    return None


def _fits_float(name: str, value: Any) -> bool:
    try:
        number = float(value)
        if name == "float":
            FLOAT.pack(number)
    except OverflowError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    """A short form of a value for messages, in JSON's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{'text ' if isinstance(value, str) else ''}{_REPR.repr(value)}"
