"""What an Avro schema says of the types of payloads: of the JSON values that events of it are read as."""

from collections.abc import Mapping
from typing import Final

from event_streaming_bus.flows.types import (
    ANY,
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    TEXT,
    Kind,
    Others,
    Type,
    list_of,
    of_values,
    union,
)
from event_streaming_bus.registry.avro.types import AvroType

_MAX_DEPTH: Final = 16
_MAX_PARTS: Final = 5000
_PRIMITIVES: Final[Mapping[str, Type]] = {
    "null": NULL,
    "boolean": BOOLEAN,
    "int": INTEGER,
    "long": INTEGER,
    "float": NUMBER,
    "double": NUMBER,
    "bytes": TEXT,
    "string": TEXT,
    "fixed": TEXT,
}


def type_of_avro(schema: AvroType) -> Type:
    """The type of what is valid by ``schema``; ``ANY`` below what is nested deep, as recursive types are."""
    return _Reader().read(schema, 0)


class _Reader:
    """Reads one schema, as far as it is of a reasonable size."""

    def __init__(self) -> None:
        self._left = _MAX_PARTS

    def read(self, schema: AvroType, depth: int) -> Type:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            return ANY
        if schema.logical == "decimal":
            return NUMBER
        if schema.logical and schema.kind in ("int", "long"):
            return TEXT  # dates and times are read as text
        if schema.kind in _PRIMITIVES:
            return _PRIMITIVES[schema.kind]
        if schema.kind == "enum":
            return of_values(schema.symbols)
        if schema.kind == "union":
            return union(*(self.read(branch, depth) for branch in schema.branches))
        if schema.kind == "array":
            return list_of(self.read(schema.element, depth + 1))
        if schema.kind == "map":
            return Type(frozenset({Kind.OBJECT}))
        fields = {field.name: self.read(field.type, depth + 1) for field in schema.fields.values()}
        return Type(frozenset({Kind.OBJECT}), fields, Others.CLOSED)
