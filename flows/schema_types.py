"""What a JSON Schema says of the types of payloads.

It reads what describes shape: ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties``, ``items``,
``allOf``, ``anyOf``, ``oneOf`` and references within the schema. Other keywords can only make the type narrower, so leaving
them out claims nothing that is wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.types import ANY, Kind, Others, Scalar, Type, missing, of_values, union

_MAX_PARTS: Final = 5000
_MAX_TURNS: Final = 2
"""How often a reference is followed within itself."""
_KINDS: Final[Mapping[str, frozenset[Kind]]] = {
    "null": frozenset({Kind.NULL}),
    "boolean": frozenset({Kind.BOOLEAN}),
    "integer": frozenset({Kind.INTEGER}),
    "number": frozenset({Kind.INTEGER, Kind.NUMBER}),
    "string": frozenset({Kind.TEXT}),
    "array": frozenset({Kind.LIST}),
    "object": frozenset({Kind.OBJECT}),
}


def type_of_schema(schema: object) -> Type:
    """The type of what is valid by ``schema``; ``ANY`` where the schema does not tell, or goes on for too long."""
    return _Reader(schema).read(schema, ())


class _Reader:
    """Reads one schema, whose references may go in circles."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._left = _MAX_PARTS

    def read(self, schema: object, references: tuple[str, ...]) -> Type:
        """``references``: those that were followed on the way here."""
        self._left -= 1
        if not isinstance(schema, Mapping) or self._left < 0:
            return ANY
        found = self._own(schema, references)
        reference = schema.get("$ref")
        if isinstance(reference, str) and references.count(reference) < _MAX_TURNS:
            found = _both(found, self.read(self._referred(reference), (*references, reference)))
        for each in _branches(schema, "allOf"):
            found = _both(found, self.read(each, references))
        for keyword in ("anyOf", "oneOf"):
            if branches := _branches(schema, keyword):
                found = _both(found, union(*(self.read(each, references) for each in branches)))
        return found

    def _referred(self, reference: str) -> object:
        if not reference.startswith("#"):
            return None
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        return found

    def _own(self, schema: Mapping[str, Any], references: tuple[str, ...]) -> Type:
        """What the schema says itself, apart from what it refers to."""
        kinds, values = _kinds(schema)
        properties = schema.get("properties")
        needed = set(_branches(schema, "required"))
        fields: dict[str, Type] = {}
        for name, each in properties.items() if isinstance(properties, Mapping) else ():
            field = self.read(each, references)
            fields[name] = field if name in needed else missing(field)
        fields |= dict.fromkeys(needed - fields.keys(), ANY)
        items = schema.get("items")
        item = self.read(items, references) if isinstance(items, Mapping) and "prefixItems" not in schema else None
        return Type(kinds, fields, _others(schema), item, values)


def _branches(schema: Mapping[str, Any], keyword: str) -> Sequence[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _kinds(schema: Mapping[str, Any]) -> tuple[frozenset[Kind] | None, tuple[Scalar, ...] | None]:
    kinds: frozenset[Kind] | None = None
    words = schema.get("type")
    if words is not None:
        kinds = frozenset().union(*(_KINDS.get(word, frozenset()) for word in ([words] if isinstance(words, str) else words)))
    if "enum" not in schema and "const" not in schema:
        return kinds, None
    listed = of_values(_branches(schema, "enum") if "enum" in schema else [schema["const"]])
    return (listed.kinds if kinds is None else kinds & (listed.kinds or frozenset())), listed.values


def _others(schema: Mapping[str, Any]) -> Others:
    additional = schema.get("additionalProperties")
    if schema.get("patternProperties") or additional is True or isinstance(additional, Mapping):
        return Others.OPEN  # said in so many words
    if additional is False:
        return Others.CLOSED
    return Others.UNLISTED if schema.get("properties") else Others.OPEN


def _both(a: Type, b: Type) -> Type:
    """What is of both types."""
    kinds = b.kinds if a.kinds is None else a.kinds if b.kinds is None else a.kinds & b.kinds
    values = a.values if b.values is None else b.values if a.values is None else tuple(v for v in a.values if v in b.values)
    fields = dict(a.fields)
    for name, field in b.fields.items():
        if name in fields:
            both = _both(fields[name], field)
            fields[name] = msgspec.structs.replace(both, optional=fields[name].optional and field.optional)
        else:
            fields[name] = field
    closed = [kind for kind in (a, b) if kind.others is Others.CLOSED]
    if closed:
        others = Others.CLOSED
        fields = {name: field for name, field in fields.items() if all(name in kind.fields for kind in closed)}
    else:
        others = Others.UNLISTED if Others.UNLISTED in (a.others, b.others) else Others.OPEN
    item = a.item if b.item is None else b.item if a.item is None else _both(a.item, b.item)
    return Type(kinds, fields, others, item, values)
