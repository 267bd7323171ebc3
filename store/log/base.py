"""The log: ordered, durable, partitioned streams of events behind one small interface.

Vocabulary: a *stream* has partitions; a partition has one *lane* per priority; a lane of a partition is a *split*, an
ordered sequence in which every event has an *offset*. The unit stored is a *record batch*: neighbouring events of a split
in one piece, compressed and with a checksum.

Every method may be called from any thread and, but for ``submit`` and ``close``, blocks until it is done. Errors are
``BusError``s; those of the storage below come as ``StorageError`` with the cause kept.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from event_streaming_bus.models import Event, EventPriority, Receipt, Split, StreamConfig, StreamInfo, rfc3339
from event_streaming_bus.store.log.event_columns import different
from event_streaming_bus.store.log.record_batch import RecordBatch


class Schedule(msgspec.Struct, frozen=True):
    """What makes those events of an ``Append`` wait whose ``deliver_at_ms`` is still to come.

    ``notes``, one list for each event of the append or none at all: when an event that waited comes into its stream, they are
    told on the stream ``notes_stream_id``, in that very transaction, each as a ``Released``.
    """

    notes_stream_id: str | None = None
    notes: Sequence[Sequence[bytes]] = ()


class Released(msgspec.Struct, frozen=True, tag="released"):
    """A note, told of ``count`` neighbouring events that came into their stream: the payload (msgpack) of an event on the
    stream of the notes. ``released_us`` is when, in microseconds."""

    note: bytes
    stream_id: str
    lane: str
    partition: int
    offset: int
    count: int
    released_us: int


class ScheduledEvent(msgspec.Struct, frozen=True):
    """An event that is not in its stream yet: the split it is for, when it is due, and since when it is kept."""

    event: Event
    split: Split
    due_ms: int
    scheduled_at_ms: int

    def as_data(self, stream: str) -> dict[str, Any]:
        """What a list tells of it; ``stream`` is the name of its stream."""
        event = self.event
        return {
            "event_id": event.event_id,
            "event_type": event.event_type,
            "stream_id": self.split.stream_id,
            "stream": stream,
            "partition": self.split.partition,
            "lane": self.split.lane.value,
            "key": event.key,
            "timestamp": rfc3339(event.timestamp_ms),
            "deliver_at": rfc3339(self.due_ms),
            "expires_at": None if event.expires_at_ms is None else rfc3339(event.expires_at_ms),
            "scheduled_at": rfc3339(self.scheduled_at_ms),
        }


class ScheduledPage(msgspec.Struct, frozen=True):
    """Some scheduled events, and where to go on."""

    events: list[ScheduledEvent]
    next_cursor: str | None


class Append(msgspec.Struct, frozen=True):
    """Events for one stream.

    Each event goes to the lane of its priority and to the partition of its key: ``partition_of(key, partitions)``.
    Events without a key go together to ``partition``, or where that is ``None`` to a partition picked per append.

    ``new_ids``: the caller made every id for this append, with ``new_ids`` or ``derived_id``, and never handed one out
    before. The log then need not look whether an id is known, and finds it later by its place in the order of ids.

    ``schedule``: events wait until their ``deliver_at_ms``; without, all are appended at once, whatever they say.

    ``checked``: the stream's settings as they were when the events were checked. If it has others by now, nothing is appended,
    and the append fails with ``StreamChangedError``.
    """

    stream_id: str
    events: Sequence[Event]
    new_ids: bool = False
    partition: int | None = None
    schedule: Schedule | None = None
    checked: StreamConfig | None = None

    def only_lane(self, partitions: int) -> EventPriority | None:
        """The lane of all events, if they are sure to come one behind the other: all new, in the only partition of the stream, in
        one lane. Else ``None``."""
        lanes: set[EventPriority] = different(self.events, "priority") if self.new_ids and partitions == 1 else set()
        return lanes.pop() if len(lanes) == 1 else None


class Mark(msgspec.Struct, frozen=True):
    """How far ``owner`` has written what it derives from ``key``: the memory that makes output exactly once.

    Written with the events it stands for, or not at all. ``expected`` is the value the owner last wrote or read (``None``:
    there is none); if the log holds another, a newer process has taken over, and the append fails with ``FencedError``.
    """

    owner: str
    key: str
    expected: bytes | None
    value: bytes


class AppendResult:
    """Where the events of one ``Append`` went."""

    __slots__ = ("_receipts", "duplicates", "event_ids", "scheduled", "stream_id", "written")

    def __init__(
        self,
        stream_id: str,
        event_ids: Sequence[str],
        written: Sequence[tuple[Split, int, int]],
        duplicates: int,
        receipts: Callable[[], list[Receipt]],
        scheduled: int = 0,
    ) -> None:
        self.stream_id = stream_id
        self.event_ids = event_ids
        """The id of each event, in the order given."""
        self.written = written
        """``(split, first offset, count)`` of each run of events that was appended; what is a duplicate or waits is in none."""
        self.duplicates = duplicates
        self.scheduled = scheduled
        """How many events wait for their time."""
        self._receipts = receipts

    def receipts(self) -> list[Receipt]:
        """The receipt of each event, in the order given; for a duplicate, the first receipt."""
        return self._receipts()


Journal: TypeAlias = Callable[[Sequence[AppendResult]], Append | None]
"""Called inside the transaction, once the positions are known: what it returns is appended in the same transaction. It must
be quick, must not call the log, and must not raise. Where a transaction has to be written again it is called again."""


Connection = TypeVar("Connection", contravariant=True)


class Condition(Protocol[Connection]):
    """What must hold for an append, and what a store in the log's own database keeps beside it: in one transaction.

    Where a transaction has to be written again, both are called again, so neither may remember what the other did.
    """

    def admits(self, db: Connection) -> bool:
        """Whether to append: ``False`` if it has been done before, and nothing is to be written. Raises a ``BusError`` to refuse;
        other callers' appends go on. It must not write. What was appended earlier in the same transaction is there to see."""
        ...

    def appended(self, db: Connection, results: Sequence[AppendResult]) -> None:
        """The events have got their places: write what belongs with them. Raises a ``BusError`` to refuse after all: then the
        whole transaction is written again, without this append."""
        ...


class EventLog(Protocol):
    """Ordered, durable streams of events.

    Order: events of equal key and priority are read in the order in which their appends returned. Within one ``Append``
    the order given is kept per split. Durability: an append that returned is on disk (``fsync``) and survives ``kill -9``
    and power loss; one that raised left nothing. Atomicity: all of one ``append`` call is there, or nothing.

    Time: an event of an ``Append`` with a ``schedule`` is kept aside, as durable as any, and in no stream before its
    ``deliver_at_ms``. Then the log appends it to its stream, once, as if it were appended at that moment: that decides its
    offset and its order; events that come due together keep the order of their due times, and for equal ones that of their
    appends. Any process that has the log open does it, at most 100 ms late as long as one of them appends or asks for
    ``version``; and whoever opens the log appends at once what came due while nobody had it open (of more than 10,000
    events, the rest right after). Event ids are taken from the moment of the append. Retention does not touch what waits;
    dropping the stream drops it.
    """

    def create_stream(self, config: StreamConfig, stream_id: str | None = None) -> StreamInfo:
        """Make a stream. Making it again with the same settings returns it; with others, ``AlreadyExistsError``,
        as for a ``stream_id`` that another stream has.

        Names are unique per tenant: 1 to 200 letters, digits, ``.``, ``_`` or ``-``. Internal streams start with ``_``.
        """
        ...

    def drop_stream(self, stream_id: str) -> None:
        """Remove a stream and its events for good. Event ids that it held may be used again."""
        ...

    def set_stream_schema(self, stream_id: str, schema_id: str | None) -> StreamInfo:
        """Name another schema as the one that guards the stream, for what is published from now on. The events that are there
        stay as they are. ``StreamNotFoundError``."""
        ...

    def find_stream(self, tenant_id: str, reference: str) -> StreamInfo:
        """The tenant's stream with this id or, failing that, this name. ``StreamNotFoundError`` suggests near names."""
        ...

    def list_streams(self, tenant_id: str | None = None, *, internal: bool = False) -> list[StreamInfo]:
        """The streams of a tenant, or of all, by name; those whose name starts with ``_`` only with ``internal``."""
        ...

    def append(
        self, appends: Sequence[Append], *, marks: Sequence[Mark] = (), journal: Journal | None = None
    ) -> list[AppendResult]:
        """Append to one or several streams and set marks, in one transaction. Returns when it is on disk.

        An event whose id the tenant has used before (as far as retention goes back, in any stream) is not appended;
        its receipt is the first one. Raises ``FencedError``, ``StreamNotFoundError``, ``StreamChangedError``,
        ``DiskFullError``, and ``InvalidInputError`` for an event that cannot be written.
        """
        ...

    def submit(
        self, appends: Sequence[Append], *, marks: Sequence[Mark] = (), journal: Journal | None = None
    ) -> "Future[list[AppendResult]]":
        """As ``append``, without waiting: appends of many callers are merged into one transaction.

        A full queue blocks the caller (the bound is 10,000 waiting calls). Appends of one thread keep their order.
        """
        ...

    def read(self, split: Split, offset: int, max_bytes: int = 1 << 20) -> list[RecordBatch]:
        """The record batches from ``offset`` on, contiguous, whole, the first one sliced to begin at ``offset``.

        At least one batch if there is any, then as many as fit in ``max_bytes`` of stored size. Empty at the end of the
        split; never blocks for more to come. ``OffsetOutOfRangeError`` if retention has dropped ``offset`` or it lies
        beyond the end; ``CorruptLogError`` names stream, partition and offset of a damaged batch.
        """
        ...

    def locate(self, tenant_id: str, event_id: str) -> Receipt | None:
        """The receipt of the event with this id, if a stream holds it."""
        ...

    def scheduled(
        self, tenant_id: str, stream_id: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> ScheduledPage:
        """At most ``limit`` of the tenant's events that wait for their time, for one stream or all: those that are due first come
        first. ``cursor`` is the ``next_cursor`` of the page before; ``InvalidInputError`` for anything else."""
        ...

    def cancel_scheduled(self, tenant_id: str, event_id: str) -> bool:
        """Forget the event with this id, if it still waits: it comes into no stream, and its id may be used again. ``False`` if
        none waits under this id."""
        ...

    def begin_offsets(self, stream_id: str) -> dict[Split, int]:
        """The offset of the oldest event kept, for every split of the stream."""
        ...

    def end_offsets(self, stream_id: str) -> dict[Split, int]:
        """The offset that the next event will get, for every split of the stream."""
        ...

    def offset_for_time(self, split: Split, time_ms: int) -> int:
        """The first offset of the oldest record batch with an event at or after ``time_ms``; the end if there is none."""
        ...

    def stored_bytes(self, stream_id: str) -> int:
        """The stored size of the stream's record batches, compressed, in bytes."""
        ...

    def commit(self, group: str, offsets: Mapping[Split, int]) -> None:
        """Set where ``group`` goes on reading: the offset of the next event it has not processed."""
        ...

    def committed(self, group: str) -> dict[Split, int]:
        """What ``group`` has committed; splits without a commit are left out."""
        ...

    def marks(self, owner: str) -> dict[str, bytes]:
        """The marks of ``owner`` by key."""
        ...

    def drop_marks(self, owner: str) -> None:
        """Forget the marks of ``owner``, so that its work is done, and written, again."""
        ...

    def version(self) -> int:
        """A number that changes whenever anything was appended or changed, by any process. Cheap enough to ask often."""
        ...

    def wait(self, positions: Mapping[Split, int], timeout_s: float) -> bool:
        """Block until a split has an event at or beyond its given offset; ``False`` if the time ran out first.

        Wakes within 20 ms of an append by any process of this machine (a quarter of a second, should the system not tell of its
        write), at once for one of this process.
        """
        ...

    def enforce_retention(self, now_ms: int | None = None) -> int:
        """Drop the record batches that the streams' retention no longer keeps; returns how many events went."""
        ...

    def drop_before(self, split: Split, offset: int) -> int:
        """Drop the events of a split before ``offset``, as retention does; returns how many went. Of a record batch that lies on
        either side, all may stay."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then close. Closing twice is harmless; other calls then raise ``ClosedError``."""
        ...
