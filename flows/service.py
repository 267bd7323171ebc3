"""Managing stream processors: create, start, stop, look at. The same service is behind the REST API."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.flows.custom_functions import load_function
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics, progress
from event_streaming_bus.flows.plan import make_plan
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.recovery import forget, no_workers, worker_log
from event_streaming_bus.flows.runner import plan_of_processor
from event_streaming_bus.flows.spec import FlowSpec, parse_processor, to_data
from event_streaming_bus.flows.supervisor import Patience, Supervisor
from event_streaming_bus.models import DEFAULT_TENANT, ProcessorStatus, rfc3339
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.storage import Storage, open_storage

_log: Final = logging.getLogger(__name__)
STATE_STORE: Final = "bytewax snapshots (SQLite)"
STATE_STORE_REASON: Final = (
    "state is held in the workers' memory, and Bytewax writes it to SQLite files with each snapshot, so that a flow, its state "
    "and its output go on together after a crash; another store would have to be kept in step with them"
)
_HELD: Final = (ProcessorStatus.STARTING, ProcessorStatus.RUNNING, ProcessorStatus.STOPPING)


class StreamManagementService:
    """Creates processors and runs them as worker processes of this process. ``close`` stops them.

    A processor created here is a flow of one processor: it reads one stream and writes another.
    """

    def __init__(self, storage: Storage | None = None, patience: Patience | None = None) -> None:
        self._storage = storage or open_storage()
        self._supervisor = Supervisor(self._storage, patience)

    async def create_stream_processor(
        self, processor_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, user_id: str | None = None
    ) -> str:
        """Check a processor's configuration and keep it; returns its id. It is not started.

        Raises ``FlowError`` naming the place, ``StreamNotFoundError`` if its source or target does not exist, and
        ``AlreadyExistsError`` if the tenant has a processor of this name with another configuration.
        """
        return await asyncio.to_thread(self._create, processor_config, tenant_id, user_id)

    def _create(self, processor_config: Mapping[str, Any], tenant_id: str, user_id: str | None) -> str:
        spec = parse_processor(processor_config)
        if isinstance(spec.processing_logic, CustomLogic):
            load_function(spec.processing_logic, ("processor", "processing_logic"))
        # Planned before it is entered, under any name and id: what is refused must not be in the list.
        flow = FlowSpec(name=spec.processor_name, tenant_id=tenant_id, processors=(spec,))
        streams = {name: self._storage.log.find_stream(tenant_id, name) for name in flow.streams_used()}
        make_plan(flow, streams, {spec.processor_name: ""})
        config = msgspec.json.encode(to_data(spec)).decode()
        record = self._storage.catalog.create_processor(tenant_id, spec.processor_name, config, created_by=user_id)
        return record.processor_id

    async def start_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Start a processor. It goes on where it was when it last ran.

        Raises ``InvalidStateError`` if it runs already, or belongs to a flow file: ``esb run`` runs those, all at once.
        """
        await asyncio.to_thread(self._start, processor_id, tenant_id)

    def _start(self, processor_id: str, tenant_id: str) -> None:
        record = self._storage.catalog.get_processor(tenant_id, processor_id)
        if not _is_own_flow(record):
            raise InvalidStateError(
                f"The processor {record.processor_name} belongs to the flow {record.flow}; run the flow's file with esb run.",
                processor_id=processor_id,
            )
        self._supervisor.start(tenant_id, processor_id)

    async def stop_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Stop a processor: what it has read is processed and a snapshot taken; open windows stay open.

        Raises ``InvalidStateError`` if it does not run, and ``InUseError`` if another process runs it.
        """
        await asyncio.to_thread(self._stop, processor_id, tenant_id)

    def _stop(self, processor_id: str, tenant_id: str) -> None:
        record = self._storage.catalog.get_processor(tenant_id, processor_id)
        if self._supervisor.find(tenant_id, processor_id) is not None or not _was_left(record):
            self._supervisor.stop(tenant_id, processor_id)
            return
        with no_workers(self._storage, tenant_id, record.flow):
            self._settle(record)

    def _settle(self, record: ProcessorRecord) -> None:
        """It was left running, or being stopped, by a process that is gone, with its workers: it is stopped."""
        self._storage.catalog.set_processor_status(
            record.tenant_id, record.processor_id, ProcessorStatus.STOPPED, last_error=record.last_error
        )

    async def resume(self) -> list[str]:
        """Start every processor that was running when the last process closed; returns the ids of those that start.

        One that cannot be started is FAILED, with the error in the catalog, and the others start all the same. One that the
        last process was stopping when it was killed is STOPPED.
        """
        return await asyncio.to_thread(self._resume)

    def _resume(self) -> list[str]:
        started = []
        for record in self._storage.catalog.list_processors(None):
            if not _was_left(record) or self._supervisor.find(record.tenant_id, record.processor_id) is not None:
                continue
            if record.status is ProcessorStatus.STOPPING:
                self._settle(record)
                continue
            try:
                self._supervisor.start(record.tenant_id, record.processor_id)
            except Exception as error:  # it is FAILED in the catalog now; the others are not to suffer for it
                _log.error("processor %s could not be resumed: %s", record.processor_id, error)
            else:
                started.append(record.processor_id)
        return started

    async def get_processor_metrics(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """What the processor has done so far. Counts are exact and go over all its runs; the rate is of the last ten seconds.

        ``events_processed``: events taken in. ``events_passed``: those that came through (for one with state: those that are
        done with). ``events_filtered``: those filtered out. ``error_count``: those dead-lettered or skipped.
        ``processing_rate``: percent of the events in its source stream that are done. ``avg_processing_time_ms``: the time
        spent on an event, on average over its chunk.
        """
        return await asyncio.to_thread(self._metrics, processor_id, tenant_id)

    def _metrics(self, processor_id: str, tenant_id: str) -> dict[str, Any]:
        record = self._storage.catalog.get_processor(tenant_id, processor_id)
        supervised = self._supervisor.find(tenant_id, processor_id)
        plan = plan_of_processor(tenant_id, processor_id, self._storage) if supervised is None else supervised.plan
        metrics = flow_metrics(plan, self._storage)[0]
        there = progress(plan, self._storage)[1]
        rate = supervised.events_per_second(processor_id) if supervised is not None else 0.0
        return metrics_data(record, metrics, there, rate)

    async def get_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The processor's configuration and status."""
        return _record_data(await asyncio.to_thread(self._storage.catalog.get_processor, tenant_id, processor_id))

    async def list_stream_processors(self, tenant_id: str = DEFAULT_TENANT) -> list[dict[str, Any]]:
        """Configuration and status of every processor of the tenant, those of flow files included."""
        return [_record_data(r) for r in await asyncio.to_thread(self._storage.catalog.list_processors, tenant_id)]

    async def delete_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Forget a processor that does not run, how far it has come, and its state. Its streams stay.

        Of a processor of a flow file only the entry goes: the flow keeps its state, and its next run makes the entry again.
        Raises ``InvalidStateError`` if it runs here, and ``InUseError`` if it runs in another process.
        """
        await asyncio.to_thread(self._delete, processor_id, tenant_id)

    def _delete(self, processor_id: str, tenant_id: str) -> None:
        record = self._storage.catalog.get_processor(tenant_id, processor_id)
        with self._supervisor.not_running(tenant_id, processor_id), no_workers(self._storage, tenant_id, record.flow):
            # The entry goes first: without its state it would do all of its work again, without an entry it does none.
            self._storage.catalog.delete_processor(tenant_id, processor_id)
            if _is_own_flow(record):
                forget(self._storage, tenant_id, record.flow, [record.processor_name])
                worker_log(self._storage, tenant_id, record.flow).unlink(missing_ok=True)

    async def get_processor_logs(self, processor_id: str, tenant_id: str = DEFAULT_TENANT, *, tail: int = 100) -> list[str]:
        """The last lines that the processor's workers printed in their present or latest run."""
        return await asyncio.to_thread(self._logs, processor_id, tenant_id, tail)

    def _logs(self, processor_id: str, tenant_id: str, tail: int) -> list[str]:
        record = self._storage.catalog.get_processor(tenant_id, processor_id)
        path = worker_log(self._storage, tenant_id, record.flow)
        if not path.exists():
            return []
        with path.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=max(1, min(tail, 10_000)))]

    def close(self) -> None:
        """Stop all workers started here; ``resume`` starts them again."""
        self._supervisor.close()


def _is_own_flow(record: ProcessorRecord) -> bool:
    """Whether it was created by itself, not by a flow file."""
    return record.flow == record.processor_id


def _was_left(record: ProcessorRecord) -> bool:
    """Whether the catalog says that some service runs the processor, or is stopping it."""
    return _is_own_flow(record) and record.status in _HELD


def _record_data(record: ProcessorRecord) -> dict[str, Any]:
    config = msgspec.json.decode(record.config)
    data = {
        "processor_id": record.processor_id,
        "flow": record.flow,
        "status": record.status.value,
        **config,
        "created_by": record.created_by,
        "created_at": rfc3339(record.created_at_ms),
        "updated_at": rfc3339(record.updated_at_ms),
        "last_error": record.last_error,
    }
    requested = (config.get("state_store_config") or {}).get("store_type")
    if requested is not None:
        data["state_store"] = {"requested": requested, "used": STATE_STORE, "reason": STATE_STORE_REASON}
    return data


def metrics_data(record: ProcessorRecord, metrics: ProcessorMetrics, there: int, rate: float) -> dict[str, Any]:
    """As ``get_processor_metrics`` has it. ``there``: the events that its source has for it; ``rate``: events a second."""
    done = metrics.events_in
    last_ms = metrics.last_processed_at_ms
    return {
        "processor_id": record.processor_id,
        "processor_name": record.processor_name,
        "status": record.status.value,
        "events_processed": done,
        "events_per_second": round(rate, 1),
        "events_passed": metrics.events_passed,
        "events_filtered": metrics.events_filtered,
        "processing_rate": round(100.0 * min(done, there) / there, 1) if there else 100.0,
        "avg_processing_time_ms": round(metrics.processing_ns / done / 1e6, 6) if done else 0.0,
        "error_count": metrics.events_dead + metrics.events_skipped,
        "last_processed_at": None if last_ms is None else rfc3339(last_ms),
        "events_out": metrics.events_out,
        "events_late": metrics.events_late,
        "events_in_state": metrics.in_state,
        "watermark": None if metrics.watermark_ms is None else rfc3339(metrics.watermark_ms),
        "last_error": record.last_error,
    }
