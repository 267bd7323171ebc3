"""One split as a member reads it: what is read ahead, what the user has in hand, what is to be delivered again.

An event goes from the read-ahead into the user's *hands*, and is *done* when it is acknowledged. One that could not be processed
is *pending*: it waits for its next delivery. Whatever is below ``next_offset`` and neither in hand nor pending is done; the
lowest that is not is where the group goes on, so that is what is committed.

An event that has expired is done without being handed out: for the first time, or again.

Order: while an event with a key is pending, the events of this key that come behind it and have not been handed out wait in a
queue, and are then handed out one at a time, each when the one before it is done. Events without a key do not wait.
"""

import heapq
import time
from bisect import insort
from collections import deque
from collections.abc import Sequence

from event_streaming_bus.consumers.split_ledger import SplitLedger, Stretch
from event_streaming_bus.models import Event, Split
from event_streaming_bus.store.history_records import EXPIRED
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.redeliveries import as_delivered


class SplitReader:
    """The deliveries of one split. Not safe for threads: its owner has a lock.

    ``window``: with so many events in hand or pending, no more are handed out, so the memory is bounded. ``is_redelivery``:
    whether the split is one of the group's stream of redeliveries, whose events are handed out as they were at first.
    """

    __slots__ = (
        "_batches",
        "_end",
        "_events",
        "_index",
        "_may_expire",
        "_queues",
        "_read_offset",
        "_ready",
        "_retries",
        "_waiting",
        "buffered",
        "committed",
        "expired",
        "hands",
        "is_paused",
        "is_redelivery",
        "ledger",
        "next_offset",
        "parking",
        "pending",
        "split",
        "window",
    )

    def __init__(self, split: Split, offset: int, window: int, *, is_redelivery: bool = False) -> None:
        self.split = split
        self.is_redelivery = is_redelivery
        self.window = window
        self.next_offset = offset
        """The offset of the next event that is handed out for the first time."""
        self.committed: int | None = None
        """What the group has committed, as far as this member knows."""
        self.is_paused = False
        self.expired = 0
        """How many events had expired when their turn came."""
        self.ledger = SplitLedger(split, offset)
        self.hands: dict[int, Event] = {}
        self.pending: dict[int, Event] = {}
        self.parking: set[int] = set()  # those of the pending ones that are on their way to the dead letters
        self.buffered = 0
        self._batches: deque[RecordBatch] = deque()
        self._read_offset = offset
        self._end = offset  # of the batch that is being handed out, or was last
        self._events: list[Event] = []  # the batch that is being handed out, decoded
        self._index = 0
        self._may_expire = False  # whether one of them has a time at which it expires
        self._retries: dict[int, int] = {}  # how often each was delivered again
        self._waiting: list[tuple[float, int]] = []  # heap of (when it is due, offset)
        self._ready: list[int] = []  # heap of offsets
        self._queues: dict[str, list[int]] = {}  # by key, the offsets that come one after another, the first of them first

    # --- reading ahead ------------------------------------------------------------------------------------------------

    @property
    def read_offset(self) -> int:
        """Where to read on in the log."""
        return self._read_offset

    @property
    def room(self) -> int:
        """How many more events may be handed out."""
        return max(0, self.window - len(self.hands) - len(self.pending))

    def feed(self, batches: Sequence[RecordBatch], offset: int | None = None) -> None:
        """Take what was read at ``offset``, by default that of the first batch, if that is ``read_offset``; what was read at
        another place, before a seek, is left.

        Where offsets are not dense, some before, between and behind the events hold none, and are passed over.
        """
        if batches and (batches[0].offset if offset is None else offset) == self._read_offset:
            self._batches.extend(batches)
            self.buffered += sum(batch.count for batch in batches)
            self._read_offset = batches[-1].end_offset
            if self._index >= len(self._events):
                self._pass_gap()

    def _pass_gap(self) -> None:
        """All events up to here were handed out: go over the offsets that follow and hold none."""
        end = max(self._end, self.next_offset)
        while self._batches and not self._batches[0].count:
            end = self._batches.popleft().end_offset
        if self._batches:
            end = self._batches[0].offset
        if end > self.next_offset:
            self.ledger.skip(self.next_offset, end)
            self.next_offset = end

    def seek(self, offset: int) -> None:
        """Go on at ``offset``, and forget all that is in hand, pending or read ahead."""
        self.next_offset = self._read_offset = self._end = offset
        self.buffered, self._events, self._index = 0, [], 0
        self.ledger.start_over(offset)
        for kept in (
            self._batches,
            self.hands,
            self.pending,
            self.parking,
            self._retries,
            self._waiting,
            self._ready,
            self._queues,
        ):
            kept.clear()

    def skip_to(self, offset: int) -> None:
        """Read on at ``offset``, since what lies before it cannot be read, and all that could be was handed out. What is in hand
        or pending stays, unless it lies behind."""
        if offset < self.next_offset:
            self.seek(offset)
        else:
            self.ledger.skip(self.next_offset, offset)
            self.next_offset = self._read_offset = self._end = offset

    # --- handing out --------------------------------------------------------------------------------------------------

    def available(self, now_s: float) -> int:
        """How many events can be handed out at the most. Some of them may turn out to have to wait for others of their key."""
        if self.is_paused:
            return 0
        self._wake(now_s)
        return len(self._ready) + min(self.buffered, self.room)

    def due_s(self) -> float | None:
        """When the next pending event becomes ready, if one waits for its time."""
        return self._waiting[0][0] if self._waiting else None

    def _wake(self, now_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= now_s:
            _, offset = heapq.heappop(self._waiting)
            if self._is_first(offset):
                heapq.heappush(self._ready, offset)

    def _is_first(self, offset: int) -> bool:
        """Whether the pending event at ``offset`` waits for no other of its key."""
        event = self.pending.get(offset)
        if event is None or offset in self.parking:
            return False
        queue = self._queues.get(event.key) if event.key is not None else None
        return not queue or queue[0] == offset

    def take(self, most: int, now_us: int | None = None) -> list[Event]:
        """The next events, which are in the user's hands then: at most ``most``, those to be delivered again first."""
        now_us = time.time_ns() // 1000 if now_us is None else now_us
        taken = self._take_again(most, now_us) if self._ready else []
        left = min(most - len(taken), self.room)
        if left > 0 and self.buffered:
            self.ledger.handed_out(self.next_offset, now_us)
        while left > 0 and self.buffered:
            if self._index >= len(self._events):
                self._open()
            events = self._events[self._index : self._index + left] if self._index or left < len(self._events) else self._events
            self._index += len(events)
            offset, count = self.next_offset, len(events)
            self.next_offset += count
            self.buffered -= count
            left -= count
            if self._may_expire or self._queues:
                expired = self.expired
                taken += self._hold_back(offset, events, now_us // 1000)
                left += self.expired - expired
            else:
                self.hands.update(zip(range(offset, offset + count), events, strict=True))
                taken += events
            if self._index >= len(self._events):
                self._pass_gap()
        if self._index >= len(self._events):
            self._events, self._index = [], 0
        return taken

    def _open(self) -> None:
        """Decode the next batch. If it is damaged, it stays, and raises again."""
        batch = self._batches[0]
        events = batch.events()
        is_same, expires_at_ms = batch.constant("expires_at_ms")
        self._may_expire = not is_same or expires_at_ms is not None
        self._events, self._index = list(map(as_delivered, events)) if self.is_redelivery else events, 0
        self._end = self._batches.popleft().end_offset

    def _take_again(self, most: int, now_us: int) -> list[Event]:
        """Of the events to be delivered again, those that are ready."""
        taken: list[Event] = []
        while self._ready and len(taken) < most:
            offset = heapq.heappop(self._ready)
            if not self._is_first(offset):
                continue
            event = self.pending.pop(offset)
            if _is_expired(event, now_us // 1000):
                self._expire(offset)
                self._forget(offset, event)
                continue
            self.hands[offset] = event
            self.ledger.handed_out_again(offset, now_us)
            taken.append(event)
        return taken

    def _expire(self, offset: int) -> None:
        self.expired += 1
        self.ledger.note(offset, EXPIRED)

    def _hold_back(self, first: int, events: Sequence[Event], now_ms: int) -> list[Event]:
        """Of new events, those that have not expired and need not wait for another of their key."""
        taken = []
        for offset, event in enumerate(events, first):
            if _is_expired(event, now_ms):
                self._expire(offset)
                continue
            queue = self._queues.get(event.key) if event.key is not None else None
            if queue is None:
                self.hands[offset] = event
                taken.append(event)
            else:
                queue.append(offset)
                self.pending[offset] = event
        return taken

    # --- what becomes of them -----------------------------------------------------------------------------------------

    def low(self) -> int:
        """The offset of the first event that is not done."""
        return min(min(self.hands, default=self.next_offset), min(self.pending, default=self.next_offset))

    def resume_offset(self) -> int:
        """As ``low``, were all that is in hand done."""
        return min(self.pending, default=self.next_offset)

    def retries(self, offset: int) -> int:
        """How often the event was delivered again."""
        return self._retries.get(offset, 0)

    def done(self, offset: int) -> bool:
        """The event in hand, or being parked, is done; whether it was not so before."""
        event = self.hands.pop(offset, None)
        if event is None and offset in self.parking:
            self.parking.discard(offset)
            event = self.pending.pop(offset, None)
        if event is None:
            return False
        self._forget(offset, event)
        return True

    def _forget(self, offset: int, event: Event) -> None:
        """The event is done: the next one of its key need not wait for it any more."""
        self._retries.pop(offset, None)
        queue = self._queues.get(event.key) if event.key is not None and self._queues else None
        if queue is not None and event.key is not None and offset in queue:
            queue.remove(offset)
            if not queue:
                del self._queues[event.key]
            elif queue[0] in self.pending:
                heapq.heappush(self._ready, queue[0])

    def told(self, until: int) -> list[Stretch]:
        """What became of the events before ``until``, which is committed, as far as it was not told before."""
        return self.ledger.told(min(until, self.next_offset))

    def settle(self) -> None:
        """All that is in hand is done."""
        if self._queues or self._retries:
            for offset in sorted(self.hands):
                self.done(offset)
        else:
            self.hands.clear()

    def nack(self, offset: int, due_s: float) -> None:
        """The event in hand is to be delivered again, not before ``due_s``."""
        event = self.hands.pop(offset)
        self.pending[offset] = event
        self._retries[offset] = self._retries.get(offset, 0) + 1
        self._queue(offset, event, make=True)
        heapq.heappush(self._waiting, (due_s, offset))

    def park(self, offset: int) -> None:
        """The event in hand is on its way to the dead letters: not done, and not to be delivered again."""
        event = self.hands.pop(offset)
        self.pending[offset] = event
        self.parking.add(offset)
        self._queue(offset, event, make=False)

    def put_back(self, offsets: Sequence[int]) -> None:
        """These events, in hand or being parked, are to be delivered again at once, which does not count as a retry."""
        for offset in sorted(offsets):
            if offset in self.hands:
                self.pending[offset] = self.hands.pop(offset)
            self.parking.discard(offset)
            if offset in self.pending:
                self._queue(offset, self.pending[offset], make=False)
                if self._is_first(offset):
                    heapq.heappush(self._ready, offset)

    def _queue(self, offset: int, event: Event, *, make: bool) -> None:
        """Let the event stand in the queue of its key, if there is one, or is to be."""
        if event.key is None or (event.key not in self._queues and not make):
            return
        queue = self._queues.get(event.key)
        if queue is None:  # others of the key may be pending already, when they were put back
            same = (at for at, other in self.pending.items() if other.key == event.key and at not in self.parking)
            queue = self._queues[event.key] = sorted(same)
        if offset not in queue:
            insort(queue, offset)


def _is_expired(event: Event, now_ms: int) -> bool:
    return event.expires_at_ms is not None and event.expires_at_ms <= now_ms
