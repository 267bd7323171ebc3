"""Which event ids went where: a topic that every transaction of the bus writes to, and an index of it in the data folder.

The index is a copy of what the topic keeps, so it covers the window of ``ids_window_ms``, and may be deleted at any time: it is
read again. Ids that publishers bring are kept as hashes of 128 bits. Of ids of the bus's own making, which are in the order of
time, each run of events has its smallest and its largest; the run itself then decides.
"""

import hashlib
import sqlite3
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from typing import Final

import msgspec
from confluent_kafka import Message

from event_streaming_bus import ids
from event_streaming_bus.models import LANES, Position, Split
from event_streaming_bus.store.log.kafka_batches import offset_of
from event_streaming_bus.store.log.kafka_offsets import Offsets
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_tail import Tail
from event_streaming_bus.store.log.kafka_topics import ids_topic
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import SqliteDatabase

SQL: Final = load_queries("log/kafka_ids.sql")
_AT_ONCE: Final = 1000
_CATCH_UP_S: Final = 600.0
_SLICE_S: Final = 1.0


class OwnRun(msgspec.Struct, frozen=True, array_like=True):
    """Neighbouring events of a split with ids of the bus's own making."""

    lane: int
    partition: int
    first: int
    count: int
    id_min: str
    id_max: str


class StreamIds(msgspec.Struct, frozen=True, array_like=True):
    """The ids that one transaction wrote to one stream. ``brought``: ``(hash, lane, partition, offset)`` of ids of publishers."""

    tenant_id: str
    stream_id: str
    runs: list[OwnRun]
    brought: list[tuple[bytes, int, int, int]]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[StreamIds]).decode


def encode_ids(written: list[StreamIds]) -> bytes:
    """The record of a transaction in the topic."""
    return _encode(written)


def id_hash(tenant_id: str, event_id: str) -> bytes:
    """What an id is known by: so long that two different ones are never taken for the same."""
    return hashlib.blake2b(f"{tenant_id}\0{event_id}".encode(errors="surrogatepass"), digest_size=16).digest()


def _insert(db: sqlite3.Connection, written: StreamIds, record: int) -> None:
    places: dict[tuple[int, int], int] = {}
    for lane, partition in {(r.lane, r.partition) for r in written.runs} | {(lane, p) for _, lane, p, _ in written.brought}:
        db.execute(SQL["insert_place"], (written.tenant_id, written.stream_id, lane, partition))
        (places[lane, partition],) = db.execute(SQL["select_place"], (written.stream_id, lane, partition)).fetchone()
    runs = [(places[r.lane, r.partition], r.first, r.count, r.id_min, r.id_max, record) for r in written.runs]
    db.executemany(SQL["insert_run"], runs)
    db.executemany(SQL["insert_brought"], [(h, places[lane, p], offset, record) for h, lane, p, offset in written.brought])


class IdIndex:
    """Finds the places of ids. Safe to use from any thread and process."""

    def __init__(self, settings: KafkaSettings, offsets: Offsets) -> None:
        self.topic = ids_topic(settings)
        self._settings = settings
        self._offsets = offsets
        path = settings.folder / f"kafka-ids-{settings.fingerprint()}.db"
        # OFF: what a power failure takes is read again from the topic, or the file is deleted.
        self._db = SqliteDatabase(path, synchronous="OFF", tables=SQL["create_tables"])
        self._lock = threading.Lock()
        self._tail: Tail | None = None
        self._position = 0

    def catch_up(self) -> None:
        """Index everything that was in the topic at this moment, once it is decided."""
        part = (self.topic, 0)
        with self._lock:
            until = self._offsets.undecided_ends([part])[part]
            if self._position >= until:
                return
            if self._tail is None:
                self._tail = self._opened(until)
            deadline = time.monotonic() + _CATCH_UP_S
            while self._position < until:
                records: list[tuple[int, bytes]] = []

                def take(message: Message, records: list[tuple[int, bytes]] = records) -> None:
                    records.append((offset_of(message), message.value() or b"\x90"))

                is_there = self._tail.advance(min(until, self._position + _AT_ONCE), take, _SLICE_S)
                self._keep(records, self._tail.position)
                if not is_there and time.monotonic() > deadline:
                    raise self._tail.late(until, _CATCH_UP_S)

    def wrote(self, offset: int, value: bytes) -> None:
        """This process wrote this record, and it is decided."""
        with self._lock:
            if self._tail is not None and self._position == offset and self._tail.skip(offset, 1):
                self._keep([(offset, value)], self._tail.position)

    def _opened(self, end: int) -> Tail:
        """The topic from where the index ends, without what the topic no longer keeps."""
        begin = self._offsets.begins([(self.topic, 0)])[self.topic, 0]
        with self._db.transaction("opening the index of ids") as db:
            (position,) = db.execute(SQL["select_position"]).fetchone()
            if position > end:  # an index of another topic of this name
                position, begin = 0, end
            db.execute(SQL["delete_brought_before"], (begin,))
            db.execute(SQL["delete_runs_before"], (begin,))
        self._position = int(position)
        return Tail(self._settings, self.topic, self._position)

    def _keep(self, records: list[tuple[int, bytes]], position: int) -> None:
        with self._db.transaction("indexing ids") as db:
            (there,) = db.execute(SQL["select_position"]).fetchone()
            for record, value in records:
                if record < there:
                    continue  # another process of this folder was faster
                for of_stream in _decode(value):
                    _insert(db, of_stream, record)
            if position > there:
                db.execute(SQL["update_position"], (position,))
        self._position = position

    def brought(self, tenant_id: str, event_ids: Collection[str]) -> Iterator[tuple[str, Position]]:
        """The places of those of the tenant's ids that publishers brought, the newest of an id last."""
        with self._db.reading("looking for ids") as db:
            for event_id in event_ids:
                hash_ = id_hash(tenant_id, event_id)
                for _, stream_id, lane, partition, offset in db.execute(SQL["select_brought"], (hash_,)).fetchall():
                    yield event_id, Position(Split(stream_id, LANES[lane], partition), offset)

    def runs(self, tenant_id: str, event_ids: Collection[str]) -> list[tuple[Split, int, int]]:
        """``(split, first offset, count)`` of the runs that may hold those of the ids that the bus may have made."""
        ours = sorted(filter(ids.is_event_id, event_ids))
        if not ours:
            return []
        with self._db.reading("looking for ids") as db:
            rows = db.execute(SQL["select_runs"], (tenant_id, ours[0], ours[-1])).fetchall()
        return [
            (Split(stream_id, LANES[lane], partition), first, count)
            for stream_id, lane, partition, first, count, id_min, id_max in rows
            if bisect_left(ours, id_min) < bisect_right(ours, id_max)
        ]

    def close(self) -> None:
        with self._lock:
            if self._tail is not None:
                self._tail.close()
        self._db.close()
