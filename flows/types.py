"""What is known of JSON values before there are any: which kinds they are, which fields objects have.

A type never claims more than is known: an unknown type (``ANY``) fits everything, and nothing is said about it.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import reduce
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.flows.checker import FieldPath

Scalar: TypeAlias = str | int | float | bool | None
MAX_VALUES: Final = 1000
"""A type that could be more values than these is not told by its values."""
_MAX_DEPTH: Final = 32


class Kind(StrEnum):
    """The kinds of JSON values, as messages name them. An ``INTEGER`` is a number without a fraction."""

    NULL = "null"
    BOOLEAN = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    TEXT = "text"
    LIST = "a list"
    OBJECT = "an object"


NUMERIC: Final = frozenset({Kind.INTEGER, Kind.NUMBER})
COUNTS: Final = NUMERIC | {Kind.BOOLEAN}
"""What arithmetic takes: true and false count as 1 and 0."""


class Others(StrEnum):
    """Which fields an object has beside those that are known: any, none that are listed where the others are, or none."""

    OPEN = "open"
    UNLISTED = "unlisted"
    CLOSED = "closed"


class Type(msgspec.Struct, frozen=True):
    """What values a field or an expression may have.

    ``kinds``: None if nothing is known. ``fields``: what is known of an object's fields. ``values``: if it can only be one of
    a few scalars, these (all of ``kinds``). ``optional``: as a field of an object it may be missing, which reads as null.
    """

    kinds: frozenset[Kind] | None = None
    fields: Mapping[str, "Type"] = {}
    others: Others = Others.OPEN
    item: "Type | None" = None
    values: tuple[Scalar, ...] | None = None
    optional: bool = False

    @property
    def known(self) -> bool:
        return self.kinds is not None

    @property
    def nullable(self) -> bool:
        """Whether null is known to be possible."""
        return self.kinds is not None and Kind.NULL in self.kinds

    @property
    def solid(self) -> frozenset[Kind]:
        """The known kinds without null."""
        return (self.kinds or frozenset()) - {Kind.NULL}

    @property
    def always_null(self) -> bool:
        return self.kinds == frozenset({Kind.NULL})

    def is_only(self, kinds: Iterable[Kind]) -> bool:
        """Whether it is known to be of these kinds, or null."""
        return bool(self.solid) and self.solid <= frozenset(kinds)

    def is_never(self, kinds: Iterable[Kind]) -> bool:
        """Whether it is known to be of none of these kinds, and not always null."""
        return bool(self.solid) and not (self.solid & frozenset(kinds))

    def told(self) -> str:
        """In words, for messages."""
        if self.kinds is None:
            return "anything"
        order = list(Kind)
        kinds = self.kinds - {Kind.INTEGER} if Kind.NUMBER in self.kinds else self.kinds
        return " or ".join(kind.value for kind in sorted(kinds, key=order.index, reverse=True))


ANY: Final = Type()
NEVER: Final = Type(frozenset(), values=())
"""The type of what there is none of, as of the elements of an empty list."""
NULL: Final = Type(frozenset({Kind.NULL}), values=(None,))
BOOLEAN: Final = Type(frozenset({Kind.BOOLEAN}))
INTEGER: Final = Type(frozenset({Kind.INTEGER}))
NUMBER: Final = Type(frozenset({Kind.INTEGER, Kind.NUMBER}))
TEXT: Final = Type(frozenset({Kind.TEXT}))


def kind_of(value: object) -> Kind:
    """The kind of a decoded JSON value."""
    if value is None:
        return Kind.NULL
    if isinstance(value, bool):
        return Kind.BOOLEAN
    if isinstance(value, int):
        return Kind.INTEGER
    if isinstance(value, float):
        return Kind.NUMBER
    if isinstance(value, str):
        return Kind.TEXT
    return Kind.OBJECT if isinstance(value, Mapping) else Kind.LIST


def of_values(values: Iterable[Any]) -> Type:
    """The type that has these values and no others."""
    listed = list(values)
    kinds = frozenset(kind_of(value) for value in listed)
    if not kinds <= {Kind.NULL, Kind.BOOLEAN, Kind.INTEGER, Kind.NUMBER, Kind.TEXT} or len(listed) > MAX_VALUES:
        return Type(kinds)
    # 1 and true are equal in Python, and are two values all the same.
    unique = {(kind_of(value), value): value for value in listed}
    return Type(kinds, values=tuple(unique.values()))


def number_of(*operands: Type) -> Type:
    """What arithmetic makes of the operands: an integer of what are integers for sure."""
    whole = {Kind.INTEGER, Kind.BOOLEAN}
    return INTEGER if all(kind.is_only(whole) for kind in operands) else NUMBER


def list_of(item: Type) -> Type:
    return Type(frozenset({Kind.LIST}), item=item)


def object_of(fields: Mapping[str, Type], others: Others = Others.CLOSED) -> Type:
    """An object of these fields, by default of no others."""
    return Type(frozenset({Kind.OBJECT}), fields=dict(fields), others=others)


def or_null(kind: Type) -> Type:
    """The same, or null."""
    if kind.kinds is None or Kind.NULL in kind.kinds:
        return kind
    values = None if kind.values is None else (*kind.values, None)
    return msgspec.structs.replace(kind, kinds=kind.kinds | {Kind.NULL}, values=values)


def not_null(kind: Type) -> Type:
    """The same without null, present for sure."""
    if kind.kinds is None:
        return msgspec.structs.replace(kind, optional=False)
    values = None if kind.values is None else tuple(value for value in kind.values if value is not None)
    return msgspec.structs.replace(kind, kinds=kind.kinds - {Kind.NULL}, values=values, optional=False)


def present(kind: Type) -> Type:
    """What is read of a field: null where it may be missing."""
    return msgspec.structs.replace(or_null(kind), optional=False) if kind.optional else kind


def missing(kind: Type) -> Type:
    """The same as a field that may be missing."""
    return msgspec.structs.replace(kind, optional=True)


def union(*types: Type) -> Type:
    """What is of one of the types."""
    return reduce(_either, types) if types else NEVER


def _either(a: Type, b: Type, depth: int = 0) -> Type:
    optional = a.optional or b.optional
    if a.kinds is None or b.kinds is None or depth > _MAX_DEPTH:
        return Type(optional=optional)
    values = None
    if a.values is not None and b.values is not None and len(a.values) + len(b.values) <= MAX_VALUES:
        values = of_values((*a.values, *b.values)).values
    if Kind.OBJECT not in a.kinds:
        fields, others = b.fields, b.others
    elif Kind.OBJECT not in b.kinds:
        fields, others = a.fields, a.others
    else:
        fields = {name: _either_field(a, b, name, depth) for name in (*a.fields, *(n for n in b.fields if n not in a.fields))}
        others = _widest(a.others, b.others)
    items = [kind.item or ANY for kind in (a, b) if Kind.LIST in (kind.kinds or ())]
    item = None if not items else items[0] if len(items) == 1 else _either(items[0], items[1], depth + 1)
    return Type(a.kinds | b.kinds, fields, others, item, values, optional)


def _either_field(a: Type, b: Type, name: str, depth: int) -> Type:
    if name in a.fields and name in b.fields:
        return _either(a.fields[name], b.fields[name], depth + 1)
    there, other = (a.fields[name], b) if name in a.fields else (b.fields[name], a)
    # Where the other object may hold anything under the name, nothing is known of it.
    return missing(there) if other.others is not Others.OPEN else missing(ANY)


def _widest(a: Others, b: Others) -> Others:
    order = (Others.CLOSED, Others.UNLISTED, Others.OPEN)
    return max(a, b, key=order.index)


# --- paths --------------------------------------------------------------------------------------------------------------


def field_of(kind: Type, name: str) -> Type:
    """What reading the field gives: null where it is missing or ``kind`` is no object."""
    if kind.kinds is None and not kind.fields:
        return ANY
    if name in kind.fields:
        found = present(kind.fields[name])
    elif kind.others is Others.CLOSED:
        found = NULL
    else:
        found = ANY
    if kind.kinds is None:
        return found
    if Kind.OBJECT not in kind.kinds:
        return NULL
    return found if kind.kinds == {Kind.OBJECT} else or_null(found)


def at(kind: Type, path: FieldPath) -> Type:
    """What reading the path gives."""
    return reduce(field_of, path, kind)


def with_field(kind: Type, path: FieldPath, value: Type) -> Type:
    """The object with ``value`` at the path; objects on the way are made where there is none."""
    if not path:
        return value
    name, *rest = path
    inner = kind.fields.get(name, ANY if kind.others is Others.OPEN else object_of({}))
    fields = {**kind.fields, name: with_field(inner, tuple(rest), value) if rest else value}
    if rest:
        fields[name] = not_null(msgspec.structs.replace(fields[name], kinds=frozenset({Kind.OBJECT}), values=None))
    return msgspec.structs.replace(kind, fields=fields)


def without_field(kind: Type, path: FieldPath) -> Type:
    """The object without what is at the path."""
    name, *rest = path
    if rest:
        if name not in kind.fields:
            return kind
        return msgspec.structs.replace(kind, fields={**kind.fields, name: without_field(kind.fields[name], tuple(rest))})
    fields = {other: value for other, value in kind.fields.items() if other != name}
    if kind.others is not Others.CLOSED:
        fields[name] = missing(NULL)
    return msgspec.structs.replace(kind, fields=fields)


def stored(kind: Type, path: FieldPath) -> Type:
    """What is at the path as it is kept, ``optional`` if it or something around it may be missing."""
    optional = False
    for name in path:
        known = kind.kinds is not None or kind.fields
        inner = kind.fields.get(name)
        if inner is None:
            optional = True
            inner = NULL if known and kind.others is Others.CLOSED else ANY
        optional = optional or inner.optional or (kind.kinds is not None and kind.kinds != {Kind.OBJECT})
        kind = inner
    return missing(kind) if optional else kind
