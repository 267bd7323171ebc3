"""Heartbeats from a thread, as long as there is somebody to send them."""

import logging
import threading
import weakref
from typing import Any, Final, Protocol

from event_streaming_bus.errors import BusError

_log: Final = logging.getLogger(__name__)


class Beating(Protocol):
    """Who has heartbeats. ``beat`` blocks, and says whether there are to be more."""

    def beat(self) -> bool: ...


class Pulse:
    """Calls ``beat`` every ``interval_s`` until it says no, ``stop`` is called, or nobody has its object any more."""

    def __init__(self, owner: Beating, interval_s: float) -> None:
        self._stopped = threading.Event()
        arguments = weakref.ref(owner), interval_s, self._stopped
        threading.Thread(target=_beat_on, args=arguments, name="esb-client-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more. Returns at once."""
        self._stopped.set()


def _beat_on(owner: "weakref.ref[Any]", interval_s: float, stopped: threading.Event) -> None:
    while not stopped.wait(interval_s):
        beating = owner()
        if beating is None:
            return
        try:
            if not beating.beat():
                return
        except BusError as error:
            _log.debug("a heartbeat failed: %s", error)
        del beating
