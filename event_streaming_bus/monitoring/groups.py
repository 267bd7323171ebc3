"""How far behind the consumer groups are."""

import time

from event_streaming_bus.consumers import lag
from event_streaming_bus.consumers.coordination import Coordinator, coordinator_of
from event_streaming_bus.consumers.lag import SEVERITY, Verdict
from event_streaming_bus.consumers.model import Group
from event_streaming_bus.errors import NotFoundError
from event_streaming_bus.monitoring.sample import GroupSample
from event_streaming_bus.store.storage import Storage


def group_samples(storage: Storage, tenants: list[str]) -> list[GroupSample]:
    """The groups of these tenants, as ``esb groups lag`` would tell of them."""
    coordinator = coordinator_of(storage)
    found = []
    for tenant_id in tenants:
        for group in coordinator.list_groups(tenant_id):
            try:
                found.append(_sample(storage, coordinator, group))
            except NotFoundError:
                continue  # the group, or a stream of it, was deleted meanwhile
    return found


def _sample(storage: Storage, coordinator: Coordinator, group: Group) -> GroupSample:
    committed, commits = coordinator.committed(group.group_id), coordinator.commits(group.group_id)
    splits = lag.measured(storage.log, group, committed, commits, time.time_ns() // 1_000_000)
    verdict = max((each.verdict for each in splits), key=SEVERITY.__getitem__, default=Verdict.OK)
    return GroupSample(
        tenant_id=group.tenant_id,
        name=group.name,
        lag=sum(each.lag for each in splits),
        seconds_behind=max((each.seconds_behind for each in splits), default=0.0),
        members=len(group.members),
        verdict=verdict.value,
        severity=SEVERITY[verdict],
    )
