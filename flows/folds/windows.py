"""What the folds of windows share: the result of a window, and a window that is still open."""

from collections.abc import Sequence

import msgspec

from event_streaming_bus.flows.accumulator import Accumulator
from event_streaming_bus.flows.aggregations import FieldPartial, FieldPlan, merge_all
from event_streaming_bus.flows.folds.base import Result
from event_streaming_bus.flows.window_config import Updates


class WindowResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a window of a key says: of how many events, with one partial for each plan. It is not to be changed.

    ``start_ms`` and ``end_ms`` are None for a global window. Revisions of a window count from 1; the last one is final. With
    ``retraction`` it takes back what the same revision said before.
    """

    start_ms: int | None
    end_ms: int | None
    count: int
    partials: list[FieldPartial]
    revision: int = 1
    is_final: bool = True
    retraction: bool = False


def copied(partials: Sequence[FieldPartial]) -> list[FieldPartial]:
    """The same partials, which stay as they are when the given ones go on being added to."""
    fresh = [FieldPartial() for _ in partials]
    merge_all(fresh, partials)
    return fresh


def combined(one: Sequence[FieldPartial], other: Sequence[FieldPartial]) -> list[FieldPartial]:
    """The partials of the values of both, neither of which is changed."""
    fresh = copied(one)
    merge_all(fresh, other)
    return fresh


class OpenWindow:
    """A window of one key that goes on taking events, and what it has said so far.

    ``is_fresh``: it took events since the last update. The owner of the window keeps the times, and says when there is a result.
    """

    __slots__ = ("accumulator", "first_ms", "is_fresh", "last_ms", "revision", "said")

    def __init__(self, accumulator: Accumulator, first_ms: int) -> None:
        self.accumulator = accumulator
        self.first_ms = first_ms
        self.last_ms = first_ms
        self.is_fresh = False
        self.revision = 0
        self.said: WindowResult | None = None

    def update(
        self,
        results: list[Result],
        at_ms: int,
        timestamp_ms: int,
        key: bytes,
        span: tuple[int | None, int | None],
        retract: bool,
    ) -> None:
        """Append the next revision, after the retraction of the one before if ``retract``."""
        said = WindowResult(*span, self.accumulator.count, copied(self.accumulator.partials()), self.revision + 1, is_final=False)
        self._append(results, at_ms, timestamp_ms, key, said)
        if retract:
            self.said = said

    def close(
        self, results: list[Result], at_ms: int, timestamp_ms: int, key: bytes, span: tuple[int | None, int | None]
    ) -> None:
        """Append the last revision, after the retraction of the one before if there is something to take back."""
        said = WindowResult(*span, self.accumulator.count, self.accumulator.partials(), self.revision + 1)
        self._append(results, at_ms, timestamp_ms, key, said)

    def _append(self, results: list[Result], at_ms: int, timestamp_ms: int, key: bytes, said: WindowResult) -> None:
        before = self.said
        if before is not None:
            taken_back = msgspec.structs.replace(before, retraction=True)
            identity = (before.start_ms, before.end_ms, before.revision, True)
            results.append(Result(at_ms, timestamp_ms, key, identity, taken_back))
        self.revision = said.revision
        self.is_fresh = False
        results.append(Result(at_ms, timestamp_ms, key, (said.start_ms, said.end_ms, said.revision, False), said))

    def save(self) -> tuple[object, ...]:
        return self.accumulator.save(), self.first_ms, self.last_ms, self.is_fresh, self.revision, self.said

    @classmethod
    def load(cls, plans: Sequence[FieldPlan], saved: tuple[object, ...]) -> "OpenWindow":
        accumulator, first_ms, *rest = saved
        window = cls(Accumulator.load(plans, accumulator), first_ms)  # type: ignore[arg-type]
        window.last_ms, window.is_fresh, window.revision, window.said = rest  # type: ignore[assignment]
        return window


def next_multiple(every_ms: int, since_ms: int, after_ms: int) -> int:
    """The first of ``since_ms + k * every_ms`` after ``after_ms``."""
    return after_ms - (after_ms - since_ms) % every_ms + every_ms


def rhythm(updates: Updates | None) -> tuple[int, int, bool]:
    """``every_ms``, ``every_events`` and ``retract``, with 0 for what is not set."""
    if updates is None:
        return 0, 0, False
    return updates.every_ms or 0, updates.every_events or 0, updates.retract
