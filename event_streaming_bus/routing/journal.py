"""What history is told of routing: for every rule and run of events one record."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from event_streaming_bus.models import SCHEDULED_OFFSET, ProcessingStage, Split
from event_streaming_bus.routing.compiled import Step
from event_streaming_bus.routing.router import Part, Routed, Trail
from event_streaming_bus.store.history_records import (
    DEAD,
    PASSED,
    EventError,
    HistoryRecord,
    Processed,
    Published,
    Refused,
    Run,
)
from event_streaming_bus.store.log.base import AppendResult


def records(
    routed: Routed, kept: AppendResult, parts: Sequence[AppendResult], published: Published, now_us: int
) -> Iterator[HistoryRecord]:
    """The records of events that were routed, but for the one of the publishing of those that stayed in their stream.

    ``kept`` and ``parts`` tell where ``routed.kept`` and ``routed.parts`` went; ``published`` is who published them.
    """
    yield from _steps(routed, kept, routed.trails, [None] * len(routed.trails), published.tenant_id)
    for part, result in zip(routed.parts, parts, strict=True):
        if not result.written:
            continue
        yield _arrived(routed, part, result, published, now_us)
        trails = [arrival.trail for arrival in part.arrivals]
        yield from _steps(routed, result, trails, [_failed(part, i) for i in range(len(trails))], published.tenant_id)


def _arrived(routed: Routed, part: Part, result: AppendResult, published: Published, now_us: int) -> HistoryRecord:
    """The publishing of a part's events; for those that its schema refused, that."""
    runs = runs_of(result)
    if part.refused_by is not None:
        return Refused(
            tenant_id=published.tenant_id,
            runs=runs,
            schema_id=part.guard.schema_id if part.guard is not None else "",
            schema_version=part.guard.schema_version if part.guard is not None else "",
            stream_id=part.refused_by,
            observed_us=now_us,
            count=sum(run.count for run in runs),
        )
    checked: dict[str, Any] = {}
    if part.guard is not None:
        checked = {
            "schema_id": part.guard.schema_id,
            "schema_version": part.guard.schema_version,
            "validation_started_us": routed.started_us,
            "validation_completed_us": routed.completed_us,
        }
    accepted_us = published.accepted_us
    return Published(tenant_id=published.tenant_id, runs=runs, accepted_us=accepted_us, appended_us=now_us, **checked)


def _failed(part: Part, index: int) -> tuple[str, str] | None:
    """Why the last rule of an event's trail failed; a refusal by a schema is no failure of the rule."""
    return part.arrivals[index].why if part.refused_by is None else None


def _steps(
    routed: Routed,
    result: AppendResult,
    trails: Sequence[Trail],
    failed: Sequence[tuple[str, str] | None],
    tenant_id: str,
) -> Iterator[Processed]:
    if not any(trails):
        return
    firsts = {split: (offset, count) for split, offset, count in result.written}
    outcomes: dict[tuple[Split, Step], bytearray] = {}
    errors: dict[tuple[Split, Step], list[EventError]] = {}
    for receipt, trail, why in zip(result.receipts(), trails, failed, strict=True):
        split, offset = receipt.position
        if receipt.duplicate or not trail or offset == SCHEDULED_OFFSET:
            continue
        first, count = firsts[split]
        for step in trail:
            if (split, step) not in outcomes:
                outcomes[split, step] = bytearray(count)
            outcomes[split, step][offset - first] = PASSED
        if why is not None:
            outcomes[split, trail[-1]][offset - first] = DEAD
            errors.setdefault((split, trail[-1]), []).append(EventError(offset - first, *why))
    for (split, step), seen in outcomes.items():
        # Only the stretch that the rule had to do with; one byte for all where all fared the same.
        begin, end = len(seen) - len(seen.lstrip(b"\0")), len(seen.rstrip(b"\0"))
        told = bytes(seen[begin:end])
        yield Processed(
            tenant_id=tenant_id,
            processor_id=f"route_{step.rule}",
            processor_name=str(step),
            stage=ProcessingStage.ROUTING.value,
            run=Run(split.stream_id, split.lane.value, split.partition, firsts[split][0] + begin, end - begin),
            started_us=routed.started_us,
            completed_us=routed.completed_us,
            outcomes=told[:1] if told.count(told[:1]) == len(told) else told,
            errors=[msgspec.structs.replace(error, index=error.index - begin) for error in errors.get((split, step), ())],
            output=_output(step),
        )


def _output(step: Step) -> str:
    told = {"rule": step.rule, "rule_version": step.version, "from_stream": step.stream, "to_streams": step.to}
    return msgspec.json.encode({**told, "moved": step.moved, "changed": step.changed}).decode()


def runs_of(result: AppendResult) -> list[Run]:
    """Where the events of an append went, as history has it."""
    return [Run(split.stream_id, split.lane.value, split.partition, offset, count) for split, offset, count in result.written]
