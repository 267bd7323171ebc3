"""The source of a dataflow: reads a stream of the log, one Bytewax partition for each partition of the stream.

The state that Bytewax snapshots is the offset of the next event in each lane and the largest timestamp before it, so a
resumed flow goes on where its snapshot was taken. CRITICAL is read first,
always; the other lanes take turns by weight, so that LOW never starves.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from event_streaming_bus.errors import OffsetOutOfRangeError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.flows.folds.base import FOREVER
from event_streaming_bus.flows.items import Chunk, Progress
from event_streaming_bus.flows.rest import PAUSE_S, Rest
from event_streaming_bus.flows.snapshots import opened, sealed
from event_streaming_bus.models import LANES, Event, EventPriority, Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.record_batch import RecordBatch
from event_streaming_bus.store.patient_clock import patient_ms

MAX_CHUNK_EVENTS: Final = 32_768
_MAX_CHUNKS: Final = 64
_READ_BYTES: Final = 1 << 21
_POLL_S: Final = 0.008
_AT_ONCE: Final = datetime.fromtimestamp(0, UTC)
_TICK_MS: Final = 200
_WEIGHTS: Final = {EventPriority.HIGH: 6, EventPriority.NORMAL: 3, EventPriority.LOW: 1}
_TURNS: Final = [lane for lane, weight in _WEIGHTS.items() for _ in range(weight)]


class SourceOptions:
    """How a stage reads its stream.

    ``until``: stop at these offsets, by split (``None``: follow the stream). ``cuts``: offsets that no chunk reaches across.
    ``idle_horizon_ms``: how long after its newest event an idle stream may still have windows to close.
    ``max_future_ms``: events further ahead of when they were appended do not move the watermark (``None``: all do).
    ``stopping`` is asked before each read: true ends the source without finishing it. ``rest``: that of the worker, which may
    wait while there is nothing to read (``None``: the source never waits).
    """

    def __init__(
        self,
        *,
        until: Mapping[Split, int] | None = None,
        cuts: Callable[[Split], Sequence[int]] = lambda split: (),
        idle_horizon_ms: int = 0,
        max_future_ms: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
        rest: Rest | None = None,
    ) -> None:
        self.until = until
        self.cuts = cuts
        self.idle_horizon_ms = idle_horizon_ms
        self.max_future_ms = max_future_ms
        self.stopping = stopping
        self.rest = rest


SourceState: TypeAlias = dict[str, tuple[int, int | None]]
"""By lane: the offset of the next event, and the largest timestamp before it."""


class LogSource(FixedPartitionedSource[Chunk, bytes]):
    """Reads ``stream`` from ``log``. An offset that retention has dropped stops the flow with an error: events were missed."""

    def __init__(self, log: EventLog, stream: StreamInfo, options: SourceOptions) -> None:
        self._log = log
        self._stream = stream
        self._options = options

    def list_parts(self) -> list[str]:
        return [str(partition) for partition in range(self._stream.config.partitions)]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | SourceState | None) -> "LogPartition":
        return LogPartition(self._log, self._stream, int(for_part), opened(resume_state), self._options)


class LogPartition(StatefulSourcePartition[Chunk, bytes]):
    """One partition of the stream: its four lanes."""

    def __init__(
        self,
        log: EventLog,
        stream: StreamInfo,
        partition: int,
        resume_state: SourceState | None,
        options: SourceOptions,
    ) -> None:
        self._log = log
        self._stream = stream
        self._options = options
        self._splits = {lane: Split(stream.stream_id, lane, partition) for lane in LANES}
        begins = log.begin_offsets(stream.stream_id)
        self._offsets = {lane: begins[split] for lane, split in self._splits.items()}
        self._watermarks: dict[EventPriority, int | None] = dict.fromkeys(LANES)
        for lane, (offset, watermark_ms) in (resume_state or {}).items():
            self._offsets[EventPriority(lane)] = offset
            self._watermarks[EventPriority(lane)] = watermark_ms
        self._cuts = {lane: list(options.cuts(split)) for lane, split in self._splits.items()}
        self._buffers: dict[EventPriority, deque[RecordBatch]] = {lane: deque() for lane in LANES}
        self._turn = 0
        self._told: dict[str, int] = {}
        self._untold = True  # something was read since the ends were looked up
        self._greeted = False
        self._finished = False
        self._drained: dict[EventPriority, int | None] = dict.fromkeys(LANES)  # the log's version when a lane was read to its end
        self._newest_ms: int | None = None
        self._tick_at_ms = 0
        self._look_at_s = 0.0
        self._rest = options.rest if options.until is None else None  # who reads to some end has no reason to wait
        if self._rest is not None:
            self._rest.join(self)

    def next_batch(self) -> list[Chunk]:
        if time.monotonic() < self._look_at_s:
            if self._rest is None:
                time.sleep(PAUSE_S)
            else:
                self._rest.pause(self)
            return []
        if self._finished or self._options.stopping():
            raise StopIteration
        if not self._greeted:
            self._greeted = True
            return [Chunk(Progress(self._positions(), self._news()))]
        if chunks := self._next_chunks():
            if self._rest is not None:
                self._rest.gave(self)
            return chunks
        if self._options.until is not None:
            self._finished = True
            names = tuple(map(str, self._splits.values()))
            return [Chunk(Progress(self._positions(), self._news(), finished=names))]
        tick = self._tick()
        if not tick and self._rested():
            return []
        self._look_at_s = time.monotonic() + _POLL_S
        return tick

    def next_awake(self) -> datetime | None:
        """At once, whatever there is. Bytewax goes by the clock on the wall, also if it is left to Bytewax: were that set back by
        an hour, nothing would be read for an hour. So the source itself takes its time."""
        return _AT_ONCE

    def snapshot(self) -> bytes:
        fault_point("recovery.source")
        if self._rest is not None:
            self._rest.saved(self)
        return sealed({lane.value: (offset, self._watermarks[lane]) for lane, offset in self._offsets.items()})

    def _positions(self) -> dict[str, int]:
        return {str(split): self._offsets[lane] for lane, split in self._splits.items()}

    def _news(self) -> dict[str, int]:
        """The ends of all splits of the stream, those that were told before left out. Of a stream that has grown since, also
        those that are not read before the flow starts again: they hold back time as any split with unread events."""
        ends = {str(split): end for split, end in self._ends().items()}
        news = {name: end for name, end in ends.items() if self._told.get(name) != end}
        self._told.update(news)
        return news

    def _ends(self) -> Mapping[Split, int]:
        self._untold = False
        ends = self._log.end_offsets(self._stream.stream_id)
        if self._options.until is None:
            return ends
        return {split: end for split, end in ends.items() if split.partition < self._stream.config.partitions}

    def _tick(self) -> list[Chunk]:
        """While windows of an idle stream may have to close by the clock: tell the time, a few times a second."""
        if self._newest_ms is None or not self._options.idle_horizon_ms:
            return []
        now_ms = patient_ms()
        if now_ms < self._tick_at_ms:
            return []
        self._tick_at_ms = now_ms + _TICK_MS
        if now_ms > self._newest_ms + self._options.idle_horizon_ms + 5 * _TICK_MS:
            self._newest_ms = None  # all that could close has been told; the next event starts over
        if self._rest is not None:
            self._rest.gave(self, is_tick=True)
        return [Chunk(Progress(self._positions(), self._news(), clock_ms=now_ms))]

    def _rested(self) -> bool:
        """Wait for something to read, if the whole worker has nothing; whether it did."""
        if self._rest is None:
            return False
        due_s = None
        if self._newest_ms is not None and self._options.idle_horizon_ms:
            due_s = time.monotonic() + (self._tick_at_ms - patient_ms()) / 1000
        return self._rest.wait(self, {split: self._offsets[lane] for lane, split in self._splits.items()}, due_s)

    def _next_chunks(self) -> list[Chunk]:
        """What is there to read: one chunk, or several where they are small, so that their results are written together."""
        chunks: list[Chunk] = []
        count = 0
        while count < MAX_CHUNK_EVENTS and len(chunks) < _MAX_CHUNKS and (chunk := self._next_chunk()) is not None:
            chunks.append(chunk)
            count += sum(batch.count for batch in chunk.batches)
        return chunks

    def _next_chunk(self) -> Chunk | None:
        self._fill()
        lane = self._pick()
        if lane is None:
            return None
        split, buffer = self._splits[lane], self._buffers[lane]
        begin = buffer[0].offset  # where some offsets hold no event, a chunk ends before them and the next begins behind
        stop = next((cut for cut in self._cuts[lane] if cut > begin), None)
        batches: list[RecordBatch] = []
        count = 0
        while buffer and count < MAX_CHUNK_EVENTS and buffer[0].offset == begin + count and begin + count != stop:
            batch = buffer.popleft()
            if stop is not None and batch.end_offset > stop:
                if batch.offset + batch.count > stop:
                    buffer.appendleft(batch.slice(stop, batch.end_offset))
                batch = batch.slice(batch.offset, stop)
            batches.append(batch)
            count += batch.count
        self._offsets[lane] = end = batches[-1].end_offset
        newest, future = self._newest(batches)
        before_ms = self._watermarks[lane]
        if newest is not None:
            self._newest_ms = max(newest[0], self._newest_ms or newest[0])
            self._watermarks[lane] = newest[0] if before_ms is None else max(newest[0], before_ms)
        # Where the ends were looked up after these events had been read, what was appended before them counts as unread.
        news = self._news() if self._untold else {}
        progress = Progress({str(split): end}, news, split=str(split), newest=newest)
        return Chunk(progress, split, begin, end, before_ms, tuple(batches), future)

    def _newest(self, batches: list[RecordBatch]) -> tuple[tuple[int, int] | None, frozenset[int]]:
        """``(time, time of appending)`` of the newest event, and the indexes of those too far ahead of when they were
        appended."""
        bound_ms = self._options.max_future_ms
        newest: tuple[int, int] | None = None
        future: list[int] = []
        first = 0
        for batch in batches:
            times_ms = batch.timestamps_ms()
            last_ms = max(times_ms)
            if bound_ms is not None and last_ms > batch.appended_at_ms + bound_ms:
                limit_ms = batch.appended_at_ms + bound_ms
                future += [first + i for i, t in enumerate(times_ms) if t > limit_ms]
                last_ms = max((t for t in times_ms if t <= limit_ms), default=-FOREVER)
            if last_ms != -FOREVER:
                newest = max(newest or (last_ms, batch.appended_at_ms), (last_ms, batch.appended_at_ms))
            first += batch.count
        return newest, frozenset(future)

    def _fill(self) -> None:
        """Read ahead in every lane that has nothing buffered, if the log has changed since the last look."""
        version = self._log.version()
        lanes = [lane for lane in LANES if not self._buffers[lane] and self._drained[lane] != version]
        if not lanes:
            return
        ends = self._ends()
        for lane in lanes:
            split = self._splits[lane]
            if self._offsets[lane] == ends[split]:
                self._drained[lane] = version
                continue
            batches = self._read(split, self._offsets[lane])
            if not batches:
                self._drained[lane] = version
                continue
            self._untold = True
            self._offsets[lane] = batches[0].offset if batches[0].count else batches[0].end_offset
            self._buffers[lane].extend(batch for batch in batches if batch.count)

    def _read(self, split: Split, offset: int) -> list[RecordBatch]:
        until = None if self._options.until is None else self._options.until[split]
        if until is not None and offset >= until:
            return []
        try:
            batches = self._log.read(split, offset, _READ_BYTES)
        except OffsetOutOfRangeError as error:
            raise OffsetOutOfRangeError(
                f"The flow stopped at offset {offset} of {self._stream.name} ({split}), which is no longer kept: retention has "
                f"dropped the events up to {error.details.get('begin')} before they were processed. Reset the flow "
                "(esb run --from-start) to go on with what there is.",
                **error.details,
            ) from error
        if until is None:
            return batches
        return [b if b.end_offset <= until else b.slice(b.offset, until) for b in batches if b.offset < until]

    def _pick(self) -> EventPriority | None:
        """The lane to read next."""
        if self._buffers[EventPriority.CRITICAL]:
            return EventPriority.CRITICAL
        for _ in _TURNS:
            lane = _TURNS[self._turn]
            self._turn = (self._turn + 1) % len(_TURNS)
            if self._buffers[lane]:
                return lane
        return None


def read_events(log: EventLog) -> Callable[[str, Sequence[int]], list[Event]]:
    """Reads the events of a split (by its text) at some offsets, in ascending order. What retention has dropped is an error."""

    def read(name: str, offsets: Sequence[int]) -> list[Event]:
        split = Split.parse(name)
        events: list[Event] = []
        batches: list[RecordBatch] = []
        for offset in offsets:
            while not batches or offset >= batches[0].end_offset:
                del batches[:1]
                batches = batches or log.read(split, offset, _READ_BYTES)
            events.append(batches[0].event(offset - batches[0].offset))
        return events

    return read
