"""How the keywords of arrays and objects are proved to hold: ``goals`` for values that hold other values."""

import math
from typing import TYPE_CHECKING

from event_streaming_bus.registry.json.documents import LEGACY_DRAFTS
from event_streaming_bus.registry.json.facts import (
    IMPOSSIBLE,
    Facts,
    Kind,
    Present,
    View,
    array_part,
    surely_evaluated,
    surely_evaluated_items,
)
from event_streaming_bus.registry.json.facts import dependencies as dependencies_of
from event_streaming_bus.registry.json.subschemas import Subschema

if TYPE_CHECKING:
    from event_streaming_bus.registry.json.proof import Prover

_STRING = frozenset(("string",))


# --- arrays -----------------------------------------------------------------------------------------------------------


def items(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return all(prover.proves(known, wanted, level + 1) for _, known, wanted in item_goals(prover, prover.view(facts), schema))


def item_goals(prover: "Prover", view: View, schema: Subschema) -> "list[tuple[int | None, Facts, Subschema]]":
    """(index, or None for all further ones; what is known of that item; what it must fit) of every item there may be."""
    part, most = array_part(schema), view.max_items()
    if part is None:
        return []
    count = max(len(part.first), prover.first_items(view))
    goals: list[tuple[int | None, Facts, Subschema]] = []
    for index in range(count + 1):
        wanted = part.first[index] if index < len(part.first) else part.further
        if wanted is not None and index < most:
            prover.spend(4)
            goals.append((index if index < count else None, prover.item(view, index), wanted))
    return goals


def min_items(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view = prover.view(facts)
    needed = max((contains_bounds(m)[0] for m in view.members if "contains" in m.parts), default=0)
    return bool(max(view.least("minItems"), needed) >= schema.contents["minItems"])


def max_items(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return bool(prover.view(facts).max_items() <= schema.contents["maxItems"])


def unique_items(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view = prover.view(facts)
    return schema.contents["uniqueItems"] is False or True in view.number("uniqueItems") or view.max_items() <= 1


def contains(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view, wanted = prover.view(facts), schema.parts["contains"]
    least, most = contains_bounds(schema)
    return (least == 0 or _contains_least(prover, view, wanted, least, level)) and (
        most == math.inf or _contains_most(prover, view, wanted, most, level)
    )


def contains_bounds(schema: Subschema) -> tuple[float, float]:
    if schema.draft in LEGACY_DRAFTS:
        return 1, math.inf
    return schema.contents.get("minContains", 1), schema.contents.get("maxContains", math.inf)


def _contains_least(prover: "Prover", view: View, wanted: Subschema, least: float, level: int) -> bool:
    for member in view.members:
        if "contains" in member.parts and contains_bounds(member)[0] >= least:
            found = frozenset((member.parts["contains"],)) | _every_item(prover, view)
            if prover.proves(found, wanted, level + 1):
                return True
    sure, first = view.least("minItems"), prover.first_items(view)
    fitting = sum(prover.proves(prover.item(view, i), wanted, level + 1) for i in range(min(sure, first)))
    if fitting < least and sure > first and prover.proves(prover.item(view, first), wanted, level + 1):
        fitting += sure - first
    return fitting >= least


def _contains_most(prover: "Prover", view: View, wanted: Subschema, most: float, level: int) -> bool:
    if view.max_items() <= most:
        return True
    return any(
        "contains" in member.parts
        and contains_bounds(member)[1] <= most
        and prover.proves(frozenset((wanted,)) | _every_item(prover, view), member.parts["contains"], level + 1)
        for member in view.members
    )


def _every_item(prover: "Prover", view: View) -> Facts:
    """What is known of any item, wherever it is."""
    return prover.item(view, 0) if prover.first_items(view) == 0 else frozenset()


def unevaluated_items(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view, wanted = prover.view(facts), schema.parts["unevaluatedItems"]
    evaluated = surely_evaluated_items(schema)
    last = max(evaluated, prover.first_items(view)) if evaluated < math.inf else -1
    index = int(evaluated) if evaluated < math.inf else 0
    while index <= last and index < view.max_items():
        if not prover.proves(prover.item(view, index), wanted, level + 1):
            return False
        index += 1
    return True


# --- objects ----------------------------------------------------------------------------------------------------------


def properties(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return all(
        prover.proves(known, wanted, level + 1) for _, known, wanted, _ in property_goals(prover, prover.view(facts), schema)
    )


def property_goals(
    prover: "Prover", view: View, schema: Subschema
) -> "list[tuple[str | None, Facts, Subschema, tuple[str, str | None]]]":
    """(property, or None for names that no schema has; what is known of its value; what it must fit; the keyword and the name or
    pattern that demand it) of everything that ``schema`` demands of properties there may be."""
    named, patterns = schema.parts.get("properties", {}), schema.parts.get("patternProperties", {})
    additional = schema.parts.get("additionalProperties")
    goals: list[tuple[str | None, Facts, Subschema, tuple[str, str | None]]] = []
    for name in sorted(prover.named(view) | named.keys()):
        wanted = [(named[name], ("properties", name))] if name in named else []
        wanted += [(s, ("patternProperties", p)) for p, s in patterns.items() if prover.matches(p, name)]
        if not wanted and additional is not None:
            wanted = [(additional, ("additionalProperties", None))]
        if wanted:
            prover.spend(4)
            known = prover.child(view, name)
            if known != IMPOSSIBLE:
                goals += [(name, known, s, place) for s, place in wanted]
    for pattern, wanted_by_pattern in patterns.items():
        known = prover.other_child(view, pattern, ())
        if known != IMPOSSIBLE:
            goals.append((None, known, wanted_by_pattern, ("patternProperties", pattern)))
    if additional is not None:
        known = prover.other_child(view, None, tuple(patterns))
        if known != IMPOSSIBLE:
            goals.append((None, known, additional, ("additionalProperties", None)))
    return goals


def required(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    return prover.view(facts).required.issuperset(schema.contents["required"])


def min_properties(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view = prover.view(facts)
    return bool(max(view.least("minProperties"), len(view.required)) >= schema.contents["minProperties"])


def max_properties(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view, wanted = prover.view(facts), schema.contents["maxProperties"]
    if view.most("maxProperties") <= wanted:
        return True
    if not prover.impossible(prover.other_child(view, None, ()), level + 1):
        return False
    return bool(sum(not prover.impossible(prover.child(view, name), level + 1) for name in prover.named(view)) <= wanted)


def property_names(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    view, wanted = prover.view(facts), schema.parts["propertyNames"]
    names = frozenset((Kind(_STRING), *(n for m in view.members for n in m.parts_of("propertyNames"))))
    if prover.proves(names, wanted, level + 1):
        return True
    if not prover.impossible(prover.other_child(view, None, ()), level + 1):
        return False
    return all(
        prover.accepts(wanted, name) is True or prover.impossible(prover.child(view, name), level + 1)
        for name in prover.named(view)
    )


def dependencies(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    for name, dependent in dependencies_of(schema):
        with_it = facts | {Present(name)}
        if prover.impossible(with_it, level):
            continue
        if isinstance(dependent, Subschema):
            if not prover.proves(with_it, dependent, level):
                return False
        elif isinstance(dependent, bool):
            if not dependent:
                return False
        elif not prover.view(with_it).required.issuperset([dependent] if isinstance(dependent, str) else dependent):
            return False
    return True


def unevaluated_properties(prover: "Prover", facts: Facts, schema: Subschema, level: int) -> bool:
    evaluated = surely_evaluated(schema)
    if evaluated is None:
        return True
    names, patterns = evaluated
    view, wanted = prover.view(facts), schema.parts["unevaluatedProperties"]
    for name in sorted(prover.named(view) - names):
        if any(prover.matches(pattern, name) for pattern in patterns):
            continue
        if not prover.proves(prover.child(view, name), wanted, level + 1):
            return False
    return prover.proves(prover.other_child(view, None, tuple(patterns)), wanted, level + 1)
