"""``unevaluatedProperties`` on the side that explains: which properties nothing else in the schema speaks of.

jsonschema's own would run the patterns of ``patternProperties`` with Python's engine: it refuses some that the compiled validator
takes, and for others takes for ever. See the specification of JSON Schema, 2020-12, Core, 11.3, and 2019-09, Core, 9.3.2.4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonschema
from referencing.jsonschema import lookup_recursive_ref, specification_with

Matches = Callable[[str, str], bool]
"""Whether a pattern matches a name."""
Within = Callable[[Any, Any], Any]
"""The validator at a schema within that of another."""


def unevaluated_properties(draft: str, matches: Matches) -> Callable[[Any, Any, Any, Any], Iterator[Any]]:
    """The keyword, as jsonschema calls it. What is not allowed at all is told in one error, what does not fit where it is."""

    specification = specification_with(draft)

    def within(validator: Any, schema: Any) -> Any:
        """The validator at a schema within its own, which may have an identifier."""
        resource = specification.create_resource(schema)
        return validator.evolve(schema=schema, _resolver=validator._resolver.in_subresource(resource))

    def check(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "object"):
            return
        beside = {keyword: value for keyword, value in schema.items() if keyword != "unevaluatedProperties"}
        evaluated = _evaluated(validator, instance, beside, matches, within)
        others = [name for name in instance if name not in evaluated]
        yield from errors_of_others(validator, allowed, instance, others)

    return check


def errors_of_others(
    validator: Any, allowed: Any, instance: Mapping[str, Any], others: Sequence[str], accepted: Iterable[str] = ()
) -> Iterator[Any]:
    """What is wrong with the properties that are left over for ``allowed``, a schema; ``accepted`` are the names of properties
    that might be meant."""
    if isinstance(allowed, Mapping):
        for name in others:
            yield from validator.descend(instance[name], allowed, path=name)
    elif allowed is False and others:
        known = f"; accepted: {', '.join(sorted(accepted))}" if accepted else ""
        yield jsonschema.ValidationError(f"not allowed here: {', '.join(sorted(others))}{known}")


def _evaluated(validator: Any, instance: Mapping[str, Any], schema: Any, matches: Matches, within: Within) -> set[str]:
    """The names of the object's properties that the schema, or one in it that the object fits, speaks of."""
    if not isinstance(schema, Mapping):
        return set()
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return set(instance)  # of all that the other keywords leave over
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    found = {name for name in instance if name in named or any(matches(pattern, name) for pattern in patterns)}
    for inner in _applied(validator, instance, schema, within):
        found |= _evaluated(inner, instance, inner.schema, matches, within)
    return found


def _applied(validator: Any, instance: Mapping[str, Any], schema: Mapping[str, Any], within: Within) -> Iterator[Any]:
    """A validator for each schema within a schema that speaks of the same object, and that it fits."""
    resolver = validator._resolver
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in schema:
            there = lookup_recursive_ref(resolver) if keyword == "$recursiveRef" else resolver.lookup(schema[keyword])
            yield validator.evolve(schema=there.contents, _resolver=there.resolver)
    candidates = [each for keyword in ("allOf", "anyOf", "oneOf") for each in schema.get(keyword, ())]
    candidates += [each for name, each in schema.get("dependentSchemas", {}).items() if name in instance]
    if "if" in schema:
        fits = within(validator, schema["if"]).is_valid(instance)
        candidates += [schema[branch] for branch in (("if", "then") if fits else ("else",)) if branch in schema]
    for each in candidates:
        inner = within(validator, each)
        if inner.is_valid(instance):
            yield inner
