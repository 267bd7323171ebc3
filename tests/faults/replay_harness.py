"""Runs a flow over given events as life would: in instalments, with crashes, stops and other numbers of workers in between.

Everything happens in this process, on a real log and with Bytewax's own recovery. A crash is an exception out of a worker: before
a transaction of the sink, after it (it is on disk, but Bytewax does not know), or between two reads of the source.
"""

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main, run_main

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows import source
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.items import SinkItem
from event_streaming_bus.flows.metrics import flow_metrics, progress
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.sink import LogSinkPartition
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import LANES, Event, EventPriority, StreamInfo
from event_streaming_bus.store.history_records import Late, from_bytes
from event_streaming_bus.store.log.base import Append

PARTITIONS: Final = 3
_RECOVERY_PARTITIONS: Final = 2
_TRANSACTION_ROWS: Final = 2


class Row(NamedTuple):
    """One event, and the split that it is published to."""

    event_id: str
    stream: str
    at_ms: int
    payload: dict[str, Any]
    partition: int = 0
    lane: EventPriority = EventPriority.NORMAL


class Fault(StrEnum):
    """What ends a run before its time."""

    NONE = "none"
    STOP = "stop"
    """An orderly stop, as by SIGTERM: before the n-th read."""
    READ = "read"
    """A crash before the n-th read."""
    BEFORE = "before"
    """A crash before the n-th transaction."""
    AFTER = "after"
    """A crash after the n-th transaction."""


class Run(NamedTuple):
    """One run of the flow. ``first`` and ``live`` instalments are published before it and while it runs. ``chunk_events``: how
    many events make a full chunk of the source."""

    workers: int = 1
    fault: Fault = Fault.NONE
    nth: int = 0
    snapshot_interval_ms: int = 0
    first: int = 0
    live: int = 0
    chunk_events: int = source.MAX_CHUNK_EVENTS


class Outcome(msgspec.Struct, frozen=True):
    """What came of it.

    ``outputs``: by stream ``(event id, time, key, payload)``. ``late``: ``(processor, event id, window start, window end)``
    as the history has it. ``counts``: by processor. ``faults``: how many runs ended in one. ``causes``: by the id of an output
    that of the event which it was made of.
    """

    outputs: dict[str, list[tuple[str, int, str | None, bytes]]]
    late: list[tuple[str, str, int, int]]
    counts: dict[str, dict[str, int]]
    faults: int = 0
    dead_letter_ids: tuple[str, ...] = ()
    causes: dict[str, str | None] = {}

    def answers(self) -> tuple[Any, ...]:
        """All that must be the same in every run."""
        return self.outputs, self.late, self.counts


class Crash(Exception):
    """Stands for ``kill -9``."""


def perform(flow: dict[str, Any], instalments: Sequence[Sequence[Row]], runs: Sequence[Run], until_end: Sequence[Run]) -> Outcome:
    """Follow the streams in ``runs``, then publish what is left and run ``until_end``, the last time without a fault."""
    with tempfile.TemporaryDirectory(prefix="esb-") as folder, open_bus(folder) as bus:
        plan = deploy(parse_flow(flow, name="flow"), bus.storage)
        performance = _Performance(bus, plan, deque(instalments))
        for run in runs:
            performance.follow(run)
        performance.publish(len(instalments))
        for run in (*until_end, Run(workers=until_end[-1].workers if until_end else 1)):
            performance.finish(run)
        return outcome_of(bus, plan, performance.faults)


class _Performance:
    """A flow that is run again and again on one data folder."""

    def __init__(self, bus: Bus, plan: Plan, instalments: deque[Sequence[Row]]) -> None:
        self.faults = 0
        self._bus = bus
        self._plan = plan
        self._instalments = instalments
        self._lock = threading.RLock()
        self._recovery = Path(bus.folder) / "snapshots"
        self._recovery.mkdir()
        init_db_dir(self._recovery, _RECOVERY_PARTITIONS)

    def publish(self, count: int) -> None:
        """Publish the next instalments."""
        for _ in range(min(count, len(self._instalments))):
            publish(self._bus, self._instalments.popleft())

    def follow(self, run: Run) -> None:
        """Run until everything is read."""
        self.publish(run.first)
        reads, live = 0, run.live

        def stopping() -> bool:
            nonlocal reads, live
            with self._lock:
                reads += 1
                self._fail_reading(run, reads)
                if run.fault is Fault.STOP and reads > run.nth:
                    return True
                if live and self._instalments:
                    live -= 1
                    self.publish(1)
                    return False
                done, there = progress(self._plan, self._bus.storage)
                return done == there

        self._run(run, stopping, until_end=False)

    def finish(self, run: Run) -> None:
        """Run to the end of what is there, and close everything."""
        reads = 0

        def stopping() -> bool:
            nonlocal reads
            with self._lock:
                reads += 1
                self._fail_reading(run, reads)
                return False

        self._run(run, stopping, until_end=True)

    @staticmethod
    def _fail_reading(run: Run, reads: int) -> None:
        if run.fault is Fault.READ and reads > run.nth:
            raise Crash("before a read")

    def _run(self, run: Run, stopping: Callable[[], bool], *, until_end: bool) -> None:
        storage = self._bus.storage
        until = current_ends(self._plan, storage) if until_end else None
        flow = build(self._plan, storage, until=until, stopping=stopping)
        interval = timedelta(milliseconds=run.snapshot_interval_ms)
        recovery = RecoveryConfig(str(self._recovery), timedelta(0))
        with failing_sink(run), pytest.MonkeyPatch.context() as patch:
            patch.setattr(source, "MAX_CHUNK_EVENTS", run.chunk_events)
            try:
                if run.workers == 1:
                    run_main(flow, epoch_interval=interval, recovery_config=recovery)
                else:
                    cluster_main(
                        flow, [], 0, epoch_interval=interval, recovery_config=recovery, worker_count_per_proc=run.workers
                    )
            except BaseException as error:
                if not _is_crash(error, run):
                    raise
                self.faults += 1


def _is_crash(error: BaseException | None, run: Run) -> bool:
    """Whether the error goes back to a fault that was asked for. Of several workers, only the panic of one comes through."""
    if run.fault in (Fault.NONE, Fault.STOP):
        return False
    if run.workers > 1:
        return True
    while error is not None:
        if isinstance(error, Crash):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def failing_sink(run: Run) -> Iterator[None]:
    """Inside, the ``nth`` transaction of the sinks ends in a crash, if ``run`` says so, and none follows it."""
    if run.fault not in (Fault.BEFORE, Fault.AFTER):
        yield
        return
    write_batch, lock, written = LogSinkPartition.write_batch, threading.Lock(), 0

    def failing(partition: LogSinkPartition, items: list[SinkItem]) -> None:
        nonlocal written
        with lock:
            written += 1
            if written == run.nth + 1 and run.fault is Fault.AFTER:
                write_batch(partition, items)
            if written > run.nth:
                raise Crash(f"{run.fault} a transaction")
            write_batch(partition, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogSinkPartition, "write_batch", failing)
        yield


def publish(bus: Bus, rows: Sequence[Row]) -> None:
    """Publish the rows in this order, each to its split; a few in one transaction, so that chunks can be small."""
    for start in range(0, len(rows), _TRANSACTION_ROWS):
        appends = []
        part = rows[start : start + _TRANSACTION_ROWS]
        for (stream, partition), group in groupby(part, key=lambda row: (row.stream, row.partition)):
            events = [Event(row.event_id, "t", row.at_ms, msgspec.json.encode(row.payload), priority=row.lane) for row in group]
            appends.append(Append(bus.log.find_stream("default", stream).stream_id, events, partition=partition))
        bus.log.append(appends)


def outcome_of(bus: Bus, plan: Plan, faults: int) -> Outcome:
    written = {info.name: [event for _, event in _events(bus, info)] for info in bus.log.list_streams("default")}
    outputs = {stream: sorted((e.event_id, e.timestamp_ms, e.key, e.data) for e in events) for stream, events in written.items()}
    causes = {event.event_id: event.causation_id for events in written.values() for event in events}
    # A dead letter's own id and its metadata tell where the event was; what it is about does not depend on that.
    letters = [e for _, e in _events(bus, bus.storage.dead_letters("default"))]
    outputs["_dead_letters"] = sorted((e.causation_id or "", e.timestamp_ms, e.key, e.data) for e in letters)
    sources = {stage.source.stream_id: stage.source for stage in plan.stages}
    ids = {
        (info.stream_id, lane, partition, offset): event.event_id
        for info in sources.values()
        for (partition, lane, offset), event in _events(bus, info)
    }
    late = []
    for _, event in _events(bus, bus.storage.history()):
        record = from_bytes(event.data)
        if isinstance(record, Late):
            for offset, start_ms, end_ms in zip(record.offsets, record.window_start_ms, record.window_end_ms, strict=True):
                event_id = ids[record.stream_id, record.lane, record.partition, offset]
                late.append((record.processor_name, event_id, start_ms, end_ms))
    names = ("events_in", "events_passed", "events_filtered", "events_late", "events_dead", "events_skipped", "events_out")
    counts = {each.name: {name: getattr(each, name) for name in (*names, "in_state")} for each in flow_metrics(plan, bus.storage)}
    return Outcome(outputs, sorted(late), counts, faults, tuple(e.event_id for e in letters), causes)


def _events(bus: Bus, info: StreamInfo) -> Iterator[tuple[tuple[int, str, int], Event]]:
    """``((partition, lane, offset), event)`` of a whole stream."""
    begins = bus.log.begin_offsets(info.stream_id)
    for split in info.splits():
        offset = begins[split]
        while batches := bus.log.read(split, offset):
            for batch in batches:
                for event in batch.events():
                    yield (split.partition, split.lane.value, offset), event
                    offset += 1


def check_sound(outcome: Outcome, *, in_parts: bool = False) -> None:
    """What holds of every outcome: nothing is written or told twice, and no event is lost count of. An event that is taken
    ``in_parts`` may be late as often as it has parts."""
    for stream, events in outcome.outputs.items():
        ids = [event_id for event_id, *_ in events] if stream != "_dead_letters" else outcome.dead_letter_ids
        assert len(ids) == len(set(ids)), stream
    assert in_parts or len(outcome.late) == len(set(outcome.late))
    for name, counts in outcome.counts.items():
        parts = ("events_passed", "events_filtered", "events_late", "events_dead", "events_skipped", "in_state")
        assert counts["events_in"] == sum(counts[part] for part in parts), (name, counts)
        assert min(counts.values()) >= 0, (name, counts)


__all__ = ["LANES", "PARTITIONS", "Fault", "Outcome", "Row", "Run", "check_sound", "perform", "publish"]
