"""Record batches made of Kafka's records."""

import time
from collections.abc import Iterator, Sequence

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from event_streaming_bus.models import CompressionType, Event, Split
from event_streaming_bus.store.log.kafka_events import to_event
from event_streaming_bus.store.log.record_batch import (
    MAX_BATCH_EVENTS,
    MAX_BATCH_PAYLOAD_BYTES,
    RecordBatch,
    StoredBatch,
    store_events,
)


class KafkaBatch(RecordBatch):
    """Events with neighbouring offsets, and the offsets behind them that hold no event up to ``end_offset``.

    So ``offset + i`` is the offset of event ``i`` as ever, and whoever goes on at ``end_offset`` misses nothing; but there may be
    fewer events than offsets: ``count <= end_offset - offset``.
    """

    __slots__ = ("_next_offset",)

    def __init__(self, split: Split, stored: StoredBatch, next_offset: int, skip: int = 0, count: int | None = None) -> None:
        super().__init__(split, stored, skip, count)
        self._next_offset = next_offset

    @property
    def end_offset(self) -> int:
        """The offset behind the events and the gap that follows them."""
        return self._next_offset

    def slice(self, begin_offset: int, end_offset: int) -> "KafkaBatch":
        """The events with ``begin_offset <= offset < end_offset``, which must lie within this batch or the gap behind it."""
        begin, end = max(begin_offset, self.offset), min(end_offset, self._next_offset)
        count = max(0, min(end, self.offset + self.count) - begin)
        part = KafkaBatch(self.split, self._stored, end, begin - self._stored.base_offset, count)
        part._columns = self._columns
        return part


def void_batch(split: Split, offset: int, end_offset: int) -> KafkaBatch:
    """A batch without events: these offsets hold none, so whoever reads on does so at ``end_offset``."""
    now_ms = time.time_ns() // 1_000_000
    batch = KafkaBatch(split, StoredBatch(offset, 0, CompressionType.NONE, 0, 0, now_ms, b""), end_offset)
    no_values = {"data": [b"", b""], "timestamp_ms": b""}
    batch._columns = [no_values.get(name, []) for name in Event.__struct_fields__]
    return batch


def batches_of(messages: Sequence[Message], split: Split, tenant_id: str, end_offset: int | None) -> Iterator[KafkaBatch]:
    """The records of a split as batches. Each has neighbouring offsets, one time of appending, and at most so many events and
    bytes of payload as batches have. ``end_offset``: how far the last one reaches, ``None`` to its last event."""
    start, size, before, appended_ms = 0, 0, -1, 0
    for i, message in enumerate(messages):
        offset, length = offset_of(message), len(message.value() or b"")
        kind, now_ms = message.timestamp()
        if i > start:
            is_same = now_ms == appended_ms or kind != TIMESTAMP_LOG_APPEND_TIME
            is_full = i - start >= MAX_BATCH_EVENTS or size + length > MAX_BATCH_PAYLOAD_BYTES
            if offset != before + 1 or not is_same or is_full:
                yield _batch(messages[start:i], split, tenant_id, offset, appended_ms)
                start, size, appended_ms = i, 0, 0
        # Topics of other makers have the producers' times, and may have none.
        appended_ms = now_ms if now_ms > appended_ms else appended_ms
        size += length
        before = offset
    if messages:
        yield _batch(messages[start:], split, tenant_id, max(before + 1, end_offset or 0), appended_ms)


def offset_of(message: Message) -> int:
    """The offset of a record that was read or delivered."""
    offset = message.offset()
    assert offset is not None  # noqa: S101 - such a record has one
    return offset


def _batch(messages: Sequence[Message], split: Split, tenant_id: str, next_offset: int, appended_ms: int) -> KafkaBatch:
    events = [to_event(message, split, tenant_id) for message in messages]
    stored = store_events(events, offset_of(messages[0]), CompressionType.NONE, appended_ms)
    return KafkaBatch(split, stored, next_offset)
