"""Consumer groups: joining, rebalancing, being put out, committing and being refused, in one process with a clock of its own."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus import ids
from event_streaming_bus.consumers.coordinator import RANGES, GroupCoordinator
from event_streaming_bus.consumers.model import (
    AssignmentStrategy,
    Commit,
    Group,
    GroupConfig,
    GroupState,
    Joined,
    OffsetReset,
    Partition,
)
from event_streaming_bus.errors import (
    AlreadyExistsError,
    FencedError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    OffsetOutOfRangeError,
    StreamNotFoundError,
    UnknownMemberError,
)
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage, open_storage

COOPERATIVE = AssignmentStrategy.COOPERATIVE_STICKY
EAGER = [strategy for strategy in AssignmentStrategy if strategy is not COOPERATIVE]
SESSION_MS, POLL_MS, REBALANCE_MS = 10_000, 60_000, 20_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Members:
    """A group and its members, driven one call at a time. Each member does what it is told, and nothing by itself."""

    def __init__(self, storage: Storage, clock: Clock, strategy: AssignmentStrategy, partitions: int = 4) -> None:
        self.storage, self.clock = storage, clock
        self.coordinator = GroupCoordinator(storage, clock_ms=clock)
        self.orders = storage.log.create_stream(StreamConfig(name="orders", partitions=partitions)).stream_id
        config = GroupConfig(
            group_name="billing",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=POLL_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            partition_assignment_strategy=strategy,
        )
        self.id = self.coordinator.create("default", config).group_id
        self.told: dict[str, Joined] = {}

    @property
    def group(self) -> Group:
        return self.coordinator.get("default", self.id)

    def join(self, *streams: str, **more: Any) -> str:
        answer = self.coordinator.join(self.id, streams or (self.orders,), **more)
        self.told[answer.member_id] = answer
        return answer.member_id

    def beat(self, member_id: str, *, polled: bool = True) -> Joined:
        generation = self.told[member_id].generation
        answer = self.told[member_id] = self.coordinator.heartbeat(self.id, member_id, generation, polled=polled)
        return answer

    def rejoin(self, member_id: str, *streams: str) -> Joined:
        owned = self.told[member_id].assignment
        answer = self.coordinator.join(self.id, streams or (self.orders,), member_id=member_id, owned=owned)
        self.told[member_id] = answer
        return answer

    def settle(self) -> None:
        """Let all members heartbeat, and join again when they are to, until the group is stable."""
        for _ in range(10):
            for member_id in self.told:
                if self.beat(member_id).must_rejoin:
                    self.rejoin(member_id)
            if self.group.state is not GroupState.PREPARING:
                for member_id in self.told:
                    self.beat(member_id)
                return
        raise AssertionError("the group does not settle")

    def mine(self, member_id: str) -> list[int]:
        return [place.partition for place in self.told[member_id].assignment]

    def commit(self, member_id: str, offsets: dict[int, int], generation: int | None = None) -> None:
        given = self.told[member_id].generation if generation is None else generation
        self.coordinator.commit(self.id, member_id, given, {self.split(number): offset for number, offset in offsets.items()})

    def split(self, partition: int) -> Split:
        return Split(self.orders, EventPriority.NORMAL, partition)

    def committed(self) -> dict[int, int]:
        return {split.partition: offset for split, offset in self.coordinator.committed(self.id).items()}

    def publish(self, partition: int, count: int) -> None:
        events = [Event(event_id, "t", 0, b"1") for event_id in ids.new_ids(ids.EVENT, count)]
        self.storage.log.append([Append(self.orders, events, new_ids=True, partition=partition)])


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = open_storage(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def coordinator(storage: Storage, clock: Clock) -> GroupCoordinator:
    return GroupCoordinator(storage, clock_ms=clock)


@pytest.fixture
def members(storage: Storage, clock: Clock) -> Members:
    return Members(storage, clock, AssignmentStrategy.RANGE)


@pytest.fixture
def cooperative(storage: Storage, clock: Clock) -> Members:
    return Members(storage, clock, COOPERATIVE)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_making_a_group_again_gives_the_one_that_is_there(coordinator: GroupCoordinator) -> None:
    made = coordinator.create("default", GroupConfig(group_name="billing"), created_by="ann")
    assert (made.state, made.generation, made.created_by, made.members) == (GroupState.EMPTY, 0, "ann", ())
    assert coordinator.create("default", GroupConfig(group_name="billing"), created_by="bob") == made
    assert coordinator.get("default", "billing") == coordinator.get("default", made.group_id) == made
    with pytest.raises(AlreadyExistsError, match=r"billing exists with other settings: max_retries is 3, not 5$"):
        coordinator.create("default", GroupConfig(group_name="billing", max_retries=5))


def test_groups_belong_to_a_tenant(coordinator: GroupCoordinator) -> None:
    mine = coordinator.create("default", GroupConfig(group_name="billing"))
    theirs = coordinator.create("other", GroupConfig(group_name="billing", max_retries=1))
    assert [group.group_id for group in coordinator.list_groups("default")] == [mine.group_id]
    with pytest.raises(GroupNotFoundError):
        coordinator.get("default", theirs.group_id)


def test_a_group_that_is_not_there_is_told_with_a_near_name(coordinator: GroupCoordinator) -> None:
    coordinator.create("default", GroupConfig(group_name="billing"))
    with pytest.raises(GroupNotFoundError, match=r"no consumer group 'biling'\. Did you mean 'billing'\?"):
        coordinator.get("default", "biling")


@pytest.mark.parametrize("field", RANGES)
def test_a_setting_out_of_range_is_told_with_the_range(coordinator: GroupCoordinator, field: str) -> None:
    low, high = RANGES[field]
    for value in (low - 1, high + 1, True, 1.5):
        with pytest.raises(InvalidInputError, match=f"{field}: expected {low} to {high}, got {value}"):
            coordinator.create("default", GroupConfig(group_name="g", **{field: value}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"group_name": "a b"}, "group_name 'a b': expected 1 to 200 letters"),
        ({"group_name": "g", "heartbeat_interval_ms": 30_000}, "30000 is not shorter than session_timeout_ms, 30000"),
        ({"group_name": "g", "partition_assignment_strategy": "stiky"}, "did you mean 'sticky'"),
        ({"group_name": "g", "auto_offset_reset": "first"}, "expected earliest, latest, none, got 'first'"),
    ],
)
def test_a_setting_that_cannot_be_is_told(coordinator: GroupCoordinator, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        coordinator.create("default", GroupConfig(**settings))


def test_names_of_choices_are_taken_for_the_choices(coordinator: GroupCoordinator) -> None:
    given: dict[str, Any] = {"partition_assignment_strategy": "sticky", "auto_offset_reset": "latest"}
    made = coordinator.create("default", GroupConfig(group_name="g", **given)).config
    assert (made.partition_assignment_strategy, made.auto_offset_reset) == (AssignmentStrategy.STICKY, OffsetReset.LATEST)


def test_the_members_of_a_deleted_group_are_told(members: Members) -> None:
    member = members.join()
    members.commit(member, {0: 0})
    members.coordinator.delete("default", "billing")
    for call in (lambda: members.beat(member), lambda: members.commit(member, {0: 0}), lambda: members.join(members.orders)):
        with pytest.raises(GroupNotFoundError, match="may have been deleted"):
            call()
    assert members.storage.log.committed(members.id) == {}
    assert members.coordinator.list_groups("default") == []


# --- joining and rebalancing ------------------------------------------------------------------------------------------


def test_the_first_member_gets_everything_at_once(members: Members) -> None:
    member = members.join(client_id="app-1")
    assert (members.mine(member), members.told[member].generation) == ([0, 1, 2, 3], 1)
    (told,) = members.group.members
    assert (told.client_id, told.streams, told.generation, members.group.state) == ("app-1", (members.orders,), 1, "STABLE")
    assert told.assignment == members.told[member].assignment


@pytest.mark.parametrize("strategy", EAGER)
def test_members_give_up_everything_before_it_is_shared_out_anew(
    storage: Storage, clock: Clock, strategy: AssignmentStrategy
) -> None:
    members = Members(storage, clock, strategy)
    first = members.join()
    second = members.join()
    assert (members.told[second].is_rebalancing, members.told[second].must_rejoin) == (True, False)
    answer = members.beat(first)
    assert (answer.is_rebalancing, answer.must_rejoin, answer.assignment, answer.generation) == (True, True, (), 1)
    assert members.beat(second).is_rebalancing
    members.rejoin(first)
    assert members.beat(second) == members.told[second]
    assert sorted(members.mine(first) + members.mine(second)) == [0, 1, 2, 3]
    assert {members.told[member].generation for member in (first, second)} == {2}
    assert members.group.state is GroupState.STABLE


def test_cooperative_members_go_on_with_what_they_keep(cooperative: Members) -> None:
    first = cooperative.join()
    second = cooperative.join()
    answer = cooperative.beat(first)
    assert (answer.must_rejoin, cooperative.mine(first)) == (True, [0, 1, 2, 3])
    # The first rebalance only takes away: the new member has nothing yet.
    answer = cooperative.rejoin(first)
    assert (answer.generation, answer.must_rejoin, cooperative.mine(first)) == (2, True, [0, 1])
    assert (cooperative.beat(second).generation, cooperative.mine(second)) == (2, [])
    cooperative.commit(first, {2: 0})  # what it gives up, it may commit
    with pytest.raises(FencedError):
        cooperative.commit(second, {2: 0})
    # The second one, which nobody asked for, gives it on.
    cooperative.rejoin(second)
    assert cooperative.rejoin(first).is_rebalancing is False
    cooperative.beat(second)
    assert (cooperative.mine(first), cooperative.mine(second)) == ([0, 1], [2, 3])
    with pytest.raises(FencedError):
        cooperative.commit(first, {2: 0})
    assert cooperative.group.generation == 3


def test_a_cooperative_member_may_commit_what_it_keeps_before_it_has_heard_of_the_new_generation(cooperative: Members) -> None:
    cooperative.publish(0, 5)
    first = cooperative.join()
    second = cooperative.join()
    cooperative.beat(first)
    cooperative.commit(first, {0: 1})
    cooperative.rejoin(first)
    cooperative.rejoin(second)
    heard = cooperative.told[first].generation
    cooperative.rejoin(first)
    assert cooperative.group.generation == heard + 1
    cooperative.commit(first, {0: 2}, heard)
    assert cooperative.committed()[0] == 2
    for member in (first, second):  # the second one has it, but does not know yet
        with pytest.raises(FencedError, match="not assigned to member"):
            cooperative.commit(member, {3: 0}, heard)
    with pytest.raises(FencedError, match=f"Generation {heard - 1} of member"):
        cooperative.commit(first, {0: 3}, heard - 1)


def test_what_a_cooperative_member_does_not_hold_it_cannot_claim(cooperative: Members) -> None:
    first = cooperative.join()
    answer = cooperative.coordinator.join(
        cooperative.id, [cooperative.orders], owned=[Partition(cooperative.orders, number) for number in range(4)]
    )
    cooperative.told[answer.member_id] = answer
    cooperative.beat(first)
    cooperative.rejoin(first)
    assert cooperative.mine(first) == [0, 1]
    cooperative.settle()
    assert sorted(len(member.assignment) for member in cooperative.group.members) == [2, 2]


@pytest.mark.parametrize("strategy", AssignmentStrategy)
def test_many_members_come_and_go(storage: Storage, clock: Clock, strategy: AssignmentStrategy) -> None:
    members = Members(storage, clock, strategy, partitions=7)
    for count in (1, 2, 3, 5, 7, 9):
        while len(members.told) < count:
            members.join()
        members.settle()
        assert sorted(number for member in members.told for number in members.mine(member)) == list(range(7))
    for member in list(members.told)[:6]:
        members.coordinator.leave(members.id, member)
        del members.told[member]
        members.settle()
        assert sorted(number for member in members.told for number in members.mine(member)) == list(range(7))


def test_leaving_twice_is_harmless_and_the_last_one_leaves_the_group_empty(members: Members) -> None:
    member = members.join()
    members.coordinator.leave(members.id, member)
    members.coordinator.leave(members.id, member)
    assert (members.group.state, members.group.generation, members.group.members) == (GroupState.EMPTY, 2, ())
    with pytest.raises(UnknownMemberError, match=r"any more: it left\. Join without a member id"):
        members.beat(member)


def test_joining_again_with_the_same_streams_disturbs_nobody(members: Members) -> None:
    member = members.join()
    assert members.rejoin(member).assignment == members.told[member].assignment
    assert members.group.generation == 1


def test_subscribing_to_other_streams_is_a_rebalance(members: Members) -> None:
    bills = members.storage.log.create_stream(StreamConfig(name="bills", partitions=2)).stream_id
    first, second = members.join(), members.join()
    members.settle()
    members.rejoin(second, bills)
    members.beat(first)
    members.rejoin(first)
    members.beat(second)
    assert members.mine(first) == [0, 1, 2, 3]
    assert members.told[second].assignment == (Partition(bills, 0), Partition(bills, 1))


def test_streams_can_be_named_and_must_be_there(members: Members) -> None:
    assert members.mine(members.join("orders")) == [0, 1, 2, 3]
    with pytest.raises(StreamNotFoundError, match="Did you mean 'orders'"):
        members.join("order")
    with pytest.raises(InvalidInputError, match="expected 1 to 1000, got 0"):
        members.coordinator.join(members.id, [])


def test_a_dropped_stream_is_a_rebalance(members: Members) -> None:
    bills = members.storage.log.create_stream(StreamConfig(name="bills")).stream_id
    member = members.join(members.orders, bills)
    members.commit(member, {0: 0})
    members.storage.log.drop_stream(bills)
    members.coordinator.commit(members.id, member, 1, {Split(bills, EventPriority.LOW, 0): 1, members.split(1): 0})
    assert members.beat(member).must_rejoin
    members.rejoin(member, members.orders, bills)
    assert members.told[member].assignment == tuple(Partition(members.orders, number) for number in range(4))
    assert members.committed() == {0: 0, 1: 0}


def test_a_dropped_stream_takes_its_commits_along(members: Members) -> None:
    member = members.join()
    members.commit(member, {0: 0})
    members.storage.log.drop_stream(members.orders)
    members.storage.log.create_stream(StreamConfig(name="orders", partitions=4))
    assert members.coordinator.commits(members.id) == {}


def test_a_rebalance_can_be_asked_for(members: Members) -> None:
    members.coordinator.trigger_rebalance("default", "billing")
    assert members.group.state is GroupState.EMPTY
    member = members.join()
    assert members.coordinator.trigger_rebalance("default", "billing", reason="moving").state is GroupState.PREPARING
    members.settle()
    assert (members.group.generation, members.mine(member)) == (2, [0, 1, 2, 3])


def test_a_pause_is_told_to_the_members_and_moves_nobody(members: Members) -> None:
    member = members.join()
    assert members.coordinator.set_paused("default", "billing", True).is_paused
    answer = members.beat(member)
    assert (answer.is_paused, answer.is_rebalancing, answer.generation) == (True, False, 1)
    members.coordinator.set_paused("default", "billing", False)
    assert not members.beat(member).is_paused


# --- being put out ----------------------------------------------------------------------------------------------------


def test_a_silent_member_is_put_out_when_the_group_is_looked_at(members: Members) -> None:
    silent, alive = members.join(), members.join()
    members.settle()
    members.clock.now_ms += SESSION_MS
    members.beat(alive)
    members.clock.now_ms += 1
    assert members.beat(alive).must_rejoin
    members.rejoin(alive)
    assert members.mine(alive) == [0, 1, 2, 3]
    with pytest.raises(UnknownMemberError, match=f"no heartbeat for session_timeout_ms = {SESSION_MS}"):
        members.beat(silent)
    with pytest.raises(UnknownMemberError):
        members.commit(silent, {0: 0})
    with pytest.raises(UnknownMemberError):
        members.rejoin(silent)


def test_a_member_that_asks_for_no_events_is_put_out(members: Members) -> None:
    member = members.join()
    for _ in range(POLL_MS // 5_000):
        members.clock.now_ms += 5_000
        members.beat(member, polled=False)
    members.clock.now_ms += 1
    with pytest.raises(UnknownMemberError, match=f"did not ask for events for max_poll_interval_ms = {POLL_MS}"):
        members.beat(member, polled=True)
    assert members.group.state is GroupState.EMPTY


def test_heartbeats_at_the_interval_keep_a_member_in(storage: Storage, clock: Clock) -> None:
    coordinator = GroupCoordinator(storage, clock_ms=clock)
    stream = storage.log.create_stream(StreamConfig(name="orders")).stream_id
    times = {"session_timeout_ms": 10_000, "heartbeat_interval_ms": 9_999, "max_poll_interval_ms": 10_000}
    group = coordinator.create("default", GroupConfig(group_name="g", **times)).group_id
    member = coordinator.join(group, [stream])
    for step in (9_999, 4_000, 9_999, 1, 9_998, 9_999):
        clock.now_ms += step
        assert not coordinator.heartbeat(group, member.member_id, 1, polled=True).is_rebalancing


def test_a_rebalance_does_not_wait_for_ever(members: Members) -> None:
    slow, new = members.join(), members.join()
    for _ in range(REBALANCE_MS // 5_000):
        members.clock.now_ms += 5_000
        if members.clock.now_ms < 1_700_000_000_000 + REBALANCE_MS:
            members.beat(slow)
        members.beat(new)
    assert (members.told[new].is_rebalancing, members.mine(new)) == (False, [0, 1, 2, 3])
    with pytest.raises(UnknownMemberError, match=f"did not join again within rebalance_timeout_ms = {REBALANCE_MS}"):
        members.commit(slow, {0: 0})


def test_a_member_that_waits_need_not_ask_for_events(storage: Storage, clock: Clock) -> None:
    members = Members(storage, clock, AssignmentStrategy.RANGE)
    config = GroupConfig(group_name="slow", max_poll_interval_ms=1_000, rebalance_timeout_ms=60_000)
    members.id = members.coordinator.create("default", config).group_id
    members.told.clear()
    first, waiting = members.join(), members.join()
    for _ in range(5):
        clock.now_ms += 900
        members.beat(first)
        members.beat(waiting, polled=False)
    members.settle()
    assert sorted(members.mine(first) + members.mine(waiting)) == [0, 1, 2, 3]


def test_most_heartbeats_are_only_read(members: Members) -> None:
    member = members.join()
    version = members.storage.log.version()
    for _ in range(5):
        members.clock.now_ms += 90
        members.beat(member)
    assert members.storage.log.version() == version
    members.clock.now_ms += 90
    members.beat(member)
    assert members.storage.log.version() != version


# --- offsets ----------------------------------------------------------------------------------------------------------


def test_commits_are_remembered_with_the_end_at_that_time(members: Members) -> None:
    member = members.join()
    members.publish(0, 3)
    began_ms = members.clock.now_ms
    for offset in range(12):
        members.clock.now_ms += 1
        members.commit(member, {0: offset // 4, 1: 0})
    assert members.committed() == {0: 2, 1: 0}
    kept = members.coordinator.commits(members.id)
    assert kept[members.split(0)] == [Commit(began_ms + 1 + n, n // 4, 3) for n in range(2, 12)]
    assert [commit.end_offset for commit in kept[members.split(1)]] == [0] * 10


@pytest.mark.parametrize("offset", [-1, 4])
def test_an_offset_that_is_not_there_is_refused_with_the_range(members: Members, offset: int) -> None:
    member = members.join()
    members.publish(0, 3)
    with pytest.raises(OffsetOutOfRangeError, match=f"{offset} cannot be committed; expected 0 to 3") as refused:
        members.commit(member, {1: 0, 0: offset})
    assert refused.value.details == {"begin": 0, "end": 3}
    assert members.committed() == {}
    with pytest.raises(FencedError, match="Partition 9 of stream 'orders' is not assigned"):
        members.commit(member, {9: 0})


def test_commits_that_come_too_late_are_refused(members: Members) -> None:
    members.publish(0, 3)
    first = members.join()
    second = members.join()
    members.commit(first, {0: 1})  # before it joins again, it may
    members.beat(first)
    members.rejoin(first)
    members.settle()
    for number in range(4):
        with pytest.raises(FencedError, match=r"Generation 1 of member 'mbr_\w+' is over: .* is in generation 2"):
            members.commit(first, {number: 0}, 1)
    with pytest.raises(FencedError, match="Partition 0 of stream 'orders' is not assigned to member"):
        members.commit(second, {0: 2})
    assert members.committed() == {0: 1}


def test_a_member_that_has_joined_again_commits_no_more_of_what_it_gave_up(members: Members) -> None:
    first, _ = members.join(), members.join()
    third = members.join()
    members.beat(first)
    members.rejoin(first)
    members.settle()
    members.join()
    members.beat(third)
    members.rejoin(third)
    with pytest.raises(FencedError, match="has given up what it held to join generation 3"):
        members.commit(third, {3: 0})


def test_a_heartbeat_of_another_generation_is_refused(members: Members) -> None:
    member = members.join()
    with pytest.raises(FencedError, match="is in generation 1"):
        members.coordinator.heartbeat(members.id, member, 7)


def test_offsets_can_be_set_while_nobody_reads(members: Members) -> None:
    members.publish(0, 3)
    members.coordinator.reset(members.id, {members.split(0): 3})
    assert members.committed() == {0: 3}
    with pytest.raises(OffsetOutOfRangeError):
        members.coordinator.reset(members.id, {members.split(0): 4})
    members.join()
    with pytest.raises(InvalidStateError, match="has 1 members that are reading"):
        members.coordinator.reset(members.id, {members.split(0): 1})
    assert members.committed() == {0: 3}


@pytest.mark.parametrize("strategy", AssignmentStrategy)
def test_members_of_a_paused_group_do_not_overwrite_offsets_that_are_set(
    storage: Storage, clock: Clock, strategy: AssignmentStrategy
) -> None:
    members = Members(storage, clock, strategy)
    members.publish(0, 3)
    member = members.join()
    members.coordinator.trigger_rebalance("default", "billing")
    members.settle()
    members.commit(member, {0: 3})
    members.coordinator.set_paused("default", "billing", True)
    members.coordinator.reset(members.id, {members.split(0): 1})
    for generation in (1, 2, 3):
        with pytest.raises(FencedError):
            members.commit(member, {0: 3}, generation)
    answer = members.coordinator.join(members.id, [members.orders], member_id=member, owned=members.told[member].assignment)
    assert (answer.is_rebalancing, len(answer.assignment), answer.generation) == (False, 4, 4)
    assert members.committed() == {0: 1}


# --- many, and history ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [AssignmentStrategy.RANGE, COOPERATIVE])
def test_a_hundred_members_share_a_hundred_partitions_quickly(
    storage: Storage, clock: Clock, strategy: AssignmentStrategy
) -> None:
    """Under a second on a quiet machine; the bound leaves room for a busy one."""
    members = Members(storage, clock, strategy, partitions=100)
    started_s = time.perf_counter()
    for _ in range(100):
        members.join()
    members.settle()
    took_s = time.perf_counter() - started_s
    assert sorted(number for member in members.told for number in members.mine(member)) == list(range(100))
    assert took_s < 5


def test_rebalances_are_in_the_history(members: Members) -> None:
    first = members.join(client_id="one")
    members.clock.now_ms += 10
    second = members.join(client_id="two")
    members.clock.now_ms += 250
    members.settle()
    members.clock.now_ms += SESSION_MS + 1
    assert members.group.state is GroupState.EMPTY
    history = History(members.storage)
    history.catch_up()
    sql = """SELECT generation, reason, members_before, members_after, duration_ms, assignment_before, assignment_after
             FROM rebalances WHERE group_name = 'billing' ORDER BY generation"""
    joined, shared, emptied = history.query(sql).rows()
    history.close()
    assert joined[:5] == (1, f"one ({first}) joined", "[]", f'["{first}"]', 0)
    assert shared[:3] == (2, f"two ({second}) joined", f'["{first}"]')
    assert shared[4:] == (
        250,
        f'{{"{first}":{{"{members.orders}":[0,1,2,3]}}}}',
        f'{{"{first}":{{"{members.orders}":[0,1]}},"{second}":{{"{members.orders}":[2,3]}}}}',
    )
    assert "one" in emptied[1]
    assert f"it sent no heartbeat for session_timeout_ms = {SESSION_MS}" in emptied[1]
    assert emptied[3] == "[]"
