"""The places at which a proof that one JSON Schema covers another was not found, in the words that schema registries use."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.json.container_goals import item_goals, property_goals
from event_streaming_bus.registry.json.facts import NUMBERS, Facts, Kind, Present, View, bounds, dependencies, types_of
from event_streaming_bus.registry.json.goals import KEYWORD_GROUPS, goals_of
from event_streaming_bus.registry.json.proof import Prover
from event_streaming_bus.registry.json.subschemas import Subschema
from event_streaming_bus.registry.json.values import value_key
from event_streaming_bus.registry.violations import pointer_to

_SIZES: Final = {
    "minLength": ("MIN_LENGTH", "INCREASED", "at least"),
    "maxLength": ("MAX_LENGTH", "DECREASED", "at most"),
    "minItems": ("MIN_ITEMS", "INCREASED", "at least"),
    "maxItems": ("MAX_ITEMS", "DECREASED", "at most"),
    "minProperties": ("MIN_PROPERTIES", "INCREASED", "at least"),
    "maxProperties": ("MAX_PROPERTIES", "DECREASED", "at most"),
}


def reasons(prover: Prover, facts: Facts, schema: Subschema) -> Iterator[Difference]:
    """What keeps values with these facts from fitting ``schema``, one by one, each at the innermost place it is found at."""
    yield from _Reasons(prover).of(facts, schema, 0)


class _Reasons:
    def __init__(self, prover: Prover) -> None:
        self.prover = prover
        self._told: set[tuple[Facts, Subschema]] = set()

    def of(self, facts: Facts, schema: Subschema, level: int) -> Iterator[Difference]:
        if (facts, schema) in self._told or self.prover.proves(facts, schema, level):
            return
        self._told.add((facts, schema))
        for goal in goals_of(schema):
            if not self.prover.holds(facts, schema, goal, level):
                group = KEYWORD_GROUPS.get(goal)
                yield from self._goal(facts if group is None else facts | {Kind(group)}, schema, goal, level)

    def _goal(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        """Of the writer's alternatives those are told about that fail."""
        for cases in self.prover.splits(facts, by_type=False):
            failing = [c for c in cases if not self.prover.impossible(c, level) and not self.prover.holds(c, schema, goal, level)]
            if len(failing) < len(cases):
                for case in failing:
                    yield from self._goal(case, schema, goal, level)
                return
        yield from _TELLING.get(goal, _other)(self, facts, schema, goal, level)

    # --- any value ----------------------------------------------------------------------------------------------------

    def ref(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        for target in schema.refs:
            yield from self.of(facts, target, level)

    def all_of(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        for part in schema.parts["allOf"]:
            yield from self.of(facts, part, level)

    def type(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        allowed, written = types_of(schema), self.prover.view(facts).types
        kind = "TYPE_NARROWED" if allowed & written else "TYPE_CHANGED"
        yield _at(
            schema,
            kind,
            f"the writer's values may be {_types(written - allowed)}, the reader takes only {_types(allowed)}",
            f"Let the reader's type allow {_types(written)} too.",
            "type",
        )

    def listed(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        view = self.prover.view(facts)
        if view.values is None:
            message = f"the reader takes only {_listed(schema)}, the writer does not say which values it writes"
            yield _at(
                schema, "ENUM_ARRAY_ADDED", message, "Leave the values open, or list them in the writer's schema first.", goal
            )
            return
        lacking = self.prover.unlisted(view, view.values, schema)
        missing = None if lacking is None else list({value_key(value): value for value in reversed(lacking)}.values())[::-1]
        told = _told(view.values if missing is None else missing)
        kind = "ENUM_ARRAY_NARROWED" if missing is None or len(missing) < len(view.values) else "ENUM_ARRAY_CHANGED"
        yield _at(schema, kind, f"the writer allows {told}, the reader does not", f"Keep {told} among the reader's values.", goal)

    def sum(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        parts = schema.parts[goal]
        possible = [part for part in parts if not self.prover.impossible(facts | {part}, level)]
        fitting = [part for part in possible if self.prover.proves(facts, part, level)]
        if fitting:
            others = ", ".join(part.place for part in possible if part is not fitting[0])
            message = (
                f"what fits {fitting[0].place} of the reader's alternatives may fit {others} as well; oneOf takes it for neither"
            )
            fix = "Use anyOf, or let the alternatives exclude each other, for instance by a const in a property that all require."
            yield _at(schema, "COMBINED_TYPE_SUBSCHEMAS_CHANGED", message, fix, goal)
            return
        if len(possible) == 1:
            inner = list(self.of(facts, possible[0], level))
            if inner:
                yield from inner
                return
        view = self.prover.view(facts)
        alternatives = sorted({branch.place for branch in view.schemas if {"anyOf", "oneOf"} & set(branch.path[-2:-1])})
        written = f" ({', '.join(alternatives[:3])})" if alternatives else ""
        kind = "SUM_TYPE_NARROWED" if view.taken else "COMBINED_TYPE_CHANGED"
        message = f"what the writer allows{written} is not covered by one of the reader's {len(parts)} alternatives"
        yield _at(schema, kind, message, "Keep an alternative that allows all that the writer's does.", goal)

    def negated(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        kind = "NOT_TYPE_EXTENDED" if self.prover.view(facts).negations else "NOT_TYPE_ADDED"
        message = "the reader excludes values that the writer may write"
        yield _at(schema, kind, message, "Exclude no more than the writer's schema does.", goal)

    def condition(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        known = any("if" in member.parts for member in self.prover.view(facts).members)
        message = "the reader asks more of the values that its condition holds for, or of the others, than the writer guarantees"
        fix = "Keep the condition and what follows from it as the writer has it, or ask less in the reader."
        yield _at(schema, "CONDITION_CHANGED" if known else "CONDITION_ADDED", message, fix, goal)

    # --- numbers and strings ------------------------------------------------------------------------------------------

    def bound(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        view, sign = self.prover.view(facts), 1 if goal == "minimum" else -1
        known = view.lower() if sign > 0 else view.upper()
        wanted, excluded = max(bounds(schema, goal), key=lambda b: (b[0] * sign, b[1]))
        keyword = goal if goal in schema.contents and schema.contents[goal] == wanted else "exclusive" + goal.capitalize()
        name = ("EXCLUSIVE_" if excluded else "") + goal.upper()
        change = "ADDED" if known is None else "INCREASED" if sign > 0 else "DECREASED"
        side = ("more than" if excluded else "at least") if sign > 0 else "less than" if excluded else "at most"
        written = "the writer has no such bound" if known is None else f"the writer's is {known[0]}{' excluded' * known[1]}"
        fix = "Remove the bound from the reader." if known is None else f"Let the reader allow numbers up to {known[0]} again."
        if sign > 0 and known is not None:
            fix = f"Let the reader allow numbers down to {known[0]} again."
        yield _at(schema, f"{name}_{change}", f"the reader takes numbers of {side} {wanted}, {written}", fix, keyword)

    def multiple_of(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        known, wanted = self.prover.view(facts).number(goal), schema.contents[goal]
        kind = "MULTIPLE_OF_ADDED"
        if known:
            kind = (
                "MULTIPLE_OF_EXPANDED" if all(isinstance(n, int) for n in (known[0], wanted)) and wanted % known[0] == 0 else ""
            )
        written = f"multiples of {known[0]}" if known else "any"
        yield _at(
            schema,
            kind or "MULTIPLE_OF_CHANGED",
            f"the reader takes only multiples of {wanted}, the writer writes {written}",
            f"Let the reader take {written} too." if known else "Remove multipleOf from the reader.",
            goal,
        )

    def size(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        view, (name, change, side) = self.prover.view(facts), _SIZES[goal]
        known = view.number(goal)
        tightest = (max if goal.startswith("min") else min)(known) if known else None
        written = "the writer does not limit it" if tightest is None else f"the writer's is {tightest}"
        fix = f"Remove {goal} from the reader." if tightest is None else f"Set the reader's {goal} to {tightest}."
        message = f"{goal}: the reader asks for {side} {schema.contents[goal]}, {written}"
        yield _at(schema, f"{name}_{'ADDED' if tightest is None else change}", message, fix, goal)

    def word(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        name = {"contentMediaType": "CONTENT_MEDIA_TYPE", "contentEncoding": "CONTENT_ENCODING"}.get(goal, goal.upper())
        known = self.prover.view(facts).number(goal)
        written = f"the writer's is {_told(known)}" if known else "the writer has none"
        message = f"the reader's {goal} is {json.dumps(schema.contents[goal])}, {written}; that its strings fit cannot be told"
        fix = f"Keep the writer's {goal} as it is." if known else f"Remove {goal} from the reader."
        yield _at(schema, f"{name}_{'CHANGED' if known else 'ADDED'}", message, fix, goal)

    # --- arrays -------------------------------------------------------------------------------------------------------

    def items(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        view = self.prover.view(facts)
        first = self.prover.first_items(view)
        told: set[int] = set()
        for index, known, wanted in item_goals(self.prover, view, schema):
            if id(wanted) in told or self.prover.proves(known, wanted, level + 1):
                continue
            told.add(id(wanted))
            if known and wanted.contents is not False:
                yield from self.of(known, wanted, level + 1)
            elif index is None:
                closed = wanted.contents is False
                kind = "ADDITIONAL_ITEMS_REMOVED" if closed else "ADDITIONAL_ITEMS_NARROWED" if first else "ITEMS_ADDED"
                message = "the writer may write more items than the reader " + (
                    "takes" if closed else "takes without a condition"
                )
                yield _at(wanted, kind, message, "Let the reader take any further items, or limit them in the writer first.")
            elif wanted.contents is False:
                message = f"the writer may write an item at {index}, the reader takes none there"
                fix = "Keep an entry for this item in the reader, or let it take further items."
                yield _at(wanted, "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL", message, fix)
            else:
                kind = "ITEM_ADDED_TO_OPEN_CONTENT_MODEL" if index >= first else "ADDITIONAL_ITEMS_NARROWED"
                message = f"the writer says nothing of an item at {index}, so it may be anything; the reader takes only some"
                yield _at(
                    wanted, kind, message, "Let the reader take any value for this item, or describe it in the writer first."
                )

    def unique(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        message = "the reader takes no equal items, the writer may write some"
        yield _at(schema, "UNIQUE_ITEMS_ADDED", message, "Remove uniqueItems from the reader.", goal)

    def contains(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        known = any("contains" in member.parts for member in self.prover.view(facts).members)
        message = "the reader asks for a number of items of a kind that the writer does not guarantee"
        fix = "Ask for no more such items, and allow no fewer, than the writer's schema does."
        yield _at(schema, "CONTAINS_CHANGED" if known else "CONTAINS_ADDED", message, fix, goal)

    # --- objects ------------------------------------------------------------------------------------------------------

    def properties(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        view = self.prover.view(facts)
        for name, known, wanted, (keyword, demanded_by) in property_goals(self.prover, view, schema):
            if self.prover.proves(known, wanted, level + 1):
                continue
            if name is None:
                yield from self._other_properties(view, known, wanted, keyword, demanded_by, level)
            else:
                yield from self._property(view, name, known, wanted, keyword, level)

    def _property(self, view: View, name: str, known: Facts, wanted: Subschema, keyword: str, level: int) -> Iterator[Difference]:
        writes = [part.named[name] for part in view.object_parts() if part.named.get(name) is not None]
        told = json.dumps(name)
        if keyword == "additionalProperties" and not wanted.parts and writes:
            source = writes[0]
            closed = wanted.contents is False
            place = source.path if source is not None else ()
            yield Difference(
                "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"
                if closed
                else "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL",
                pointer_to(place),
                f"the writer may write the property {told}, the reader "
                + ("takes no properties but its own" if closed else "has it no longer and takes not every value of it"),
                f"Keep the property {told} in the reader, or let additionalProperties allow it.",
                "writer",
            )
        elif keyword == "properties" and not writes:
            open_ = not known
            kind = (
                "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL" if open_ else "PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"
            )
            yield _at(
                wanted,
                kind,
                f"the writer allows any other property, so {told} may be there already with "
                + ("any value" if open_ else "a value that does not fit")
                + "; the reader takes only some values of it",
                "Add properties only where the writer's schema says additionalProperties: false, or let this one take any value"
                + ("." if open_ else " that the writer allows."),
            )
        elif wanted.contents is False:
            message = f"the writer may write the property {told}, the reader forbids it"
            yield _at(wanted, "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL", message, f"Let the reader allow {told}.")
        else:
            yield from self.of(known, wanted, level + 1)

    def _other_properties(
        self, view: View, known: Facts, wanted: Subschema, keyword: str, pattern: str | None, level: int
    ) -> Iterator[Difference]:
        if keyword == "patternProperties":
            if known and wanted.contents is not False and any(pattern in part.patterns for part in view.object_parts()):
                yield from self.of(known, wanted, level + 1)
                return
            message = (
                f"the writer allows properties whose names match {json.dumps(pattern)} with values that the reader does not take"
            )
            fix = "Let these properties take every value that the writer allows."
            yield _at(wanted, "PATTERN_PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", message, fix)
        elif wanted.contents is False:
            message = "the writer allows properties that no schema names, the reader does not"
            fix = "Leave additionalProperties open in the reader, or close it in the writer first."
            yield _at(wanted, "ADDITIONAL_PROPERTIES_REMOVED", message, fix)
        elif any(isinstance(fact, Subschema) for fact in known):
            inner = list(self.of(known, wanted, level + 1))
            yield from inner
        else:
            message = "the writer allows properties that no schema names with any value, the reader takes only some values"
            fix = "Let additionalProperties take every value that the writer allows."
            yield _at(wanted, "ADDITIONAL_PROPERTIES_NARROWED", message, fix)

    def required(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        known = self.prover.view(facts).required
        for name in schema.contents["required"]:
            if name in known:
                continue
            own = schema.parts.get("properties", {}).get(name)
            has_default = own is not None and isinstance(own.contents, dict) and "default" in own.contents
            yield _at(
                schema,
                "REQUIRED_ATTRIBUTE_WITH_DEFAULT_ADDED" if has_default else "REQUIRED_ATTRIBUTE_ADDED",
                f"the reader requires the property {json.dumps(name)}, the writer may leave it out"
                + ("; its default does not make a document valid that lacks it" if has_default else ""),
                f"Remove {json.dumps(name)} from the reader's required properties, or require it in the writer first.",
                goal,
            )

    def names(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        known = any("propertyNames" in member.parts for member in self.prover.view(facts).members)
        message = "the writer allows names of properties that the reader does not take"
        fix = "Let propertyNames allow every name that the writer allows."
        yield _at(schema, "PROPERTY_NAMES_NARROWED" if known else "PROPERTY_NAMES_ADDED", message, fix, goal)

    def dependencies(self, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
        for name, dependent in dependencies(schema):
            with_it = facts | {Present(name)}
            if self.prover.impossible(with_it, level):
                continue
            told = json.dumps(name)
            if isinstance(dependent, Subschema):
                if not self.prover.proves(with_it, dependent, level):
                    message = f"with the property {told} the reader asks for more than the writer guarantees"
                    fix = f"Ask for no more than the writer does where {told} is there."
                    yield _at(dependent, "DEPENDENCY_SCHEMA_ADDED", message, fix)
            elif isinstance(dependent, list | str):
                listed = [dependent] if isinstance(dependent, str) else dependent
                lacking = [n for n in listed if n not in self.prover.view(with_it).required]
                keyword = "dependentRequired" if name in schema.contents.get("dependentRequired", {}) else "dependencies"
                if lacking:
                    message = f"with the property {told} the reader requires {_told(lacking)}, the writer may leave that out"
                    fix = f"Let {told} stand without {_told(lacking)} in the reader, or demand it in the writer first."
                    yield _at(schema, "DEPENDENCY_ARRAY_ADDED", message, fix, keyword, name)


Telling = Callable[[_Reasons, Facts, Subschema, str, int], Iterator[Difference]]


def _other(reasons: _Reasons, facts: Facts, schema: Subschema, goal: str, level: int) -> Iterator[Difference]:
    kind, message = {
        "false": ("SCHEMA_REMOVED", "the reader takes no value here at all, the writer may write some"),
        "opaque": ("REFERENCE_CHANGED", "what this reference leads to is only known while validating, and cannot be compared"),
    }.get(goal, (f"{_constant(goal)}_NARROWED", f"{goal}: the reader takes less than the writer may write"))
    fix = "Keep this part as the writer's schema has it, or let it take any value."
    yield _at(schema, kind, message, fix, *(() if goal in ("false", "opaque") else (goal,)))


_TELLING: Final[dict[str, Telling]] = {
    "$ref": _Reasons.ref,
    "allOf": _Reasons.all_of,
    "type": _Reasons.type,
    "enum": _Reasons.listed,
    "const": _Reasons.listed,
    "anyOf": _Reasons.sum,
    "oneOf": _Reasons.sum,
    "not": _Reasons.negated,
    "if": _Reasons.condition,
    "minimum": _Reasons.bound,
    "maximum": _Reasons.bound,
    "multipleOf": _Reasons.multiple_of,
    **dict.fromkeys(_SIZES, _Reasons.size),
    **dict.fromkeys(("pattern", "format", "contentMediaType", "contentEncoding"), _Reasons.word),
    "items": _Reasons.items,
    "uniqueItems": _Reasons.unique,
    "contains": _Reasons.contains,
    "properties": _Reasons.properties,
    "required": _Reasons.required,
    "propertyNames": _Reasons.names,
    "dependencies": _Reasons.dependencies,
}


def _at(schema: Subschema, kind: str, message: str, fix: str, *keywords: str) -> Difference:
    where = f"{schema.document}: " if schema.document else ""
    return Difference(kind, pointer_to((*schema.path, *keywords)), where + message, fix, schema.side)


def _types(types: frozenset[str]) -> str:
    names = {"number"} if types >= NUMBERS else {"integer"} if types & {"int", "whole"} else set()
    if "fraction" in types and not types >= NUMBERS:
        names = {"number"}
    return ", ".join(sorted(names | (types - NUMBERS))) or "nothing"


def _listed(schema: Subschema) -> str:
    return _told(schema.contents.get("enum", [schema.contents.get("const")]))


def _told(values: list[Any]) -> str:
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    return ", ".join(json.dumps(value)[:60] for value in values[:10]) + more


def _constant(goal: str) -> str:
    return "".join("_" + c if c.isupper() else c.upper() for c in goal)
