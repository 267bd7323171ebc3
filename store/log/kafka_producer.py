"""A transactional producer: records of one transaction at a time, and where they went."""

import time
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from event_streaming_bus.errors import BusError, LostTransactionError, StorageError
from event_streaming_bus.store.log.kafka_batches import offset_of
from event_streaming_bus.store.log.kafka_errors import UNKNOWN_TOPIC, bus_error, error_of, kafka_errors
from event_streaming_bus.store.log.kafka_events import Headers
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_slots import Slot, abandoned_slots, take_slot
from event_streaming_bus.store.log.kafka_topics import MAX_MESSAGE_BYTES

_POLL_EVERY: Final = 1000
_LEARN_S: Final = 5.0
_LEARN_AGAIN_S: Final = 0.01
_GIVEN_UP: Final = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})


class Delivery:
    """What became of the ``sent`` records of one transaction to one partition. ``offsets`` are in the order of sending."""

    __slots__ = ("error", "offsets", "part", "sent")

    def __init__(self, part: TopicPart) -> None:
        self.part = part
        self.sent = 0
        self.offsets: list[int] = []
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.offsets.append(offset_of(message))
        else:
            self.error = self.error or error


class TransactionalProducer:
    """Not safe for threads: its owner has a lock. The bound of what is queued is librdkafka's; ``send`` waits while it is full.

    Records are written idempotently and acknowledged by all in-sync replicas.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._brokers = settings.brokers
        self._slot = take_slot(settings)
        self._producer: Producer | None = None
        self._deliveries: dict[TopicPart, Delivery] = {}

    def begin(self) -> None:
        """Begin a transaction."""
        self._deliveries = {}
        with kafka_errors(self._brokers, "beginning a transaction"):
            if self._producer is None:
                self._producer = self._initialised(self._slot)
            try:
                self._producer.begin_transaction()
            except KafkaException as error:
                if not error_of(error).fatal():
                    raise
                self.discard()  # fenced, since it was open too long: a new one of the same id goes on
                self._producer = self._initialised(self._slot)
                self._producer.begin_transaction()

    def _initialised(self, slot: Slot) -> Producer:
        """A producer of the slot; what another one of that slot had open is aborted."""
        options = self._settings.options(
            transactional_id=slot.transactional_id,
            transaction_timeout_ms=self._settings.transaction_timeout_ms,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            message_max_bytes=MAX_MESSAGE_BYTES,
            linger_ms=5,
            topic_metadata_refresh_fast_interval_ms=20,
            retry_backoff_ms=20,
        )
        producer = Producer(options)
        deadline = time.monotonic() + REQUEST_S
        while True:
            try:
                producer.init_transactions(REQUEST_S)
                return producer
            except KafkaException as error:
                if not error_of(error).retriable() or time.monotonic() > deadline:
                    raise

    def send(self, part: TopicPart, value: bytes | None, key: bytes | None, headers: Headers) -> Delivery:
        """Queue a record."""
        producer = self._open()
        delivery = self._deliveries.get(part)
        if delivery is None:
            delivery = self._deliveries[part] = Delivery(part)
        deadline: float | None = None
        while True:
            try:
                producer.produce(part[0], value, key, part[1], on_delivery=delivery, headers=headers)
                break
            except BufferError:  # the queue is full: wait until some of it is on its way
                producer.poll(0.1)
            except KafkaException as error:
                reason = error_of(error)
                if reason.code() not in UNKNOWN_TOPIC:
                    raise bus_error(reason, self._brokers, f"writing to {part[0]}") from error
                deadline = deadline or time.monotonic() + _LEARN_S
                if time.monotonic() > deadline:
                    raise UnknownTopicError(part[0]) from error
                self._learn(producer, part[0])
        delivery.sent += 1
        if delivery.sent % _POLL_EVERY == 0:
            producer.poll(0)
        return delivery

    def _learn(self, producer: Producer, topic: str) -> None:
        """Ask for the topic's partitions: it was made anew since this producer asked, with more of them."""
        with kafka_errors(self._brokers, f"looking at the topic {topic}"):
            producer.list_topics(topic, REQUEST_S)
        time.sleep(_LEARN_AGAIN_S)

    def flush(self) -> None:
        """Wait until everything that was queued has its place. Raises for the first record that has not got one;
        ``UnknownTopicError`` where its topic is not there, ``LostTransactionError`` where the whole transaction was given up."""
        self._open().flush()  # bounded by the transaction timeout, after which records are given up
        for delivery in self._deliveries.values():
            if (error := delivery.error) is not None:
                if error.code() in UNKNOWN_TOPIC:
                    raise UnknownTopicError(delivery.part[0])
                if error.code() in _GIVEN_UP:
                    raise LostTransactionError
                raise bus_error(error, self._brokers, f"writing to {delivery.part[0]}")
            delivery.offsets.sort()  # reports may come in another order than their records lie in

    def deliveries(self) -> list[Delivery]:
        """What this transaction has sent so far, by partition."""
        return list(self._deliveries.values())

    def commit(self) -> None:
        """Decide the transaction. ``LostTransactionError`` if it was given up; another ``StorageError`` if it cannot be known
        whether it was written."""
        deadline = time.monotonic() + REQUEST_S
        while True:
            try:
                self._open().commit_transaction(REQUEST_S)
                return
            except KafkaException as error:
                reason = error_of(error)
                if reason.txn_requires_abort():
                    raise LostTransactionError from error
                if reason.fatal() or time.monotonic() > deadline:
                    self.discard()
                    raise StorageError(
                        f"The Kafka cluster at {self._brokers} did not answer when a transaction was to be committed "
                        f"({reason.str()}), so whether it was written is not known. Publish again with the same event ids: what "
                        "was written is found, what was not is written.",
                        brokers=self._brokers,
                    ) from error

    def abort(self) -> None:
        """Take back what was sent. Where that fails, the next transaction does it, or the brokers after the timeout."""
        producer = self._producer
        if producer is None:
            return
        try:
            producer.purge()
            producer.abort_transaction(REQUEST_S)
        except KafkaException:
            self.discard()

    def discard(self) -> None:
        """Give the producer up: the next transaction begins with a new one, which the brokers let undo what this one left."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaException):
                producer.purge()

    def abort_abandoned(self) -> None:
        """Abort what processes of this data folder left open when they were killed."""
        with suppress(OSError):
            for slot in abandoned_slots(self._settings):
                with suppress(KafkaException, BusError):
                    self._initialised(slot)

    def _open(self) -> Producer:
        assert self._producer is not None  # noqa: S101 - a transaction has begun
        return self._producer

    def close(self) -> None:
        self.discard()
        self._slot.free()
