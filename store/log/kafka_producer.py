"""A transactional producer: records of one transaction at a time, and where they went."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from event_streaming_bus.errors import BusError, LostTransactionError, StorageError
from event_streaming_bus.store.log.kafka_batches import offset_of
from event_streaming_bus.store.log.kafka_errors import RIGHTS, UNKNOWN_TOPIC, bus_error, error_of, kafka_errors
from event_streaming_bus.store.log.kafka_events import Headers
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_slots import Slot, abandoned_slots, take_slot
from event_streaming_bus.store.log.kafka_topics import MAX_MESSAGE_BYTES

_POLL_EVERY: Final = 1000
_LEARN_S: Final = 5.0
_LEARN_AGAIN_S: Final = 0.01
_EACH_FOR: Final = 100
_GIVEN_UP: Final = frozenset(
    {
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)
"""Nothing of the transaction will be written: it was open for too long, say while others were waited for, and was ended."""


Report: TypeAlias = Callable[[KafkaError | None, Message], None]
"""Called when a record has its place, or will never have one."""


class InterleavedError(Exception):
    """Records of another producer lie between those of this one, so that two offsets do not tell all of a run."""


class Run:
    """Records that were sent to a partition one after the other; they lie there in this order."""

    __slots__ = ("count", "first", "given", "last")

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = self.last = -1
        self.given: list[int] = []

    def offsets(self) -> Sequence[int]:
        """Where they are. ``InterleavedError`` if two reports do not tell, ``LostTransactionError`` if none does."""
        if min(self.given, default=min(self.first, self.last)) < 0:  # taken for duplicates, so nobody knows what was written
            raise LostTransactionError
        if self.given:
            return sorted(self.given)  # reports may come in another order than their records lie in
        if self.last - self.first + 1 != self.count:
            raise InterleavedError
        return range(self.first, self.last + 1)


class Delivery:
    """What became of the ``sent`` records of one transaction to one partition. ``offsets`` are in the order of sending."""

    __slots__ = ("_runs", "error", "offsets", "part", "sent")

    def __init__(self, part: TopicPart) -> None:
        self.part = part
        self.sent = 0
        self.offsets: list[int] = []
        self.error: KafkaError | None = None
        self._runs: list[Run] = []

    def begin(self, count: int) -> Run:
        """So many records are about to be sent."""
        run = Run(count)
        self._runs.append(run)
        self.sent += count
        return run

    def settle(self) -> None:
        """All that was sent has been reported."""
        for run in self._runs:
            self.offsets += run.offsets()
        self._runs.clear()

    def reports(self, run: Run, *, each: bool) -> tuple[Report, Report, Report | None]:
        """What is to be called when the first, the last, and any other record of the run has its place; ``None``: nothing."""

        def first(error: KafkaError | None, message: Message) -> None:
            if error is None:
                run.first = offset_of(message)
            else:
                self.error = self.error or error

        def last(error: KafkaError | None, message: Message) -> None:
            if error is None:
                run.last = offset_of(message)
            else:
                self.error = self.error or error

        def any_(error: KafkaError | None, message: Message) -> None:
            if error is None:
                run.given.append(offset_of(message))
            else:
                self.error = self.error or error

        return (any_, any_, any_) if each else (first, last, None)


class TransactionalProducer:
    """Not safe for threads: its owner has a lock. The bound of what is queued is librdkafka's; ``send`` waits while it is full.

    Records are written idempotently and acknowledged by all in-sync replicas.

    Of records that are sent together, only the first and the last report where they are: making a report of each takes as long
    as half the sending. They lie side by side unless others write to the partition at the same moment; then ``flush`` raises
    ``InterleavedError``, and in the next transactions each record reports. A record that fails without a report makes the
    commit fail.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._brokers = settings.brokers
        self._slot = take_slot(settings)
        self._producer: Producer | None = None
        self._deliveries: dict[TopicPart, Delivery] = {}
        self._each_for = 0  # so many transactions have a report of each record

    def report_each(self) -> None:
        """Have each record of the next transactions report: others write to the same partitions, or something failed."""
        self._each_for = _EACH_FOR

    def begin(self) -> None:
        """Begin a transaction."""
        self._deliveries = {}
        self._each_for = max(0, self._each_for - 1)
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

    def send(self, part: TopicPart, value: bytes | None, key: bytes | None = None) -> Delivery:
        """Queue one record without headers."""
        return self.send_all(part, 1, iter([(value, key, [])]))

    def send_all(self, part: TopicPart, count: int, records: Iterator[tuple[bytes | None, bytes | None, Headers]]) -> Delivery:
        """Queue so many records, at least one: ``(value, key, headers)``."""
        producer = self._open()
        delivery = self._deliveries.get(part)
        if delivery is None:
            delivery = self._deliveries[part] = Delivery(part)
        first, last, other = delivery.reports(delivery.begin(count), each=self._each_for > 0 or count == 1)
        produce, (topic, partition) = producer.produce, part
        value, key, headers = next(records)
        self._produce(producer, part, value, key, first, headers)
        sent, end = 1, count - 1
        for value, key, headers in records:
            report = other if sent < end else last
            try:
                if report is None:
                    produce(topic, value, key, partition, headers=headers)
                else:
                    produce(topic, value, key, partition, on_delivery=report, headers=headers)
            except (BufferError, KafkaException):
                self._produce(producer, part, value, key, report, headers)
            sent += 1
            if not sent % _POLL_EVERY:
                with self._fenced_is_lost():
                    producer.poll(0)
        return delivery

    def _produce(
        self, producer: Producer, part: TopicPart, value: bytes | None, key: bytes | None, report: Report | None, headers: Headers
    ) -> None:
        """Queue a record, however long it takes to have room for it and to know its topic."""
        deadline: float | None = None
        options: dict[str, Any] = {"headers": headers} if report is None else {"headers": headers, "on_delivery": report}
        while True:
            try:
                producer.produce(part[0], value, key, part[1], **options)
                return
            except BufferError:  # the queue is full: wait until some of it is on its way
                with self._fenced_is_lost():
                    producer.poll(0.1)
            except KafkaException as error:
                reason = error_of(error)
                if reason.fatal() or reason.code() in _GIVEN_UP:
                    raise self._lost() from error
                if reason.code() not in UNKNOWN_TOPIC:
                    raise bus_error(reason, self._brokers, f"writing to {part[0]}") from error
                deadline = deadline or time.monotonic() + _LEARN_S
                if time.monotonic() > deadline:
                    raise UnknownTopicError(part[0]) from error
                self._learn(producer, part[0])

    def _learn(self, producer: Producer, topic: str) -> None:
        """Ask for the topic's partitions: it was made anew since this producer asked, with more of them."""
        with kafka_errors(self._brokers, f"looking at the topic {topic}"):
            producer.list_topics(topic, REQUEST_S)
        time.sleep(_LEARN_AGAIN_S)

    def flush(self) -> None:
        """Wait until everything that was queued has its place. Raises for the first record that has not got one;
        ``UnknownTopicError`` where its topic is not there, ``LostTransactionError`` where the whole transaction was given up,
        ``InterleavedError``."""
        with self._fenced_is_lost():
            self._open().flush()  # bounded by the transaction timeout, after which records are given up
        for delivery in self._deliveries.values():
            if (error := delivery.error) is not None:
                if error.code() in UNKNOWN_TOPIC:
                    raise UnknownTopicError(delivery.part[0])
                if error.code() in _GIVEN_UP:
                    raise self._given_up()
                raise bus_error(error, self._brokers, f"writing to {delivery.part[0]}")
            delivery.settle()

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
                    raise self._given_up() from error
                if reason.fatal() or time.monotonic() > deadline:
                    self.discard()
                    raise StorageError(
                        f"The Kafka cluster at {self._brokers} did not answer when a transaction was to be committed "
                        f"({reason.str()}), so whether it was written is not known. Publish again with the same event ids: what "
                        "was written is found, what was not is written.",
                        brokers=self._brokers,
                    ) from error

    def _given_up(self) -> BusError:
        """Why the transaction was given up: for want of rights, or else because brokers failed, and it may be tried again."""
        try:
            self._open().begin_transaction()  # refused, since one is open: with the reason, where that one has failed
        except KafkaException as error:
            reason = error_of(error)
            if reason.code() in RIGHTS:
                self.discard()  # aborting fails where nothing could be written; beginning anew undoes what was
                with suppress(KafkaException):
                    self._producer = self._initialised(self._slot)
                return bus_error(
                    reason, self._brokers, f"writing to {', '.join(sorted({topic for topic, _ in self._deliveries}))}"
                )
        return self._lost()

    def _lost(self) -> LostTransactionError:
        return LostTransactionError(
            f"The Kafka brokers at {self._brokers} gave a transaction up before it was committed. Nothing was written; "
            "try again.",
            brokers=self._brokers,
        )

    @contextmanager
    def _fenced_is_lost(self) -> Iterator[None]:
        """confluent_kafka raises where it is called next that the brokers take nothing more from this producer: its transaction
        was open for too long, as where the network was cut."""
        try:
            yield
        except KafkaException as error:
            raise self._lost() from error

    def abort(self) -> None:
        """Take back what was sent. Where that fails, the next transaction does it, or the brokers after the timeout."""
        producer = self._producer
        if producer is None:
            return
        try:
            # No purge before: it forgets what is on its way to the brokers, whose sequence numbers the next records then get, and
            # the brokers drop those as duplicates. Aborting purges by itself what has not been sent yet.
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
