"""A group while a call is dealing with it: members come and go, and the partitions are shared out anew.

Nothing here waits or reads a clock. A rebalance begins when something has changed, and is through when all members have joined
again or its time is up; it then gives the group its next generation. Strategies that are *eager* have every member give up all
that it holds before it joins again. With cooperative-sticky members keep what they hold. A partition that is to move is taken
away in one rebalance, and given on in a second one: that begins by itself, and is through when its holder has joined without it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from event_streaming_bus.consumers.assignors import ASSIGNORS, Owned
from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig, GroupState, Joined, Partition
from event_streaming_bus.errors import FencedError, InvalidStateError, UnknownMemberError
from event_streaming_bus.store.groups import GroupRecord, MemberRecord, Place, RebalanceRecord, StreamShape
from event_streaming_bus.store.redeliveries import retry_stream_name

MAX_MEMBERS: Final = 1_000
_MAX_REASONS: Final = 20
_MAX_GONE: Final = 50
_replace: Final = msgspec.structs.replace


class Rebalance(msgspec.Struct, frozen=True, kw_only=True):
    """A rebalance that is through, with what each member had before and has after it."""

    generation: int
    reasons: tuple[str, ...]
    started_at_ms: int
    completed_at_ms: int
    before: dict[str, tuple[Place, ...]]
    after: dict[str, tuple[Place, ...]]


@lru_cache(maxsize=256)
def config_of(text: str) -> GroupConfig:
    """The configuration that a group's record holds."""
    return msgspec.json.decode(text, type=GroupConfig)


class LiveGroup:
    """A group at ``now_ms``. ``group`` and ``members`` are to be kept if they have changed; ``rebalances`` lists those that came
    to their end meanwhile. ``shapes``: the streams that its members subscribe to, by id, in the order of their names, and the
    group's stream of redeliveries, to which all of them do."""

    def __init__(
        self, group: GroupRecord, members: Mapping[str, MemberRecord], shapes: Mapping[str, StreamShape], now_ms: int
    ) -> None:
        self.group = group
        self.members = dict(members)
        self.rebalances: list[Rebalance] = []
        self.config = config_of(group.config)
        self._shapes = shapes
        retries = retry_stream_name(group.group_id)
        self.retry_stream_id = next((stream_id for stream_id, shape in shapes.items() if shape.name == retries), None)
        self.now_ms = now_ms
        self._is_cooperative = self.config.partition_assignment_strategy is AssignmentStrategy.COOPERATIVE_STICKY

    @property
    def is_rebalancing(self) -> bool:
        """Whether members are joining."""
        return self.group.state == GroupState.PREPARING

    def member(self, member_id: str) -> MemberRecord:
        """The member with this id. Raises ``UnknownMemberError``, which tells why it is none any more if that is known."""
        member = self.members.get(member_id)
        if member is None:
            why = dict(self.group.gone).get(member_id)
            raise UnknownMemberError(
                f"'{member_id}' is not in consumer group '{self.group.name}'"
                + (f" any more: {why}." if why else ".")
                + " Join without a member id to become a member.",
                group=self.group.name,
                member_id=member_id,
            )
        return member

    # --- what time does -----------------------------------------------------------------------------------------------

    def move_on(self) -> None:
        """Do what is due: put out members that have outlived a timeout, begin a rebalance if there are other partitions than were
        shared out, and bring one to its end."""
        for member in list(self.members.values()):
            if why := self._overdue(member):
                self._remove(member, why)
        if self.group.state == GroupState.STABLE:
            counts = self._counts()
            if counts != self.group.shapes:
                there = {*counts, *self.group.shapes}
                changed = sorted(stream_id for stream_id in there if counts.get(stream_id) != self.group.shapes.get(stream_id))
                self.start(f"other partitions than before: {', '.join(map(self._name, changed))}")
        self._settle()

    def _overdue(self, member: MemberRecord) -> str | None:
        config = self.config
        # One that was heard of in times to come is from before the machine was started.
        if abs(self.now_ms - member.heartbeat_at_ms) > config.session_timeout_ms:
            return f"it sent no heartbeat for session_timeout_ms = {config.session_timeout_ms}"
        # A member that waits for a rebalance is given no events that it could ask for.
        if not member.is_waiting and self.now_ms - member.polled_at_ms > config.max_poll_interval_ms:
            return f"it did not ask for events for max_poll_interval_ms = {config.max_poll_interval_ms}"
        return None

    def _settle(self) -> None:
        """End the rebalance if it has nobody left to wait for, or no time."""
        running = self.group.rebalance
        if running is None:
            return
        if not 0 < running.deadline_ms - self.now_ms <= self.config.rebalance_timeout_ms:
            for member in [member for member in self.members.values() if not member.is_waiting]:
                self._remove(member, f"it did not join again within rebalance_timeout_ms = {self.config.rebalance_timeout_ms}")
        if all(member.is_waiting for member in self.members.values()):
            self._complete()

    # --- rebalances ---------------------------------------------------------------------------------------------------

    def start(self, reason: str) -> None:
        """Begin a rebalance, or add a reason to the one that is going on."""
        running = self.group.rebalance
        if running is not None:
            if len(running.reasons) < _MAX_REASONS and reason not in running.reasons:
                self.group = _replace(self.group, rebalance=_replace(running, reasons=(*running.reasons, reason)))
            return
        running = RebalanceRecord(
            started_at_ms=self.now_ms,
            deadline_ms=self.now_ms + self.config.rebalance_timeout_ms,
            reasons=(reason,),
            before={member_id: member.assignment for member_id, member in self.members.items()},
        )
        self.group = _replace(self.group, state=GroupState.PREPARING.value, rebalance=running)

    def _complete(self) -> None:
        counts = self._counts()
        assignment = self._assigned(counts)
        self._enter_generation(assignment)
        self.group = _replace(self.group, shapes=counts)
        given = sum(map(len, assignment.values()))
        if given < sum(counts.values()):  # the others are still held by members that have to give them up first
            self.start("partitions that changed hands")

    def _assigned(self, counts: Mapping[str, int]) -> dict[str, tuple[Place, ...]]:
        owned = {
            member_id: Owned(tuple(Partition(*place) for place in member.owned), member.generation or -1)
            for member_id, member in self.members.items()
        }
        subscriptions = {member_id: self._streams(member) for member_id, member in self.members.items()}
        shared = ASSIGNORS[self.config.partition_assignment_strategy](subscriptions, counts, owned)
        rank = {stream_id: number for number, stream_id in enumerate(counts)}
        return {
            member_id: tuple(sorted(partitions, key=lambda place: (rank[place[0]], place[1])))
            for member_id, partitions in shared.items()
        }

    def _enter_generation(self, assignment: Mapping[str, tuple[Place, ...]]) -> None:
        """Begin the next generation, in which members hold this, and what is taken away from them until they join again."""
        running, generation = self.group.rebalance, self.group.generation + 1
        for member_id, member in self.members.items():
            mine = assignment.get(member_id, ())
            held = held_by(member) if self._is_cooperative else frozenset()
            self.members[member_id] = _replace(
                member,
                generation=generation,
                is_waiting=False,
                assignment=mine,
                giving_up=tuple(sorted(held.difference(mine))),
                polled_at_ms=self.now_ms,
            )
        if running is not None:
            self.rebalances.append(
                Rebalance(
                    generation=generation,
                    reasons=running.reasons,
                    started_at_ms=running.started_at_ms,
                    completed_at_ms=self.now_ms,
                    before=running.before,
                    after={member_id: member.assignment for member_id, member in self.members.items()},
                )
            )
        state = GroupState.STABLE if self.members else GroupState.EMPTY
        self.group = _replace(
            self.group, state=state.value, generation=generation, rebalance=None, last_rebalance_at_ms=self.now_ms
        )

    def _counts(self) -> dict[str, int]:
        """The number of partitions of each stream that there is and that a member subscribes to, in the order of their names."""
        wanted = {stream_id for member in self.members.values() for stream_id in self._streams(member)}
        return {stream_id: shape.partitions for stream_id, shape in self._shapes.items() if stream_id in wanted}

    def _streams(self, member: MemberRecord) -> tuple[str, ...]:
        """The streams that a member subscribes to, that of the redeliveries included."""
        is_all = self.retry_stream_id is None or self.retry_stream_id in member.streams
        return member.streams if is_all else (*member.streams, str(self.retry_stream_id))

    def _name(self, stream_id: str) -> str:
        shape = self._shapes.get(stream_id)
        return stream_id if shape is None else shape.name

    # --- members ------------------------------------------------------------------------------------------------------

    def enter(self, member: MemberRecord) -> None:
        """Let a new member in. Raises ``InvalidStateError`` if there are too many."""
        if len(self.members) >= MAX_MEMBERS:
            raise InvalidStateError(
                f"Consumer group '{self.group.name}' is full: it has {MAX_MEMBERS} members, the most there can be."
            )
        self.start(f"{_who(member)} joined")
        owned = () if self._is_cooperative else member.owned  # others may hold by now what a stranger says to hold
        self._put(member, is_waiting=True, told=self.group.generation, owned=owned)
        self.members = dict(sorted(self.members.items()))
        self._settle()

    def rejoin(self, member_id: str, streams: tuple[str, ...], client_id: str, owned: Sequence[Place]) -> None:
        """Let a member join again, which need be in no rebalance. Raises ``UnknownMemberError``."""
        member = self.member(member_id)
        if set(streams) != set(member.streams):
            self.start(f"{_who(member)} subscribed to other streams")
        now_ms, holds = self.now_ms, {(stream_id, partition) for stream_id, partition in owned}
        more = {"client_id": client_id or member.client_id, "heartbeat_at_ms": now_ms, "polled_at_ms": now_ms}
        if not self.is_rebalancing:
            giving_up = tuple(place for place in member.giving_up if place in holds)
            self._put(member, told=member.generation, giving_up=giving_up, **more)
            return
        if self._is_cooperative:
            kept = tuple(place for place in member.assignment if place in holds)
            giving_up = tuple(place for place in member.giving_up if place in holds)
            hints = (*kept, *giving_up)
        else:
            kept, giving_up, hints = (), (), tuple(sorted(holds))
        self._put(
            member,
            streams=streams,
            is_waiting=True,
            told=self.group.generation,
            assignment=kept,
            giving_up=giving_up,
            owned=hints,
            **more,
        )
        self._settle()

    def leave(self, member_id: str) -> None:
        """Let a member go, if it is one."""
        member = self.members.get(member_id)
        if member is not None:
            self._remove(member, "it left")
            self._settle()

    def _remove(self, member: MemberRecord, why: str) -> None:
        gone = (*self.group.gone[1 - _MAX_GONE :], (member.member_id, why))
        self.start(f"{_who(member)} is gone: {why}")
        self.group = _replace(self.group, gone=gone)
        del self.members[member.member_id]

    def rebalance(self, reason: str) -> None:
        """Let all members join again, if there are any."""
        if self.members:
            self.start(reason)

    def take_all_away(self, reason: str) -> None:
        """Begin a generation in which nobody holds anything, and so nobody can commit, and a rebalance after it."""
        self.members = {member_id: _replace(m, assignment=(), giving_up=(), owned=()) for member_id, m in self.members.items()}
        self.start(reason)
        self._enter_generation({})
        self.rebalance(reason)

    def beat(self, member_id: str, generation: int, *, polled: bool) -> None:
        """Hear of a member. Times that were noted a moment ago stay, so that not every heartbeat is a write."""
        member = self.member(member_id)
        if generation != member.told and (member.is_waiting or generation != member.generation):
            raise self._fenced(member, generation, "Join again.")
        config = self.config
        lag_ms = min(config.heartbeat_interval_ms // 2, config.session_timeout_ms - config.heartbeat_interval_ms)
        poll_lag_ms = min(config.heartbeat_interval_ms // 2, config.max_poll_interval_ms // 10)
        is_due = self.now_ms - member.heartbeat_at_ms >= lag_ms
        is_poll_due = polled and self.now_ms - member.polled_at_ms >= (0 if is_due else poll_lag_ms)
        if is_due or is_poll_due:
            polled_at_ms = self.now_ms if is_poll_due else member.polled_at_ms
            self._put(member, heartbeat_at_ms=max(self.now_ms, member.heartbeat_at_ms), polled_at_ms=polled_at_ms)

    def _put(self, member: MemberRecord, **changes: object) -> None:
        self.members[member.member_id] = _replace(member, **changes)

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer(self, member_id: str) -> Joined:
        """What a member is told."""
        member = self.members[member_id]
        is_rebalancing = self.is_rebalancing
        places = () if is_rebalancing and not self._is_cooperative else member.assignment
        return Joined(
            member_id=member_id,
            generation=self.group.generation,
            assignment=tuple(Partition(*place) for place in places),
            is_rebalancing=is_rebalancing,
            must_rejoin=is_rebalancing and not member.is_waiting,
            is_paused=self.group.is_paused,
            retry_stream_id=self.retry_stream_id,
        )

    def check_commit(self, member_id: str, generation: int, places: Sequence[Place]) -> None:
        """Raise unless a member may commit in these partitions: ``UnknownMemberError``, ``FencedError``."""
        member = self.member(member_id)
        held = held_by(member)
        if generation != member.generation or (member.is_waiting and not self._is_cooperative):
            # A member that keeps its partitions through a rebalance goes on reading, and learns of the new generation later.
            if not self._is_cooperative or generation != member.told:
                raise self._fenced(member, generation, "What it held may be another's by now; read on from what is committed.")
            held = held.intersection(member.owned)
        for stream_id, partition in places:
            if (stream_id, partition) not in held:
                raise FencedError(
                    f"Partition {partition} of stream '{self._name(stream_id)}' is not assigned to member '{member_id}' in "
                    f"generation {self.group.generation} of consumer group '{self.group.name}'. Nothing was committed; drop what "
                    "was read of it, its member goes on from what is committed.",
                    group=self.group.name,
                    member_id=member_id,
                    generation=self.group.generation,
                )

    def _fenced(self, member: MemberRecord, generation: int, advice: str) -> FencedError:
        if member.is_waiting and generation == self.group.generation:
            what = f"Member '{member.member_id}' has given up what it held to join generation {generation + 1}"
        else:
            what = (
                f"Generation {generation} of member '{member.member_id}' is over: consumer group '{self.group.name}' is in "
                f"generation {self.group.generation}"
            )
        return FencedError(
            f"{what}. {advice}", group=self.group.name, member_id=member.member_id, generation=self.group.generation
        )


def held_by(member: MemberRecord) -> frozenset[Place]:
    """What nobody else may hold: what a member is assigned, and what it has not given up yet."""
    return frozenset((*member.assignment, *member.giving_up))


def _who(member: MemberRecord) -> str:
    return f"{member.client_id} ({member.member_id})" if member.client_id else member.member_id
