"""Logs that take a ``Condition`` with an append."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.models import Position
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.outbox import OutboxLog
from event_streaming_bus.store.log.stored import find_ids

ConditionalLog: TypeAlias = EmbeddedLog | OutboxLog
"""A log that writes what a store keeps in the transaction of an append: of its own database, or of that of an outbox."""

FindIds: TypeAlias = Callable[[Any, str, Mapping[str, object]], Mapping[str, Position]]
"""``(connection of the condition, tenant, event ids)``: the places of those ids that the log holds."""


def conditional(log: EventLog) -> ConditionalLog:
    """The log as one that takes conditions. Raises ``InvalidStateError`` if it is none."""
    if isinstance(log, EmbeddedLog | OutboxLog):
        return log
    raise InvalidStateError(
        "This append depends on a store in a database, and the log has none. Aggregates need an embedded log, or an outbox."
    )


def ids_finder(log: ConditionalLog) -> FindIds:
    """What a condition of an append to this log looks for ids with."""
    return find_ids if isinstance(log, EmbeddedLog) else log.find_ids
