"""The read side of the Kafka log: record batches of splits, from consumers that are kept where they stopped."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from event_streaming_bus.errors import ClosedError, OffsetOutOfRangeError, StorageError
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.kafka_batches import ENVELOPE_BYTES, KafkaBatch, batches_of, void_batch
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, kafka_errors
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_tail import FETCH_OPTIONS, TRANSIENT

_T = TypeVar("_T")
MAX_CONSUMERS: Final = 24
_IDLE_S: Final = 20.0
_AT_ONCE: Final = 2000


class Place(msgspec.Struct, frozen=True):
    """A split as Kafka has it: a partition of a topic. ``tenant_id`` is that of its stream."""

    part: TopicPart
    split: Split
    tenant_id: str


class OutOfRangeError(Exception):
    """The broker does not keep the offset any more."""


def out_of_range(split: Split, offset: int, begin: int, end: int) -> OffsetOutOfRangeError:
    """The error for an offset that is not there, where these are."""
    return OffsetOutOfRangeError(
        f"{split} holds the offsets {begin} to {end - 1}; {offset} is "
        + ("no longer kept: retention has dropped it." if 0 <= offset < begin else "outside of them."),
        begin=begin,
        end=end,
    )


class _Cursor:
    """A consumer that stands somewhere in one partition, and the batches that it has read but not handed out."""

    def __init__(self, settings: KafkaSettings, place: Place, offset: int) -> None:
        part = self.part = place.part
        self.offset = offset
        self.used_at = time.monotonic()
        self._brokers = settings.brokers
        self._split = place.split
        self._tenant_id = place.tenant_id
        self._batches: deque[KafkaBatch] = deque()
        self._fetched = offset  # everything before it is in _batches or was handed out
        options = settings.options(group_id=f"{settings.prefix}esb-reader", auto_offset_reset="error")
        with kafka_errors(self._brokers, f"opening {part[0]}"):
            self._consumer = Consumer(options | FETCH_OPTIONS)
            self._consumer.assign([TopicPartition(*part, offset)])

    def read(self, until: int, max_bytes: int) -> list[KafkaBatch]:
        """The next batches, at least one if there is any offset before ``until``, then as many as fit in ``max_bytes``. Where no
        event lies before ``until``, that is one without events."""
        taken: list[KafkaBatch] = []
        size = 0
        while True:
            while self._batches:
                batch = self._batches[0]
                if taken and size + batch.stored_bytes > max_bytes:
                    return taken
                taken.append(self._batches.popleft())
                size += batch.stored_bytes
                self.offset = batch.end_offset
            if self._fetched >= until or size >= max_bytes:
                if not taken and self.offset < self._fetched:
                    taken.append(void_batch(self._split, self.offset, self._fetched))
                    self.offset = self._fetched
                return taken
            self._fetch(until, max_bytes - size)

    def holds_event(self, until: int) -> bool:
        """Whether an event lies before ``until``, here or further on. Nothing is taken."""
        while not self._batches and self._fetched < until:
            self._fetch(until, 1)
        return bool(self._batches)

    def _fetch(self, until: int, max_bytes: int) -> None:
        """Read about ``max_bytes``, or up to ``until``."""
        deadline = time.monotonic() + REQUEST_S
        messages: list[Message] = []
        size = 0
        behind: int | None = None
        failed: KafkaError | None = None
        while size < max_bytes and (behind is None or behind < until):
            some = self._consumer.consume(_AT_ONCE, 0) or [m for m in [self._consumer.poll(0.02)] if m is not None]
            records = [message for message in some if message.error() is None]
            size += sum(map(len, records)) + ENVELOPE_BYTES * len(records)
            messages += records
            for message in some if len(records) < len(some) else ():
                error = message.error()
                if error is None:
                    continue
                if error.code() == KafkaError._PARTITION_EOF:
                    behind = message.offset() or 0
                elif error.code() in UNKNOWN_TOPIC:
                    raise UnknownTopicError(self.part[0])
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                    raise OutOfRangeError
                elif error.code() in TRANSIENT:
                    failed = error
                else:
                    raise bus_error(error, self._brokers, f"reading {self.part[0]}")
            if time.monotonic() > deadline:
                raise self._late(failed)
        self._batches.extend(batches_of(messages, self._split, self._tenant_id, behind))
        if self._batches:
            self._fetched = self._batches[-1].end_offset
        self._fetched = max(self._fetched, behind or 0)

    def _late(self, failed: KafkaError | None) -> StorageError:
        if failed is not None:
            error = bus_error(failed, self._brokers, f"reading {self.part[0]}")
            assert isinstance(error, StorageError)  # noqa: S101 - such codes are
            return error
        return StorageError(
            f"The Kafka brokers at {self._brokers} sent nothing of {self.part[0]} for {REQUEST_S:g} s. Try again.",
            brokers=self._brokers,
        )

    def close(self) -> None:
        self._consumer.close()


class Reader:
    """Reads from any split. Safe to use from any thread.

    At most ``MAX_CONSUMERS`` consumers are kept when they are not in use, each where its last reading ended, so going on costs
    no seeking; each holds at most 16 MiB that it has read ahead.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: list[_Cursor] = []
        self._closed = False

    def read(self, place: Place, offset: int, until: int, max_bytes: int) -> list[KafkaBatch]:
        """The batches from ``offset`` on as ``EventLog.read`` gives them; ``until`` is the end: what lies before it is waited
        for. ``OutOfRangeError``, ``UnknownTopicError``."""
        return self._using(place, offset, lambda cursor: cursor.read(until, max_bytes))

    def holds_event(self, place: Place, offset: int, until: int) -> bool:
        """Whether an event lies at ``offset`` or behind it, before ``until``. Raises as ``read``."""
        return offset < until and self._using(place, offset, lambda cursor: cursor.holds_event(until))

    def _using(self, place: Place, offset: int, use: Callable[[_Cursor], _T]) -> _T:
        cursor = self._taken(place.part, offset) or _Cursor(self._settings, place, offset)
        try:
            result = use(cursor)
        except BaseException:
            cursor.close()
            raise
        self._give_back(cursor)
        return result

    def _taken(self, part: TopicPart, offset: int) -> _Cursor | None:
        with self._lock:
            if self._closed:
                raise ClosedError
            for cursor in self._idle:
                if cursor.part == part and cursor.offset == offset:
                    self._idle.remove(cursor)
                    return cursor
        return None

    def _give_back(self, cursor: _Cursor) -> None:
        now = cursor.used_at = time.monotonic()
        with self._lock:
            self._idle.append(cursor)
            kept = [each for each in self._idle if now - each.used_at < _IDLE_S][-MAX_CONSUMERS:]
            gone = [each for each in self._idle if each not in kept]
            self._idle = kept
            if self._closed:
                gone, self._idle = self._idle + gone, []
        for each in gone:
            each.close()

    def forget(self, topics: frozenset[str]) -> None:
        """Close what reads from these topics: they are dropped."""
        with self._lock:
            gone = [each for each in self._idle if each.part[0] in topics]
            self._idle = [each for each in self._idle if each.part[0] not in topics]
        for each in gone:
            each.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            gone, self._idle = self._idle, []
        for each in gone:
            each.close()
