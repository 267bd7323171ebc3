"""The fold of DEDUPLICATE: the first event of each key within a span of time."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from event_streaming_bus.flows.folds.base import FOREVER, Entry, Result, Tally


class DeduplicateFold:
    """Passes on an event (``Entry.value``) unless one with its key was passed on at most ``within_ms`` before it.

    A dropped event does not prolong the span: of a key whose events never pause, one is passed on each time that the span is
    over. Results are due right after their events, with the identity ``(event id,)``. What is dropped is ``filtered``, the rest
    is ``released``: nothing is held. The state is a time for each key that passed within the last ``within_ms``.
    """

    def __init__(self, within_ms: int) -> None:
        self._within_ms = within_ms
        self._passed: OrderedDict[bytes, int] = OrderedDict()
        """When an event of the key was passed on last; the longest ago comes first."""

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        passed, within_ms = self._passed, self._within_ms
        results: list[Result] = []
        for t, _, event_id, _, key, event, _ in entries:
            before_ms = passed.get(key)
            if before_ms is not None:
                if t - before_ms <= within_ms:
                    continue
                passed.move_to_end(key)
            passed[key] = t
            results.append(Result(t + 1, t, key, (event_id,), event))
        tally.released += len(results)
        tally.filtered += len(entries) - len(results)
        # At the end of a run that may be followed by another one, what was passed on is still known.
        while horizon_ms != FOREVER and passed and next(iter(passed.values())) + within_ms < horizon_ms:
            passed.popitem(last=False)
        return results

    def save(self) -> Any:
        """``(key, time)`` of each key, in order of times."""
        return list(self._passed.items())

    def load(self, saved: Any) -> None:
        self._passed = OrderedDict(saved)
