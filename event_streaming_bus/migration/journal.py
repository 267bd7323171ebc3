"""The journal of a migration: where each event of the source is at the target.

It is a stream of the target, ``_migration``. Its records are written in the transaction that appends the events they tell of, so
the journal and the events are both there, or neither, however a run ends. It says what a mapping of offsets cannot: keys may go
to other partitions at the target, so a split of the source is spread over several there.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.models import LANES, Event, Receipt, Split, StreamInfo
from event_streaming_bus.store.history_records import SYSTEM_TENANT
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.reading import batches_between

JOURNAL_STREAM: Final = "_migration"
_KNOWN: Final = 0xFFFF  # there are fewer partitions


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """The events of a split of the source from offset ``begin`` up to ``end``."""

    lane: int
    partition: int
    begin: int
    end: int

    def split(self, stream_id: str) -> Split:
        """The split, of this stream."""
        return Split(stream_id, LANES[self.lane], self.partition)


class Known(msgspec.Struct, frozen=True, array_like=True):
    """An event that the target had already under the same id: by its index in the record, and where it is there."""

    index: int
    stream_id: str
    partition: int
    offset: int


class Copied(msgspec.Struct, frozen=True, array_like=True):
    """Events of a stream that one transaction brought, in the order in which they were appended.

    ``pieces`` are the parts of splits that they are from. For each event, in 16 bits, ``origins`` has the number of its piece,
    and ``partitions`` its partition at the target. ``runs`` says at which offsets those of a split of the target lie, in this
    order: ``(lane, partition, first offset, count)``. ``source`` and the times are those of the ``Pair``.
    """

    source: str
    stream_id: str
    source_made_ms: int
    target_made_ms: int
    pieces: list[Piece]
    origins: bytes
    partitions: bytes
    runs: list[tuple[int, int, int, int]]
    known: list[Known]

    @property
    def count(self) -> int:
        """How many events it tells of."""
        return len(self.origins) // 2

    def numbers(self) -> Sequence[int]:
        """The number of the piece of each event."""
        return array("H", self.origins)

    def places(self, stream_id: str) -> list[tuple[Split, int] | None]:
        """Where each event was appended: split and offset in the stream of the target; ``None`` for one that had been there."""
        splits: dict[tuple[int, int], Split] = {}
        offsets: dict[tuple[int, int], list[int]] = {}
        for lane, partition, first, count in self.runs:
            splits[lane, partition] = Split(stream_id, LANES[lane], partition)
            offsets.setdefault((lane, partition), []).extend(range(first, first + count))
        ahead = {place: iter(each) for place, each in offsets.items()}
        lanes = [piece.lane for piece in self.pieces]
        found: list[tuple[Split, int] | None] = []
        for number, partition in zip(self.numbers(), array("H", self.partitions), strict=True):
            place = lanes[number], partition
            found.append(None if partition == _KNOWN else (splits[place], next(ahead[place])))
        return found


def copied_in(data: bytes) -> Copied:
    """What a record of the journal tells. Raises ``CorruptLogError`` for one that ``entry_of`` did not write: every event is of
    a piece that there is, and in a run or known, so ``places`` neither fails nor makes more than there are events."""
    try:
        copied = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptLogError(f"a record of the migration's journal cannot be read: {error}") from error
    if not _fits(copied):
        raise CorruptLogError("a record of the migration's journal does not fit itself: its events, pieces and runs differ")
    return copied


def _fits(copied: Copied) -> bool:
    if len(copied.origins) % 2 or len(copied.partitions) != len(copied.origins):
        return False
    pieces, numbers = copied.pieces, copied.numbers()
    if any(piece.lane not in range(len(LANES)) for piece in pieces) or (numbers and max(numbers) >= len(pieces)):
        return False
    partitions = array("H", copied.partitions)
    appended = Counter((pieces[n].lane, p) for n, p in zip(numbers, partitions, strict=True) if p != _KNOWN)
    told: Counter[tuple[int, int]] = Counter()
    for lane, partition, _, count in copied.runs:
        if count < 1:
            return False
        told[lane, partition] += count
    known = [each.index for each in copied.known]
    return appended == told and known == [index for index, partition in enumerate(partitions) if partition == _KNOWN]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Copied).decode


def copied_of(pair: Pair, pieces: list[Piece], numbers: Sequence[int], receipts: Sequence[Receipt]) -> Copied:
    """What is told of events, each from the piece of its number, for which the target gave these receipts."""
    partitions, known = array("H"), []
    runs: list[tuple[int, int, int, int]] = []
    latest: dict[tuple[int, int], int] = {}  # of each split, its latest run
    for index, receipt in enumerate(receipts):
        there, offset = receipt.position
        if receipt.duplicate:
            known.append(Known(index, there.stream_id, there.partition, offset))
            partitions.append(_KNOWN)
            continue
        partitions.append(there.partition)
        place = pieces[numbers[index]].lane, there.partition
        at = latest.get(place)
        if at is not None and runs[at][2] + runs[at][3] == offset:
            runs[at] = (*place, runs[at][2], runs[at][3] + 1)
        else:
            latest[place] = len(runs)
            runs.append((*place, offset, 1))
    origins = array("H", numbers).tobytes()
    return Copied(pair.source, pair.before.stream_id, *pair.made_ms, pieces, origins, partitions.tobytes(), runs, known)


def entry_of(copied: Copied, now_ms: int) -> Event:
    """The event of the journal that tells of it."""
    event_id = ids.new_id(ids.EVENT)
    return Event(event_id, "migration.copied", now_ms, _encode(copied), key=copied.stream_id, tenant_id=SYSTEM_TENANT)


def read_journal(log: EventLog, journal: StreamInfo, pair: Pair) -> Iterator[Copied]:
    """What the journal tells of a stream, in the order in which it was written."""
    begins, ends = log.begin_offsets(journal.stream_id), log.end_offsets(journal.stream_id)
    for split in journal.splits():
        for batch in batches_between(log, split, begins[split], ends[split]):
            keys = batch.column("key")
            if pair.before.stream_id not in keys:
                continue
            for key, data in zip(keys, batch.payloads(), strict=True):
                if key != pair.before.stream_id:
                    continue
                copied = copied_in(data)
                if copied.source == pair.source and (copied.source_made_ms, copied.target_made_ms) == pair.made_ms:
                    yield copied
