"""The forms in which clients can have a schema's text: as it was registered, or with what it refers to in its place."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from event_streaming_bus.api.confluent.requests import Call
from event_streaming_bus.errors import SchemaError
from event_streaming_bus.store.schemas import SchemaText

_NAMED = ("record", "error", "enum", "fixed")


def shown(call: Call, text: SchemaText) -> str:
    """The text in the form that the parameter ``format`` asks for. Forms that there are not for a schema leave it as it is."""
    if call.text("format") != "resolved" or text.format != "AVRO" or not text.references:
        return text.definition
    try:
        others = [each.definition for each in call.subjects.references(call.tenant_id, text).values()]
    except SchemaError:  # a version that it refers to was removed since
        return text.definition
    return resolved(text.definition, others)


def resolved(definition: str, others: Iterable[str]) -> str:
    """An Avro schema with the types of ``others`` that it names: each is defined where it is first used."""
    known = {name: found for other in others for name, found in _named_types(msgspec.json.decode(other), "")}
    return msgspec.json.encode(_Resolver(known).walk(msgspec.json.decode(definition), "")).decode()


def _named_types(schema: Any, namespace: str) -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    """The named types that a schema defines, with the namespace that is around each."""
    if isinstance(schema, list):
        for each in schema:
            yield from _named_types(each, namespace)
    elif isinstance(schema, dict):
        inner = namespace
        if schema.get("type") in _NAMED:
            name, inner = _names(schema, namespace)
            yield name, (schema, namespace)
        for part in _parts(schema):
            yield from _named_types(part, inner)


def _names(schema: dict[str, Any], around: str) -> tuple[str, str]:
    """The full name of a named type, and its namespace."""
    name = str(schema["name"])
    namespace = name.rpartition(".")[0] if "." in name else schema.get("namespace", around)
    return f"{namespace}.{name.rpartition('.')[2]}".lstrip("."), namespace


def _parts(schema: dict[str, Any]) -> list[Any]:
    """The schemas within a schema."""
    parts = [schema[name] for name in ("items", "values") if name in schema]
    if isinstance(schema.get("type"), dict | list):
        parts.append(schema["type"])
    return parts + [field["type"] for field in schema.get("fields", ())]


class _Resolver:
    """Puts definitions in the place of names, each once."""

    def __init__(self, known: dict[str, tuple[dict[str, Any], str]]) -> None:
        self._known = known
        self._defined: set[str] = set()

    def walk(self, schema: Any, namespace: str) -> Any:
        if isinstance(schema, str):
            for name in (schema,) if "." in schema else (f"{namespace}.{schema}".lstrip("."), schema):
                if name in self._known and name not in self._defined:
                    found, around = self._known[name]
                    space = _names(found, around)[1]
                    return self.walk({**found, "namespace": space}, namespace)
            return schema
        if isinstance(schema, list):
            return [self.walk(each, namespace) for each in schema]
        inner = namespace
        if schema.get("type") in _NAMED:
            name, inner = _names(schema, namespace)
            if name in self._defined:
                return name
            self._defined.add(name)
        walked = dict(schema)
        for name in ("items", "values", "type"):
            if name in schema and (name != "type" or isinstance(schema["type"], dict | list) or schema["type"] not in _NAMED):
                walked[name] = self.walk(schema[name], inner)
        if "fields" in schema:
            walked["fields"] = [{**field, "type": self.walk(field["type"], inner)} for field in schema["fields"]]
        return walked
