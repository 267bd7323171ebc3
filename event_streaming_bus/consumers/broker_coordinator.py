"""The coordinator of groups that the log's brokers coordinate, as Kafka's do.

Who is in a group, what each member reads and whose commits count is decided there; the members are librdkafka's, in the process
that uses them (``broker_members``). What brokers do not know, the settings above all, is in the bus's database, and what is asked
of members (to pause, to join again, to be out while offsets are set) is noted there, for them to look at with each heartbeat.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.consumers.broker_members import BrokerMembers
from event_streaming_bus.consumers.broker_topics import partitions_of, topics_of
from event_streaming_bus.consumers.group_settings import checked, differences
from event_streaming_bus.consumers.model import Commit, Group, GroupConfig, GroupState, Joined, Member, Partition
from event_streaming_bus.consumers.rebalancing import config_of
from event_streaming_bus.errors import (
    AlreadyExistsError,
    GroupNotFoundError,
    InvalidStateError,
    StreamNotFoundError,
)
from event_streaming_bus.models import Split
from event_streaming_bus.store.broker_groups import BrokerGroup, BrokerGroupStore, MemberNote, Rejoin
from event_streaming_bus.store.groups import check_committed
from event_streaming_bus.store.log.group_broker import DescribedGroup, GroupBroker
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.storage import Storage

_MAX_TEXT: Final = 200
_OUT_S: Final = 5.0  # how long members may take to be out, beside their timeouts
_LOOK_S: Final = 0.02
_replace: Final = msgspec.structs.replace


class BrokerCoordinator:
    """Coordinates the groups of one log. Safe to use from any thread and any number of processes.

    As ``GroupCoordinator``, but for this: the id of a group follows from its tenant and its name, so that it is the same on all
    machines. A member that joins or leaves is told of by the brokers. What members are asked for reaches them with their
    heartbeats, and those only whose bus uses the same database. A member that another process killed is out after its session
    timeout; until then a group cannot be deleted or reset.
    """

    look_s: Final = 0.2

    def __init__(self, storage: Storage, broker: GroupBroker, *, clock_ms: Callable[[], int] | None = None) -> None:
        assert isinstance(storage.groups, BrokerGroupStore)  # noqa: S101 - the storage chooses by the log, too
        self._log = storage.log
        self._broker = broker
        self._groups = storage.groups
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._members = BrokerMembers(storage, broker, storage.groups)

    # --- groups -------------------------------------------------------------------------------------------------------

    def create(self, tenant_id: str, config: GroupConfig, *, created_by: str | None = None) -> Group:
        """As ``GroupCoordinator.create``. What the brokers have committed already under this name is the group's."""
        config = checked(config)
        self._broker.group_name(tenant_id, config.group_name)
        text = msgspec.json.encode(config).decode()
        with self._groups.writing(f"creating consumer group {config.group_name}") as tables:
            there = tables.find_group(tenant_id, config.group_name)
            if there is None:
                there = BrokerGroup(
                    group_id=ids.derived_id(ids.GROUP, 0, "group", tenant_id, config.group_name),
                    tenant_id=tenant_id,
                    name=config.group_name,
                    config=text,
                    created_at_ms=self._clock_ms(),
                    created_by=created_by,
                )
                tables.put_group(there)
        if there.config != text:
            raise AlreadyExistsError(
                f"consumer group {config.group_name} exists with other settings: {differences(config_of(there.config), config)}",
                group_id=there.group_id,
            )
        return self._told([there])[0]

    def get(self, tenant_id: str, reference: str) -> Group:
        """The tenant's group with this id or name, its members included. ``GroupNotFoundError`` suggests near names."""
        return self._told([self._find(tenant_id, reference)])[0]

    def list_groups(self, tenant_id: str) -> list[Group]:
        """The tenant's groups by name."""
        with self._groups.reading("listing consumer groups") as tables:
            found = tables.groups(tenant_id)
        return self._told([group for group in found if not group.is_deleted])

    def delete(self, tenant_id: str, reference: str) -> Group:
        """Forget a group, its members and what it has committed, and drop its stream of redeliveries. Its members' next calls
        raise ``GroupNotFoundError``. Raises ``InvalidStateError`` if members of others stay in it."""
        group = self.get(tenant_id, reference)
        name = self._broker.group_name(tenant_id, group.name)
        self._ask(group.group_id, closed="the group was deleted", is_deleted=True)
        try:
            self._await_nobody(group)
            self._broker.delete(name)
        except BaseException:
            self._ask(group.group_id, closed=None, is_deleted=False)
            raise
        with self._groups.writing("deleting a consumer group") as tables:
            tables.delete_group(group.group_id)
        with suppress(StreamNotFoundError):
            self._log.drop_stream(self._log.find_stream(tenant_id, retry_stream_name(group.group_id)).stream_id)
        return group

    def set_paused(self, tenant_id: str, reference: str, paused: bool) -> Group:
        """Pause a group or let it go on: the members of a paused one stay, and are given no events."""
        return self._told([self._ask(self._find(tenant_id, reference).group_id, is_paused=paused)])[0]

    def trigger_rebalance(self, tenant_id: str, reference: str, *, reason: str = "asked for") -> Group:
        """Let all members join anew. A group without members stays as it is.

        Brokers have no such call. Members subscribe anew once they have seen that it is asked for; the one that leads the group
        begins a rebalance by that, and all others follow.
        """
        group = self.get(tenant_id, reference)
        if not group.members:
            return group
        with self._groups.writing("starting a rebalance") as tables:
            record = self._known(tables.group(group.group_id), group.group_id)
            number = 1 if record.rejoin is None else record.rejoin.number + 1
            asked = Rejoin(number=number, generation=record.generation, reason=reason[:_MAX_TEXT], asked_at_ms=self._clock_ms())
            tables.put_group(_replace(record, rejoin=asked))
        return self.get(tenant_id, group.group_id)

    # --- members ------------------------------------------------------------------------------------------------------

    def join(
        self,
        group_id: str,
        streams: Sequence[str],
        *,
        member_id: str | None = None,
        client_id: str = "",
        owned: Sequence[Partition] = (),
    ) -> Joined:
        """As ``GroupCoordinator.join``. The answer may name another member than before: it has given up what it held, as that one
        did. While offsets are being set, it waits for that."""
        return self._members.join(group_id, streams, member_id, client_id)

    def heartbeat(self, group_id: str, member_id: str, generation: int, *, polled: bool = False) -> Joined:
        """As ``GroupCoordinator.heartbeat``, for a member of this process. Heartbeats to the brokers are librdkafka's, as long as
        this one is sent at all."""
        return self._members.heartbeat(group_id, member_id, polled=polled)

    def has_news(self, member_id: str) -> bool:
        """Whether the member's place has changed since its last heartbeat."""
        return self._members.has_news(member_id)

    def leave(self, group_id: str, member_id: str) -> None:
        """Leave a group; the others rebalance. Leaving twice is harmless."""
        self._members.leave(group_id, member_id)

    # --- offsets ------------------------------------------------------------------------------------------------------

    def commit(self, group_id: str, member_id: str, generation: int, offsets: Mapping[Split, int]) -> None:
        """As ``GroupCoordinator.commit``. The brokers refuse what is not of the member's generation. Once it is committed it
        stands, also if that cannot be noted for ``commits``."""
        self._members.commit(member_id, generation, offsets)

    def committed(self, group_id: str) -> dict[Split, int]:
        """What the group has committed, whoever did it."""
        return self._log.committed(self._name_of(group_id))

    def commits(self, group_id: str) -> dict[Split, list[Commit]]:
        """The last ten commits of each split that members of the bus have made, oldest first, those that changed nothing
        included."""
        with self._groups.reading("reading commits") as tables:
            found = tables.commits(self._known(tables.group(group_id), group_id).group_id)
        return {split: [Commit(*each) for each in commits] for split, commits in found.items()}

    def reset(self, group_id: str, offsets: Mapping[Split, int]) -> None:
        """Set what the group has committed. The members of a paused group are put out and join again when it is done, since
        brokers let nobody set offsets of a group that has members. Raises ``InvalidStateError`` while the group has members and
        is not paused, or some that do not obey; and ``OffsetOutOfRangeError``."""
        with self._groups.reading("setting committed offsets") as tables:
            record = self._known(tables.group(group_id), group_id)
        (group,) = self._told([record])
        if group.members and not group.is_paused:
            raise InvalidStateError(
                f"Consumer group '{group.name}' has {len(group.members)} members that are reading. Pause the group or "
                "stop its members first."
            )
        ends: dict[Split, int] = {}
        for stream_id in {split.stream_id for split in offsets}:
            ends |= self._log.end_offsets(stream_id)
        for split, offset in offsets.items():
            check_committed(split, offset, 0, ends[split])
        try:
            self._ask(group_id, closed="the committed offsets were set")
            self._await_nobody(group)
            self._log.commit(self._name_of(group_id), offsets)
        finally:
            self._ask(group_id, closed=None)
        with self._groups.writing("noting commits") as tables:
            tables.note_commits(group_id, offsets, ends, self._clock_ms())

    # --- what all of it needs -----------------------------------------------------------------------------------------

    def _find(self, tenant_id: str, reference: str) -> BrokerGroup:
        with self._groups.reading("looking for a consumer group") as tables:
            group = tables.find_group(tenant_id, reference)
            if group is not None and not group.is_deleted:
                return group
            names = [each.name for each in tables.groups(tenant_id) if not each.is_deleted]
        near = get_close_matches(reference, names, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise GroupNotFoundError(f"There is no consumer group '{reference}'.{hint}", group=reference)

    def _known(self, group: BrokerGroup | None, group_id: str) -> BrokerGroup:
        if group is None:
            raise GroupNotFoundError(
                f"There is no consumer group with the id '{group_id}'; it may have been deleted.", group_id=group_id
            )
        return group

    def _name_of(self, group_id: str) -> str:
        with self._groups.reading("looking for a consumer group") as tables:
            group = self._known(tables.group(group_id), group_id)
        return self._broker.group_name(group.tenant_id, group.name)

    def _ask(self, group_id: str, **changes: object) -> BrokerGroup:
        """Note what is asked of the members."""
        with self._groups.writing("changing a consumer group") as tables:
            group = self._known(tables.group(group_id), group_id)
            changed = _replace(group, **changes)
            if changed != group:
                tables.put_group(changed)
        return changed

    def _await_nobody(self, group: Group) -> None:
        """Wait until the group has no members any more. Raises ``InvalidStateError`` if that takes longer than their timeouts."""
        name, config = self._broker.group_name(group.tenant_id, group.name), group.config
        timeout_s = (config.session_timeout_ms + config.heartbeat_interval_ms) / 1000 + _OUT_S
        deadline_s = time.monotonic() + timeout_s
        while members := self._broker.describe([name])[name].members:
            if time.monotonic() > deadline_s:
                told = ", ".join(member.client_id or member.member_id for member in members)
                raise InvalidStateError(
                    f"Consumer group '{group.name}' still has members after {timeout_s:.0f} s, which do not go when they are "
                    f"asked to: {told}. Stop them first."
                )
            time.sleep(_LOOK_S)

    def _told(self, records: Sequence[BrokerGroup]) -> list[Group]:
        """Groups as they are: as noted, and as the brokers tell of them."""
        named = {self._broker.group_name(record.tenant_id, record.name): record for record in records}
        described = self._broker.describe(list(named))
        topics: dict[str, str] = {}
        for tenant_id in {record.tenant_id for name, record in named.items() if described[name].members}:
            topics |= topics_of(self._broker, self._log.list_streams(tenant_id, internal=True))
        told = []
        for name, record in named.items():
            with self._groups.reading("reading what members tell") as tables:
                notes = tables.members(record.group_id) if described[name].members else {}
            told.append(_group(record, described[name], notes, topics))
        return told


def _group(record: BrokerGroup, described: DescribedGroup, notes: Mapping[str, MemberNote], topics: Mapping[str, str]) -> Group:
    members = []
    for member in described.members:
        note, assignment = notes.get(member.member_id), partitions_of(member.parts, topics)
        streams = tuple(dict.fromkeys(partition.stream_id for partition in assignment))  # one of others' consumers tells no more
        members.append(
            Member(
                member_id=member.member_id,
                client_id=member.client_id if note is None else note.client_id,
                host=member.host if note is None else note.host,
                pid=None if note is None else note.pid,
                streams=streams if note is None else note.streams,
                generation=record.generation if note is None else max(0, note.generation),
                assignment=assignment,
                joined_at_ms=None if note is None else note.joined_at_ms,
                heartbeat_at_ms=None if note is None else note.heartbeat_at_ms,
                polled_at_ms=None if note is None else note.polled_at_ms,
            )
        )
    state = GroupState.STABLE if members else GroupState.EMPTY
    return Group(
        group_id=record.group_id,
        tenant_id=record.tenant_id,
        config=config_of(record.config),
        state=state if described.is_stable else GroupState.PREPARING,
        generation=record.generation,
        is_paused=record.is_paused,
        created_at_ms=record.created_at_ms,
        created_by=record.created_by,
        last_rebalance_at_ms=record.last_rebalance_at_ms,
        members=tuple(sorted(members, key=lambda member: member.member_id)),
    )
