"""Types of a declared fold's state: a few words, checked when the file is read and when a field gets a value."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from event_streaming_bus.flows.checker import Path, Problems, describe, suggest
from event_streaming_bus.flows.types import Kind, Type, kind_of

WORDS: Final[Mapping[str, frozenset[Kind]]] = {
    "any": frozenset(Kind),
    "boolean": frozenset({Kind.BOOLEAN}),
    "integer": frozenset({Kind.INTEGER}),
    "list": frozenset({Kind.LIST}),
    "number": frozenset({Kind.INTEGER, Kind.NUMBER}),
    "object": frozenset({Kind.OBJECT}),
    "text": frozenset({Kind.TEXT}),
}


class FieldType(NamedTuple):
    """The type of a field of the state: a word, with a question mark if null is a value, too."""

    word: str
    kinds: frozenset[Kind]

    @property
    def type(self) -> Type:
        return Type(None if self.word.startswith("any") else self.kinds)

    def check(self, field: str, value: Any) -> None:
        """Raises ``ValueError`` for a value of another type."""
        if kind_of(value) not in self.kinds:
            raise ValueError(f"state.{field} is {self.word}, not {describe(value)}")


def read_type(value: object, path: Path, problems: Problems) -> Any:
    """A reader of types: ``integer``, ``text?``."""
    if isinstance(value, str):
        word = value.removesuffix("?")
        if word in WORDS:
            return FieldType(value, WORDS[word] | {Kind.NULL} if value.endswith("?") else WORDS[word])
    accepted = f"one of {', '.join(WORDS)}, with a question mark if it may be null"
    return problems.reject(path, accepted, value, suggest(value, WORDS) if isinstance(value, str) else "")
