"""A trial: a flow run over some events, in a folder of its own that is gone afterwards.

It is the real thing: the log, the schemas, the processors and their state are those of every run, and the flow runs to the end of
the events. So what a trial says is what would happen.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from bytewax.testing import run_main

from event_streaming_bus.errors import BusError, cause_of
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.source import read_events
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.dead_letters import original, told_of
from event_streaming_bus.store.history_records import Late, from_bytes
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.reading import read_stream
from event_streaming_bus.store.storage import Storage


class LateEvent(msgspec.Struct, frozen=True):
    """An event that came too late for a window of a processor."""

    processor: str
    event: Event
    window_start_ms: int
    window_end_ms: int


class DeadEvent(msgspec.Struct, frozen=True):
    """A dead letter: the event as it was, what failed on it and why.

    ``stream`` is the one that was read. ``processor`` is None where that stream's own schema refused the event.
    """

    processor: str | None
    stream: str
    event: Event
    error_type: str
    reason: str


class TrialResult(msgspec.Struct, frozen=True):
    """What came of a trial. ``metrics`` has the counts of each processor, ``outputs`` what was written, by stream, changelogs
    among them: partition by partition.

    ``written`` counts the events of ``outputs``, ``late_count`` and ``dead_count`` those of ``late`` and ``dead``, which hold
    fewer where no more were asked for.
    """

    metrics: list[ProcessorMetrics]
    outputs: dict[str, list[Event]]
    late: list[LateEvent]
    dead: list[DeadEvent]
    written: dict[str, int]
    late_count: int
    dead_count: int


class Trial:
    """A storage of its own, in which one flow runs: ``prepare`` it, give it events, then ``run``."""

    def __init__(self, storage: Storage, log: EmbeddedLog) -> None:
        self.storage = storage
        self.log = log
        self._plan: Plan | None = None

    def prepare(self, spec: FlowSpec, known: Iterable[StreamInfo] = ()) -> None:
        """Deploy the flow. The streams ``known`` are there before, with their ids; those that it neither declares nor finds are
        made with one partition. Raises what deploying raises."""
        for info in known:
            self.log.create_stream(info.config, info.stream_id)
        there = {name for info in self.log.list_streams() for name in (info.name, info.stream_id)}
        declared = {stream.name for stream in spec.streams}
        for name in spec.streams_used():
            if name not in declared | there:
                self.log.create_stream(StreamConfig(name=name, tenant_id=spec.tenant_id))
        self._plan = deploy(spec, self.storage)

    def run(self, most: int | None = None) -> TrialResult:
        """Run the flow to the end of what its streams hold, which closes every window. Raises the flow's own ``BusError``.

        Where the flow reads a stream that it writes, it runs again until nothing more comes. ``most``: keep so many events of
        each stream and of each kind, and only count the others.
        """
        plan = self._plan
        if plan is None:
            raise RuntimeError("prepare comes before run")
        ends = None
        while ends != (ends := current_ends(plan, self.storage)):
            self._run_once(plan, ends)
        return self._result(plan, most)

    def _run_once(self, plan: Plan, ends: Mapping[str, Mapping[Split, int]]) -> None:
        try:
            run_main(build(plan, self.storage, until=ends, is_traced=False))
        except BaseException as error:  # Bytewax wraps what a step raised
            cause = cause_of(error, BusError)
            if cause is None:
                raise
            raise cause from error

    def _result(self, plan: Plan, most: int | None) -> TrialResult:
        targets = {stream.name: stream for node in plan.nodes() for stream in (node.target, node.changelog) if stream is not None}
        begins = {name: sum(self.log.begin_offsets(stream.stream_id).values()) for name, stream in targets.items()}
        ends = {name: sum(self.log.end_offsets(stream.stream_id).values()) for name, stream in targets.items()}
        letters = self.storage.dead_letters(plan.tenant_id)
        late, late_count = self._late(most)
        return TrialResult(
            metrics=flow_metrics(plan, self.storage),
            outputs={name: read_stream(self.log, stream, most) for name, stream in targets.items()},
            late=late,
            dead=[_dead_event(letter) for letter in read_stream(self.log, letters, most)],
            written={name: ends[name] - begins[name] for name in targets},
            late_count=late_count,
            dead_count=sum(self.log.end_offsets(letters.stream_id).values()),
        )

    def _late(self, most: int | None) -> tuple[list[LateEvent], int]:
        """``(late events, at most so many; how many there are)``, one for each window that an event missed."""
        read = read_events(self.log)
        found: list[LateEvent] = []
        count = 0
        for entry in read_stream(self.log, self.storage.history()):
            record = from_bytes(entry.data)
            if not isinstance(record, Late):
                continue
            count += len(record.offsets)
            wanted = len(record.offsets) if most is None else max(0, most - len(found))
            found += _late_events(record, wanted, read)
        return found, count


@contextmanager
def trial() -> Iterator[Trial]:
    """A trial in a temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="esb-trial-") as name:
        folder = Path(name)
        log = EmbeddedLog(folder, synchronous="NORMAL")  # nothing of it is to outlive the process
        try:
            storage = Storage(folder, log)
        except BaseException:
            log.close()
            raise
        try:
            yield Trial(storage, log)
        finally:
            storage.close()


def _late_events(record: Late, most: int, read: Callable[[str, list[int]], list[Event]]) -> Iterator[LateEvent]:
    if most <= 0:
        return
    offsets = sorted(set(record.offsets[:most]))
    split = Split(record.stream_id, EventPriority(record.lane), record.partition)
    events = dict(zip(offsets, read(str(split), offsets), strict=True))
    for offset, start_ms, end_ms in list(zip(record.offsets, record.window_start_ms, record.window_end_ms, strict=True))[:most]:
        yield LateEvent(record.processor_name, events[offset], start_ms, end_ms)


def _dead_event(letter: Event) -> DeadEvent:
    why = told_of(letter.metadata)
    return DeadEvent(why.get("processor_name"), why["stream"], original(letter), why["error_type"], why["error_message"])


def sources_of(spec: FlowSpec) -> list[str]:
    """The names (or ids) of the streams that a flow reads, and does not write itself."""
    targets = {p.target_stream_id for p in spec.processors}
    return [name for name in spec.streams_read() if name not in targets]
