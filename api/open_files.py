"""Open files: every connection is one, and stores and workers need theirs too."""

import resource
from collections.abc import Callable
from typing import Final

import msgspec

from event_streaming_bus.api.load import SPARE_CONNECTIONS, LoadLimits

RESERVED: Final = 768
"""For stores, of which each thread has files of its own, for DuckDB, brokers, workers, and what modules load."""
_LEAST: Final = 64


def fitted(limits: LoadLimits, tell: Callable[[str], object]) -> LoadLimits:
    """The limits, with no more connections than this process may have open files for. It is allowed as many files as it needs, if
    the machine lets it; otherwise ``tell`` is told."""
    wanted = limits.max_connections + SPARE_CONNECTIONS + RESERVED
    allowed = _allowed(wanted)
    if allowed >= wanted:
        return limits
    fit = max(_LEAST, allowed - SPARE_CONNECTIONS - RESERVED)
    if fit >= limits.max_connections:
        return limits
    told = f"at most {fit:,} connections, as only {allowed:,} files may be open"
    tell(f"{told}: {limits.max_connections:,} take {wanted:,} (ulimit -n)")
    return msgspec.structs.replace(limits, max_connections=fit)


def _allowed(wanted: int) -> int:
    """How many files may be open, after asking for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):  # a container may forbid it
        return soft
    return most
