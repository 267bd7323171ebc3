"""Defaults of fields: checked against the field's type, written as Avro binary, and as the JSON value that a reader is given."""

from typing import Any, Final

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.avro.types import AvroDefault, AvroField, AvroType, Path, malformed
from event_streaming_bus.registry.avro.values import DOUBLE, FLOAT, INT_RANGE, LONG_RANGE, NotAcceptedError, shown_by, zigzag

MAX_DEFAULT_VALUES: Final = 100_000
MAX_DEFAULT_BYTES: Final = 1 << 24
_NOT_FINITE: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class _Unfit(Exception):
    """The default at ``path`` is not what its type accepts."""

    def __init__(self, path: Path, expected: str) -> None:
        super().__init__(expected)
        self.path, self.expected = path, expected


class Defaults:
    """Settles the defaults of one schema's fields. What they may amount to together is bounded: a default ``{}`` of a record
    whose fields have such defaults in turn can stand for very many values."""

    def __init__(self) -> None:
        self._values = MAX_DEFAULT_VALUES
        self._bytes = MAX_DEFAULT_BYTES
        self._settling: set[AvroField] = set()

    def settle(self, field: AvroField) -> AvroDefault | None:
        """The field's default, kept in the field; ``None`` if it has none. Raises ``SchemaError`` for one that does not fit."""
        if field.default is not None or field.raw_default is msgspec.UNSET:
            return field.default
        path = (*field.path, "default")
        if field in self._settling:
            raise malformed(path, "the default has no end: it needs itself")
        self._settling.add(field)
        try:
            field.default = self._value(field.type, field.raw_default, path)
        except _Unfit as error:
            raise malformed(error.path, f"the default does not fit its type: expected {error.expected}") from None
        finally:
            self._settling.discard(field)
        self._values -= field.default.count
        self._bytes -= len(field.default.encoded)
        if self._values < 0 or self._bytes < 0:
            raise _too_much(path)
        return field.default

    def _value(self, kind: AvroType, raw: Any, path: Path) -> AvroDefault:
        self._values -= 1
        if self._values < 0:
            raise _too_much(path)
        if kind.kind == "union":
            return self._of_union(kind, raw, path)
        if kind.kind == "record":
            return self._of_record(kind, raw, path)
        if kind.kind == "array":
            return self._of_array(kind, raw, path)
        if kind.kind == "map":
            return self._of_map(kind, raw, path)
        encoded, value = _scalar(kind, raw, path)
        show = shown_by(kind)
        try:
            return AvroDefault(encoded, show(value) if show else value, 1)
        except NotAcceptedError as error:
            raise _Unfit(path, str(error)) from None

    def _of_union(self, kind: AvroType, raw: Any, path: Path) -> AvroDefault:
        for i, branch in enumerate(kind.branches):
            try:
                found = self._value(branch, raw, path)
            except _Unfit:
                continue
            return AvroDefault(zigzag(i) + found.encoded, found.shown, found.count)
        raise _Unfit(path, f"what one of the union's types accepts: {kind.title}")

    def _of_record(self, kind: AvroType, raw: Any, path: Path) -> AvroDefault:
        if not isinstance(raw, dict):
            raise _Unfit(path, f"an object for {kind.title}")
        found = {}
        for name, field in kind.fields.items():
            default = self._value(field.type, raw[name], (*path, name)) if name in raw else self.settle(field)
            if default is None:
                raise _Unfit(path, f"a value for the field {name!r} of {kind.title}, which has no default of its own")
            found[name] = default
        return _joined(b"", found.values(), b"", {name: default.shown for name, default in found.items()}, path)

    def _of_array(self, kind: AvroType, raw: Any, path: Path) -> AvroDefault:
        if not isinstance(raw, list):
            raise _Unfit(path, "a list")
        items = [self._value(kind.element, item, (*path, i)) for i, item in enumerate(raw)]
        return _joined(zigzag(len(items)) if items else b"", items, b"\0", [item.shown for item in items], path)

    def _of_map(self, kind: AvroType, raw: Any, path: Path) -> AvroDefault:
        if not isinstance(raw, dict):
            raise _Unfit(path, "an object")
        values, parts = {}, []
        for key, each in raw.items():
            values[key] = self._value(kind.element, each, (*path, key))
            text = _text(key, path)
            parts.append(AvroDefault(zigzag(len(text)) + text + values[key].encoded, None, values[key].count))
        shown = {key: value.shown for key, value in values.items()}
        return _joined(zigzag(len(parts)) if parts else b"", parts, b"\0", shown, path)


def _joined(head: bytes, parts: Any, tail: bytes, shown: Any, path: Path) -> AvroDefault:
    found = list(parts)
    count = 1 + sum(part.count for part in found)
    if count > MAX_DEFAULT_VALUES or sum(len(part.encoded) for part in found) > MAX_DEFAULT_BYTES:
        raise _too_much(path)
    return AvroDefault(head + b"".join(part.encoded for part in found) + tail, shown, count)


def _too_much(path: Path) -> SchemaError:
    return malformed(
        path, f"the schema's defaults amount to more than {MAX_DEFAULT_VALUES:,} values or {MAX_DEFAULT_BYTES:,} bytes"
    )


def _scalar(kind: AvroType, raw: Any, path: Path) -> tuple[bytes, Any]:
    """A default that is no collection, as Avro binary, and as the value read from it."""
    name = kind.kind
    if name == "null" and raw is None:
        return b"", None
    if name == "boolean" and isinstance(raw, bool):
        return (b"\1" if raw else b"\0"), raw
    if name in ("int", "long"):
        low, high = INT_RANGE if name == "int" else LONG_RANGE
        if type(raw) is int and low <= raw <= high:
            return zigzag(raw), raw
        raise _Unfit(path, f"a whole number from {low} to {high}")
    if name in ("float", "double"):
        return _number(kind, raw, path)
    if name == "string" and isinstance(raw, str):
        encoded = _text(raw, path)
        return zigzag(len(encoded)) + encoded, raw
    if name in ("bytes", "fixed") and isinstance(raw, str):
        try:
            binary = raw.encode("latin-1")
        except UnicodeEncodeError:
            raise _Unfit(path, "a text whose characters U+0000 to U+00FF are the bytes") from None
        if name == "bytes":
            return zigzag(len(binary)) + binary, binary
        if len(binary) == kind.size:
            return binary, binary
    if name == "enum" and isinstance(raw, str) and raw in kind.symbols:
        return zigzag(kind.symbols.index(raw)), raw
    raise _Unfit(path, _EXPECTED[name].format(size=kind.size, symbols=", ".join(kind.symbols[:20])))


_EXPECTED: Final = {
    "null": "null",
    "boolean": "true or false",
    "string": "a text",
    "bytes": "a text whose characters U+0000 to U+00FF are the bytes",
    "fixed": "a text of {size} characters, U+0000 to U+00FF, which are the bytes",
    "enum": "one of the symbols {symbols}",
}


def _number(kind: AvroType, raw: Any, path: Path) -> tuple[bytes, Any]:
    if isinstance(raw, str):
        raw = _NOT_FINITE.get(raw, raw)
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise _Unfit(path, "a number")
    packing = FLOAT if kind.kind == "float" else DOUBLE
    try:
        encoded = packing.pack(raw)
    except OverflowError:
        raise _Unfit(path, f"a number in the range of a {kind.kind}") from None
    return encoded, packing.unpack(encoded)[0]


def _text(text: str, path: Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _Unfit(path, "a text that is Unicode, without lone surrogates") from None
