"""What a flow leaves in the data folder: snapshots, marks and what its workers printed; who holds them, and forgetting them."""

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from event_streaming_bus.errors import InUseError
from event_streaming_bus.flows.marks import stage_owner, window_owner
from event_streaming_bus.store.storage import Storage

WORKER_LOCK: Final = "worker-{}.lock"
"""The lock file that a worker holds while it runs, in the folder of the snapshots, by the worker's index."""


def snapshots_folder(storage: Storage, tenant_id: str, flow: str) -> Path:
    """Where Bytewax keeps the snapshots of a flow, and its workers their lock files."""
    return storage.folder / "recovery" / _folder_name(tenant_id) / _folder_name(flow)


def worker_log(storage: Storage, tenant_id: str, flow: str) -> Path:
    """The file that has what the workers of a flow printed in their present or latest run."""
    return storage.folder / "logs" / _folder_name(tenant_id) / f"{_folder_name(flow)}.log"


def _folder_name(name: str) -> str:
    """A name as one step of a path: a tenant may be called ``..`` or hold slashes, and must stay in its own folder."""
    quoted = quote(name, safe="")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


@contextmanager
def no_workers(storage: Storage, tenant_id: str, flow: str) -> Iterator[None]:
    """Inside, no worker of the flow runs, whichever process started it. ``InUseError`` if one does."""
    with ExitStack() as locks:
        for path in snapshots_folder(storage, tenant_id, flow).glob(WORKER_LOCK.format("*")):
            file = locks.enter_context(path.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUseError(f"The flow {flow} is running in another process; stop it there first.", flow=flow) from None
        yield


def forget(storage: Storage, tenant_id: str, flow: str, processor_names: Iterable[str]) -> None:
    """Forget how far the processors of a flow have come and what state they hold; the next run begins at the beginning.

    Call it inside ``no_workers``, with the names of all the processors of the flow.
    """
    for name in processor_names:
        storage.log.drop_marks(stage_owner(tenant_id, flow, name))
        storage.log.drop_marks(window_owner(tenant_id, flow, name))
    shutil.rmtree(snapshots_folder(storage, tenant_id, flow), ignore_errors=True)
