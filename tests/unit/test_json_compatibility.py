"""JSON Schema compatibility: what happens to documents when a schema evolves, told in the words of the field."""

import json
import time
from typing import Any

import pytest

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.json.compatibility import MAX_DIFFERENCES, differences
from event_streaming_bus.registry.json.schema import JsonSchemaValidator

DRAFT_4, DRAFT_6, DRAFT_7, DRAFT_2019, DRAFT_2020 = DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
A = {"a": {"type": "string"}}
AB = A | {"b": {"type": "integer"}}
CLOSED = {"additionalProperties": False}
NODE: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "integer"}}}


def obj(properties: dict[str, Any] | None = None, *required: str, **keywords: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if properties:
        schema["properties"] = properties
    if required:
        schema["required"] = list(required)
    return schema | keywords


def shape(kind: str, **properties: Any) -> dict[str, Any]:
    return obj({"kind": {"const": kind}, **properties}, "kind")


def recursive(value: dict[str, Any]) -> dict[str, Any]:
    return {"$ref": "#/$defs/node", "$defs": {"node": NODE | {"properties": NODE["properties"] | {"value": value}}}}


OK = None
# (old, new, backward, forward): each None if compatible, else the kind of the difference and a document that shows it:
# one that the old schema allows and the new one does not, and for forward the other way round.
EVOLUTIONS: dict[str, tuple[Any, Any, tuple[str, Any] | None, tuple[str, Any] | None]] = {
    "annotations": (obj(A), obj(A, title="t", description="d", examples=[{}], **{"$comment": "c"}), OK, OK),
    "an unknown keyword": (obj(A), obj(A, **{"x-owner": "me"}), OK, OK),
    "the order of keywords": (obj(AB, "a", "b"), obj({"b": AB["b"], "a": AB["a"]}, "b", "a"), OK, OK),
    # properties
    "a property added to an open model": (obj(A), obj(AB), ("PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", {"b": "x"}), OK),
    "a property without conditions added to an open model": (obj(A), obj(A | {"b": {}}), OK, OK),
    "a property removed from a closed model": (
        obj(AB, **CLOSED),
        obj(A, **CLOSED),
        ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"b": 1}),
        OK,
    ),
    "a property added that a partially open model covers": (
        obj(A, additionalProperties={"type": "integer"}),
        obj(AB, additionalProperties={"type": "integer"}),
        OK,
        OK,
    ),
    "a property added that a partially open model does not cover": (
        obj(A, additionalProperties={"type": "number"}),
        obj(AB, additionalProperties={"type": "number"}),
        ("PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", {"b": 1.5}),
        OK,
    ),
    "a property removed that the rest does not cover": (
        obj(AB, additionalProperties={"type": "string"}),
        obj(A, additionalProperties={"type": "string"}),
        ("PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", {"b": 1}),
        ("PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", {"b": "x"}),
    ),
    "a property forbidden": (obj(AB), obj(A | {"b": False}), ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"b": 1}), OK),
    "a property narrowed": (obj({"a": {}}), obj(A), ("TYPE_NARROWED", {"a": 1}), OK),
    "a property narrowed deep within": (
        obj({"x": obj({"y": {"type": "array", "items": obj({"z": {"type": "number"}})}})}),
        obj({"x": obj({"y": {"type": "array", "items": obj({"z": {"type": "integer"}})}})}),
        ("TYPE_NARROWED", {"x": {"y": [{"z": 1.5}]}}),
        OK,
    ),
    "a property that could never be there is narrowed": (
        obj({"a": False}),
        obj(A),
        OK,
        ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"a": "x"}),
    ),
    "a model closed": (obj(A), obj(A, **CLOSED), ("ADDITIONAL_PROPERTIES_REMOVED", {"b": 1}), OK),
    "a model closed in part": (
        obj(A),
        obj(A, additionalProperties={"type": "string"}),
        ("ADDITIONAL_PROPERTIES_NARROWED", {"b": 1}),
        OK,
    ),
    "additional properties narrowed": (
        obj(A, additionalProperties={"type": "number"}),
        obj(A, additionalProperties={"type": "integer"}),
        ("TYPE_NARROWED", {"b": 1.5}),
        OK,
    ),
    "a pattern of properties added to an open model": (
        obj(A),
        obj(A, patternProperties={"^x": {"type": "integer"}}),
        ("PATTERN_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", {"x": "s"}),
        OK,
    ),
    "a pattern of properties removed from a closed model": (
        obj(A, patternProperties={"^x": {"type": "integer"}}, **CLOSED),
        obj(A, **CLOSED),
        ("ADDITIONAL_PROPERTIES_REMOVED", {"x": 1}),
        OK,
    ),
    "a property of a pattern named": (
        obj({}, patternProperties={"^x": {"type": "integer"}}, **CLOSED),
        obj({"x1": {"type": "integer"}}, patternProperties={"^x": {"type": "integer"}}, **CLOSED),
        OK,
        OK,
    ),
    "a pattern of properties widened": (
        obj(patternProperties={"^x": {"type": "integer"}}),
        obj(patternProperties={"^x": {"type": "number"}}),
        OK,
        ("TYPE_NARROWED", {"x": 1.5}),
    ),
    # required
    "a required property added": (obj(A), obj(A, "a"), ("REQUIRED_ATTRIBUTE_ADDED", {}), OK),
    "a required property with a default": (
        obj({"a": {"type": "string", "default": "x"}}),
        obj({"a": {"type": "string", "default": "x"}}, "a"),
        ("REQUIRED_ATTRIBUTE_WITH_DEFAULT_ADDED", {}),
        OK,
    ),
    "an optional property added to a closed model": (
        obj(A, **CLOSED),
        obj(AB, **CLOSED),
        OK,
        ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"b": 1}),
    ),
    "a required property added to a closed model": (
        obj(A, **CLOSED),
        obj(AB, "b", **CLOSED),
        ("REQUIRED_ATTRIBUTE_ADDED", {}),
        ("PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", {"b": 1}),
    ),
    "a count that a required property guarantees": (obj(A, "a"), obj(A, "a", minProperties=1), OK, OK),
    # types
    "an integer becomes a number": ({"type": "integer"}, {"type": "number"}, OK, ("TYPE_NARROWED", 1.5)),
    "null allowed": ({"type": "string"}, {"type": ["string", "null"]}, OK, ("TYPE_NARROWED", None)),
    "another type": ({"type": "string"}, {"type": "boolean"}, ("TYPE_CHANGED", "x"), ("TYPE_CHANGED", True)),
    "a type removed": ({"type": "string"}, {}, OK, ("TYPE_NARROWED", 1)),
    "anything becomes nothing": ({}, {"not": {}}, ("NOT_TYPE_ADDED", 1), OK),
    "true becomes false": (True, False, ("SCHEMA_REMOVED", 1), OK),
    "types listed as alternatives": (
        {"type": ["string", "integer"]},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        OK,
        OK,
    ),
    # enum and const
    "an enum extended": ({"enum": ["a", "b"]}, {"enum": ["a", "b", "c"]}, OK, ("ENUM_ARRAY_NARROWED", "c")),
    "an enum of other values": ({"enum": ["a"]}, {"enum": ["b"]}, ("ENUM_ARRAY_CHANGED", "a"), ("ENUM_ARRAY_CHANGED", "b")),
    "an enum added": ({"type": "string"}, {"type": "string", "enum": ["a"]}, ("ENUM_ARRAY_ADDED", "b"), OK),
    "an enum becomes a type": ({"enum": ["a", "b"]}, {"type": "string", "maxLength": 1}, OK, ("ENUM_ARRAY_ADDED", "c")),
    "a const becomes an enum": ({"const": 1}, {"enum": [1, 2]}, OK, ("ENUM_ARRAY_NARROWED", 2)),
    "a const changed": ({"const": 1}, {"const": 2}, ("ENUM_ARRAY_CHANGED", 1), ("ENUM_ARRAY_CHANGED", 2)),
    "true is not 1": ({"enum": [True]}, {"enum": [1]}, ("ENUM_ARRAY_CHANGED", True), ("ENUM_ARRAY_CHANGED", 1)),
    "1 is 1.0": ({"enum": [1]}, {"enum": [1.0]}, OK, OK),
    "a boolean is one of two values": ({"type": "boolean"}, {"enum": [False, True]}, OK, OK),
    "enum values that its type excludes removed": ({"type": "string", "enum": ["a", 1]}, {"enum": ["a"]}, OK, OK),
    # numbers
    "a minimum lowered": ({"minimum": 2}, {"minimum": 1}, OK, ("MINIMUM_INCREASED", 1)),
    "a minimum added": ({"type": "number"}, {"type": "number", "minimum": 0}, ("MINIMUM_ADDED", -1), OK),
    "a maximum lowered": ({"maximum": 2}, {"maximum": 1}, ("MAXIMUM_DECREASED", 2), OK),
    "a maximum added": ({"type": "number"}, {"type": "number", "maximum": 0}, ("MAXIMUM_ADDED", 1), OK),
    "a minimum made exclusive": ({"minimum": 1}, {"exclusiveMinimum": 1}, ("EXCLUSIVE_MINIMUM_INCREASED", 1), OK),
    "a maximum made exclusive": ({"maximum": 1}, {"exclusiveMaximum": 1}, ("EXCLUSIVE_MAXIMUM_DECREASED", 1), OK),
    "an exclusive bound of integers": (
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "integer", "minimum": 1},
        OK,
        OK,
    ),
    "a divisor divided": ({"multipleOf": 6}, {"multipleOf": 3}, OK, ("MULTIPLE_OF_EXPANDED", 3)),
    "a divisor of no common": ({"multipleOf": 2}, {"multipleOf": 3}, ("MULTIPLE_OF_CHANGED", 2), ("MULTIPLE_OF_CHANGED", 3)),
    "a divisor added": ({"type": "integer"}, {"type": "integer", "multipleOf": 2}, ("MULTIPLE_OF_ADDED", 1), OK),
    "integers are multiples of one": ({"type": "integer"}, {"type": "integer", "multipleOf": 1}, OK, OK),
    # strings
    "a length widened": ({"maxLength": 2}, {"maxLength": 3}, OK, ("MAX_LENGTH_DECREASED", "abc")),
    "a least length": ({"minLength": 1}, {"minLength": 2}, ("MIN_LENGTH_INCREASED", "a"), OK),
    "a least length added": ({"type": "string"}, {"type": "string", "minLength": 1}, ("MIN_LENGTH_ADDED", ""), OK),
    "a pattern added": ({"type": "string"}, {"type": "string", "pattern": "^a"}, ("PATTERN_ADDED", "b"), OK),
    "a pattern changed": ({"pattern": "^a"}, {"pattern": "^b"}, ("PATTERN_CHANGED", "a"), ("PATTERN_CHANGED", "b")),
    "a format added": ({"type": "string"}, {"type": "string", "format": "email"}, ("FORMAT_ADDED", "x"), OK),
    "a format changed": (
        {"format": "date"},
        {"format": "email"},
        ("FORMAT_CHANGED", "2020-01-31"),
        ("FORMAT_CHANGED", "a@b.com"),
    ),
    "a format that is only a remark": ({"type": "integer"}, {"type": "integer", "format": "int32"}, OK, OK),
    # arrays
    "items narrowed": (
        {"type": "array", "items": {"type": "number"}},
        {"type": "array", "items": {"type": "integer"}},
        ("TYPE_NARROWED", [1.5]),
        OK,
    ),
    "a count of items": ({"maxItems": 2}, {"maxItems": 1}, ("MAX_ITEMS_DECREASED", [1, 2]), OK),
    "a least count of items": ({"type": "array"}, {"type": "array", "minItems": 1}, ("MIN_ITEMS_ADDED", []), OK),
    "items made unique": ({"type": "array"}, {"type": "array", "uniqueItems": True}, ("UNIQUE_ITEMS_ADDED", [1, 1]), OK),
    "one item is unique": ({"type": "array", "maxItems": 1}, {"type": "array", "maxItems": 1, "uniqueItems": True}, OK, OK),
    "an item of a tuple added to an open model": (
        {"prefixItems": [{"type": "string"}]},
        {"prefixItems": [{"type": "string"}, {"type": "integer"}]},
        ("ITEM_ADDED_TO_OPEN_CONTENT_MODEL", ["a", "b"]),
        OK,
    ),
    "an item of a tuple added to a closed model": (
        {"prefixItems": [{"type": "string"}], "items": False},
        {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
        OK,
        ("ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", ["a", 1]),
    ),
    "a tuple closed": (
        {"prefixItems": [{"type": "string"}]},
        {"prefixItems": [{"type": "string"}], "items": False},
        ("ADDITIONAL_ITEMS_REMOVED", ["a", 1]),
        OK,
    ),
    "a list becomes a tuple of the same": (
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "string"}},
        OK,
        OK,
    ),
    "contains added": ({"type": "array"}, {"contains": {"type": "string"}}, ("CONTAINS_ADDED", []), ("TYPE_NARROWED", 1)),
    "contains more": (
        {"contains": {"const": 1}, "minContains": 2},
        {"contains": {"type": "integer"}},
        OK,
        ("CONTAINS_CHANGED", [2]),
    ),
    "contains fewer": (
        {"contains": {"const": 1}, "maxContains": 2},
        {"contains": {"const": 1}, "maxContains": 1},
        ("CONTAINS_CHANGED", [1, 1]),
        OK,
    ),
    "contains follows from the items": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        {"type": "array", "contains": {"type": "number"}},
        OK,
        ("ITEMS_ADDED", [1, "x"]),
    ),
    "unevaluated items forbidden": (
        {"prefixItems": [True]},
        {"allOf": [{"prefixItems": [True]}], "unevaluatedItems": False},
        ("UNEVALUATED_ITEMS_NARROWED", [1, 2]),
        OK,
    ),
    # objects
    "a count of properties": ({"maxProperties": 2}, {"maxProperties": 1}, ("MAX_PROPERTIES_DECREASED", {"a": 1, "b": 2}), OK),
    "a least count of properties": (obj(), obj(minProperties=1), ("MIN_PROPERTIES_ADDED", {}), OK),
    "a count that a closed model guarantees": (obj(A, **CLOSED), obj(A, maxProperties=1, **CLOSED), OK, OK),
    "names of properties": (obj(), obj(propertyNames={"maxLength": 1}), ("PROPERTY_NAMES_ADDED", {"ab": 1}), OK),
    "names that a closed model has": (obj(A, **CLOSED), obj(A, propertyNames={"maxLength": 1}, **CLOSED), OK, OK),
    "a listed name added": (
        obj(propertyNames={"enum": ["a"]}),
        obj(propertyNames={"enum": ["a", "b"]}),
        OK,
        ("PROPERTY_NAMES_NARROWED", {"b": 1}),
    ),
    "a dependency added": (obj(), obj(dependentRequired={"a": ["b"]}), ("DEPENDENCY_ARRAY_ADDED", {"a": 1}), OK),
    "a dependency that is required anyway": (obj({}, "b"), obj({}, "b", dependentRequired={"a": ["b"]}), OK, OK),
    "a dependency through another": (
        obj(dependentRequired={"a": ["b"], "b": ["c"]}),
        obj(dependentRequired={"a": ["c"]}),
        OK,
        ("DEPENDENCY_ARRAY_ADDED", {"a": 1, "c": 1}),
    ),
    "a dependent schema added": (
        obj(),
        obj(dependentSchemas={"a": {"required": ["b"]}}),
        ("DEPENDENCY_SCHEMA_ADDED", {"a": 1}),
        OK,
    ),
    "a dependent schema in other words": (
        obj(dependentRequired={"a": ["b"]}),
        obj(dependentSchemas={"a": {"required": ["b"]}}),
        OK,
        OK,
    ),
    "unevaluated properties forbidden": (
        {"allOf": [obj(A)]},
        {"allOf": [obj(A)], "unevaluatedProperties": False},
        ("UNEVALUATED_PROPERTIES_NARROWED", {"b": 1}),
        OK,
    ),
    "a property added where unevaluated ones are forbidden": (
        {"allOf": [obj(A)], "unevaluatedProperties": False},
        {"allOf": [obj(AB)], "unevaluatedProperties": False},
        OK,
        ("UNEVALUATED_PROPERTIES_NARROWED", {"b": 1}),
    ),
    "unevaluated properties forbidden where alternatives name them": (
        {"anyOf": [obj(A, "a"), obj({"b": {"type": "integer"}}, "b")], "propertyNames": {"enum": ["a", "b"]}},
        {
            "anyOf": [obj(A, "a"), obj({"b": {"type": "integer"}}, "b")],
            "propertyNames": {"enum": ["a", "b"]},
            "unevaluatedProperties": False,
        },
        ("UNEVALUATED_PROPERTIES_NARROWED", {"a": "x", "b": "y"}),
        OK,
    ),
    # combinations
    "a product extended": ({"allOf": [obj(A)]}, {"allOf": [obj(A), obj({}, "a")]}, ("REQUIRED_ATTRIBUTE_ADDED", {}), OK),
    "a product written out": ({"allOf": [obj(A), {"required": ["a"]}]}, obj(A, "a"), OK, OK),
    "a sum extended": (
        {"oneOf": [shape("circle"), shape("square")]},
        {"oneOf": [shape("circle"), shape("square"), shape("line")]},
        OK,
        ("SUM_TYPE_NARROWED", {"kind": "line"}),
    ),
    "a sum of anything extended": (
        {"anyOf": [{"type": "string"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        OK,
        ("SUM_TYPE_NARROWED", 1),
    ),
    "a sum extended by what overlaps": (
        {"oneOf": [obj(A)]},
        {"oneOf": [obj(A), obj(AB)]},
        ("COMBINED_TYPE_SUBSCHEMAS_CHANGED", {"a": "x"}),
        OK,
    ),
    "an alternative narrowed": (
        {"oneOf": [shape("circle", r={"type": "number"}), shape("square")]},
        {"oneOf": [shape("circle", r={"type": "integer"}), shape("square")]},
        ("TYPE_NARROWED", {"kind": "circle", "r": 1.5}),
        OK,
    ),
    "oneOf becomes anyOf": (
        {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
        {"anyOf": [{"type": "integer"}, {"minimum": 2}]},
        OK,
        ("COMBINED_TYPE_CHANGED", 3),
    ),
    "a schema becomes an alternative": (obj(A), {"oneOf": [obj(A), {"type": "null"}]}, OK, ("TYPE_CHANGED", None)),
    "an alternative becomes the schema": ({"anyOf": [obj(A, "a"), obj(AB, "b")]}, obj(), OK, ("COMBINED_TYPE_CHANGED", {})),
    "less excluded": ({"not": {"type": "string"}}, {"not": {"type": "string", "minLength": 3}}, OK, ("NOT_TYPE_EXTENDED", "")),
    "something excluded": ({}, {"not": {"const": 1}}, ("NOT_TYPE_ADDED", 1), OK),
    "exclusion of what could not be": ({"type": "string"}, {"type": "string", "not": {"type": "integer"}}, OK, OK),
    "a condition added": (
        obj(A),
        obj(A, **{"if": {"properties": {"a": {"const": "x"}}, "required": ["a"]}, "then": {"required": ["b"]}}),
        ("CONDITION_ADDED", {"a": "x"}),
        OK,
    ),
    "a condition that asks for less": (
        {"if": obj(A, "a"), "then": {"required": ["b", "c"]}, "else": {"required": ["d"]}},
        {"if": obj(A, "a"), "then": {"required": ["b"]}},
        OK,
        ("CONDITION_CHANGED", {"a": "x", "b": 1}),
    ),
    # references
    "a definition given a name": (obj({"x": obj(A)}), obj({"x": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": obj(A)}}), OK, OK),
    "a definition narrowed": (
        obj({"x": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"type": "number"}}}),
        obj({"x": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"type": "integer"}}}),
        ("TYPE_NARROWED", {"x": 1.5}),
        OK,
    ),
    "a recursive schema widened": (
        recursive({"type": "integer"}),
        recursive({"type": "number"}),
        OK,
        ("TYPE_NARROWED", {"next": {"next": {"value": 1.5}}}),
    ),
    "a dynamic reference with one target": (
        {"$dynamicAnchor": "n", "properties": {"next": {"$dynamicRef": "#n"}, "v": {"type": "integer"}}},
        {"$dynamicAnchor": "n", "properties": {"next": {"$dynamicRef": "#n"}, "v": {"type": "number"}}},
        OK,
        ("TYPE_NARROWED", {"next": {"v": 1.5}}),
    ),
    # drafts
    "a newer draft of a tuple": (
        {"$schema": DRAFT_7, "items": [{"type": "string"}], "additionalItems": False},
        {"$schema": DRAFT_2020, "prefixItems": [{"type": "string"}], "items": False},
        OK,
        OK,
    ),
    "an exclusive bound of draft 4": (
        {"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": True},
        {"$schema": DRAFT_7, "exclusiveMinimum": 1},
        OK,
        OK,
    ),
    "integers of draft 4 have no point": (
        {"$schema": DRAFT_4, "type": "integer"},
        {"$schema": DRAFT_7, "type": "integer"},
        OK,
        ("TYPE_NARROWED", 1.0),
    ),
    "beside a reference old drafts see nothing": (
        {
            "$schema": DRAFT_7,
            "properties": {"a": {"$ref": "#/definitions/s", "maxLength": 1}},
            "definitions": {"s": {"type": "string"}},
        },
        {
            "$schema": DRAFT_2019,
            "properties": {"a": {"$ref": "#/definitions/s", "maxLength": 1}},
            "definitions": {"s": {"type": "string"}},
        },
        ("MAX_LENGTH_ADDED", {"a": "xyz"}),
        OK,
    ),
    "a format that only newer drafts check": (
        {"$schema": DRAFT_7, "format": "uuid"},
        {"$schema": DRAFT_2019, "format": "uuid"},
        ("FORMAT_CHANGED", "x"),
        OK,
    ),
}


def kinds(found: list[Difference]) -> set[str]:
    return {difference.kind for difference in found}


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_an_evolution_is_judged_in_both_directions(name: str) -> None:
    old, new, backward, forward = EVOLUTIONS[name]
    for reader, writer, expected in ((new, old, backward), (old, new, forward)):
        found = differences(reader, writer)
        if expected is None:
            assert found == []
            continue
        kind, witness = expected
        assert kind in kinds(found), found
        assert JsonSchemaValidator(writer).is_valid(witness)
        assert not JsonSchemaValidator(reader).is_valid(witness)
        assert all(d.message and d.fix.endswith(".") for d in found)


def test_there_are_many_evolutions() -> None:
    assert len(EVOLUTIONS) >= 80


def test_every_place_is_told_with_its_values_and_what_to_do() -> None:
    old = obj({"x": obj({"n": {"maximum": 5}})})
    new = obj({"x": obj({"n": {"maximum": 3}}, "n")})
    found = {d.kind: d for d in differences(new, old)}
    assert found["MAXIMUM_DECREASED"].pointer == "/properties/x/properties/n/maximum"
    assert "at most 3" in found["MAXIMUM_DECREASED"].message
    assert "5" in found["MAXIMUM_DECREASED"].message
    assert found["REQUIRED_ATTRIBUTE_ADDED"].pointer == "/properties/x/required"
    assert '"n"' in found["REQUIRED_ATTRIBUTE_ADDED"].fix
    (removed,) = differences(obj(A, **CLOSED), obj(AB, **CLOSED))
    assert (removed.side, removed.pointer) == ("writer", "/properties/b")


def test_large_bounds_are_only_compared_where_validators_agree_on_them() -> None:
    old, new = {"minimum": 18446744073709551616}, {"minimum": 1.8446744073709552e19}  # the same number, to Python
    assert differences(new, old)
    assert JsonSchemaValidator(old).is_valid(18446744073709551618)
    assert not JsonSchemaValidator(new).is_valid(18446744073709551618)
    assert differences(old | {"title": "t"}, old) == []


def test_differences_have_a_bound() -> None:
    old = obj({f"p{i}": {"type": "string"} for i in range(200)})
    assert len(differences(obj({f"p{i}": {"type": "integer"} for i in range(200)}), old)) == MAX_DIFFERENCES


@pytest.mark.parametrize("draft", DRAFTS)
def test_references_of_each_side_are_its_own(draft: str) -> None:
    schema = {"$schema": draft, "type": "object", "properties": {"c": {"$ref": "customer.json#/definitions/x"}}}
    old, new = ({"customer.json": {"definitions": {"x": {"type": t}}}} for t in ("integer", "number"))
    assert differences(schema, schema, old, old) == []
    assert differences(schema, schema, new, old) == []
    (difference,) = differences(schema, schema, old, new)
    assert (difference.kind, difference.pointer) == ("TYPE_NARROWED", "/definitions/x/type")
    assert difference.message.startswith("customer.json: ")


def test_a_reference_may_be_written_into_the_schema() -> None:
    by_name = {"properties": {"c": {"$ref": "c.json"}}}
    written = {"properties": {"c": {"$ref": "#/$defs/c"}}, "$defs": {"c": obj(A)}}
    assert differences(written, by_name, {}, {"c.json": obj(A)}) == []
    assert differences(by_name, written, {"c.json": obj(A)}, {}) == []


def test_a_reference_that_is_resolved_late_is_not_compared() -> None:
    def schema(kind: str) -> dict[str, Any]:
        inner = {"$id": "urn:inner", "$dynamicAnchor": "n", "properties": {"next": {"$dynamicRef": "#n"}, "v": {"type": kind}}}
        return {"$id": "urn:outer", "$dynamicAnchor": "n", "$ref": "urn:inner", "$defs": {"inner": inner}}

    assert differences(schema("integer"), schema("integer")) == []
    assert differences(schema("number"), schema("integer"))


def test_schemas_that_are_refused_are_refused_here_too() -> None:
    with pytest.raises(SchemaError, match="leads nowhere"):
        differences({"$ref": "#/nope"}, {})
    with pytest.raises(SchemaError, match="circle"):
        differences({}, {"allOf": [{"$ref": "#"}]})


@pytest.mark.parametrize("draft", DRAFTS)
def test_what_is_said_in_another_draft_is_the_same(draft: str) -> None:
    schema = obj({"a": {"type": "string", "minLength": 1}, "l": {"type": "array", "items": {"type": "string"}}}, "a", **CLOSED)
    for other in DRAFTS:
        assert differences(schema | {"$schema": draft}, schema | {"$schema": other}) == []


def nested(levels: int, around: Any, leaf: dict[str, Any]) -> dict[str, Any]:
    schema = leaf
    for _ in range(levels):
        schema = around(schema)
    return schema


def bomb(keyword: str, leaf: dict[str, Any]) -> dict[str, Any]:
    definitions: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(14)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {"d14": leaf}}


def spreading(leaf: dict[str, Any]) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{i}": {"properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "ab"}} for i in range(30)
    }
    return {"$ref": "#/$defs/d0", "$defs": definitions | {"d30": leaf}}


SHORT, LONG = {"type": "string"}, {"type": "string", "minLength": 2}
HARD: dict[str, Any] = {
    "a bomb of allOf": lambda leaf: bomb("allOf", leaf),
    "a bomb of anyOf": lambda leaf: bomb("anyOf", leaf),
    "a bomb of oneOf": lambda leaf: bomb("oneOf", leaf),
    "a bomb of properties": spreading,
    "deep properties": lambda leaf: nested(48, lambda s: {"properties": {"a": s}}, leaf),
    "deep exclusions": lambda leaf: nested(98, lambda s: {"not": s}, leaf),
    "deep alternatives": lambda leaf: nested(32, lambda s: {"oneOf": [s, {"required": ["a"]}]}, leaf),
    "deep conditions": lambda leaf: nested(98, lambda s: {"if": s, "then": {"minimum": 3}}, leaf),
    "many properties": lambda leaf: obj({f"p{i}": leaf | {"maxLength": i} for i in range(15_000)}),
    "many patterns": lambda leaf: {
        "patternProperties": {f"^p{i}": leaf for i in range(3000)},
        **obj({f"p{i}": {} for i in range(3000)}),
    },
    "many alternatives": lambda leaf: {"oneOf": [shape(f"k{i}", v=leaf | {"maxLength": i}) for i in range(3000)]},
    "many values": lambda leaf: {"enum": [f"{leaf.get('minLength', 0)}-{i}" for i in range(60_000)]},
    "many choices at once": lambda leaf: {
        "allOf": [{"anyOf": [{"minimum": i}, {"maximum": -i}, leaf | {"pattern": f"{i}"}]} for i in range(60)]
    },
    "many dependencies": lambda leaf: obj(
        {}, "r0", dependentRequired={f"r{i}": [f"r{i + 1 + leaf.get('minLength', 0)}"] for i in range(8000)}
    ),
    "a long tuple": lambda leaf: {"prefixItems": [leaf] * 15_000},
    "a pattern that explodes": lambda leaf: obj({"a" * 5000 + "!": leaf}, patternProperties={"^(a+)+$": leaf}),
}


@pytest.mark.parametrize("name", HARD)
def test_the_verdict_on_a_hard_pair_comes_within_a_second(name: str) -> None:
    short, long = HARD[name](SHORT), HARD[name](LONG)
    for reader, writer in ((long, short), (short, long)):
        started = time.process_time()  # the machine may be busy with other things
        differences(reader, writer)
        assert time.process_time() - started < 5  # a second on a machine of today
    assert differences(short, json.loads(json.dumps(short))) == []
