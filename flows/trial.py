"""A trial: a flow run over some events, in a folder of its own that is gone afterwards.

It is the real thing: the log, the schemas, the processors and their state are those of every run, and the flow runs to the end of
the events. So what a trial says is what would happen.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from bytewax.testing import run_main

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.models import Event, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.catalog import Catalog
from event_streaming_bus.store.history_records import Late, from_bytes
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.storage import Storage


class LateEvent(msgspec.Struct, frozen=True):
    """An event that came too late for a window of a processor."""

    processor: str
    event: Event
    window_start_ms: int
    window_end_ms: int


class DeadEvent(msgspec.Struct, frozen=True):
    """A dead letter: the event as it was, what failed on it and why. ``processor`` is None where a stream's schema refused it."""

    processor: str | None
    event: Event
    error_type: str
    reason: str


class TrialResult(msgspec.Struct, frozen=True):
    """What came of a trial: by stream what was written, and what was late or died."""

    metrics: list[ProcessorMetrics]
    outputs: dict[str, list[Event]]
    late: list[LateEvent]
    dead: list[DeadEvent]


class Trial:
    """A storage of its own: ``prepare`` it, publish to it, then ``run``."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def prepare(self, spec: FlowSpec, known: Mapping[str, StreamConfig] = {}) -> None:
        """Make the streams that the flow declares, and those that it reads and writes beside: as in ``known``, or with one
        partition."""
        declared = {stream.name for stream in spec.streams}
        for name in streams_of(spec):
            if name not in declared:
                config = known.get(name) or StreamConfig(name=name, tenant_id=spec.tenant_id)
                self.storage.log.create_stream(config)
        deploy(spec, self.storage)

    def run(self, spec: FlowSpec) -> TrialResult:
        """Run the flow to the end of what its streams hold, which closes every window. Raises the flow's own ``BusError``.

        Where the flow reads a stream that it writes, it runs again until nothing more comes.
        """
        plan = deploy(spec, self.storage)
        ends = None
        while ends != (ends := current_ends(plan, self.storage)):
            self._run_once(plan, ends)
        return self._result(plan, spec)

    def _run_once(self, plan: Plan, ends: Mapping[str, Mapping[Split, int]]) -> None:
        try:
            run_main(build(plan, self.storage, until=ends))
        except BaseException as error:  # Bytewax wraps what a step raised
            cause = _bus_error(error)
            if cause is None:
                raise
            raise cause from error

    def _result(self, plan: Plan, spec: FlowSpec) -> TrialResult:
        log, tenant = self.storage.log, spec.tenant_id
        targets = dict.fromkeys(node.target.name for node in plan.nodes() if node.target is not None)
        outputs = {name: events_of(log, log.find_stream(tenant, name)) for name in targets}
        return TrialResult(flow_metrics(plan, self.storage), outputs, self._late(), self._dead(tenant))

    def _late(self) -> list[LateEvent]:
        found = []
        for event in events_of(self.storage.log, self.storage.history()):
            record = from_bytes(event.data)
            if not isinstance(record, Late):
                continue
            stream = self.storage.log.find_stream(record.tenant_id, record.stream_id)
            split = next(s for s in stream.splits() if (s.lane.value, s.partition) == (record.lane, record.partition))
            for offset, start_ms, end_ms in zip(record.offsets, record.window_start_ms, record.window_end_ms, strict=True):
                late = self.storage.log.read(split, offset, 1)[0].event(0)
                found.append(LateEvent(record.processor_name, late, start_ms, end_ms))
        return found

    def _dead(self, tenant_id: str) -> list[DeadEvent]:
        found = []
        for event in events_of(self.storage.log, self.storage.dead_letters(tenant_id)):
            why: dict[str, Any] = (event.metadata or {})["dead_letter"]
            found.append(DeadEvent(why.get("processor_name"), event, why["error_type"], why["error_message"]))
        return found


@contextmanager
def trial() -> Iterator[Trial]:
    """A trial in a temporary folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="esb-trial-") as name:
        folder = Path(name)
        log = EmbeddedLog(folder, synchronous="NORMAL")  # nothing of it is to outlive the process
        storage = Storage(folder, log, Catalog(folder / "log.db"))
        try:
            yield Trial(storage)
        finally:
            storage.close()


def streams_of(spec: FlowSpec) -> list[str]:
    """The names of all streams that a flow reads or writes."""
    names = [ref.name for p in spec.processors for ref in spec.sources_of(p) if spec.processor(ref.name) is None]
    return list(dict.fromkeys([*names, *(p.target_stream_id for p in spec.processors if p.target_stream_id is not None)]))


def sources_of(spec: FlowSpec) -> list[str]:
    """The names of the streams that a flow reads, and does not write itself."""
    targets = {p.target_stream_id for p in spec.processors}
    names = [ref.name for p in spec.processors for ref in spec.sources_of(p) if spec.processor(ref.name) is None]
    return [name for name in dict.fromkeys(names) if name not in targets]


def events_of(log: EventLog, stream: StreamInfo, begins: Mapping[Split, int] | None = None) -> list[Event]:
    """Every event of a stream, or those from ``begins`` on: partition by partition, the most urgent lane first."""
    begins = begins or log.begin_offsets(stream.stream_id)
    events: list[Event] = []
    for split in stream.splits():
        offset = begins[split]
        while batches := log.read(split, offset):
            for batch in batches:
                events += batch.events()
            offset = batches[-1].end_offset
    return events


def _bus_error(error: BaseException | None) -> BusError | None:
    while error is not None:
        if isinstance(error, BusError):
            return error
        error = error.__cause__ or error.__context__
    return None
