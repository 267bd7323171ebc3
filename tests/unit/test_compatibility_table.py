"""The table of changes in docs/schema-evolution.md says what the registry decides."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus.registry.avro import compatibility as avro_compatibility
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.json import compatibility as json_compatibility

PAGE = Path(__file__).parents[2] / "docs" / "schema-evolution.md"
TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
CLOSED = {"additionalProperties": False}


def thing(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **more}


def of(schema: Any) -> dict[str, Any]:
    return thing({"a": schema})


JSON: dict[str, tuple[Any, Any]] = {
    "optional property added, closed content model": (thing({"a": TEXT}, **CLOSED), thing({"a": TEXT, "b": INTEGER}, **CLOSED)),
    "optional property added, open content model": (thing({"a": TEXT}), thing({"a": TEXT, "b": INTEGER})),
    "property removed, closed content model": (thing({"a": TEXT, "b": INTEGER}, **CLOSED), thing({"a": TEXT}, **CLOSED)),
    "property removed, open content model": (thing({"a": TEXT, "b": INTEGER}), thing({"a": TEXT})),
    "property made required": (of(TEXT), thing({"a": TEXT}, required=["a"])),
    "property made required, with a default": (of(TEXT), thing({"a": {**TEXT, "default": ""}}, required=["a"])),
    "property no longer required": (thing({"a": TEXT}, required=["a"]), of(TEXT)),
    "content model closed": (of(TEXT), thing({"a": TEXT}, **CLOSED)),
    "content model opened": (thing({"a": TEXT}, **CLOSED), of(TEXT)),
    "type widened: integer to number": (of(INTEGER), of(NUMBER)),
    "type widened: null allowed": (of(TEXT), of({"type": ["string", "null"]})),
    "type changed: integer to string": (of(INTEGER), of(TEXT)),
    "enum value added": (of({"enum": ["x"]}), of({"enum": ["x", "y"]})),
    "`maximum` raised": (of({"type": "integer", "maximum": 5}), of({"type": "integer", "maximum": 9})),
    "`maxLength` raised": (of({"type": "string", "maxLength": 5}), of({"type": "string", "maxLength": 9})),
    "`pattern` added": (of(TEXT), of({"type": "string", "pattern": "^x"})),
    "`format` added": (of(TEXT), of({"type": "string", "format": "date"})),
    "branch added to `oneOf`, of another type": (of({"oneOf": [TEXT]}), of({"oneOf": [TEXT, INTEGER]})),
    "branch added to `anyOf`": (of({"anyOf": [TEXT]}), of({"anyOf": [TEXT, INTEGER]})),
    "schema added to `allOf`": (of({"allOf": [TEXT]}), of({"allOf": [TEXT, {"minLength": 2}]})),
}


def record(*fields: tuple[str, Any, dict[str, Any]], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": n, "type": kind, **more} for n, kind, more in fields]}


def with_field(kind: Any) -> dict[str, Any]:
    return record(("a", kind, {}))


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def decimal(scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale}


A = ("a", "string", {})
AVRO: dict[str, tuple[Any, Any]] = {
    "field with a default added": (record(A), record(A, ("b", "int", {"default": 1}))),
    "field without a default added": (record(A), record(A, ("b", "int", {}))),
    "field renamed, with an alias": (record(A), record(("b", "string", {"aliases": ["a"]}))),
    "`int` to `long`, `float` or `double`": (with_field("int"), with_field("long")),
    "branch added to a union": (with_field(["null", "string"]), with_field(["null", "string", "int"])),
    "value made nullable": (with_field("string"), with_field(["null", "string"])),
    "enum symbol added": (with_field(enum("x")), with_field(enum("x", "y"))),
    "enum symbol added, enum with a default": (with_field(enum("x", default="x")), with_field(enum("x", "y", default="x"))),
    "scale of a decimal changed": (with_field(decimal(2)), with_field(decimal(3))),
    "record renamed, without an alias": (record(A), record(A, name="S")),
}


def of_avro(reader: Any, writer: Any) -> Sequence[Difference]:
    return avro_compatibility.differences(AvroSchema(json.dumps(reader)), AvroSchema(json.dumps(writer)))


def rows_of(title: str) -> dict[str, tuple[str, str]]:
    section = PAGE.read_text("utf-8").split(f"| {title} | new reads old")[1].split("\n\n")[0]
    return {row[0]: (row[1], row[2]) for row in re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", section, re.M)[1:]}


def told(found: Sequence[Difference]) -> str:
    return f"no: `{found[0].kind}`" if found else "yes"


@pytest.mark.parametrize(
    ("title", "changes", "differences"), [("JSON Schema", JSON, json_compatibility.differences), ("Avro", AVRO, of_avro)]
)
def test_the_table_says_what_is_decided(
    title: str, changes: dict[str, tuple[Any, Any]], differences: Callable[[Any, Any], Sequence[Difference]]
) -> None:
    decided = {name: (told(differences(new, old)), told(differences(old, new))) for name, (old, new) in changes.items()}
    assert rows_of(title) == decided, "\n".join(f"| {name} | {back} | {forth} |" for name, (back, forth) in decided.items())
