"""Compatibility levels: which earlier versions a new one is compared with, in which direction."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

import msgspec

from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.parsing import ParsedSchema
from event_streaming_bus.store.schemas import SchemaRecord

MAX_SHOWN: Final = 20


class CompatibilityLevel(StrEnum):
    """What a new version of a schema must be compatible with.

    BACKWARD: readers with the new version read what the latest one wrote. FORWARD: readers with the latest version read what the
    new one writes. FULL: both. The transitive levels compare with all versions, not the latest alone. NONE compares with none.
    """

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def is_transitive(self) -> bool:
        return self.value.endswith("_TRANSITIVE")

    @property
    def directions(self) -> tuple[str, ...]:
        """``BACKWARD``, ``FORWARD``, both or none."""
        kind = self.value.removesuffix("_TRANSITIVE")
        return {"NONE": (), "FULL": ("BACKWARD", "FORWARD")}.get(kind, (kind,))


DEFAULT_LEVEL: Final = CompatibilityLevel.BACKWARD


class Incompatibility(msgspec.Struct, frozen=True):
    """An earlier version that a new one is not compatible with. BACKWARD: the new one cannot read what it wrote; FORWARD: it
    cannot read what the new one writes."""

    version: int
    schema_version: str
    direction: str
    differences: tuple[Difference, ...]


def incompatibilities(
    candidate: ParsedSchema,
    candidate_format: str,
    earlier: Sequence[tuple[SchemaRecord, ParsedSchema]],
    level: CompatibilityLevel,
) -> list[Incompatibility]:
    """The versions among ``earlier`` (oldest first) that the level wants ``candidate`` to be compatible with and it is not, the
    newest first."""
    found = []
    for record, parsed in reversed(earlier if level.is_transitive else earlier[-1:]):
        for direction in level.directions:
            differences = (
                _between(candidate, parsed, direction)
                if record.format == candidate_format
                else [_format_changed(record.format, candidate_format)]
            )
            if differences:
                found.append(Incompatibility(record.version, record.schema_version, direction, tuple(differences)))
    return found


def _between(candidate: ParsedSchema, earlier: ParsedSchema, direction: str) -> Sequence[Difference]:
    return _differences(candidate, earlier) if direction == "BACKWARD" else _differences(earlier, candidate)


@lru_cache(maxsize=256)
def _differences(reader: ParsedSchema, writer: ParsedSchema) -> tuple[Difference, ...]:
    """Parsed schemas are kept by their parser, so the same two are compared once: for the level, and for the version's number."""
    return tuple(reader.differences(writer))


def _format_changed(old: str, new: str) -> Difference:
    return Difference(
        "SCHEMA_TYPE_CHANGED",
        "",
        f"the earlier version is {old}, the new one {new}",
        f"Register it as {old}, or under another name.",
    )


def sentences(found: Sequence[Incompatibility]) -> list[str]:
    """The differences as text, one a line, at most ``MAX_SHOWN``: with the version they are to, pointer, kind and what mends
    it."""
    lines = [
        f"{each.direction} with version {each.version} ({each.schema_version}): {difference.kind} at "
        f"{difference.pointer or '/'} of the {'new' if _is_new(each, difference) else 'earlier'} schema: {difference.message}. "
        f"{difference.fix}"
        for each in found
        for difference in each.differences
    ]
    more = len(lines) - MAX_SHOWN
    return lines[:MAX_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def _is_new(incompatibility: Incompatibility, difference: Difference) -> bool:
    """Whether the pointer is one into the new schema."""
    return (difference.side == "reader") == (incompatibility.direction == "BACKWARD")
