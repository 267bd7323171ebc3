"""The errors of the event store."""

from event_streaming_bus.errors import BusError, NotFoundError


class AggregateNotFoundError(NotFoundError):
    """The aggregate does not exist."""


class VersionConflictError(BusError):
    """The aggregate is not at the expected version: somebody else has appended to it. Read it again, and decide anew.
    ``details`` has ``current_version`` and ``events``, those that came between."""


class ConditionNotMetError(VersionConflictError):
    """There is an event that the append was not to meet. ``details`` has ``events``, the first of them."""
