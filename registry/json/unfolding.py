"""What the references of a JSON Schema may not unfold to: a circle that says nothing, and work without bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.violations import pointer_to

if TYPE_CHECKING:
    from event_streaming_bus.registry.json.subschemas import Subschema

MAX_UNFOLDED: Final = 100_000
MAX_UNFOLDED_DEPTH: Final = 500
SAME_VALUE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
"""The keywords whose subschemas look at the same value as the schema that holds them."""


def check_circles(subschemas: list[Subschema], names: list[str]) -> None:
    """No reference may come back to itself while it looks at the same value: it would say nothing, for ever."""

    def edges(node: Subschema) -> list[Subschema]:
        return [*node.refs, *(part for keyword in node.parts if keyword in SAME_VALUE for part in node.parts_of(keyword))]

    done: set[int] = set()
    for start in subschemas:
        if id(start) in done or not (start.parts or start.refs):
            continue
        open_: dict[int, Subschema] = {id(start): start}
        stack = [(start, iter(edges(start)))]
        while stack:
            node, rest = stack[-1]
            following = next((e for e in rest if id(e) not in done and (e.parts or e.refs)), None)
            if following is None:
                stack.pop()
                open_.pop(id(node))
                done.add(id(node))
            elif id(following) in open_:
                _refuse_circle(list(open_.values()), following, names)
            else:
                open_[id(following)] = following
                stack.append((following, iter(edges(following))))


def _refuse_circle(way: list[Subschema], back: Subschema, names: list[str]) -> None:
    circle = way[next(i for i, node in enumerate(way) if node is back) :]
    last = next(node for node in reversed(circle) if node.refs)
    keyword = next(k for k in ("$ref", "$dynamicRef", "$recursiveRef") if k in last.contents)
    path = (*last.path, keyword)
    told = " -> ".join(node.place for node in (circle if len(circle) < 8 else circle[:7]))
    known = ", ".join(repr(name) for name in names[:20])
    where = f"{last.document}#{pointer_to(path)}" if last.document else pointer_to(path)
    raise SchemaError(
        f"{where}: references go round in a circle without looking into the value: {told} -> {back.place}"
        + (f"; references there are: {known}" if names else ""),
        pointer=pointer_to(path),
        document=last.document,
    )


def check_unfolding(subschemas: list[Subschema]) -> None:
    """Bounds how often one value of a payload is looked at, and how deep. References that lead back to where one is count
    once: the compiled validator remembers what it has seen of those, but not of the others."""
    weights: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()
    for start in subschemas:
        stack = [(start, False)] if start.parts or start.refs else []
        while stack:
            node, left = stack.pop()
            if left:
                open_.discard(id(node))
                weights[id(node)] = weight = _weight(node, weights)
                if weight[0] > MAX_UNFOLDED:
                    raise SchemaError(
                        f"{node.place}: one value would be looked at {weight[0]:,} times by what this refers to; at most "
                        f"{MAX_UNFOLDED:,} are accepted",
                        pointer=pointer_to(node.path),
                    )
                if weight[1] > MAX_UNFOLDED_DEPTH:
                    raise SchemaError(
                        f"{node.place}: references lead on more than {MAX_UNFOLDED_DEPTH} times",
                        pointer=pointer_to(node.path),
                    )
            elif id(node) not in weights and id(node) not in open_:
                open_.add(id(node))
                stack.append((node, True))
                stack += [(e, False) for e in _all_edges(node) if e.parts or e.refs]


def _all_edges(node: Subschema) -> list[Subschema]:
    return [*node.refs, *(part for keyword in node.parts for part in node.parts_of(keyword))]


_TOGETHER: Final = {
    **dict.fromkeys(SAME_VALUE, "same"),
    **dict.fromkeys(("patternProperties", "unevaluatedProperties"), "members"),
    **dict.fromkeys(("contains", "unevaluatedItems"), "items"),
}
_ONE_OF: Final = {
    **dict.fromkeys(("properties", "additionalProperties"), "member"),
    **dict.fromkeys(("prefixItems", "items", "additionalItems"), "item"),
}
"""Which keywords look at one value together, and of which only one subschema does."""


def _weight(node: Subschema, weights: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(how often one value may be looked at, how deep) by a schema whose parts have been weighed."""
    found = dict.fromkeys(("same", "members", "items", "member", "item", "name"), 0)
    depth = 0
    for keyword, parts in [("allOf", node.refs), *((k, node.parts_of(k)) for k in node.parts)]:
        known = [weights.get(id(part), (1, 1)) for part in parts]
        if not known:
            continue
        depth = max(depth, max(levels for _, levels in known))
        if keyword in _TOGETHER:
            found[_TOGETHER[keyword]] += sum(times for times, _ in known)
        else:
            group = _ONE_OF.get(keyword, "name")
            found[group] = max(found[group], max(times for times, _ in known))
    inner = max(found["members"] + found["member"], found["items"] + found["item"], found["name"])
    return 1 + found["same"] + inner, depth + 1
