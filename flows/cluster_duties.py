"""What the supervisor of a host of a cluster is given to work with, and what it says in the end."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from event_streaming_bus.flows.cluster_messages import Phase, Start


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """``lost_after_s``: a host that is not heard of for so long is lost; each tells of itself five times in that time.
    ``wait_s``: how long the others are waited for at first; once they have all run together, they are waited for without end.
    ``stop_s``: how long workers may take to end in good order."""

    lost_after_s: float = 5.0
    wait_s: float = 60.0
    stop_s: float = 30.0


class Workers(Protocol):
    """The workers of this host: what ``WorkerGroup`` offers."""

    def exit_code(self) -> int | None: ...

    def ask_to_end(self) -> None: ...

    def kill(self) -> None: ...

    def last_error(self) -> str: ...


class Outcome(msgspec.Struct, frozen=True):
    """How it ended. ``stopped``: this host was asked to; ``error``: or the flow cannot run."""

    stopped: bool = False
    error: str | None = None


class Duties(msgspec.Struct, frozen=True):
    """What a supervisor has done for it. None of these but ``ends`` may block.

    ``launch`` starts this host's workers. ``ends``, asked on the first host only, gives the offsets that a generation is to run
    to: with ``None`` the first ones (an empty text: the streams are followed), with the last ones those of the next generation,
    or ``None`` if all is done. ``tell`` takes a line for people; ``changed`` is told of each new phase, and of the error that led
    to it. ``partitions`` by stream id are how many of the sources to read, as of when ``ends`` last answered.
    """

    launch: Callable[[Start], Workers]
    ends: Callable[[str | None], str | None]
    tell: Callable[[str], None]
    changed: Callable[[Phase, str | None], None]
    processor_ids: dict[str, str] = {}
    partitions: dict[str, int] = {}
