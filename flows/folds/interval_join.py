"""The JOIN within an interval: each left event meets the right events of its key from some time before to some time after it."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.folds.base import LEFT, RIGHT, Entry, Result, Tally
from event_streaming_bus.flows.folds.joins import ORDER, JoinedPair, alone, has_null, kept_alone
from event_streaming_bus.flows.processors.join import JoinType

_TIME: Final = attrgetter("timestamp_ms")


class _Waiting(msgspec.Struct, array_like=True, gc=False):
    """An event that a partner may still come for. ``met``: one has."""

    timestamp_ms: int
    event_id: str
    key: bytes
    value: Any
    met: bool


class IntervalJoinFold:
    """A left event at ``t`` meets the right events of its key at ``t - before_ms`` to ``t + after_ms``, both included; neither
    is negative.

    A pair is due right after the later of its two events and has that one's time. An event without a partner is due as soon as
    none can come any more, and has its own time; one whose key has a null part is due right after it came.

    Held are the events that a partner may still come for, one object each. ``released`` are those that met another or were
    given out alone, ``filtered`` the others; both are counted when an event is dropped.
    """

    def __init__(self, join_type: JoinType, before_ms: int, after_ms: int) -> None:
        self._kept = kept_alone(join_type)
        # How long after its time an event may still get a partner. All of a side wait equally long, so they are dropped in the
        # order in which they came, and a queue does what would otherwise need a heap.
        self._waits_ms = (after_ms, before_ms)
        self._queues: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        self._by_key: tuple[dict[bytes, list[_Waiting]], dict[bytes, list[_Waiting]]] = ({}, {})

    def run(self, entries: Sequence[Entry], horizon_ms: int, tally: Tally) -> list[Result]:
        results: list[Result] = []
        find = results.append
        lefts, rights = self._by_key
        left_waits_ms, right_waits_ms = self._waits_ms
        enqueue_left, enqueue_right = self._queues[LEFT].append, self._queues[RIGHT].append
        for t, _, event_id, side, key, value, _ in entries:
            if b"null" in key and has_null(key):
                self._drop_null(side, key, event_id, t, value, tally, results)
                continue
            if side == LEFT:
                mine, others, enqueue, oldest_ms = lefts, rights, enqueue_left, t - right_waits_ms
            else:
                mine, others, enqueue, oldest_ms = rights, lefts, enqueue_right, t - left_waits_ms
            partners = others.get(key)
            if partners is None or partners[-1].timestamp_ms < oldest_ms:
                event = _Waiting(t, event_id, key, value, False)
            else:
                event = _Waiting(t, event_id, key, value, True)
                # Events are dropped at the end of a run only, so some may be too old. Most often none is.
                if partners[0].timestamp_ms < oldest_ms:
                    partners = partners[bisect_left(partners, oldest_ms, key=_TIME) :]
                for other in partners:
                    other.met = True
                    if side == LEFT:
                        pair = JoinedPair(value, other.value, t, other.timestamp_ms)
                        find(Result(t + 1, t, key, (event_id, other.event_id), pair))
                    else:
                        pair = JoinedPair(other.value, value, other.timestamp_ms, t)
                        find(Result(t + 1, t, key, (other.event_id, event_id), pair))
            enqueue(event)
            same = mine.get(key)
            if same is None:
                mine[key] = [event]
            else:
                same.append(event)
        self._expire(LEFT, horizon_ms, tally, results)
        self._expire(RIGHT, horizon_ms, tally, results)
        results.sort(key=ORDER)
        return results

    def save(self) -> Any:
        """The events of each side as tuples ``(time, event id, key, payload, met)``, in the order in which they came."""
        return tuple([msgspec.structs.astuple(event) for event in queue] for queue in self._queues)

    def load(self, saved: Any) -> None:
        self._queues, self._by_key = (deque(), deque()), ({}, {})
        for queue, by_key, events in zip(self._queues, self._by_key, saved, strict=True):
            queue.extend(_Waiting(*event) for event in events)
            for event in queue:
                by_key.setdefault(event.key, []).append(event)

    def _expire(self, side: int, horizon_ms: int, tally: Tally, results: list[Result]) -> None:
        """Drop the events of a side that no event at the horizon or later can meet."""
        queue, by_key, wait_ms = self._queues[side], self._by_key[side], self._waits_ms[side]
        last_ms = horizon_ms - wait_ms - 1
        kept = self._kept[side]
        expired: list[_Waiting] = []
        while queue and queue[0].timestamp_ms <= last_ms:
            expired.append(queue.popleft())
        unmet = [event for event in expired if not event.met]
        if kept:
            results += [
                alone(side, e.key, e.event_id, e.timestamp_ms, e.value, e.timestamp_ms + wait_ms + 1, e.timestamp_ms)
                for e in unmet
            ]
        tally.filtered += 0 if kept else len(unmet)
        tally.released += len(expired) if kept else len(expired) - len(unmet)
        for key in {event.key for event in expired}:
            events = by_key[key]
            if events[-1].timestamp_ms <= last_ms:
                del by_key[key]
            else:
                del events[: bisect_right(events, last_ms, key=_TIME)]

    def _drop_null(self, side: int, key: bytes, event_id: str, t: int, value: Any, tally: Tally, results: list[Result]) -> None:
        """An event whose key has a null part: no partner can ever come."""
        if self._kept[side]:
            tally.released += 1
            results.append(alone(side, key, event_id, t, value, t + 1, t))
        else:
            tally.filtered += 1
