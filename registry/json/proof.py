"""Proving that every JSON value for which some facts hold fits a subschema.

``Prover.proves`` answers True only if that is so; False means that it was not found out. What is assumed of recursive schemas is
assumed of smaller values only, so the proof is an induction over the size of the value. The work is bounded: ``TooComplexError``
when it is used up.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from event_streaming_bus.registry.json import facts as json_facts
from event_streaming_bus.registry.json.documents import DRAFTS
from event_streaming_bus.registry.json.facts import (
    GROUPS,
    IMPOSSIBLE,
    NUMBERS,
    Choice,
    Facts,
    Kind,
    Not,
    Taken,
    View,
    noted,
    value_keys,
)
from event_streaming_bus.registry.json.goals import GOALS, KEYWORD_GROUPS, goals_of
from event_streaming_bus.registry.json.likeness import Likeness
from event_streaming_bus.registry.json.schema import compiled, leaf, registry_of, uri_of
from event_streaming_bus.registry.json.subschemas import Documents, Subschema, quoted
from event_streaming_bus.registry.json.values import json_type, readings, value_key
from event_streaming_bus.registry.violations import pointer_to

MAX_STEPS: Final = 60_000
MAX_COMPARED: Final = 10_000
"""Subschemas of one side that are compared at all."""
_MAX_TAKEN: Final = 3
_MAX_VALUES: Final = 2_000


class TooComplexError(Exception):
    """The work that is spent on one comparison is used up."""


class Prover:
    """One comparison of the documents of two sides."""

    def __init__(self, *sides: Documents) -> None:
        self._left = MAX_STEPS - 3 * sum(map(len, sides))
        self._sides = {side.side: side for side in sides}
        self._registries: dict[str, Any] = {}
        self._negating = False
        self._compiled: dict[int, Any] = {}
        self._views: dict[Facts, View] = {}
        self._known: dict[Any, bool] = {}
        self._open: dict[Any, tuple[int, int]] = {}
        self._leans_on = _NOTHING
        self.alike = Likeness(self.spend)

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooComplexError

    def view(self, facts: Facts) -> View:
        if facts not in self._views:
            self._views[facts] = json_facts.view_of(facts, self.spend)
        return self._views[facts]

    # --- the two questions ------------------------------------------------------------------------------------------

    def proves(self, facts: Facts, schema: Subschema, level: int = 0) -> bool:
        """Whether every value with these facts fits ``schema``. ``level`` is how far the value lies within the whole one."""
        if schema.contents is True or schema in facts or (not schema.contents and schema.contents is not False):
            return True
        return self._remembered((facts, schema), level, lambda: self._fits(facts, schema, level))

    def impossible(self, facts: Facts, level: int = 0) -> bool:
        """Whether there is no value with these facts."""
        return facts == IMPOSSIBLE or self._remembered((facts, None), level, lambda: self._contradicts(facts, level))

    def _remembered(self, goal: Any, level: int, find_out: Callable[[], bool]) -> bool:
        goal = (*goal, self._negating)
        if goal in self._known:
            return self._known[goal]
        if goal in self._open:
            index, at = self._open[goal]
            if level <= at:
                return False
            self._leans_on = min(self._leans_on, index)  # holds for smaller values, by induction
            return True
        self.spend(2)
        index, before = len(self._open), self._leans_on
        self._open[goal] = index, level
        self._leans_on = _NOTHING
        try:
            answer = find_out()
        finally:
            del self._open[goal]
        if not answer or self._leans_on >= index:
            self._known[goal] = answer
            self._leans_on = before
        else:
            self._leans_on = min(before, self._leans_on)
        return answer

    def _fits(self, facts: Facts, schema: Subschema, level: int) -> bool:
        view = self.view(facts)
        self.spend(len(view.schemas) // 4)
        if any(self.alike(known, schema) for known in view.schemas):
            return True
        if view.values is not None and self.rejected_values(view, schema) == []:
            return True
        return all(self.holds(facts, schema, goal, level) for goal in goals_of(schema)) or self.impossible(facts, level)

    def holds(self, facts: Facts, schema: Subschema, goal: str, level: int) -> bool:
        """Whether every value with these facts satisfies one keyword of ``schema``."""
        group = KEYWORD_GROUPS.get(goal)
        if group is not None:
            if not self.view(facts).types & group:
                return True
            if not self.view(facts).types <= group:
                facts |= {Kind(group)}
        return self._remembered((facts, schema, goal), level, lambda: self._satisfies(facts, schema, goal, level))

    def _satisfies(self, facts: Facts, schema: Subschema, goal: str, level: int) -> bool:
        return GOALS[goal](self, facts, schema, level) or any(
            all(self.impossible(case, level) or self.holds(case, schema, goal, level) for case in cases)
            for cases in self.splits(facts, by_type=goal not in KEYWORD_GROUPS)
        )

    def splits(self, facts: Facts, by_type: bool) -> Iterator[list[Facts]]:
        """Ways to tell cases apart: in each, one of the cases is true of every value with these facts."""
        view = self.view(facts)
        if by_type:
            groups = [group & view.types for group in GROUPS if group & view.types]
            if len(groups) > 1:
                yield [facts | {Kind(group)} for group in groups]
                return
        if len(view.taken) < _MAX_TAKEN:
            for key, branches in view.choices:
                self.spend(len(branches) // 4)
                yield [facts | branch | {Taken(key)} for branch in branches]

    def likely_first(self, facts: Facts, parts: list[Subschema]) -> list[Subschema]:
        """The parts, those first that are written like something known, or stand at the same place."""
        if len(parts) < 4:
            return parts
        self.spend(len(parts) // 10)
        known = self.view(facts).schemas
        shapes, places = {self.alike.shape(k) for k in known}, {k.path[-1:] for k in known}
        return sorted(parts, key=lambda p: (self.alike.shape(p) not in shapes, p.path[-1:] not in places))

    # --- contradictions -----------------------------------------------------------------------------------------------

    def _contradicts(self, facts: Facts, level: int) -> bool:
        view = self.view(facts)
        if not view.types:
            return True
        if view.values is not None and self.values(view, view.values) == []:
            return True
        groups = [group & view.types for group in GROUPS if group & view.types]
        if len(groups) > 1:
            return all(self.impossible(facts | {Kind(group)}, level) for group in groups)
        if self._contradicts_in_itself(facts, view, level):
            return True
        self.spend(len(view.negations) * len(view.schemas) // 8)
        for negated in view.negations:
            if any(self.alike(known, negated) for known in view.schemas):
                return True
        if len(view.taken) < _MAX_TAKEN:
            for key, branches in view.choices:
                if all(self.impossible(facts | branch | {Taken(key)}, level) for branch in branches):
                    return True
        if self._negating:  # one within another would multiply
            return False
        self._negating = True
        try:
            return any(self.proves(facts - {Not(negated)}, negated, level) for negated in view.negations)
        finally:
            self._negating = False

    def _contradicts_in_itself(self, facts: Facts, view: View, level: int) -> bool:
        if view.types <= NUMBERS:
            lower, upper = view.lower(), view.upper()
            if lower is None or upper is None or not json_facts.comparable(lower[0], upper[0]):
                return False
            return bool(lower[0] > upper[0] or (lower[0] == upper[0] and (lower[1] or upper[1])))
        if view.types == {"string"}:
            return view.least("minLength") > view.most("maxLength")
        if view.types == {"array"}:
            least = view.least("minItems")
            if least > view.max_items():
                return True
            return any(self.impossible(self.item(view, i), level + 1) for i in range(min(least, self.first_items(view) + 1)))
        if view.types == {"object"}:
            if max(len(view.required), view.least("minProperties")) > view.most("maxProperties"):
                return True
            return any(self.impossible(self.child(view, name), level + 1) for name in view.required)
        return False

    # --- values that are listed ---------------------------------------------------------------------------------------

    def values(self, view: View, listed: list[Any]) -> list[Any] | None:
        """Those of the values that the facts allow, in all ways to write their numbers; None: too many to tell."""
        if len(listed) > _MAX_VALUES:
            return None
        self.spend(len(listed) // 4)
        left: list[Any] = []
        for value in listed:
            ways = readings(value)
            if ways is None:
                return None
            left += [v for v in ways if json_type(v) in view.types and all(self.accepts(m, v) is not False for m in view.members)]
        return left

    def unlisted(self, view: View, values: list[Any], schema: Subschema) -> list[Any] | None:
        """Those of the values that the facts allow and the lists of ``schema`` do not have; None: too many to tell."""
        note = f"lacks {id(values)}"
        if note not in schema.notes or values is not view.values:
            self.spend(len(values) // 20)
            known = noted(schema, "keys", value_keys)
            schema.notes[note] = [value for value in values if any(value_key(value) not in keys for keys in known)]
        missing: list[Any] = schema.notes[note]
        return self.values(view, missing)

    def rejected_values(self, view: View, schema: Subschema) -> list[Any] | None:
        """The listed values that do not fit ``schema``; None: that is not known."""
        values = None if view.values is None else self.values(view, view.values)
        if values is None:
            return None
        verdicts = [self.accepts(schema, value) for value in values]
        return None if None in verdicts else [value for value, fits in zip(values, verdicts, strict=True) if not fits]

    def accepts(self, schema: Subschema, value: Any) -> bool | None:
        """What the deciding validator says; None if it cannot be asked about this part alone."""
        key = id(schema)
        if key not in self._compiled:
            self._compiled[key] = self._compile(schema)
        validator = self._compiled[key]
        return None if validator is None else bool(validator.is_valid(value))

    def _compile(self, schema: Subschema) -> Any:
        if isinstance(schema.contents, bool):
            return compiled(DRAFTS[-1], schema.contents)
        if schema.side not in self._registries:
            self._registries[schema.side] = self._registry(self._sides[schema.side])
        registry = self._registries[schema.side]
        if registry is None:
            return None
        self.spend(20)
        reference = f"{uri_of(schema.document)}#{quoted(pointer_to(schema.path))}"
        return compiled(schema.draft, {"$ref": reference}, registry)

    def _registry(self, side: Documents) -> Any:
        if side.is_dynamic:
            return None
        documents = side.rebased(uri_of)
        return registry_of(side.draft, {uri_of(name): contents for name, contents in documents.items()})

    # --- what is known of a part of the value -------------------------------------------------------------------------

    def child(self, view: View, name: str) -> Facts:
        """What is known of the property ``name``, if it is there."""
        facts: set[Any] = set()
        for member in view.members:
            names = member.parts.get("propertyNames")
            if names is not None and self.accepts(names, name) is False:
                return IMPOSSIBLE
        for part in view.object_parts():
            matching = [schema for pattern, schema in part.patterns.items() if self.matches(pattern, name)]
            facts.update(schema for schema in matching if schema is not None)
            if name in part.named:
                facts.update(() if part.named[name] is None else (part.named[name],))
            elif not matching and part.additional is not None:
                facts.add(part.additional)
        return _cleaned(facts)

    def other_child(self, view: View, pattern: str | None, not_matching: tuple[str, ...]) -> Facts:
        """What is known of a property that no schema names: if it matches ``pattern``, or else none of ``not_matching``."""
        facts: set[Any] = set()
        if any(self.view(frozenset((n,))).values is not None for m in view.members for n in m.parts_of("propertyNames")):
            return IMPOSSIBLE  # then every name there may be is looked at on its own
        for part in view.object_parts():
            if pattern is not None and pattern in part.patterns:
                facts.update(() if part.patterns[pattern] is None else (part.patterns[pattern],))
                continue
            possible = [p for p in part.patterns if p not in not_matching]
            additional: list[Facts] = [frozenset(() if part.additional is None else (part.additional,))]
            branches = additional + [frozenset(() if part.patterns[p] is None else (part.patterns[p],)) for p in possible]
            if len(branches) == 1:
                facts.update(branches[0])
            elif all(branches):
                facts.add(Choice(tuple(branches)))
        return _cleaned(facts)

    def named(self, view: View) -> set[str]:
        """The names that something is said about, one by one."""
        names = set(view.required)
        for part in view.object_parts():
            names.update(part.named)
        for member in view.members:
            for schema in member.parts_of("propertyNames"):
                names.update(v for v in self.view(frozenset((schema,))).values or () if isinstance(v, str))
        return names

    def item(self, view: View, index: int) -> Facts:
        """What is known of the item at ``index``, if it is there."""
        facts = set()
        for part in view.array_parts():
            schema = part.first[index] if index < len(part.first) else part.further
            if schema is not None:
                facts.add(schema)
        return _cleaned(facts)

    def first_items(self, view: View) -> int:
        return max((len(part.first) for part in view.array_parts()), default=0)

    def matches(self, pattern: str, name: str) -> bool:
        self.spend(1)
        return bool(leaf(DRAFTS[-1], "pattern", json.dumps(pattern)).is_valid(name))


_NOTHING: Final = 1 << 60


def _cleaned(facts: set[Any]) -> Facts:
    """A set of facts without those that say nothing; one that cannot hold stands for all."""
    if any(fact.contents is False for fact in facts if isinstance(fact, Subschema)):
        return IMPOSSIBLE
    return frozenset(
        fact for fact in facts if not (isinstance(fact, Subschema) and (fact.contents is True or fact.contents == {}))
    )
