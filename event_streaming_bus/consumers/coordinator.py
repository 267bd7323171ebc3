"""The group coordinator of an embedded log: who is in a consumer group, what each member may read, and whose commits count.

There is no coordinating process. The state of a group is in the data folder's database, and each call is one transaction on it,
in whatever process it is made; so members in many processes coordinate each other. Every call first looks whether members have
outlived their timeouts, whether a rebalance has waited long enough, and moves the group on.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Final, TypeVar

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.consumers.group_settings import RANGES, checked, differences
from event_streaming_bus.consumers.model import (
    MEMBER,
    Commit,
    Group,
    GroupConfig,
    GroupState,
    Joined,
    Member,
    Partition,
)
from event_streaming_bus.consumers.rebalance_history import tell
from event_streaming_bus.consumers.rebalancing import LiveGroup, config_of
from event_streaming_bus.errors import (
    AlreadyExistsError,
    BusError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    StreamNotFoundError,
)
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.models import Split
from event_streaming_bus.store.groups import GroupRecord, GroupStore, GroupTables, MemberRecord
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.storage import Storage

__all__ = ["MAX_STREAMS", "RANGES", "GroupCoordinator"]

MAX_STREAMS: Final = 1_000
_MAX_TEXT: Final = 200
T = TypeVar("T")


class GroupCoordinator:
    """Coordinates the groups of one data folder. Safe to use from any thread and any number of processes."""

    look_s: Final = None  # what changes in a group changes the version of the log

    def __init__(self, storage: Storage, *, clock_ms: Callable[[], int] | None = None) -> None:
        assert isinstance(storage.groups, GroupStore)  # noqa: S101 - ``coordinator_of`` chooses by the log
        self._storage = storage
        self._groups = storage.groups
        self._clock_ms = clock_ms or _now_ms
        self._is_real = clock_ms is None

    # --- groups -------------------------------------------------------------------------------------------------------

    def create(self, tenant_id: str, config: GroupConfig, *, created_by: str | None = None) -> Group:
        """Make a group. Making it again with the same settings returns it; with others, ``AlreadyExistsError``.
        ``InvalidInputError`` names a setting that is out of range, and the range. A heartbeat interval must be shorter than the
        session timeout."""
        config = checked(config)
        text = msgspec.json.encode(config).decode()
        with self._groups.writing(f"creating consumer group {config.group_name}") as tables:
            there = tables.find_group(tenant_id, config.group_name)
            if there is None:
                group = GroupRecord(
                    group_id=ids.new_id(ids.GROUP),
                    tenant_id=tenant_id,
                    name=config.group_name,
                    config=text,
                    state=GroupState.EMPTY.value,
                    created_at_ms=self._clock_ms(),
                    created_by=created_by,
                )
                tables.add_group(group)
                return _told(LiveGroup(group, {}, {}, group.created_at_ms))
        if there.config != text:
            raise AlreadyExistsError(
                f"consumer group {config.group_name} exists with other settings: {differences(config_of(there.config), config)}",
                group_id=there.group_id,
            )
        return self.get(tenant_id, there.group_id)

    def get(self, tenant_id: str, reference: str) -> Group:
        """The tenant's group with this id or name, its members included. ``GroupNotFoundError`` suggests near names."""
        with self._groups.reading("looking for a consumer group") as tables:
            group = tables.find_group(tenant_id, reference)
            names = [] if group is not None else [each.name for each in tables.groups(tenant_id)]
        if group is None:
            near = get_close_matches(reference, names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise GroupNotFoundError(f"There is no consumer group '{reference}'.{hint}", group=reference)
        return _told(self._look(group.group_id))

    def list_groups(self, tenant_id: str) -> list[Group]:
        """The tenant's groups by name."""
        with self._groups.reading("listing consumer groups") as tables:
            found = tables.groups(tenant_id)
        groups = []
        for each in found:
            try:
                groups.append(_told(self._look(each.group_id)))
            except GroupNotFoundError:
                continue  # deleted since
        return groups

    def delete(self, tenant_id: str, reference: str) -> Group:
        """Forget a group, its members and what it has committed, and drop its stream of redeliveries. Its members' next calls
        raise ``GroupNotFoundError``."""
        group = self.get(tenant_id, reference)
        with self._groups.writing("deleting a consumer group") as tables:
            tables.delete_group(group.group_id)
        with suppress(StreamNotFoundError):
            log = self._storage.log
            log.drop_stream(log.find_stream(tenant_id, retry_stream_name(group.group_id)).stream_id)
        return group

    def set_paused(self, tenant_id: str, reference: str, paused: bool) -> Group:
        """Pause a group or let it go on: the members of a paused one stay, and are given no events."""

        def pause(live: LiveGroup, tables: GroupTables) -> Group:
            if live.group.is_paused != paused:
                live.group = msgspec.structs.replace(live.group, is_paused=paused)
            return _told(live)

        return self._change(self.get(tenant_id, reference).group_id, "pausing a consumer group", pause)

    def trigger_rebalance(self, tenant_id: str, reference: str, *, reason: str = "asked for") -> Group:
        """Let all members join anew. A group without members stays as it is."""

        def trigger(live: LiveGroup, tables: GroupTables) -> Group:
            live.rebalance(reason[:_MAX_TEXT])
            return _told(live)

        return self._change(self.get(tenant_id, reference).group_id, "starting a rebalance", trigger)

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
        """Join a group, or rejoin it in a rebalance, to read these streams (ids). ``owned``: what the member still holds, for the
        sticky strategies. The answer says whether the rebalance is through; while it is not, call ``heartbeat`` until it is.

        Raises ``GroupNotFoundError``, ``StreamNotFoundError`` (but not for a stream that the member subscribed to before and that
        was dropped since), and ``UnknownMemberError`` for a ``member_id`` that is not, or is no longer, a member.
        """
        if len(client_id) > _MAX_TEXT:
            raise InvalidInputError(f"client_id: expected at most {_MAX_TEXT} characters, got {len(client_id)}", path="client_id")
        known = self._look(group_id)
        wanted = () if member_id is None else known.member(member_id).streams
        streams = self._stream_ids(known.group.tenant_id, streams, wanted)

        def enter(live: LiveGroup, tables: GroupTables) -> Joined:
            if member_id is not None:
                live.rejoin(member_id, streams, client_id, owned)
                return live.answer(member_id)
            now_ms = live.now_ms
            member = MemberRecord(
                member_id=ids.new_id(MEMBER) + secrets.token_hex(8),  # nobody guesses the id of another member
                client_id=client_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                streams=streams,
                owned=tuple(sorted({(stream_id, partition) for stream_id, partition in owned})),
                joined_at_ms=now_ms,
                heartbeat_at_ms=now_ms,
                polled_at_ms=now_ms,
            )
            live.enter(member)
            return live.answer(member.member_id)

        return self._change(group_id, "joining a consumer group", enter, streams)

    def heartbeat(self, group_id: str, member_id: str, generation: int, *, polled: bool = False) -> Joined:
        """Say that the member is alive, and with ``polled`` that it asks for events. The answer says whether it must rejoin.

        Raises ``UnknownMemberError`` for one that was put out, and ``FencedError`` for a generation that is over. A member gives
        the generation that it was last told, which may be that of its last join. Not every heartbeat is noted: a member that
        sends one each ``heartbeat_interval_ms`` is never put out for silence, one that goes silent is within
        ``session_timeout_ms``.
        """
        live = self._look(group_id)
        heard_of = live.member(member_id)
        live.beat(member_id, generation, polled=polled)
        if live.members[member_id] is heard_of:  # noted a moment ago
            return live.answer(member_id)

        def beat(live: LiveGroup, tables: GroupTables) -> Joined:
            live.beat(member_id, generation, polled=polled)
            return live.answer(member_id)

        return self._change(group_id, "noting a heartbeat", beat)

    def leave(self, group_id: str, member_id: str) -> None:
        """Leave a group; the others rebalance. Leaving twice is harmless."""
        self._change(group_id, "leaving a consumer group", lambda live, tables: live.leave(member_id))

    def has_news(self, member_id: str) -> bool:
        """Whether a heartbeat would tell of something that the version of the log does not: never."""
        return False

    # --- offsets ------------------------------------------------------------------------------------------------------

    def commit(self, group_id: str, member_id: str, generation: int, offsets: Mapping[Split, int]) -> None:
        """Note how far a member has come: for each split the offset of the next event to read.

        What a member holds it may commit until it rejoins. With cooperative-sticky it holds what it keeps all the time, and what
        is taken away from it until it has joined again without it; for these, the generation that it was told last counts too.

        Raises ``FencedError`` if the generation is over or a split is not the member's (a paused consumer that wakes up late),
        and ``OffsetOutOfRangeError`` for an offset beyond the end or before 0; then nothing is noted. Splits of streams that were
        dropped meanwhile are passed over.
        """

        def commit(live: LiveGroup, tables: GroupTables) -> None:
            live.check_commit(member_id, generation, [(split.stream_id, split.partition) for split in offsets])
            tables.commit(group_id, offsets, self._clock_ms(), pass_over_dropped=True)

        fault_point("consumer.commit")
        self._change(group_id, "committing offsets", commit)
        fault_point("consumer.committed")

    def committed(self, group_id: str) -> dict[Split, int]:
        """What the group has committed."""
        self._look(group_id)
        return self._storage.log.committed(group_id)

    def commits(self, group_id: str) -> dict[Split, list[Commit]]:
        """The last ten commits of each split, oldest first, those that changed nothing included."""
        self._look(group_id)
        found: dict[Split, list[Commit]] = {}
        with self._groups.reading("reading commits") as tables:
            for split, at_ms, offset, end_offset in tables.commits(group_id):
                found.setdefault(split, []).append(Commit(at_ms, offset, end_offset))
        return found

    def reset(self, group_id: str, offsets: Mapping[Split, int]) -> None:
        """Set what the group has committed. The members of a paused group lose all that they hold and must join again, so that
        none commits what it read before. Raises ``InvalidStateError`` while the group has members and is not paused, and
        ``OffsetOutOfRangeError``."""

        def reset(live: LiveGroup, tables: GroupTables) -> None:
            if live.members and not live.group.is_paused:
                raise InvalidStateError(
                    f"Consumer group '{live.group.name}' has {len(live.members)} members that are reading. Pause the group or "
                    "stop its members first."
                )
            tables.commit(group_id, offsets, self._clock_ms())
            if live.members:
                live.take_all_away("the committed offsets were set")

        self._change(group_id, "setting committed offsets", reset)

    # --- one call, one transaction ------------------------------------------------------------------------------------

    def _look(self, group_id: str) -> LiveGroup:
        """The group as it is by now. It is kept so if time alone has changed it."""
        with self._groups.reading("reading a consumer group") as tables:
            live, members = self._load(tables, group_id)
        group = live.group
        live.move_on()
        if live.group is group and live.members == members:
            return live
        return self._change(group_id, "bringing a consumer group up to date", lambda live, tables: live)

    def _change(self, group_id: str, doing: str, change: Callable[[LiveGroup, GroupTables], T], streams: Sequence[str] = ()) -> T:
        """What ``change`` returns for the group as it is by now. What it raises is raised once the group is kept: it must not
        have changed anything then."""
        refused = None
        with self._groups.writing(doing) as tables:
            live, members = self._load(tables, group_id, streams)
            group = live.group
            live.move_on()
            try:
                result = change(live, tables)
            except BusError as error:
                refused = error
            if live.group is not group:
                tables.update_group(live.group)
            tables.put_members(group_id, members, live.members)
        self._record(live)
        if refused is not None:
            raise refused
        return result

    def _load(self, tables: GroupTables, group_id: str, streams: Sequence[str] = ()) -> tuple[LiveGroup, dict[str, MemberRecord]]:
        """The group as it was kept, and its members."""
        group = tables.group(group_id)
        if group is None:
            raise GroupNotFoundError(
                f"There is no consumer group with the id '{group_id}'; it may have been deleted.", group_id=group_id
            )
        members = tables.members(group_id)
        wanted = {stream_id for member in members.values() for stream_id in member.streams}
        # By the clock on the wall, members would be put out, or stay though they are dead, whenever that is set.
        now_ms = tables.now_ms() if self._is_real else self._clock_ms()
        return LiveGroup(group, members, tables.shapes(group, wanted.union(streams)), now_ms), members

    def _stream_ids(self, tenant_id: str, streams: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
        """The ids of streams that a member wants to read. One that it knew and that was dropped since is none to complain of."""
        if not 1 <= len(streams) <= MAX_STREAMS:
            raise InvalidInputError(f"streams: expected 1 to {MAX_STREAMS}, got {len(streams)}", path="streams")
        found = [each if each in known else self._storage.log.find_stream(tenant_id, each).stream_id for each in streams]
        return tuple(dict.fromkeys(found))

    def _record(self, live: LiveGroup) -> None:
        group = live.group
        strategy = live.config.partition_assignment_strategy
        tell(self._storage, group.tenant_id, group.group_id, group.name, strategy, live.rebalances)


def _told(live: LiveGroup) -> Group:
    group = live.group
    return Group(
        group_id=group.group_id,
        tenant_id=group.tenant_id,
        config=live.config,
        state=GroupState(group.state),
        generation=group.generation,
        is_paused=group.is_paused,
        created_at_ms=group.created_at_ms,
        created_by=group.created_by,
        last_rebalance_at_ms=group.last_rebalance_at_ms,
        members=tuple(
            Member(
                member_id=member.member_id,
                client_id=member.client_id,
                host=member.host,
                pid=member.pid,
                streams=member.streams,
                generation=member.generation,
                assignment=tuple(Partition(*place) for place in member.assignment),
                joined_at_ms=member.joined_at_ms,
                heartbeat_at_ms=member.heartbeat_at_ms,
                polled_at_ms=member.polled_at_ms,
            )
            for member in live.members.values()
        ),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
