"""What a member reads and hands out: the splits that it has, read ahead by lane, and where the group would go on.

Order: events of a split are handed out by offset, but for those that are delivered again; see ``split_reader`` for what that
means to events of the same key, and ``lanes`` for the order of the lanes. Within a lane the splits take turns: of what a call
hands out of a lane, each split that has enough gets an equal share, and each call begins behind the split where the last one
ended. Memory: at most about 16 MiB of stored batches are read ahead, or one batch a split if that is more, and ``window`` events
a split are in hand or pending.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from event_streaming_bus.consumers.lanes import LaneChooser
from event_streaming_bus.consumers.model import OffsetReset, Partition
from event_streaming_bus.consumers.split_ledger import Stretch
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.errors import BusError, CorruptLogError, InvalidStateError, OffsetOutOfRangeError
from event_streaming_bus.models import LANES, Event, EventPriority, Position, Split
from event_streaming_bus.store.history_records import DEAD, EventError
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.redeliveries import redelivery_of

_UNKNOWN: Final = -1  # the offset of a split that must be sought before it can be read
_READ_BYTES: Final = 1 << 20
_ALL_READ_BYTES: Final = 16 << 20
_IDLE_S: Final = 0.02


def splits_of(partition: Partition) -> list[Split]:
    """The splits of a partition: its lanes."""
    return [Split(partition.stream_id, lane, partition.partition) for lane in LANES]


class Deliveries:
    """The splits that a member has, and what it does with their events.

    ``fetch`` and ``wait`` block on the log, the others do not. Safe to use from any thread. ``counts["expired"]`` grows with each
    event that is not handed out because it has expired.
    """

    def __init__(self, log: EventLog, reset: OffsetReset, window: int, counts: Counter[str]) -> None:
        self._log = log
        self._counts = counts
        self._reset = reset
        self._window = window
        self._lock = threading.RLock()
        self._readers: dict[Split, SplitReader] = {}
        self._lanes: dict[EventPriority, deque[SplitReader]] = {lane: deque() for lane in LANES}
        self._chooser = LaneChooser()
        self._version: int | None = None
        self._ends: dict[Split, int] = {}
        self._places: dict[str, tuple[SplitReader, int]] = {}  # of events in hand, by their ids; made when it is asked for
        self._again: dict[str, list[tuple[SplitReader, int]]] = {}  # the same for redeliveries, of which an id can have several
        self._redelivering: list[SplitReader] = []
        self._stale = True
        self._failure: BusError | None = None
        self.resets: list[str] = []
        """What retention had dropped before it was read, a sentence each; who tells it to somebody clears it."""
        self.retry_stream_id: str | None = None
        """The group's stream of redeliveries, if there is one. All of it is to be delivered, whatever the group's reset says."""

    # --- which splits -------------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> set[Partition]:
        return {Partition(split.stream_id, split.partition) for split in self._readers}

    def has_any(self) -> bool:
        """Whether any partition is read here."""
        return bool(self._readers)

    def starts(self, partitions: Iterable[Partition], committed: Mapping[Split, int]) -> dict[Split, int]:
        """Where to begin to read the splits of these partitions. Blocks."""
        wanted = [split for partition in partitions for split in splits_of(partition)]
        missing = {split.stream_id for split in wanted if split not in committed}
        bounds: dict[Split, int] = {}
        for stream_id in missing:
            reset = self._reset_of(stream_id)
            if reset is not OffsetReset.NONE:
                is_earliest = reset is OffsetReset.EARLIEST
                bounds |= self._log.begin_offsets(stream_id) if is_earliest else self._log.end_offsets(stream_id)
        return {split: committed.get(split, bounds.get(split, _UNKNOWN)) for split in wanted}

    def _reset_of(self, stream_id: str) -> OffsetReset:
        return OffsetReset.EARLIEST if stream_id == self.retry_stream_id else self._reset

    def assign(self, starts: Mapping[Split, int], committed: Mapping[Split, int]) -> None:
        """Read these splits from now on, beside those that are there."""
        with self._lock:
            for split, offset in starts.items():
                is_redelivery = split.stream_id == self.retry_stream_id
                self._readers[split] = SplitReader(split, offset, self._window, is_redelivery=is_redelivery)
                self._readers[split].committed = committed.get(split)
            self._rearrange()

    def drop(self, partitions: Iterable[Partition]) -> dict[Split, SplitReader]:
        """Give up these partitions: what was read ahead of them is not handed out."""
        with self._lock:
            dropped = {split: self._readers.pop(split) for p in partitions for split in splits_of(p) if split in self._readers}
            self._rearrange()
        return dropped

    def resume(self, readers: Mapping[Split, SplitReader]) -> None:
        """Read splits on that were given up, and that nobody has had since: what was in hand is delivered again."""
        with self._lock:
            for split, reader in readers.items():
                reader.put_back(list(reader.hands))
                self._readers[split] = reader
            self._rearrange()

    def _rearrange(self) -> None:
        self._lanes = {lane: deque(r for s, r in self._readers.items() if s.lane is lane) for lane in LANES}
        self._redelivering = [reader for reader in self._readers.values() if reader.is_redelivery]
        self._version, self._stale = None, True

    def reader(self, split: Split) -> SplitReader:
        """The reader of an assigned split. Raises ``InvalidStateError`` for another."""
        try:
            return self._readers[split]
        except KeyError:
            raise InvalidStateError(f"{split} is not assigned to this consumer at the moment.", split=str(split)) from None

    def splits(self) -> list[Split]:
        """The splits that are read."""
        return list(self._readers)

    # --- reading ahead ------------------------------------------------------------------------------------------------

    def has_news(self) -> bool:
        """Whether something was written since the last ``fetch``, by anybody. Cheap."""
        return self._log.version() != self._version

    def is_dry(self) -> bool:
        """Whether a split has nothing read ahead although the log has, or may have, more of it."""
        return self._version is None or any(map(self._wants, self._readers.values()))

    def _wants(self, reader: SplitReader) -> bool:
        return (
            not reader.buffered
            and self._ends.get(reader.split) != reader.read_offset
            and not reader.is_paused
            and reader.room > 0
        )

    def fetch(self, stream_ids: Iterable[str], *, only_look: bool = False) -> None:
        """Read ahead in every split that has nothing left; with ``only_look`` only see where the splits end.

        Raises ``StreamNotFoundError`` if one of these streams was dropped, whether or not it has a split that is read here.
        """
        version = self._log.version()
        if version != self._version:
            ends: dict[Split, int] = {}
            for stream_id in {*stream_ids, *(reader.split.stream_id for reader in self._redelivering)}:
                ends |= self._log.end_offsets(stream_id)
            self._ends, self._version = ends, version
        with self._lock:
            readers = [] if only_look else list(self._readers.values())
        size = max(_READ_BYTES // 16, min(_READ_BYTES, _ALL_READ_BYTES // max(1, len(readers))))
        for reader in filter(self._wants, readers):
            offset = reader.read_offset
            try:
                batches = self._log.read(reader.split, offset, size)
            except OffsetOutOfRangeError as error:
                self._start_over(reader, error)
                offset = reader.read_offset
                batches = self._log.read(reader.split, offset, size)
            with self._lock:
                reader.feed(batches, offset)

    def _start_over(self, reader: SplitReader, error: OffsetOutOfRangeError) -> None:
        """Go on where the group's ``auto_offset_reset`` says, for what is at the split's offset cannot be read."""
        offset, begin, end = reader.read_offset, int(error.details["begin"]), int(error.details["end"])
        reset = self._reset_of(reader.split.stream_id)
        if reset is OffsetReset.NONE:
            why = "nothing is committed for it" if offset == _UNKNOWN else f"it holds {begin} to {end - 1}, not {offset}"
            raise OffsetOutOfRangeError(
                f"{reader.split} cannot be read: {why}, and auto_offset_reset of the group is none. Seek to where to go on, or "
                "reset the group's offsets.",
                **error.details,
            ) from error
        to = begin if reset is OffsetReset.EARLIEST else end
        self.resets.append(f"{reader.split} holds the offsets {begin} to {end - 1}, not {offset}; it is read on at {to}")
        with self._lock:
            reader.skip_to(to)

    def wait(self, timeout_s: float) -> None:
        """Block until there may be something to hand out; at most so long."""
        with self._lock:
            due_s = min((due for due in map(SplitReader.due_s, self._readers.values()) if due is not None), default=None)
            positions = {
                reader.split: reader.read_offset
                for reader in self._readers.values()
                if not reader.is_paused and not reader.buffered and reader.room and reader.next_offset >= 0
            }
        if due_s is not None:
            timeout_s = max(0.0, min(timeout_s, due_s - time.monotonic()))
        if positions:
            self._log.wait(positions, timeout_s)
        else:
            time.sleep(min(timeout_s, _IDLE_S))

    # --- handing out --------------------------------------------------------------------------------------------------

    def take(self, most: int) -> list[Event]:
        """The next events, at most ``most``, which are in the user's hands then."""
        self._raise_failure()
        with self._lock:
            now_s, now_us = time.monotonic(), time.time_ns() // 1000
            counts: dict[EventPriority, int] = {}
            unread: list[EventPriority] = []
            for lane, readers in self._lanes.items():
                count = 0
                for reader in readers:
                    if reader.buffered or reader.pending:
                        count += reader.available(now_s)
                    if not reader.is_paused and self._ends.get(reader.split, 0) > reader.read_offset:
                        unread.append(lane)
                if count:
                    counts[lane] = count
            plan = self._chooser.plan(counts, most, unread)
            if not plan:
                return []
            self._stale = True
            if plan[0] is plan[-1] and len(set(plan)) == 1:
                events = self._take(self._lanes[plan[0]], len(plan), now_s, now_us)
                if not events:
                    self._raise_failure()
                return events
            taken = {
                lane: iter(self._take(self._lanes[lane], plan.count(lane), now_s, now_us)) for lane in counts if lane in plan
            }
            events = [event for lane in plan if (event := next(taken[lane], None)) is not None]
            if not events:
                self._raise_failure()
            return events

    def _take(self, readers: deque[SplitReader], most: int, now_s: float, now_us: int) -> list[Event]:
        taken: list[Event] = []
        last = None
        active = [reader for reader in readers if reader.available(now_s)]
        while active and len(taken) < most:
            share = max(1, (most - len(taken)) // len(active))
            for reader in active:
                try:
                    got = reader.take(min(share, most - len(taken)), now_us)
                except (
                    CorruptLogError
                ) as error:  # what the others have given is in the user's hands already: it is told next time
                    self._failure = error
                    return taken
                if reader.expired:
                    self._counts["expired"] += reader.expired
                    reader.expired = 0
                if got:
                    taken += got
                    last = reader
                if len(taken) >= most:
                    break
            active = [reader for reader in active if reader.available(now_s)]
        if last is not None:
            readers.rotate(-1 - readers.index(last))
        return taken

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # --- what becomes of them -----------------------------------------------------------------------------------------

    def find(self, event: Event) -> tuple[SplitReader, int] | None:
        """Where an event that is in the user's hands was read; ``None`` for any other. An event and its redeliveries, which all
        have its id, are told apart by what their metadata tells."""
        with self._lock:
            if self._stale:
                self._look()
            place = self._places.get(event.event_id)
            if place is not None and (place[0].hands.get(place[1]) is event or _holds(place, event)):
                return place
            return next((place for place in self._again.get(event.event_id, ()) if _holds(place, event)), None)

    def _look(self) -> None:
        readers = self._readers.values() if not self._redelivering else [r for r in self._readers.values() if not r.is_redelivery]
        self._places = {event.event_id: (reader, offset) for reader in readers for offset, event in reader.hands.items()}
        self._again = {}
        for reader in self._redelivering:
            for offset, event in reader.hands.items():
                self._again.setdefault(event.event_id, []).append((reader, offset))
        self._stale = False

    def position(self, event: Event) -> Position | None:
        """The position of an event that is in the user's hands."""
        place = self.find(event)
        return None if place is None else Position(place[0].split, place[1])

    def started_us(self, reader: SplitReader, offset: int) -> int:
        """When the event was handed out last."""
        with self._lock:
            return reader.ledger.started_us(offset)

    def ack(self, event: Event) -> bool:
        """The event is done; whether it was in the user's hands."""
        with self._lock:
            place = self.find(event)
            return place is not None and place[0].done(place[1])

    def nack(self, reader: SplitReader, offset: int, due_s: float) -> bool:
        """Deliver the event again, not before ``due_s``, if it is still in hand; whether it was."""
        with self._lock:
            is_in_hand = offset in reader.hands
            if is_in_hand:
                reader.nack(offset, due_s)
            return is_in_hand

    def park(self, reader: SplitReader, offset: int) -> bool:
        """The event, if it is still in hand, is on its way to the dead letters; whether it was."""
        with self._lock:
            is_in_hand = offset in reader.hands
            if is_in_hand:
                reader.park(offset)
            return is_in_hand

    def parked(self, reader: SplitReader, offset: int, error: EventError) -> None:
        """It has got there, and is done."""
        with self._lock:
            if reader.done(offset):
                reader.ledger.note(offset, DEAD, error)

    def not_parked(self, reader: SplitReader, offset: int) -> None:
        """It has not got there, and is to be delivered again."""
        with self._lock:
            reader.put_back([offset])

    def settle(self) -> None:
        """All that is in the user's hands is done."""
        with self._lock:
            for reader in self._readers.values():
                if reader.hands:
                    reader.settle()
            self._stale = True

    def put_back(self) -> None:
        """All that is in the user's hands is to be delivered again."""
        with self._lock:
            for reader in self._readers.values():
                reader.put_back(list(reader.hands))

    def seek(self, split: Split, offset: int) -> None:
        """Go on reading a split at ``offset``."""
        with self._lock:
            self.reader(split).seek(offset)
            self._stale = True

    def set_paused(self, partitions: Iterable[Partition], *, paused: bool) -> None:
        """Hand out nothing of these partitions, or go on with them. Raises ``InvalidStateError`` for one that is not assigned."""
        with self._lock:
            for reader in [self.reader(split) for partition in partitions for split in splits_of(partition)]:
                reader.is_paused = paused

    # --- how far it has come ------------------------------------------------------------------------------------------

    def uncommitted(self) -> dict[Split, int]:
        """For each split of which more, or less, is done than is committed, the offset of the first event that is not done."""
        with self._lock:
            lows = {split: reader.low() for split, reader in self._readers.items() if reader.next_offset >= 0}
            return {split: low for split, low in lows.items() if low != self._readers[split].committed}

    def committed(self, offsets: Mapping[Split, int]) -> list[Stretch]:
        """These are committed now: what became of the events before them, as far as it was not told before."""
        told: list[Stretch] = []
        with self._lock:
            for split, offset in offsets.items():
                reader = self._readers.get(split)
                if reader is not None:
                    reader.committed = offset
                    told += reader.told(offset)
        return told

    def resume_offsets(self, splits: Sequence[Split] | None = None) -> dict[Split, int]:
        """Where each split would be read on, were all that is in the user's hands done."""
        with self._lock:
            wanted = self._readers if splits is None else splits
            return {split: self._readers[split].resume_offset() for split in wanted if self._readers[split].next_offset >= 0}


def _holds(place: tuple[SplitReader, int], event: Event) -> bool:
    """Whether this event is in hand there."""
    held = place[0].hands.get(place[1])
    return held is not None and (held is event or redelivery_of(held) == redelivery_of(event))
