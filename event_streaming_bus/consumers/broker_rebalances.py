"""Rebalances of groups that brokers coordinate, as their members see them: noted once each, and told to the history.

Brokers keep no account of rebalances. Each member knows when it has entered a new generation; the first of them that finds it not
noted yet asks the brokers what everybody has now, and notes that. What happened between two looks is told as one rebalance.
"""

import time
from collections.abc import Mapping
from typing import Final

import msgspec

from event_streaming_bus.consumers.broker_topics import partitions_of, topics_of
from event_streaming_bus.consumers.model import GroupState
from event_streaming_bus.consumers.rebalance_history import tell
from event_streaming_bus.consumers.rebalancing import Rebalance, config_of
from event_streaming_bus.store.broker_groups import BrokerGroup, BrokerGroupStore, MemberNote, Place
from event_streaming_bus.store.log.group_broker import GroupBroker, Standing
from event_streaming_bus.store.storage import Storage

_MAX_REASONS: Final = 20
_replace: Final = msgspec.structs.replace


class RebalanceNotes:
    """Notes what the group came to. Safe to use from any thread and any number of processes: of those that see the same, one
    notes it."""

    def __init__(self, storage: Storage, broker: GroupBroker, groups: BrokerGroupStore) -> None:
        self._storage = storage
        self._broker = broker
        self._groups = groups

    def entered(self, group: BrokerGroup, standing: Standing, unsettled_at_ms: int | None) -> None:
        """A member is in this generation, and had no place since ``unsettled_at_ms``, if it knows. Nothing is noted while the
        group is rebalancing again: the member tells of it later."""
        if not self._is_new(group, standing):
            return
        name = self._broker.group_name(group.tenant_id, group.name)
        described = self._broker.describe([name])[name]
        if not described.is_stable or all(member.member_id != standing.member_id for member in described.members):
            return
        topics = topics_of(self._broker, self._storage.log.list_streams(group.tenant_id, internal=True))
        after = {member.member_id: tuple(map(_place, partitions_of(member.parts, topics))) for member in described.members}
        self._note(group.group_id, standing, standing.generation, after, unsettled_at_ms)

    def left(self, group: BrokerGroup, member_id: str, generation: int) -> None:
        """A member that was in this generation has left. Only if it was the last one, nobody else will tell."""
        name = self._broker.group_name(group.tenant_id, group.name)
        if not self._broker.describe([name])[name].members:
            self._note(group.group_id, None, max(generation, group.generation) + 1, {}, None)

    def _is_new(self, group: BrokerGroup, standing: Standing) -> bool:
        # Brokers forget a group that is empty for long, and count from 1 again.
        return standing.generation > group.generation or standing.member_id not in group.assignment

    def _note(
        self,
        group_id: str,
        standing: Standing | None,
        generation: int,
        after: dict[str, tuple[Place, ...]],
        unsettled_at_ms: int | None,
    ) -> None:
        now_ms = time.time_ns() // 1_000_000
        with self._groups.writing("noting a rebalance") as tables:
            group = tables.group(group_id)
            if group is None or (standing is not None and not self._is_new(group, standing)):
                return
            if standing is None and not group.assignment:
                return
            asked = group.rejoin
            is_asked = asked is not None and asked.asked_at_ms >= (group.last_rebalance_at_ms or 0) and bool(after)
            before = group.assignment
            reasons: tuple[str, ...] = (asked.reason,) if is_asked and asked is not None else ()
            reasons += _reasons(before, after, tables.members(group_id))
            tables.put_group(
                _replace(
                    group,
                    generation=generation,
                    assignment=after,
                    last_rebalance_at_ms=now_ms,
                    state=(GroupState.STABLE if after else GroupState.EMPTY).value,
                )
            )
        started_at_ms = asked.asked_at_ms if is_asked and asked is not None else (unsettled_at_ms or now_ms)
        rebalance = Rebalance(
            generation=generation,
            reasons=reasons or ("the partitions were shared out anew",),
            started_at_ms=min(started_at_ms, now_ms),
            completed_at_ms=now_ms,
            before=before,
            after=after,
        )
        strategy = config_of(group.config).partition_assignment_strategy
        tell(self._storage, group.tenant_id, group.group_id, group.name, strategy, [rebalance])


def _place(partition: tuple[str, int]) -> Place:
    return partition[0], partition[1]


def _reasons(
    before: Mapping[str, tuple[Place, ...]], after: Mapping[str, tuple[Place, ...]], notes: Mapping[str, MemberNote]
) -> tuple[str, ...]:
    """Who came and who went, as far as it can be seen from outside."""

    def who(member_id: str) -> str:
        client_id = notes[member_id].client_id if member_id in notes else ""
        return f"{client_id} ({member_id})" if client_id else member_id

    came = [f"{who(member_id)} joined" for member_id in after if member_id not in before]
    went = [f"{who(member_id)} is gone" for member_id in before if member_id not in after]
    return tuple([*came, *went][:_MAX_REASONS])
