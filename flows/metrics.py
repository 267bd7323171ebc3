"""What a flow's processors have done so far, read from their marks: exact, and the same before and after a crash."""

import msgspec

from event_streaming_bus.flows.marks import (
    Counts,
    add_counts,
    load_stage_marks,
    load_window_marks,
    stage_owner,
    window_owner,
)
from event_streaming_bus.flows.plan import Node, Plan, Stage
from event_streaming_bus.store.storage import Storage


class ProcessorMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one processor over its whole life.

    ``events_in = events_passed + events_filtered + events_dead + events_skipped`` for FILTER and MAP, where ``events_passed``
    is also ``events_out``. For an AGGREGATE ``events_in = events_passed + events_late + events_dead + events_skipped +
    in_state``: ``events_passed`` are in windows that have closed, ``in_state`` in open ones, and ``events_out`` counts the
    windows written.
    """

    processor_id: str
    name: str
    events_in: int
    events_passed: int
    events_filtered: int
    events_late: int
    events_dead: int
    events_skipped: int
    events_out: int
    in_state: int
    processing_ns: int
    watermark_ms: int | None
    last_processed_at_ms: int | None


def flow_metrics(plan: Plan, storage: Storage) -> list[ProcessorMetrics]:
    """The metrics of every processor of a flow, stage by stage."""
    return [metrics for stage in plan.stages for metrics in _stage_metrics(plan, stage, storage)]


def progress(plan: Plan, storage: Storage) -> tuple[int, int]:
    """``(events done, events there)`` over the streams that the flow reads, a stream counted once for each stage."""
    done = total = 0
    for stage in plan.stages:
        marks = load_stage_marks(storage.log, stage_owner(plan.tenant_id, plan.name, stage.name))
        begins = storage.log.begin_offsets(stage.source.stream_id)
        for split, end in storage.log.end_offsets(stage.source.stream_id).items():
            total += end - begins[split]
            if str(split) in marks:
                done += max(0, marks[str(split)][1].offset - begins[split])
    return done, total


def _stage_metrics(plan: Plan, stage: Stage, storage: Storage) -> list[ProcessorMetrics]:
    marks = [m for _, m in load_stage_marks(storage.log, stage_owner(plan.tenant_id, plan.name, stage.name)).values()]
    updated_ms = max((mark.updated_at_ms for mark in marks), default=None)
    watermark_ms = max((mark.watermark_ms for mark in marks if mark.watermark_ms is not None), default=None)
    found = []

    def visit(node: Node, counted: dict[str, Counts]) -> None:
        counts = counted.get(node.processor_id, Counts())
        late = emitted = windows = dead_windows = 0
        if node.is_aggregate:
            owner = window_owner(plan.tenant_id, plan.name, node.name)
            groups = [m for _, m in load_window_marks(storage.log, owner).values()]
            late, emitted = sum(m.late for m in groups), sum(m.emitted for m in groups)
            windows, dead_windows = sum(m.windows for m in groups), sum(m.dead for m in groups)
            counted = {}
            for mark in groups:
                _add_all(counted, mark.counts)
        found.append(
            ProcessorMetrics(
                processor_id=node.processor_id,
                name=node.name,
                events_in=counts.events_in,
                events_passed=emitted if node.is_aggregate else counts.passed,
                events_filtered=counts.filtered,
                events_late=late,
                events_dead=counts.dead,
                events_skipped=counts.skipped,
                events_out=windows - dead_windows if node.is_aggregate else counts.passed,
                in_state=counts.passed - late - emitted if node.is_aggregate else 0,
                processing_ns=counts.processing_ns,
                watermark_ms=watermark_ms,
                last_processed_at_ms=updated_ms,
            )
        )
        for child in node.children:
            visit(child, counted)

    totals: dict[str, Counts] = {}
    for mark in marks:
        _add_all(totals, mark.counts)
    visit(stage.root, totals)
    return found


def _add_all(totals: dict[str, Counts], counts: dict[str, Counts]) -> None:
    for processor_id, each in counts.items():
        add_counts(totals, processor_id, each)
