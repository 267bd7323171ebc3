"""Finding an event by its id: the index tells where it may be, the log decides whether it is there."""

from collections.abc import Callable, Iterable, Sequence

from event_streaming_bus.errors import StreamNotFoundError
from event_streaming_bus.models import Position, Split
from event_streaming_bus.store.log.kafka_ids import IdIndex
from event_streaming_bus.store.log.kafka_offsets import Offsets, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_reader import OutOfRangeError, Place, Reader

_READ_BYTES = 1 << 20


class IdFinder:
    """Finds ids that were written within the window that is kept. Safe to use from any thread.

    ``place_of`` tells where a split is; ``StreamNotFoundError`` if its stream was dropped.
    """

    def __init__(self, index: IdIndex, offsets: Offsets, reader: Reader, place_of: Callable[[Split], Place]) -> None:
        self._index = index
        self._offsets = offsets
        self._reader = reader
        self._place_of = place_of

    def find(self, tenant_id: str, event_ids: Sequence[str]) -> dict[str, Position]:
        """The places of those of the tenant's ids that the log still holds."""
        if not event_ids:
            return {}
        self._index.catch_up()
        found: dict[str, Position] = {}
        brought = list(self._index.brought(tenant_id, event_ids))
        runs = self._index.runs(tenant_id, event_ids)
        begins = self._begins({position.split for _, position in brought} | {split for split, _, _ in runs})
        for event_id, position in brought:
            if position.offset >= begins.get(position.split, position.offset + 1):
                found.setdefault(event_id, position)
        wanted = set(event_ids)
        for split, first, count in runs:
            if split in begins and first + count > begins[split]:
                for event_id, position in self._ids_of(split, max(first, begins[split]), first + count):
                    if event_id in wanted:
                        found.setdefault(event_id, position)
        return found

    def _begins(self, splits: Iterable[Split]) -> dict[Split, int]:
        """Where the splits begin; those that were dropped are left out."""
        begins: dict[Split, int] = {}
        of_topic: dict[str, dict[TopicPart, Split]] = {}
        for split in splits:
            try:
                part = self._place_of(split).part
            except StreamNotFoundError:
                continue
            of_topic.setdefault(part[0], {})[part] = split
        for parts in of_topic.values():
            try:
                begins |= {parts[part]: offset for part, offset in self._offsets.begins(parts).items()}
            except UnknownTopicError:
                continue
        return begins

    def _ids_of(self, split: Split, begin: int, end: int) -> list[tuple[str, Position]]:
        """The ids of the events from ``begin`` to ``end``, which are written."""
        place = self._place_of(split)
        found: list[tuple[str, Position]] = []
        offset = begin
        try:
            while offset < end:
                for batch in self._reader.read(place, offset, end, _READ_BYTES):
                    event_ids = batch.column("event_id")
                    found += [(each, batch.position(i)) for i, each in enumerate(event_ids) if batch.offset + i < end]
                    offset = batch.end_offset
        except (OutOfRangeError, UnknownTopicError):
            return found  # dropped in the meantime
        return found
