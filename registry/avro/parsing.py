"""Parses the text of an Avro schema.

It is strict where the specification is, and tolerant where Java's parser is: an unknown or invalid logical type is ignored, a
default may fit any branch of a union, a name without a namespace is looked for in the enclosing namespace and then without one.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.avro.defaults import Defaults
from event_streaming_bus.registry.avro.types import PRIMITIVES, AvroField, AvroType, Path, malformed

MAX_SCHEMA_BYTES: Final = 1 << 20
MAX_SCHEMA_DEPTH: Final = 100
MAX_PRECISION: Final = 1000
_MAX_MIN_BYTES: Final = 1 << 40
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MIN_BYTES: Final = {"null": 0, "float": 4, "double": 8}
_BASES: Final[dict[str, tuple[str, ...]]] = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",),
    "uuid": ("string", "fixed"),
    "decimal": ("bytes", "fixed"),
}
_ORDERS: Final = ("ascending", "descending", "ignore")


def parse(definition: str, references: Sequence[str] = ()) -> tuple[AvroType, Any]:
    """The type that ``definition`` describes, and its normalised JSON: attributes kept, full names, no objects without need.

    ``references`` are the texts whose named types it may use, in dependency order. Raises ``SchemaError``, naming the line or
    the JSON pointer, in a time that is linear in the texts.
    """
    parser = _Parser()
    try:
        for i, text in enumerate(dict.fromkeys(references)):
            try:
                parser.text(text)
            except SchemaError as error:
                raise SchemaError(f"references[{i}]: {error.message}", **error.details, reference=i) from None
        parser.own = True
        parsed = parser.text(definition)
    except RecursionError:
        raise SchemaError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep") from None
    return parsed


def _json(text: str) -> Any:
    """The JSON value of a schema's text. The bare name of a primitive type, which is no JSON, counts as well."""
    size = len(text) if len(text) > MAX_SCHEMA_BYTES else len(text.encode(errors="surrogatepass"))
    if size > MAX_SCHEMA_BYTES:
        raise SchemaError(f"the schema has {size:,} bytes; at most {MAX_SCHEMA_BYTES:,} are accepted")
    if text.strip() in PRIMITIVES:
        return text.strip()
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SchemaError(
            f"line {error.lineno}, column {error.colno}: {error.msg}; expected the JSON of an Avro schema",
            line=error.lineno,
            column=error.colno,
        ) from None
    except ValueError as error:  # a constant that is no JSON, or an integer of thousands of digits
        raise SchemaError(f"the schema is no JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not accepted in JSON")


class _Parser:
    """The named types met so far. ``own`` tells whether what is parsed is the schema itself or one of its references."""

    def __init__(self) -> None:
        self.names: dict[str, AvroType] = {}
        self.own = False
        self._fields: list[AvroField] = []
        self._defaults = Defaults()

    def text(self, text: str) -> tuple[AvroType, Any]:
        parsed = self._type(_json(text), "", (), 1)
        for field in self._fields:  # those of a type before those of the types that it is used in
            self._defaults.settle(field)
        self._fields.clear()
        return parsed

    def _type(self, raw: Any, namespace: str, path: Path, depth: int) -> tuple[AvroType, Any]:
        if depth > MAX_SCHEMA_DEPTH:
            raise malformed(path, f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        if isinstance(raw, str):
            return self._by_name(raw, namespace, path)
        if isinstance(raw, list):
            return self._union(raw, namespace, path, depth)
        if not isinstance(raw, dict):
            raise malformed(path, f"expected the name of a type, an object or a list of types, got {_shown(raw)}")
        kind = raw.get("type")
        if not isinstance(kind, str):
            got = f", got {_shown(kind)}" if "type" in raw else ""
            raise malformed((*path, "type") if "type" in raw else path, f"expected 'type' to be the name of a type{got}")
        if kind in ("record", "error"):
            return self._record(raw, namespace, path, depth)
        if kind in ("enum", "fixed"):
            return self._enum(raw, namespace, path) if kind == "enum" else self._fixed(raw, namespace, path)
        if kind in ("array", "map"):
            return self._collection(raw, kind, namespace, path, depth)
        found, normal = self._by_name(kind, namespace, (*path, "type"))
        others = {key: value for key, value in raw.items() if key != "type"}
        if found.kind in PRIMITIVES:
            found.path = path
            _set_logical(found, raw)
        return found, {"type": normal, **others} if others else normal

    def _by_name(self, name: str, namespace: str, path: Path) -> tuple[AvroType, Any]:
        if name in PRIMITIVES:
            return AvroType(kind=name, path=path, own=self.own, min_bytes=_MIN_BYTES.get(name, 1)), name
        for full in (f"{namespace}.{name}", name) if namespace and "." not in name else (name,):
            if full in self.names:
                found = self.names[full]
                found.uses += 1
                return found, full
        known = ", ".join(sorted(self.names)[:20]) + (", ..." if len(self.names) > 20 else "")
        known = f"named types known here: {known}" if known else "no named types are known here"
        raise malformed(path, f"unknown type {_shown(name)}; {known}; primitive types: {', '.join(PRIMITIVES)}")

    def _union(self, raw: list[Any], namespace: str, path: Path, depth: int) -> tuple[AvroType, Any]:
        if not raw:
            raise malformed(path, "a union needs at least one type")
        branches, normals, seen = [], [], set[str]()
        for i, each in enumerate(raw):
            branch, normal = self._type(each, namespace, (*path, i), depth + 1)
            if branch.kind == "union":
                raise malformed((*path, i), "a union may not directly hold another union")
            if (branch.kind if not branch.name else f"named {branch.name}") in seen:
                raise malformed((*path, i), f"a union may hold {branch.name or branch.kind} only once")
            seen.add(branch.kind if not branch.name else f"named {branch.name}")
            branches.append(branch)
            normals.append(normal)
        least = 1 + min(branch.min_bytes for branch in branches)
        return AvroType(kind="union", path=path, own=self.own, branches=tuple(branches), min_bytes=least), normals

    def _collection(self, raw: dict[str, Any], kind: str, namespace: str, path: Path, depth: int) -> tuple[AvroType, Any]:
        key = "items" if kind == "array" else "values"
        if key not in raw:
            raise malformed(path, f"a{'n' if kind == 'array' else ''} {kind} needs '{key}', the type of its {key}")
        items, normal = self._type(raw[key], namespace, (*path, key), depth + 1)
        return AvroType(kind=kind, path=path, own=self.own, items=items, min_bytes=1), {**raw, key: normal}

    def _fixed(self, raw: dict[str, Any], namespace: str, path: Path) -> tuple[AvroType, Any]:
        found, normal, _ = self._named(raw, "fixed", namespace, path)
        size = raw.get("size")
        if type(size) is not int or size < 0:
            raise malformed((*path, "size") if "size" in raw else path, "a fixed needs 'size', a whole number of bytes")
        found.size = size
        found.min_bytes = min(size, _MAX_MIN_BYTES)
        _set_logical(found, raw)
        return found, normal

    def _enum(self, raw: dict[str, Any], namespace: str, path: Path) -> tuple[AvroType, Any]:
        found, normal, _ = self._named(raw, "enum", namespace, path)
        found.min_bytes = 1
        symbols = raw.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise malformed(
                (*path, "symbols") if "symbols" in raw else path, "an enum needs 'symbols', a list of one or more names"
            )
        seen = set[str]()
        for i, symbol in enumerate(symbols):
            _check_name(symbol, (*path, "symbols", i), "symbol")
            if symbol in seen:
                raise malformed((*path, "symbols", i), f"the symbol {symbol!r} is there twice")
            seen.add(symbol)
        found.symbols = tuple(symbols)
        if "default" in raw:
            if not isinstance(raw["default"], str) or raw["default"] not in seen:
                raise malformed(
                    (*path, "default"), f"expected one of the symbols {', '.join(symbols[:20])}, got {_shown(raw['default'])}"
                )
            found.symbol_default = raw["default"]
        return found, normal

    def _record(self, raw: dict[str, Any], namespace: str, path: Path, depth: int) -> tuple[AvroType, Any]:
        found, normal, namespace = self._named(raw, "record", namespace, path)
        raw_fields = raw.get("fields")
        if not isinstance(raw_fields, list):
            raise malformed((*path, "fields") if "fields" in raw else path, "a record needs 'fields', a list")
        fields: dict[str, AvroField] = {}
        normal["fields"] = []
        for i, raw_field in enumerate(raw_fields):
            field, normal_field = self._field(raw_field, namespace, (*path, "fields", i), depth)
            if field.name in fields:
                raise malformed((*field.path, "name"), f"the record has two fields named {field.name!r}")
            fields[field.name] = field
            normal["fields"].append(normal_field)
        found.fields = fields
        found.min_bytes = min(sum(field.type.min_bytes for field in fields.values()), _MAX_MIN_BYTES)
        self._fields += fields.values()
        return found, normal

    def _field(self, raw: Any, namespace: str, path: Path, depth: int) -> tuple[AvroField, Any]:
        if not isinstance(raw, dict):
            raise malformed(path, f"expected a field as an object, got {_shown(raw)}")
        for key in ("name", "type"):
            if key not in raw:
                raise malformed(path, f"a field needs '{key}'")
        _check_name(raw["name"], (*path, "name"), "field name")
        if raw.get("order", "ascending") not in _ORDERS:
            raise malformed((*path, "order"), f"expected one of {', '.join(_ORDERS)}, got {_shown(raw['order'])}")
        aliases = _aliases(raw, path)
        for i, alias in enumerate(aliases):
            _check_name(alias, (*path, "aliases", i), "alias")
        parsed, normal = self._type(raw["type"], namespace, (*path, "type"), depth + 1)
        field = AvroField(name=raw["name"], type=parsed, path=path, aliases=tuple(aliases))
        if "default" in raw:
            field.raw_default = raw["default"]
        return field, {**raw, "type": normal}

    def _named(self, raw: dict[str, Any], kind: str, namespace: str, path: Path) -> tuple[AvroType, dict[str, Any], str]:
        """A named type that is known from here on, its normalised JSON so far, and the namespace within it."""
        name = raw.get("name")
        if not isinstance(name, str) or not name:
            raise malformed(
                (*path, "name") if "name" in raw else path, f"a{'n' if kind == 'enum' else ''} {kind} needs 'name', a text"
            )
        if "." in name:
            namespace = name.rpartition(".")[0]
        elif "namespace" in raw:
            namespace = raw["namespace"]
            if not isinstance(namespace, str):
                raise malformed((*path, "namespace"), f"expected a text, got {_shown(namespace)}")
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for part in full.split("."):
            _check_name(part, (*path, "name"), "name")
        if full in PRIMITIVES:
            raise malformed((*path, "name"), f"{full!r} is the name of a primitive type")
        if full in self.names:
            raise malformed((*path, "name"), f"the type {full} is defined twice")
        aliases = []
        for i, alias in enumerate(_aliases(raw, path)):
            for part in alias.split(".") if isinstance(alias, str) else [alias]:
                _check_name(part, (*path, "aliases", i), "alias")
            aliases.append(f"{namespace}.{alias}" if namespace and "." not in alias else alias)
        found = AvroType(kind=kind, path=path, own=self.own, name=full, aliases=tuple(aliases), uses=1)
        self.names[full] = found
        normal = {key: value for key, value in raw.items() if key != "namespace"} | {"name": full, "type": kind}
        if aliases:
            normal["aliases"] = aliases
        return found, normal, namespace


def _aliases(raw: dict[str, Any], path: Path) -> list[Any]:
    aliases = raw.get("aliases", [])
    if not isinstance(aliases, list):
        raise malformed((*path, "aliases"), f"expected a list of names, got {_shown(aliases)}")
    return aliases


def _check_name(name: Any, path: Path, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise malformed(path, f"expected a {what} of letters, digits and _, not starting with a digit, got {_shown(name)}")


def _set_logical(found: AvroType, raw: dict[str, Any]) -> None:
    """Set the logical type if it is a known one that fits: any other is ignored, as the specification says."""
    logical = raw.get("logicalType")
    if not isinstance(logical, str) or found.kind not in _BASES.get(logical, ()):
        return
    if logical == "decimal":
        precision, scale = raw.get("precision"), raw.get("scale", 0)
        if type(precision) is not int or type(scale) is not int or precision < 1 or not 0 <= scale <= precision:
            return
        if found.kind == "fixed" and precision > math.floor(math.log10(2) * (8 * found.size - 1)):
            return
        if precision > MAX_PRECISION:
            raise malformed((*found.path, "precision"), f"decimals may have {MAX_PRECISION} digits at most, got {precision}")
        found.precision, found.scale = precision, scale
    if logical == "uuid" and found.kind == "fixed" and found.size != 16:
        return
    found.logical = logical


def _shown(value: Any) -> str:
    text = (
        json.dumps(value)
        if isinstance(value, str | int | float | None)
        else f"a JSON {'list' if isinstance(value, list) else 'object'}"
    )
    return text if len(text) <= 80 else text[:77] + "..."
