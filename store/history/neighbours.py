"""Publications whose events lie side by side in a split, gathered: what many callers publish is then expanded together."""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from event_streaming_bus.store.history_records import Published, Run

MAX_EVENTS: Final = 4096
"""So many events are gathered of a split at most, and of all splits together."""

Place: TypeAlias = tuple[str, str, str, int, str | None, str | None]


class Publication(NamedTuple):
    """A record, and its offset in the stream of history."""

    offset: int
    record: Published


Part: TypeAlias = tuple[Publication, int, int]
"""Some events of a publication: the place of the first one in it, and how many."""


class Publications:
    """Some publications: a single one, whatever its runs, or several of one run each, one right behind the other."""

    def __init__(self, first: Publication) -> None:
        self.parts = [first]
        self.count = sum(run.count for run in first.record.runs)

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of all of them."""
        first = self.parts[0].record.runs
        if len(self.parts) == 1:
            return first
        run = first[0]
        return [Run(run.stream_id, run.lane, run.partition, run.offset, self.count)]

    def within(self, first: int, count: int) -> "list[Part]":
        """Which publications ``count`` events from place ``first`` on are of."""
        if len(self.parts) == 1:
            return [(self.parts[0], first, count)]
        found, begin, end = [], 0, first + count
        for part in self.parts:
            own = part.record.runs[0].count
            low, high = max(first, begin), min(end, begin + own)
            if low < high:
                found.append((part, low - begin, high - low))
            begin += own
        return found

    def joined(self, part: Publication) -> bool:
        """Take one more, if it goes on where these end."""
        run, last = part.record.runs[0], self.parts[-1].record.runs[0]
        if run.offset != last.offset + last.count or self.count + run.count > MAX_EVENTS:
            return False
        self.parts.append(part)
        self.count += run.count
        return True


class Gathering:
    """Gathers publications, split by split."""

    def __init__(self) -> None:
        self._open: dict[Place, Publications] = {}
        self.held = 0
        """How many events are gathered."""

    def add(self, part: Publication) -> list[Publications]:
        """Gather one more; returns those that are complete by now."""
        record = part.record
        if len(record.runs) != 1:
            return [Publications(part)]
        run = record.runs[0]
        place = (record.tenant_id, run.stream_id, run.lane, run.partition, record.schema_id, record.schema_version)
        there = self._open.get(place)
        self.held += run.count
        done = []
        if there is None or not there.joined(part):
            if there is not None:
                done.append(there)
                self.held -= there.count
            self._open[place] = Publications(part)
        return done if self.held <= MAX_EVENTS else [*done, *self.rest()]

    def rest(self) -> list[Publications]:
        """What is gathered; nothing is afterwards."""
        held = list(self._open.values())
        self._open.clear()
        self.held = 0
        return held
