"""Scheduled events, carried: kept aside at the target as they were at the source, for the same time.

Each is first kept at the target, and then cancelled at the source. A run that is killed between the two does the first again, by
which the target, knowing the id, is not changed. If the source delivers one meanwhile, the target knows its id when it is copied.
"""

from collections.abc import Mapping

from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.base import Append, EventLog, Schedule, ScheduledEvent

_PAGE_EVENTS = 1000


def waiting(log: EventLog, tenants: set[str]) -> list[ScheduledEvent]:
    """All events of these tenants that wait for their time, those due first at the front of each tenant's."""
    found: list[ScheduledEvent] = []
    for tenant_id in sorted(tenants):
        cursor = None
        while True:
            page = log.scheduled(tenant_id, limit=_PAGE_EVENTS, cursor=cursor)
            found += page.events
            cursor = page.next_cursor
            if cursor is None:
                break
    return found


def carry_waiting(source: EventLog, target: EventLog, pairs: Mapping[str, Pair]) -> int:
    """Carry what waits for the streams of these pairs, by the ids of the streams at the source; returns how many events."""
    by_split: dict[Split, list[ScheduledEvent]] = {}
    for each in waiting(source, {pair.before.tenant_id for pair in pairs.values()}):
        if each.split.stream_id in pairs:
            by_split.setdefault(each.split, []).append(each)
    carried = 0
    for split, events in by_split.items():
        pair = pairs[split.stream_id]
        append = Append(pair.after.stream_id, [each.event for each in events], partition=split.partition, schedule=Schedule())
        target.append([append])
        for each in events:
            carried += source.cancel_scheduled(pair.before.tenant_id, each.event.event_id)
    return carried
