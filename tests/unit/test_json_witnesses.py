"""The search for a document that refutes a verdict: valid by the writer's schema, invalid by the reader's, and called compatible.

``ESB_WITNESS_PAIRS`` sets how many pairs of schemas are searched, ``ESB_WITNESS_SEED`` with which seed.
"""

import copy
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.json.compatibility import differences
from event_streaming_bus.registry.json.schema import JsonSchemaValidator

PAIRS = int(os.environ.get("ESB_WITNESS_PAIRS", "1000"))
SEED = os.environ.get("ESB_WITNESS_SEED", "witness")
DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
NAMES = ["a", "b", "c", "ab", "x1"]
PATTERNS = ["^a", "b$", "^x", "^[a-z]+$", "[0-9]", "^.{2}$", "a|x"]
STRINGS = ["", "a", "b", "c", "ab", "abc", "x1", "xyz", "12", "a b", "é", "😀", "a\n", "aaaaaa", "kind"]
FORMATS = {
    "email": ["a@b.com", "a@b", "é@b.com", '"a b"@c.de'],
    "date": ["2020-01-31", "2020-02-30"],
    "date-time": ["2020-01-31T10:00:00Z", "2020-01-31t10:00:00z", "2020-01-31T23:59:60Z", "2020-01-31T10:00:00"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000"],
    "ipv4": ["1.2.3.4", "01.2.3.4"],
    "uri": ["http://a.b/c", "urn:a:b", "//a/b"],
    "hostname": ["a.b", "-a", "ab--cd.com"],
    "time": ["10:00:00Z", "10:00:00"],
    "int32": ["any"],
    "regex": ["(", "a"],
    "iri": ["http://é.b", "a b"],
    "duration": ["P1D", "P"],
}
CONTENTS = ['{"a":1}', "{", "eyJhIjoxfQ==", "#"]
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 9, 10, 12, -1, 0.5, 1.5, 2.5, -0.5, 1.0, 3.0, 4.0, 2**53, 2**70, 1e300, -1e18]
LISTED = [0, 1, 2, 1.0, "a", "b", "c", "abc", None, True, False, [1], ["a"], {"a": 1}, {}, 1.5]
TYPES = ["object", "array", "string", "integer", "number", "boolean", "null"]


class Maker:
    """Makes schemas of one draft, documents that fit them, and schemas that others become in time."""

    def __init__(self, rng: random.Random, draft: str) -> None:
        self.rng, self.draft = rng, draft
        self.level = DRAFTS.index(draft)
        self.definitions: dict[str, Any] = {}
        self.container = "$defs" if self.level >= 3 else "definitions"

    # --- schemas ------------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        rng = self.rng
        self.definitions = {}
        count = rng.choice([0, 0, 1, 2])
        self.names = [f"d{i}" for i in range(count)]
        for i, name in enumerate(self.names):
            self.definitions[name] = self.schema(1, refs=self.names[i + 1 :])
        root = self.schema(0)
        if not isinstance(root, dict):
            root = {}
        if self.names:
            if self.level < 3 and "$ref" in root:
                root = {"allOf": [root]}
            root[self.container] = self.definitions
        return {"$schema": self.draft} | root

    def schema(self, depth: int, refs: list[str] | None = None) -> Any:
        rng = self.rng
        refs = self.names if refs is None else refs
        draw = rng.random()
        if draw < 0.04 and self.level:
            return rng.choice([True, False, {}])
        if draw < 0.2 and refs and depth:
            reference = {"$ref": f"#/{self.container}/{rng.choice(refs)}"}
            return reference | rng.choice([{}, {}, {}, {}, self.typed(depth, refs), self.listed()])
        if draw < 0.3 and depth < 3:
            return self.combined(depth, refs)
        if draw < 0.36:
            return self.listed()
        schema = self.typed(depth, refs)
        if rng.random() < 0.12 and depth < 3:
            schema |= self.combined(depth, refs)
        return schema

    def listed(self) -> dict[str, Any]:
        if self.level and self.rng.random() < 0.3:
            return {"const": self.rng.choice(LISTED)}
        return {"enum": self.rng.sample(LISTED, self.rng.randint(1, 4))}

    def combined(self, depth: int, refs: list[str]) -> dict[str, Any]:
        rng = self.rng
        kind = rng.choice(
            [
                "allOf",
                "anyOf",
                "oneOf",
                "not",
                "sum",
                "union",
                *(["if"] * 2 if self.level >= 2 else []),
                *(["unevaluated"] if self.level >= 3 else []),
            ]
        )
        if kind == "not":
            return {"not": self.schema(depth + 1, refs)}
        if kind == "unevaluated":
            keyword = rng.choice(["allOf", "anyOf", "oneOf", "not"])
            parts = [self.typed(depth + 1, refs, rng.choice(["object", "object", "array"])) for _ in range(2)]
            schema = {keyword: parts[0] if keyword == "not" else parts}
            return schema | {
                rng.choice(["unevaluatedProperties", "unevaluatedItems"]): rng.choice([False, self.schema(depth + 1, refs)])
            }
        if kind == "if":
            schema = {"if": self.schema(depth + 1, refs), "then": self.schema(depth + 1, refs)}
            return schema | ({"else": self.schema(depth + 1, refs)} if rng.random() < 0.5 else {})
        if kind == "sum":  # alternatives told apart by a property
            keyword = rng.choice(["oneOf", "anyOf"])
            return {keyword: [self.alternative(value, depth, refs) for value in rng.sample(["a", "b", "c"], rng.randint(2, 3))]}
        if kind == "union":
            return {rng.choice(["oneOf", "anyOf"]): [{"type": t} for t in rng.sample(TYPES, 2)]}
        return {kind: [self.schema(depth + 1, refs) for _ in range(rng.randint(1, 3))]}

    def alternative(self, value: str, depth: int, refs: list[str]) -> dict[str, Any]:
        kind = {"enum": [value]} | (self.object_schema(3, refs) if self.rng.random() < 0.03 else {})
        properties = {"kind": kind, self.rng.choice(NAMES): self.schema(depth + 2, refs)}
        return {"type": "object", "properties": properties, "required": ["kind"]}

    def typed(self, depth: int, refs: list[str], kind: str = "") -> dict[str, Any]:
        rng = self.rng
        kind = (
            kind or rng.choice(TYPES if depth else ["object", "object", "array", *TYPES]) if depth < 3 else rng.choice(TYPES[2:])
        )
        if rng.random() < 0.08:
            return {"type": rng.sample(TYPES, 2)}
        schema: dict[str, Any] = {"type": kind} if rng.random() < 0.88 else {}
        for keyword, make in self.keywords(depth, refs).get(kind, {}).items():
            if rng.random() < (0.75 if keyword == "properties" else 0.27):
                schema |= make()
        return schema

    def keywords(self, depth: int, refs: list[str]) -> dict[str, dict[str, Callable[[], dict[str, Any]]]]:
        rng, level = self.rng, self.level

        def sub() -> Any:
            return self.schema(depth + 1, refs)

        numbers: dict[str, Callable[[], dict[str, Any]]] = {
            "low": lambda: self.bound("minimum", [0, 1, 2, 1.5, -1]),
            "high": lambda: self.bound("maximum", [3, 4, 5, 9.5, 10, 2**60, 1e18]),
            "multipleOf": lambda: {"multipleOf": rng.choice([1, 2, 3, 4, 6, 0.5, 1.5, 0.1])},
        }
        strings: dict[str, Callable[[], dict[str, Any]]] = {
            "minLength": lambda: {"minLength": rng.choice([0, 1, 2])},
            "maxLength": lambda: {"maxLength": rng.choice([1, 2, 3, 6])},
            "pattern": lambda: {"pattern": rng.choice(PATTERNS)},
            "format": lambda: {"format": rng.choice(list(FORMATS))},
            "content": lambda: (
                {"contentMediaType": "application/json"} | ({"contentEncoding": "base64"} if rng.random() < 0.5 else {})
            ),
        }
        lists: dict[str, Callable[[], dict[str, Any]]] = {
            "items": lambda: {"items": sub() if level else self.object_schema(depth, refs)},
            "first": lambda: self.tuple(depth, refs),
            "minItems": lambda: {"minItems": rng.choice([0, 1, 2])},
            "maxItems": lambda: {"maxItems": rng.choice([1, 2, 3])},
            "uniqueItems": lambda: {"uniqueItems": rng.random() < 0.8},
        }
        objects: dict[str, Callable[[], dict[str, Any]]] = {
            "properties": lambda: {"properties": {n: self.inner(depth, refs) for n in rng.sample(NAMES, rng.randint(1, 3))}},
            "required": lambda: {"required": rng.sample(NAMES, rng.randint(1, 2))},
            "closed": lambda: {"additionalProperties": False},
            "additional": lambda: {"additionalProperties": sub() if level else rng.choice([False, True, {"type": "string"}])},
            "patterns": lambda: {
                "patternProperties": {p: self.inner(depth, refs) for p in rng.sample(PATTERNS, rng.randint(1, 2))}
            },
            "minProperties": lambda: {"minProperties": rng.choice([0, 1, 2])},
            "maxProperties": lambda: {"maxProperties": rng.choice([1, 2, 3])},
            "dependencies": lambda: {
                "dependencies": {rng.choice(NAMES): rng.choice([rng.sample(NAMES, 1), self.object_schema(depth, refs)])}
            },
        }
        if level >= 1:
            lists["contains"] = lambda: {"contains": sub()}
            objects["propertyNames"] = lambda: {
                "propertyNames": rng.choice([{"maxLength": 1}, {"enum": ["a", "b"]}, {"pattern": "^a"}, sub()])
            }
        if level >= 3:
            lists["contains"] = lambda: (
                {"contains": sub()} | rng.choice([{}, {"minContains": rng.choice([0, 2])}, {"maxContains": rng.choice([1, 2])}])
            )
            lists["unevaluatedItems"] = lambda: {"unevaluatedItems": rng.choice([False, sub()])}
            objects["dependentRequired"] = lambda: {"dependentRequired": {rng.choice(NAMES): rng.sample(NAMES, 1)}}
            objects["dependentSchemas"] = lambda: {"dependentSchemas": {rng.choice(NAMES): sub()}}
            objects["unevaluatedProperties"] = lambda: {"unevaluatedProperties": rng.choice([False, False, sub()])}
        return {"number": numbers, "integer": numbers, "string": strings, "array": lists, "object": objects}

    def inner(self, depth: int, refs: list[str]) -> Any:
        """A schema for a property: here a definition may refer back to any other, itself included."""
        if self.names and self.rng.random() < 0.15:
            return {"$ref": f"#/{self.container}/{self.rng.choice(self.names)}"}
        if self.rng.random() < 0.04:
            return {"$ref": "#"}
        return self.schema(depth + 1, refs) if self.level else self.object_schema(depth, refs)

    def object_schema(self, depth: int, refs: list[str]) -> dict[str, Any]:
        schema = self.schema(depth + 1, refs)
        return schema if isinstance(schema, dict) else {}

    def bound(self, keyword: str, values: list[float]) -> dict[str, Any]:
        value, exclusive = self.rng.choice(values), "exclusive" + keyword.capitalize()
        if self.rng.random() < 0.6:
            return {keyword: value}
        return {exclusive: value} if self.level else {keyword: value, exclusive: self.rng.random() < 0.8}

    def tuple(self, depth: int, refs: list[str]) -> dict[str, Any]:
        first = [self.object_schema(depth, refs) for _ in range(self.rng.randint(1, 2))]
        further = self.rng.choice([False, False, self.object_schema(depth, refs)])
        names = ("prefixItems", "items") if self.level == 4 else ("items", "additionalItems")
        if self.level == 4 and not isinstance(further, dict | bool):
            further = True
        return {names[0]: first} | ({names[1]: further} if self.rng.random() < 0.6 else {})

    # --- what schemas become ------------------------------------------------------------------------------------------

    def evolved(self, document: dict[str, Any]) -> dict[str, Any]:
        """Another version of the document, as people change them: more often to allow more than to allow less."""
        changed = copy.deepcopy(document)
        self.names = list(changed.get(self.container, {}))
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            places = list(_schemas(changed))
            place = self.rng.choice(places)
            self.change(place)
        return changed

    def change(self, schema: dict[str, Any]) -> None:
        rng = self.rng
        changes = [self.widen] * 3 + [
            self.nudge,
            self.nudge,
            self.add_property,
            self.remove_something,
            self.restrict,
            self.wrap,
            self.replace_something,
        ]
        rng.choice(changes)(schema)

    def widen(self, schema: dict[str, Any]) -> None:
        rng = self.rng
        keys = [k for k in schema if k not in ("$schema", "$defs", "definitions", "$ref")]
        if not keys:
            return
        key = rng.choice(keys)
        value = schema[key]
        if key == "type":
            if value == "integer" and rng.random() < 0.5:
                schema[key] = "number"
            else:
                listed = [value] if isinstance(value, str) else value
                schema[key] = sorted({*listed, rng.choice(TYPES)})
        elif key == "enum":
            schema[key] = value + [v for v in rng.sample(LISTED, 2) if json.dumps(v) not in map(json.dumps, value)]
        elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties") and not isinstance(value, bool):
            schema[key] = (
                max(value - 1, 0)
                if key.startswith("minL") or key in ("minItems", "minProperties")
                else value - rng.choice([1, 0.5])
            )
        elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties") and not isinstance(value, bool):
            schema[key] = value + 1
        elif key == "multipleOf" and value in (2, 4, 6):
            schema[key] = value // 2
        elif key in ("anyOf", "oneOf"):
            extra = self.alternative(rng.choice("abcde"), 1, self.names) if rng.random() < 0.6 else self.object_schema(2, [])
            schema[key] = [*value, extra]
        elif key == "required":
            schema[key] = value[1:]
            if not schema[key]:
                del schema[key]
        elif key in ("if", "then", "else", "contains"):
            pass
        elif key == "properties" and value and rng.random() < 0.7:
            name = rng.choice(list(value))
            if isinstance(value[name], dict) and "$ref" not in value[name]:
                self.widen(value[name])
        elif key == "additionalProperties" and value is False:
            schema[key] = rng.choice([True, {"type": "string"}, False])
        elif isinstance(schema[key], dict) and key in (
            "items",
            "additionalProperties",
            "additionalItems",
            "unevaluatedProperties",
        ):
            self.widen(schema[key])
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            schema[key] = False
        elif key not in ("minimum", "maximum") or self.draft != DRAFTS[0]:
            del schema[key]

    def nudge(self, schema: dict[str, Any]) -> None:
        """A number a little up or down, or a bound made to exclude itself or not."""
        rng = self.rng
        keys = [k for k, v in schema.items() if type(v) in (int, float) and k not in ("const", "multipleOf")]
        if not keys:
            return
        key = rng.choice(keys)
        bound = key[-7:].lower()
        if bound in ("minimum", "maximum") and rng.random() < 0.5:
            exclusive = "exclusive" + bound.capitalize()
            if self.level == 0:
                schema[exclusive] = not schema.get(exclusive, False)
            else:
                schema[bound if key == exclusive else exclusive] = schema.pop(key)
        else:
            schema[key] = max(schema[key] + rng.choice([1, -1]), 0 if key[3:] not in ("imum", "") else -99)

    def add_property(self, schema: dict[str, Any]) -> None:
        properties = schema.get("properties")
        if isinstance(properties, dict):
            properties.setdefault(self.rng.choice([*NAMES, "new"]), self.object_schema(2, []))
            if self.rng.random() < 0.3:
                schema["required"] = sorted({*schema.get("required", []), self.rng.choice(list(properties))})

    def remove_something(self, schema: dict[str, Any]) -> None:
        holders = [
            v
            for k, v in schema.items()
            if k in ("properties", "patternProperties", "anyOf", "oneOf", "allOf", "enum") and len(v) > 1
        ]
        if holders:
            holder = self.rng.choice(holders)
            if isinstance(holder, dict):
                del holder[self.rng.choice(list(holder))]
            else:
                del holder[self.rng.randrange(len(holder))]

    def restrict(self, schema: dict[str, Any]) -> None:
        if "$ref" not in schema:
            for keyword, value in self.typed(2, [], self.kind(schema)).items():
                schema.setdefault(keyword, value)
            if self.level >= 3 and schema.keys() & {"allOf", "anyOf", "oneOf", "if"} and self.rng.random() < 0.3:
                schema[self.rng.choice(["unevaluatedProperties", "unevaluatedItems"])] = False

    def kind(self, schema: dict[str, Any]) -> str:
        kind = schema.get("type", "")
        return kind if isinstance(kind, str) else ""

    def wrap(self, schema: dict[str, Any]) -> None:
        """The same said in another way, or nearly."""
        keep = {k: schema.pop(k) for k in ("$schema", "$defs", "definitions") if k in schema}
        inner = dict(schema)
        schema.clear()
        schema.update(keep)
        other = self.object_schema(2, [])
        forms: list[dict[str, Any]] = [
            {"allOf": [inner]},
            {"anyOf": [inner, {"type": "null"}]},
            {"anyOf": [other, inner]},
            {"oneOf": [inner, {"type": "null"}]},
            {"not": {"not": inner}},
            {"allOf": [inner, other]},
        ]
        if self.level >= 2:
            forms += [{"if": other, "then": inner, "else": inner}, {"if": inner, "else": other}]
        schema.update(self.rng.choice(forms))

    def replace_something(self, schema: dict[str, Any]) -> None:
        keys = [k for k in schema if k not in ("$schema", "$defs", "definitions")]
        if keys and "$ref" not in schema:
            other = self.typed(2, [], self.kind(schema))
            key = self.rng.choice(keys)
            if key in other:
                schema[key] = other[key]
                if self.level == 0:
                    for bound in ("minimum", "maximum"):
                        if bound not in schema:
                            schema.pop("exclusive" + bound.capitalize(), None)


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for keyword, value in schema.items():
            if keyword in ("properties", "patternProperties", "definitions", "$defs", "dependentSchemas", "dependencies"):
                for inner in value.values():
                    yield from _schemas(inner)
            elif isinstance(value, list) and keyword in ("allOf", "anyOf", "oneOf", "items", "prefixItems"):
                for inner in value:
                    yield from _schemas(inner)
            elif keyword not in ("enum", "const"):
                yield from _schemas(value)


class Documents:
    """Documents that are likely to fit a schema, and ones beside them."""

    def __init__(self, rng: random.Random, root: dict[str, Any]) -> None:
        self.rng, self.root = rng, root

    def fitting(self, schema: Any, depth: int = 0) -> Any:
        rng = self.rng
        if not isinstance(schema, dict) or depth > 6 or rng.random() < 0.02:
            return self.anything(depth)
        schema = self.merged(schema)
        if "enum" in schema or "const" in schema:
            value = rng.choice(schema.get("enum") or [schema.get("const")])
            return float(value) if type(value) is int and rng.random() < 0.3 else value
        kinds = schema.get("type") or self.kinds(schema)
        kind = kinds if isinstance(kinds, str) else rng.choice(kinds)
        return getattr(self, kind)(schema, depth)

    def kinds(self, schema: dict[str, Any]) -> list[str]:
        keys = schema.keys()
        hints = {
            "object": {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"},
            "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
            "string": {"minLength", "maxLength", "pattern", "format"},
            "number": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
        }
        return [kind for kind, words in hints.items() if words & keys] * 3 + TYPES

    def merged(self, schema: dict[str, Any], depth: int = 0) -> dict[str, Any]:
        """The schema with its references and one choice of its alternatives written into it."""
        rng = self.rng
        merged = {k: v for k, v in schema.items() if k not in ("allOf", "anyOf", "oneOf", "$ref", "if", "then", "else")}
        others = list(schema.get("allOf", []))
        if "$ref" in schema:
            target: Any = self.root
            for token in schema["$ref"][2:].split("/") if len(schema["$ref"]) > 1 else []:
                target = target[token]
            others.append(target)
        others += [rng.choice(schema[k]) for k in ("anyOf", "oneOf") if k in schema]
        if "if" in schema:
            others += [schema["if"], schema.get("then", {})] if rng.random() < 0.5 else [schema.get("else", {})]
        for other in others:
            if isinstance(other, dict) and depth < 6:
                for keyword, value in self.merged(other, depth + 1).items():
                    if keyword == "properties" and keyword in merged:
                        merged[keyword] = value | merged[keyword] if rng.random() < 0.5 else merged[keyword] | value
                    elif keyword == "required" and keyword in merged:
                        merged[keyword] = [*merged[keyword], *value]
                    elif keyword not in merged or rng.random() < 0.5:
                        merged[keyword] = value
        return merged

    def anything(self, depth: int = 0) -> Any:
        return getattr(self, self.rng.choice(TYPES if depth < 3 else TYPES[2:]))({}, depth)

    def null(self, schema: dict[str, Any], depth: int) -> Any:
        return None

    def boolean(self, schema: dict[str, Any], depth: int) -> Any:
        return self.rng.random() < 0.5

    def number(self, schema: dict[str, Any], depth: int) -> Any:
        rng = self.rng
        edges = [
            schema[k]
            for k in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            if type(schema.get(k)) in (int, float)
        ]
        value: Any = rng.choice(NUMBERS)
        if edges and rng.random() < 0.85:
            value = rng.choice(edges) + rng.choice([0, 0, 1, -1, 0.5, -0.5, 2, -2])
        if "multipleOf" in schema and rng.random() < 0.85:
            value = schema["multipleOf"] * rng.choice([0, 1, 2, 3, 4, 5, 10])
        return float(value) if rng.random() < 0.2 and abs(value) < 2**60 else value

    def integer(self, schema: dict[str, Any], depth: int) -> Any:
        value = self.number(schema, depth)
        return int(value) if abs(value) < 2**60 and self.rng.random() < 0.8 else value

    def string(self, schema: dict[str, Any], depth: int) -> Any:
        rng = self.rng
        if "format" in schema:
            return rng.choice(FORMATS[schema["format"]] if rng.random() < 0.9 else STRINGS)
        if "contentMediaType" in schema or rng.random() < 0.06:
            return rng.choice(CONTENTS)
        value = rng.choice(STRINGS)
        if rng.random() < 0.3:
            return "a" * rng.choice([schema.get("minLength", 0), schema.get("maxLength", 1), schema.get("maxLength", 1) + 1])
        return value

    def array(self, schema: dict[str, Any], depth: int) -> Any:
        rng = self.rng
        items = schema.get("items", True)
        first = items if isinstance(items, list) else schema.get("prefixItems", [])
        further = schema.get("additionalItems", True) if isinstance(items, list) else items
        least = schema.get("minItems", 0)
        count = rng.choice([least, least, least + 1, len(first), len(first) + 1, schema.get("maxItems", 2)])
        if further is False and rng.random() < 0.8:
            count = min(count, len(first))
        values = [self.fitting(first[i] if i < len(first) else further, depth + 1) for i in range(min(count, 4))]
        if "contains" in schema and rng.random() < 0.8:
            for _ in range(schema.get("minContains", 1)):
                values.insert(rng.randint(0, len(values)), self.fitting(schema["contains"], depth + 1))
        if values and rng.random() < 0.1:
            values.append(rng.choice(values))
        return values

    def object(self, schema: dict[str, Any], depth: int) -> Any:
        rng = self.rng
        properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        additional = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
        few = rng.random() < 0.4
        names = {n for n in properties if rng.random() < (0.15 if few else 0.7)} | set(schema.get("required", ()))
        if depth > 3:
            names &= set(schema.get("required", ()))
        if (additional is not False or patterns) and rng.random() < 0.5:
            names |= set(rng.sample([*NAMES, "kind", "new", "zz", "a1", "xb", "9"], rng.randint(1, 2)))
        elif additional is not False and rng.random() < 0.3:
            names.add(rng.choice(["new", *NAMES]))
        for name, needs in [*schema.get("dependentRequired", {}).items(), *schema.get("dependencies", {}).items()]:
            if name in names and isinstance(needs, list):
                names |= set(needs)
        values = {}
        for name in rng.sample(sorted(names), len(names)):
            wanted = properties.get(name)
            if wanted is None:
                wanted = next((s for p, s in patterns.items() if _matches(p, name)), additional)
            values[name] = self.fitting(wanted, depth + 1)
        return values

    def beside(self, value: Any) -> Any:
        """The value with one thing changed."""
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.85:
            name = rng.choice(list(value))
            draw = rng.random()
            if draw < 0.2:
                return {k: v for k, v in value.items() if k != name}
            if draw < 0.4:
                return value | {rng.choice([*NAMES, "new", "kind"]): self.anything(2)}
            return value | {name: self.beside(value[name])}
        if isinstance(value, list) and value and rng.random() < 0.8:
            i = rng.randrange(len(value))
            return rng.choice(
                [value[:i] + value[i + 1 :], [*value, value[i]], [*value[:i], self.beside(value[i]), *value[i + 1 :]]]
            )
        if isinstance(value, bool) or value is None:
            return self.anything(2)
        if isinstance(value, int | float) and abs(value) < 2**60 and rng.random() < 0.8:
            return rng.choice([value + 1, value - 1, value + 0.5, float(value), int(value), value * 2, -value])
        if isinstance(value, str) and rng.random() < 0.8:
            return rng.choice([value + "a", value[:-1], value * 2, rng.choice(STRINGS)])
        return self.anything(2)


def _covers(reader: dict[str, Any], writer: dict[str, Any]) -> bool:
    """What another implementation proves, by other means."""
    try:
        canonical = [jsonschema_rs.canonicalize(s, validate_formats=True, offline=True) for s in (reader, writer)]
        return str(canonical[0].covers(canonical[1])) == "yes"
    except (ValueError, jsonschema_rs.ValidationError):
        return False


def _matches(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None


class Search:
    """One search through pairs of schemas. ``counts`` is what it saw."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.unwitnessed: list[tuple[Any, Any, list[Any]]] = []

    def pair(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A writer's and a reader's schema, the one made from the other, in either direction."""
        rng = self.rng
        maker = Maker(rng, rng.choice(DRAFTS))
        while True:
            old = maker.document()
            try:
                JsonSchemaValidator(old)
                new = maker.evolved(old)
                if rng.random() < 0.1:
                    new = self.redrafted(new)
                JsonSchemaValidator(new)
                if new == old:
                    self.counts["unchanged"] += 1
                    continue
            except SchemaError:
                self.counts["schemas refused"] += 1
                continue
            return (old, new) if rng.random() < 0.7 else (new, old)

    def redrafted(self, schema: dict[str, Any]) -> dict[str, Any]:
        return schema | {"$schema": self.rng.choice(DRAFTS)}

    def look(self, documents: int) -> None:
        rng = self.rng
        writer, reader = self.pair()
        found = differences(reader, writer)
        self.counts["pairs"] += 1
        self.counts["compatible" if not found else "incompatible"] += 1
        self.counts["compatible to another" if _covers(reader, writer) else "not to another"] += 1
        self.counts["compatible to both"] += not found and _covers(reader, writer)
        writes, reads = JsonSchemaValidator(writer).is_valid, JsonSchemaValidator(reader).is_valid
        of_writer, of_reader = Documents(rng, writer), Documents(rng, reader)
        witness: list[Any] = []
        valid: list[Any] = []
        for i in range(documents):
            if valid and i % 3 == 2:
                document = of_writer.beside(rng.choice(valid))
            else:
                document = (of_reader if i % 7 == 6 else of_writer).fitting(reader if i % 7 == 6 else writer)
            self.counts["documents"] += 1
            if writes(document):
                valid.append(document)
                if not reads(document):
                    witness = [document]
                    break
        self.counts["valid documents"] += len(valid)
        self.counts["pairs with valid documents"] += bool(valid)
        if found:
            self.kinds.update({d.kind for d in found})
            self.counts["witnessed"] += bool(witness)
            if not witness:
                self.unwitnessed.append((writer, reader, found))
        else:
            self.counts["compatible with valid documents"] += bool(valid)
            assert not witness, (
                "called compatible, but this document is valid by the writer and invalid by the reader:\n"
                f"writer = {json.dumps(writer)}\nreader = {json.dumps(reader)}\ndocument = {json.dumps(witness[0])}"
            )


def test_no_document_refutes_a_verdict_of_compatible() -> None:
    search = Search(SEED)
    for _ in range(PAIRS):
        search.look(documents=40)
    counts = search.counts
    print(dict(counts), search.kinds.most_common())
    assert counts["pairs"] == PAIRS
    assert counts["compatible"] > PAIRS * 0.25
    assert counts["compatible with valid documents"] > counts["compatible"] * 0.8
    assert counts["valid documents"] > PAIRS * 10
    assert counts["incompatible"] > PAIRS * 0.15
    assert counts["witnessed"] > counts["incompatible"] * 0.7
    assert counts["compatible to both"] > counts["compatible to another"] * 0.95


def by_name(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema with its definitions as documents of their own, which refer to each other and back to the root by name."""
    container = "$defs" if "$defs" in schema else "definitions"
    text = json.dumps({k: v for k, v in schema.items() if k != container})
    documents = {"root.json": text, **{f"{n}.json": json.dumps(d) for n, d in schema.get(container, {}).items()}}
    for name, document in documents.items():
        document = document.replace('{"$ref": "#"', '{"$ref": "root.json"')
        for other in schema.get(container, {}):
            document = document.replace(f'"#/{container}/{other}"', f'"{other}.json"')
        documents[name] = document
    decoded = {name: json.loads(document) for name, document in documents.items()}
    return {"$schema": schema["$schema"], "allOf": [{"$ref": "root.json"}]}, decoded


def test_definitions_given_by_name_say_the_same_as_those_within() -> None:
    rng = random.Random(SEED)
    verdicts: Counter[bool] = Counter()
    while sum(verdicts.values()) < 2000:
        maker = Maker(rng, rng.choice(DRAFTS))
        schema = maker.document()
        if not maker.names:
            continue
        try:
            within = JsonSchemaValidator(schema)
        except SchemaError:
            continue
        root, references = by_name(schema)
        named = JsonSchemaValidator(root, references)
        assert differences(root, schema, references) == []
        assert differences(schema, root, {}, references) == []
        documents = Documents(rng, schema)
        for _ in range(10):
            document = documents.fitting(schema)
            verdict = within.is_valid(document)
            verdicts[verdict] += 1
            assert named.is_valid(document) == verdict
            assert {(v.pointer, v.rule) for v in named.violations(document)} == {
                (v.pointer, v.rule) for v in within.violations(document)
            }
            if maker.level < 3:  # of newer drafts jsonschema judges some unevaluated items otherwise than the deciding validator
                assert named._explains.is_valid(document) == within._explains.is_valid(document)
    assert min(verdicts.values()) > 300
