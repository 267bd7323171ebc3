"""Whether documents that one JSON Schema allows are allowed by another, and if not, why.

The verdict is a proof (``proof``): no differences means that no document exists which the writer's schema allows and
the reader's does not. Where no proof is found, ``reasons`` tells at which places. A difference may thus be reported where a
proof was only not found; the other way round is never the case.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.json.documents import checked_copies
from event_streaming_bus.registry.json.proof import MAX_COMPARED, Prover, TooComplexError
from event_streaming_bus.registry.json.reasons import reasons
from event_streaming_bus.registry.json.subschemas import Documents, TooManyError

MAX_DIFFERENCES: Final = 50
_TOO_COMPLEX: Final = Difference(
    "TOO_COMPLEX",
    "",
    "the schemas are too complex to prove that every document of the writer can be read",
    "Change less at once, or make the schemas smaller: fewer alternatives, fewer levels, fewer references.",
)
_NOT_COVERED: Final = Difference(
    "NOT_COVERED",
    "",
    "the reader's schema was not found to allow every document of the writer's",
    "Keep what the two say in the same words, apart from what the reader allows in addition.",
)


def differences(
    reader: Any,
    writer: Any,
    reader_references: Mapping[str, Any] | None = None,
    writer_references: Mapping[str, Any] | None = None,
) -> list[Difference]:
    """Why documents that are valid by ``writer`` may be invalid by ``reader``; empty: every one of them is valid by both.

    At most ``MAX_DIFFERENCES``, found with bounded work: what cannot be judged within it is ``TOO_COMPLEX``. Formats are taken
    to be checked. Raises ``SchemaError`` for a schema that ``JsonSchemaValidator`` refuses, unless the two are the same.
    """
    read, written = checked_copies(reader, reader_references or {}), checked_copies(writer, writer_references or {})
    if json.dumps(read, sort_keys=True) == json.dumps(written, sort_keys=True):
        return []
    try:
        reading, writing = Documents(read, "reader", MAX_COMPARED), Documents(written, "writer", MAX_COMPARED)
    except TooManyError:
        return [_TOO_COMPLEX]
    prover = Prover(reading, writing)
    found: list[Difference] = []
    try:
        facts = frozenset((writing.root,))
        if prover.proves(facts, reading.root):
            return []
        for difference in reasons(prover, facts, reading.root):
            if difference not in found:
                found.append(difference)
            if len(found) >= MAX_DIFFERENCES:
                break
    except (TooComplexError, RecursionError):
        return found or [_TOO_COMPLEX]
    return found or [_NOT_COVERED]
