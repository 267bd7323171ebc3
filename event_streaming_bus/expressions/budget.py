"""What an expression may make and spend: bounds that depend on the data alone, never on the clock, so that doing the work
again gives the same answer."""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

MAX_SIZE: Final = 1 << 20
"""The longest text or list that one operation makes, in characters or elements."""
MAX_STEPS: Final = 1 << 24
"""The steps of a comprehension: its elements times what is done with each."""
MAX_MADE_CHARS: Final = 1 << 24
"""The characters and elements of all texts and lists that a comprehension makes on the way."""
_CHARS_PER_STEP: Final = 16

_T = TypeVar("_T")


def check_size(size: int) -> None:
    """Raises ``ValueError`` if a text or list of this size is too large."""
    if size > MAX_SIZE:
        raise ValueError(f"the result is too large: {size:,} characters or items; at most {MAX_SIZE:,} are allowed")


def size_of(value: Any, limit: int = MAX_SIZE) -> int:
    """The characters and elements of a JSON value and all within it; counting stops above ``limit``."""
    size, open_values = 0, [value]
    while open_values and size <= limit:
        each = open_values.pop()
        size += 1
        if isinstance(each, str):
            size += len(each)
        elif each.__class__ is list or each.__class__ is tuple:
            size += len(each)
            open_values += each
        elif each.__class__ is dict:
            size += sum(map(len, each))
            open_values += each.values()
    return size


class Budget:
    """The budget of one run of a comprehension.

    ``operations`` are done with each of the ``items``, some of them with the values ``others`` from outside of it. Raises
    ``ValueError`` if it takes more than ``MAX_STEPS``.
    """

    __slots__ = ("_held", "_held_size", "_left", "items")

    def __init__(self, items: Sequence[Any], operations: int, others: Sequence[Any]) -> None:
        self.items = items
        self._left = MAX_MADE_CHARS
        self._held: Any = None
        self._held_size = 1
        each = operations + sum(size_of(other, MAX_STEPS) // _CHARS_PER_STEP for other in others)
        if len(items) * each > MAX_STEPS:
            raise ValueError(f"too much to do: about {each:,} steps for each of {len(items):,} elements")

    def spend(self, value: _T) -> _T:
        """``value``, after its size was taken from the budget. Raises ``ValueError`` if nothing is left."""
        if isinstance(value, str | list | tuple):
            self._take(len(value))
        return value

    def hold(self, value: _T) -> _T:
        """``value``, an element, after the size of all within it was taken from the budget: it may be one from outside, which
        each element holds again. Raises ``ValueError`` if nothing is left."""
        if value is not self._held:  # most often it is one and the same, and perhaps large
            self._held, self._held_size = value, size_of(value, self._left)
        self._take(self._held_size)
        return value

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"too much to do: more than {MAX_MADE_CHARS:,} characters or elements are made on the way")
