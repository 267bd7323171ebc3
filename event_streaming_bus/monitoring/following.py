"""Following the stream ``_history`` for what no offset tells: latencies and errors.

It is followed from its end as it was when the server started. Reading is bounded: each time somebody asks, for so long at most,
and whoever has not asked for long gets the newest ``MAX_BEHIND`` records only; the others are counted as skipped.
"""

import logging
import time
from typing import Final

import msgspec

from event_streaming_bus.errors import CorruptLogError, OffsetOutOfRangeError
from event_streaming_bus.models import EventPriority, ProcessingStage, Split, StreamInfo
from event_streaming_bus.monitoring.latency import DELIVERY, PROCESSING, PUBLISH, StreamLatency
from event_streaming_bus.monitoring.slots import OTHER
from event_streaming_bus.monitoring.timeline import Timeline
from event_streaming_bus.store.history_records import (
    DEAD,
    SKIPPED,
    HistoryRecord,
    Late,
    Processed,
    Published,
    Refused,
    Run,
    from_bytes,
)
from event_streaming_bus.store.log.base import EventLog, Released
from event_streaming_bus.store.storage import Storage

MAX_BEHIND: Final = 200_000
MAX_TIMELINES: Final = 4096
_READ_BYTES: Final = 1 << 18
_log: Final = logging.getLogger(__name__)

ERROR_TYPES: Final = {
    "validation": "it broke its stream's schema",
    "routing": "a routing rule could not be applied to it",
    "processing": "a processor could not process it, and it became a dead letter",
    "skipped": "a processor could not process it, and left it out",
    "late": "it came after its window had closed",
    "delivery": "a consumer set it aside as a dead letter",
    "retry": "a consumer gave it back to be delivered again, or a retry of its dead letter failed",
}
_BY_STAGE: Final = {
    ProcessingStage.ROUTING: "routing",
    ProcessingStage.PROCESSING: "processing",
    ProcessingStage.ENRICHMENT: "processing",
    ProcessingStage.DEAD_LETTER: "delivery",
    ProcessingStage.DELIVERY: "delivery",
    ProcessingStage.RETRY: "retry",
}
_MEASURED: Final = {
    ProcessingStage.PROCESSING: PROCESSING,
    ProcessingStage.ENRICHMENT: PROCESSING,
    ProcessingStage.DELIVERY: DELIVERY,
}
_decoder: "Final[msgspec.msgpack.Decoder[HistoryRecord | Released]]" = msgspec.msgpack.Decoder(HistoryRecord | Released)

StreamKey = tuple[str, str]
"""``(tenant_id, name of the stream)``."""


class Follower:
    """Follows the history of a data folder. For one thread at a time."""

    def __init__(self, storage: Storage, max_streams: int) -> None:
        self._log: EventLog = storage.log
        self._split = Split(storage.history().stream_id, EventPriority.NORMAL, 0)
        self._position = self._end()
        self._max_streams = max_streams
        self._names: dict[str, StreamInfo] = {}
        self._timelines: dict[tuple[str, str, int], Timeline] = {}
        self.streams: dict[StreamKey, StreamLatency] = {}
        self.backlog = 0
        self.skipped = 0

    def catch_up(self, streams: dict[str, StreamInfo], budget_s: float) -> None:
        """Read on, for about ``budget_s`` at most. ``streams`` are those that there are, by id: what is known of others is
        forgotten."""
        self._names = streams
        self._forget()
        end, give_up = self._end(), time.monotonic() + budget_s
        if end < self._position:
            self._position = end  # the log was put back to an earlier state
        if end - self._position > MAX_BEHIND:
            self.skipped += end - MAX_BEHIND - self._position
            self._position = end - MAX_BEHIND
        while self._position < end and time.monotonic() < give_up:
            self._read(end)
        self.backlog = end - self._position

    def refused(self, tenant_id: str, stream: str, error_type: str, events: int) -> None:
        """Events were turned away without a trace in the log."""
        self._latency(tenant_id, stream).errors[error_type] += events

    def _end(self) -> int:
        return self._log.end_offsets(self._split.stream_id)[self._split]

    def _read(self, end: int) -> None:
        try:
            batches = self._log.read(self._split, self._position, _READ_BYTES)
        except OffsetOutOfRangeError as error:
            kept = min(max(int(error.details["begin"]), self._position + 1), end)
            self.skipped += kept - self._position
            self._position = kept
            return
        except CorruptLogError:
            self.skipped += 1
            self._position += 1
            return
        for batch in batches:
            for data in batch.payloads():
                try:
                    self._take(data)
                except (msgspec.DecodeError, LookupError, ValueError):  # one bad record must not stop the rest
                    self.skipped += 1
            self._position = batch.end_offset
        if not batches:
            self._position = end

    def _take(self, data: bytes) -> None:
        record = _decoder.decode(data)
        if isinstance(record, Released):
            told = from_bytes(data)
            if isinstance(told, Published):
                for run in told.runs:
                    self._accepted(run, record.released_us)
                return
            record = told
        if isinstance(record, Published):
            self._published(record)
        elif isinstance(record, Processed):
            self._processed(record)
        elif isinstance(record, Refused):
            self._count(record.tenant_id, record.stream_id, "validation", record.count)
        elif isinstance(record, Late):
            self._count(record.tenant_id, record.stream_id, "late", len(record.offsets))

    def _published(self, record: Published) -> None:
        for run in record.runs:
            name = self._name(run.stream_id)
            if name is not None:
                self._accepted(run, record.accepted_us)
                self._latency(record.tenant_id, name).observe(PUBLISH, record.accepted_us, record.appended_us, run.count)

    def _accepted(self, run: Run, accepted_us: int) -> None:
        place = run.stream_id, run.lane, run.partition
        timeline = self._timelines.get(place)
        if timeline is None:
            if len(self._timelines) >= MAX_TIMELINES:
                del self._timelines[next(iter(self._timelines))]
            timeline = self._timelines[place] = Timeline()
        timeline.add(run.offset, run.offset + run.count, accepted_us)

    def _processed(self, record: Processed) -> None:
        run, outcomes = record.run, record.outcomes
        name = self._name(run.stream_id)
        if name is None:
            return
        each = run.count if len(outcomes) == 1 else 1
        error_type = _BY_STAGE.get(ProcessingStage(record.stage))
        dead, skipped = outcomes.count(DEAD) * each, outcomes.count(SKIPPED) * each
        if dead and error_type is not None:
            self._latency(record.tenant_id, name).errors[error_type] += dead
        if skipped:
            self._latency(record.tenant_id, name).errors["skipped"] += skipped
        stage = _MEASURED.get(ProcessingStage(record.stage))
        timeline = self._timelines.get((run.stream_id, run.lane, run.partition))
        if stage is None or timeline is None:
            return
        latency = self._latency(record.tenant_id, name)
        for begin, end, accepted_us in timeline.between(run.offset, run.offset + run.count):
            seen = end - begin
            if len(outcomes) > 1:  # 0 stands for events that the processor did not see
                seen -= outcomes.count(0, begin - run.offset, end - run.offset)
            if seen:
                latency.observe(stage, accepted_us, record.completed_us, seen)

    def _count(self, tenant_id: str, stream_id: str, error_type: str, events: int) -> None:
        name = self._name(stream_id)
        if name is not None:
            self._latency(tenant_id, name).errors[error_type] += events

    def _name(self, stream_id: str) -> str | None:
        """The stream's name; ``None`` for one of the bus's own, or one that is gone."""
        info = self._names.get(stream_id)
        return None if info is None else info.name

    def _latency(self, tenant_id: str, name: str) -> StreamLatency:
        found = self.streams.get((tenant_id, name))
        if found is None and len(self.streams) >= self._max_streams:
            name = OTHER
            found = self.streams.get((tenant_id, name))
        if found is None:
            found = self.streams[tenant_id, name] = StreamLatency()
        return found

    def _forget(self) -> None:
        there = {(info.tenant_id, info.name) for info in self._names.values()}
        tenants = {tenant_id for tenant_id, _ in there}
        self.streams = {
            key: latency
            for key, latency in self.streams.items()
            if key in there or (key[1].startswith("(") and key[0] in tenants)
        }
        self._timelines = {place: timeline for place, timeline in self._timelines.items() if place[0] in self._names}
