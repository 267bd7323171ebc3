"""What only one of several nodes does, begun when this node is elected."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from event_streaming_bus.errors import BusError

if TYPE_CHECKING:
    from event_streaming_bus.store.election import Election  # loads psycopg: only for those who need it

_LOOK_S: Final = 0.1
_log: Final = logging.getLogger(__name__)


async def lead_when_elected(election: "Election", lead: Callable[[], Awaitable[None]]) -> None:
    """Wait until this node leads, and call ``lead`` then. When another takes the lead from it, or ``lead`` fails, end the process
    as SIGTERM does, for whatever runs it to start it anew: it is a node that follows then."""
    while not election.leads:  # noqa: ASYNC110 - a thread of its own finds out
        await asyncio.sleep(_LOOK_S)
    try:
        await lead()
        while not election.is_over:  # noqa: ASYNC110 - as above
            await asyncio.sleep(_LOOK_S)
        _log.warning("This node leads no more; it ends, to be started again.")
    except BusError as error:
        _log.error("This node cannot lead, and ends: %s", error.message)
        election.failed()
    os.kill(os.getpid(), signal.SIGTERM)
