"""What a log offers whose brokers coordinate consumer groups themselves: who is in a group, who reads what, whose commits count.

Here are only the terms; a log that can do it has a ``groups``. Groups go by the names that the brokers know them by.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from event_streaming_bus.errors import BusError
from event_streaming_bus.models import Split, StreamInfo
from event_streaming_bus.store.log.base import EventLog

Part: TypeAlias = tuple[str, int]
"""``(topic, partition)``: a split as the brokers know it."""


class Phase(StrEnum):
    """JOINING: others are waited for. ASSIGNED: it has what it ``holds``. REVOKING: it is to give up what it is ``leaving``, and
    say so. OUT: it is no member any more, and ``why`` says what for."""

    JOINING = "JOINING"
    ASSIGNED = "ASSIGNED"
    REVOKING = "REVOKING"
    OUT = "OUT"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a member stands with its group. ``member_id`` is empty until the group has given it one, ``generation`` -1 until it has
    entered one."""

    phase: Phase = Phase.JOINING
    member_id: str = ""
    generation: int = -1
    holds: frozenset[Part] = frozenset()
    leaving: frozenset[Part] = frozenset()
    why: str = ""
    failure: BusError | None = None
    """What keeps it from joining, if something does that waiting will not cure."""


class DescribedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the brokers tell of it, whoever's it is."""

    member_id: str
    client_id: str
    host: str
    parts: tuple[Part, ...]


class DescribedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group as the brokers tell of it; one that they do not know has nobody in it."""

    is_stable: bool
    members: tuple[DescribedMember, ...]


class MemberTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a member joins with. Times are those of a ``GroupConfig``; ``strategy`` is an ``AssignmentStrategy`` by its value."""

    group: str
    client_id: str
    strategy: str
    session_timeout_ms: int
    heartbeat_interval_ms: int
    rebalance_timeout_ms: int


class BrokerMember(Protocol):
    """A member of a group, in this process. Safe to use from any thread.

    It joins by itself, and goes on sending heartbeats until it is closed, or is not ``touch``ed for some session timeouts.
    """

    @property
    def standing(self) -> Standing:
        """How it stands now. Does not block."""
        ...

    @property
    def is_cooperative(self) -> bool:
        """Whether it keeps what it holds through a rebalance, but for what another member gets."""
        ...

    def touch(self) -> None:
        """Say that whoever uses the member is alive."""
        ...

    def await_change(self, standing: Standing, timeout_s: float) -> Standing:
        """Wait until it stands otherwise; how it stands then."""
        ...

    def give_up(self) -> None:
        """Say that what it is leaving was given up. Waits a moment, until the group has been told."""
        ...

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics from now on, which is a rebalance."""
        ...

    def rejoin(self) -> None:
        """Join again, so that the group is shared out anew."""
        ...

    def commit(self, offsets: Mapping[Part, int]) -> None:
        """Commit as the member that it is in the generation that it is in. Raises ``UnknownMemberError`` if it is out."""
        ...

    def put_out(self, why: str) -> None:
        """Let it be out at once, without its having given anything up. Does not wait until the group has been told."""
        ...

    def close(self) -> None:
        """Leave the group. Closing twice is harmless."""
        ...


@runtime_checkable
class GroupBroker(Protocol):
    """The groups of a log's brokers. Safe to use from any thread; all but ``topics`` and ``part`` block."""

    def group_name(self, tenant_id: str, name: str) -> str:
        """What the brokers know a group of the bus by. Raises ``InvalidInputError`` for a name that could be another group's."""
        ...

    def topics(self, info: StreamInfo, strategy: str) -> list[str]:
        """What a member subscribes to in order to read a stream."""
        ...

    def part(self, info: StreamInfo, split: Split) -> Part:
        """What the brokers know a split by. The lane NORMAL decides who has its partition, with all of its lanes."""
        ...

    def join(self, terms: MemberTerms, topics: Sequence[str]) -> BrokerMember:
        """A new member. It joins in the background."""
        ...

    def describe(self, groups: Collection[str]) -> dict[str, DescribedGroup]:
        """These groups as they are."""
        ...

    def delete(self, group: str) -> None:
        """Forget what a group has committed. Raises ``InvalidStateError`` while it has members."""
        ...


def group_broker(log: EventLog) -> GroupBroker | None:
    """The brokers that coordinate the groups of this log, or of the one inside of it; ``None`` for a log that leaves it to the
    bus."""
    found = getattr(getattr(log, "inner", log), "groups", None)
    assert found is None or isinstance(found, GroupBroker)  # noqa: S101 - the name is ours
    return found
