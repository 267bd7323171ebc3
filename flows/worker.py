"""One worker process of a flow: ``python -m event_streaming_bus.flows.worker``. Started by ``WorkerGroup``.

It ends by itself when its parent dies, so that no orphan goes on writing, and holds a lock file, so that a flow never runs
twice at a time.
"""

import argparse
import fcntl
import gc
import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import IO, Final

import msgspec
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from event_streaming_bus.errors import BusError, InUseError, cause_of
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.custom_functions import import_from_working_folder
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.growth import with_partitions
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.recovery import WORKER_LOCK, damaged_snapshots, snapshots_folder
from event_streaming_bus.flows.retries import Stopped
from event_streaming_bus.flows.runner import (
    ends_from_json,
    plan_of_processor,
    stop_on_signals,
    stopping,
)
from event_streaming_bus.flows.sink import failure
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.store.storage import Storage, open_storage

STORAGE_URL: Final = "ESB_WORKER_STORAGE"
"""What opens the storage of the process that started the worker, if that is more than ``--data``."""
EXIT_ERROR: Final = 1
RECOVERY_PARTITIONS: Final = 4
_PARTS: Final = "part-*.sqlite3"
_PREPARING: Final = "preparing"
_PARENT_POLL_S: Final = 0.25
_LOCK_PATIENCE_S: Final = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run one worker until its flow ends; 0 if it ended as asked, 1 (with a line on stderr) if it failed."""
    options = _parser().parse_args(arguments)
    _die_with(options.parent)
    stop_on_signals()
    import_from_working_folder()
    folder: Path | None = None
    try:
        storage = open_storage(os.environ.get(STORAGE_URL) or options.data)
        plan = with_partitions(_plan(options, storage), msgspec.json.decode(options.partitions, type=dict[str, int]))
        folder = snapshots_folder(storage, plan.tenant_id, plan.name)
        with _lock(folder, options.index):
            until = ends_from_json(options.until) if options.until else None
            flow = build(plan, storage, until=until, stopping=stopping, is_alone=not options.addresses)
            _spare_the_collector()
            cli_main(
                flow,
                workers_per_process=1,
                process_id=options.index if options.addresses else None,
                addresses=options.addresses.split(";") if options.addresses else None,
                epoch_interval=timedelta(milliseconds=options.snapshot_interval_ms),
                recovery_config=RecoveryConfig(str(folder), timedelta(0)),
            )
        storage.close()
    except BusError as error:
        sys.stderr.write(f"esb: {error.message}\n")
        return EXIT_ERROR
    except BaseException as error:  # Bytewax wraps what a step raised; the cause says it best
        if cause_of(error, Stopped) is not None:
            return 0  # asked to stop while something waited to be tried again: that is done after the next start
        cause = cause_of(error, BusError) or failure() or (None if folder is None else damaged_snapshots(folder))
        if cause is None:
            raise
        sys.stderr.write(f"esb: {cause.message}\n")
        return EXIT_ERROR
    return 0


def _spare_the_collector() -> None:
    """Let Python's garbage collector look for cycles seldom: events are made by the hundred thousand, and are in none."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def prepare_recovery(storage: Storage, plan: Plan) -> Path:
    """The flow's recovery folder, made if it is missing. Call it before workers start, once.

    Killed on the way, it is made anew by the next call: while ``preparing`` is there, no worker has begun.
    """
    folder = snapshots_folder(storage, plan.tenant_id, plan.name)
    preparing = folder / _PREPARING
    if preparing.exists() or not any(folder.glob(_PARTS)):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{_PREPARING}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if preparing.exists() or not any(folder.glob(_PARTS)):  # else another process was faster
                _make_partitions(folder, preparing)
    return folder


def _make_partitions(folder: Path, preparing: Path) -> None:
    preparing.mkdir(exist_ok=True)  # first, so that what is there from now on is known to be in the making
    for path in (*preparing.iterdir(), *folder.glob(f"{_PARTS}*")):
        path.unlink()
    init_db_dir(preparing, RECOVERY_PARTITIONS)
    for path in preparing.iterdir():
        fault_point("recovery.prepared")
        path.replace(folder / path.name)
    preparing.rmdir()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m event_streaming_bus.flows.worker")
    parser.add_argument("--data", required=True)
    parser.add_argument("--flow", help="a flow file")
    parser.add_argument("--processor", nargs=2, metavar=("TENANT", "PROCESSOR_ID"))
    parser.add_argument("--processor-ids", default="", help="JSON of the ids of the flow's processors by name, if not those here")
    parser.add_argument("--partitions", default="{}", help="JSON of how many partitions to read, by stream id")
    parser.add_argument("--until", default="", help="JSON of the offsets to stop at; without it the streams are followed")
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--addresses", default="", help="host:port of every worker, by ';'")
    parser.add_argument("--snapshot-interval-ms", type=int, default=1000)
    parser.add_argument("--parent", type=int, required=True, help="the process to die with")
    return parser


def _plan(options: argparse.Namespace, storage: Storage) -> Plan:
    if options.flow:
        processor_ids = msgspec.json.decode(options.processor_ids, type=dict[str, str]) if options.processor_ids else {}
        return deploy(load_flow(options.flow), storage, processor_ids=processor_ids)
    tenant_id, processor_id = options.processor
    return plan_of_processor(tenant_id, processor_id, storage)


def _die_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(EXIT_ERROR)

    threading.Thread(target=watch, name="esb-parent-watch", daemon=True).start()


def _lock(folder: Path, index: int) -> IO[str]:
    """The worker's lock file, locked. A worker whose parent was killed lets go within a moment, so wait a little."""
    file = (folder / WORKER_LOCK.format(index)).open("w")
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise InUseError(f"The flow {folder.name} is running already; stop it first.") from None
            time.sleep(_PARENT_POLL_S)
        else:
            return file


if __name__ == "__main__":
    sys.exit(main())
