"""What is known of a JSON value: facts, and the view of all that follows from them at once.

A *fact* is something that holds for a value: that it fits a subschema (the ``Subschema`` itself), or one of the structs here.
A set of facts stands for all values for which every one of them holds. A view may know less than the facts say, never more.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.registry.json.documents import DRAFTS, LEGACY_DRAFTS
from event_streaming_bus.registry.json.subschemas import Subschema
from event_streaming_bus.registry.json.values import value_key

NUMBERS: Final = frozenset(("int", "whole", "fraction"))
"""How a number may be written: 1, 1.0 or 1.5. To draft 4 only the first is an integer; numbers beyond 64 bits with a point count
as the last to all drafts."""
ALL_TYPES: Final = NUMBERS | {"null", "boolean", "string", "array", "object"}
_WHOLE: Final = frozenset(("int", "whole"))
GROUPS: Final = (*(frozenset((t,)) for t in ("null", "boolean", "string", "array", "object")), NUMBERS)
_MAX_EXCLUSIONS: Final = 16
_EXACT: Final = 1 << 53


class Not(msgspec.Struct, frozen=True):
    """The value does not fit this."""

    schema: Subschema


class Present(msgspec.Struct, frozen=True):
    """The value is an object with this property."""

    name: str


class Kind(msgspec.Struct, frozen=True):
    """The value is of one of these types."""

    types: frozenset[str]


class Choice(msgspec.Struct, frozen=True):
    """All facts of at least one of these sets hold."""

    branches: tuple["Facts", ...]


class Taken(msgspec.Struct, frozen=True):
    """A branch of this choice is among the facts already."""

    choice: Any


Fact: TypeAlias = Subschema | Not | Present | Kind | Choice | Taken
Facts: TypeAlias = frozenset[Any]
IMPOSSIBLE: Final[Facts] = frozenset((Kind(frozenset()),))


class ObjectPart(msgspec.Struct):
    """What one schema says of properties: by name, by pattern, and for every other name."""

    named: dict[str, Subschema | None]
    patterns: dict[str, Subschema | None]
    additional: Subschema | None


class ArrayPart(msgspec.Struct):
    """What one schema says of items: the first ones each, and every further one."""

    first: list[Subschema | None]
    further: Subschema | None


class View(msgspec.Struct):
    """What a set of facts comes to. What is said of objects holds if the value is an object, and so on."""

    types: frozenset[str]
    members: list[Subschema] = []
    """Every schema that the value fits, references and allOf unfolded, those left out whose keywords do not count."""
    schemas: list[Subschema] = []
    """Those too."""
    required: set[str] = set()
    values: list[Any] | None = None
    """If not None, the value equals one of these."""
    choices: list[tuple[Any, tuple[Facts, ...]]] = []
    negations: list[Subschema] = []
    taken: set[Any] = set()

    def number(self, keyword: str) -> list[Any]:
        """The values that the members have for a keyword."""
        return [m.contents[keyword] for m in self.members if keyword in m.contents]

    def least(self, keyword: str) -> int:
        return max((math.ceil(v) for v in self.number(keyword)), default=0)

    def most(self, keyword: str) -> float:
        return min((math.floor(v) for v in self.number(keyword)), default=math.inf)

    def max_items(self) -> float:
        closed = [len(part.first) for part in self.array_parts() if part.further is not None and part.further.contents is False]
        return min([self.most("maxItems"), *closed])

    def lower(self) -> tuple[Any, bool] | None:
        """The greatest lower bound, and whether it is excluded itself."""
        return _tightest([b for m in self.members for b in bounds(m, "minimum")], self.types, 1)

    def upper(self) -> tuple[Any, bool] | None:
        return _tightest([b for m in self.members for b in bounds(m, "maximum")], self.types, -1)

    def object_parts(self) -> list[ObjectPart]:
        return [part for m in self.members for part in noted(m, "object", object_parts)]

    def array_parts(self) -> list[ArrayPart]:
        return [part for m in self.members for part in noted(m, "array", array_parts)]


def view_of(facts: Facts, spend: Callable[[int], None]) -> View:
    """Unfolds references and ``allOf`` and triggers the dependencies of required properties. ``spend`` is told the steps."""
    view = View(ALL_TYPES, taken={fact.choice for fact in facts if isinstance(fact, Taken)})
    seen: set[int] = set()
    looked_up: set[tuple[int, str]] = set()
    queue: list[Any] = list(facts)
    while queue:
        fact = queue.pop()
        if isinstance(fact, Subschema):
            if id(fact) in seen:
                continue
            seen.add(id(fact))
            spend(1)
            if isinstance(fact.contents, bool):
                view.types &= ALL_TYPES if fact.contents else frozenset()
                continue
            view.schemas.append(fact)
            if fact.opaque != "dynamic":  # that leads to one of its targets, not to all
                queue += fact.refs
            if not (fact.draft in LEGACY_DRAFTS and "$ref" in fact.contents):
                queue += _note(view, fact)
        elif isinstance(fact, Kind):
            view.types &= fact.types
        elif isinstance(fact, Present):
            view.required.add(fact.name)
            view.types &= {"object"}
        elif isinstance(fact, Not):
            if isinstance(fact.schema.contents, dict) and fact.schema.contents.keys() == {"not"}:
                queue += fact.schema.parts_of("not")
            view.negations.append(fact.schema)
        elif isinstance(fact, Choice):
            view.choices.append((fact, fact.branches))
        if not queue and view.types == {"object"}:  # a value that may be something else has no properties to depend on
            queue += _demanded(view, looked_up, spend)
    view.choices = [choice for choice in view.choices if choice[0] not in view.taken]
    return view


def _note(view: View, schema: Subschema) -> list[Any]:
    """Takes what a schema says into the view, and returns the facts that follow."""
    view.members.append(schema)
    view.types &= types_of(schema)
    view.required.update(schema.contents.get("required", ()))
    for listed in noted(schema, "values", values_of):
        if view.values is None or len(listed) < len(view.values):
            view.values = listed
    view.choices += noted(schema, "choices", choices_of)
    return [*schema.parts.get("allOf", ()), *(Not(negated) for negated in schema.parts_of("not"))]


def _demanded(view: View, looked_up: set[tuple[int, str]], spend: Callable[[int], None]) -> list[Subschema]:
    """Requires what the required properties depend on, and returns the schemas that they bring in."""
    found: list[Subschema] = []
    dependent_on = [(id(m), by_name[0]) for m in view.members if (by_name := noted(m, "dependencies", _dependencies_by_name))]
    names = list(view.required) if dependent_on else []
    while names:
        name = names.pop()
        for member, by_name in dependent_on:
            if (member, name) in looked_up:
                continue
            looked_up.add((member, name))
            spend(1)
            for dependent in by_name.get(name, ()):
                if isinstance(dependent, Subschema):
                    found.append(dependent)
                elif isinstance(dependent, list | str):
                    new = ({dependent} if isinstance(dependent, str) else set(dependent)) - view.required
                    view.required |= new
                    names += new
    return found


def noted(schema: Subschema, name: str, work_out: Callable[[Subschema], Iterable[Any]]) -> list[Any]:
    """What is worked out once about a schema."""
    if name not in schema.notes:
        schema.notes[name] = list(work_out(schema))
    known: list[Any] = schema.notes[name]
    return known


# --- what one schema says, whatever its draft ---------------------------------------------------------------------------


def types_of(schema: Subschema) -> frozenset[str]:
    declared = schema.contents.get("type")
    if declared is None:
        return ALL_TYPES
    whole = frozenset(("int",)) if schema.draft == DRAFTS[0] else _WHOLE
    names = {"integer": whole, "number": NUMBERS}
    listed = [declared] if isinstance(declared, str) else declared
    return frozenset(t for name in listed for t in names.get(name, (name,)))


def values_of(schema: Subschema) -> list[list[Any]]:
    """The lists of values it allows, each if it has one. Numbers too large for all readings to agree on are no list."""
    found = []
    if isinstance(schema.contents.get("enum"), list):
        found.append(schema.contents["enum"])
    if "const" in schema.contents and schema.draft != DRAFTS[0]:
        found.append([schema.contents["const"]])
    return [listed for listed in found if not any(_is_inexact(value) for value in listed)]


def _is_inexact(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_inexact(v) for v in value.values())
    if isinstance(value, list):
        return any(_is_inexact(v) for v in value)
    return isinstance(value, int | float) and abs(value) >= _EXACT


def choices_of(schema: Subschema) -> Iterator[tuple[Any, tuple[Facts, ...]]]:
    parts = schema.parts
    if "anyOf" in parts:
        yield (id(schema), "anyOf"), tuple(frozenset((branch,)) for branch in parts["anyOf"])
    if "oneOf" in parts:
        branches = parts["oneOf"]
        if len(branches) <= _MAX_EXCLUSIONS:
            cases = tuple(frozenset((b, *(Not(other) for other in branches if other is not b))) for b in branches)
        else:
            cases = tuple(frozenset((branch,)) for branch in branches)
        yield (id(schema), "oneOf"), cases
    if "if" in parts and ("then" in parts or "else" in parts):
        condition = parts["if"]
        yield (
            (id(schema), "if"),
            (
                frozenset((condition, *schema.parts_of("then"))),
                frozenset((Not(condition), *schema.parts_of("else"))),
            ),
        )


def _dependencies_by_name(schema: Subschema) -> Iterator[dict[str, list[Any]]]:
    by_name: dict[str, list[Any]] = {}
    for name, dependent in dependencies(schema):
        by_name.setdefault(name, []).append(dependent)
    if by_name:
        yield by_name


def dependencies(schema: Subschema) -> Iterator[tuple[str, Any]]:
    """(property, subschema, or the names of the properties it requires)."""
    if schema.draft not in LEGACY_DRAFTS:
        yield from schema.contents.get("dependentRequired", {}).items()
        yield from schema.parts.get("dependentSchemas", {}).items()
    own = schema.parts.get("dependencies", {})
    for name, dependent in schema.contents.get("dependencies", {}).items():
        yield name, own.get(name, dependent)


def value_keys(schema: Subschema) -> list[set[Any]]:
    """The lists of values it has, by what makes them equal."""
    if schema.draft in LEGACY_DRAFTS and "$ref" in schema.contents:
        return []
    lists = [schema.contents["enum"]] if "enum" in schema.contents else []
    lists += [[schema.contents["const"]]] if "const" in schema.contents and schema.draft != DRAFTS[0] else []
    return [{value_key(value) for value in listed} for listed in lists]


def bounds(schema: Subschema, keyword: str) -> list[tuple[Any, bool]]:
    """(bound, whether it is excluded) of ``minimum`` or ``maximum`` with their exclusive forms."""
    contents, exclusive = schema.contents, "exclusive" + keyword.capitalize()
    if schema.draft == DRAFTS[0]:
        return [(contents[keyword], contents.get(exclusive) is True)] if keyword in contents else []
    return [(contents[k], k == exclusive) for k in (keyword, exclusive) if k in contents]


def _tightest(found: list[tuple[Any, bool]], types: frozenset[str], sign: int) -> tuple[Any, bool] | None:
    if not found:
        return None
    bound, excluded = max(found, key=lambda b: (b[0] * sign, b[1]))
    if not types & {"fraction"} and abs(bound) < _EXACT:  # of whole numbers: the last one within
        whole = math.ceil(bound) if sign > 0 else math.floor(bound)
        return (whole + sign if excluded and whole == bound else whole), False
    return bound, excluded


def comparable(a: Any, b: Any) -> bool:
    """Whether validators are sure to see two bounds as they are here: large numbers with a point are rounded in several ways."""
    return abs(a) <= _EXACT or abs(b) <= _EXACT or (type(a) is type(b) and a == b)


def items_keywords(schema: Subschema) -> tuple[str, str]:
    """The keywords of the first and of the further items in use."""
    if schema.draft == DRAFTS[4]:
        return "prefixItems", "items"
    return ("items", "additionalItems") if isinstance(schema.parts.get("items"), list) else ("", "items")


def array_part(schema: Subschema) -> ArrayPart | None:
    first, further = items_keywords(schema)
    if first not in schema.parts and further not in schema.parts:
        return None
    return ArrayPart(list(schema.parts.get(first, ())), schema.parts.get(further))


def array_parts(schema: Subschema) -> Iterator[ArrayPart]:
    part = array_part(schema)
    if part is not None:
        yield part
    if "unevaluatedItems" in schema.parts:
        count = possibly_evaluated_items(schema)
        if count is not None:
            yield ArrayPart([None] * count, schema.parts["unevaluatedItems"])


_OBJECT_KEYWORDS: Final = ("properties", "patternProperties", "additionalProperties")


def object_parts(schema: Subschema) -> Iterator[ObjectPart]:
    parts = schema.parts
    if any(keyword in parts for keyword in _OBJECT_KEYWORDS):
        yield ObjectPart(parts.get("properties", {}), parts.get("patternProperties", {}), parts.get("additionalProperties"))
    if "unevaluatedProperties" in parts:
        evaluated = possibly_evaluated(schema)
        if evaluated is not None:
            names, patterns = evaluated
            yield ObjectPart(dict.fromkeys(names), dict.fromkeys(patterns), parts["unevaluatedProperties"])


def possibly_evaluated(schema: Subschema) -> tuple[set[str], set[str]] | None:
    """Names and patterns of the properties that anything beside ``unevaluatedProperties`` might evaluate; None: any might."""
    names: set[str] = set()
    patterns: set[str] = set()
    for node in _beside(schema, _same_value_parts):
        if node.opaque or "additionalProperties" in node.parts or (node is not schema and "unevaluatedProperties" in node.parts):
            return None
        names.update(node.parts.get("properties", ()))
        patterns.update(node.parts.get("patternProperties", ()))
    return names, patterns


def surely_evaluated(schema: Subschema) -> tuple[set[str], set[str]] | None:
    """Names and patterns of the properties that are evaluated whatever the value; None: all are."""
    names: set[str] = set()
    patterns: set[str] = set()
    for node in _beside(schema, _sure_parts):
        if "additionalProperties" in node.parts or (node is not schema and "unevaluatedProperties" in node.parts):
            return None
        names.update(node.parts.get("properties", ()))
        patterns.update(node.parts.get("patternProperties", ()))
    return names, patterns


def possibly_evaluated_items(schema: Subschema) -> int | None:
    """How many of the first items anything beside ``unevaluatedItems`` might evaluate; None: any."""
    count = 0
    for node in _beside(schema, _same_value_parts):
        part = array_part(node)
        if node.opaque or "contains" in node.parts or (node is not schema and "unevaluatedItems" in node.parts):
            return None
        if part is not None:
            if part.further is not None:
                return None
            count = max(count, len(part.first))
    return count


def surely_evaluated_items(schema: Subschema) -> float:
    """How many of the first items are evaluated whatever the value."""
    count: float = 0
    for node in _beside(schema, _sure_parts):
        part = array_part(node)
        if (part is not None and part.further is not None) or (node is not schema and "unevaluatedItems" in node.parts):
            return math.inf
        count = max(count, len(part.first) if part is not None else 0)
    return count


def _sure_parts(node: Subschema) -> list[Subschema]:
    return [*(() if node.opaque else node.refs), *node.parts.get("allOf", ())]


def _same_value_parts(node: Subschema) -> list[Subschema]:
    keywords = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
    return [*node.refs, *(part for keyword in keywords for part in node.parts_of(keyword))]


def _beside(schema: Subschema, following: Callable[[Subschema], Iterable[Subschema]]) -> Iterator[Subschema]:
    seen, queue = {id(schema)}, [schema]
    while queue:
        node = queue.pop()
        if isinstance(node.contents, dict):
            yield node
            for other in following(node):
                if id(other) not in seen:
                    seen.add(id(other))
                    queue.append(other)
