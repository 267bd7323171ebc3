"""What the processors of a data folder have done, those of flow files included, in whatever process they run."""

from collections.abc import Iterable

import msgspec

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.kept_flow import kept_flow
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics
from event_streaming_bus.flows.plan import Plan, make_plan
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.monitoring.sample import ProcessorSample
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.storage import Storage


class Processors:
    """The processors of a data folder. For one thread at a time."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._plans: dict[tuple[str, str], tuple[bytes, Plan]] = {}

    def samples(self) -> list[ProcessorSample]:
        """All of them, oldest first. One whose flow has not read anything yet, or cannot be read any more, has only a status."""
        records = self._storage.catalog.list_processors(None)
        flows: dict[tuple[str, str], list[ProcessorRecord]] = {}
        for record in records:
            flows.setdefault((record.tenant_id, record.flow), []).append(record)
        counted: dict[str, ProcessorMetrics] = {}
        self._plans = {flow: plan for flow, plan in self._plans.items() if flow in flows}
        for (tenant_id, flow), members in flows.items():
            try:
                plan = self._plan(tenant_id, flow, members)
                metrics = [] if plan is None else flow_metrics(plan, self._storage)
            except BusError:
                continue
            counted |= {each.processor_id: each for each in metrics}
        return [_sample(record, counted.get(record.processor_id)) for record in records]

    def _plan(self, tenant_id: str, flow: str, members: Iterable[ProcessorRecord]) -> Plan | None:
        """The flow as it is in the catalog; nothing is made or changed for it."""
        written = msgspec.json.encode([(each.processor_id, each.processor_name, each.config) for each in members])
        known = self._plans.get((tenant_id, flow))
        if known is not None and known[0] == written:
            return known[1]
        spec = kept_flow(self._storage, tenant_id, flow)
        if spec is None:
            return None
        plan = _planned(spec, {each.processor_name: each.processor_id for each in members}, self._storage)
        self._plans[tenant_id, flow] = written, plan
        return plan


def _planned(spec: FlowSpec, processor_ids: dict[str, str], storage: Storage) -> Plan:
    names = {name for each in spec.processors for name in each.sources.values() if spec.port_of(name)[0] is None}
    names |= {each.target_stream_id for each in spec.processors if each.target_stream_id is not None}
    return make_plan(spec, {name: storage.log.find_stream(spec.tenant_id, name) for name in names}, processor_ids)


def _sample(record: ProcessorRecord, counted: ProcessorMetrics | None) -> ProcessorSample:
    flow = "" if record.flow == record.processor_id else record.flow
    bare = ProcessorSample(tenant_id=record.tenant_id, name=record.processor_name, flow=flow, status=record.status.value)
    if counted is None:
        return bare
    return msgspec.structs.replace(
        bare,
        events_in=counted.events_in,
        events_out=counted.events_out,
        outcomes={
            "passed": counted.events_passed,
            "filtered": counted.events_filtered,
            "late": counted.events_late,
            "dead": counted.events_dead,
            "skipped": counted.events_skipped,
        },
        held=counted.in_state,
        busy_seconds=counted.processing_ns / 1e9,
        watermark_ms=counted.watermark_ms,
    )
