"""JSON Schema documents: references, and schemas and payloads that could take forever."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.json.documents import MAX_SCHEMA_BYTES
from event_streaming_bus.registry.json.schema import JsonSchemaValidator

DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
CUSTOMER = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "address": {"$ref": "address.json"}},
    "required": ["name"],
    "definitions": {"id": {"type": "integer"}, "odd/~name %": {"type": "null"}},
}
ADDRESS = {"type": "object", "properties": {"city": {"$ref": "#/definitions/text"}}, "definitions": {"text": {"type": "string"}}}
REFERENCES = {"customer.json": CUSTOMER, "address.json": ADDRESS}


def within_a_second(work: Callable[[], Any]) -> Any:
    started = time.process_time()  # the machine may be busy with other things
    result = work()
    assert time.process_time() - started < 5  # a second on a machine of today
    return result


def identified(draft: str, uri: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": draft, "id" if draft == DRAFTS[0] else "$id": uri, **schema}


def rules(validator: JsonSchemaValidator, payload: Any) -> set[tuple[str, str]]:
    found = validator.violations(payload)
    assert bool(found) != validator.is_valid(payload)
    return {(v.pointer, v.rule) for v in found}


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_reference_by_name_is_that_document(draft: str) -> None:
    schema = {
        "$schema": draft,
        "properties": {
            "customer": {"$ref": "customer.json"},
            "id": {"$ref": "customer.json#/definitions/id"},
            "odd": {"$ref": "customer.json#/definitions/odd~1~0name%20%25"},
        },
    }
    validator = JsonSchemaValidator(schema, REFERENCES)
    assert rules(validator, {"customer": {"name": "n", "address": {"city": "c"}}, "id": 1, "odd": None}) == set()
    assert rules(validator, {"customer": {"address": {"city": 1}}, "id": "x", "odd": 1}) == {
        ("/customer", "required"),
        ("/customer/address/city", "type"),
        ("/id", "type"),
        ("/odd", "type"),
    }


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("uri", ["http://example.com/schemas/order.json", "urn:example:order", "order.json"])
def test_names_hold_whatever_the_document_calls_itself(draft: str, uri: str) -> None:
    schema = identified(draft, uri, {"properties": {"c": {"$ref": "customer.json"}, "self": {"$ref": "#"}}})
    validator = JsonSchemaValidator(schema, REFERENCES)
    assert rules(validator, {"self": {"self": {"c": {}}}}) == {("/self/self/c", "required")}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("name", ["http://example.com/customer.json", "urn:example:customer", "dir/customer.json", "a b é.json"])
def test_a_name_may_be_any_uri(draft: str, name: str) -> None:
    reference = name.replace(" ", "%20").replace("é", "%C3%A9")
    schema = {"$schema": draft, "properties": {"id": {"$ref": f"{reference}#/definitions/id"}}}
    validator = JsonSchemaValidator(schema, {name: {"definitions": {"id": {"type": "integer"}}}})
    assert rules(validator, {"id": "x"}) == {("/id", "type")}


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_document_is_found_by_its_own_identifier_too(draft: str) -> None:
    customer = identified(draft, "http://example.com/schemas/customer", {"type": "string"})
    schema = identified(draft, "http://example.com/schemas/order", {"properties": {"c": {"$ref": "customer"}}})
    validator = JsonSchemaValidator(schema, {"the customer": customer})
    assert rules(validator, {"c": 1}) == {("/c", "type")}


@pytest.mark.parametrize("draft", DRAFTS)
def test_documents_may_refer_to_each_other_through_properties(draft: str) -> None:
    schema = {"$schema": draft, "type": "object", "properties": {"b": {"$ref": "b.json"}}}
    other = {"$schema": draft, "type": "object", "properties": {"c": {"$ref": "c.json"}}}
    again = {"type": "object", "properties": {"b": {"$ref": "b.json"}}}
    validator = JsonSchemaValidator(schema, {"b.json": other, "c.json": again})
    assert rules(validator, {"b": {"c": {"b": {"c": {}}}}}) == set()
    assert rules(validator, {"b": {"c": {"b": {"c": 1}}}}) == {("/b/c/b/c", "type")}


def test_anchors_lead_where_they_are() -> None:
    schema = {
        "$ref": "other.json#there",
        "$defs": {"x": {"$anchor": "here", "type": "integer"}},
        "properties": {"x": {"$ref": "#here"}},
    }
    validator = JsonSchemaValidator(schema, {"other.json": {"$defs": {"y": {"$anchor": "there", "required": ["x"]}}}})
    assert rules(validator, {}) == {("", "required")}
    assert rules(validator, {"x": "s"}) == {("/x", "type")}


def test_the_metaschema_needs_no_name() -> None:
    validator = JsonSchemaValidator({"$schema": DRAFTS[2], "properties": {"schema": {"$ref": DRAFTS[2]}}}, REFERENCES)
    assert validator.is_valid({"schema": {"type": "string"}})
    assert rules(validator, {"schema": {"minLength": "x"}}) == {("/schema/minLength", "type")}


def test_a_property_that_is_called_like_a_keyword_is_a_property() -> None:
    schema = {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}, "$schema": {"type": "string"}}}
    validator = JsonSchemaValidator(schema, REFERENCES)
    assert rules(validator, {"$ref": 1, "$id": 1, "$schema": 1}) == {("/$ref", "type"), ("/$id", "type"), ("/$schema", "type")}


def test_values_that_look_like_references_are_values() -> None:
    schema = {"$schema": DRAFTS[2], "enum": [{"$ref": "nowhere", "$id": "x"}], "default": {"$ref": "nowhere"}}
    assert JsonSchemaValidator(schema, REFERENCES).is_valid({"$ref": "nowhere", "$id": "x"})


@pytest.mark.parametrize("draft", DRAFTS[:3])
def test_beside_a_reference_old_drafts_see_nothing(draft: str) -> None:
    schema = {"$schema": draft, "$ref": "#/definitions/a", "type": "string", "definitions": {"a": {"type": "integer"}}}
    validator = JsonSchemaValidator(schema, REFERENCES)
    assert validator.is_valid(1)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nope.json", "there is no document 'nope.json'"),
        ("http://example.com/x", "there is no document 'http://example.com/x'"),
        ("customer.json#/definitions/nope", "there is nothing at /definitions/nope"),
        ("customer.json#/required/0", "there is no schema but"),
        ("#nope", "there is no anchor 'nope'"),
    ],
)
def test_a_reference_to_nowhere_is_refused_with_its_place(draft: str, reference: str, reason: str) -> None:
    with pytest.raises(SchemaError) as caught:
        JsonSchemaValidator({"$schema": draft, "properties": {"a": {"$ref": reference}}}, REFERENCES)
    assert caught.value.message.startswith(f"/properties/a/$ref: the reference {reference!r} leads nowhere: {reason}")
    assert "'address.json'" in caught.value.message
    assert caught.value.details["pointer"] == "/properties/a/$ref"


def test_a_reference_to_nowhere_within_a_reference_names_the_document() -> None:
    with pytest.raises(SchemaError, match=r"^customer\.json#/properties/address/\$ref: .*'address\.json'"):
        JsonSchemaValidator({"$ref": "customer.json"}, {"customer.json": CUSTOMER})


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_circle_of_references_is_refused(draft: str) -> None:
    circles: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"$ref": "#"}, {}),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}}}, {}),
        ({"properties": {"x": {"$ref": "a"}}}, {"a": {"$ref": "b"}, "b": {"$ref": "a"}}),
        ({"allOf": [{"anyOf": [{"$ref": "#"}]}]}, {}),
        ({"not": {"$ref": "#"}}, {}),
        ({"dependencies": {"a": {"$ref": "#"}}}, {}),
    ]
    for schema, references in circles:
        with pytest.raises(SchemaError, match=r"\$ref: references go round in a circle"):
            JsonSchemaValidator({"$schema": draft} | schema, references)


def test_a_malformed_reference_is_refused_with_its_place() -> None:
    with pytest.raises(SchemaError, match=r"^a\.json#/properties/x/type: "):
        JsonSchemaValidator({"$ref": "a.json"}, {"a.json": {"properties": {"x": {"type": "strin"}}}})
    with pytest.raises(SchemaError, match=r"^a\.json: expected a JSON Schema as an object, got list"):
        JsonSchemaValidator({}, {"a.json": []})
    with pytest.raises(SchemaError, match=r"^a\.json#/\$schema: .* is another draft"):
        JsonSchemaValidator({"$ref": "a.json"}, {"a.json": {"$schema": DRAFTS[0]}})


def test_schemas_may_be_true_or_false() -> None:
    assert JsonSchemaValidator(True).is_valid(1)
    assert rules(JsonSchemaValidator(False), 1) == {("", "false")}
    assert rules(JsonSchemaValidator({"properties": {"a": {"$ref": "never"}}}, {"never": False}), {"a": 1}) == {("/a", "false")}
    with pytest.raises(SchemaError, match="no schemas in"):
        JsonSchemaValidator({"$schema": DRAFTS[0]}, {"a": True})


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(SchemaError, match="no JSON"):
        JsonSchemaValidator({"maximum": float("nan")})


# --- what could take forever --------------------------------------------------------------------------------------------


def shared(levels: int, width: int) -> Any:
    """A small object in memory that is huge when written out, as YAML's anchors make them."""
    value: Any = {"type": "string"}
    for _ in range(levels):
        value = {f"p{i}": value for i in range(width)}
    return {"properties": value}


def bomb(draft: str, keyword: str) -> dict[str, Any]:
    definitions: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/definitions/d{i + 1}"}] * 2} for i in range(30)}
    return {"$schema": draft, "allOf": [{"$ref": "#/definitions/d0"}], "definitions": definitions | {"d30": {"type": "string"}}}


def deep(around: Callable[[Any], Any]) -> Any:
    schema: Any = {}
    for _ in range(1000):
        schema = around(schema)
    return schema


def refused(schema: Any, references: dict[str, Any] | None = None) -> str:
    def attempt() -> str:
        with pytest.raises(SchemaError) as caught:
            JsonSchemaValidator(schema, references)
        return caught.value.message

    return str(within_a_second(attempt))


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_references_that_multiply_are_refused(draft: str, keyword: str) -> None:
    assert "one value would be looked at" in refused(bomb(draft, keyword))


def test_references_that_multiply_along_properties_are_refused() -> None:
    definitions: dict[str, Any] = {
        f"d{i}": {"properties": {"a": {"allOf": [{"$ref": f"d{i + 1}"}, {"$ref": f"d{i + 1}"}]}}} for i in range(30)
    }
    assert "one value would be looked at" in refused({"$ref": "d0"}, definitions | {"d30": {}})


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_schema_that_is_too_deep_is_refused(draft: str) -> None:
    for around in (lambda s: {"not": s}, lambda s: {"allOf": [s]}, lambda s: {"enum": [[s]]}):
        schema = deep(around)
        assert "levels deep" in refused({"$schema": draft} | schema)
        assert "levels deep" in refused({"$ref": "a"}, {"a": schema})


def test_a_schema_that_is_too_large_is_refused() -> None:
    assert "bytes" in refused({"description": "x" * MAX_SCHEMA_BYTES})
    assert "and its references have" in refused({}, {str(i): {"description": "x" * 300_000} for i in range(4)})
    assert "bytes" in refused(shared(40, 2))
    assert "bytes" in refused(shared(4, 1000))
    assert "bytes" in refused({"enum": ["x" * 100_000] * 100_000})


def test_a_chain_of_references_that_is_too_long_is_refused() -> None:
    chain: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(20_000)}
    assert "references lead on more than" in refused({"$ref": "#/$defs/d0", "$defs": chain | {"d20000": {}}})


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_wide_schema_is_taken_and_explained_within_a_second(draft: str) -> None:
    schema = {"$schema": draft, "properties": {f"p{i}": {"type": "string", "minLength": i} for i in range(20_000)}}
    validator = within_a_second(lambda: JsonSchemaValidator(schema))
    assert len(within_a_second(lambda: validator.violations({f"p{i}": 1 for i in range(20_000)}))) == 100


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ({"items": {"enum": [f"v{i}" for i in range(60_000)]}}, [1] * 1000),
        ({"items": {"anyOf": [{"const": i} for i in range(40_000)]}}, ["x"] * 1000),
        ({"uniqueItems": True}, [{"a": i} for i in range(20_000)] + [{"a": 1}]),
        ({"items": {"pattern": "^(a+)+$"}}, ["a" * 5000 + "!"] * 20),
        ({"patternProperties": {"^(a+)+$": {"type": "string"}}, "additionalProperties": False}, {"a" * 5000 + "!": 1}),
        ({"allOf": [{"patternProperties": {"^(a+)+$": True}}], "unevaluatedProperties": False}, {"a" * 5000 + "!": 1}),
        (
            {"patternProperties": {f"^p{i}": {"type": "string"} for i in range(1000)}, "minProperties": 5000},
            {f"q{i}": 1 for i in range(4000)},
        ),
    ],
)
def test_an_explanation_comes_within_a_second(schema: Any, payload: Any) -> None:
    validator = JsonSchemaValidator(schema)
    assert not within_a_second(lambda: validator.is_valid(payload))
    assert within_a_second(lambda: validator.violations(payload))


OPEN = {"properties": {"a": True}}


@pytest.mark.parametrize("draft", DRAFTS[3:])
@pytest.mark.parametrize(
    ("beside", "payload", "told"),
    [
        (OPEN, {"a": 1, "b": 2, "c": 3}, "not allowed here: b, c"),
        ({"patternProperties": {"^?a": True}}, {"a": 1}, None),  # Python's engine refuses this pattern
        ({"patternProperties": {"^a": True}}, {"ab": 1, "b": 2}, "not allowed here: b"),
        ({"allOf": [OPEN, {"patternProperties": {"^b": True}}]}, {"a": 1, "b": 2, "c": 3}, "not allowed here: c"),
        ({"anyOf": [OPEN | {"required": ["z"]}, {"properties": {"b": True}}]}, {"a": 1, "b": 2}, "not allowed here: a"),
        ({"oneOf": [OPEN, False]}, {"a": 1, "b": 2}, "not allowed here: b"),
        ({"if": {"required": ["b"]}, "then": OPEN, "else": True}, {"a": 1, "b": 2}, "not allowed here: b"),
        ({"if": {"required": ["z"]}, "then": OPEN, "else": {"properties": {"b": True}}}, {"a": 1, "b": 2}, "not allowed here: a"),
        ({"$ref": "#/$defs/open", "$defs": {"open": OPEN}}, {"a": 1, "b": 2}, "not allowed here: b"),
        ({"dependentSchemas": {"a": OPEN, "z": {"properties": {"b": True}}}}, {"a": 1, "b": 2}, "not allowed here: b"),
        ({"not": OPEN | {"required": ["z"]}}, {"a": 1}, "not allowed here: a"),
        ({"allOf": [{"additionalProperties": True}]}, {"a": 1}, None),
        ({"allOf": [{"unevaluatedProperties": True}]}, {"a": 1}, None),
        (OPEN, [1], None),
    ],
)
def test_properties_that_nothing_speaks_of_are_told(draft: str, beside: Any, payload: Any, told: str | None) -> None:
    validator = JsonSchemaValidator({"$schema": draft, "unevaluatedProperties": False, **beside})
    assert [v.message for v in validator.violations(payload)] == ([] if told is None else [told])
    assert validator.is_valid(payload) == (told is None)


def test_what_nothing_speaks_of_is_found_behind_identifiers_and_dynamic_references() -> None:
    open_here = {"$id": "https://example.com/in/", "$ref": "open", "$defs": {"open": {"$id": "open", **OPEN}}}
    tree = {"$dynamicAnchor": "node", "properties": {"b": True}}
    validator = JsonSchemaValidator(
        {
            "$id": "https://example.com/",
            "allOf": [open_here, {"$dynamicRef": "#node"}],
            "unevaluatedProperties": False,
            "$defs": {"tree": tree},
        }
    )
    assert [v.message for v in validator.violations({"a": 1, "b": 2, "c": 3})] == ["not allowed here: c"]


def test_what_nothing_speaks_of_is_told_where_it_does_not_fit() -> None:
    validator = JsonSchemaValidator({**OPEN, "unevaluatedProperties": {"type": "integer"}})
    assert rules(validator, {"a": "x", "b": 1, "c": "x"}) == {("/c", "type")}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
@pytest.mark.parametrize("levels", [30, 2000])
def test_recursion_that_multiplies_is_explained_within_a_second(keyword: str, levels: int) -> None:
    again = {"type": "object", "properties": {"a": {keyword: [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]}}}
    validator = JsonSchemaValidator({"$ref": "#/$defs/n", "$defs": {"n": again}})
    payload: Any = 1
    for _ in range(levels):
        payload = {"a": payload}
    assert not within_a_second(lambda: validator.is_valid(payload))
    assert within_a_second(lambda: validator.violations(payload))


def test_references_that_spread_without_multiplying_are_taken() -> None:
    definitions: dict[str, Any] = {f"d{i}": {"properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "ab"}} for i in range(30)}
    validator = within_a_second(
        lambda: JsonSchemaValidator({"$ref": "#/$defs/d0", "$defs": definitions | {"d30": {"type": "string"}}})
    )
    assert validator.is_valid({"a": {"b": {}}})


def test_lists_may_nest_as_deep_as_schemas() -> None:
    schema: Any = {"type": "integer"}
    payload: Any = "x"
    for _ in range(60):
        schema, payload = {"items": schema}, [payload]
    assert rules(JsonSchemaValidator(schema), payload) == {("/0" * 60, "type")}
