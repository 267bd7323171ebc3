"""Masking: values of fields that a schema marks with ``"x-sensitive": true`` never come into the history.

They are replaced by ``***`` when rows are made, so no question, file or backup of the history has them; the log and those who
consume from it do. A mark counts wherever in the schema it stands and whichever branch applies: what is hidden too often does no
harm.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.store.dead_letters import told_of
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.schemas import SchemaStore

SENSITIVE: Final = "x-sensitive"
MASK: Final = "***"
_MASKED: Final = b'"***"'
_MAX_SCHEMAS: Final = 512
_SAME_VALUE: Final = ("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "not")
_EVERY_ITEM: Final = ("items", "additionalItems", "unevaluatedItems", "contains", "prefixItems")
_OTHER_MEMBERS: Final = ("additionalProperties", "unevaluatedProperties")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Part(NamedTuple):
    """A part of a schema, and the document that references in it are about: one of those by name."""

    schema: Any
    document: str


class Mask:
    """The sensitive fields of one schema, with the documents it refers to by name; its own has the empty name."""

    def __init__(self, documents: Mapping[str, Any], *, is_avro: bool) -> None:
        self._documents = documents
        self._is_avro = is_avro
        self._named = {name: dict(_named(document, is_avro)) for name, document in documents.items()}
        self.names = frozenset(_marked_names(documents.values()))
        """The names of sensitive fields, wherever they are."""

    def masked(self, data: bytes) -> bytes:
        """A payload as JSON, masked. One that is no JSON is masked as a whole."""
        try:
            value = msgspec.json.decode(data)
        except _UNREADABLE:
            return _MASKED
        return msgspec.json.encode(self._value(value, [Part(self._documents[""], "")]))

    def masked_anywhere(self, data: bytes) -> bytes:
        """The same for a payload that broke the schema: fields with the names of sensitive ones are masked wherever they are."""
        try:
            value = msgspec.json.decode(self.masked(data))
        except _UNREADABLE:
            return _MASKED
        return msgspec.json.encode(self._by_name(value))

    def _value(self, value: Any, parts: Sequence[Part]) -> Any:
        if value is None:
            return None
        parts = self._of_same_value(parts)
        if any(part.schema.get(SENSITIVE) is True for part in parts):
            return MASK
        if isinstance(value, dict):
            return {name: self._value(each, self._of_member(parts, name)) for name, each in value.items()}
        if isinstance(value, list):
            inner = [Part(each, part.document) for part in parts for each in _items(part.schema)]
            return [self._value(each, inner) for each in value] if inner else value
        return value

    def _of_same_value(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with all that look at the same value; only objects."""
        found: dict[int, Part] = {}
        waiting = list(parts)
        while waiting:
            schema, document = waiting.pop()
            if isinstance(schema, str) and self._is_avro:
                waiting += [Part(named[schema], name) for name, named in self._named.items() if schema in named]
            elif isinstance(schema, list):
                waiting += [Part(each, document) for each in schema]
            elif isinstance(schema, dict) and id(schema) not in found:
                found[id(schema)] = Part(schema, document)
                waiting += self._referred(schema, document)
                for keyword in _SAME_VALUE if not self._is_avro else ("type",):
                    inner = schema.get(keyword)
                    each = inner.values() if keyword == "dependentSchemas" and isinstance(inner, dict) else [inner]
                    waiting += [Part(one, document) for one in each if one is not None]
        return list(found.values())

    def _referred(self, schema: Mapping[str, Any], document: str) -> Iterator[Part]:
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = schema.get(keyword)
            if not isinstance(reference, str):
                continue
            name, _, fragment = reference.partition("#")
            targets = [document] if not name else [each for each in self._documents if each == name] or list(self._documents)
            for target in targets:
                named = self._named[target]
                if fragment.startswith("/"):
                    found = _at(named.get(name, self._documents[target]), fragment)
                else:
                    found = named.get(f"#{fragment}") if fragment else named.get(name, self._documents[target])
                if found is not None:
                    yield Part(found, target)

    def _of_member(self, parts: Iterable[Part], name: str) -> list[Part]:
        found: list[Part] = []
        for schema, document in parts:
            if self._is_avro:
                found += [Part(f, document) for f in schema.get("fields") or () if isinstance(f, dict) and f.get("name") == name]
                found += [Part(schema["values"], document)] if "values" in schema else []
                continue
            properties = schema.get("properties")
            named = properties.get(name) if isinstance(properties, dict) else None
            found += [Part(named, document)] if named is not None else []
            patterns = schema.get("patternProperties")
            for pattern, each in patterns.items() if isinstance(patterns, dict) else ():
                if _matches(pattern, name):
                    found.append(Part(each, document))
            if named is None:
                found += [Part(schema[keyword], document) for keyword in _OTHER_MEMBERS if keyword in schema]
        return found

    def _by_name(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: MASK if name in self.names and e is not None else self._by_name(e) for name, e in value.items()}
        return [self._by_name(each) for each in value] if isinstance(value, list) else value


class Masks:
    """The masks of a registry's schemas, found when they are first needed. For one thread at a time."""

    def __init__(self, schemas: SchemaStore) -> None:
        self._schemas = schemas
        self._known: OrderedDict[str, Mask | None] = OrderedDict()

    def of(self, schema_id: str | None) -> Mask | None:
        """The mask of a version of a schema; None if it marks no field as sensitive, or is not known."""
        if not schema_id:
            return None
        if schema_id not in self._known:
            self._known[schema_id] = self._found(schema_id)
            if len(self._known) > _MAX_SCHEMAS:
                self._known.popitem(last=False)
        return self._known[schema_id]

    def _found(self, schema_id: str) -> Mask | None:
        record = self._schemas.find(schema_id)
        if record is None:
            return None
        texts = {"": record.definition}
        waiting = list(record.text.references)
        while waiting:
            reference = waiting.pop()
            if reference.name in texts:
                continue
            for version in self._schemas.versions(record.tenant_id, reference.subject, deleted=True, version=reference.version):
                texts[reference.name] = version.definition
                waiting += version.text.references
        if not any(SENSITIVE in text for text in texts.values()):
            return None
        try:
            documents = {name: msgspec.json.decode(text) for name, text in texts.items()}
        except _UNREADABLE:
            return None
        return Mask(documents, is_avro=record.format == "AVRO")


def masked_payloads(
    masks: Masks | None,
    batch: RecordBatch,
    payloads: list[bytes],
    broken_schema_id: str | None,
    *,
    is_letter: bool,
    schema_of: Callable[[str], str | None],
) -> list[bytes]:
    """The payloads of a record batch, as JSON, masked; the list given if no schema of theirs marks anything.

    A dead letter goes by the schema that it broke, its own, or the one that the stream it comes from has now (``schema_of``); and
    since it need not have its values where the schema says, by the names of fields as well.
    """
    if masks is None:
        return payloads
    same, schema_id = batch.constant("schema_id")
    if same and not is_letter:
        mask = masks.of(schema_id)
        return payloads if mask is None else [mask.masked(each) for each in payloads]
    found = list(payloads)
    ids = batch.column("schema_id")
    letters = batch.column("metadata") if is_letter else [None] * len(payloads)
    for i, payload in enumerate(payloads):
        for one in (ids[i], broken_schema_id, schema_of(str(told_of(letters[i]).get("stream_id"))) if is_letter else None):
            mask = masks.of(one)
            if mask is not None:
                found[i] = mask.masked_anywhere(payload) if is_letter else mask.masked(payload)
                break
    return found if found != payloads else payloads


def _items(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword in _EVERY_ITEM:
        inner = schema.get(keyword)
        yield from inner if isinstance(inner, list) else [inner] if isinstance(inner, dict | str) else []


def _named(document: Any, is_avro: bool) -> Iterator[tuple[str, Any]]:
    """What references may name: by ``$id`` and ``#anchor``, or the names of Avro's types."""
    for each in _objects(document):
        if is_avro:
            name, space = each.get("name"), each.get("namespace")
            if isinstance(name, str) and each.get("type") in ("record", "error", "enum", "fixed"):
                yield name, each
                yield name.rpartition(".")[2], each
                if isinstance(space, str):
                    yield f"{space}.{name}", each
            continue
        for keyword in ("$id", "id"):
            if isinstance(each.get(keyword), str):
                yield each[keyword], each
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(each.get(keyword), str):
                yield f"#{each[keyword]}", each


def _marked_names(documents: Iterable[Any]) -> Iterator[str]:
    for document in documents:
        for each in _objects(document):
            properties = each.get("properties")
            for name, inner in properties.items() if isinstance(properties, dict) else ():
                if isinstance(inner, dict) and (inner.get(SENSITIVE) is True or _is_marked(document, inner)):
                    yield name
            if each.get(SENSITIVE) is True and isinstance(each.get("name"), str):
                yield each["name"]


def _is_marked(document: Any, schema: Mapping[str, Any]) -> bool:
    reference = schema.get("$ref")
    found = _at(document, reference[1:]) if isinstance(reference, str) and reference.startswith("#/") else None
    return isinstance(found, dict) and found.get(SENSITIVE) is True


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    waiting = [document]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _at(document: Any, pointer: str) -> Any:
    for part in pointer[1:].split("/") if pointer else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        elif isinstance(document, dict) and name in document:
            document = document[name]
        else:
            return None
    return document


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True  # of a dialect that is not Python's: rather too much
