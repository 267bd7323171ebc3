"""The schema registry: registering, validating, guarding, and two validators that agree."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.errors import AlreadyExistsError, ExpressionError, SchemaError, SchemaNotFoundError
from event_streaming_bus.registry.json.schema import JsonSchemaValidator, _explaining_class
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.storage import open_storage

DRAFTS = [
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
]
ORDER = {
    "schema_name": "order_event",
    "schema_version": "1.0",
    "json_schema": {
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "order_total": {"type": "number", "minimum": 0},
            "customer": {"type": "object", "properties": {"email": {"type": "string", "format": "email"}}},
        },
        "required": ["order_id", "order_total"],
    },
    "validation_rules": {
        "business_rules": [
            {"name": "minimum_order_value", "rule": "order_total >= 10.0"},
            {"name": "known_domain", "rule": "customer.email.endswith('@company.com')", "severity": "warning"},
        ]
    },
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SchemaRegistryService]:
    storage = open_storage(tmp_path)
    yield SchemaRegistryService(storage)
    storage.close()


async def test_a_schema_is_registered_once_per_version(registry: SchemaRegistryService) -> None:
    schema_id = await registry.register_enhanced_schema(ORDER, "t", "me")
    assert schema_id.startswith("sch_")
    assert await registry.register_enhanced_schema(ORDER, "t", "somebody else") == schema_id
    assert await registry.register_enhanced_schema(ORDER | {"schema_version": "1.1"}, "t") != schema_id
    with pytest.raises(AlreadyExistsError, match="new version"):
        await registry.register_enhanced_schema(ORDER | {"json_schema": {"type": "object"}}, "t")
    assert [r.schema_version for r in await registry.list_schemas("t", "order_event")] == ["1.0", "1.1"]
    assert registry.find("t", "order_event").schema_version == "1.1"
    assert registry.find("t", "order_event", "1.0").schema_id == schema_id


async def test_schemas_belong_to_their_tenant(registry: SchemaRegistryService) -> None:
    schema_id = await registry.register_enhanced_schema(ORDER, "a")
    with pytest.raises(SchemaNotFoundError):
        await registry.get_schema(schema_id, "b")
    with pytest.raises(SchemaNotFoundError, match="Did you mean 'order_event'"):
        registry.find("a", "oder_event")
    with pytest.raises(SchemaNotFoundError, match=r"there is 1\.0"):
        registry.find("a", "order_event", "9.0")


async def test_validation_tells_path_rule_and_reason(registry: SchemaRegistryService) -> None:
    schema_id = await registry.register_enhanced_schema(ORDER)
    good = {"order_id": "o", "order_total": 25.99, "customer": {"email": "a@company.com"}}
    answer = await registry.validate_event(schema_id, good)
    assert (answer["is_valid"], answer["validation_errors"], answer["schema_version"]) == (True, [], "1.0")
    assert answer["validation_time_ms"] >= 0
    answer = await registry.validate_event(schema_id, {"order_total": -1, "customer": {"email": "no"}})
    told = {(error["pointer"], error["rule"]) for error in answer["validation_errors"]}
    assert not answer["is_valid"]
    assert told == {("", "required"), ("/order_total", "minimum"), ("/customer/email", "format")}
    answer = await registry.validate_event(schema_id, good | {"order_total": 5})
    assert [(e["path"], e["rule"], e["kind"]) for e in answer["validation_errors"]] == [
        ("order_total", "minimum_order_value", "rule")
    ]
    answer = await registry.validate_event(schema_id, good | {"customer": {}})
    (warning,) = answer["validation_errors"]
    assert (answer["is_valid"], warning["severity"]) == (True, "warning")
    assert "customer.email is null" in warning["message"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_nam": "x"}, "schema_nam: unknown field; did you mean 'schema_name'?"),
        ({"schema_version": "one"}, "schema_version: expected two or three numbers"),
        ({"schema_name": "a b"}, "schema_name"),
        ({"compatibility_level": "SIDEWAYS"}, "compatibility_level"),
        ({"json_schema": {"type": "strin"}}, "json_schema/type"),
        ({"json_schema": {"properties": {"a": {"minimum": "x"}}}}, "json_schema/properties/a/minimum"),
        ({"json_schema": {"$ref": "#/nope"}}, "reference"),
        ({"json_schema": {"$ref": "http://example.com/x"}}, "fetch"),
        ({"json_schema": {"$schema": "urn:other"}}, "is not known; accepted"),
        ({"validation_rules": {"business_rules": [{"name": "a", "rule": "x >"}]}}, "business_rules[0].rule"),
        ({"validation_rules": {"business_rules": [{"name": "a", "rule": "x", "severity": "bad"}]}}, "severity"),
        ({"validation_rules": {"business_rules": [{"nam": "a", "rule": "x"}]}}, "did you mean 'name'"),
    ],
)
async def test_a_malformed_schema_is_refused_with_its_place(
    registry: SchemaRegistryService, change: dict[str, Any], told: str
) -> None:
    with pytest.raises((SchemaError, ExpressionError)) as caught:
        await registry.register_enhanced_schema(ORDER | change)
    assert told in caught.value.message
    assert await registry.list_schemas() == []


def test_a_schema_too_deep_or_too_large_is_refused_at_once() -> None:
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"not": deep}
    with pytest.raises(SchemaError, match="levels deep"):
        JsonSchemaValidator(deep)
    with pytest.raises(SchemaError, match="bytes"):
        JsonSchemaValidator({"description": "x" * (1 << 20)})


def test_a_pattern_that_explodes_is_bounded() -> None:
    validator = JsonSchemaValidator({"type": "string", "pattern": "^(a+)+$"})
    assert not validator.is_valid("a" * 5000 + "!")
    assert validator.violations("a" * 5000 + "!")


FORMATS = ["email", "date-time", "date", "time", "ipv4", "ipv6", "uuid", "hostname", "uri", "regex", "duration"]
SAMPLES = [
    *("a@b.com", "a@b", "@", "a b@c.de", "2013-01-31T10:30:00Z", "2013-01-31t10:30:00z", "2013-02-30T00:00:00Z", "2013-01-31"),
    *("10:30:00Z", "25:00:00Z", "23:59:60Z", "1.2.3.4", "256.1.1.1", "::1", "1::2::3", "fe80::1%eth0", "example.com", "-x.com"),
    *("123e4567-e89b-12d3-a456-426614174000", "http://a.b/c", "//a", "a b", "[a-z]+", "(", "P1D", "P", "", "٣", "x" * 300),
]


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for keyword in rng.sample(sorted(KEYWORDS), rng.randint(1, 3)):
        schema |= KEYWORDS[keyword](rng, depth)
    return schema


def _sub(rng: random.Random, depth: int) -> Any:
    return random_schema(rng, depth + 1) if depth < 2 else {"type": rng.choice(["string", "integer", "number"])}


KEYWORDS: dict[str, Any] = {
    "type": lambda r, d: {"type": r.choice(["object", "array", "string", "integer", "number", "boolean", "null"])},
    "types": lambda r, d: {"type": r.sample(["object", "array", "string", "number", "null"], 2)},
    "properties": lambda r, d: {"properties": {k: _sub(r, d) for k in r.sample("abcd", 2)}},
    "required": lambda r, d: {"required": r.sample("abcd", 2)},
    "additional": lambda r, d: {"additionalProperties": r.choice([False, True, _sub(r, d)])},
    "patternProperties": lambda r, d: {"patternProperties": {r.choice(["^a", "b$", "^\\w$", "[cd]"]): _sub(r, d)}},
    "items": lambda r, d: {"items": _sub(r, d)},
    "sizes": lambda r, d: {"minItems": r.randint(0, 2), "maxItems": r.randint(1, 3), "uniqueItems": r.random() < 0.5},
    "lengths": lambda r, d: {"minLength": r.randint(0, 3), "maxLength": r.randint(2, 9)},
    "bounds": lambda r, d: {"minimum": r.choice([0, -1.5, 3]), "maximum": r.choice([3, 10, 1e3])},
    "multipleOf": lambda r, d: {"multipleOf": r.choice([1, 2, 0.1, 0.25, 3])},
    "pattern": lambda r, d: {"pattern": r.choice(["^[a-z]+$", "\\d", "^\\s*$", "a|b", "^.{2}$", "\\bx"])},
    "format": lambda r, d: {"format": r.choice(FORMATS)},
    "enum": lambda r, d: {"enum": r.sample([1, "a", None, True, [1], {"a": 1}, 1.5, 0], 3)},
    "anyOf": lambda r, d: {"anyOf": [_sub(r, d), _sub(r, d)]},
    "oneOf": lambda r, d: {"oneOf": [_sub(r, d), _sub(r, d)]},
    "not": lambda r, d: {"not": _sub(r, d)},
    "counts": lambda r, d: {"minProperties": r.randint(0, 2), "maxProperties": r.randint(1, 3)},
}


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 2 else 6)
    return [
        lambda: rng.choice(SAMPLES),
        lambda: rng.choice([0, 1, 2, 3, 6, 10, -1, 2**70, 1.0, 0.3, 1.5, 1e300, -0.0]),
        lambda: rng.choice([True, False]),
        lambda: None,
        lambda: rng.choice(["a", "b", "ab", "x", "", "7", "ä", "😀", "a\n"]),
        lambda: rng.randint(-5, 20),
        lambda: [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))],
        lambda: {k: random_value(rng, depth + 1) for k in rng.sample("abcd", rng.randint(0, 4))},
    ][kind]()


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_validator_that_decides_and_the_one_that_explains_agree(draft: str) -> None:
    rng = random.Random(draft)
    verdicts = {True: 0, False: 0}
    for _ in range(250):
        schema = random_schema(rng) | {"$schema": draft}
        validator = JsonSchemaValidator(schema)
        explaining = _explaining_class(draft.rstrip("#"))(schema)
        for _ in range(12):
            value = random_value(rng)
            decided = validator.is_valid(value)
            assert explaining.is_valid(value) == decided, (json.dumps(schema), value)
            assert bool(validator.violations(value)) != decided
            verdicts[decided] += 1
    assert min(verdicts.values()) > 200


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.sampled_from(DRAFTS))
def test_they_agree_on_whatever_else_is_found(rng: random.Random, draft: str) -> None:
    schema = random_schema(rng) | {"$schema": draft}
    value = random_value(rng)
    try:
        decided = JsonSchemaValidator(schema).is_valid(value)
    except SchemaError:
        return
    assert _explaining_class(draft.rstrip("#"))(schema).is_valid(value) == decided


def test_formats_are_checked_by_both() -> None:
    validator = JsonSchemaValidator({"format": "email"})
    assert not validator.is_valid("nobody")
    (violation,) = validator.violations("nobody")
    assert violation.rule == "format"
    assert jsonschema.Draft202012Validator({"format": "email"}).is_valid("nobody")  # which is why we ask the other


def test_branches_are_explained_by_the_one_that_comes_nearest() -> None:
    schema = {"properties": {"a": {"anyOf": [{"type": "object", "properties": {"b": {"type": "integer"}}}, {"type": "null"}]}}}
    (violation,) = JsonSchemaValidator(schema).violations({"a": {"b": "x"}})
    assert (violation.path, violation.rule) == ("a.b", "type")
