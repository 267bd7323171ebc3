"""The personal fields of a JSON Schema: ``"x-personal": true`` where they are, ``"x-subject"`` at the top for whose they are."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.json.documents import checked_copies
from event_streaming_bus.registry.json.schema import leaf
from event_streaming_bus.registry.json.subschemas import Documents, Subschema
from event_streaming_bus.registry.json.unfolding import SAME_VALUE
from event_streaming_bus.registry.personal import Form, PersonalFields, compiled, mark_of, subject_pointer
from event_streaming_bus.registry.violations import pointer_to

PERSONAL: Final = "x-personal"
SUBJECT: Final = "x-subject"
_REFUSED: Final = {
    "not": "below 'not', which says what a value is not",
    "propertyNames": "below 'propertyNames': the names of members are not encrypted",
    "unevaluatedProperties": "below 'unevaluatedProperties'; 'additionalProperties' can be",
    "unevaluatedItems": "below 'unevaluatedItems'; 'items' can be",
}
_SAME: Final = tuple(keyword for keyword in SAME_VALUE if keyword not in _REFUSED)


def personal_of_json(document: Any, references: Mapping[str, Any]) -> PersonalFields | None:
    """The personal fields of a schema, with the documents it refers to; None if it has none. Raises ``SchemaError`` for a mark
    that is malformed, or where it cannot be kept."""
    if not any(b'"x-personal"' in msgspec.json.encode(each) for each in (document, *references.values())):
        return None
    documents = Documents(checked_copies(document, references))
    forms: dict[int, Form] = {}
    refused: list[tuple[str, Form]] = []
    waiting: list[Subschema] = []

    def form_of(schema: Subschema) -> Form:
        form = forms.get(id(schema))
        if form is None:
            form = forms[id(schema)] = Form(schema.place)
            waiting.append(schema)
        return form

    root = form_of(documents.root)
    while waiting:
        schema = waiting.pop()
        if isinstance(schema.contents, dict):
            _fill(forms[id(schema)], schema, documents.draft, form_of)
            refused += [(why, form_of(part)) for keyword, why in _REFUSED.items() for part in schema.parts_of(keyword)]
    contents = documents.root.contents
    subject = contents.get(SUBJECT) if isinstance(contents, dict) else None
    if (place := next(_below_top(contents), None)) is not None:
        raise SchemaError(
            f"{place}: it is told once, at the top; a single field's is told by 'x-personal': {{'subject': JSON pointer}}",
            pointer=place,
        )
    pointer = None if subject is None else subject_pointer(subject, (SUBJECT,), relative=False)
    return compiled(root, pointer, refused)


def _fill(form: Form, schema: Subschema, draft: str, form_of: Callable[[Subschema], Form]) -> None:
    contents, parts = schema.contents, schema.parts
    if PERSONAL in contents:
        form.mark = mark_of(contents[PERSONAL], (*schema.path, PERSONAL))
    form.same = [form_of(each) for each in (*schema.refs, *(part for keyword in _SAME for part in schema.parts_of(keyword)))]
    form.members = {name: form_of(each) for name, each in (parts.get("properties") or {}).items()}
    form.named = frozenset(form.members)
    form.patterns = [(_matcher(draft, pattern), form_of(e)) for pattern, e in (parts.get("patternProperties") or {}).items()]
    form.others = _one(parts, "additionalProperties", form_of)
    first = parts.get("items") if isinstance(parts.get("items"), list) else parts.get("prefixItems")
    form.first = [form_of(each) for each in first or ()]
    form.rest = _one(parts, "additionalItems" if isinstance(parts.get("items"), list) else "items", form_of)
    form.every = [form_of(each) for each in schema.parts_of("contains")]


def _one(parts: Mapping[str, Any], keyword: str, form_of: Callable[[Subschema], Form]) -> Form | None:
    part = parts.get(keyword)
    return form_of(part) if isinstance(part, Subschema) else None


def _matcher(draft: str, pattern: str) -> Callable[[str], bool]:
    is_meant: Callable[[str], bool] = leaf(draft, "pattern", msgspec.json.encode(pattern).decode()).is_valid
    return is_meant


def _below_top(contents: Any) -> Iterator[str]:
    """Where ``x-subject`` with a text stands below the top of the root document."""
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(contents, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, dict):
            if path and isinstance(value.get(SUBJECT), str):
                yield pointer_to((*path, SUBJECT))
            waiting += [
                (each, (*path, name)) for name, each in value.items() if name not in ("const", "enum", "default", "examples")
            ]
        elif isinstance(value, list):
            waiting += [(each, (*path, i)) for i, each in enumerate(value)]
