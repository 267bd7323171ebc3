"""The JOIN by lookup: the right side is a table, and each left event meets its key's row as of its own time."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from event_streaming_bus.flows.folds.base import LEFT, Entry, Result, Tally
from event_streaming_bus.flows.folds.joins import JoinedPair, has_null, kept_alone
from event_streaming_bus.flows.processors.join import JoinType


class LookupJoinFold:
    """The latest right event of a key is the key's row. A left event meets the row as of its own time, an event of the same time
    included, unless it is more than ``ttl_ms`` older; it is due right after its time, and in the order of the entries.

    The join is inner (a left event without a row is ``filtered``) or left (it is given out without one). Nothing is held but
    the rows: those that a left event can still meet, so at most one for each key; without ``ttl_ms`` they stay for ever. A right
    event is ``released`` when it becomes a row, ``filtered`` if its key has a null part.
    """

    def __init__(self, join_type: JoinType, ttl_ms: int | None) -> None:
        if join_type is JoinType.OUTER:
            raise ValueError("a lookup join is inner or left: the rows of a table are not waiting for a partner")
        self._kept = kept_alone(join_type)[LEFT]
        self._ttl_ms = ttl_ms
        self._rows: OrderedDict[bytes, tuple[int, str, Any]] = OrderedDict()
        """Time, event id and payload by key; with a TTL, the row that expires first comes first."""

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        rows, ttl_ms = self._rows, self._ttl_ms
        filtered = 0
        for t, _, event_id, side, key, value, _ in entries:
            is_null = b"null" in key and has_null(key)
            if side != LEFT:
                if is_null:
                    filtered += 1
                    continue
                rows[key] = (t, event_id, value)
                if ttl_ms is not None:
                    rows.move_to_end(key)
                continue
            row = None if is_null else rows.get(key)
            if row is not None and (ttl_ms is None or t - row[0] <= ttl_ms):
                row_ms, row_id, row_value = row
                results.append(Result(t + 1, t, key, (event_id, row_id), JoinedPair(value, row_value, t, row_ms)))
            elif self._kept:
                results.append(Result(t + 1, t, key, (event_id, ""), JoinedPair(value, None, t, None)))
            else:
                filtered += 1
        tally.filtered += filtered
        tally.released += len(entries) - filtered
        if ttl_ms is not None:
            while rows and next(iter(rows.values()))[0] + ttl_ms < horizon_ms:
                rows.popitem(last=False)
        return results

    def save(self) -> Any:
        """The rows as tuples ``(key, time, event id, payload)``, in their order."""
        return [(key, *row) for key, row in self._rows.items()]

    def load(self, saved: Any) -> None:
        self._rows = OrderedDict((key, (row_ms, event_id, value)) for key, row_ms, event_id, value in saved)
