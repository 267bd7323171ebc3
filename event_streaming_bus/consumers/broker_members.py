"""The members that this process has in groups which the log's brokers coordinate.

A ``Membership`` sends the heartbeats of a ``GroupCoordinator``'s member to here, and is answered in the same terms: when brokers
want partitions back, it is told to join again; it commits what is done and does, and with that the member gives them up.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from event_streaming_bus.consumers.broker_rebalances import RebalanceNotes
from event_streaming_bus.consumers.broker_topics import partitions_of, topics_of
from event_streaming_bus.consumers.model import GroupConfig, Joined, Partition
from event_streaming_bus.consumers.rebalancing import config_of
from event_streaming_bus.errors import (
    BusError,
    ClosedError,
    FencedError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    StorageError,
    StreamNotFoundError,
    UnknownMemberError,
)
from event_streaming_bus.models import Split
from event_streaming_bus.store.broker_groups import BrokerGroup, BrokerGroupStore, MemberNote
from event_streaming_bus.store.groups import check_committed
from event_streaming_bus.store.log.group_broker import BrokerMember, GroupBroker, MemberTerms, Part, Phase, Standing
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.storage import Storage

MAX_STREAMS: Final = 1_000
_MAX_TEXT: Final = 200
_JOIN_S: Final = 30.0
_PLACE_S: Final = 1.0  # how long joining waits for a place, which one that is alone in its group has by then
_LOOK_S: Final = 0.05
_GONE_TIMES: Final = 10  # so many session timeouts after its last heartbeat, what a member told is forgotten
_log: Final = logging.getLogger(__name__)


class _Local:
    """A member of this process: its handle, and what it was last told and has told."""

    def __init__(self, group: BrokerGroup, handle: BrokerMember, streams: tuple[str, ...], client_id: str) -> None:
        self.group_id = group.group_id
        self.name = group.name
        self.config: GroupConfig = config_of(group.config)
        self.handle = handle
        self.streams = streams
        self.client_id = client_id
        self.subscribed: tuple[str, ...] = ()  # topics
        self.topics: dict[str, str] = {}
        self.heard: Standing | None = None  # of the last heartbeat
        self.rejoined = 0 if group.rejoin is None else group.rejoin.number
        self.joined_at_ms = time.time_ns() // 1_000_000
        self.heard_s = self.polled_s = time.monotonic()
        self.noted_s = 0.0
        self.noted_generation = -1
        self.unsettled_at_ms: int | None = self.joined_at_ms  # since when it has had no place


class BrokerMembers:
    """Safe to use from any thread."""

    def __init__(self, storage: Storage, broker: GroupBroker, groups: BrokerGroupStore) -> None:
        self._log = storage.log
        self._broker = broker
        self._groups = groups
        self._rebalances = RebalanceNotes(storage, broker, groups)
        self._members: dict[str, _Local] = {}
        self._gone: dict[str, str] = {}

    # --- joining and leaving ------------------------------------------------------------------------------------------

    def join(self, group_id: str, streams: Sequence[str], member_id: str | None, client_id: str) -> Joined:
        """See ``BrokerCoordinator.join``."""
        if len(client_id) > _MAX_TEXT:
            raise InvalidInputError(f"client_id: expected at most {_MAX_TEXT} characters, got {len(client_id)}", path="client_id")
        if not 1 <= len(streams) <= MAX_STREAMS:
            raise InvalidInputError(f"streams: expected 1 to {MAX_STREAMS}, got {len(streams)}", path="streams")
        if member_id is not None:
            member = self._member(member_id)
            member.handle.give_up()
            return self._answer(member, self._group(group_id))
        group = self._open_group(group_id)
        found = tuple(dict.fromkeys(self._log.find_stream(group.tenant_id, each).stream_id for each in streams))
        config = config_of(group.config)
        terms = MemberTerms(
            group=self._broker.group_name(group.tenant_id, group.name),
            client_id=client_id,
            strategy=config.partition_assignment_strategy.value,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            rebalance_timeout_ms=config.rebalance_timeout_ms,
        )
        topics, subscribed = self._topics(group, found, terms.strategy)
        member = _Local(group, self._broker.join(terms, subscribed), found, client_id)
        member.topics, member.subscribed = topics, subscribed
        try:
            joined_id = self._await_id(member)
        except BaseException:
            member.handle.close()
            raise
        self._members[joined_id] = member
        deadline_s, standing = time.monotonic() + _PLACE_S, member.handle.standing
        while standing.phase is Phase.JOINING and (left_s := deadline_s - time.monotonic()) > 0:
            standing = member.handle.await_change(standing, left_s)
        self._note(member, group)
        return self._answer(member, group)

    def _open_group(self, group_id: str) -> BrokerGroup:
        """The group, once it lets members in."""
        deadline_s = time.monotonic() + _JOIN_S
        while (group := self._group(group_id)).closed is not None:
            if time.monotonic() > deadline_s:
                raise InvalidStateError(f"Nobody may join consumer group '{group.name}' at the moment: {group.closed}.")
            time.sleep(_LOOK_S)
        return group

    def _await_id(self, member: _Local) -> str:
        deadline_s = time.monotonic() + _JOIN_S
        standing = member.handle.standing
        while not standing.member_id:
            if standing.phase is Phase.OUT:
                raise standing.failure or self._unknown("", standing.why)
            if time.monotonic() > deadline_s:
                raise StorageError(f"The brokers let nobody into consumer group '{member.name}' within {_JOIN_S:g} s. Try again.")
            standing = member.handle.await_change(standing, _LOOK_S)
        return standing.member_id

    def leave(self, group_id: str, member_id: str) -> None:
        """See ``BrokerCoordinator.leave``."""
        member = self._members.pop(member_id, None)
        if member is None:
            return
        generation = member.handle.standing.generation
        member.handle.close()
        with self._groups.writing("leaving a consumer group") as tables:
            tables.delete_member(group_id, member_id)
            group = tables.group(group_id)
        if group is not None:
            self._rebalances.left(group, member_id, generation)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def has_news(self, member_id: str) -> bool:
        """See ``BrokerCoordinator.has_news``."""
        member = self._members.get(member_id)
        return member is not None and member.handle.standing is not member.heard

    def heartbeat(self, group_id: str, member_id: str, *, polled: bool) -> Joined:
        """See ``BrokerCoordinator.heartbeat``."""
        member = self._member(member_id)
        now_s = time.monotonic()
        try:
            group = self._group(group_id)
        except (GroupNotFoundError, ClosedError):
            self._put_out(member_id, member, "its group was deleted, or its bus closed")
            raise
        self._check_alive(member_id, member, group, now_s)
        if polled or member.handle.standing.phase is Phase.JOINING:  # while it waits, nothing can be asked of it
            member.polled_s = now_s
        if group.closed is not None:
            self._put_out(member_id, member, group.closed)
            raise self._unknown(member_id, group.closed, group.name)
        self._check_polls(member_id, member, now_s)
        self._follow(member, group)
        self._note(member, group)
        return self._answer(member, group)

    def _check_alive(self, member_id: str, member: _Local, group: BrokerGroup, now_s: float) -> None:
        """Raise unless the member is one, as the brokers say at this moment if nobody has heard of it for long."""
        handle, silent_s = member.handle, now_s - member.heard_s
        member.heard_s = now_s
        handle.touch()
        if silent_s > member.config.session_timeout_ms / 1000:  # the process was stopped: librdkafka may not know yet
            name = self._broker.group_name(group.tenant_id, group.name)
            if all(each.member_id != handle.standing.member_id for each in self._broker.describe([name])[name].members):
                handle.put_out(f"it sent no heartbeat for session_timeout_ms = {member.config.session_timeout_ms}")
        standing = handle.standing
        if standing.phase is Phase.OUT:
            self._put_out(member_id, member, standing.why)
            if standing.failure is not None:
                raise standing.failure
            raise self._unknown(member_id, standing.why, group.name)

    def _check_polls(self, member_id: str, member: _Local, now_s: float) -> None:
        """Raise if the member has not asked for events for too long."""
        if now_s - member.polled_s > member.config.max_poll_interval_ms / 1000:
            why = f"it did not ask for events for max_poll_interval_ms = {member.config.max_poll_interval_ms}"
            self._put_out(member_id, member, why)
            raise self._unknown(member_id, why, member.name)

    def _follow(self, member: _Local, group: BrokerGroup) -> None:
        """Do what is asked of members: subscribe to the streams that there are, and join again."""
        standing = member.handle.standing
        if standing.phase is not Phase.ASSIGNED:
            return
        strategy = member.config.partition_assignment_strategy.value
        topics, subscribed = self._topics(group, member.streams, strategy)
        if subscribed and set(subscribed) != set(member.subscribed):
            member.handle.subscribe(subscribed)
            member.topics, member.subscribed = topics, subscribed
        asked = group.rejoin
        if asked is not None and asked.number > member.rejoined:
            member.rejoined = asked.number
            if standing.generation <= asked.generation:
                member.handle.rejoin()

    def _topics(self, group: BrokerGroup, streams: Sequence[str], strategy: str) -> tuple[dict[str, str], tuple[str, ...]]:
        """``topics_of`` of what members of the group read, and what they subscribe to; streams that were dropped are left out."""
        infos = []
        for reference in (*streams, retry_stream_name(group.group_id)):
            try:
                infos.append(self._log.find_stream(group.tenant_id, reference))
            except StreamNotFoundError:
                continue
        return topics_of(self._broker, infos), tuple(topic for info in infos for topic in self._broker.topics(info, strategy))

    def _answer(self, member: _Local, group: BrokerGroup) -> Joined:
        standing = member.heard = member.handle.standing
        self._rename(member, standing)
        if standing.phase is Phase.OUT:
            self._put_out(standing.member_id, member, standing.why)
            raise self._unknown(standing.member_id, standing.why, group.name)
        if standing.phase is Phase.ASSIGNED:
            member.unsettled_at_ms = None
        elif member.unsettled_at_ms is None:
            member.unsettled_at_ms = time.time_ns() // 1_000_000
        kept = standing.holds - standing.leaving if member.handle.is_cooperative or standing.phase is Phase.ASSIGNED else ()
        retries = retry_stream_name(group.group_id)
        return Joined(
            member_id=standing.member_id,
            generation=max(0, standing.generation),
            assignment=partitions_of(kept, member.topics),
            is_rebalancing=standing.phase is not Phase.ASSIGNED,
            must_rejoin=standing.phase is Phase.REVOKING,
            is_paused=group.is_paused,
            retry_stream_id=self._stream_id(group, retries),
        )

    def _rename(self, member: _Local, standing: Standing) -> None:
        """After it has joined again by its own will, a member may have another id."""
        for known in [known for known, each in self._members.items() if each is member and known != standing.member_id]:
            del self._members[known]
            self._members[standing.member_id] = member

    def _stream_id(self, group: BrokerGroup, name: str) -> str | None:
        try:
            return self._log.find_stream(group.tenant_id, name).stream_id
        except StreamNotFoundError:
            return None

    def _note(self, member: _Local, group: BrokerGroup) -> None:
        """Tell the database of the member, now and then, and of a generation that is new."""
        standing, now_s = member.handle.standing, time.monotonic()
        is_due = now_s - member.noted_s >= member.config.heartbeat_interval_ms / 2000
        if is_due or standing.generation != member.noted_generation:
            self._note_member(member, group, standing, now_s)
        if standing.phase is Phase.ASSIGNED:
            self._rebalances.entered(group, standing, member.unsettled_at_ms)

    def _note_member(self, member: _Local, group: BrokerGroup, standing: Standing, now_s: float) -> None:
        member.noted_s, member.noted_generation, now_ms = now_s, standing.generation, time.time_ns() // 1_000_000
        note = MemberNote(
            member_id=standing.member_id,
            client_id=member.client_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            streams=member.streams,
            generation=standing.generation,
            joined_at_ms=member.joined_at_ms,
            heartbeat_at_ms=now_ms,
            polled_at_ms=now_ms - round((now_s - member.polled_s) * 1000),
        )
        with self._groups.writing("noting a heartbeat") as tables:
            for other in tables.members(group.group_id).values():
                if now_ms - other.heartbeat_at_ms > _GONE_TIMES * member.config.session_timeout_ms:
                    tables.delete_member(group.group_id, other.member_id)
            tables.put_member(group.group_id, note)

    # --- commits ------------------------------------------------------------------------------------------------------

    def commit(self, member_id: str, generation: int, offsets: Mapping[Split, int]) -> None:
        """See ``BrokerCoordinator.commit``."""
        member = self._member(member_id)
        self._check_polls(member_id, member, time.monotonic())
        standing = member.handle.standing
        held = partitions_of(standing.holds, member.topics)
        if generation != max(0, standing.generation) and not member.handle.is_cooperative:
            raise self._fenced(member, f"Generation {generation} of member '{member_id}' is over")
        ends: dict[Split, int] = {}
        parts: dict[Part, int] = {}
        group = self._group(member.group_id)
        for stream_id in {split.stream_id for split in offsets}:
            try:
                info = self._log.find_stream(group.tenant_id, stream_id)
                ends |= self._log.end_offsets(stream_id)
            except StreamNotFoundError:
                continue  # dropped meanwhile
            parts |= {self._broker.part(info, split): at for split, at in offsets.items() if split.stream_id == stream_id}
        offsets = {split: offset for split, offset in offsets.items() if split in ends}
        for split, offset in offsets.items():
            if Partition(split.stream_id, split.partition) not in held:
                raise self._fenced(member, f"Partition {split.partition} of stream '{split.stream_id}' is not its any more")
            check_committed(split, offset, 0, ends[split])
        try:
            member.handle.commit(parts)
        except UnknownMemberError:
            self._put_out(member_id, member, member.handle.standing.why)
            raise
        try:
            with self._groups.writing("noting commits") as tables:
                tables.note_commits(member.group_id, offsets, ends, time.time_ns() // 1_000_000)
        except BusError as error:
            _log.warning("a commit of consumer group %s was not noted: %s", member.name, error)

    # --- what all of it needs -----------------------------------------------------------------------------------------

    def _group(self, group_id: str) -> BrokerGroup:
        with self._groups.reading("looking for a consumer group") as tables:
            group = tables.group(group_id)
        if group is None or group.is_deleted:
            raise GroupNotFoundError(
                f"There is no consumer group with the id '{group_id}'; it may have been deleted.", group_id=group_id
            )
        return group

    def _member(self, member_id: str) -> _Local:
        member = self._members.get(member_id)
        if member is None:
            raise self._unknown(member_id, self._gone.get(member_id, "it is not one of this process"))
        return member

    def _put_out(self, member_id: str, member: _Local, why: str) -> None:
        self._members.pop(member_id, None)
        self._gone = dict([*self._gone.items(), (member_id, why)][-50:])
        member.handle.put_out(why)

    def _unknown(self, member_id: str, why: str, group: str | None = None) -> UnknownMemberError:
        told = "its group" if group is None else f"consumer group '{group}'"
        return UnknownMemberError(
            f"'{member_id}' is not in {told} any more: {why}. Join without a member id to become a member.",
            group=group,
            member_id=member_id,
        )

    def _fenced(self, member: _Local, what: str) -> FencedError:
        standing = member.handle.standing
        return FencedError(
            f"{what}: consumer group '{member.name}' is in generation {standing.generation}. Nothing was committed; read on from "
            "what is committed.",
            group=member.name,
            member_id=standing.member_id,
            generation=standing.generation,
        )
