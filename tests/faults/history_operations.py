"""What clients of the bus record of what they do: a *history*, from which a checker tells whether the bus kept its word.

As in Jepsen, an operation begins with *invoke* and ends with *ok* (it happened), *fail* (it did not, and never will) or *info*
(nobody knows: it may have happened, or happen later). A client writes each of the two to its own file before it goes on, so that
the history of one that is killed is whole: what it had begun is *info*. Times are those of ``CLOCK_MONOTONIC``, which all
processes of a machine have in common, and which no change of the clock moves. So if one operation ended before another was
invoked, whoever did them, the history says so.

Every event that is appended anywhere is an *element*, a name that is used once.
"""

import os
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec


class Outcome(StrEnum):
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What one append has for one aggregate: elements, on condition that it is at the version ``expected``, or in any case."""

    key: str
    expected: int | None
    elements: tuple[str, ...]


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An element of an aggregate as a receipt or a read tells it. ``offset`` is its place in ``split``, where that is told."""

    key: str
    element: str
    version: int
    position: int
    split: str | None = None
    offset: int = -1


class Sent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event that is published. ``due_ms``: when it is to come into its stream, on the clock of the client, if not at once."""

    element: str
    key: str
    due_ms: int | None = None


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as it was read of a stream. ``key`` is empty where it was not looked at."""

    split: str
    offset: int
    element: str
    key: str = ""


# --- what is done -----------------------------------------------------------------------------------------------------


class Append(msgspec.Struct, frozen=True, tag="append"):
    """Append to one aggregate or to several, all or nothing. ``kept``: the receipts. If it was refused for the version of the
    aggregate ``refused_by``, that was told to be ``version``, and the elements from the one that was expected on to be
    ``between``."""

    parts: tuple[Part, ...]
    kept: tuple[Kept, ...] = ()
    refused_by: str | None = None
    version: int = 0
    between: tuple[Kept, ...] = ()


class Read(msgspec.Struct, frozen=True, tag="read"):
    """Read an aggregate whole."""

    key: str
    kept: tuple[Kept, ...] = ()


class Page(msgspec.Struct, frozen=True, tag="page"):
    """Read on in the order of all aggregates, after a position; ``is_end``: up to what was the last one then."""

    after: int
    kept: tuple[Kept, ...] = ()
    is_end: bool = False


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Publish events, all or nothing. ``places``: the split and the offset of each, as its receipt says; -1 while it waits."""

    stream: str
    sent: tuple[Sent, ...]
    places: tuple[tuple[str, int], ...] = ()


class Scan(msgspec.Struct, frozen=True, tag="scan"):
    """Read all splits of a stream to their ends, from the offsets ``begin`` on (0 where none is said)."""

    stream: str
    begin: dict[str, int] = {}
    found: tuple[Found, ...] = ()


class Poll(msgspec.Struct, frozen=True, tag="poll"):
    """Take events as a member of a group. ``session``: in which life of which client; ``generation``: of the group."""

    group: str
    session: str
    found: tuple[Found, ...] = ()
    generation: int = 0


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Commit what the polls of a session have handed out: for each split of their events, the offset to go on at."""

    group: str
    session: str
    offsets: dict[str, int] = {}


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """Ask what a group has committed."""

    group: str
    offsets: dict[str, int] = {}


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """Something was done to ``whom``. ``seconds``: for a jump of the clock, how far it is off from then on."""

    what: str
    whom: str = ""
    seconds: float = 0.0


Action: TypeAlias = Append | Read | Page | Publish | Scan | Poll | Commit | Committed | Fault
ENDLESS: Final = 1 << 62
"""When an operation ended of which nobody knows."""


class Operation(NamedTuple):
    """An operation from its beginning to its end, in nanoseconds. ``number`` is its place in the order of beginnings."""

    number: int
    process: int
    start_ns: int
    end_ns: int
    outcome: Outcome
    action: Action

    def __str__(self) -> str:
        begun, ended = self.start_ns / 1e9, "never" if self.end_ns == ENDLESS else f"{self.end_ns / 1e9:.6f}"
        told = str(self.action)
        return f"#{self.number} process {self.process} {self.outcome} {begun:.6f}..{ended} {told[:300]}"


# --- recording --------------------------------------------------------------------------------------------------------


class _Line(msgspec.Struct, array_like=True):
    kind: str
    at_ns: int
    action: Action


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Line).decode


class Recorder:
    """Writes the history of one process, which does one thing at a time."""

    def __init__(self, folder: Path, process: int) -> None:
        self._file = os.open(folder / f"{process}.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def invoke(self, action: Action) -> None:
        """This is about to be done."""
        self._write("invoke", action)

    def end(self, outcome: Outcome, action: Action) -> None:
        """What was invoked last has ended; ``action`` has what was told."""
        self._write(outcome.value, action)

    def _write(self, kind: str, action: Action) -> None:
        os.write(self._file, _encode(_Line(kind, time.monotonic_ns(), action)) + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_history(folder: Path) -> list[Operation]:
    """The operations of all processes that recorded here, in the order of their beginnings."""
    found = [each for path in folder.glob("*.jsonl") for each in _paired(path)]
    return in_order(found)


def in_order(operations: list[Operation]) -> list[Operation]:
    """The operations numbered by their beginnings."""
    operations.sort(key=lambda operation: operation.start_ns)
    return [operation._replace(number=number) for number, operation in enumerate(operations)]


def _paired(path: Path) -> Iterator[Operation]:
    process = int(path.stem)
    begun: _Line | None = None
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # the process was killed over it
            told = _decode(line)
            if told.kind == "invoke":
                begun = told
                continue
            assert begun is not None, f"{path}: something ended that had not begun"
            end_ns = ENDLESS if told.kind == Outcome.INFO else told.at_ns
            yield Operation(0, process, begun.at_ns, end_ns, Outcome(told.kind), told.action)
            begun = None
    if begun is not None:
        yield Operation(0, process, begun.at_ns, ENDLESS, Outcome.INFO, begun.action)
