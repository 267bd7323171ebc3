"""The worker processes of one running flow, started, watched and stopped together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from event_streaming_bus.flows.growth import partitions_of
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.recovery import worker_log
from event_streaming_bus.flows.runner import ends_to_json
from event_streaming_bus.flows.worker import STORAGE_URL, prepare_recovery
from event_streaming_bus.models import Split
from event_streaming_bus.store.storage import Storage

DEFAULT_SNAPSHOT_INTERVAL_MS: Final = 1000
_LOG_TAIL_BYTES: Final = 8192
_STOP_POLL_S: Final = 0.02


class Place(msgspec.Struct, frozen=True):
    """Where the workers of this host are in a cluster of several hosts: the addresses of all workers, and the number of the first
    one here. The recovery partitions of this host have been made."""

    addresses: Sequence[str]
    first: int


class WorkerGroup:
    """The workers of one flow: one process each, joined to a Bytewax cluster if there are several. They read as many partitions
    as the plan says, and all end by themselves, as asked, when a source stream has more.

    ``target`` names the flow to the worker: ``["--flow", FILE]`` or ``["--processor", TENANT, ID]``. What workers print goes to
    ``log_path``, which is started anew with each group. With a ``place``, the other workers of the cluster are on other hosts.
    """

    def __init__(
        self,
        storage: Storage,
        plan: Plan,
        target: Sequence[str],
        *,
        workers: int,
        until: Mapping[str, Mapping[Split, int]] | None = None,
        snapshot_interval_ms: int = DEFAULT_SNAPSHOT_INTERVAL_MS,
        place: Place | None = None,
    ) -> None:
        self.workers = workers
        self.log_path = worker_log(storage, plan.tenant_id, plan.name)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._failed: int | None = None
        if place is None:
            prepare_recovery(storage, plan)
            place = Place([f"127.0.0.1:{port}" for port in _free_ports(workers)] if workers > 1 else [], 0)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "event_streaming_bus.flows.worker"),
            *("--data", str(storage.folder), *target, "--parent", str(os.getpid())),
            *("--partitions", msgspec.json.encode(partitions_of(plan)).decode()),
            *("--snapshot-interval-ms", str(snapshot_interval_ms), "--addresses", ";".join(place.addresses)),
            *(("--until", ends_to_json(until)) if until is not None else ()),
        ]
        try:
            with self.log_path.open("wb") as log:
                for index in range(place.first, place.first + workers):
                    self._processes.append(self._start([*command, "--index", str(index)], log, storage.url))
        except BaseException:
            self.kill()  # the workers that did start would wait for the others for ever
            raise

    @staticmethod
    def _start(command: list[str], log: IO[bytes], url: str) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C in a terminal reaches the parent alone, which stops the workers in order.
        return subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, STORAGE_URL: url},  # not on the command line, which anybody may read: it may hold a password
        )

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes]

    def exit_code(self) -> int | None:
        """``None`` while they run; 0 when all have ended as asked; else the first failure, after the others were ended."""
        codes = [process.poll() for process in self._processes]
        failed = next((code for code in codes if code not in (None, 0)), None)
        if failed is not None:
            if self._failed is None:
                self._failed = failed
            self.kill()
            return self._failed
        return 0 if all(code == 0 for code in codes) else None

    def stop(self, timeout_s: float) -> int:
        """Ask the workers to end (what was read is processed, a snapshot taken); kill those that do not in time."""
        self.ask_to_end()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            codes = [process.poll() for process in self._processes]
            # One that was asked before it could listen, or that failed, leaves the others waiting for it for ever.
            if None not in codes or any(code not in (None, 0) for code in codes):
                break
            time.sleep(_STOP_POLL_S)
        self.kill()
        return max(abs(int(process.returncode)) for process in self._processes)

    def ask_to_end(self) -> None:
        """Ask the workers to end in good order, without waiting for it."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the workers at once, as a crash would."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def last_error(self) -> str:
        """The last thing a worker said of its failure; for one that was killed, by which signal."""
        if self._failed is not None and self._failed < 0:
            return f"a worker was ended from outside by {_signal_name(-self._failed)}"
        return last_error(self.log_path)


def last_error(log_path: Path) -> str:
    """The last line of ours in a worker's log, or its last line at all."""
    try:
        with log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return "the worker left no log"
    ours = [line.removeprefix("esb: ") for line in lines if line.startswith("esb: ")]
    return (ours or lines or ["the worker ended without a word"])[-1]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
