"""Consumer groups on Kafka: what its own clients see of them, and what members do that librdkafka's know nothing of."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import kafka_broker
import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordination import coordinator_of
from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig, GroupState, Partition
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.errors import (
    FencedError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    OffsetOutOfRangeError,
    UnknownMemberError,
)
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import LANES, CompressionType, Event, EventPriority, Split, StreamInfo
from event_streaming_bus.store.history_records import Rebalanced, from_bytes
from event_streaming_bus.store.letters import LetterFilter
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.kafka_batches import void_batch
from event_streaming_bus.store.log.reading import read_stream
from event_streaming_bus.store.log.record_batch import RecordBatch, store_events

PREFIX = f"{ids.new_id('t')[-8:]}."
CRITICAL, HIGH, NORMAL, LOW = LANES
PARTITIONS = 4
_numbers = count()


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    with open_bus(kafka_broker.kafka_url(tmp_path_factory.mktemp("kafka"), prefix=PREFIX)) as bus:
        bus.create_stream("orders", partitions=PARTITIONS)
        yield bus


@pytest.fixture(scope="module")
def admin(bus: Bus) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_broker.shared_broker().address, "log_level": 2})


@pytest.fixture
def orders(bus: Bus) -> StreamInfo:
    return bus.log.find_stream("default", "orders")


@pytest.fixture
def group(bus: Bus, orders: StreamInfo) -> str:
    """The name of a group of this test, which begins with what is published from now on."""
    return make_group(bus, orders)


def make_group(bus: Bus, stream: StreamInfo, **config: Any) -> str:
    times = {"session_timeout_ms": 5000, "heartbeat_interval_ms": 100}
    coordinator, name = coordinator_of(bus.storage), f"g{next(_numbers)}"
    group = coordinator.create("default", GroupConfig(group_name=name, **{**times, **config}))
    coordinator.reset(group.group_id, bus.log.end_offsets(stream.stream_id))
    return name


def publish(bus: Bus, stream: StreamInfo, texts: list[str], lane: EventPriority = NORMAL, **more: Any) -> None:
    """An event for each text; ``a1`` has the key ``a``."""
    made = [Event(ids.new_id(ids.EVENT), "t", 1000, b'"%s"' % t.encode(), key=t[0], priority=lane, **more) for t in texts]
    bus.log.append([Append(stream.stream_id, made)])


def texts(events: list[Event]) -> list[str]:
    return [event.payload for event in events]


async def poll_until(done: Any, *consumers: Consumer, timeout_s: float = 20) -> list[list[Event]]:
    """Poll all at the same time until ``done(given)``; what each was given."""
    given: list[list[Event]] = [[] for _ in consumers]
    deadline_s = time.monotonic() + timeout_s
    while not done(given):
        assert time.monotonic() < deadline_s, (given, [consumer.assignment for consumer in consumers])
        for events, more in zip(given, await asyncio.gather(*(c.poll(timeout_s=0.05) for c in consumers)), strict=True):
            events += more
    return given


def are_shared(*consumers: Consumer) -> Any:
    """Whether every one of them has its share of the partitions."""
    return lambda given: all(len(consumer.assignment) == PARTITIONS // len(consumers) for consumer in consumers)


def described(admin: AdminClient, group: str) -> Any:
    (future,) = admin.describe_consumer_groups([PREFIX + group]).values()
    return future.result()


def lag_by_the_broker(admin: AdminClient, group: str) -> int:
    """What ``kafka-consumer-groups.sh --describe`` computes, for what was committed."""
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(PREFIX + group)]).values()
    committed = {(part.topic, part.partition): part.offset for part in future.result().topic_partitions}
    asked = {TopicPartition(*part): OffsetSpec.latest() for part in committed}
    ends = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED)
    return sum(end.result().offset - committed[part.topic, part.partition] for part, end in ends.items())


# --- what others see ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [AssignmentStrategy.RANGE, AssignmentStrategy.STICKY])
async def test_members_are_members_of_a_kafka_group_and_all_lanes_of_a_partition_have_one_reader(
    bus: Bus, orders: StreamInfo, admin: AdminClient, strategy: AssignmentStrategy
) -> None:
    group = make_group(bus, orders, partition_assignment_strategy=strategy)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(bus.consumer(group, ["orders"], client_id="one"))
        two = await stack.enter_async_context(bus.consumer(group, ["orders"], client_id="two"))
        await poll_until(are_shared(one, two), one, two)
        for lane in LANES:
            publish(bus, orders, [f"{key}-{lane.value}" for key in "abcdefgh"], lane)
        first, second = await poll_until(lambda given: sum(map(len, given)) == 32, one, two)
        for key in "abcdefgh":
            assert len([e for e in first if e.key == key]) in (0, 4)
        await poll_until(lambda given: lag_by_the_broker(admin, group) == 0, one, two)

        kafka = described(admin, group)
        assert kafka.state is ConsumerGroupState.STABLE
        assert kafka.partition_assignor == {"sticky": "cooperative-sticky"}.get(strategy, strategy)
        members = {member.member_id: member for member in kafka.members}
        assert {one.member_id: "one", two.member_id: "two"} == {key: each.client_id for key, each in members.items()}
        for consumer in (one, two):
            mine = {(p.topic, p.partition) for p in members[str(consumer.member_id)].assignment.topic_partitions}
            lanes = ("", ".critical", ".high", ".low") if strategy is AssignmentStrategy.RANGE else ("",)
            assert mine == {(f"{PREFIX}orders{lane}", p.partition) for lane in lanes for p in consumer.assignment}
        told = coordinator_of(bus.storage).get("default", group)
        assert {m.member_id: set(m.assignment) for m in told.members} == {c.member_id: set(c.assignment) for c in (one, two)}
        assert told.state is GroupState.STABLE
    assert second
    assert described(admin, group).state is ConsumerGroupState.EMPTY
    assert (await bus.consumers.get_consumer_lag(group))["total_lag"] == 0


async def test_lag_is_what_the_broker_says(bus: Bus, orders: StreamInfo, admin: AdminClient, group: str) -> None:
    for lane in (NORMAL, HIGH):
        publish(bus, orders, [f"{key}{i}" for i in range(5) for key in "abcd"], lane)
    async with bus.consumer(group, ["orders"], auto_commit=False) as consumer:
        (given,) = await poll_until(lambda given: len(given[0]) == 40, consumer)
        for event in given[:25]:
            consumer.ack(event)
        await consumer.commit()
        lag = await bus.consumers.get_consumer_lag(group)
        assert lag["active_consumers"] == 1
        assert 15 <= lag["total_lag"] == lag_by_the_broker(admin, group) == sum(lag["partition_lags"].values())
        assert {each["member_id"] for each in lag["splits"]} == {consumer.member_id}


async def test_offsets_that_other_tools_set_are_those_of_the_group(
    bus: Bus, orders: StreamInfo, admin: AdminClient, group: str
) -> None:
    publish(bus, orders, [f"a{i}" for i in range(4)])
    async with bus.consumer(group, ["orders"]) as consumer:
        (given,) = await poll_until(lambda given: len(given[0]) == 4, consumer)
        split, offset = consumer.position(given[2])
    part = TopicPartition(f"{PREFIX}orders", split.partition, offset)
    (future,) = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(PREFIX + group, [part])]).values()
    future.result()
    async with bus.consumer(group, ["orders"]) as consumer:
        (again,) = await poll_until(lambda given: len(given[0]) == 2, consumer)
    assert texts(again) == ["a2", "a3"]


@pytest.mark.parametrize("name", ["a..b", "esb-reader"])
async def test_names_that_could_be_those_of_other_groups_are_refused(bus: Bus, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"on Kafka, '\.\.' and the names"):
        await bus.consumers.create_consumer_group({"group_name": name})


async def test_a_group_has_one_id_on_all_machines_and_one_name_for_each_tenant(
    bus: Bus, orders: StreamInfo, admin: AdminClient, group: str, tmp_path: Path
) -> None:
    with open_bus(kafka_broker.kafka_url(tmp_path, prefix=PREFIX)) as elsewhere:
        made = coordinator_of(elsewhere.storage).create("default", GroupConfig(group_name=group))
        theirs = coordinator_of(elsewhere.storage).create("acme", GroupConfig(group_name=group))
        assert made.group_id == coordinator_of(bus.storage).get("default", group).group_id != theirs.group_id
        async with bus.consumer(group, ["orders"], client_id="here") as consumer:
            await poll_until(are_shared(consumer), consumer)
            (seen,) = coordinator_of(elsewhere.storage).get("default", group).members
            assert (seen.client_id, seen.pid, seen.joined_at_ms) == ("here", None, None)
            assert seen.assignment == consumer.assignment
            (told,) = (await elsewhere.consumers.describe_consumer_group(group))["members"]
            assert (told["streams"], told["last_poll"]) == (["orders"], None)
            assert coordinator_of(elsewhere.storage).get("acme", group).members == ()


# --- lanes --------------------------------------------------------------------------------------------------------------


async def test_a_critical_event_overtakes_a_backlog(bus: Bus, orders: StreamInfo, group: str) -> None:
    publish(bus, orders, [f"a{i}" for i in range(500)])
    async with bus.consumer(group, ["orders"]) as consumer:
        assert texts(await consumer.poll(max_events=10, timeout_s=10)) == [f"a{i}" for i in range(10)]
        publish(bus, orders, ["c1"], CRITICAL)
        publish(bus, orders, ["a-low"], LOW)
        polled = texts(await consumer.poll(max_events=12, timeout_s=10))
        assert polled[0] == "c1"
        assert "a-low" in polled  # its turn comes after ten others at the latest


class Gapped(RecordBatch):
    """A batch that is followed by offsets without events, up to ``end_offset``."""

    end_offset = 0


def test_offsets_that_hold_no_event_are_passed_over_and_committed() -> None:
    split = Split("str_1", NORMAL, 0)

    def batch(offset: int, count: int, end: int) -> RecordBatch:
        made = [Event(f"e{offset + i}", "t", 0, b"1") for i in range(count)]
        gapped = Gapped(split, store_events(made, offset, CompressionType.NONE, 0))
        gapped.end_offset = end
        return gapped

    reader = SplitReader(split, 0, 100)
    reader.feed([batch(1, 2, 4), batch(5, 1, 6), void_batch(split, 6, 9)], 0)
    assert (reader.read_offset, reader.buffered) == (9, 3)
    assert [event.event_id for event in reader.take(2)] == ["e1", "e2"]
    assert (sorted(reader.hands), reader.low(), reader.resume_offset()) == ([1, 2], 1, 5)
    assert [event.event_id for event in reader.take(2)] == ["e5"]
    reader.settle()
    assert reader.low() == reader.next_offset == 9
    assert [(stretch.offset, stretch.size) for stretch in reader.told(9)] == [(1, 2), (5, 1)]
    reader.feed([batch(9, 1, 10)], 8)  # read before a seek
    reader.feed([void_batch(split, 9, 12)], 9)
    assert (reader.low(), reader.read_offset, reader.take(5)) == (12, 12, [])


# --- fencing and rebalances -----------------------------------------------------------------------------------------------


async def test_the_commit_of_a_member_that_was_put_out_is_refused(bus: Bus, orders: StreamInfo) -> None:
    group = make_group(bus, orders, max_poll_interval_ms=1000)
    publish(bus, orders, ["a1", "a2"])
    async with bus.consumer(group, ["orders"]) as consumer:
        await poll_until(lambda given: given[0], consumer)
        before = coordinator_of(bus.storage).committed(coordinator_of(bus.storage).get("default", group).group_id)
        time.sleep(1.3)  # noqa: ASYNC251 - the loop is meant to be busy
        with pytest.raises(FencedError, match="did not ask for events for max_poll_interval_ms"):
            await consumer.commit()
        assert coordinator_of(bus.storage).committed((await bus.consumers.get_consumer_group(group)).group_id) == before
        (again,) = await poll_until(lambda given: len(given[0]) == 2, consumer)
        assert texts(again) == ["a1", "a2"]
        assert consumer.counts["put_out"] == 1


def test_the_broker_refuses_what_is_of_another_generation(bus: Bus, orders: StreamInfo, group: str) -> None:
    one, two = coordinator_of(bus.storage), coordinator_of(bus.storage)
    group_id = one.get("default", group).group_id
    first = one.join(group_id, [orders.stream_id])
    assert len(first.assignment) == PARTITIONS
    begins = {split: at for split, at in bus.log.begin_offsets(orders.stream_id).items() if split.lane is NORMAL}
    second = two.join(group_id, [orders.stream_id])
    deadline_s = time.monotonic() + 10
    joined = first
    while joined.generation == first.generation or joined.is_rebalancing:
        assert time.monotonic() < deadline_s
        joined = one.heartbeat(group_id, first.member_id, first.generation)
        if joined.must_rejoin:
            assert joined.assignment == ()
            one.commit(group_id, first.member_id, first.generation, begins)  # a last one, before it is given up
            joined = one.join(group_id, [orders.stream_id], member_id=first.member_id)
    (gone,) = [split for split in begins if Partition(split.stream_id, split.partition) not in joined.assignment][:1]
    with pytest.raises(FencedError, match="Generation 1 of member"):
        one.commit(group_id, first.member_id, first.generation, {gone: 0})
    with pytest.raises(FencedError, match="is not its any more"):
        one.commit(group_id, first.member_id, joined.generation, {gone: 0})
    kept = Split(orders.stream_id, NORMAL, joined.assignment[0].partition)
    with pytest.raises(OffsetOutOfRangeError):
        one.commit(group_id, first.member_id, joined.generation, {kept: 10**9})
    two.leave(group_id, second.member_id)
    one.leave(group_id, first.member_id)
    with pytest.raises(UnknownMemberError):
        one.commit(group_id, first.member_id, joined.generation, {})


@pytest.mark.parametrize("strategy", [AssignmentStrategy.ROUNDROBIN, AssignmentStrategy.COOPERATIVE_STICKY])
async def test_a_rebalance_that_is_asked_for_lets_members_join_again_and_is_told(
    bus: Bus, orders: StreamInfo, strategy: AssignmentStrategy
) -> None:
    group = make_group(bus, orders, partition_assignment_strategy=strategy)
    publish(bus, orders, ["a1", "a2"])
    revoked: list[Partition] = []
    listening = {"on_revoked": lambda consumer, partitions: revoked.extend(partitions)}
    async with bus.consumer(group, ["orders"], auto_commit=False, client_id="me", **listening) as consumer:
        (given,) = await poll_until(lambda given: len(given[0]) == 2, consumer)
        generation, everything = consumer.generation, consumer.assignment
        assert consumer.ack(given[0])
        await bus.consumers.trigger_rebalance(group)
        (again,) = await poll_until(lambda given: consumer.generation > generation and given[0], consumer)
        assert texts(again) == ["a2"]
        assert (consumer.assignment, set(revoked)) == (everything, set(everything))
        told = await bus.consumers.get_consumer_group(group)
        assert (told.generation, told.last_rebalance_at_ms is None) == (consumer.generation, False)
    history = bus.storage.history()
    records = [from_bytes(event.data) for event in read_stream(bus.log, history)]
    rebalances = [record for record in records if isinstance(record, Rebalanced) and record.group_name == group]
    assert [each.generation for each in rebalances] == sorted({each.generation for each in rebalances})
    assert rebalances[0].reason == f"me ({next(iter(rebalances[0].after))}) joined"
    assert any(each.reason.startswith("asked for") for each in rebalances)
    assert rebalances[-1].after == {}


async def test_a_member_of_a_cooperative_group_keeps_what_it_has_in_hand(bus: Bus, orders: StreamInfo) -> None:
    group = make_group(bus, orders, partition_assignment_strategy=AssignmentStrategy.COOPERATIVE_STICKY)
    publish(bus, orders, [f"{key}1" for key in "abcdefghijklmnop"])
    async with bus.consumer(group, ["orders"], auto_commit=False) as one:
        (events,) = await poll_until(lambda given: len(given[0]) == 16, one)
        places = {event.event_id: one.position(event).split for event in events}
        async with bus.consumer(group, ["orders"], auto_commit=False) as two:
            given = await poll_until(are_shared(one, two), one, two)
            given += [await two.poll(timeout_s=0.2)]
            again = [event.event_id for events in given for event in events]
            for event in events:
                split = places[event.event_id]
                is_kept = Partition(split.stream_id, split.partition) in one.assignment
                assert one.ack(event) is is_kept
                assert again.count(event.event_id) == (0 if is_kept else 1)


async def test_a_cooperative_member_that_commits_all_the_time_is_not_put_out_by_a_rebalance(bus: Bus, orders: StreamInfo) -> None:
    group = make_group(bus, orders, partition_assignment_strategy=AssignmentStrategy.STICKY)
    seen: list[Event] = []
    async with bus.consumer(group, ["orders"], commit_interval_ms=0, max_poll_events=1) as one:
        for _ in range(2):
            publish(bus, orders, [f"{key}1" for key in "abcdefghijklmnop"])
            async with bus.consumer(group, ["orders"], commit_interval_ms=0, max_poll_events=1) as two:
                for given in await poll_until(are_shared(one, two), one, two):
                    seen += given
            for given in await poll_until(are_shared(one), one):
                seen += given
            assert (one.counts, two.counts) == ({}, {})
        (given,) = await poll_until(lambda given: len(seen) + len(given[0]) >= 32, one)
        assert len({event.event_id for event in [*seen, *given]}) == len([*seen, *given]) == 32


# --- resets, pausing, deleting ----------------------------------------------------------------------------------------------


async def test_a_reset_needs_the_members_out_or_the_group_paused(bus: Bus, orders: StreamInfo, group: str) -> None:
    publish(bus, orders, ["a1", "a2"])
    async with bus.consumer(group, ["orders"]) as consumer:
        (given,) = await poll_until(lambda given: len(given[0]) == 2, consumer)
        split, offset = consumer.position(given[1])
        to: dict[str, Any] = {"to": {"offset": offset}, "partitions": [split.partition], "lanes": ["NORMAL"]}
        await consumer.poll(timeout_s=0)
        with pytest.raises(InvalidStateError, match="1 members that are reading"):
            await bus.consumers.reset_offsets(group, **to)
        await bus.consumers.pause(group)
        preview = await bus.consumers.preview_reset(group, **to)
        assert (preview["is_allowed"], preview["splits"][0]["effect"]) == (True, "READ_AGAIN")
        resetting = asyncio.create_task(bus.consumers.reset_offsets(group, **to))
        assert await poll_until(lambda given: resetting.done(), consumer) == [[]]
        assert (await resetting)["splits"] == preview["splits"]
        await bus.consumers.resume(group)
        (again,) = await poll_until(lambda given: given[0], consumer)
        assert texts(again) == ["a2"]
    assert (await bus.consumers.get_consumer_lag(group))["total_lag"] == 0


async def test_a_deleted_group_is_gone_from_kafka_too(bus: Bus, orders: StreamInfo, admin: AdminClient, group: str) -> None:
    async with bus.consumer(group, ["orders"]) as consumer:
        await consumer.poll(timeout_s=0)
        deleting = asyncio.create_task(bus.consumers.delete_consumer_group(group))
        with pytest.raises(GroupNotFoundError, match="may have been deleted"):
            await poll_until(lambda given: False, consumer)
        await deleting
        with pytest.raises(GroupNotFoundError):
            await consumer.commit()
    listed = admin.list_consumer_groups().result()
    assert PREFIX + group not in [each.group_id for each in listed.valid]


# --- events that fail ---------------------------------------------------------------------------------------------------------


async def test_what_is_given_back_is_parked_and_comes_again_when_it_is_retried(bus: Bus, orders: StreamInfo, group: str) -> None:
    publish(bus, orders, ["a1", "b1"], max_retries=1)
    async with bus.consumer(group, ["orders"], retry=RetryPolicy(backoff_ms=1, max_backoff_ms=1)) as consumer:
        seen: list[str] = []

        def give_back(given: list[list[Event]]) -> bool:
            for event in given[0][len(seen) :]:
                seen.append(event.payload)
                if event.payload == "a1":
                    consumer.nack(event, ValueError("no such product"))
            return len(seen) == 3

        await poll_until(give_back, consumer)
        assert (sorted(seen), consumer.counts["parked"]) == (["a1", "a1", "b1"], 1)
        await consumer.commit()
        assert (await bus.consumers.get_consumer_lag(group))["parked"] == 1
        (report,) = bus.dead_letters.retry(where=LetterFilter(processor=f"consumer:{group}"))
        assert report.result == "RETRIED"
        (again,) = await poll_until(lambda given: given[0], consumer)
        assert texts(again) == ["a1"]
        assert again[0].metadata is not None
        assert again[0].metadata["redelivery"]["attempts"] == 2
        assert consumer.retry_stream_id is not None
