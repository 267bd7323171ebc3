"""What a flow's processors have done so far, read from their marks: exact, and the same before and after a crash."""

from collections.abc import Iterator

import msgspec

from event_streaming_bus.flows.marks import (
    Counts,
    WindowMark,
    add_counts,
    load_stage_marks,
    load_window_marks,
    stage_owner,
    window_owner,
)
from event_streaming_bus.flows.plan import Node, Plan, Stage, walk
from event_streaming_bus.store.storage import Storage


class ProcessorMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one processor over its whole life, in events.

    ``events_in = events_passed + events_filtered + events_late + events_dead + events_skipped + in_state``. ``events_passed``
    came through, or went into some result; ``in_state`` are held and may still do so; ``events_late`` came too late for all of
    their windows. ``events_out`` counts what was given out: for FILTER and MAP that is ``events_passed``, but where an event
    becomes several.
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
    """The metrics of every processor of a flow, in the order of the flow file."""
    counted: dict[str, Counts] = {}
    times: dict[int, tuple[int | None, int | None]] = {}
    for stage in plan.stages:
        for node, watermark_ms, updated_ms, of_stage in _stage_metrics(plan, stage, storage):
            times[node.number] = (watermark_ms, updated_ms)
            if node.processor_id in of_stage:
                add_counts(counted, node.processor_id, of_stage[node.processor_id])
    states: dict[int, list[WindowMark]] = {}
    for node in plan.with_state():
        owner = window_owner(plan.tenant_id, plan.name, node.state_name)
        states[node.number] = marks = [mark for _, mark in load_window_marks(storage.log, owner).values()]
        for mark in marks:
            _add_all(counted, mark.counts)
        updated_ms = max((mark.updated_at_ms for mark in marks), default=None)
        for follower in (node, *walk(node.children, through_state=False), *walk(node.late_children, through_state=False)):
            watermark_ms, before_ms = times.get(follower.number, times[node.number])
            times[follower.number] = (watermark_ms, max((t for t in (before_ms, updated_ms) if t is not None), default=None))
    return [
        _metrics(node, counted.get(node.processor_id, Counts()), states.get(node.number), *times[node.number])
        for node in plan.nodes()
    ]


def _metrics(
    node: Node, counts: Counts, state: list[WindowMark] | None, watermark_ms: int | None, updated_ms: int | None
) -> ProcessorMetrics:
    marks = state or []
    late, released, filtered = (sum(getattr(m, name) for m in marks) for name in ("late", "released", "filtered"))
    dead, skipped = (sum(getattr(m, name) for m in marks) for name in ("dead", "skipped"))
    return ProcessorMetrics(
        processor_id=node.processor_id,
        name=node.name,
        events_in=counts.events_in,
        events_passed=counts.passed if state is None else released,
        events_filtered=counts.filtered + filtered,
        events_late=late,
        events_dead=counts.dead + dead,
        events_skipped=counts.skipped + skipped,
        events_out=counts.out if state is None else sum(m.out for m in marks),
        in_state=0 if state is None else counts.passed - late - released - filtered - dead - skipped,
        processing_ns=counts.processing_ns,
        watermark_ms=watermark_ms,
        last_processed_at_ms=updated_ms,
    )


def progress(plan: Plan, storage: Storage) -> tuple[int, int]:
    """``(events done, events there)`` over the streams that the flow reads, a stream counted once for each stage."""
    done = total = 0
    for stage in plan.stages:
        marks = load_stage_marks(storage.log, stage_owner(plan.tenant_id, plan.name, stage.name))
        begins = storage.log.begin_offsets(stage.source.stream_id)
        for split, end in storage.log.end_offsets(stage.source.stream_id).items():
            total += end - begins.get(split, 0)
            if str(split) in marks:
                done += max(0, marks[str(split)][1].offset - begins.get(split, 0))
    return done, total


def _stage_metrics(
    plan: Plan, stage: Stage, storage: Storage
) -> Iterator[tuple[Node, int | None, int | None, dict[str, Counts]]]:
    """Of each processor that runs in the stage: its watermark, when it last did something, and what the stage counted."""
    marks = [m for _, m in load_stage_marks(storage.log, stage_owner(plan.tenant_id, plan.name, stage.name)).values()]
    updated_ms = max((mark.updated_at_ms for mark in marks), default=None)
    watermark_ms = max((mark.watermark_ms for mark in marks if mark.watermark_ms is not None), default=None)
    counted: dict[str, Counts] = {}
    for mark in marks:
        _add_all(counted, mark.counts)
    for node in stage.nodes():
        yield node, watermark_ms, updated_ms, counted


def _add_all(totals: dict[str, Counts], counts: dict[str, Counts]) -> None:
    for processor_id, each in counts.items():
        add_counts(totals, processor_id, each)
