"""What the supervisors of a cluster tell each other: one JSON object a line, over TCP.

When two have connected, each says who it is (``Hello``). From then on each tells the other at a steady pace how it stands
(``Beat``). The first host alone decides what is done: it has the others make missing recovery partitions (``Prepare``), start
their workers (``Start``), and end (``Finish``).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

MAX_LINE_BYTES: Final = 16 << 20
"""A ``Start`` names the end of every split that the flow reads."""


class Phase(StrEnum):
    """How a host stands. ``IDLE``: none of its workers is alive. ``RUNNING``: its workers run, or are being ended.
    ``STOPPING``: they run, and are to end in good order. ``DONE``: all have ended as they should."""

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"


class Recovery(msgspec.Struct, frozen=True):
    """The recovery partitions in a host's folder: which of how many; ``begun``: whether workers have ever used the folder."""

    partitions: tuple[int, ...] = ()
    count: int = 0
    begun: bool = False


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who is calling. ``identity`` is what must be the same on all hosts: see ``cluster_identity``."""

    index: int
    identity: Mapping[str, str]


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """How a host stands. ``generation``: the last start that it was told of. ``sees``: the hosts that it is connected with.

    ``error``: why the generation ended here, if its workers failed; ``lost``: a host has been lost since it began.
    """

    generation: int
    phase: Phase
    sees: tuple[int, ...]
    recovery: Recovery
    error: str | None = None
    lost: bool = False


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Make those of ``count`` recovery partitions that are this host's: every n-th of n hosts."""

    count: int


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start the workers. ``until``: the offsets to stop at, or nothing; ``processor_ids`` by name: how all hosts call them;
    ``partitions`` by stream id: how many of its sources the flow reads."""

    generation: int
    processor_ids: Mapping[str, str]
    until: str | None = None
    partitions: Mapping[str, int] = {}


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """There is nothing more to do; ``error``: or it cannot be done."""

    error: str | None = None


Message: TypeAlias = Hello | Beat | Prepare | Start | Finish

_decoder: Final = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as a line."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises ``msgspec.DecodeError`` (``ValidationError`` is one) for what is none."""
    try:
        message: Message = _decoder.decode(line)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    return message
