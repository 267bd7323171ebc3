"""Rebalances, told to the history."""

import logging
from collections.abc import Sequence
from typing import Final

from event_streaming_bus.consumers.model import AssignmentStrategy
from event_streaming_bus.consumers.rebalancing import Rebalance
from event_streaming_bus.errors import BusError
from event_streaming_bus.store.history_records import Rebalanced, to_event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage

_log: Final = logging.getLogger(__name__)


def tell(
    storage: Storage,
    tenant_id: str,
    group_id: str,
    group_name: str,
    strategy: AssignmentStrategy,
    rebalances: Sequence[Rebalance],
) -> None:
    """Tell the history of rebalances of a group. They stand, whatever becomes of that."""
    if not rebalances:
        return
    records = [
        Rebalanced(
            tenant_id=tenant_id,
            group_id=group_id,
            group_name=group_name,
            strategy=strategy.value,
            generation=each.generation,
            reason="; ".join(each.reasons),
            before=each.before,
            after=each.after,
            started_us=each.started_at_ms * 1000,
            completed_us=each.completed_at_ms * 1000,
        )
        for each in rebalances
    ]
    try:
        history = storage.history().stream_id
        storage.log.append([Append(history, [to_event(record) for record in records], new_ids=True)])
    except BusError:
        _log.exception("the history does not tell of a rebalance of consumer group %s", group_name)
