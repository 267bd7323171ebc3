"""Fault points: places in the code where a test has a process die, fail or pause, to see that nothing comes of it.

A point is named where something is about to be kept, is kept in part, or is kept but not yet told of. Without the variable
``ESB_FAULTS`` in the environment at the start of the process, passing one does nothing and costs a call. With it, its value says
what happens where, as in ``ESB_FAULTS="log.written=kill@3,history.commit=sleep:0.5@1"``: the process kills itself (``SIGKILL``)
when it passes ``log.written`` for the third time. An empty value counts the passings, and lets ``arm`` be called.

It is for tests: nobody who runs a bus has a reason to set it.
"""

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

ENVIRONMENT: Final = "ESB_FAULTS"
KILL: Final = "kill"
ERRORS: Final = {"eio": errno.EIO, "enospc": errno.ENOSPC}
_SLEEP: Final = "sleep"

UNDONE: Final[Mapping[str, str]] = {
    "sqlite.begin": "a store has the lock to write, and has not begun its transaction",
    "sqlite.commit": "all that a transaction of a store writes is written, and not committed",
    "log.batch": "some record batches of an append are written, and others are not",
    "log.written": "an append is written whole, and not committed",
    "retention.batches": "old record batches are deleted, and the begin of their splits has not moved",
    "stream.dropping": "what a stream holds is deleted, and the stream is there",
    "scheduled.kept": "an event whose time is to come is kept aside, and its append is not committed",
    "scheduled.released": "scheduled events are taken out, and not yet in their streams",
    "aggregate.recorded": "events are recorded in their aggregates, and not committed with their streams",
    "aggregate.snapshot": "a snapshot of an aggregate is written, and not committed",
    "aggregate.archive": "the archive of an aggregate is written, and its events are there as well",
    "aggregate.restore": "the events of an archive are back, and the archive is there as well",
    "registry.writing": "a version of a schema is written, and not committed",
    "audit.chained": "entries of the audit are written, and not signed",
    "consumer.commit": "a consumer is about to commit",
    "flow.append": "a flow is about to append its output with its marks",
    "recovery.prepared": "some files for the snapshots of a new flow are in place, and others are not",
    "recovery.source": "a snapshot of how far a source was read is being taken",
    "recovery.state": "a snapshot of the state of a key group is being taken",
    "history.insert": "records of the history are read, and their rows are not written",
    "history.commit": "rows of the history are written, and not committed",
    "history.rolled": "a day of the history is in files that no manifest names",
    "history.named": "the manifest names the files of a day, whose rows are in the database as well",
    "projection.write": "events are projected in memory, and no row is written",
    "projection.written": "the rows of a batch of a projection are written, and not committed",
    "projection.swap": "a new build of a projection is to answer, and that is not committed",
    "migration.position": "the position of a group is set at the target, and not noted as set",
    "outbox.kept": "events are in the outbox, and that is not committed",
    "outbox.relay": "events of the outbox are about to be appended to their streams",
    "outbox.relayed": "events of the outbox are in their streams, and in the outbox as well",
    "file.written": "a private file is written under another name",
}
"""The points at which a process may die or meet an error: what is there is undone, or done again."""
DONE: Final[Mapping[str, str]] = {
    "sqlite.committed": "a transaction of a store is on disk, and nobody has been told",
    "log.committed": "an append is on disk, and its callers have not been told",
    "retention.dropped": "old record batches are gone, and their room is not given back",
    "consumer.committed": "a consumer has committed, and has not been told",
    "flow.appended": "the output of a flow is in the log, and no snapshot knows",
    "history.committed": "rows of the history are committed, and nobody has been told",
    "projection.committed": "a batch of a projection is committed, and its progress is not in the catalog",
    "migration.copied": "a piece is at the target, and the migration does not know",
}
"""The points at which a process may only die: what was done is on disk, so an error would be a lie."""
POINTS: Final[Mapping[str, str]] = {**UNDONE, **DONE}
"""Every point, and what has been done when it is passed."""


class Fault(NamedTuple):
    """What happens at the ``nth`` passing of a point: ``action`` is ``kill``, ``eio``, ``enospc`` or ``sleep:SECONDS``."""

    point: str
    action: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.point}={self.action}@{self.nth}"


def parse_faults(text: str) -> list[Fault]:
    """The faults that ``text`` lists. Raises ``ValueError`` that says which part of it is none."""
    faults = []
    for part in filter(None, text.split(",")):
        point, _, rest = part.partition("=")
        action, _, nth = rest.partition("@")
        if point not in POINTS:
            raise ValueError(f"{ENVIRONMENT}: there is no fault point {point!r}; expected one of {', '.join(POINTS)}")
        kind, _, seconds = action.partition(":")
        is_known = action in (KILL, *ERRORS) or (kind == _SLEEP and seconds.replace(".", "", 1).isdecimal())
        if not is_known or not (nth or "1").isdecimal():
            raise ValueError(f"{ENVIRONMENT}: expected NAME=kill@N, =eio@N, =enospc@N or =sleep:SECONDS@N, got {part!r}")
        if action in ERRORS and point in DONE:
            raise ValueError(f"{ENVIRONMENT}: nothing can fail any more at {point}; expected kill or sleep, got {part!r}")
        faults.append(Fault(point, action, int(nth or 1)))
    return faults


class _Armed:
    """The faults of this process, and how often it has passed each point."""

    def __init__(self, text: str) -> None:
        self._lock = threading.Lock()
        self.arm(text)

    def arm(self, text: str) -> None:
        self.passed: Counter[str] = Counter()
        self._faults = {(fault.point, fault.nth): fault.action for fault in parse_faults(text)}

    def pass_(self, name: str) -> None:
        if name not in POINTS:
            raise ValueError(f"{name} is not in POINTS")
        with self._lock:
            self.passed[name] += 1
            action = self._faults.get((name, self.passed[name]))
        if action is None:
            return
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif action in ERRORS:
            raise OSError(ERRORS[action], os.strerror(ERRORS[action]), name)
        else:
            time.sleep(float(action.partition(":")[2]))


def _nothing(name: str) -> None:
    """Pass a point in a process that has no faults."""


_armed: Final = _Armed(os.environ[ENVIRONMENT]) if ENVIRONMENT in os.environ else None
fault_point: Final[Callable[[str], None]] = _nothing if _armed is None else _armed.pass_
"""Pass the point with this name."""


def arm(text: str) -> None:
    """From now on these are the faults of this process, and nothing has been passed. Raises ``ValueError`` for text that lists
    none, and in a process that was started without ``ESB_FAULTS``, whose points do nothing."""
    if _armed is None:
        raise ValueError(f"this process was started without {ENVIRONMENT}, and has no fault points")
    _armed.arm(text)


def passed() -> dict[str, int]:
    """How often this process has passed each point since it was armed."""
    return {} if _armed is None else dict(_armed.passed)
