"""Record batches made of Kafka's records."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from event_streaming_bus.models import CompressionType, Event, Split
from event_streaming_bus.store.log.kafka_events import envelope_of, event_of
from event_streaming_bus.store.log.record_batch import (
    MAX_BATCH_EVENTS,
    MAX_BATCH_PAYLOAD_BYTES,
    RecordBatch,
    StoredBatch,
    store_events,
)

ENVELOPE_BYTES: Final = 200  # about what an envelope takes


class KafkaBatch(RecordBatch):
    """Events with neighbouring offsets, and the offsets behind them that hold no event up to ``end_offset``.

    So ``offset + i`` is the offset of event ``i`` as ever, and whoever goes on at ``end_offset`` misses nothing; but there may be
    fewer events than offsets: ``count <= end_offset - offset``. Envelopes and payloads are as the records had them: nothing is
    encoded again, and a column is made when it is asked for.
    """

    __slots__ = ("_envelopes", "_next_offset", "_payloads", "_size")

    def __init__(
        self,
        split: Split,
        stored: StoredBatch,
        envelopes: Sequence[Any],
        payloads: list[bytes],
        next_offset: int,
    ) -> None:
        super().__init__(split, stored)
        self._envelopes = envelopes
        self._payloads = payloads
        self._next_offset = next_offset
        self._size: int | None = None

    @property
    def end_offset(self) -> int:
        """The offset behind the events and the gap that follows them."""
        return self._next_offset

    @property
    def stored_bytes(self) -> int:
        """About what the records take, uncompressed."""
        if self._size is None:
            self._size = sum(map(len, self._payloads)) + ENVELOPE_BYTES * self.count
        return self._size

    def slice(self, begin_offset: int, end_offset: int) -> "KafkaBatch":
        """The events with ``begin_offset <= offset < end_offset``, which must lie within this batch or the gap behind it."""
        begin, end = max(begin_offset, self.offset), min(end_offset, self._next_offset)
        first, last = begin - self.offset, min(end - self.offset, self.count)
        envelopes, payloads = self._envelopes[first:last], self._payloads[first:last]
        return KafkaBatch(self.split, _stored(begin, len(payloads), self.appended_at_ms), envelopes, payloads, end)

    def stored(self) -> StoredBatch:
        """The batch as an embedded log stores it."""
        return store_events(self.events(), self.offset, CompressionType.NONE, self.appended_at_ms)

    def timestamps_ms(self) -> Sequence[int]:
        return [envelope.timestamp_ms for envelope in self._envelopes]

    def payload_lines(self, *, counted: bool = True) -> bytes | None:
        # Counted in any case: a payload of somebody else's may hold line feeds, and lines be as many all the same.
        lines = b"\n".join(self._payloads)
        return lines if lines.count(b"\n") == len(self._payloads) - 1 else None

    def payloads(self) -> list[bytes]:
        return self._payloads

    def column(self, name: str) -> Sequence[Any]:
        if name == "data":
            return self._payloads
        return [getattr(envelope, name) for envelope in self._envelopes]

    def constant(self, name: str) -> tuple[bool, Any]:
        """``(True, value)`` if all events have the same, else ``(False, None)``."""
        if name in ("data", "timestamp_ms", "event_id") or not self._envelopes:
            return False, None
        values = self.column(name)
        value = values[0]
        same = all(each is value for each in values) if name == "metadata" else values.count(value) == len(values)
        return (True, value) if same else (False, None)

    def events(self) -> list[Event]:
        return list(map(event_of, self._envelopes, self._payloads))


def _stored(offset: int, count: int, appended_ms: int) -> StoredBatch:
    """Where the batch lies. It has no body: ``stored`` makes one."""
    return StoredBatch(offset, count, CompressionType.NONE, 0, 0, appended_ms, b"")


def void_batch(split: Split, offset: int, end_offset: int) -> KafkaBatch:
    """A batch without events: these offsets hold none, so whoever reads on does so at ``end_offset``."""
    return KafkaBatch(split, _stored(offset, 0, time.time_ns() // 1_000_000), [], [], end_offset)


def batches_of(messages: Sequence[Message], split: Split, tenant_id: str, end_offset: int | None) -> Iterator[KafkaBatch]:
    """The records of a split as batches. Each has neighbouring offsets, one time of appending, and at most so many events and
    bytes of payload as batches have. ``end_offset``: how far the last one reaches, ``None`` to its last event."""
    if not messages:
        return
    offsets = list(map(offset_of, messages))
    times = [message.timestamp() for message in messages]
    payloads = [b"null" if (value := message.value()) is None else value for message in messages]
    cuts = [i for i, (before, after) in enumerate(pairwise(offsets), 1) if after != before + 1]
    # Topics of other makers have the producers' times, and may have none: those do not part batches.
    cuts += [i for i, (before, at) in enumerate(pairwise(times), 1) if at != before and at[0] == TIMESTAMP_LOG_APPEND_TIME]
    ends = iter([*sorted(set(cuts)), len(messages)])
    end = start = 0
    while start < len(messages):
        if start == end:
            end = next(ends)
        stop = _stop(payloads, start, end)
        next_offset = offsets[stop] if stop < len(messages) else max(offsets[-1] + 1, end_offset or 0)
        appended_ms = max(0, max(at_ms for _, at_ms in times[start:stop]))
        envelopes = [envelope_of(message, split, tenant_id) for message in messages[start:stop]]
        data = [e.data if e.__class__ is Event else raw for e, raw in zip(envelopes, payloads[start:stop], strict=True)]
        yield KafkaBatch(split, _stored(offsets[start], stop - start, appended_ms), envelopes, data, next_offset)
        start = stop


def _stop(payloads: Sequence[bytes], start: int, end: int) -> int:
    """How far a batch from ``start`` reaches."""
    end = min(end, start + MAX_BATCH_EVENTS)
    sizes = list(map(len, payloads[start:end]))
    if sum(sizes) <= MAX_BATCH_PAYLOAD_BYTES:
        return end
    size, stop = sizes[0], start + 1
    while stop < end and size + sizes[stop - start] <= MAX_BATCH_PAYLOAD_BYTES:
        size += sizes[stop - start]
        stop += 1
    return stop


def offset_of(message: Message) -> int:
    """The offset of a record that was read or delivered."""
    offset = message.offset()
    assert offset is not None  # noqa: S101 - such a record has one
    return offset
