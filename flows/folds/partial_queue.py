"""The queue of partials: what is summed up in a window that moves on, without ever taking a value out of a sum."""

from collections.abc import Sequence
from typing import TypeAlias

from event_streaming_bus.flows.aggregations import FieldPartial, merge_all
from event_streaming_bus.flows.folds.windows import combined, copied

Partials: TypeAlias = Sequence[FieldPartial]


class PartialQueue:
    """A first-in, first-out queue of partials that knows the partial of all that it holds.

    Partials are merged, never subtracted, so it serves extremes, too, and loses no exactness. It is kept as two stacks: the back
    has what came in since the last turn, and its sum; the front has, for each older item, the sum of it and of all younger items
    of the front. When the front is empty the back is turned over to it, so each item is merged about three times in its life.
    """

    __slots__ = ("_back", "_back_sum", "_front")

    def __init__(self) -> None:
        self._front: list[Partials] = []
        self._back: list[Partials] = []
        self._back_sum: list[FieldPartial] = []

    def __len__(self) -> int:
        return len(self._front) + len(self._back)

    def push(self, partials: Partials) -> None:
        """Put in what must not be changed any more."""
        back = self._back
        back.append(partials)
        if len(back) == 2:  # of one item, the sum is the item itself
            self._back_sum = combined(back[0], partials)
        elif len(back) > 2:
            merge_all(self._back_sum, partials)

    def pop(self) -> None:
        """Drop the oldest item; there must be one."""
        front = self._front
        if not front:
            back, self._back, self._back_sum = self._back, [], []
            running = back.pop()
            front.append(running)
            while back:
                running = combined(back.pop(), running)
                front.append(running)
        front.pop()

    def total(self) -> Partials:
        """The partials of all items, of which there must be one. What is returned is not to be changed."""
        front, back = self._front, self._back
        if not back:
            return front[-1]
        if front:
            return combined(front[-1], back[0] if len(back) == 1 else self._back_sum)
        return back[0] if len(back) == 1 else copied(self._back_sum)

    def save(self) -> tuple[list[Partials], list[Partials], list[FieldPartial]]:
        return self._front, self._back, self._back_sum

    @classmethod
    def load(cls, saved: tuple[list[Partials], list[Partials], list[FieldPartial]]) -> "PartialQueue":
        queue = cls()
        queue._front, queue._back, queue._back_sum = saved
        return queue
