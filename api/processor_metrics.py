"""What one processor has done so far, wherever it was declared: over REST by itself, or in a flow file with others."""

import asyncio
from typing import Any

import msgspec

from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import ProcessorNotFoundError
from event_streaming_bus.flows.metrics import flow_metrics, progress
from event_streaming_bus.flows.service import metrics_data
from event_streaming_bus.store.catalog import ProcessorRecord


async def processor_metrics(services: Services, processor_id: str, tenant_id: str) -> dict[str, Any]:
    """As ``StreamManagementService.get_processor_metrics`` has it, for processors of flow files too.

    The ``processing_rate`` of one that reads another's port is that of the streams which feed both. Raises
    ``ProcessorNotFoundError``, and ``StreamNotFoundError`` if a stream of its flow was dropped.
    """
    record = await asyncio.to_thread(services.storage.catalog.get_processor, tenant_id, processor_id)
    if record.flow == record.processor_id:
        return await services.processors.get_processor_metrics(processor_id, tenant_id)
    return await asyncio.to_thread(_of_flow, services, record)


def _of_flow(services: Services, record: ProcessorRecord) -> dict[str, Any]:
    storage, processor_id = services.storage, record.processor_id
    plan = services.flows.plan(record.flow, record.tenant_id)
    metrics = next((each for each in flow_metrics(plan, storage) if each.processor_id == processor_id), None)
    if metrics is None:
        raise ProcessorNotFoundError(
            f"The flow {record.flow} has no processor {record.processor_name} any more.", processor_id=processor_id
        )
    rate = services.flows.events_per_second(record.flow, record.tenant_id, processor_id)
    feeding = tuple(stage for stage in plan.stages if any(node.processor_id == processor_id for node in stage.nodes()))
    done, there = progress(msgspec.structs.replace(plan, stages=feeding or plan.stages), storage)
    share = round(100.0 * min(done, there) / there, 1) if there else 100.0
    return metrics_data(record, metrics, there, rate) | {"processing_rate": share}
