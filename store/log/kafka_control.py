"""The control topic: which streams there are and how far marks have come. And the topic of turns: who writes next.

A transaction that must know what others have written before it (it sets marks, brings ids of publishers, makes or drops a
stream) first writes a *ticket* to the topic of turns, which has one partition, so its order is one for all processes of all
machines. Its turn has come when that topic's last stable offset is that of its ticket: then every transaction with an earlier
ticket is decided, and whoever has a later one waits for it in the same way. So such transactions have one order, nobody holds a
lock that could be lost, and the brokers abort, after the transaction timeout, whoever died with a ticket in hand.

Tickets have a topic of their own because one's own ticket hides what lies behind it from readers of decided records, and the
marks of the transaction before may lie there. In the control topic only those write whose turn it is, so all that is in it
when the turn comes is decided, or will be in a moment.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from confluent_kafka import Message

from event_streaming_bus.errors import CorruptLogError, StorageError
from event_streaming_bus.models import StreamInfo
from event_streaming_bus.store.log.base import Mark
from event_streaming_bus.store.log.kafka_batches import offset_of
from event_streaming_bus.store.log.kafka_offsets import Offsets
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_tail import Tail
from event_streaming_bus.store.log.kafka_topics import control_topic, turns_topic

TURN_S: Final = 60.0
_FRESH_S: Final = 0.005
_SLICE_S: Final = 0.05
_LOOK_S: Final = 0.001
_STUCK_S: Final = 0.5

Record = tuple[bytes, bytes | None]
"""Key and value of a record of the topic; no value takes it away."""


class _Grown(msgspec.Struct, frozen=True):
    """What the record of a stream says beside its ``StreamInfo``."""

    first_partitions: int | None = None


def stream_record(info: StreamInfo, first_partitions: int | None = None) -> Record:
    """The record of a stream that there is; ``first_partitions``: with how many it was made, if it has grown since."""
    told = msgspec.to_builtins(info)
    if first_partitions is not None:
        told["first_partitions"] = first_partitions
    return b"s" + info.stream_id.encode(), msgspec.json.encode(told)


def dropped_record(stream_id: str) -> Record:
    """The record of a stream that there is no more."""
    return b"s" + stream_id.encode(), None


def mark_record(owner: str, key: str, value: bytes | None) -> Record:
    """The record of a mark; without a value, of one that was dropped."""
    return b"m" + msgspec.json.encode([owner, key]), value


def record_of(mark: Mark) -> Record:
    """The record of a mark that is to be set."""
    return mark_record(mark.owner, mark.key, mark.value)


class Control:
    """What the control topic says, as of the last look. Safe to use from any thread.

    ``on_stuck`` is called now and then while others' transactions are waited for: it may end those of processes that died.
    """

    def __init__(self, settings: KafkaSettings, offsets: Offsets, on_stuck: Callable[[], None]) -> None:
        self.topic = control_topic(settings)
        self._turns = turns_topic(settings)
        self._offsets = offsets
        self._on_stuck = on_stuck
        self._tail = Tail(settings, self.topic)
        self._reading = threading.Lock()
        self._asking = threading.Lock()
        self._asked_at = 0.0
        self._streams: dict[str, StreamInfo] = {}
        self._by_name: dict[tuple[str, str], str] = {}
        self._first_partitions: dict[str, int] = {}  # of the streams that have grown
        self._marks: dict[str, dict[str, bytes]] = {}
        self.changes = 0
        """How many records have been read."""

    def refresh(self, fresh_s: float = _FRESH_S) -> None:
        """Look at least as late as so long ago."""
        if time.monotonic() - self._asked_at < fresh_s:
            return
        with self._asking:
            asking_at = time.monotonic()
            if asking_at - self._asked_at < fresh_s:
                return
            part = (self.topic, 0)
            self.catch_up(self._offsets.ends([part])[part])
            self._asked_at = asking_at

    def catch_up(self, until: int) -> None:
        """Read up to the offset, which waits for every transaction before it. ``StorageError`` if that takes too long."""
        started = time.monotonic()
        while self._tail.position < until:
            with self._reading:
                is_there = self._tail.advance(until, self._apply, _SLICE_S)
            if not is_there and time.monotonic() > started + TURN_S:
                raise self._tail.late(until, TURN_S)

    def await_turn(self, ticket: int) -> None:
        """Wait until it is the turn of who wrote the ticket, and read what those before have written. ``StorageError`` if that
        takes too long."""
        turns, control = (self._turns, 0), (self.topic, 0)
        started = time.monotonic()
        stuck_at = started + _STUCK_S
        while self._offsets.ends([turns])[turns] < ticket:
            now = time.monotonic()
            if now > started + TURN_S:
                raise StorageError(
                    f"Other processes that write to {self._turns} did not end within {TURN_S:g} s. Nothing was written; "
                    "try again.",
                    topic=self._turns,
                )
            if now > stuck_at:
                stuck_at = now + _STUCK_S
                self._on_stuck()
            time.sleep(_LOOK_S)
        self.catch_up(self._offsets.undecided_ends([control])[control])

    def wrote(self, offsets: Sequence[int], records: Iterable[Record]) -> None:
        """This process wrote these records, when it was its turn, and they are decided."""
        with self._reading:
            if offsets[-1] - offsets[0] + 1 == len(offsets) and self._tail.skip(offsets[0], len(offsets)):
                for offset, (key, value) in zip(offsets, records, strict=True):
                    self._apply_record(offset, key, value)

    def _apply(self, message: Message) -> None:
        self._apply_record(offset_of(message), message.key() or b"", message.value())

    def _apply_record(self, offset: int, key: bytes, value: bytes | None) -> None:
        self.changes += 1
        try:
            if key[:1] == b"s":
                self._apply_stream(key[1:].decode(), value)
            elif key[:1] == b"m":
                owner, name = msgspec.json.decode(key[1:], type=tuple[str, str])
                marks = self._marks.setdefault(owner, {})
                if value is None:
                    marks.pop(name, None)
                else:
                    marks[name] = value
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptLogError(
                f"The record with offset {offset} of {self.topic} is damaged: {error}. Only the bus may write there.",
                topic=self.topic,
                offset=offset,
            ) from error

    def _apply_stream(self, stream_id: str, value: bytes | None) -> None:
        self._first_partitions.pop(stream_id, None)
        if value is not None:
            info = msgspec.json.decode(value, type=StreamInfo)
            first_partitions = msgspec.json.decode(value, type=_Grown).first_partitions
            if first_partitions is not None:
                self._first_partitions[stream_id] = first_partitions
            self._streams[stream_id] = info
            self._by_name[info.tenant_id, info.name] = stream_id
        elif (gone := self._streams.pop(stream_id, None)) is not None:
            self._by_name.pop((gone.tenant_id, gone.name), None)

    def stream(self, stream_id: str) -> StreamInfo | None:
        """The stream with this id."""
        return self._streams.get(stream_id)

    def named(self, tenant_id: str, name: str) -> StreamInfo | None:
        """The tenant's stream with this name."""
        stream_id = self._by_name.get((tenant_id, name))
        return None if stream_id is None else self._streams.get(stream_id)

    def first_partitions(self, stream_id: str) -> int | None:
        """With how many partitions the stream was made; ``None`` for one that has not grown since."""
        return self._first_partitions.get(stream_id)

    def streams(self) -> list[StreamInfo]:
        """All streams, by name."""
        with self._reading:
            infos = list(self._streams.values())
        return sorted(infos, key=lambda info: (info.name, info.tenant_id))

    def marks(self, owner: str) -> dict[str, bytes]:
        """The marks of an owner."""
        with self._reading:
            return dict(self._marks.get(owner, {}))

    def mark(self, owner: str, key: str) -> bytes | None:
        """One mark."""
        return self._marks.get(owner, {}).get(key)

    def close(self) -> None:
        with self._reading:
            self._tail.close()
