"""Following one partition of one topic from its begin, record by record."""

import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from event_streaming_bus.errors import StorageError
from event_streaming_bus.store.log.kafka_batches import offset_of
from event_streaming_bus.store.log.kafka_errors import bus_error, kafka_errors
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

TRANSIENT: Final = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError._TIMED_OUT})
FETCH_OPTIONS: Final = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 10,
    "topic.metadata.refresh.fast.interval.ms": 20,
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 50,
    "fetch.message.max.bytes": 8 << 20,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
}
"""Of consumers that are read from now and then: they hold little, and know within 10 ms that there is no more."""


class Tail:
    """The decided records of a topic's one partition. Not safe for threads: its owner has a lock."""

    def __init__(self, settings: KafkaSettings, topic: str, offset: int = 0) -> None:
        self._brokers = settings.brokers
        self._topic = topic
        group = f"{settings.prefix}esb-tail"  # librdkafka wants one; nothing is ever committed for it
        with kafka_errors(self._brokers, f"opening {topic}"):
            self._consumer = Consumer(settings.options() | FETCH_OPTIONS | {"group.id": group, "auto.offset.reset": "earliest"})
            self._consumer.assign([TopicPartition(topic, 0, offset)])
        self._failed: KafkaError | None = None
        self.position = offset
        """Everything before it has been handed out, or is known without."""
        self._own_end: int | None = None

    def skip(self, first: int, count: int) -> bool:
        """So many records from ``first`` on are this process's own, of a decided transaction, and known: they need not be read,
        which would take as long as the brokers wait for more. ``False`` if others' may lie before them: then they must be."""
        if self.position != first:
            return False
        self.position = self._own_end = first + count
        return True

    def advance(self, until: int, apply: Callable[[Message], None], timeout_s: float) -> bool:
        """Hand out the records up to ``until`` at least; ``False`` if the time ran out first. An offset is reached when
        everything before it is decided and has been handed out. After ``skip``, ``until`` must have been looked up later, or be a
        last stable offset."""
        if self.position == self._own_end and until == self._own_end + 1:
            self.position = until  # where there is but one offset, it is the end of that transaction
        deadline = time.monotonic() + timeout_s
        while self.position < until:
            message = self._consumer.poll(min(0.05, timeout_s))
            error = None if message is None else message.error()
            if message is None:
                pass
            elif error is None:
                if offset_of(message) >= self.position:
                    apply(message)
                    self.position = offset_of(message) + 1
                continue
            elif error.code() == KafkaError._PARTITION_EOF:
                self.position = max(self.position, message.offset() or 0)
            elif error.code() in TRANSIENT:
                self._failed = error
            else:
                raise bus_error(error, self._brokers, f"reading {self._topic}")
            if time.monotonic() > deadline:
                return self.position >= until
        self._failed = None
        return True

    def late(self, until: int, waited_s: float) -> Exception:
        """The error for an offset that was not reached in the time there was."""
        if self._failed is not None:
            return bus_error(self._failed, self._brokers, f"reading {self._topic}")
        return StorageError(
            f"{self._topic} on the Kafka cluster at {self._brokers} did not come to offset {until} within {waited_s:g} s: a "
            "transaction before it is still open, or the brokers are overloaded. Nothing was written; try again.",
            brokers=self._brokers,
        )

    def close(self) -> None:
        self._consumer.close()
