"""Whole flows under supervision: as single processors are, started again with backoff, and FAILED in a crash loop."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.supervisor import Patience, Supervised, Supervisor
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import Storage

FileOf: TypeAlias = Callable[[str, str], Path]
"""The file of the flow of a tenant with a name."""


class SupervisedFlow(Supervised):
    """A running flow; ``processor_id`` is its name."""

    def __init__(self, storage: Storage, tenant_id: str, name: str, file: Path) -> None:
        self._file = file
        super().__init__(storage, tenant_id, name)

    def planned(self) -> tuple[Plan, list[str]]:
        """The flow as its file is now, deployed."""
        return deploy(load_flow(self._file), self._storage), ["--flow", str(self._file)]


class FlowSupervisor(Supervisor):
    """Runs flows, each as worker processes of its own; the status of a flow is that of all its processors in the catalog."""

    thread_name = "esb-flow-supervisor"

    def __init__(self, storage: Storage, file_of: FileOf, patience: Patience | None = None) -> None:
        super().__init__(storage, patience)
        self._file_of = file_of

    def started(self, tenant_id: str, processor_id: str) -> Supervised:
        """The flow with this name, started."""
        return SupervisedFlow(self._storage, tenant_id, processor_id, self._file_of(tenant_id, processor_id))

    def closing_error(self, processor_id: str) -> InvalidStateError:
        """Why no flow is started any more."""
        return InvalidStateError("Flows are being stopped, and none is started any more.", flow=processor_id)

    def settle(self, tenant_id: str, name: str) -> None:
        """Note that a flow whose workers are gone is stopped."""
        self._set_status(tenant_id, name, ProcessorStatus.STOPPED)

    def _set_status(self, tenant_id: str, processor_id: str, status: ProcessorStatus, error: str | None = None) -> None:
        for record in self._storage.catalog.list_processors(tenant_id):
            if record.flow == processor_id != record.processor_id:
                self._storage.catalog.set_processor_status(tenant_id, record.processor_id, status, last_error=error)
