"""The accumulator: what an AGGREGATE keeps of one window of one key."""

from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.flows.aggregations import FieldPartial, FieldPlan, merge_all, summarize_all

_PENDING: Final = 64


class Accumulator:
    """Counts events and sums up their fields: one partial for each of ``plans``.

    Values are kept as they come and summed up in one go, 64 at a time, since summing up a column is much faster than adding
    value by value. The result does not depend on the order of adding.
    """

    __slots__ = ("_columns", "_partials", "_plans", "count")

    def __init__(self, plans: Sequence[FieldPlan]) -> None:
        self.count = 0
        self._plans = plans
        self._columns: list[tuple[Any, ...]] = []
        self._partials: list[FieldPartial] | None = None

    def add(self, values: tuple[Any, ...]) -> None:
        """One event, with a value for each plan."""
        self.count += 1
        if self._plans:
            self._columns.append(values)
            if len(self._columns) >= _PENDING:
                self._settle()

    def absorb(self, other: "Accumulator") -> None:
        """All that another one, of the same plans, holds. The other is not to be used any more."""
        self.count += other.count
        for column in (self, other):
            column._settle()
        if other._partials is not None:
            self._merge(other._partials)

    def partials(self) -> list[FieldPartial]:
        """What is kept, one partial for each plan. Adding may go on afterwards; what was returned is then not to be used any
        more."""
        self._settle()
        return self._partials if self._partials is not None else [FieldPartial() for _ in self._plans]

    def _settle(self) -> None:
        if not self._columns:
            return
        columns, self._columns = self._columns, []
        fresh = summarize_all(self._plans, zip(*columns, strict=True))
        self._merge(fresh)

    def _merge(self, others: list[FieldPartial]) -> None:
        if self._partials is None:
            self._partials = others
        else:
            merge_all(self._partials, others)

    def save(self) -> tuple[int, list[tuple[Any, ...]], list[FieldPartial] | None]:
        """All that is kept, to be pickled before adding goes on: it is not copied."""
        return self.count, self._columns, self._partials

    @classmethod
    def load(
        cls, plans: Sequence[FieldPlan], saved: tuple[int, list[tuple[Any, ...]], list[FieldPartial] | None]
    ) -> "Accumulator":
        """An accumulator that goes on from what ``save`` returned; ``plans`` are those of then."""
        accumulator = cls(plans)
        accumulator.count, accumulator._columns, accumulator._partials = saved
        return accumulator
