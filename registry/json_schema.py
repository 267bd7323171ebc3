"""JSON Schema validation: a compiled validator decides, jsonschema explains.

``jsonschema_rs`` decides on the hot path. Where it says no, ``jsonschema`` says where and why. Both work on the same draft, with
``format`` checked. The two differ in some leaves (regular expressions, ``multipleOf`` of floats, formats), so for those the
explaining side asks the compiled validator; should it still find nothing wrong, the compiled validator's own errors are told.
Regular expressions are only ever run by the compiled engine, whose backtracking is bounded. Nothing is fetched: a reference
must point into the schema itself.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema
import jsonschema_rs
from jsonschema import validators

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.violations import MAX_VIOLATIONS, Violation, pointer_to, violation

MAX_SCHEMA_BYTES: Final = 1 << 20
MAX_SCHEMA_DEPTH: Final = 100
_BACKTRACK_LIMIT: Final = 100_000
_DEFAULT_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: Final[dict[str, tuple[Any, Any]]] = {
    "http://json-schema.org/draft-04/schema": (jsonschema_rs.Draft4Validator, jsonschema.Draft4Validator),
    "http://json-schema.org/draft-06/schema": (jsonschema_rs.Draft6Validator, jsonschema.Draft6Validator),
    "http://json-schema.org/draft-07/schema": (jsonschema_rs.Draft7Validator, jsonschema.Draft7Validator),
    "https://json-schema.org/draft/2019-09/schema": (jsonschema_rs.Draft201909Validator, jsonschema.Draft201909Validator),
    _DEFAULT_DRAFT: (jsonschema_rs.Draft202012Validator, jsonschema.Draft202012Validator),
}


class JsonSchemaValidator:
    """A compiled schema. Raises ``SchemaError`` for one that is malformed, naming the place by its JSON pointer."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        _check_bounds(schema)
        draft = str(schema.get("$schema", _DEFAULT_DRAFT)).removesuffix("#")
        if draft not in _DRAFTS:
            raise SchemaError(f"/$schema: {draft!r} is not known; accepted: {', '.join(_DRAFTS)}", pointer="/$schema")
        compiled, explaining = _DRAFTS[draft]
        _check_schema(schema, explaining)
        self._decides = _compile(compiled, schema)
        self._explains = _explaining_class(draft)(schema)
        self.is_valid = self._decides.is_valid
        """Whether a decoded payload fits the schema."""

    def violations(self, payload: object) -> list[Violation]:
        """What is wrong with ``payload``, at most ``MAX_VIOLATIONS``; empty if and only if ``is_valid``."""
        if self.is_valid(payload):
            return []
        found = []
        for error in self._explains.iter_errors(payload):
            found += [violation(list(e.absolute_path), str(e.validator), e.message) for e in _leaves(error)]
            if len(found) >= MAX_VIOLATIONS:
                break
        if not found:
            found = [
                violation(list(error.instance_path), str(error.kind.name), error.message)
                for error in self._decides.iter_errors(payload)
            ]
        return found[:MAX_VIOLATIONS]


def _leaves(error: Any) -> Iterator[Any]:
    """The error itself, or for a branching keyword the errors of the branch that comes nearest."""
    if error.validator in ("anyOf", "oneOf") and error.context:
        best = jsonschema.exceptions.best_match([error])
        if best is not None and best is not error and best.absolute_path:
            yield best
            return
    yield error


def _check_bounds(schema: object) -> None:
    if not isinstance(schema, Mapping):
        raise SchemaError(f"expected a JSON Schema as an object, got {type(schema).__name__}")
    level: list[Any] = [schema]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, Mapping) else item)
            if isinstance(child, Mapping | list)
        ]
    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"the schema is no JSON: {error}") from error
    if size > MAX_SCHEMA_BYTES:
        raise SchemaError(f"the schema has {size:,} bytes as JSON; at most {MAX_SCHEMA_BYTES:,} are accepted")


def _check_schema(schema: Mapping[str, Any], explaining: Any) -> None:
    try:
        explaining.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        pointer = pointer_to(list(error.absolute_path))
        raise SchemaError(f"{pointer or '/'}: {error.message[:500]}", pointer=pointer) from None
    except RecursionError:
        raise SchemaError("the schema is nested too deep") from None


def _compile(compiled: Any, schema: Mapping[str, Any]) -> Any:
    try:
        return compiled(
            dict(schema),
            validate_formats=True,
            offline=True,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
        )
    except jsonschema_rs.ValidationError as error:
        pointer = pointer_to(list(error.instance_path))
        first_line = str(error.message).splitlines()[0][:500]
        if not pointer:  # it is not the schema's form but where a reference of it leads
            raise SchemaError(
                f"/: a reference leads nowhere: {first_line}. References must point into the schema itself."
            ) from None
        raise SchemaError(f"{pointer}: {first_line}", pointer=pointer) from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaError(f"a reference leads nowhere: {error}. References must point into the schema itself.") from None


# --- the explaining side: leaves that ask the compiled validator ------------------------------------------------------


@lru_cache(maxsize=4096)
def _leaf(draft: str, keyword: str, value: str) -> Any:
    """The compiled validator of a schema with one keyword; ``value`` is its JSON."""
    return _compile(_DRAFTS[draft][0], {keyword: json.loads(value)})


@lru_cache(maxsize=8)
def _explaining_class(draft: str) -> Any:
    def asks(keyword: str, told: str) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            if not _leaf(draft, keyword, json.dumps(value)).is_valid(instance):
                yield jsonschema.ValidationError(f"{instance!r} {told} {value!r}")

        return check

    def matches(pattern: str, name: str) -> bool:
        return bool(_leaf(draft, "pattern", json.dumps(pattern)).is_valid(name))

    def pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "object"):
            return
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)

    def additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "object"):
            return
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        extras = [n for n in instance if n not in named and not any(matches(p, n) for p in patterns)]
        if isinstance(allowed, Mapping):
            for name in extras:
                yield from validator.descend(instance[name], allowed, path=name)
        elif allowed is False and extras:
            known = f"; accepted: {', '.join(sorted(named))}" if named else ""
            yield jsonschema.ValidationError(f"not allowed here: {', '.join(sorted(extras))}{known}")

    keywords = {
        "pattern": asks("pattern", "does not match"),
        "format": asks("format", "is not a"),
        "multipleOf": asks("multipleOf", "is not a multiple of"),
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
    }
    return validators.extend(_DRAFTS[draft][1], keywords)
