"""JSON Schema documents before anything is known of their subschemas: plain JSON of a bounded size, of one draft, well formed."""

import json
from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.violations import pointer_to

MAX_SCHEMA_BYTES: Final = 1 << 20
MAX_SCHEMA_DEPTH: Final = 100
DEFAULT_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
DRAFTS: Final = (
    "http://json-schema.org/draft-04/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    DEFAULT_DRAFT,
)
LEGACY_DRAFTS: Final = DRAFTS[:3]
"""In these a ``$ref`` stands for all of its subschema: whatever is beside it does not count."""


def checked_copies(schema: Any, references: Mapping[str, Any]) -> dict[str, Any]:
    """The documents as plain JSON, by name; the root's is empty. ``SchemaError`` for what is too deep, too large or no JSON."""
    copies: dict[str, Any] = {}
    size = 0
    for name, document in (("", schema), *references.items()):
        where = f"{name}: " if name else ""
        if not isinstance(document, Mapping | bool):
            raise SchemaError(f"{where}expected a JSON Schema as an object, got {type(document).__name__}")
        _check_bounds(document, where)
        try:
            text = json.dumps(document, default=_as_dict, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"{where}the schema is no JSON: {error}") from error
        size += len(text)
        if size > MAX_SCHEMA_BYTES:
            what = "the schema and its references have" if references else "the schema has"
            raise SchemaError(f"{what} {size:,} bytes as JSON; at most {MAX_SCHEMA_BYTES:,} are accepted")
        copies[name] = json.loads(text)
    return copies


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _check_bounds(schema: object, where: str) -> None:
    """Before it is written as JSON: objects that are shared in memory, as YAML's anchors make them, may unfold to any size."""
    level: list[Any] = [schema]
    depth, size = -1, 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaError(f"{where}the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        following: list[Any] = []
        for item in level:
            if isinstance(item, str):
                size += len(item)
            elif item is None or isinstance(item, int | float):
                size += 1
            elif isinstance(item, dict | Mapping):
                size += 2 + len(item)
                following += item.values()
            elif isinstance(item, list | tuple):
                size += 2 + len(item)
                following += item
            if size > MAX_SCHEMA_BYTES:
                raise SchemaError(f"{where}the schema has more bytes than the {MAX_SCHEMA_BYTES:,} that are accepted as JSON")
        level = following


def draft_of(contents: Mapping[str, Any]) -> str:
    """The draft that all documents are of: the root's, or the latest."""
    declared = {
        name: str(document["$schema"]).removesuffix("#")
        for name, document in contents.items()
        if isinstance(document, dict) and "$schema" in document
    }
    for name, draft in declared.items():
        if draft not in DRAFTS:
            raise SchemaError(
                f"{name + '#' if name else ''}/$schema: {draft!r} is not known; accepted: {', '.join(DRAFTS)}",
                pointer="/$schema",
            )
    root = declared.get("", DEFAULT_DRAFT)
    for name, draft in declared.items():
        if draft != root:
            raise SchemaError(
                f"{name}#/$schema: {draft!r} is another draft than {root!r} of the schema that refers to it; use one for both",
                pointer="/$schema",
                document=name,
            )
    return root


def check_form(name: str, contents: Any, draft: str) -> None:
    """``SchemaError`` for a document that is no schema of the draft, with the place."""
    if isinstance(contents, bool):
        if draft == DRAFTS[0]:
            raise SchemaError(f"{name or '/'}: true and false are no schemas in {draft}")
        return
    try:
        jsonschema_rs.meta.validate(contents | {"$schema": draft})
    except jsonschema_rs.ValidationError as error:
        pointer = pointer_to(list(error.instance_path))
        where = f"{name}#{pointer}" if name else pointer or "/"
        raise SchemaError(f"{where}: {first_line(error)}", pointer=pointer, document=name) from None
    except ValueError as error:
        raise SchemaError(f"{name or '/'}: {error}") from None


def first_line(error: Any) -> str:
    """What the compiled validator says, without the schema that it repeats."""
    return (str(error.message).splitlines() or [""])[0][:500]
