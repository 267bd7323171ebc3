"""The vocabulary of consumer groups: what a group is made with, what it is like at the moment, and who is in it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

import msgspec

MEMBER: Final = "mbr_"
"""What the ids of members begin with."""


class AssignmentStrategy(StrEnum):
    """How the partitions of the streams that a group reads are shared among its members, as Kafka defines it."""

    RANGE = "range"
    ROUNDROBIN = "roundrobin"
    STICKY = "sticky"
    COOPERATIVE_STICKY = "cooperative-sticky"


class OffsetReset(StrEnum):
    """Where a member begins to read a split for which nothing is committed, or whose committed offset retention has dropped."""

    EARLIEST = "earliest"
    LATEST = "latest"
    NONE = "none"


class GroupState(StrEnum):
    """EMPTY: nobody is in it. PREPARING: members are (re)joining. STABLE: every member has its partitions."""

    EMPTY = "EMPTY"
    PREPARING = "PREPARING"
    STABLE = "STABLE"


class GroupConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a consumer group is made with. Times out of range are refused with the range (see ``group_settings.RANGES``).

    ``session_timeout_ms``: a member that sends no heartbeat for so long is out. ``max_poll_interval_ms``: so is one that does not
    ask for events for so long. ``rebalance_timeout_ms``: how long a rebalance waits for members to rejoin; those that do not are
    out.
    ``max_retries``: how often an event that a member could not process is delivered again, unless the event itself says less.
    """

    group_name: str
    group_description: str = ""
    session_timeout_ms: int = 30_000
    heartbeat_interval_ms: int = 3_000
    max_poll_interval_ms: int = 300_000
    rebalance_timeout_ms: int = 60_000
    partition_assignment_strategy: AssignmentStrategy = AssignmentStrategy.RANGE
    auto_offset_reset: OffsetReset = OffsetReset.EARLIEST
    max_retries: int = 3


class Partition(NamedTuple):
    """What members share: a partition of a stream, with all of its lanes."""

    stream_id: str
    partition: int


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group. ``generation`` is the last one that it has joined; ``assignment`` what it may read in that one.

    ``None`` is what the brokers that coordinate a group do not tell of a member that does not use this bus's database.
    """

    member_id: str
    client_id: str
    host: str
    pid: int | None
    streams: tuple[str, ...]
    """The ids of the streams that it wants to read."""
    generation: int
    assignment: tuple[Partition, ...] = ()
    joined_at_ms: int | None
    heartbeat_at_ms: int | None
    polled_at_ms: int | None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer group as it is. ``generation`` grows by one with each rebalance."""

    group_id: str
    tenant_id: str
    config: GroupConfig
    state: GroupState
    generation: int
    is_paused: bool
    created_at_ms: int
    created_by: str | None
    last_rebalance_at_ms: int | None
    members: tuple[Member, ...] = ()

    @property
    def name(self) -> str:
        return self.config.group_name


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a join or a heartbeat.

    While ``is_rebalancing``, the member must give up what is not in ``assignment``: everything, or with cooperative-sticky only
    what was taken away from it. It commits what it gives up, and joins again if it ``must_rejoin``. Otherwise ``assignment`` is
    what it may read as of ``generation``.
    """

    member_id: str
    generation: int
    assignment: tuple[Partition, ...]
    is_rebalancing: bool
    must_rejoin: bool = False
    """Whether the rebalance waits for this member to join again; if not, it waits for others."""
    is_paused: bool = False
    """Whether the group is paused: then the member is to read nothing for now."""
    retry_stream_id: str | None = None
    """The group's stream of redeliveries, if there is one: its partitions are shared among all members."""


class Commit(NamedTuple):
    """A commit as it is remembered: when, the offset committed, and the end of the split at that time."""

    at_ms: int
    offset: int
    end_offset: int


Subscriptions: TypeAlias = Mapping[str, tuple[str, ...]]
"""The ids of the streams that each member wants to read, by member id."""
