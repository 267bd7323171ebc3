"""What the embedded log has stored: record batches from their rows, and events by their ids."""

import json
import sqlite3
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

import xxhash

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import LANES, CompressionType, Position, Split
from event_streaming_bus.store.log.record_batch import RecordBatch, StoredBatch, checksum
from event_streaming_bus.store.sql import load_queries

CODECS: Final = tuple(CompressionType)
SQL: Final = load_queries("log/embedded.sql")


def id_hash(tenant_id: str, event_id: str) -> int:
    """What an event id is indexed by: XXH3 (64 bits) as a signed integer. Equal hashes are told apart by looking."""
    digest = hash_of(f"{tenant_id}\0{event_id}")
    return digest - (1 << 64) if digest >> 63 else digest


def hash_of(text: str) -> int:
    """XXH3 (64 bits) of the text's UTF-8. Raises ``InvalidInputError`` for text that has none."""
    try:
        return xxhash.xxh3_64_intdigest(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{text!r} cannot be written as UTF-8: {error}") from error


def stored_batch(row: Sequence[int | bytes]) -> tuple[StoredBatch, int]:
    """``(batch, checksum)`` of a row ``base_offset, count, codec, min and max timestamp, appended_at, body, checksum``.

    Raises ``ValueError`` for a row that holds anything else: SQLite keeps whatever a damaged page says.
    """
    *numbers, body, digest = row
    if not all(type(number) is int for number in (*numbers, digest)) or not isinstance(body, bytes):
        raise ValueError("its row holds values of other kinds")
    base, count, codec, low, high, appended = numbers
    if not 0 <= codec < len(CODECS):  # type: ignore[operator]
        raise ValueError(f"there is no codec {codec!r}")
    return StoredBatch(base, count, CODECS[codec], low, high, appended, body), digest  # type: ignore[arg-type,index,return-value]


def verified(split: Split, row: Sequence[int | bytes]) -> RecordBatch:
    """The record batch of a row, its checksum verified. ``CorruptLogError`` names it if it is damaged."""
    try:
        stored, digest = stored_batch(row)
    except ValueError as error:
        base, count = (number if isinstance(number, int) else 0 for number in row[:2])
        unread = StoredBatch(base, max(count, 1), CompressionType.NONE, 0, 0, 0, b"")
        raise RecordBatch(split, unread).damaged(str(error)) from None
    batch = RecordBatch(split, stored)
    try:
        is_whole = checksum(split, stored) == digest
    except struct.error:  # a number that no batch can have
        is_whole = False
    if not is_whole:
        raise batch.damaged("its checksum does not fit its contents")
    return batch


def find_ids(db: sqlite3.Connection, tenant_id: str, event_ids: Mapping[str, object]) -> dict[str, Position]:
    """The positions of those of the tenant's event ids that the log holds.

    Ids that publishers brought are looked up in the index of ids; ids of our own making by their place in the order of ids.
    Both only name record batches that may hold an id; the batches themselves decide.
    """
    found: dict[str, Position] = {}
    hashes = [id_hash(tenant_id, event_id) for event_id in event_ids]
    candidates = {batch_no for _, batch_no in db.execute(SQL["select_event_ids"], (json.dumps(hashes),))}
    ours = sorted(filter(ids.is_event_id, event_ids))
    first_dated = bisect_left(ours, ids.FIRST_DATED)
    # Every batch is behind an id without a time, as a routed copy has: they have an index of their own, of the few that hold one.
    for query, some in (("select_batches_of_undated_ids", ours[:first_dated]), ("select_batches_by_id", ours[first_dated:])):
        if some:
            for batch_no, id_min, id_max in db.execute(SQL[query], (some[0], some[-1])):
                if bisect_left(some, id_min) < bisect_right(some, id_max):
                    candidates.add(batch_no)
    for batch_no in candidates:
        row = db.execute(SQL["select_batch"], (batch_no,)).fetchone()
        if row is None:
            continue  # retention has dropped the batch in the meantime
        split_no, *row = row
        place = db.execute(SQL["select_split_place"], (split_no,)).fetchone()
        if place is None or place[1] != tenant_id:
            continue
        stream_id, _, lane, partition = place
        batch = verified(Split(stream_id, LANES[lane], partition), row)
        for i, event_id in enumerate(batch.column("event_id")):
            if event_id in event_ids:
                found[event_id] = batch.position(i)
    return found
