"""Structs in the place of payloads of which only certain top-level fields count: they take less time than dicts."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

_UNFIT_FOR_FIELDS: Final = re.compile(r'["\\\x00-\x1f]')


def payload_struct(names: Iterable[str], *default: object) -> tuple[dict[str, str], type[Any]] | None:
    """``(the attribute of each field, the struct)``, in the order of ``names``; ``None`` if msgspec cannot name a field so.

    ``default`` is what a field has that the JSON lacks; without one, every field must be given.
    """
    attributes = {name: f"f{i}" for i, name in enumerate(names)}
    if any(map(_UNFIT_FOR_FIELDS.search, attributes)):
        return None
    fields = [(attribute, Any, *default) for attribute in attributes.values()]
    rename = {attribute: name for name, attribute in attributes.items()}
    return attributes, msgspec.defstruct("Payload", fields, rename=rename, gc=False)  # type: ignore[arg-type]
