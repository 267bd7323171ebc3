"""What became of the events of a split since it was last told: the deliveries, on their way to the history.

Everything below what is committed was handed out and is done, but for what a ledger notes: events that were parked, that had
expired, or that were passed over unread. So a run of millions of events costs no more than one of a few.
"""

from bisect import bisect_right
from typing import Final, NamedTuple

from event_streaming_bus.models import Split
from event_streaming_bus.store.history_records import PASSED, EventError

MAX_MIXED: Final = 1024
"""So many events share one stretch at the most if their outcomes differ."""
_MAX_TIMES: Final = 1000


class Stretch(NamedTuple):
    """Neighbouring events of a split that are done. ``outcomes`` has one byte for each, or a single one for all;
    ``started_us``: when the first of them was handed out."""

    split: Split
    offset: int
    size: int
    outcomes: bytes
    errors: tuple[EventError, ...]
    started_us: int

    @property
    def end_offset(self) -> int:
        return self.offset + self.size


class SplitLedger:
    """Not safe for threads: its owner has a lock.

    Memory: one entry for each event since the last commit that is not simply done, and for at most 1000 times of handing out;
    after that, later events count as handed out with earlier ones.
    """

    __slots__ = ("_again", "_outcomes", "_skipped", "_times", "reported", "split")

    def __init__(self, split: Split, offset: int) -> None:
        self.split = split
        self.reported = offset
        """Everything before this has been told, or is none of this ledger's concern."""
        self._outcomes: dict[int, tuple[int, EventError | None]] = {}
        self._skipped: list[tuple[int, int]] = []
        self._times: list[tuple[int, int]] = []  # (first offset, when it was handed out)
        self._again: dict[int, int] = {}  # when events were handed out that were so before

    def start_over(self, offset: int) -> None:
        """Reading goes on at ``offset``, and what was not told of before never is."""
        self.reported = offset
        for kept in (self._outcomes, self._skipped, self._times, self._again):
            kept.clear()

    def skip(self, begin: int, end: int) -> None:
        """These offsets are passed over: nothing is told of them."""
        if self.reported == begin:
            self.reported = end
        else:
            self._skipped.append((begin, end))

    def handed_out(self, offset: int, now_us: int) -> None:
        """Events were handed out for the first time, from this one on."""
        if len(self._times) < _MAX_TIMES:
            self._times.append((offset, now_us))

    def handed_out_again(self, offset: int, now_us: int) -> None:
        """An event was handed out once more."""
        self._again[offset] = now_us

    def note(self, offset: int, outcome: int, error: EventError | None = None) -> None:
        """The event at ``offset`` is done, but not because it was processed."""
        self._outcomes[offset] = outcome, error

    def started_us(self, offset: int) -> int:
        """When the event was handed out last; 0 if it never was."""
        return self._again.get(offset) or self._first_us(offset)

    def _first_us(self, offset: int) -> int:
        place = bisect_right(self._times, offset, key=lambda each: each[0])
        return self._times[place - 1][1] if place else 0

    def told(self, until: int) -> list[Stretch]:
        """What is to be told of the events before ``until``, which are all done. It is told once."""
        if until <= self.reported:
            return []
        stretches: list[Stretch] = []
        at = self.reported
        for begin, end in [*self._skipped, (until, until)]:
            if begin <= until:
                stretches += self._cut(at, begin)
                at = max(at, end)
        self.reported = until
        self._skipped = [(begin, end) for begin, end in self._skipped if end > until]
        if self._again:
            self._again = {offset: us for offset, us in self._again.items() if offset >= until}
        del self._times[: max(0, bisect_right(self._times, until, key=lambda each: each[0]) - 1)]
        return stretches

    def _cut(self, at: int, end: int) -> list[Stretch]:
        """The events from ``at`` to ``end`` in stretches: those with outcomes of their own apart from the long rest."""
        stretches: list[Stretch] = []
        noted = sorted(offset for offset in self._outcomes if at <= offset < end) if self._outcomes else []
        first = 0
        while at < end:
            begin = noted[first] if first < len(noted) else end
            if begin > at:
                stretches.append(Stretch(self.split, at, begin - at, bytes([PASSED]), (), self._first_us(at)))
            if begin < end:
                last = bisect_right(noted, begin + MAX_MIXED - 1)
                stretches.append(self._mixed(noted[first:last]))
                first, begin = last, stretches[-1].end_offset
            at = begin
        return stretches

    def _mixed(self, noted: list[int]) -> Stretch:
        """From the first of these events to the last of them."""
        offset = noted[0]
        outcomes, errors = bytearray([PASSED] * (noted[-1] - offset + 1)), []
        for each in noted:
            outcomes[each - offset], error = self._outcomes.pop(each)
            if error is not None:
                errors.append(EventError(each - offset, error.error_type, error.message, error.stack_trace))
        is_same = outcomes.count(outcomes[0]) == len(outcomes)
        told = bytes(outcomes[:1]) if is_same else bytes(outcomes)
        return Stretch(self.split, offset, len(outcomes), told, tuple(errors), self._first_us(offset))
