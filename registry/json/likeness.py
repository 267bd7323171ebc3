"""Whether two schemas are written alike."""

import json
from collections.abc import Callable
from typing import Final

from event_streaming_bus.registry.json.documents import LEGACY_DRAFTS
from event_streaming_bus.registry.json.subschemas import Subschema

_COMPARED: Final = {
    *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength"),
    *("minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains", "maxProperties"),
    *("minProperties", "required", "dependentRequired", "contentMediaType", "contentEncoding"),
}
"""Every keyword that is checked and whose value is no schema."""


class Likeness:
    """Compares schemas and remembers what it found. ``spend`` is told the steps that this takes."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        self._shapes: dict[int, int] = {}
        self._alike: dict[tuple[int, int], bool] = {}

    def __call__(self, a: Subschema, b: Subschema) -> bool:
        """Whether the two say the same in the same words, annotations aside, all that they refer to included."""
        if a is b:
            return True
        key = (id(a), id(b))
        if key not in self._alike:
            pairs = self._pairs(a, b)
            if pairs is None:
                self._alike[key] = False
            else:
                self._alike.update(dict.fromkeys(pairs, True))
        return self._alike[key]

    def _pairs(self, a: Subschema, b: Subschema) -> set[tuple[int, int]] | None:
        seen = {(id(a), id(b))}
        queue = [(a, b)]
        while queue:
            a, b = queue.pop()
            if self._alike.get((id(a), id(b))):
                continue
            if a.draft != b.draft or a.opaque != b.opaque or a.opaque == "dynamic" or self.shape(a) != self.shape(b):
                return None
            if not isinstance(a.contents, dict):
                continue
            self._spend(1)
            for x, y in zip(self._nexts(a), self._nexts(b), strict=True):
                if (id(x), id(y)) not in seen:
                    seen.add((id(x), id(y)))
                    queue.append((x, y))
        return seen

    def _nexts(self, a: Subschema) -> list[Subschema]:
        parts: list[Subschema] = []
        for keyword in sorted(a.parts):
            part = a.parts[keyword]
            parts += [part[k] for k in sorted(part)] if isinstance(part, dict) else a.parts_of(keyword)
        return [*a.refs, *parts]

    def shape(self, a: Subschema) -> int:
        """A number that schemas share which are written alike, apart from what they refer to."""
        if not isinstance(a.contents, dict):
            return hash(a.contents)
        key = id(a)
        if key not in self._shapes:
            own = {k: v for k, v in a.contents.items() if k in _COMPARED}
            if "dependencies" in a.contents:
                own["dependencies"] = {k: v for k, v in a.contents["dependencies"].items() if isinstance(v, list)}
            hidden = a.draft in LEGACY_DRAFTS and "$ref" in a.contents
            keys = [
                (k, tuple(sorted(p)) if isinstance(p, dict) else len(p) if isinstance(p, list) else 1) for k, p in a.parts.items()
            ]
            parts = tuple(self.shape(part) for part in (self._nexts(a)[len(a.refs) :]))
            self._shapes[key] = hash(
                (len(a.refs), "" if hidden else json.dumps(own, sort_keys=True), tuple(sorted(keys, key=str)), parts)
            )
        return self._shapes[key]
