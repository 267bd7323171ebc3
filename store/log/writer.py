"""The write side of the embedded log: many callers' appends become one SQLite transaction."""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from itertools import repeat

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import FencedError, StreamChangedError, StreamNotFoundError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import (
    Event,
    EventPriority,
    Position,
    Receipt,
    Split,
    StreamConfig,
)
from event_streaming_bus.store.log.base import Append, AppendResult, Condition, Journal, Mark, Schedule
from event_streaming_bus.store.log.event_columns import column_of, in_columns, selected
from event_streaming_bus.store.log.record_batch import (
    StoredBatch,
    checksum,
    store_events,
)
from event_streaming_bus.store.log.scheduled import Notes, earliest_ms, find_waiting, keep_aside, take_due
from event_streaming_bus.store.log.stored import CODECS, SQL, find_ids, hash_of, id_hash
from event_streaming_bus.store.log.tail import StreamPlace, Tail, pack_ahead


def partition_of(key: str, partitions: int) -> int:
    """The partition of ``key``: XXH3 (64 bits) of its UTF-8, modulo the number of partitions."""
    return hash_of(key) % partitions


class Request:
    """One call of ``append``, on its way into a transaction. What can be done before one begins is done here, by the caller."""

    __slots__ = ("appends", "condition", "future", "journal", "marks", "places", "weight")

    def __init__(
        self,
        appends: Sequence[Append],
        places: Sequence[StreamPlace],
        marks: Sequence[Mark],
        journal: Journal | None,
        condition: Condition[sqlite3.Connection] | None,
    ) -> None:
        self.appends = [msgspec.structs.replace(each, events=in_columns(each.events)) for each in appends]
        for append, place in zip(self.appends, places, strict=True):
            pack_ahead(append, place)
        self.places = places
        self.marks = marks
        self.journal = journal
        self.condition = condition
        self.weight = 1 + sum(len(a.events) for a in appends)
        self.future: Future[list[AppendResult]] = Future()


class Transaction:
    """One write transaction: add requests, then ``flush``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._tails: dict[int, Tail] = {}
        self._seen: dict[tuple[str, str], Receipt] = {}
        self._unseen: list[tuple[str, AppendResult]] = []  # appends of new ids, not yet in _seen, by tenant
        self._configs: dict[str, str] = {}  # of streams, as they are stored
        self._any_waited: bool | None = None  # scheduled events before this transaction; None: nobody has looked
        self._now_ms = time.time_ns() // 1_000_000

    def admits(self, request: Request) -> bool:
        """Whether to add the request, as its marks, streams and condition say. A ``BusError`` refuses it, and leaves the rest
        untouched."""
        for mark in request.marks:
            row = self._db.execute(SQL["select_mark"], (mark.owner, mark.key)).fetchone()
            if (row[0] if row else None) != mark.expected:
                raise FencedError(
                    f"Another process writes the output of {mark.owner} ({mark.key}). This process must stop.",
                    owner=mark.owner,
                    key=mark.key,
                )
        for append in request.appends:
            if append.checked is not None and append.checked != self._config(append.stream_id):
                raise StreamChangedError
        return request.condition is None or request.condition.admits(self._db)

    def _config(self, stream_id: str) -> StreamConfig:
        """A stream's settings as they are now."""
        text = self._configs.get(stream_id)
        if text is None:
            row = self._db.execute(SQL["select_stream_config"], (stream_id,)).fetchone()
            if row is None:
                raise StreamNotFoundError(f"There is no stream with the id '{stream_id}'.", stream=stream_id)
            text = self._configs[stream_id] = row[0]
        return _decoded_config(text)

    def add(self, request: Request, journal_place: Callable[[str], StreamPlace]) -> list[AppendResult]:
        """Set the request's marks and give its events their positions. After an error the transaction must be given up."""
        for mark in request.marks:
            self._db.execute(SQL["upsert_mark"], (mark.owner, mark.key, mark.value))
        results = [self._place(append, place) for append, place in zip(request.appends, request.places, strict=True)]
        if request.condition is not None:
            request.condition.appended(self._db, results)
        if request.journal is not None and (entry := request.journal(results)) is not None:
            self._place(entry, journal_place(entry.stream_id))
        return results

    def _place(self, append: Append, place: StreamPlace) -> AppendResult:
        events = append.events
        stream_id = place.info.stream_id
        event_ids = column_of(events, "event_id")
        known = {} if append.new_ids else self._known(place.info.tenant_id, event_ids)
        groups = self._groups(append, place, known)
        kept = {} if append.schedule is None else self._keep_aside(append, append.schedule, place, groups)
        placed: list[tuple[Split, int, list[int] | range]] = []
        for key, indexes in groups.items():
            tail = self._tail(place, key)
            first = tail.end
            tail.add(selected(events, indexes), explicit=not append.new_ids)
            if not append.new_ids:
                for offset, i in enumerate(indexes, first):
                    self._seen[place.info.tenant_id, event_ids[i]] = Receipt(event_ids[i], Position(tail.split, offset))
            placed.append((tail.split, first, indexes))

        seen = self._seen  # not self, which holds the result: in a circle, all the events would wait for the garbage collector

        def receipts() -> list[Receipt]:
            if len(placed) == 1 and len(placed[0][2]) == len(event_ids):  # all of them, one behind the other
                split, first, _ = placed[0]
                return [Receipt(event_id, Position(split, offset)) for offset, event_id in enumerate(event_ids, first)]
            by_index: dict[int, Receipt] = {**known, **kept}
            for split, first, indexes in placed:
                for offset, i in enumerate(indexes, first):
                    by_index[i] = Receipt(event_ids[i], Position(split, offset))
            for i, event_id in enumerate(event_ids):
                if i not in by_index:  # a second event with the same id in this very append
                    by_index[i] = _again(seen[place.info.tenant_id, event_id])
            return [by_index[i] for i in range(len(event_ids))]

        written = [(split, first, len(indexes)) for split, first, indexes in placed]
        duplicates = len(events) - len(kept) - sum(w[2] for w in written)
        result = AppendResult(stream_id, event_ids, written, duplicates, receipts, len(kept))
        if append.new_ids:
            self._unseen.append((place.info.tenant_id, result))
        return result

    def _keep_aside(
        self, append: Append, schedule: Schedule, place: StreamPlace, groups: dict[tuple[int, EventPriority], "list[int] | range"]
    ) -> dict[int, Receipt]:
        """Take the events whose time is still to come out of ``groups`` and keep them; returns their receipts by index."""
        tenant_id = place.info.tenant_id
        kept: dict[int, Receipt] = {}
        for key, indexes in list(groups.items()):
            later = [(i, append.events[i]) for i in indexes if (append.events[i].deliver_at_ms or 0) > self._now_ms]
            if not later:
                continue
            split = self._tail(place, key).split
            kept |= keep_aside(self._db, tenant_id, split, place.split_nos[key], later, schedule, self._now_ms)
            groups[key] = [i for i in indexes if i not in kept]
            if not groups[key]:
                del groups[key]
        if not append.new_ids:
            self._seen.update(((tenant_id, receipt.event_id), receipt) for receipt in kept.values())
        return kept

    def release(self, place_of: Callable[[str], StreamPlace]) -> int:
        """Append the scheduled events that are due to their streams, and tell what is noted of them; returns how many."""
        due, notes = take_due(self._db, self._now_ms), Notes()
        for each in due:
            place = place_of(each.split.stream_id)
            tail = self._tail(place, (each.split.partition, each.split.lane))
            position = Position(tail.split, tail.end)
            tail.add([each.event], explicit=True)
            self._seen[place.info.tenant_id, each.event.event_id] = Receipt(each.event.event_id, position)
            notes.add(each, position.offset)
        for stream_id, told in notes.told().items():
            with suppress(StreamNotFoundError):  # then nobody is told any more
                place = place_of(stream_id)
                events = [
                    Event(ids.new_id(ids.EVENT), "log.released", self._now_ms, d, tenant_id=place.info.tenant_id) for d in told
                ]
                self._place(Append(stream_id, events, new_ids=True), place)
        fault_point("scheduled.released")
        return len(due)

    def _groups(
        self, append: Append, place: StreamPlace, known: Mapping[int, Receipt]
    ) -> dict[tuple[int, EventPriority], "list[int] | range"]:
        """The indexes of the events to append, by partition and lane, in the order given."""
        events, partitions = append.events, place.info.config.partitions
        if not events:
            return {}
        if (lane := append.only_lane(partitions)) is not None:
            return {(0, lane): range(len(events))}
        keyless = append.partition if append.partition is not None else time.monotonic_ns() // 1_000_000
        groups: dict[tuple[int, EventPriority], list[int] | range] = {}
        taken: set[str] = set()
        of_key: dict[str | None, int] = {None: keyless % partitions}
        names = repeat("") if append.new_ids else column_of(events, "event_id")
        rows = zip(names, column_of(events, "key"), column_of(events, "priority"), strict=not append.new_ids)
        for i, (event_id, key, lane) in enumerate(rows):
            if not append.new_ids:
                if i in known or event_id in taken:
                    continue
                taken.add(event_id)
            partition = of_key.get(key)
            if partition is None:
                partition = of_key[key] = partition_of(key, partitions)
            indexes = groups.setdefault((partition, lane), [])
            indexes.append(i)  # type: ignore[union-attr]
        return groups

    def _tail(self, place: StreamPlace, key: tuple[int, EventPriority]) -> Tail:
        split_no = place.split_nos[key]
        tail = self._tails.get(split_no)
        if tail is None:
            row = self._db.execute(SQL["select_split"], (split_no,)).fetchone()
            if row is None:  # dropped by another process since this one looked it up
                raise StreamNotFoundError(f"The stream '{place.info.name}' was dropped.", stream=place.info.name)
            end = row[1]
            split = Split(place.info.stream_id, key[1], key[0])
            tail = self._tails[split_no] = Tail(place, split, split_no, end)
        return tail

    def _known(self, tenant_id: str, event_ids: Sequence[str]) -> dict[int, Receipt]:
        """The first receipts of those ids that were used before, by index."""
        for tenant, result in self._unseen:
            self._seen.update(((tenant, receipt.event_id), receipt) for receipt in result.receipts())
        self._unseen.clear()
        unknown = {}
        known: dict[int, Receipt] = {}
        for i, event_id in enumerate(event_ids):
            if (tenant_id, event_id) in self._seen:
                known[i] = _again(self._seen[tenant_id, event_id])
            else:
                unknown[event_id] = i
        if unknown:
            found = {event_id: Receipt(event_id, place) for event_id, place in find_ids(self._db, tenant_id, unknown).items()}
            if self._any_waited is None:
                self._any_waited = earliest_ms(self._db) is not None
            if self._any_waited:
                found |= find_waiting(self._db, tenant_id, unknown)
            for i, event_id in enumerate(event_ids):
                if event_id in found:
                    known[i] = _again(found[event_id])
        return known

    def flush(self) -> None:
        """Write what was added."""
        for tail in self._tails.values():
            written = 0
            for start, events, codec in tail.runs():
                stored = store_events(events, tail.begin + start, codec, self._now_ms)
                explicit = [i for i in range(start, start + len(events)) if i in tail.explicit] if tail.explicit else []
                own = event_ids = column_of(events, "event_id")
                if explicit:
                    own = [event_id for i, event_id in enumerate(event_ids, start) if i not in tail.explicit]
                batch_no = self._insert(tail, stored, own, len(explicit))
                if explicit:
                    hashes = [(id_hash(tail.tenant_id, event_ids[i - start]), batch_no) for i in explicit]
                    self._db.executemany(SQL["insert_event_id"], hashes)
                written += len(stored.body)
                fault_point("log.batch")
            if tail.count:
                self._db.execute(SQL["update_split_end"], (tail.end, written, tail.split_no))
        fault_point("log.written")

    def _insert(self, tail: Tail, stored: StoredBatch, self_indexed: Sequence[str], explicit: int) -> int:
        cursor = self._db.execute(
            SQL["insert_batch"],
            (
                tail.split_no,
                stored.base_offset,
                stored.count,
                CODECS.index(stored.codec),
                stored.min_timestamp_ms,
                stored.max_timestamp_ms,
                stored.appended_at_ms,
                min(self_indexed, default=None),
                max(self_indexed, default=None),
                explicit,
                checksum(tail.split, stored),
                stored.body,
            ),
        )
        assert cursor.lastrowid is not None  # noqa: S101 - an INSERT has one
        return cursor.lastrowid


@lru_cache(maxsize=1024)
def _decoded_config(text: str) -> StreamConfig:
    return msgspec.json.decode(text, type=StreamConfig)


def _again(first: Receipt) -> Receipt:
    """The receipt for an event whose id was used before."""
    return Receipt(first.event_id, first.position, duplicate=True, deliver_at_ms=first.deliver_at_ms)
