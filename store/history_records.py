"""What is written to the internal stream ``_history``, and only there: one record tells of many events.

Records point at events by their place in the log and never copy a payload. ``store/history.py`` expands them into rows.
Each record is the payload (msgpack) of one event on ``_history``; times are microseconds since 1970 UTC (``_us``).
"""

import time
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Released

SYSTEM_TENANT: Final = "_system"
HISTORY_STREAM: Final = "_history"
DEAD_LETTER_STREAM: Final = "_dead_letters"

# The outcome of one event in one processor: one byte an event in ``Processed.outcomes``.
PASSED: Final = 1
FILTERED: Final = 2
DEAD: Final = 3
SKIPPED: Final = 4
LATE: Final = 5  # set only by a Late record: the row of Processed stays, and says ACCEPTED
ACCEPTED: Final = 6  # taken into a window's state
EXPIRED: Final = 7  # not delivered, for its time was over

OUTCOME_STATUS: Final = {
    PASSED: "COMPLETED",
    FILTERED: "FILTERED",
    DEAD: "FAILED",
    SKIPPED: "SKIPPED",
    LATE: "LATE",
    ACCEPTED: "COMPLETED",
    EXPIRED: "EXPIRED",
}


class Run(msgspec.Struct, frozen=True, array_like=True):
    """``count`` neighbouring events of one split, from ``offset`` on. ``lane`` is the priority's name."""

    stream_id: str
    lane: str
    partition: int
    offset: int
    count: int


class Published(msgspec.Struct, frozen=True, tag="published"):
    """Events were appended by a publisher."""

    tenant_id: str
    runs: list[Run]
    accepted_us: int
    appended_us: int
    schema_id: str | None = None
    schema_version: str | None = None
    validation_started_us: int = 0
    validation_completed_us: int = 0


class EventError(msgspec.Struct, frozen=True, array_like=True):
    """What went wrong with the event ``index`` places after the start of the run."""

    index: int
    error_type: str
    message: str
    stack_trace: str | None = None


class Processed(msgspec.Struct, frozen=True, tag="processed"):
    """A processor took the events of ``run``: ``outcomes`` has one byte for each, or a single one for all.

    A processor that reads another's output sees only some events of the run: 0 stands for those that it did not see.
    ``output``: what was done with them, as JSON, where it is not in the log as events.
    """

    tenant_id: str
    processor_id: str
    processor_name: str
    stage: str
    run: Run
    started_us: int
    completed_us: int
    outcomes: bytes
    errors: list[EventError] = []
    output: str | None = None


class Late(msgspec.Struct, frozen=True, tag="late"):
    """Events of a split came after their window had closed: three lists of equal length."""

    tenant_id: str
    processor_id: str
    processor_name: str
    stream_id: str
    lane: str
    partition: int
    offsets: list[int]
    window_start_ms: list[int]
    window_end_ms: list[int]
    watermark_ms: int
    observed_us: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Events broke their stream's schema and went to the dead letter stream, or were refused (then ``runs`` is empty)."""

    tenant_id: str
    runs: list[Run]
    schema_id: str
    schema_version: str
    stream_id: str
    observed_us: int
    count: int


class ProcessorRun(msgspec.Struct, frozen=True, tag="processor_run"):
    """A worker process of a flow started, finished, stopped or failed. One run has one ``run_id``."""

    tenant_id: str
    run_id: str
    processor_id: str
    processor_name: str
    flow: str
    status: str
    workers: int
    observed_us: int
    events_in: int = 0
    events_out: int = 0
    events_filtered: int = 0
    events_late: int = 0
    events_dead: int = 0
    error: str | None = None


class Rebalanced(msgspec.Struct, frozen=True, tag="rebalanced"):
    """The partitions of a consumer group were shared out anew. ``before`` and ``after`` have the ``(stream_id, partition)``s of
    each member, by member id."""

    tenant_id: str
    group_id: str
    group_name: str
    strategy: str
    generation: int
    reason: str
    before: dict[str, tuple[tuple[str, int], ...]]
    after: dict[str, tuple[tuple[str, int], ...]]
    started_us: int
    completed_us: int


HistoryRecord: TypeAlias = Published | Processed | Late | Refused | ProcessorRun | Rebalanced
NOWHERE: Final = Run("", "", 0, 0, 1)
"""The run of a note: of an event that is in no stream yet."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: "Final[msgspec.msgpack.Decoder[HistoryRecord | Released]]" = msgspec.msgpack.Decoder(HistoryRecord | Released)


def to_event(record: HistoryRecord) -> Event:
    """The record as an event for the stream ``_history``."""
    return Event(
        event_id=ids.new_id(ids.EVENT),
        event_type=f"history.{type(record).__name__}",
        timestamp_ms=time.time_ns() // 1_000_000,
        data=_encoder.encode(record),
        source_capability="event-streaming-bus",
        tenant_id=SYSTEM_TENANT,
    )


def to_note(record: Published | Processed | Refused) -> bytes:
    """The record of one event, at ``NOWHERE``, as a note that the log keeps until it releases the event."""
    return _encoder.encode(record)


def from_bytes(data: bytes) -> HistoryRecord:
    """The record in the payload of an event of the stream ``_history``. Raises ``msgspec.DecodeError``.

    A note comes as the record of all the events that were released with it, at their places.
    """
    record = _decoder.decode(data)
    if not isinstance(record, Released):
        return record
    run = Run(record.stream_id, record.lane, record.partition, record.offset, record.count)
    noted = _decoder.decode(record.note)
    if isinstance(noted, Published):
        return msgspec.structs.replace(noted, runs=[run], appended_us=record.released_us)
    if isinstance(noted, Processed):
        errors = [msgspec.structs.replace(error, index=i) for i in range(run.count) for error in noted.errors]
        return msgspec.structs.replace(noted, run=run, errors=errors)
    if isinstance(noted, Refused):
        return msgspec.structs.replace(noted, runs=[run], count=run.count, observed_us=record.released_us)
    raise msgspec.ValidationError(
        f"a note tells of events that were published, processed or refused, not of {type(noted).__name__}"
    )
