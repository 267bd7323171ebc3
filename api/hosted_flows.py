"""The flows that a server has: applied over REST, kept in the data folder, and run as worker processes of the server.

Each is kept as a flow file of its own, which its workers read. What the catalog has of it are its processors, whose status is
that of the flow. Flows that ``esb run`` alone has run are there too, as far as the catalog knows them.
"""

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
import xxhash

from event_streaming_bus import ids
from event_streaming_bus.api.supervised_flows import FlowSupervisor
from event_streaming_bus.errors import AlreadyExistsError, FlowError, InvalidStateError, NotFoundError
from event_streaming_bus.flows.custom_functions import load_function
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES
from event_streaming_bus.flows.kept_flow import kept_flow
from event_streaming_bus.flows.metrics import ProcessorMetrics, flow_metrics
from event_streaming_bus.flows.plan import Plan, make_plan
from event_streaming_bus.flows.plan_diff import Allowed, Step, diff
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.recovery import forget, no_workers, worker_log
from event_streaming_bus.flows.spec import FlowSpec, load_flow, parse_flow, to_data
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.storage import Storage

_log: Final = logging.getLogger(__name__)
_HELD: Final = (ProcessorStatus.STARTING, ProcessorStatus.RUNNING, ProcessorStatus.STOPPING)
_MAX_LOG_LINES: Final = 10_000


class FlowNotFoundError(NotFoundError):
    """The flow does not exist."""


class Applied(StrEnum):
    """What applying a flow came to."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class KnownFlow(NamedTuple):
    """A flow as it is. ``is_applied``: it was applied over REST; of others the catalog knows the processors alone."""

    spec: FlowSpec
    is_applied: bool
    processors: Sequence[ProcessorRecord]

    @property
    def status(self) -> ProcessorStatus:
        return self.processors[0].status if self.processors else ProcessorStatus.CREATED


class HostedFlows:
    """Applies, starts, stops and forgets flows. ``close`` stops those that run; ``resume`` starts them again."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._supervisor = FlowSupervisor(storage, self._file)
        self._changing = threading.RLock()

    # --- what there is ------------------------------------------------------------------------------------------------

    def list_flows(self, tenant_id: str) -> list[KnownFlow]:
        """The tenant's flows, by name."""
        names = {file.stem for file in self._folder(tenant_id).glob("*.json")} | self._records(tenant_id).keys()
        return [self.find(name, tenant_id) for name in sorted(names)]

    def find(self, name: str, tenant_id: str) -> KnownFlow:
        """One flow. Raises ``FlowNotFoundError``."""
        records = self._records(tenant_id).get(name, [])
        spec = self._applied(name, tenant_id)
        if spec is not None:
            order = [processor.processor_name for processor in spec.processors]
            of_flow = [record for record in records if record.processor_name in order]
            return KnownFlow(spec, True, sorted(of_flow, key=lambda record: order.index(record.processor_name)))
        if not records:
            raise FlowNotFoundError(f"There is no flow '{name[:200]}'.", flow=name)
        data = {"tenant_id": tenant_id, "processors": [msgspec.json.decode(record.config) for record in records]}
        return KnownFlow(parse_flow(data, name=name), False, records)

    def compare(self, new: FlowSpec, old: FlowSpec | None) -> list[Step] | None:
        """What becomes of the state of each processor if ``new`` takes the place of ``old``, or of the flow as it last ran; None
        if it has not run yet."""
        before = old or kept_flow(self._storage, new.tenant_id, new.name)
        return None if before is None else diff(before, new)

    def metrics(self, name: str, tenant_id: str) -> list[ProcessorMetrics]:
        """What the flow's processors have done so far. Raises ``StreamNotFoundError`` if one of its streams was dropped."""
        return flow_metrics(self.plan(name, tenant_id), self._storage)

    def plan(self, name: str, tenant_id: str) -> Plan:
        """The flow as it would run. Raises ``StreamNotFoundError`` if one of its streams was dropped."""
        known = self.find(name, tenant_id)
        spec = known.spec
        streams = {each: self._storage.log.find_stream(tenant_id, each) for each in spec.streams_used()}
        return make_plan(spec, streams, {record.processor_name: record.processor_id for record in known.processors})

    def events_per_second(self, name: str, tenant_id: str, processor_id: str) -> float:
        """Events that a processor of the flow has taken in per second, over the last ten seconds; 0 if it does not run here."""
        running = self._supervisor.find(tenant_id, name)
        return 0.0 if running is None else running.events_per_second(processor_id)

    def logs(self, name: str, tenant_id: str, tail: int) -> list[str]:
        """The last lines that the flow's workers printed in their present or latest run."""
        path = worker_log(self._storage, tenant_id, self.find(name, tenant_id).spec.name)
        if not path.exists():
            return []
        with path.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=max(1, min(tail, _MAX_LOG_LINES)))]

    # --- its life -----------------------------------------------------------------------------------------------------

    def apply(self, spec: FlowSpec, allowed: Allowed) -> Applied:
        """Make what a flow declares, and keep it. Applying it again changes nothing; it is not started.

        Raises ``FlowError`` for a flow that cannot be, or that would drop or misread state without leave,
        ``InvalidStateError`` if another version of it runs here, and what deploying raises.
        """
        check_functions(spec)
        data = msgspec.json.encode(to_data(spec))
        if len(data) > MAX_FILE_BYTES:
            raise FlowError(f"a flow has at most {MAX_FILE_BYTES:,} bytes as JSON, got {len(data):,}", errors=[], count=0)
        with self._changing:
            self._check_name(spec)
            before = self._applied(spec.name, spec.tenant_id)
            is_running = self._supervisor.find(spec.tenant_id, spec.name) is not None
            if before == spec and is_running:
                return Applied.UNCHANGED
            if is_running:
                raise InvalidStateError(f"The flow {spec.name} is running; stop it before it changes.", flow=spec.name)
            deploy(spec, self._storage, allowed)
            if before == spec:
                return Applied.UNCHANGED
            self._keep(spec, data)
            return Applied.CREATED if before is None else Applied.CHANGED

    def start(self, name: str, tenant_id: str) -> None:
        """Start a flow where it last stopped. Raises ``FlowNotFoundError``, ``InvalidStateError`` if it runs already, and
        ``InUseError`` if another process runs it."""
        with self._changing:
            known = self.find(name, tenant_id)
            if self._supervisor.find(tenant_id, name) is not None:
                raise InvalidStateError(f"The flow {name} is running already.", flow=name)
            check_functions(known.spec)
            if not known.is_applied:
                self._keep(known.spec, msgspec.json.encode(to_data(known.spec)))
            with no_workers(self._storage, tenant_id, name):
                pass
            self._supervisor.start(tenant_id, name)

    def stop(self, name: str, tenant_id: str) -> None:
        """Stop a flow in good order. Raises ``FlowNotFoundError``, ``InvalidStateError`` if it does not run, and ``InUseError``
        if another process runs it."""
        known = self.find(name, tenant_id)
        if self._supervisor.find(tenant_id, name) is not None:
            self._supervisor.stop(tenant_id, name)
            return
        with no_workers(self._storage, tenant_id, name):
            if known.status not in _HELD:
                raise InvalidStateError(f"The flow {name} is not running.", flow=name)
            self._supervisor.settle(tenant_id, name)

    def delete(self, name: str, tenant_id: str) -> None:
        """Forget a flow that does not run, how far it has come, and its state; its streams and schemas stay. Raises
        ``FlowNotFoundError``, ``InvalidStateError`` if it runs here, and ``InUseError`` if another process runs it."""
        with self._changing:
            known = self.find(name, tenant_id)
            if self._supervisor.find(tenant_id, name) is not None:
                raise InvalidStateError(f"The flow {name} is running; stop it first.", flow=name)
            with no_workers(self._storage, tenant_id, name):
                self._file(tenant_id, name).unlink(missing_ok=True)
                state_names = [processor.state_name for processor in known.spec.processors]
                # The entries go first: without its state the flow would do all of its work again, without them it does none.
                for record in self._records(tenant_id).get(name, []):
                    self._storage.catalog.delete_processor(tenant_id, record.processor_id)
                forget(self._storage, tenant_id, name, state_names)
                worker_log(self._storage, tenant_id, name).unlink(missing_ok=True)

    async def resume(self) -> None:
        """Start the flows that ran when the last server closed. One that cannot be started is FAILED, and the others start."""
        await asyncio.to_thread(self._resume)

    def _resume(self) -> None:
        left = {
            (record.tenant_id, record.flow): record.status
            for record in self._storage.catalog.list_processors(None)
            if record.flow != record.processor_id and record.status in _HELD
        }
        for (tenant_id, name), status in left.items():
            if self._applied(name, tenant_id) is None:
                continue
            if status is ProcessorStatus.STOPPING:
                self._supervisor.settle(tenant_id, name)
                continue
            try:
                self._supervisor.start(tenant_id, name)
            except Exception as error:  # it is FAILED in the catalog now; the others are not to suffer for it
                _log.error("flow %s could not be resumed: %s", name, error)

    def close(self) -> None:
        """Stop all workers started here."""
        self._supervisor.close()

    # --- where it is kept ---------------------------------------------------------------------------------------------

    def _folder(self, tenant_id: str) -> Path:
        plain = quote(tenant_id, safe="").replace(".", "%2E")
        named = plain if len(plain) <= 100 else f"%{xxhash.xxh3_128_hexdigest(tenant_id.encode())}"
        return self._storage.folder / "flows" / named

    def _file(self, tenant_id: str, name: str) -> Path:
        return self._folder(tenant_id) / f"{name}.json"

    def _applied(self, name: str, tenant_id: str) -> FlowSpec | None:
        if "/" in name or "\0" in name or len(name) > 100:
            return None
        file = self._file(tenant_id, name)
        return load_flow(file) if file.exists() else None

    def _keep(self, spec: FlowSpec, data: bytes) -> None:
        file = self._file(spec.tenant_id, spec.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        written = file.with_name(f"{file.name}.{ids.new_id('')}")
        with written.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        written.replace(file)

    def _records(self, tenant_id: str) -> dict[str, list[ProcessorRecord]]:
        found: dict[str, list[ProcessorRecord]] = {}
        for record in self._storage.catalog.list_processors(tenant_id):
            if record.flow != record.processor_id:
                found.setdefault(record.flow, []).append(record)
        return found

    def _check_name(self, spec: FlowSpec) -> None:
        """A processor that was created by itself is a flow by the name of its id."""
        for record in self._storage.catalog.list_processors(spec.tenant_id):
            if record.processor_id == spec.name:
                raise AlreadyExistsError(f"{spec.name} is the id of a processor; give the flow another name", flow=spec.name)


def check_functions(spec: FlowSpec) -> None:
    """Raise ``FlowError`` for a function of a CUSTOM processor that the server does not allow."""
    for number, processor in enumerate(spec.processors):
        if isinstance(processor.processing_logic, CustomLogic):
            load_function(processor.processing_logic, ("processors", number, "processing_logic"))


def flow_data(known: KnownFlow) -> dict[str, Any]:
    """A flow as answers show it."""
    last_error = next((record.last_error for record in known.processors if record.last_error), None)
    return {
        "name": known.spec.name,
        "description": known.spec.description,
        "status": known.status.value,
        "is_applied": known.is_applied,
        "last_error": last_error,
        "processors": [
            {"processor_id": record.processor_id, "processor_name": record.processor_name} for record in known.processors
        ],
    }
