"""The log on Apache Kafka (3.5 or later): a topic for each lane of a stream, shared by any number of machines.

How it keeps what ``EventLog`` promises, and where it differs (``capabilities`` names the differences, docs/decisions tells why):

- **Offsets** are Kafka's. The end of a transaction takes an offset of its own, so some hold no event: ``RecordBatch.end_offset``
  reaches over them, and a batch may have no event at all where nothing else lies before the end. Reading on at the ``end_offset``
  of the last batch misses nothing. ``end_offsets`` are the last stable ones.
- **Atomicity**: an append is one Kafka transaction over streams, marks and journal; readers see decided transactions only.
- **Durability** is acknowledgement by all in-sync replicas; whether those write to disk at once is the brokers' business.
- **Fencing**: a mark's ``expected`` is compared with what the compacted control topic says once every transaction that began
  before is decided, so two processes never both succeed with the same expectation, on whatever machines they are.
- **Event ids** are unique in a tenant for ``ids_window_ms`` (7 days by default), and as long as retention keeps the first event.
  Records of producers that know nothing of the bus are not in the index of ids.
- **Outcomes**: where the brokers do not answer to a commit, the error says that it cannot be known whether it was written.
- **Schedules** with an event whose time is to come, and **conditions**, are refused: an ``OutboxLog`` around this log has both.
- **Retention** by size is the brokers', by partition; ``enforce_retention`` returns how many offsets went.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from event_streaming_bus.errors import (
    BusError,
    ClosedError,
    InvalidInputError,
    InvalidStateError,
    StorageError,
)
from event_streaming_bus.models import LANES, Position, Receipt, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append, AppendResult, Condition, Journal, Mark, ScheduledPage
from event_streaming_bus.store.log.capabilities import Capabilities
from event_streaming_bus.store.log.group_commit import MAX_WEIGHT, GroupCommit
from event_streaming_bus.store.log.kafka_changes import Changes
from event_streaming_bus.store.log.kafka_control import Control, mark_record
from event_streaming_bus.store.log.kafka_events import to_record
from event_streaming_bus.store.log.kafka_finding import IdFinder
from event_streaming_bus.store.log.kafka_groups import Groups
from event_streaming_bus.store.log.kafka_growth import Growth
from event_streaming_bus.store.log.kafka_ids import IdIndex
from event_streaming_bus.store.log.kafka_offsets import Offsets, TopicPart, UnknownTopicError
from event_streaming_bus.store.log.kafka_partitions import partition_of
from event_streaming_bus.store.log.kafka_producer import TransactionalProducer
from event_streaming_bus.store.log.kafka_reader import OutOfRangeError, Place, Reader, out_of_range
from event_streaming_bus.store.log.kafka_retention import drop_before, drop_old
from event_streaming_bus.store.log.kafka_settings import KafkaSettings
from event_streaming_bus.store.log.kafka_streams import Streams, opened
from event_streaming_bus.store.log.kafka_topics import topic_of
from event_streaming_bus.store.log.kafka_writer import KafkaRequest, Writer
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.log.streams import no_such_stream
from event_streaming_bus.store.patient_clock import patient_ms

_POLL_S: Final = 0.01
_TOPICS_S: Final = 10.0
_READ_BYTES: Final = 1 << 20
_T = TypeVar("_T")


class KafkaLog:
    """An ``EventLog`` on the cluster that the settings name."""

    capabilities: Final = Capabilities(
        dense_offsets=False,
        scheduling=False,
        conditions=False,
        codec_of_events=False,
        stored_bytes=False,
        retention_by_size_at_once=False,
        shows_groups=True,
    )
    partition_of = staticmethod(partition_of)
    check = staticmethod(to_record)

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin = opened(settings)
        self._offsets = Offsets(self._admin, settings)
        self._producer = TransactionalProducer(settings)
        self._control = Control(settings, self._offsets, self._producer.abort_abandoned)
        self._index = IdIndex(settings, self._offsets)
        self._reader = Reader(settings)
        self._finder = IdFinder(self._index, self._offsets, self._reader, self._known_place)
        self._writer = Writer(settings, self._control, self._offsets, self._producer, self._finder.find, self._index.wrote)
        self._streams = Streams(settings, self._admin, self._control, self._writer)
        self._growth = Growth(self._control, self._streams)
        self.groups = Groups(settings, self._admin, self._growth.admit)
        self._commits = GroupCommit(self._commit, "esb-kafka-writer", 2 * MAX_WEIGHT)
        self._appended = threading.Condition()
        self._changes = Changes(self._offsets)
        self._known_ends: dict[Split, int] = {}  # everything before them was decided when they were last asked for
        self._closed = False

    # --- streams ------------------------------------------------------------------------------------------------------

    def create_stream(self, config: StreamConfig, stream_id: str | None = None) -> StreamInfo:
        self._check_open()
        return self._streams.create(config, stream_id)

    def drop_stream(self, stream_id: str) -> None:
        self.stream_info(stream_id)
        self._reader.forget(frozenset(self._streams.drop(stream_id)))

    def set_stream_schema(self, stream_id: str, schema_id: str | None) -> StreamInfo:
        self._check_open()
        return self._streams.set_schema(stream_id, schema_id)

    def grow_stream(self, stream_id: str, partitions: int) -> StreamInfo:
        self._refresh()
        return self._streams.grow(stream_id, partitions)

    def find_stream(self, tenant_id: str, reference: str) -> StreamInfo:
        self._refresh()
        info = self._control.stream(reference)
        if info is not None and info.tenant_id == tenant_id:
            return info
        info = self._control.named(tenant_id, reference)
        if info is None:
            raise no_such_stream(reference, [each.name for each in self.list_streams(tenant_id, internal=True)])
        return info

    def list_streams(self, tenant_id: str | None = None, *, internal: bool = False) -> list[StreamInfo]:
        self._refresh()
        return [
            info
            for info in self._control.streams()
            if tenant_id in (None, info.tenant_id) and (internal or not info.name.startswith("_"))
        ]

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

    def _refresh(self) -> None:
        self._check_open()
        self._control.refresh()

    def stream_info(self, stream_id: str) -> StreamInfo:
        """The stream with this id. ``StreamNotFoundError``."""
        self._refresh()
        return self._streams.known(stream_id)

    def _place(self, split: Split) -> Place:
        """Where the split is, as of now."""
        return self._place_in(self.stream_info(split.stream_id), split)

    def _known_place(self, split: Split) -> Place:
        """Where the split is, as far as is known without asking."""
        if split.partition >= self._streams.known(split.stream_id).config.partitions:
            self._control.refresh(0)  # the stream has grown since
        return self._place_in(self._streams.known(split.stream_id), split)

    def _place_in(self, info: StreamInfo, split: Split) -> Place:
        if not 0 <= split.partition < info.config.partitions:
            raise InvalidInputError(f"{split}: the stream has the partitions 0 to {info.config.partitions - 1}.")
        part = topic_of(self._settings.prefix, info.config, split.lane), split.partition
        return Place(part, split, info.tenant_id)

    def _parts(self, info: StreamInfo) -> dict[TopicPart, Split]:
        topics = {lane: topic_of(self._settings.prefix, info.config, lane) for lane in LANES}
        return {(topics[split.lane], split.partition): split for split in info.splits()}

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[object] | None = None,
    ) -> list[AppendResult]:
        request = self._request(appends, marks, journal, condition)
        self._commits.lead(request)
        return request.future.result()

    def submit(
        self,
        appends: Sequence[Append],
        *,
        marks: Sequence[Mark] = (),
        journal: Journal | None = None,
        condition: Condition[object] | None = None,
    ) -> "Future[list[AppendResult]]":
        request = self._request(appends, marks, journal, condition)
        self._commits.submit(request)
        return request.future

    def _request(
        self, appends: Sequence[Append], marks: Sequence[Mark], journal: Journal | None, condition: Condition[object] | None
    ) -> KafkaRequest:
        self._check_open()
        if condition is not None:
            raise InvalidStateError("Kafka has no database for the condition of an append. An outbox around the log has one.")
        return KafkaRequest(appends, marks, journal)

    def _commit(self, requests: list[KafkaRequest]) -> None:
        """Write all requests in one transaction; where one of them spoils it, halve them until it is alone."""
        try:
            outcomes = self._writer.write(requests)
        except BaseException as error:
            if len(requests) > 1 and not isinstance(error, StorageError):
                half = len(requests) // 2
                self._commit(requests[:half])
                self._commit(requests[half:])
                return
            for request in requests:
                request.future.set_exception(error)
            return
        self._changes.look_again()
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, BusError):
                request.future.set_exception(outcome)
            else:
                request.future.set_result(outcome)
        with self._appended:
            self._appended.notify_all()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _of(self, stream_ids: Iterable[str], ask: Callable[[], _T]) -> _T:
        """What ``ask`` answers of these streams, which it may find without topics for a moment: they are new to the broker, or
        about to be dropped. ``StreamNotFoundError`` if one is."""
        deadline = time.monotonic() + _TOPICS_S
        while True:
            try:
                return ask()
            except UnknownTopicError as error:
                self._control.refresh(0)
                for stream_id in stream_ids:
                    self.stream_info(stream_id)
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"The topic {error.args[0]} is missing on the Kafka cluster at {self._settings.brokers}, though its "
                        "stream is there. Was it deleted by other means? Drop the stream and make it again.",
                        topic=error.args[0],
                    ) from error
                time.sleep(_POLL_S)

    def read(self, split: Split, offset: int, max_bytes: int = _READ_BYTES) -> list[RecordBatch]:
        part = (place := self._place(split)).part

        def ask() -> list[RecordBatch]:
            known = self._known_ends.get(split, 0)
            if 0 <= offset < known:  # reading a backlog asks nobody how long it is
                try:
                    return [*self._reader.read(place, offset, known, max_bytes)]
                except (OutOfRangeError, StorageError):
                    self._known_ends.pop(split, None)
            begins, ends = self._offsets.bounds([part])
            begin, end = begins[part], ends[part]
            try:
                if not begin <= offset <= end:
                    raise OutOfRangeError
                found: list[RecordBatch] = [] if offset == end else [*self._reader.read(place, offset, end, max_bytes)]
            except OutOfRangeError as error:
                begin = self._offsets.begins([part])[part]
                raise out_of_range(split, offset, begin, end) from error
            self._known_ends[split] = end
            return found

        return self._of([split.stream_id], ask)

    def locate(self, tenant_id: str, event_id: str) -> Receipt | None:
        position = self.find_ids(tenant_id, [event_id]).get(event_id)
        return None if position is None else Receipt(event_id, position)

    def find_ids(self, tenant_id: str, event_ids: Sequence[str]) -> dict[str, Position]:
        """The places of those of the tenant's event ids that the log holds."""
        self._refresh()
        return self._finder.find(tenant_id, event_ids)

    def begin_offsets(self, stream_id: str) -> dict[Split, int]:
        parts = self._parts(self.stream_info(stream_id))
        begins = self._of([stream_id], lambda: self._offsets.begins(parts))
        return {parts[part]: offset for part, offset in begins.items()}

    def end_offsets(self, stream_id: str) -> dict[Split, int]:
        parts = self._parts(self.stream_info(stream_id))
        ends = self._of([stream_id], lambda: self._offsets.ends(parts))
        self._known_ends.update(found := {parts[part]: offset for part, offset in ends.items()})
        return found

    def stored_bytes(self, stream_id: str) -> int:
        """0: Kafka's clients are not told."""
        self.stream_info(stream_id)
        return 0

    def offset_for_time(self, split: Split, time_ms: int) -> int:
        """As ``EventLog`` says, but for events stamped ahead of the clock: what was appended before ``time_ms`` is not looked at.
        What was appended since is read until an event reaches it."""
        part = self._place(split).part
        start, end = self._of(
            [split.stream_id], lambda: (self._offsets.from_time([part], time_ms)[part], self._offsets.ends([part])[part])
        )
        offset = end if start is None else start
        while offset < end:
            for batch in self.read(split, offset):
                if batch.count and max(batch.timestamps_ms()) >= time_ms:
                    return batch.offset
                offset = batch.end_offset
        return end

    # --- positions, waiting -------------------------------------------------------------------------------------------

    def commit(self, group: str, offsets: Mapping[Split, int]) -> None:
        self._check_open()
        parts = {self._place(split).part: offset for split, offset in offsets.items()}
        self._of([split.stream_id for split in offsets], lambda: self.groups.commit(group, parts))

    def committed(self, group: str) -> dict[Split, int]:
        self._refresh()
        committed = self.groups.committed(group)
        infos = self._control.streams() if committed else ()
        parts = {part: split for info in infos for part, split in self._parts(info).items()}
        return {parts[part]: offset for part, offset in committed.items() if part in parts}

    def marks(self, owner: str) -> dict[str, bytes]:
        self._refresh()
        return self._control.marks(owner)

    def drop_marks(self, owner: str) -> None:
        self._check_open()
        self._writer.exclusively(lambda: [mark_record(owner, key, None) for key in self._control.marks(owner)])

    def version(self) -> int:
        """As of at most 5 ms ago."""
        self._refresh()
        parts = (part for info in self._control.streams() for part in self._parts(info))
        return self._changes.version(self._control.changes, parts)

    def wait(self, positions: Mapping[Split, int], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        passed: dict[TopicPart, int] = {}  # up to here there is no event to wait for
        streams = {split.stream_id for split in positions}

        def is_there() -> bool:
            places = {(place := self._place(split)).part: (place, offset) for split, offset in positions.items()}
            ends = self._offsets.ends(places)
            for part, (place, offset) in places.items():
                if ends[part] > max(offset, passed.get(part, 0)):
                    if self._reader.holds_event(place, offset, ends[part]):
                        return True
                    passed[part] = ends[part]
            return False

        while True:
            try:
                if self._of(streams, is_there):
                    return True
            except OutOfRangeError:
                return True  # retention has dropped what was waited for
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            with self._appended:
                self._appended.wait(min(_POLL_S, left_s))

    # --- scheduled events ---------------------------------------------------------------------------------------------

    def scheduled(
        self, tenant_id: str, stream_id: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> ScheduledPage:
        """None: events that are to come later are refused."""
        self._check_open()
        if cursor is not None:
            raise InvalidInputError(f"cursor: expected the next_cursor of an earlier page, got {cursor!r}")
        return ScheduledPage([], None)

    def cancel_scheduled(self, tenant_id: str, event_id: str) -> bool:
        """False: none waits."""
        self._check_open()
        return False

    # --- keeping house ------------------------------------------------------------------------------------------------

    def enforce_retention(self, now_ms: int | None = None) -> int:
        """Returns how many offsets went, those without events included; see ``drop_old``."""
        now_ms = patient_ms() if now_ms is None else now_ms
        bounded = [(info, ms) for info in self.list_streams(internal=True) if (ms := info.config.retention_ms) is not None]
        dropping = self._settings, self._admin, self._offsets
        count = sum(drop_old(*dropping, list(self._parts(info)), now_ms - kept_ms) for info, kept_ms in bounded)
        self._known_ends.clear()  # so that reading looks where the streams begin
        return count

    def drop_before(self, split: Split, offset: int) -> int:
        count = drop_before(self._settings, self._admin, self._offsets, self._place(split).part, offset)
        self._known_ends.clear()
        return count

    def close(self) -> None:
        if self._closed:
            return
        self._commits.close()
        self._closed = True
        self._growth.close()
        self._writer.close()
        self._reader.close()
        self._index.close()
        self._control.close()
