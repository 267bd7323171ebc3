"""Whole flows under supervision: as single processors are, started again with backoff, and FAILED in a crash loop."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runs import record_run
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.supervisor import Patience, Supervised, Supervisor
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import Storage

FileOf: TypeAlias = Callable[[str, str], Path]
"""The file of the flow of a tenant with a name."""


class SupervisedFlow(Supervised):
    """A running flow; ``processor_id`` is its name."""

    def __init__(self, storage: Storage, tenant_id: str, name: str, file: Path) -> None:
        self._file = file
        super().__init__(storage, tenant_id, name)

    def start(self) -> None:
        """Deploy the flow as its file is now and start its workers. Where this raises, no worker is left behind."""
        plan = deploy(load_flow(self._file), self._storage)
        run_id = ids.new_id(ids.RUN)
        workers = WorkerGroup(self._storage, plan, ["--flow", str(self._file)], workers=plan.parallelism)
        try:
            record_run(self._storage, plan, run_id, ProcessorStatus.RUNNING, workers.workers)
        except BaseException:
            workers.kill()
            raise
        self.plan, self.run_id, self.workers = plan, run_id, workers
        self.started_at_s = time.monotonic()
        self.restart_at_s = None


class FlowSupervisor(Supervisor):
    """Runs flows, each as worker processes of its own; the status of a flow is that of all its processors in the catalog."""

    def __init__(self, storage: Storage, file_of: FileOf, patience: Patience | None = None) -> None:
        super().__init__(storage, patience)
        self._file_of = file_of

    def start(self, tenant_id: str, processor_id: str) -> None:
        """Start a flow by its name. ``InvalidStateError`` if it runs already. If it cannot be started it is FAILED."""
        name = processor_id
        with self.not_running(tenant_id, name):
            if self._closing.is_set():
                raise InvalidStateError("Flows are being stopped, and none is started any more.", flow=name)
            self._set_status(tenant_id, name, ProcessorStatus.STARTING)
            try:
                file = self._file_of(tenant_id, name)
                self._running[tenant_id, name] = SupervisedFlow(self._storage, tenant_id, name, file)
            except Exception as error:
                self._set_status(tenant_id, name, ProcessorStatus.FAILED, str(error))
                raise
            self._set_status(tenant_id, name, ProcessorStatus.RUNNING)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="esb-flow-supervisor", daemon=True)
                self._thread.start()

    def settle(self, tenant_id: str, name: str) -> None:
        """Note that a flow whose workers are gone is stopped."""
        self._set_status(tenant_id, name, ProcessorStatus.STOPPED)

    def _set_status(self, tenant_id: str, processor_id: str, status: ProcessorStatus, error: str | None = None) -> None:
        for record in self._storage.catalog.list_processors(tenant_id):
            if record.flow == processor_id != record.processor_id:
                self._storage.catalog.set_processor_status(tenant_id, record.processor_id, status, last_error=error)
