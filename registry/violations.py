"""What is wrong with a payload, and where."""

from collections.abc import Sequence
from typing import Final

import msgspec

MAX_VIOLATIONS: Final = 100


class Violation(msgspec.Struct, frozen=True):
    """One thing that is wrong with a payload. ``path`` is dotted, ``pointer`` a JSON pointer; both are empty for the payload
    itself. ``rule`` is the schema's keyword or the business rule's name, ``kind`` says which (``schema`` or ``rule``)."""

    path: str
    pointer: str
    rule: str
    message: str
    kind: str = "schema"
    severity: str = "error"


def violation(path: Sequence[str | int], rule: str, message: str) -> Violation:
    """A payload's value at ``path`` breaks its schema."""
    dotted = ""
    for part in path:
        dotted += f"[{part}]" if isinstance(part, int) else f".{part}" if dotted else part
    return Violation(dotted, pointer_to(path), rule, message[:1000])


def pointer_to(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path; empty for the whole."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
