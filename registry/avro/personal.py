"""The personal fields of an Avro schema: ``"personal": true`` on a record's field, ``"subject"`` at the top for whose it is.

What stands in the place of a personal value is text, so the field must be a string, or a string or null.
"""

from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.avro.parsing import parse
from event_streaming_bus.registry.avro.types import Path
from event_streaming_bus.registry.personal import Form, PersonalFields, compiled, mark_of, subject_pointer
from event_streaming_bus.registry.violations import pointer_to

PERSONAL: Final = "personal"
SUBJECT: Final = "subject"


def personal_of_avro(definition: str, references: Sequence[str]) -> PersonalFields | None:
    """The personal fields of a schema, those of the types in its references included; None if it has none. Raises ``SchemaError``
    for a mark that is malformed, or on a field that cannot hold text."""
    if not any('"personal"' in text for text in (definition, *references)):
        return None
    forms = _Forms()
    for i, text in enumerate(references):
        forms.of(parse(text, references[:i])[1], (f"references[{i}]",))
    _, normal = parse(definition, references)
    root = forms.of(normal, ())
    found = compiled(root, None, ())
    if found is not None and isinstance(normal, dict) and SUBJECT in normal:
        found.subject = subject_pointer(normal[SUBJECT], (SUBJECT,), relative=False)
    return found


class _Forms:
    """Forms of types that are written with full names; of each named type, one."""

    def __init__(self) -> None:
        self._named: dict[str, Form] = {}

    def of(self, normal: Any, path: Path) -> Form:
        """The form of a type whose named types are known, or defined in it."""
        if isinstance(normal, str):
            return self._named.get(normal) or Form(pointer_to(path))
        form = Form(pointer_to(path))
        if isinstance(normal, list):
            form.same = [self.of(each, (*path, i)) for i, each in enumerate(normal)]
            return form
        kind = normal["type"]
        if kind == "record":
            form = self._named.setdefault(normal["name"], form)
            form.members = {field["name"]: self._field(field, (*path, "fields", i)) for i, field in enumerate(normal["fields"])}
        elif kind == "array":
            form.rest = self.of(normal["items"], (*path, "items"))
        elif kind == "map":
            form.others = self.of(normal["values"], (*path, "values"))
        elif not isinstance(kind, str) or kind in self._named:
            return self.of(kind, (*path, "type"))
        return form

    def _field(self, field: dict[str, Any], path: Path) -> Form:
        form = Form(pointer_to(path))
        form.same = [self.of(field["type"], (*path, "type"))]
        if PERSONAL in field:
            where = (*path, PERSONAL)
            form.mark = mark_of(field[PERSONAL], where)
            if form.mark is not None and not _holds_text(field["type"]):
                place = pointer_to(where)
                raise SchemaError(
                    f"{place}: the field {field['name']!r} cannot be personal: what is kept of a personal value is text, so its "
                    "type must be string, or null and string, without a logical type",
                    pointer=place,
                )
        return form


def _holds_text(normal: Any) -> bool:
    """Whether a type is a string, or a string or null."""
    branches = normal if isinstance(normal, list) else [normal]
    kinds = [each if isinstance(each, str) else each["type"] if "logicalType" not in each else "" for each in branches]
    return (
        "string" in kinds
        and {"string", "null"}.issuperset(kind for kind in kinds if isinstance(kind, str))
        and all(isinstance(kind, str) for kind in kinds)
    )
