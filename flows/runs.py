"""Runs of processors, recorded in the history."""

import time

from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.history_records import ProcessorRun, to_event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage


def record_run(
    storage: Storage, plan: Plan, run_id: str, status: ProcessorStatus, workers: int, *, error: str | None = None
) -> None:
    """Record that a run of the flow's processors has got to ``status``, with the counts of the processors as they are now."""
    now_us = time.time_ns() // 1000
    records = [
        ProcessorRun(
            tenant_id=plan.tenant_id,
            run_id=run_id,
            processor_id=metrics.processor_id,
            processor_name=metrics.name,
            flow=plan.name,
            status=status.value,
            workers=workers,
            observed_us=now_us,
            events_in=metrics.events_in,
            events_out=metrics.events_out,
            events_filtered=metrics.events_filtered,
            events_late=metrics.events_late,
            events_dead=metrics.events_dead,
            error=error,
        )
        for metrics in flow_metrics(plan, storage)
    ]
    storage.log.append([Append(storage.history().stream_id, [to_event(record) for record in records], new_ids=True)])
