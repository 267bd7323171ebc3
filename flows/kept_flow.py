"""The flow as it last ran, as the catalog has it: what a changed one is compared with, and what is left of it afterwards."""

import msgspec

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.marks import stage_owner
from event_streaming_bus.flows.plan_diff import MADE_ANEW, Allowed, check_state
from event_streaming_bus.flows.recovery import forget, forget_processor, no_workers
from event_streaming_bus.flows.spec import FlowSpec, parse_flow
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.storage import Storage


def kept_flow(storage: Storage, tenant_id: str, flow: str) -> FlowSpec | None:
    """The processors of a flow as they were entered last; None if it has not read anything yet, and so has no state.

    Raises ``FlowError`` if the catalog holds what this version cannot read.
    """
    records = _records(storage, tenant_id, flow)
    if not records or not any(storage.log.marks(stage_owner(tenant_id, flow, _state_name(each))) for each in records):
        return None
    data = {"tenant_id": tenant_id, "processors": [msgspec.json.decode(record.config) for record in records]}
    try:
        return parse_flow(data, name=flow)
    except FlowError as error:
        raise FlowError(
            f"The flow {flow} as it last ran cannot be read by this version of the bus, so nobody knows what its state is worth; "
            f"esb run --from-start begins it anew.\n{error.message}",
            flow=flow,
        ) from error


def starts_anew(spec: FlowSpec, storage: Storage, allowed: Allowed) -> bool:
    """Whether the flow has to begin from the start, and may.

    Raises ``FlowError`` if running ``spec`` would drop or misread the state that the flow has, without leave. It must be called
    before the processors of ``spec`` are entered in the catalog.
    """
    if allowed.anything:
        return True
    steps = check_state(kept_flow(storage, spec.tenant_id, spec.name), spec, allowed)
    return any(step.verdict in MADE_ANEW for step in steps)


def settle_kept_flow(spec: FlowSpec, storage: Storage, *, anew: bool) -> None:
    """Make what is kept of the flow fit ``spec``: forget all state if it starts ``anew``; otherwise give renamed processors their
    new names in the catalog, and forget those that are gone, with their state.

    It is called before the new processors are entered: killed in between, the next run finds the old flow and does it again.
    Raises ``InUseError`` if there is something to do and the flow is running.
    """
    present = {processor.state_name: processor.processor_name for processor in spec.processors}
    records = _records(storage, spec.tenant_id, spec.name)
    changed = [record for record in records if present.get(_state_name(record)) != record.processor_name]
    if not changed and not anew:
        return
    with no_workers(storage, spec.tenant_id, spec.name):
        if anew:
            forget(storage, spec.tenant_id, spec.name, {_state_name(record) for record in records} | present.keys())
        for record in changed:
            name = present.get(_state_name(record))
            if name is not None:
                storage.catalog.rename_processor(spec.tenant_id, record.processor_id, name)
                continue
            forget_processor(storage, spec.tenant_id, spec.name, _state_name(record))
            storage.catalog.delete_processor(spec.tenant_id, record.processor_id)


def _records(storage: Storage, tenant_id: str, flow: str) -> list[ProcessorRecord]:
    return [record for record in storage.catalog.list_processors(tenant_id) if record.flow == flow]


def _state_name(record: ProcessorRecord) -> str:
    name = msgspec.json.decode(record.config).get("renamed_from")
    return name if isinstance(name, str) else record.processor_name
