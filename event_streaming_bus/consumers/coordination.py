"""What coordinates consumer groups, and which coordinator a storage has: that of its log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from event_streaming_bus.consumers.broker_coordinator import BrokerCoordinator
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import Commit, Group, GroupConfig, Joined, Partition
from event_streaming_bus.models import Split
from event_streaming_bus.store.log.group_broker import group_broker
from event_streaming_bus.store.storage import Storage


class Coordinator(Protocol):
    """Coordinates groups: ``GroupCoordinator`` in the tables of an embedded log, ``BrokerCoordinator`` with the log's brokers.

    ``GroupCoordinator`` says what the methods promise, ``BrokerCoordinator`` where it differs. Safe to use from any thread.
    """

    @property
    def look_s(self) -> float | None:
        """How often a member that polls has to send a heartbeat, to hear of what the log's ``version`` does not tell of; ``None``
        if it tells of everything."""
        ...

    def create(self, tenant_id: str, config: GroupConfig, *, created_by: str | None = None) -> Group: ...

    def get(self, tenant_id: str, reference: str) -> Group: ...

    def list_groups(self, tenant_id: str) -> list[Group]: ...

    def delete(self, tenant_id: str, reference: str) -> Group: ...

    def set_paused(self, tenant_id: str, reference: str, paused: bool) -> Group: ...

    def trigger_rebalance(self, tenant_id: str, reference: str, *, reason: str = ...) -> Group: ...

    def join(
        self,
        group_id: str,
        streams: Sequence[str],
        *,
        member_id: str | None = None,
        client_id: str = "",
        owned: Sequence[Partition] = (),
    ) -> Joined: ...

    def heartbeat(self, group_id: str, member_id: str, generation: int, *, polled: bool = False) -> Joined: ...

    def leave(self, group_id: str, member_id: str) -> None: ...

    def has_news(self, member_id: str) -> bool:
        """Whether a heartbeat of this member would tell of something that the log's ``version`` does not. Does not block."""
        ...

    def commit(self, group_id: str, member_id: str, generation: int, offsets: Mapping[Split, int]) -> None: ...

    def committed(self, group_id: str) -> dict[Split, int]: ...

    def commits(self, group_id: str) -> dict[Split, list[Commit]]: ...

    def reset(self, group_id: str, offsets: Mapping[Split, int]) -> None: ...


def coordinator_of(storage: Storage, *, clock_ms: Callable[[], int] | None = None) -> Coordinator:
    """The coordinator of the groups of this storage."""
    broker = group_broker(storage.log)
    if broker is None:
        return GroupCoordinator(storage, clock_ms=clock_ms)
    return BrokerCoordinator(storage, broker, clock_ms=clock_ms)
