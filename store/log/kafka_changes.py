"""Whether anything has changed on the cluster, asked often and answered from one look at a time."""

import threading
import time
from collections.abc import Iterable
from typing import Final

from event_streaming_bus.store.log.kafka_offsets import Offsets, TopicPart, UnknownTopicError

_FRESH_S: Final = 0.005


class Changes:
    """Counts the changes that were seen. Safe to use from any thread: those who ask at one time share an answer."""

    def __init__(self, offsets: Offsets) -> None:
        self._offsets = offsets
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._version = 0
        self._seen: tuple[int, dict[TopicPart, int]] | None = None

    def look_again(self) -> None:
        """What was seen is known to be old."""
        self._looked_at = 0.0

    def version(self, marker: int, parts: Iterable[TopicPart]) -> int:
        """A number that changes when ``marker`` or the end of one of the partitions does; as of at most 5 ms ago."""
        with self._lock:
            looking_at = time.monotonic()
            if looking_at - self._looked_at >= _FRESH_S:
                try:
                    seen = marker, self._offsets.ends(parts)
                except UnknownTopicError:  # being made or dropped: that is a change in any case
                    seen = None
                if seen is None or seen != self._seen:
                    self._version += 1
                self._seen, self._looked_at = seen, looking_at
            return self._version
