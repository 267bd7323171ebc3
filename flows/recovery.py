"""What a flow leaves in the data folder: snapshots, marks and what its workers printed; who holds them, and forgetting them."""

import fcntl
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from event_streaming_bus.errors import CorruptLogError, InUseError, StorageError
from event_streaming_bus.flows.marks import stage_owner, window_owner
from event_streaming_bus.flows.plan import SIDES, stage_name
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

    Call it inside ``no_workers``, with the names of all the processors of the flow. Killed on the way, it leaves a flow that
    writes nothing twice: the snapshots go at once, and before the marks.
    """
    folder = snapshots_folder(storage, tenant_id, flow)
    gone = folder.with_name(f".{folder.name}.gone")  # no flow's: the folder of one whose name begins with a dot does not
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    for name in processor_names:
        _drop_marks(storage, tenant_id, flow, name)


def forget_processor(storage: Storage, tenant_id: str, flow: str, state_name: str) -> None:
    """Forget how far one processor of a flow has come and what state it holds; the others go on where they were.

    Call it inside ``no_workers``. Without it, a processor that is entered again under the name would go on with what the old
    one left.
    """
    for path in snapshots_folder(storage, tenant_id, flow).glob("part-*.sqlite3"):
        # Bytewax has no way to drop the snapshots of a step that is gone. Its steps are named by flow and processor.
        step = f"{flow}.{state_name}:"
        try:
            with closing(sqlite3.connect(path)) as snapshots, snapshots:
                snapshots.execute("DELETE FROM snaps WHERE substr(step_id, 1, ?) = ?", (len(step), step))
        except sqlite3.Error as error:
            raise StorageError(f"{path}: the snapshots of {state_name} cannot be dropped: {error}") from error
    _drop_marks(storage, tenant_id, flow, state_name)


def damaged_snapshots(folder: Path) -> CorruptLogError | None:
    """The error that names the first of a flow's files of snapshots that SQLite finds damaged; Bytewax's own names none."""
    for path in sorted(folder.glob("part-*.sqlite3")):
        try:
            with closing(sqlite3.connect(path)) as snapshots:
                (told,) = snapshots.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            told = str(error)
        if told != "ok":
            return CorruptLogError(
                f"{path} is damaged: {told}. Restore the data folder from a backup, or begin the flow anew with esb run "
                "--from-start, which writes all of its output again.",
                path=str(path),
            )
    return None


def _drop_marks(storage: Storage, tenant_id: str, flow: str, state_name: str) -> None:
    for side in SIDES:
        storage.log.drop_marks(stage_owner(tenant_id, flow, stage_name(state_name, side)))
    storage.log.drop_marks(window_owner(tenant_id, flow, state_name))
