"""States of dead letters, carried: what became of a letter is a mark at its place, and its place at the target is another."""

from collections.abc import Iterator
from typing import Final

from event_streaming_bus.errors import FencedError
from event_streaming_bus.migration.checking import Placed
from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.models import Split
from event_streaming_bus.store.letters import BLOCK_LETTERS
from event_streaming_bus.store.log.base import EventLog, Mark

_AT_ONCE: Final = 1000


class LetterStates:
    """Carries the states of a tenant's letters while the ends are compared. One that has a state at the target keeps it."""

    def __init__(self, source: EventLog, target: EventLog, pair: Pair) -> None:
        self._source = source
        self._target = target
        self._pair = pair
        self._marks: tuple[str, dict[str, bytes]] = ("", {})
        self._waiting: list[tuple[Split, int, bytes]] = []
        self.carried = 0

    def see(self, placed: Placed) -> None:
        """Look at a record of the journal."""
        for number, rank, place in zip(placed.numbers, placed.ranks, placed.places, strict=True):
            at = rank - placed.missing[number]
            if place is None or at < 0:
                continue
            state = self._state(placed.copied.pieces[number].split(placed.copied.stream_id), placed.offsets[number][at])
            if state is not None:
                self._waiting.append((*place, state))
        if len(self._waiting) >= _AT_ONCE:
            self.finish()

    def _state(self, split: Split, offset: int) -> bytes | None:
        owner = _owner(split, offset)
        if self._marks[0] != owner:
            self._marks = owner, self._source.marks(owner)
        return self._marks[1].get(str(offset))

    def finish(self) -> None:
        """Write what waits."""
        for marks in self._missing():
            try:
                self._target.append([], marks=marks)
            except FencedError:  # somebody has decided on one of them at this moment: that one is left
                for mark in marks:
                    self.carried += self._set(mark)
            else:
                self.carried += len(marks)
        self._waiting.clear()

    def _missing(self) -> Iterator[list[Mark]]:
        by_owner: dict[str, list[tuple[str, bytes]]] = {}
        for split, offset, state in self._waiting:
            by_owner.setdefault(_owner(split, offset), []).append((str(offset), state))
        for owner, states in by_owner.items():
            there = self._target.marks(owner)
            if marks := [Mark(owner, key, None, state) for key, state in states if key not in there]:
                yield marks

    def _set(self, mark: Mark) -> bool:
        try:
            self._target.append([], marks=[mark])
        except FencedError:
            return False
        return True


def _owner(split: Split, offset: int) -> str:
    """The owner of the mark of a letter, as ``store.letters`` names it."""
    return f"dead-letters:{split}/{offset // BLOCK_LETTERS}"
