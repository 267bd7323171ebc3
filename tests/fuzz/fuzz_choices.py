"""Bytes as decisions: what a fuzzing engine mutates becomes a path through a grammar, the same for the same bytes."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Decisions read from bytes, two for each; when they have run out, every decision is the first option."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def are_left(self) -> bool:
        return self._at < len(self._data)

    def below(self, bound: int) -> int:
        """A number from 0 to below ``bound``, which is at most 65536."""
        raw = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(raw, "little") % bound

    def of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def raw(self, most: int) -> bytes:
        """Up to ``most`` bytes as they are, of a length that is decided first."""
        size = self.below(most + 1)
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def rest(self) -> bytes:
        found = self._data[self._at :]
        self._at = len(self._data)
        return found
