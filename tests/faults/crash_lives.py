"""One life of a process in the crash matrix: forked from a process that has loaded everything, with one fault on its way.

What a life has been told to be done it notes at once, one JSON list a line, in a file that all lives of a case append to: a
killed life's notes are whole but for the last line. The fault ends it, or fails it, or it comes to its end.
"""

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from crash_shim import DiskFault, Shim

from event_streaming_bus.errors import StorageError
from event_streaming_bus.fault_points import DONE, KILL, arm, passed

PATIENCE_S: Final = 60.0
"""A life that takes longer hangs."""
TRIES: Final = 6
_SHIM: Final = Shim()
T = TypeVar("T")


class Crash(NamedTuple):
    """A fault for one life, of three kinds: at a point (``what`` is its name, ``how`` the action), on the disk (``what`` is in
    the path of the files, ``how`` names the ``DiskFault``), or a kill after ``seconds``. ``n``: at which passing, write or sync.
    """

    kind: str
    what: str = ""
    how: str = KILL
    n: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.kind in ("none", "time"):
            return "no fault" if self.kind == "none" else f"kill after {self.seconds:.4f} s"
        return f"{self.how} at {self.what} #{self.n}"

    @property
    def is_error(self) -> bool:
        """Whether the life meets an error, and goes on."""
        return (self.kind == "point" and self.how != KILL) or (self.kind == "disk" and DiskFault[self.how].is_error)


UNDISTURBED: Final = Crash("none")


class Ending(StrEnum):
    """How a life ended."""

    FINISHED = "finished"
    KILLED = "killed"
    FAILED = "failed"
    """With an error that it was made to meet."""


class End(NamedTuple):
    """What is known of a life afterwards. ``met``: whether its fault happened. ``passed``, ``disk``, which is ``(writes, syncs)``
    of the files that were counted, and ``result`` are of one that was not killed."""

    ending: Ending
    met: bool
    passed: dict[str, int]
    disk: tuple[int, int]
    seconds: float
    result: Any = None


class Life:
    """What the work of a life is given. ``notes`` are those of all lives before it."""

    def __init__(self, folder: Path, seed: int, crash: Crash) -> None:
        self.folder = folder
        self.seed = seed
        self.notes = notes_of(folder)
        self.failures = 0
        self._crash = crash
        self._file = os.open(folder / "notes", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(self._file, b"\n")  # ends a line that was cut off

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def may_fail(self) -> bool:
        """Whether this life has to meet an error."""
        return self._crash.is_error

    def relieve(self) -> None:
        """From now on no disk fails, as when space was made on a full one."""
        _SHIM.disarm()

    def note(self, *values: Any) -> None:
        """Note what has been done."""
        os.write(self._file, json.dumps(values).encode() + b"\n")

    def noted(self, what: str) -> list[list[Any]]:
        """What is noted of ``what`` by the lives before."""
        return [note[1:] for note in self.notes if note[0] == what]

    def insist(self, do: Callable[[], T]) -> T:
        """Do it; again, if the error that this life has to meet is in the way. After the second time the disk is well again, as
        when space was made on a full one."""
        for left in reversed(range(TRIES)):
            try:
                return do()
            except (StorageError, OSError):
                if not self.may_fail or not left:
                    raise
                self.failures += 1
                if self.failures > 1:
                    self.relieve()
        raise AssertionError("unreachable")


def notes_of(folder: Path) -> list[list[Any]]:
    """All notes of a case; lines that a life was killed over are left out."""
    path = folder / "notes"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("]")]


def live(do: Callable[[Life], Any], folder: Path, seed: int, crash: Crash = UNDISTURBED, *, goes_on: bool = True) -> End:
    """Let ``do`` run in a child process with this fault. Raises ``AssertionError`` if it hangs, or fails: where it has to meet an
    error only if it ``goes_on`` after that, or fails at another."""
    reading, writing = os.pipe()
    started_s = time.monotonic()
    if (pid := os.fork()) == 0:
        os.close(reading)
        _end(_lived(do, folder, seed, crash), writing)
    os.close(writing)
    watched = os.pidfd_open(pid)
    try:
        is_timed = crash.kind == "time"
        over, _, _ = select.select([watched], [], [], crash.seconds if is_timed else PATIENCE_S)
        if not over:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(watched)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as file:
        told = file.read()
    seconds = time.monotonic() - started_s
    assert over or is_timed, f"it hangs, with {crash}: {(folder / 'output').read_text()[-3000:]}"
    if os.WIFSIGNALED(status):
        by = os.WTERMSIG(status)
        assert by == signal.SIGKILL, f"ended by signal {by}, with {crash}: {(folder / 'output').read_text()[-3000:]}"
        return End(Ending.KILLED, True, {}, (0, 0), seconds)
    report = json.loads(told)
    may_fail = crash.is_error and not goes_on and report["met"] and report["is_storage"]
    assert report["error"] is None or may_fail, f"{crash}: {report['error']}"
    ending = Ending.FINISHED if report["error"] is None else Ending.FAILED
    return End(ending, report["met"], report["passed"], tuple(report["disk"]), seconds, report["result"])


def _lived(do: Callable[[Life], Any], folder: Path, seed: int, crash: Crash) -> dict[str, Any]:
    """Do it, in the child; what is to be told of it."""
    output = os.open(folder / "output", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    error, result, is_storage = None, None, False
    try:
        life = Life(folder, seed, crash)
        arm(f"{crash.what}={crash.how}@{crash.n}" if crash.kind == "point" else "")
        if crash.kind == "disk":
            _SHIM.arm(DiskFault[crash.how], crash.what, crash.n)
        result = do(life)
    except BaseException as raised:
        error = traceback.format_exc()
        is_storage = isinstance(raised, StorageError | OSError | Told)
    counts, met = passed(), _SHIM.met() > 0
    if crash.kind == "point":
        met = counts.get(crash.what, 0) >= crash.n
    told = {"passed": counts, "disk": _SHIM.counts(), "result": result}
    return told | {"error": error, "is_storage": is_storage, "met": met}


def _end(report: dict[str, Any], writing: int) -> None:
    """End the child, which must not go on as its parent."""
    _SHIM.disarm()
    with os.fdopen(writing, "wb") as file:
        file.write(json.dumps(report).encode())
    os._exit(0)


class Told(Exception):
    """A worker ended because of the error that it was made to meet, and said so."""


def can_fail(point: str) -> bool:
    """Whether an error can be met at a point."""
    return point not in DONE
