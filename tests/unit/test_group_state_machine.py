"""Whatever members do and leave undone, a group keeps its promises: two processes' coordinators, one clock, many members."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from event_streaming_bus import ids
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import AssignmentStrategy, Group, GroupConfig, GroupState, Joined, Partition
from event_streaming_bus.errors import FencedError, InvalidStateError, UnknownMemberError
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.storage import Storage

SESSION_MS: Final = 10_000
HEARTBEAT_MS: Final = 1_000
POLL_MS: Final = 30_000
REBALANCE_MS: Final = 15_000
MAX_MEMBERS: Final = 6
EVENTS: Final = 5  # in each partition of each stream

PICK = st.integers(0, 1 << 16)


class Reader:
    """A member as it sees itself: what it was told last, and what it believes to hold."""

    def __init__(self, answer: Joined, streams: list[str], now_ms: int) -> None:
        self.answer = answer
        self.streams = streams
        self.holds: set[Partition] = set()
        self.gives_up: set[Partition] = set()
        """What was taken away from a cooperative member since it joined last: it may still commit this."""
        self.heard_ms = self.polled_ms = now_ms
        self.is_lost = self.is_out = False

    @property
    def generation(self) -> int:
        return self.answer.generation


class Groups(RuleBasedStateMachine):
    """Members that do right and wrong, in an order that nobody would think of."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.storages = [Storage(self.folder, EmbeddedLog(self.folder, synchronous="NORMAL"), synchronous="NORMAL") for _ in "12"]
        self.now_ms = 1_700_000_000_000
        self.coordinators = [GroupCoordinator(storage, clock_ms=lambda: self.now_ms) for storage in self.storages]
        self.steps = 0
        self.streams: dict[str, int] = {}
        self.readers: dict[str, Reader] = {}
        self.committed: dict[Split, int] = {}
        self.generation = 0
        self.rebalancing_since: tuple[int, int] | None = None  # generation, when it was first seen

    def teardown(self) -> None:
        for storage in self.storages:
            storage.close()
        shutil.rmtree(self.folder)

    @property
    def coordinator(self) -> GroupCoordinator:
        self.steps += 1
        return self.coordinators[self.steps % 2]

    @property
    def group(self) -> Group:
        return self.coordinator.get("default", self.group_id)

    @initialize(strategy=st.sampled_from(AssignmentStrategy), partitions=st.integers(1, 5))
    def make(self, strategy: AssignmentStrategy, partitions: int) -> None:
        config = GroupConfig(
            group_name="billing",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=POLL_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            partition_assignment_strategy=strategy,
        )
        self.is_cooperative = strategy is AssignmentStrategy.COOPERATIVE_STICKY
        self.group_id = self.coordinator.create("default", config).group_id
        self.add_stream(partitions)

    # --- what is around ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.streams) < 3)
    @rule(partitions=st.integers(1, 4))
    def add_stream(self, partitions: int) -> None:
        log = self.storages[0].log
        stream = log.create_stream(StreamConfig(name=f"s{self.steps}", partitions=partitions)).stream_id
        self.streams[stream] = partitions
        appends = [
            Append(stream, [Event(i, "t", 0, b"1") for i in ids.new_ids(ids.EVENT, EVENTS)], new_ids=True, partition=number)
            for number in range(partitions)
        ]
        log.append(appends)

    @precondition(lambda self: len(self.streams) > 1)
    @rule(pick=PICK)
    def drop_stream(self, pick: int) -> None:
        stream = sorted(self.streams)[pick % len(self.streams)]
        self.storages[0].log.drop_stream(stream)
        del self.streams[stream]
        self.committed = {split: offset for split, offset in self.committed.items() if split.stream_id != stream}
        for reader in self.readers.values():
            for places in (reader.holds, reader.gives_up):
                places -= {place for place in places if place.stream_id == stream}

    @rule(step_ms=st.sampled_from([1, 400, 3_000, SESSION_MS - HEARTBEAT_MS, SESSION_MS + 1, REBALANCE_MS]))
    def wait(self, step_ms: int) -> None:
        self.now_ms += step_ms

    # --- members ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.readers) < MAX_MEMBERS)
    @rule(pick=PICK, boasts=st.booleans())
    def join(self, pick: int, boasts: bool) -> None:
        wanted = self._some_streams(pick)
        owned = self._everything() if boasts else []
        answer = self.coordinator.join(self.group_id, wanted, owned=owned)
        reader = self.readers[answer.member_id] = Reader(answer, wanted, self.now_ms)
        self._heard(reader, answer)

    def _some_streams(self, pick: int) -> list[str]:
        there = sorted(self.streams)
        return [stream for place, stream in enumerate(there) if pick >> place & 1] or there

    def _heard(self, reader: Reader, answer: Joined) -> None:
        """Believe what one is told, and give up what is taken away; an eager member still commits before it joins again."""
        reader.answer, reader.heard_ms = answer, self.now_ms
        if self.is_cooperative:
            reader.gives_up |= reader.holds.difference(answer.assignment)
        if self.is_cooperative or not answer.is_rebalancing:
            reader.holds = set(answer.assignment)

    def _a_reader(self, pick: int) -> tuple[str, Reader]:
        member_id = sorted(self.readers)[pick % len(self.readers)]
        return member_id, self.readers[member_id]

    @precondition(lambda self: self.readers)
    @rule(pick=PICK, polled=st.booleans())
    def beat(self, pick: int, polled: bool) -> None:
        self._beat(*self._a_reader(pick), polled=polled)

    def _beat(self, member_id: str, reader: Reader, *, polled: bool) -> None:
        is_in = member_id in {member.member_id for member in self.group.members}
        try:
            answer = self.coordinator.heartbeat(self.group_id, member_id, reader.generation, polled=polled)
        except UnknownMemberError:
            assert not is_in
            del self.readers[member_id]
        except FencedError:
            assert reader.is_lost
            reader.holds.clear()
        else:
            assert is_in
            if polled:
                reader.polled_ms = self.now_ms
            self._heard(reader, answer)

    @precondition(lambda self: self.readers)
    @rule(pick=PICK, other=st.one_of(st.none(), PICK))
    def rejoin(self, pick: int, other: int | None) -> None:
        member_id, reader = self._a_reader(pick)
        self._rejoin(member_id, reader, None if other is None else self._some_streams(other))

    def _rejoin(self, member_id: str, reader: Reader, streams: list[str] | None = None) -> None:
        owned = () if reader.is_lost else reader.answer.assignment
        try:
            answer = self.coordinator.join(self.group_id, streams or reader.streams, member_id=member_id, owned=owned)
        except UnknownMemberError:
            del self.readers[member_id]
            return
        reader.streams = streams or reader.streams
        reader.is_lost, reader.polled_ms = False, self.now_ms
        reader.gives_up.clear()
        reader.holds = {place for place in owned if place.stream_id in self.streams} if self.is_cooperative else set()
        self._heard(reader, answer)

    @rule(pick=PICK)
    def all_rejoin(self, pick: int) -> None:
        """All that are to, one after the other; most do not hear how it ended."""
        in_order = sorted(self.readers)
        for member_id in in_order[pick % 5 :] + in_order[: pick % 5]:
            reader = self.readers[member_id]
            if not reader.is_lost:
                self._beat(member_id, reader, polled=True)
            if member_id in self.readers and (reader.is_lost or reader.answer.must_rejoin):
                self._rejoin(member_id, reader)

    @precondition(lambda self: self.readers)
    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        member_id, _ = self._a_reader(pick)
        self.coordinator.leave(self.group_id, member_id)
        del self.readers[member_id]

    @rule()
    def settle(self) -> None:
        """All do as they are told, until there is nothing more to do."""
        for _ in range(12):
            for member_id, reader in list(self.readers.items()):
                if not reader.is_lost:
                    self._beat(member_id, reader, polled=True)
                if member_id in self.readers and (reader.is_lost or reader.answer.must_rejoin):
                    self._rejoin(member_id, reader)
            if self.group.state is not GroupState.PREPARING and not any(r.answer.is_rebalancing for r in self.readers.values()):
                return
        raise AssertionError("the group does not settle")

    # --- offsets ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.readers)
    @rule(pick=PICK, place=PICK, offset=st.integers(0, EVENTS), mine=st.booleans(), back=st.sampled_from([0, 0, 1, 2]))
    def commit(self, pick: int, place: int, offset: int, mine: bool, back: int) -> None:
        member_id, reader = self._a_reader(pick)
        choices = sorted(reader.holds) if mine and reader.holds else self._everything()
        self._commit(member_id, reader, choices[place % len(choices)], offset, back)

    @rule(offset=st.integers(0, EVENTS))
    def all_commit_everything(self, offset: int) -> None:
        """Every member tries each partition of the first stream, in this generation and in the one before."""
        for member_id, reader in self.readers.items():
            for place in [place for place in self._everything() if place.stream_id == min(self.streams)]:
                for back in (0, 1):
                    self._commit(member_id, reader, place, offset, back)

    def _everything(self) -> list[Partition]:
        return [Partition(stream, number) for stream, count in self.streams.items() for number in range(count)]

    def _commit(self, member_id: str, reader: Reader, place: Partition, offset: int, back: int) -> None:
        split = Split(place.stream_id, EventPriority.NORMAL, place.partition)
        member = {member.member_id: member for member in self.group.members}.get(member_id)
        is_in = member is not None
        if self.is_cooperative:
            may = is_in and back == 0 and not reader.is_lost and place in reader.holds | reader.gives_up
        else:
            may = member is not None and reader.generation - back == member.generation and place in member.assignment
        try:
            self.coordinator.commit(self.group_id, member_id, reader.generation - back, {split: offset})
        except UnknownMemberError:
            assert not is_in
        except FencedError:
            assert is_in
            assert not may
        else:
            # What a cooperative member holds all along is its own in the generation that it joined from and in the next.
            kept_on = self.is_cooperative and back == 1 and not reader.is_lost and place in reader.holds | reader.gives_up
            assert may or kept_on
            self.committed[split] = offset

    @rule(pick=PICK, offset=st.integers(0, EVENTS))
    def reset(self, pick: int, offset: int) -> None:
        stream = sorted(self.streams)[pick % len(self.streams)]
        split = Split(stream, EventPriority.NORMAL, pick % self.streams[stream])
        group = self.group
        try:
            self.coordinator.reset(self.group_id, {split: offset})
        except InvalidStateError:
            assert group.members
            assert not group.is_paused
            return
        assert group.is_paused or not group.members
        self.committed[split] = offset
        for reader in self.readers.values():
            reader.is_lost = True

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        assert self.coordinator.set_paused("default", "billing", paused).is_paused is paused

    @rule()
    def trigger(self) -> None:
        self.coordinator.trigger_rebalance("default", "billing")

    # --- what holds all the time --------------------------------------------------------------------------------------

    @invariant()
    def holds_what_is_promised(self) -> None:
        group = self.group
        members = {member.member_id: member for member in group.members}
        assert group.generation >= self.generation
        self.generation = group.generation
        assert (group.state is GroupState.EMPTY) is (not members)
        self._check_partitions(group)
        self._check_who_is_out(group)
        assert self.coordinator.committed(self.group_id) == self.committed
        last = {split: commits[-1].offset for split, commits in self.coordinator.commits(self.group_id).items()}
        assert last == self.committed

    def _check_partitions(self, group: Group) -> None:
        assigned = [place for member in group.members for place in member.assignment]
        assert len(assigned) == len(set(assigned))
        believed = [
            place
            for member in group.members
            if (reader := self.readers.get(member.member_id)) is not None and not reader.is_lost
            for place in reader.holds | reader.gives_up
        ]
        assert len(believed) == len(set(believed))
        if group.state is GroupState.STABLE:
            wanted = {stream for member in group.members for stream in member.streams}
            assert sorted(assigned) == sorted(
                Partition(stream, number) for stream in wanted & self.streams.keys() for number in range(self.streams[stream])
            )
            assert all(place.stream_id in member.streams for member in group.members for place in member.assignment)

    def _check_who_is_out(self, group: Group) -> None:
        members = {member.member_id for member in group.members}
        since = self.rebalancing_since
        for member_id, reader in self.readers.items():
            silent_ms = self.now_ms - reader.heard_ms
            idle_ms = self.now_ms - max(reader.polled_ms, group.last_rebalance_at_ms or 0)
            is_waiting = reader.answer.is_rebalancing and not reader.answer.must_rejoin
            if member_id in members:
                assert silent_ms <= SESSION_MS
                assert is_waiting or group.state is GroupState.PREPARING or idle_ms <= POLL_MS
            elif not reader.is_out:
                reader.is_out = True
                was_slow = since is not None and self.now_ms - since[1] >= REBALANCE_MS
                assert (
                    silent_ms > SESSION_MS - HEARTBEAT_MS or self.now_ms - reader.polled_ms > POLL_MS - HEARTBEAT_MS or was_slow
                )
        if group.state is not GroupState.PREPARING:
            self.rebalancing_since = None
        elif since is None or since[0] != group.generation:
            self.rebalancing_since = (group.generation, self.now_ms)


Groups.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_a_group_keeps_its_promises = Groups.TestCase
