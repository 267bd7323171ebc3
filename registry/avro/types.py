"""The vocabulary of parsed Avro schemas: types, fields, defaults. A schema is a graph of these, recursive types are cycles."""

from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.errors import InvalidInputError, SchemaError
from event_streaming_bus.registry.violations import pointer_to

Path: TypeAlias = tuple[str | int, ...]

PRIMITIVES: Final = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
MAX_DEPTH: Final = 200
"""How many calls of named types deep a value may be nested. Values that pass can be encoded, decoded and written as JSON from
any place of a program, which Python's own limit does not promise."""
MAX_EMPTY_ITEMS: Final = 1 << 16
"""How many array items that need not take a single byte (nulls, records without fields) a value may hold in all. Without it a
few bytes of data could claim 2**60 of them."""


class AvroDataError(InvalidInputError, ValueError):
    """The bytes are not one value of this Avro schema. ``details``: ``path`` in the schema, ``index`` among several."""


class AvroDefault(msgspec.Struct, frozen=True):
    """A field's default: as Avro binary, and as the JSON value that decoding gives. ``count``: how many values it consists of."""

    encoded: bytes
    shown: Any
    count: int


class AvroField(msgspec.Struct, eq=False, kw_only=True):
    """A record's field. ``raw_default`` is the default as the schema's text has it, ``msgspec.UNSET`` without one."""

    name: str
    type: "AvroType"
    path: Path
    aliases: tuple[str, ...] = ()
    raw_default: Any = msgspec.UNSET
    default: AvroDefault | None = None


class AvroType(msgspec.Struct, eq=False, kw_only=True):
    """A type. ``kind`` is a primitive's name, ``record``, ``enum``, ``fixed``, ``array``, ``map`` or ``union``.

    ``logical`` is the logical type if it is one that is known, valid and stands on the right type; empty otherwise. ``path`` is
    where the type is written, in the schema's own text if ``own``, in one of its references otherwise. ``min_bytes`` is the least
    number of bytes that a value takes, or less. ``uses`` counts how often a named type is defined and referred to.
    """

    kind: str
    path: Path
    own: bool
    logical: str = ""
    precision: int = 0
    scale: int = 0
    name: str = ""
    aliases: tuple[str, ...] = ()
    fields: dict[str, AvroField] = {}
    symbols: tuple[str, ...] = ()
    symbol_default: str | None = None
    size: int = 0
    items: "AvroType | None" = None
    branches: tuple["AvroType", ...] = ()
    min_bytes: int = 0
    uses: int = 0
    choices: Any = None

    @property
    def simple_name(self) -> str:
        """The name without its namespace."""
        return self.name.rpartition(".")[2]

    @property
    def title(self) -> str:
        """What people call the type: ``string``, ``record shop.Order``, ``long (timestamp-millis)``."""
        title = f"{self.kind} {self.name}" if self.name else self.kind
        if self.kind == "union":
            title = " or ".join(branch.title for branch in self.branches[:12]) + (" or more" if len(self.branches) > 12 else "")
        if self.logical == "decimal":
            return f"{title} (decimal with precision {self.precision} and scale {self.scale})"
        return f"{title} ({self.logical})" if self.logical else title

    @property
    def element(self) -> "AvroType":
        """The type of an array's items or a map's values."""
        assert self.items is not None  # noqa: S101 - only asked of arrays and maps
        return self.items


def malformed(path: Path, message: str) -> SchemaError:
    """The schema is wrong at ``path``."""
    pointer = pointer_to(path)
    place = pointer if len(pointer) <= 200 else f"...{pointer[-200:]}"
    return SchemaError(f"{place or '/'}: {message}"[:1000], pointer=pointer)
