"""Publications that are made once, however often they are asked for: their receipts are kept in the transaction that appends
them.

That is one row for a publication, whatever its number of events. To look for each event's id, and to write it where it is found
again, takes longer than the rest of publishing.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus.models import CompressionType, Position, Receipt, Split
from event_streaming_bus.store.log.base import AppendResult
from event_streaming_bus.store.log.codecs import compress, decompress
from event_streaming_bus.store.patient_clock import patient_ms, wall_ms
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("idempotency.sql")
KEPT_MS: Final = 24 * 3_600_000
_DROPPED_AT_ONCE: Final = 100

Receipts: TypeAlias = Callable[[Sequence[AppendResult]], list[Receipt]]
"""Makes the receipts of a publication from the results of the log."""


class PublishedOnce:
    """The ``Condition`` of an append to the log: that the publication was not made before, within a day, under its name.

    ``name`` is one of the tenant's. The table must be there: ``IdempotencyStore`` makes it. ``told`` has the first receipts once
    the log's append has returned, whether this append or an earlier one has written the events.
    """

    def __init__(self, tenant_id: str, name: str, receipts: Receipts) -> None:
        self._place = tenant_id, name
        self._make = receipts
        self._found: list[Receipt] | None = None

    def admits(self, db: sqlite3.Connection) -> bool:
        """Whether to append: not if it was done before."""
        row = db.execute(SQL["select_published"], (*self._place, patient_ms() - KEPT_MS)).fetchone()
        self._found = None if row is None else _unpacked(row[0])
        return row is None

    def appended(self, db: sqlite3.Connection, results: Sequence[AppendResult]) -> None:
        """Keep the receipts; those that are too old go."""
        db.execute(SQL["upsert_published"], (*self._place, _packed(self._make(results)), wall_ms()))
        db.execute(SQL["delete_old_published"], (patient_ms() - KEPT_MS, _DROPPED_AT_ONCE))

    def told(self, results: Sequence[AppendResult]) -> list[Receipt]:
        """The receipt of each event; those of an earlier append are duplicates."""
        return self._make(results) if self._found is None else self._found


Once: TypeAlias = Callable[[Receipts], PublishedOnce]
"""Makes the condition of a publication that has its name already."""


def _packed(receipts: Sequence[Receipt]) -> bytes:
    """Receipts by columns, as most have the same splits, and ids that begin alike."""
    splits: dict[Split, int] = {}
    which = [splits.setdefault(receipt.position.split, len(splits)) for receipt in receipts]
    columns = (
        [receipt.event_id for receipt in receipts],
        [str(split) for split in splits],
        which,
        [receipt.position.offset for receipt in receipts],
        [receipt.deliver_at_ms for receipt in receipts],
    )
    return compress(CompressionType.ZSTD, msgspec.msgpack.encode(columns))


def _unpacked(data: bytes) -> list[Receipt]:
    event_ids, texts, which, offsets, later_ms = msgspec.msgpack.decode(decompress(CompressionType.ZSTD, data))
    splits = list(map(Split.parse, texts))
    return [
        Receipt(event_id, Position(splits[split], offset), True, deliver_at_ms)
        for event_id, split, offset, deliver_at_ms in zip(event_ids, which, offsets, later_ms, strict=True)
    ]
