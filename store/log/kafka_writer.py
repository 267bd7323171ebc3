"""The write side of the Kafka log: many callers' appends become one Kafka transaction."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from event_streaming_bus.errors import (
    BusError,
    FencedError,
    LostTransactionError,
    StorageError,
    StreamChangedError,
    StreamNotFoundError,
)
from event_streaming_bus.models import Event, EventPriority, Position
from event_streaming_bus.store.log.base import Append, AppendResult, Journal, Mark
from event_streaming_bus.store.log.event_columns import column_of
from event_streaming_bus.store.log.kafka_control import TURN_S, Control, Record, record_of
from event_streaming_bus.store.log.kafka_events import to_records
from event_streaming_bus.store.log.kafka_ids import encode_ids
from event_streaming_bus.store.log.kafka_offsets import Offsets, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_placing import Placement, Seen
from event_streaming_bus.store.log.kafka_producer import Delivery, InterleavedError, TransactionalProducer
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_topics import ids_topic, topic_of, turns_topic

Find = Callable[[str, Sequence[str]], dict[str, Position]]
"""``(tenant, event ids)``: the places of those ids that were used before."""

Outcome = list[AppendResult] | BusError
_T = TypeVar("_T")
_LOOK_S: Final = 0.001


class KafkaRequest:
    """One call of ``append``, on its way into a transaction."""

    __slots__ = ("appends", "future", "journal", "marks", "weight")

    def __init__(self, appends: Sequence[Append], marks: Sequence[Mark], journal: Journal | None) -> None:
        self.appends = appends
        self.marks = marks
        self.journal = journal
        self.weight = 1 + sum(len(append.events) for append in appends)
        self.future: Future[list[AppendResult]] = Future()

    @property
    def brings_ids(self) -> bool:
        """Whether publishers made some of its ids, so that they may have been used before."""
        return any(append.events and not append.new_ids for append in self.appends)


class Writer:
    """Writes transactions, one at a time. Safe to use from any thread.

    ``find`` is called when it is this writer's turn, so that everything written before is known. ``wrote_ids`` is told the offset
    and the value of what went to the topic of ids.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        control: Control,
        offsets: Offsets,
        producer: TransactionalProducer,
        find: Find,
        wrote_ids: Callable[[int, bytes], None],
    ) -> None:
        self._settings = settings
        self._control = control
        self._offsets = offsets
        self._producer = producer
        self._find = find
        self._wrote_ids = wrote_ids
        self._lock = threading.Lock()

    def write(self, requests: Sequence[KafkaRequest]) -> list[Outcome]:
        """Write all requests in one transaction; what it returns for each is its results, or why it was refused. An error that
        is raised concerns all of them, and nothing was written."""
        with self._lock:
            return self._decided(lambda transaction: transaction.write(requests))

    def exclusively(self, decide: Callable[[], Sequence[Record]]) -> None:
        """Write the records of the control topic that ``decide`` gives once everything that others wrote is known. Afterwards the
        control knows them."""

        def write(transaction: "Transaction") -> None:
            transaction.take_turn()
            transaction.send_control(decide())

        with self._lock:
            self._decided(write)
        self._control.refresh(fresh_s=0)

    def _decided(self, write: "Callable[[Transaction], _T]") -> _T:
        """Commit what ``write`` does, and wait until it can be read; after an error nothing of it is left. What the brokers give
        up is done again, once: when one of them fails, they may lose count of what this producer has sent. So is what others'
        records lie between."""
        try:
            return self._attempt(write)
        except InterleavedError:
            pass
        except LostTransactionError:
            self._producer.discard()
        self._producer.report_each()
        return self._attempt(write)

    def _attempt(self, write: "Callable[[Transaction], _T]") -> _T:
        self._producer.begin()
        transaction = Transaction(self._settings, self._control, self._producer, self._find, self._wrote_ids)
        try:
            result = write(transaction)
            self._producer.flush()
            deliveries = [delivery for delivery in self._producer.deliveries() if delivery.offsets]
            self._producer.commit()
        except UnknownTopicError as error:
            self._producer.abort()
            raise self._vanished(error) from error
        except BaseException:
            self._producer.abort()
            raise
        transaction.tell(self._await(deliveries))
        return result

    def _vanished(self, error: UnknownTopicError) -> BusError:
        (topic,) = error.args
        return StreamNotFoundError(f"The topic {topic} was dropped.", topic=topic)

    def _await(self, deliveries: Iterable[Delivery]) -> set[TopicPart]:
        """Wait until what was committed can be read: the brokers acknowledge a commit before they tell the partitions. Beyond
        ``TURN_S`` the transactions of others hold it back: it is safe, and comes when those are decided. Returns where it is."""
        readable: set[TopicPart] = set()
        last = {delivery.part: delivery.offsets[-1] for delivery in deliveries}
        deadline = time.monotonic() + TURN_S
        while last and time.monotonic() < deadline:
            try:
                ends = self._offsets.ends(last)
            except UnknownTopicError as error:
                last.pop(next(part for part in last if part[0] == error.args[0]))
                continue
            readable |= {part for part, offset in last.items() if ends[part] > offset}
            last = {part: offset for part, offset in last.items() if part not in readable}
            if last:
                time.sleep(_LOOK_S)
        return readable

    def close(self) -> None:
        with self._lock:
            self._producer.close()


class Transaction:
    """What goes into one transaction of the producer."""

    def __init__(
        self,
        settings: KafkaSettings,
        control: Control,
        producer: TransactionalProducer,
        find: Find,
        wrote_ids: Callable[[int, bytes], None],
    ) -> None:
        self._settings = settings
        self._control = control
        self._producer = producer
        self._find = find
        self._wrote_ids = wrote_ids
        self._has_turn = False
        self._known: dict[tuple[str, str], Position] = {}
        self._seen: Seen = {}
        self._unseen: list[Placement] = []  # of new ids, not yet in _seen
        self._marks: dict[tuple[str, str], bytes] = {}
        self._controls: list[Record] = []
        self._in_control: Delivery | None = None
        self._ids = b""
        self._in_ids: Delivery | None = None

    def tell(self, readable: Collection[TopicPart]) -> None:
        """It is decided, and can be read in these partitions: what it wrote for the bus itself need not be read to be known."""
        if self._in_control is not None and self._in_control.part in readable:
            self._control.wrote(self._in_control.offsets, self._controls)
        if self._in_ids is not None and self._in_ids.part in readable:
            self._wrote_ids(self._in_ids.offsets[0], self._ids)

    def take_turn(self) -> None:
        """Wait until everything that others began to write before is decided, and known here."""
        if self._has_turn:
            return
        delivery = self._producer.send((turns_topic(self._settings), 0), None, b"ticket")
        self._producer.flush()
        self._control.await_turn(delivery.offsets[-1])
        self._has_turn = True

    def send_control(self, records: Iterable[Record]) -> None:
        """Write to the control topic, which only whose turn it is may do."""
        for key, value in records:
            self._controls.append((key, value))
            self._in_control = self._producer.send((self._control.topic, 0), value, key)

    def write(self, requests: Sequence[KafkaRequest]) -> list[Outcome]:
        """Send what the requests append and what their journals tell of it."""
        if any(request.marks or request.brings_ids for request in requests):
            self.take_turn()
        else:
            self._control.refresh()
        self._look_up([append for request in requests for append in request.appends])
        placed: list[list[Placement] | BusError] = []
        for request in requests:
            try:
                placements = self._admit(request)
            except StorageError:
                raise
            except BusError as error:
                placed.append(error)
                continue
            self.send_control(map(record_of, request.marks))
            self._send(placements)  # an error here is one of the whole transaction: a part of the request may have been sent
            placed.append(placements)
        self._producer.flush()
        outcomes = [each if isinstance(each, BusError) else [p.result() for p in each] for each in placed]
        journals = self._tell(requests, outcomes)
        written = [placement.ids() for each in placed if not isinstance(each, BusError) for placement in each]
        brought = [placement for placement in journals if not placement.append.new_ids]
        if brought:  # nobody can bring an id again that was made here for a journal, so where that went is not waited for
            self._producer.flush()
            written += [placement.ids() for placement in brought]
        if told := [each for each in written if each is not None]:
            self._ids = encode_ids(told)
            self._in_ids = self._producer.send((ids_topic(self._settings), 0), self._ids)
        return outcomes

    def _look_up(self, appends: Sequence[Append]) -> None:
        """Find which of the ids that publishers brought were used before."""
        wanted: dict[str, list[str]] = {}
        for append in appends:
            if not append.new_ids and append.events and (info := self._control.stream(append.stream_id)) is not None:
                wanted.setdefault(info.tenant_id, []).extend(column_of(append.events, "event_id"))
        for tenant_id, event_ids in wanted.items():
            found = self._find(tenant_id, event_ids)
            self._known.update(((tenant_id, event_id), position) for event_id, position in found.items())

    def _admit(self, request: KafkaRequest) -> list[Placement]:
        """Decide where the events of a request go. A ``BusError`` refuses it."""
        marks = dict(self._marks)
        for mark in request.marks:
            key = mark.owner, mark.key
            there = marks[key] if key in marks else self._control.mark(*key)
            if there != mark.expected:
                raise FencedError(
                    f"Another process writes the output of {mark.owner} ({mark.key}). This process must stop.",
                    owner=mark.owner,
                    key=mark.key,
                )
        placements = self._place(request.appends)
        for mark in request.marks:
            self._marks[mark.owner, mark.key] = mark.value
        return placements

    def _place(self, appends: Sequence[Append]) -> list[Placement]:
        if self._unseen and any(not append.new_ids for append in appends):
            for placement in self._unseen:
                placement.bring(self._seen)
            self._unseen.clear()
        placements: list[Placement] = []
        own: Seen = {}
        for append in appends:
            info = self._control.stream(append.stream_id)
            if info is None:
                raise StreamNotFoundError(f"There is no stream with the id '{append.stream_id}'.", stream=append.stream_id)
            if append.checked is not None and append.checked != info.config:
                raise StreamChangedError
            known: dict[int, Position] = {}
            if not append.new_ids and self._known:
                keys = [(info.tenant_id, event_id) for event_id in column_of(append.events, "event_id")]
                known = {i: self._known[key] for i, key in enumerate(keys) if key in self._known}
            placement = Placement(append, info, known, (own, self._seen))
            if len(appends) > 1:
                placement.bring(own)
            placements.append(placement)
        return placements

    def _send(self, placements: Iterable[Placement]) -> None:
        for placement in placements:
            topics = {lane: topic_of(self._settings.prefix, placement.info.config, lane) for lane in EventPriority}

            def send(
                lane: EventPriority, partition: int, events: Sequence[Event], topics: dict[EventPriority, str] = topics
            ) -> Delivery:
                return self._producer.send_all((topics[lane], partition), len(events), to_records(events))

            placement.send(send)
            if placement.append.new_ids:
                self._unseen.append(placement)
            else:
                placement.bring(self._seen)

    def _tell(self, requests: Sequence[KafkaRequest], outcomes: Sequence[Outcome]) -> list[Placement]:
        """Send what the journals give of the appends, now that their places are known."""
        journals: list[Placement] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            if request.journal is None or isinstance(outcome, BusError) or (entry := request.journal(outcome)) is None:
                continue
            if entry.events and not entry.new_ids:
                self.take_turn()
                self._look_up([entry])
            placed = self._place([entry])
            self._send(placed)
            journals += placed
        return journals
