"""How a reader's types meet those that data was written with: the rules of Avro's schema resolution, one step at a time.

Decoding and the compatibility check both go by these, so that what the check calls compatible is what decoding reads.

Where the specification leaves room, or its letter would lose something:

- Names match if they are equal without their namespaces, or if the reader has the writer's full name among its aliases.
- A field of the writer is read by the reader's field of its name, else by the first that has its name as an alias and has no
  field of its own name in the writer. It is read by one field only.
- In a reader's union a branch of the same full name or primitive type comes before one of the same simple name or alias, and that
  before one that the value must be promoted to, so that an int stays an int in a union of double and int.
- A logical type is part of a value's meaning. Data of one is never read as data of another: the same number would be another
  time. A decimal is read with the writer's scale, which gives the number that was written. See ``logical_mismatch``.
"""

from typing import Final, NamedTuple

from event_streaming_bus.registry.avro.types import AvroField, AvroType

PROMOTIONS: Final = frozenset(
    {
        ("int", "long"),
        ("int", "float"),
        ("int", "double"),
        ("long", "float"),
        ("long", "double"),
        ("float", "double"),
        ("string", "bytes"),
        ("bytes", "string"),
    }
)
_IDENTICAL: Final = {"string": frozenset({("uuid", "")})}


class Mismatch(NamedTuple):
    """Why data of one type cannot be read as another: ``kind`` as in Java's SchemaCompatibility, and what would help."""

    kind: str
    message: str
    fix: str


def mismatch(writer: AvroType, reader: AvroType) -> Mismatch | None:
    """Why no value of ``writer`` can be read by ``reader``, looking at the two themselves only. Neither is a union."""
    if writer.kind != reader.kind:
        if (writer.kind, reader.kind) in PROMOTIONS:
            return None
        return Mismatch(
            "TYPE_MISMATCH",
            f"{writer.title} was written, {reader.title} is read",
            f"Read {writer.title}, or a union that has it.",
        )
    if reader.name and not names_match(writer, reader):
        return Mismatch(
            "NAME_MISMATCH",
            f"{writer.title} was written, {reader.title} is read",
            f"Keep the name {writer.simple_name}, or list {writer.name} among the aliases of {reader.name}.",
        )
    if reader.kind == "fixed" and writer.size != reader.size:
        return Mismatch(
            "FIXED_SIZE_MISMATCH",
            f"{writer.name} was written with {writer.size} bytes, {reader.name} is read with {reader.size}",
            f"Keep the size {writer.size}, or make it a new field of another type.",
        )
    return None


def logical_mismatch(writer: AvroType, reader: AvroType) -> Mismatch | None:
    """Why values that are read would not mean what was written, or not be shown as it was. The types themselves match.

    Any change of the logical type counts, its addition and removal included, except: a uuid in a string may become plain text,
    which shows the same (plain text may not become a uuid: not all text is one); the precision of a decimal may grow.
    """
    if writer.logical == reader.logical and writer.scale == reader.scale and writer.precision <= reader.precision:
        return None
    if reader.kind == writer.kind and (writer.logical, reader.logical) in _IDENTICAL.get(reader.kind, ()):
        return None
    return Mismatch(
        "LOGICAL_TYPE_MISMATCH",
        f"{writer.title} was written, {reader.title} is read: values would change their meaning",
        "Keep the logical type as it was written, or make it a new field.",
    )


def names_match(writer: AvroType, reader: AvroType) -> bool:
    return writer.simple_name == reader.simple_name or writer.name in reader.aliases


class Branches:
    """The branches of a reader's union, found by what was written."""

    def __init__(self, union: AvroType) -> None:
        self._by_name: dict[tuple[str, str], AvroType] = {}
        self._by_alias: dict[tuple[str, str], AvroType] = {}
        self._by_kind: dict[str, AvroType] = {}
        self._union = union
        self._positions = {id(branch): i for i, branch in enumerate(union.branches)}
        for branch in union.branches:
            if not branch.name:
                self._by_kind[branch.kind] = branch
                continue
            self._by_name.setdefault((branch.kind, branch.name), branch)
            for name in (f".{branch.simple_name}", *branch.aliases):
                self._by_alias.setdefault((branch.kind, name), branch)

    def position(self, branch: AvroType) -> int:
        return self._positions[id(branch)]

    def find(self, writer: AvroType) -> AvroType | None:
        """The branch that reads what ``writer`` wrote, which is no union; ``None`` if none does."""
        if not writer.name:
            exact = self._by_kind.get(writer.kind)
            return exact or next((b for b in self._union.branches if (writer.kind, b.kind) in PROMOTIONS), None)
        named = (
            self._by_name.get((writer.kind, writer.name)),
            self._by_alias.get((writer.kind, f".{writer.simple_name}")),
            self._by_alias.get((writer.kind, writer.name)),
        )
        return next((branch for branch in named if branch is not None and mismatch(writer, branch) is None), None)


def fields_read(writer: AvroType, reader: AvroType) -> tuple[dict[str, AvroField], list[AvroField]]:
    """The reader's fields by the name of the writer's field that each reads, and those that nothing was written for."""
    read: dict[str, AvroField] = {}
    rest = []
    for name, field in reader.fields.items():
        if name in writer.fields:
            read[name] = field
        else:
            rest.append(field)
    unwritten = []
    for field in rest:
        alias = next((alias for alias in field.aliases if alias in writer.fields and alias not in read), None)
        if alias is None:
            unwritten.append(field)
        else:
            read[alias] = field
    return read, unwritten
