"""JSON Schema validation: a compiled validator decides, jsonschema explains.

``jsonschema_rs`` decides on the hot path. Where it says no, ``jsonschema`` says where and why. Both work on the same draft, with
``format`` checked, and on the same documents, in which every reference was resolved beforehand. The two differ in some leaves
(regular expressions, ``multipleOf`` of floats, formats), so for those the explaining side asks the compiled validator; should it
still find nothing wrong, the compiled validator's own errors are told. Regular expressions are only ever run by the compiled
engine, whose backtracking is bounded. Nothing is fetched.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

import jsonschema
import jsonschema_rs
import referencing
from jsonschema import validators
from referencing.jsonschema import specification_with

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.json.documents import DRAFTS, checked_copies, first_line
from event_streaming_bus.registry.json.subschemas import Documents
from event_streaming_bus.registry.json.unevaluated import errors_of_others, unevaluated_properties
from event_streaming_bus.registry.violations import MAX_VIOLATIONS, Violation, pointer_to, violation

MAX_EXPLAINED_STEPS: Final = 20_000
_BACKTRACK_LIMIT: Final = 100_000
_VALIDATORS: Final[dict[str, tuple[Any, Any]]] = dict(
    zip(
        DRAFTS,
        (
            (jsonschema_rs.Draft4Validator, jsonschema.Draft4Validator),
            (jsonschema_rs.Draft6Validator, jsonschema.Draft6Validator),
            (jsonschema_rs.Draft7Validator, jsonschema.Draft7Validator),
            (jsonschema_rs.Draft201909Validator, jsonschema.Draft201909Validator),
            (jsonschema_rs.Draft202012Validator, jsonschema.Draft202012Validator),
        ),
        strict=True,
    )
)


class _TooMuch(Exception):
    """The explanation would take more steps than are spent on one."""


_steps: ContextVar[list[float]] = ContextVar("_steps")
"""How many steps the explanation that is being made may still take."""


class JsonSchemaValidator:
    """A compiled schema. ``references`` are the documents that its ``$ref``s lead to by name, and theirs.

    Raises ``SchemaError`` for one that is malformed, naming the place by its JSON pointer, for a reference that leads nowhere or
    round in a circle, and for what could not be validated in bounded time. A document without a ``$schema`` is of the root's
    draft, or the latest.
    """

    def __init__(self, schema: Mapping[str, Any] | bool, references: Mapping[str, Any] | None = None) -> None:
        documents = Documents(checked_copies(schema, references or {}))
        draft = documents.draft
        contents: Any
        if documents.is_dynamic:  # resolved as late as validation, by the rules of its identifiers: it is left as it was written
            contents, others = documents.contents[""], {n: c for n, c in documents.contents.items() if n}
        elif references:
            contents, others = {"$ref": uri_of("")}, {uri_of(n): c for n, c in documents.rebased(uri_of).items()}
        else:
            contents, others = documents.rebased(lambda name: "")[""], {}
        self._decides = compiled(draft, contents, registry_of(draft, others))
        self._explains = _explaining_class(draft)(contents, registry=_explaining_registry(draft, others))
        self.errors = self._decides.iter_errors
        """The compiled validator's own errors of a payload: quicker than ``violations``, and in fewer words."""
        self.is_valid = self._decides.is_valid
        """Whether a decoded payload fits the schema."""

    def violations(self, payload: object) -> list[Violation]:
        """What is wrong with ``payload``, at most ``MAX_VIOLATIONS``; empty if and only if ``is_valid``. Bounded: where finding
        everything would take too long, it is what was found until then."""
        if self.is_valid(payload):
            return []
        found: list[Violation] = []
        within_bounds = True
        bound = _steps.set([MAX_EXPLAINED_STEPS])
        try:
            for error in self._explains.iter_errors(payload):
                found += [violation(list(e.absolute_path), str(e.validator or "false"), e.message) for e in _leaves(error)]
                if len(found) >= MAX_VIOLATIONS:
                    break
        except (_TooMuch, RecursionError):
            within_bounds = False  # nor does the compiled validator tell its errors in bounded time
        finally:
            _steps.reset(bound)
        if not found and within_bounds:
            found = [
                violation(list(error.instance_path), str(error.kind.name), error.message)
                for error in self._decides.iter_errors(payload)
            ]
        return found[:MAX_VIOLATIONS] or [
            violation(
                [], "schema", "does not fit the schema; it is too deep, or there are too many ways it could fit, to tell more"
            )
        ]


def uri_of(name: str) -> str:
    """Under which URI a document is known to the validators: never one that could be fetched."""
    return "urn:document:" + "".join(c if c.isalnum() and c.isascii() else f"-{ord(c):x}-" for c in name)


def _leaves(error: Any) -> Iterator[Any]:
    """The error itself, or for a branching keyword the errors of the branch that comes nearest."""
    if error.validator in ("anyOf", "oneOf") and error.context:
        best = jsonschema.exceptions.best_match([error])
        if best is not None and best is not error and best.absolute_path:
            yield best
            return
    yield error


def registry_of(draft: str, others: Mapping[str, Any]) -> Any:
    """The documents by their URIs, for ``compiled``."""
    return jsonschema_rs.Registry(list(others.items()), draft=_DRAFT_NUMBERS[draft]) if others else None


def compiled(draft: str, contents: Any, registry: Any = None) -> Any:
    """The deciding validator of a schema that may refer to what is in ``registry``."""
    try:
        return _VALIDATORS[draft][0](
            contents,
            validate_formats=True,
            offline=True,
            registry=registry,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
        )
    except jsonschema_rs.ValidationError as error:
        pointer = pointer_to(list(error.instance_path))
        raise SchemaError(f"{pointer or '/'}: {first_line(error)}", pointer=pointer) from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaError(f"a reference leads nowhere: {error}. Nothing is fetched.") from None


_DRAFT_NUMBERS: Final = dict(
    zip(
        DRAFTS,
        (jsonschema_rs.Draft4, jsonschema_rs.Draft6, jsonschema_rs.Draft7, jsonschema_rs.Draft201909, jsonschema_rs.Draft202012),
        strict=True,
    )
)


def _explaining_registry(draft: str, others: Mapping[str, Any]) -> Any:
    specification = specification_with(draft)
    return referencing.Registry().with_resources(
        (uri, specification.create_resource(contents)) for uri, contents in others.items()
    )


# --- the explaining side: leaves that ask the compiled validator ------------------------------------------------------


@lru_cache(maxsize=4096)
def leaf(draft: str, keyword: str, value: str) -> Any:
    """The compiled validator of a schema with one keyword; ``value`` is its JSON."""
    return compiled(draft, {keyword: json.loads(value)})


@lru_cache(maxsize=8)
def _explaining_class(draft: str) -> Any:
    def asks(keyword: str, told: str) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            _spend(len(instance) / 100 if isinstance(instance, str) else 0)
            if not leaf(draft, keyword, json.dumps(value)).is_valid(instance):
                yield jsonschema.ValidationError(f"{instance!r} {told} {value!r}")

        return check

    def matches(pattern: str, name: str) -> bool:
        _spend(0.2 + len(name) / 100)
        return bool(leaf(draft, "pattern", json.dumps(pattern)).is_valid(name))

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
        yield from errors_of_others(validator, allowed, instance, extras, named)

    def one_of(validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _spend(len(values) // (400 if isinstance(instance, str) else 20))
        if not (instance in values if isinstance(instance, str) else leaf(draft, "enum", json.dumps(values)).is_valid(instance)):
            more = f" and {len(values) - 20} more" if len(values) > 20 else ""
            yield jsonschema.ValidationError(f"{instance!r} is not one of {values[:20]!r}{more}")

    keywords = {
        "enum": one_of,
        "uniqueItems": asks("uniqueItems", "has items that are equal; uniqueItems is"),
        "pattern": asks("pattern", "does not match"),
        "format": asks("format", "is not a"),
        "multipleOf": asks("multipleOf", "is not a multiple of"),
        "patternProperties": pattern_properties,
        "additionalProperties": additional_properties,
    }
    base = _VALIDATORS[draft][1]
    if "unevaluatedProperties" in base.VALIDATORS:
        keywords["unevaluatedProperties"] = unevaluated_properties(draft, matches)
    extended = validators.extend(base, keywords)
    extended.evolve = _evolve  # the original would leave this class at a schema with a "$schema" of its own
    return extended


def _evolve(self: Any, **changes: Any) -> Any:
    """The same validator for another schema: every step into a subschema passes here, so here they are counted."""
    _spend(1)
    kept = {"schema": self.schema, "_resolver": self._resolver, "registry": self._registry, "format_checker": self.format_checker}
    return type(self)(**kept | changes)


def _spend(steps: float) -> None:
    left = _steps.get(None)
    if left is not None:
        left[0] -= steps
        if left[0] < 0:
            raise _TooMuch
