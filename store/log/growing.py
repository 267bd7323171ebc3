"""Adding partitions to a stream: what a log offers that can do it."""

from typing import Protocol, runtime_checkable

from event_streaming_bus.models import StreamInfo
from event_streaming_bus.store.log.base import EventLog


@runtime_checkable
class GrowingLog(Protocol):
    """A log whose streams can be given more partitions."""

    def grow_stream(self, stream_id: str, partitions: int) -> StreamInfo:
        """Give the stream so many partitions; as many as it has is no change. What is in the others stays there, and is in the
        order that it had; what is appended from now on is spread over all, so most keys go to another partition than before.
        Raises ``InvalidInputError`` for fewer than it has, and ``StreamNotFoundError``."""
        ...


def growing_log(log: EventLog) -> GrowingLog | None:
    """The log, or the one inside of it, if its streams can grow."""
    found = getattr(log, "inner", log)
    return found if isinstance(found, GrowingLog) else None
