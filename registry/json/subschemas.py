"""A JSON Schema with the documents it refers to, as a graph of its subschemas.

Everything here is bounded by the size of the documents, not by what their references unfold to. Nothing is fetched: a ``$ref``
leads into its own document, to a document that was given, or to the metaschema of the draft.
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.json.documents import DRAFTS, LEGACY_DRAFTS, check_form, draft_of
from event_streaming_bus.registry.json.unfolding import check_circles, check_unfolding
from event_streaming_bus.registry.violations import pointer_to

_ONE, _LIST, _MAP = "one", "list", "map"
_SHAPES_4: Final = {
    **dict.fromkeys(("additionalProperties", "additionalItems", "not"), _ONE),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _LIST),
    **dict.fromkeys(("properties", "patternProperties", "dependencies"), _MAP),
    "items": _ONE,  # or a list: told by its value
}
_SHAPES_6: Final = _SHAPES_4 | dict.fromkeys(("contains", "propertyNames"), _ONE)
_SHAPES_7: Final = _SHAPES_6 | dict.fromkeys(("if", "then", "else"), _ONE)
_SHAPES_2019: Final = _SHAPES_7 | {"dependentSchemas": _MAP, "unevaluatedProperties": _ONE, "unevaluatedItems": _ONE}
_SHAPES_2020: Final = {k: v for k, v in _SHAPES_2019.items() if k != "additionalItems"} | {"prefixItems": _LIST}
_SHAPES: Final = dict(zip(DRAFTS, (_SHAPES_4, _SHAPES_6, _SHAPES_7, _SHAPES_2019, _SHAPES_2020), strict=True))
_CONTAINERS: Final = ("definitions", "$defs")


class Subschema(msgspec.Struct, eq=False):
    """One schema within a document: ``parts`` has its own subschemas by the keywords that its draft applies, each a ``Subschema``
    or a list or dict of them; ``refs`` are what its references lead to. ``opaque`` is not empty for one whose meaning hangs on
    more than that: a reference that is resolved as late as validation, or the metaschema."""

    contents: Any
    document: str
    path: tuple[str | int, ...]
    base: str
    draft: str
    parts: dict[str, Any] = {}
    refs: list["Subschema"] = []
    opaque: str = ""
    side: str = ""
    notes: dict[str, Any] = {}
    """What a comparison has worked out about it."""

    def parts_of(self, keyword: str) -> "Iterable[Subschema]":
        part = self.parts.get(keyword)
        if part is None:
            return ()
        return part if isinstance(part, list) else part.values() if isinstance(part, dict) else (part,)

    @property
    def place(self) -> str:
        """Where it is: a JSON pointer, after ``NAME#`` if it is in a document that was referred to."""
        return f"{self.document}#{pointer_to(self.path)}" if self.document else pointer_to(self.path) or "/"


class TooManyError(Exception):
    """There are more subschemas than were asked for."""


class Documents:
    """The root schema and its references, every ``$ref`` resolved. ``SchemaError`` names the place of what is wrong.

    ``contents`` are the documents as ``checked_copies`` gives them, and belong to this object from then on.
    A reference whose text is one of the names means that document; otherwise it is a URI by the rules of JSON Schema, relative to
    the ``$id`` around it. All documents are of the root's draft. ``side`` is noted in every subschema, for telling two apart.
    ``TooManyError`` for more subschemas than ``at_most``.
    """

    def __init__(self, contents: dict[str, Any], side: str = "", at_most: float = math.inf) -> None:
        self.contents, self.side, self._at_most = contents, side, at_most
        self.draft = draft_of(self.contents)
        for name, contents in self.contents.items():
            check_form(name, contents, self.draft)
        self._shapes = _SHAPES[self.draft]
        self._id = "id" if self.draft == DRAFTS[0] else "$id"
        self._found: dict[int, Subschema] = {}
        self._resources: dict[str, Subschema] = {}
        self._targets_known: dict[tuple[str, str], Subschema | None] = {}
        self._anchors: dict[tuple[str, str], Subschema] = {}
        self._dynamic: dict[str, list[Subschema]] = {}
        self._roots: dict[str, Subschema] = {}
        for name, contents in self.contents.items():
            self._roots[name] = self._walk(contents, name, (), name)
            self._resources.setdefault(name, self._roots[name])
        self.root: Subschema = self._roots[""]
        self._resolve()
        check_circles(list(self._found.values()), [name for name in self.contents if name])
        check_unfolding(list(self._found.values()))

    @property
    def is_dynamic(self) -> bool:
        """Whether a reference can only be resolved while validating."""
        return any(node.opaque == "dynamic" for node in self._found.values())

    def __len__(self) -> int:
        """How many subschemas there are."""
        return len(self._found)

    def rebased(self, uri: Callable[[str], str]) -> dict[str, Any]:
        """The documents by name, with every reference written as ``uri(name)#pointer`` and without identifiers of their own, so
        that whatever reads them resolves them alike. Changes them in place: they are copies of what was given."""
        for node in list(self._found.values()):
            if node.refs:
                first, *others = ({"$ref": f"{uri(target.document)}#{quoted(pointer_to(target.path))}"} for target in node.refs)
                for keyword in ("$dynamicRef", "$recursiveRef"):
                    node.contents.pop(keyword, None)
                node.contents.update(first)
                if others:
                    node.contents["allOf"] = [*node.contents.get("allOf", ()), *others]
            for keyword in (self._id, "$anchor", "$dynamicAnchor", "$recursiveAnchor"):
                node.contents.pop(keyword, None)
        return self.contents

    # --- finding the subschemas ---------------------------------------------------------------------------------------

    def _walk(self, contents: Any, document: str, path: tuple[str | int, ...], base: str) -> Subschema:
        root = Subschema(contents, document, path, base, self.draft, side=self.side)
        stack = [root]
        while stack:
            node = stack.pop()
            if not isinstance(node.contents, dict):
                if not isinstance(node.contents, bool):
                    raise SchemaError(
                        f"{node.place}: expected a schema, got {_told(node.contents)}", pointer=pointer_to(node.path)
                    )
                continue
            self._found[id(node.contents)] = node
            if len(self._found) > self._at_most:
                raise TooManyError
            if not node.contents:
                continue
            hidden = self.draft in LEGACY_DRAFTS and "$ref" in node.contents
            if not hidden:
                self._identify(node)
            parts = {}
            for keyword, value in node.contents.items():
                shape = self._shapes.get(keyword)
                if shape is None and keyword not in _CONTAINERS:
                    continue
                part = self._part(node, keyword, _MAP if shape is None else shape, value, stack)
                if shape is not None and not hidden and part is not None:
                    parts[keyword] = part
            node.parts = parts
        return root

    def _part(self, node: Subschema, keyword: str, shape: str, value: Any, stack: list[Subschema]) -> Any:
        where, base = (*node.path, keyword), node.base

        def child(contents: Any, path: tuple[str | int, ...]) -> Subschema:
            known = self._found.get(id(contents))
            if known is not None:  # a pointer into a place that is no schema's came by before
                return known
            made = Subschema(contents, node.document, path, base, self.draft, side=self.side)
            stack.append(made)
            return made

        if shape is _MAP:
            if not isinstance(value, dict):
                return None
            made = {k: child(v, (*where, k)) for k, v in value.items() if isinstance(v, dict | bool)}
            return made or None if keyword == "dependencies" else made
        if isinstance(value, list):
            return [child(v, (*where, i)) for i, v in enumerate(value)]
        return child(value, where) if isinstance(value, dict | bool) else None

    def _identify(self, node: Subschema) -> None:
        declared = node.contents.get("$schema", self.draft)
        if isinstance(declared, str) and declared.removesuffix("#") != self.draft:
            place = pointer_to((*node.path, "$schema"))
            raise SchemaError(f"{place}: {declared!r} is another draft than {self.draft!r} around it; use one", pointer=place)
        own = node.contents.get(self._id)
        if isinstance(own, str):
            uri, _, fragment = own.partition("#")
            if uri:
                node.base = _joined(node.base, uri)
            if fragment and self.draft in LEGACY_DRAFTS:
                self._anchors.setdefault((node.base, fragment), node)
            if uri:
                self._resources.setdefault(node.base, node)
        if self.draft not in LEGACY_DRAFTS:
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := node.contents.get(keyword), str):
                    self._anchors.setdefault((node.base, anchor), node)
            if isinstance(anchor := node.contents.get("$dynamicAnchor"), str):
                self._dynamic.setdefault(anchor, []).append(node)
            if node.contents.get("$recursiveAnchor") is True:
                self._dynamic.setdefault("", []).append(node)

    # --- resolving references -----------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        resolved: set[int] = set()
        references = ("$ref", *self._late_references())
        while pending := [node for key, node in self._found.items() if key not in resolved]:
            for node in pending:  # a pointer may lead to a place that was not known to be a schema: it is walked then
                resolved.add(id(node.contents))
                if not node.contents.keys().isdisjoint(references):
                    node.refs = [
                        target
                        for keyword in references
                        if isinstance(text := node.contents.get(keyword), str)
                        for target in self._targets(node, keyword, text)
                    ]

    def _late_references(self) -> tuple[str, ...]:
        return {DRAFTS[3]: ("$recursiveRef",), DRAFTS[4]: ("$dynamicRef",)}.get(self.draft, ())

    def _targets(self, node: Subschema, keyword: str, text: str) -> list[Subschema]:
        target = self._target(node, keyword, text)
        if target is None:
            node.opaque = f"metaschema {text}"
            return []
        if keyword == "$ref":
            return [target]
        anchor = "" if keyword == "$recursiveRef" else unquote(text.partition("#")[2])
        late = self._dynamic.get(anchor, [])
        if target in late and len(late) > 1:
            node.opaque = "dynamic"
            return late
        return [target]

    def _target(self, node: Subschema, keyword: str, text: str) -> Subschema | None:
        if (node.base, text) not in self._targets_known:
            self._targets_known[node.base, text] = self._found_target(node, keyword, text)
        return self._targets_known[node.base, text]

    def _found_target(self, node: Subschema, keyword: str, text: str) -> Subschema | None:
        name, _, fragment = text.partition("#")
        uri = node.base if not name else _joined(node.base, name)
        resource = (self._roots.get(name) or self._roots.get(unquote(name)) if name else None) or self._resources.get(uri)
        if resource is None:
            if uri.removesuffix("#") == self.draft and not fragment:
                return None
            raise self._nowhere(node, keyword, text, f"there is no document {name or uri!r}")
        fragment = unquote(fragment)
        if not fragment:
            return resource
        if not fragment.startswith("/"):
            found = self._anchors.get((resource.base, fragment))
            if found is None:
                raise self._nowhere(node, keyword, text, f"there is no anchor {fragment!r}")
            return found
        return self._at(node, keyword, text, resource, fragment)

    def _at(self, node: Subschema, keyword: str, text: str, resource: Subschema, pointer: str) -> Subschema:
        contents, path, base = resource.contents, list(resource.path), resource.base
        for token in pointer[1:].split("/"):
            part = token.replace("~1", "/").replace("~0", "~")
            try:
                key: str | int = int(part) if isinstance(contents, list) else part
                contents = contents[key]
            except (KeyError, IndexError, ValueError, TypeError):
                place = pointer_to([*path, part])
                raise self._nowhere(node, keyword, text, f"there is nothing at {place}") from None
            path.append(key)
            if (known := self._found.get(id(contents))) is not None:
                base = known.base
        if isinstance(contents, dict) and (known := self._found.get(id(contents))) is not None:
            return known
        if not isinstance(contents, dict | bool):
            raise self._nowhere(node, keyword, text, f"there is no schema but {_told(contents)}")
        return self._walk(contents, resource.document, tuple(path), base)

    def _nowhere(self, node: Subschema, keyword: str, text: str, reason: str) -> SchemaError:
        path = (*node.path, keyword)
        names = ", ".join(repr(name) for name in list(self.contents)[:20] if name)
        there = f"references there are: {names}" if names else "there are no references to other documents"
        where = f"{node.document}#{pointer_to(path)}" if node.document else pointer_to(path)
        return SchemaError(
            f"{where}: the reference {text!r} leads nowhere: {reason}; {there}. Nothing is fetched.",
            pointer=pointer_to(path),
            document=node.document,
        )


def _joined(base: str, uri: str) -> str:
    if urlsplit(uri).scheme or not base:
        return uri
    return urljoin(base, uri)


def quoted(pointer: str) -> str:
    """A JSON pointer as it is written in the fragment of a URI."""
    return quote(pointer, safe="/~!$&'()*+,;=:@")


def _told(value: object) -> str:
    return json.dumps(value)[:60]
