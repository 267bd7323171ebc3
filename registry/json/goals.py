"""How each keyword of a schema is proved to hold, given what is known of the value.

A *goal* is a keyword, or several that are only understood together, named by one of them. Every function here answers True only
if all values with the facts satisfy the keyword; the facts are of the keyword's own type (``KEYWORD_GROUPS``) where it has one.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from event_streaming_bus.registry.json import container_goals as on
from event_streaming_bus.registry.json.documents import DRAFTS, LEGACY_DRAFTS
from event_streaming_bus.registry.json.facts import (
    NUMBERS,
    Facts,
    Not,
    View,
    bounds,
    comparable,
    noted,
    types_of,
    value_keys,
)
from event_streaming_bus.registry.json.subschemas import Subschema

if TYPE_CHECKING:
    from event_streaming_bus.registry.json.proof import Prover

_CONTENT_DRAFTS: Final = DRAFTS[1:3]
"""In these ``contentMediaType`` and ``contentEncoding`` are checked."""
_CHECKED_SINCE: Final = {
    **dict.fromkeys(("date", "date-time", "email", "hostname", "idn-email", "ipv4", "ipv6", "regex", "time", "uri"), 0),
    **dict.fromkeys(("json-pointer", "uri-reference", "uri-template"), 1),
    **dict.fromkeys(("idn-hostname", "iri", "iri-reference", "relative-json-pointer"), 2),
    **dict.fromkeys(("duration", "uuid"), 3),
}
"""Which formats the validators check, and since which draft. Any other says nothing."""
_TOGETHER: Final = {
    "exclusiveMinimum": "minimum",
    "exclusiveMaximum": "maximum",
    "additionalItems": "items",
    "prefixItems": "items",
    "patternProperties": "properties",
    "additionalProperties": "properties",
    "then": "if",
    "else": "if",
    "dependentRequired": "dependencies",
    "dependentSchemas": "dependencies",
}
_STRINGS, _ARRAYS, _OBJECTS = (frozenset((kind,)) for kind in ("string", "array", "object"))
KEYWORD_GROUPS: Final = {
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), NUMBERS),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format", "contentMediaType", "contentEncoding"), _STRINGS),
    **dict.fromkeys(("items", "minItems", "maxItems", "uniqueItems", "contains", "unevaluatedItems"), _ARRAYS),
    **dict.fromkeys(("properties", "required", "minProperties", "maxProperties"), _OBJECTS),
    **dict.fromkeys(("propertyNames", "dependencies", "unevaluatedProperties"), _OBJECTS),
}
"""What a value must be for the keyword to say anything about it."""


def goals_of(schema: Subschema) -> list[str]:
    """The goals that have to be proved, each, for a value to fit ``schema``."""
    if schema.contents is False:
        return ["false"]
    if schema.contents is True:
        return []
    if schema.opaque:
        return ["opaque"]
    references = ["$ref"] if schema.refs else []
    if schema.draft in LEGACY_DRAFTS and "$ref" in schema.contents:
        return references
    found = dict.fromkeys(
        _TOGETHER.get(k, k) for k in schema.contents if k in schema.parts or (k in _PLAIN and _counts(schema, k))
    )
    if not ("if" in schema.parts and ("then" in schema.parts or "else" in schema.parts)):
        found.pop("if", None)
    return references + list(found)


def _counts(schema: Subschema, keyword: str) -> bool:
    if keyword == "const":
        return schema.draft != DRAFTS[0]
    if keyword == "dependentRequired":
        return schema.draft not in LEGACY_DRAFTS
    if keyword.startswith("content"):
        return schema.draft in _CONTENT_DRAFTS
    return True


# --- any value --------------------------------------------------------------------------------------------------------


def _never(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return False


def _false(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return prover.impossible(facts, level)


def _ref(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return all(prover.proves(facts, target, level) for target in schema.refs)


def _type(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return prover.view(facts).types <= types_of(schema)


def _listed(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view = prover.view(facts)
    if view.types <= {"null", "boolean"}:
        values = [*((None,) if "null" in view.types else ()), *((True, False) if "boolean" in view.types else ())]
    elif view.values is None:
        return False
    else:
        values = view.values
    return prover.unlisted(view, values, schema) == []


def _all_of(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return all(prover.proves(facts, part, level) for part in schema.parts["allOf"])


def _any_of(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    parts, view = schema.parts["anyOf"], prover.view(facts)
    prover.spend(len(parts) // 2)
    return any(prover.proves(facts, part, level) for part in prover.likely_first(facts, parts) if not told_apart(view, part))


def _one_of(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    parts, view = schema.parts["oneOf"], prover.view(facts)
    possible = [part for part in prover.likely_first(facts, parts) if not told_apart(view, part)]
    prover.spend(len(parts) // 2)
    for part in possible:
        if prover.proves(facts, part, level):
            return all(prover.impossible(facts | {other}, level) for other in possible if other is not part)
    return False


def told_apart(view: View, part: Subschema) -> bool:
    """Whether a property whose values both list tells the values of the view from those of ``part``: quick, and usual in sums."""
    if view.types != {"object"} or isinstance(part.contents, bool):
        return False
    required = view.required.union(part.contents.get("required", ()))
    for name, keys in noted(part, "tags", tags):
        if name in required:
            for member in view.members:
                if any(name == other and keys.isdisjoint(others) for other, others in noted(member, "tags", tags)):
                    return True
    return False


def tags(schema: Subschema) -> Iterator[tuple[str, set[Any]]]:
    """(property, keys of its values) of the properties whose values are listed."""
    for name, own in schema.parts.get("properties", {}).items():
        if isinstance(own.contents, dict):
            yield from ((name, keys) for keys in noted(own, "keys", value_keys))


def _not(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return prover.impossible(facts | {schema.parts["not"]}, level)


def _if(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    condition = schema.parts["if"]
    for keyword, case in (("then", facts | {condition}), ("else", facts | {Not(condition)})):
        part = schema.parts.get(keyword)
        if part is not None and not prover.impossible(case, level) and not prover.proves(case, part, level):
            return False
    return True


# --- numbers and strings ----------------------------------------------------------------------------------------------


def _minimum(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    lower = prover.view(facts).lower()
    return lower is not None and all(
        comparable(lower[0], bound) and (lower[0] > bound or (lower[0] == bound and (lower[1] or not excluded)))
        for bound, excluded in bounds(schema, "minimum")
    )


def _maximum(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    upper = prover.view(facts).upper()
    return upper is not None and all(
        comparable(upper[0], bound) and (upper[0] < bound or (upper[0] == bound and (upper[1] or not excluded)))
        for bound, excluded in bounds(schema, "maximum")
    )


def _multiple_of(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    wanted, view = schema.contents["multipleOf"], prover.view(facts)
    if wanted == 1 and not view.types & {"fraction"}:
        return True
    return any(
        known == wanted or (isinstance(known, int) and isinstance(wanted, int) and known % wanted == 0)
        for known in view.number("multipleOf")
    )


def _min_length(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return bool(prover.view(facts).least("minLength") >= schema.contents["minLength"])


def _max_length(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return bool(prover.view(facts).most("maxLength") <= schema.contents["maxLength"])


def _pattern(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return schema.contents["pattern"] in prover.view(facts).number("pattern")


def _format(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    wanted = schema.contents["format"]
    since = _CHECKED_SINCE.get(wanted)
    return (
        since is None
        or DRAFTS.index(schema.draft) < since
        or any(
            m.contents.get("format") == wanted
            and DRAFTS.index(m.draft) >= since
            and (wanted != "hostname" or (m.draft in DRAFTS[:2]) == (schema.draft in DRAFTS[:2]))  # it was loosened there
            for m in prover.view(facts).members
        )
    )


def _content(keyword: str) -> "Callable[[Prover, Facts, Subschema, int], bool]":
    def proved(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
        return any(
            m.draft in _CONTENT_DRAFTS
            and m.contents.get(keyword) == schema.contents[keyword]
            and m.contents.get("contentEncoding") == schema.contents.get("contentEncoding")
            for m in prover.view(facts).members
        )

    return proved


_PLAIN: Final[dict[str, Any]] = {
    "type": _type,
    "enum": _listed,
    "const": _listed,
    "minimum": _minimum,
    "exclusiveMinimum": _minimum,
    "maximum": _maximum,
    "exclusiveMaximum": _maximum,
    "multipleOf": _multiple_of,
    "minLength": _min_length,
    "maxLength": _max_length,
    "pattern": _pattern,
    "format": _format,
    "contentMediaType": _content("contentMediaType"),
    "contentEncoding": _content("contentEncoding"),
    "minItems": on.min_items,
    "maxItems": on.max_items,
    "uniqueItems": on.unique_items,
    "required": on.required,
    "minProperties": on.min_properties,
    "maxProperties": on.max_properties,
    "dependentRequired": on.dependencies,
    "dependencies": on.dependencies,
}
GOALS: Final[dict[str, Any]] = {
    **_PLAIN,
    "false": _false,
    "opaque": _never,
    "$ref": _ref,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "items": on.items,
    "contains": on.contains,
    "unevaluatedItems": on.unevaluated_items,
    "properties": on.properties,
    "propertyNames": on.property_names,
    "unevaluatedProperties": on.unevaluated_properties,
}
