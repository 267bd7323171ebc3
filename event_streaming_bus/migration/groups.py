"""Consumer groups at both ends: their settings, and the names under which their positions are committed.

An embedded log commits under a group's id, brokers under its name. Whoever only calls ``commit`` of the log has a name of his
own, which is the same at both ends. A group keeps its id, which its stream of redeliveries and its dead letters name.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from event_streaming_bus.store.broker_groups import BrokerGroup, BrokerGroupStore
from event_streaming_bus.store.groups import GroupRecord
from event_streaming_bus.store.log.group_broker import group_broker
from event_streaming_bus.store.log.group_names import groups_of
from event_streaming_bus.store.storage import Storage


class CarriedGroup(NamedTuple):
    """Something that has positions: what it is called, and the names under which they are committed at the two ends."""

    told: str
    at_source: str
    at_target: str


def carry_groups(source: Storage, target: Storage, tenants: Iterable[str]) -> tuple[list[CarriedGroup], list[str]]:
    """Make the groups of these tenants at the target, unless they are there; returns all that have, or may have, positions at the
    source, and what is to be known of them."""
    carried: list[CarriedGroup] = []
    notes: list[str] = []
    for group in _groups(source, tenants):
        group_id, has_same = _made(target, group)
        name = group.name
        names = [_committed_as(*end, group.tenant_id, name) for end in ((source, group.group_id), (target, group_id))]
        carried.append(CarriedGroup(name, *names))
        if group_id != group.group_id:
            notes.append(f"the group {name} was at TO already, with another id: events that wait to be redelivered to it stay")
        elif not has_same:
            notes.append(f"the group {name} was at TO already, and keeps the settings that it has there")
    own = {each.at_source for each in carried}
    others = [name for name in groups_of(source.log, source.url) if name not in own]
    return [*carried, *(CarriedGroup(name, name, name) for name in others)], notes


def _groups(storage: Storage, tenants: Iterable[str]) -> list[GroupRecord | BrokerGroup]:
    found: list[GroupRecord | BrokerGroup] = []
    with storage.groups.reading("listing consumer groups") as tables:
        for tenant_id in sorted(tenants):
            found += tables.groups(tenant_id)
    return [group for group in found if not (isinstance(group, BrokerGroup) and group.is_deleted)]


def _committed_as(storage: Storage, group_id: str, tenant_id: str, name: str) -> str:
    broker = group_broker(storage.log)
    return group_id if broker is None else broker.group_name(tenant_id, name)


def _made(target: Storage, group: GroupRecord | BrokerGroup) -> tuple[str, bool]:
    """``(the group's id at the target, whether it has the same settings there)``."""
    known: dict[str, Any] = {
        "group_id": group.group_id,
        "tenant_id": group.tenant_id,
        "name": group.name,
        "config": group.config,
        "is_paused": group.is_paused,
        "created_at_ms": group.created_at_ms,
        "created_by": group.created_by,
        "state": "EMPTY",
    }
    if isinstance(target.groups, BrokerGroupStore):
        with target.groups.writing(f"carrying consumer group {group.name}") as brokers:
            at_brokers = brokers.find_group(group.tenant_id, group.name)
            if at_brokers is not None:
                return at_brokers.group_id, at_brokers.config == group.config
            brokers.put_group(BrokerGroup(**known))
        return group.group_id, True
    with target.groups.writing(f"carrying consumer group {group.name}") as tables:
        there = tables.find_group(group.tenant_id, group.name)
        if there is not None:
            return there.group_id, there.config == group.config
        tables.add_group(GroupRecord(**known))
    return group.group_id, True
