"""A stage at work: chunks of events in, what sinks write and what key groups take out."""

import time
from typing import TYPE_CHECKING, Final

from event_streaming_bus.flows.combiner import Combiner, SplitTime
from event_streaming_bus.flows.enrichment import history_stages
from event_streaming_bus.flows.items import Chunk, SinkItem, ToKeyGroup
from event_streaming_bus.flows.marks import StageMark, add_counts, renewed
from event_streaming_bus.flows.outputs import NodeOutcome, Surroundings
from event_streaming_bus.flows.plan import Node, Stage
from event_streaming_bus.flows.rows import ChunkRows
from event_streaming_bus.flows.segments import Ran, Segments
from event_streaming_bus.store.history_records import DEAD, SKIPPED, EventError, HistoryRecord, Processed, Run
from event_streaming_bus.tracing.tracer import tracer

if TYPE_CHECKING:
    from event_streaming_bus.flows.traced import TracedChunk

_FAILED: Final = (DEAD, SKIPPED)


class StageLogic:
    """Turns the chunks of one stage into items, for one worker. ``marks`` is what the log says has been written, by split.

    ``traced_as`` is the flow's name in spans, where tracing is on; ``None``: none are made.
    """

    def __init__(
        self,
        stage: Stage,
        owner: str,
        marks: dict[str, tuple[bytes, StageMark]],
        surroundings: Surroundings,
        traced_as: str | None = None,
    ) -> None:
        self._stage = stage
        self._traced_as = traced_as
        self._owner = owner
        self._marks: dict[str, tuple[bytes | None, StageMark]] = dict(marks)
        self._surroundings = surroundings
        self._segments = Segments(surroundings)
        self._history_stages = history_stages(stage.roots)
        self._combiners = [(node, Combiner(node)) for node in stage.fed()]

    def __call__(self, chunks: list[Chunk]) -> list[SinkItem | ToKeyGroup]:
        items: list[SinkItem | ToKeyGroup] = []
        for chunk in chunks:
            if chunk.split is None:
                for _, combiner in self._combiners:
                    items += combiner.messages((), chunk.progress)
            else:
                items += self._process(chunk)
        return items

    def _process(self, chunk: Chunk) -> list[SinkItem | ToKeyGroup]:
        assert chunk.split is not None  # noqa: S101 - the caller has looked
        started_ns = time.time_ns()
        rows = ChunkRows(chunk, chunk.split, self._surroundings.upcast)
        stored, mark = self._marks.get(str(chunk.split), (None, StageMark()))
        written = chunk.end <= mark.offset
        traced = None if written else self._traced(rows)
        try:
            ran = self._segments.run(self._stage.roots, rows, future=chunk.future, gather_only=written)
        except BaseException as error:
            if traced is not None:
                traced.failed(error)
            raise
        if traced is not None:
            traced.end(ran.nodes)
        items: list[SinkItem | ToKeyGroup] = []
        if not written:
            items.append(self._item(chunk, ran, rows, stored, mark, started_ns))
        if self._combiners:
            split_time = SplitTime(chunk, rows.column("timestamp_ms"))
            for node, combiner in self._combiners:
                gathered = ran.gathered.get(node.number, ())
                items += combiner.messages(gathered, chunk.progress, chunk.begin, chunk.end, split_time)
        return items

    def _traced(self, rows: ChunkRows) -> "TracedChunk | None":
        using = tracer()
        if using is None or self._traced_as is None:
            return None
        from event_streaming_bus.flows.traced import TracedChunk, carries_trace

        return TracedChunk(using, self._stage, self._traced_as, rows) if carries_trace(rows) else None

    def _item(self, chunk: Chunk, ran: Ran, rows: ChunkRows, stored: bytes | None, mark: StageMark, started_ns: int) -> SinkItem:
        assert chunk.split is not None  # noqa: S101 - the caller has looked
        now_ns = time.time_ns()
        source = self._surroundings.source
        run = Run(source.stream_id, chunk.split.lane.value, chunk.split.partition, chunk.begin, rows.count)
        records: list[HistoryRecord] = []
        for outcome in ran.nodes:
            outcome.counts.processing_ns = (now_ns - started_ns) // len(ran.nodes)
            add_counts(mark.counts, outcome.node.processor_id, outcome.counts)
        for node, outcomes, errors in _by_event(ran.nodes, rows.count):
            same = outcomes.count(outcomes[0]) == len(outcomes)
            records.append(
                Processed(
                    tenant_id=source.tenant_id,
                    processor_id=node.processor_id,
                    processor_name=node.name,
                    stage=self._history_stages[node.number],
                    run=run,
                    started_us=started_ns // 1000,
                    completed_us=now_ns // 1000,
                    outcomes=bytes(outcomes[:1] if same else outcomes),
                    errors=errors,
                )
            )
        mark.offset = chunk.end
        mark.updated_at_ms = now_ns // 1_000_000
        newest = chunk.progress.newest
        if newest is not None:
            mark.watermark_ms = newest[0] if mark.watermark_ms is None else max(mark.watermark_ms, newest[0])
        new = renewed(self._owner, str(chunk.split), stored, mark)
        self._marks[str(chunk.split)] = (new.value, mark)
        return SinkItem(ran.events.by_stream(), (new,), tuple(records))


def _by_event(nodes: list[NodeOutcome], count: int) -> list[tuple[Node, bytearray, list[EventError]]]:
    """Outcomes by the event of the chunk that they go back to. Of one that became several, a failure is told before a success."""
    found: dict[int, tuple[Node, bytearray, list[EventError]]] = {}
    for outcome in nodes:
        node, roots = outcome.node, outcome.rows.roots
        if isinstance(roots, range) and node.number not in found:
            found[node.number] = (node, outcome.outcomes, outcome.errors)
            continue
        _, outcomes, errors = found.setdefault(node.number, (node, bytearray(count), []))
        for i, of_row in enumerate(outcome.outcomes):
            if of_row and outcomes[roots[i]] not in _FAILED:
                outcomes[roots[i]] = of_row
        errors += [EventError(roots[e.index], e.error_type, e.message, e.stack_trace) for e in outcome.errors]
    return list(found.values())
