"""What is kept of a field's values beyond their count, sum and extremes: one state for each need."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

NUMBERS: Final[frozenset[type]] = frozenset({int, float, type(None)})
ORDERED: Final[frozenset[type]] = frozenset({int, float, str, type(None)})
ANYTHING: Final[frozenset[type]] = frozenset({int, float, str, bool, list, dict, type(None)})

Entry: TypeAlias = tuple[int, str, Any]
"""``(timestamp in ms, event id, value)``: a value with its place in event-time order. No two events have the same place."""


class Kept(ABC):
    """A state that values are added to. It pickles, and its size is bounded by its options, not by the number of values.

    ``accepted``: the JSON types of its values. ``ordered``: what is added are entries instead of bare values. Nulls are never
    added.
    """

    __slots__ = ()
    accepted: ClassVar[frozenset[type]] = ANYTHING
    ordered: ClassVar[bool] = False

    def __init__(self, *options: Any) -> None:  # noqa: B027 - a state without options needs none
        pass

    @abstractmethod
    def add(self, values: Sequence[Any]) -> None:
        """Add values (entries, where ``ordered``)."""

    @abstractmethod
    def absorb(self, other: Any) -> None:
        """Add all that ``other``, of the same class and options, holds; ``other`` stays as it is and shares nothing."""


class Need(msgspec.Struct, frozen=True):
    """A state that a function needs. Functions with equal needs share it."""

    kind: type[Kept]
    options: tuple[Any, ...] = ()

    def empty(self) -> Kept:
        return self.kind(*self.options)
