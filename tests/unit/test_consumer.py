"""Consuming with the SDK: what is delivered, in which order, what is committed, and what happens when the group changes."""

import asyncio
import contextlib
import gc
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordination import coordinator_of
from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig, GroupState, OffsetReset, Partition
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.errors import (
    BusError,
    ClosedError,
    FencedError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    OffsetOutOfRangeError,
    StreamNotFoundError,
)
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import LANES, CompressionType, Event, EventPriority, Split, StreamConfig
from event_streaming_bus.store.dead_letters import original, told_of
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.record_batch import RecordBatch, store_events
from event_streaming_bus.testing import read_all, temporary_bus

CRITICAL, HIGH, NORMAL, LOW = LANES
AT_ONCE = RetryPolicy(backoff_ms=1, max_backoff_ms=1)
_numbers = count()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as bus:
        bus.create_stream("orders")
        yield bus


def publish(bus: Bus, texts: str | list[str], stream: str = "orders", lane: EventPriority = NORMAL, **more: Any) -> list[Event]:
    """Publish an event for each text; ``a1`` has the key ``a``."""
    config = {"priority": lane, **more}
    events = [Event(f"e{next(_numbers)}", "t", 1000, b'"%s"' % text.encode(), key=text[0], **config) for text in texts]
    info = bus.log.find_stream("default", stream)
    bus.log.append([Append(info.stream_id, events)])
    return events


def texts(events: list[Event]) -> list[str]:
    return [event.payload for event in events]


def make_group(bus: Bus, name: str = "g", **config: Any) -> str:
    return coordinator_of(bus.storage).create("default", GroupConfig(group_name=name, **config)).group_id


def committed(bus: Bus, group: str = "g") -> dict[tuple[int, str], int]:
    """What a group has committed of its streams, where that is not the beginning, by partition and lane."""
    coordinator = coordinator_of(bus.storage)
    offsets = coordinator.committed(coordinator.get("default", group).group_id)
    return {(split.partition, split.lane.value): offset for split, offset in offsets.items() if offset}


# --- polling ----------------------------------------------------------------------------------------------------------


async def test_a_poll_hands_out_what_there_is_in_order(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "b1"])
    async with bus.consumer("g", ["orders"]) as consumer:
        assert texts(await consumer.poll(max_events=2)) == ["a1", "a2"]
        assert texts(await consumer.poll()) == ["b1"]
        assert await consumer.poll(timeout_s=0) == []


async def test_the_group_is_made_with_the_default_settings(bus: Bus) -> None:
    async with bus.consumer("new", ["orders"], client_id="me") as consumer:
        group = coordinator_of(bus.storage).get("default", "new")
        assert group.config == GroupConfig(group_name="new")
        assert [(m.member_id, m.client_id) for m in group.members] == [(consumer.member_id, "me")]
        assert consumer.assignment == (Partition(bus.log.find_stream("default", "orders").stream_id, 0),)
    assert coordinator_of(bus.storage).get("default", "new").state is GroupState.EMPTY


async def test_a_poll_waits_until_there_is_something(bus: Bus) -> None:
    async with bus.consumer("g", ["orders"]) as consumer:
        started_s = time.monotonic()
        publishing = asyncio.get_running_loop().call_later(0.15, publish, bus, ["a1"])
        assert texts(await consumer.poll(timeout_s=5)) == ["a1"]
        assert 0.1 < time.monotonic() - started_s < 1.0
        assert publishing.when() > 0


async def test_a_poll_that_waits_leaves_the_event_loop_to_others(bus: Bus) -> None:
    async with bus.consumer("g", ["orders"]) as consumer:
        polling = asyncio.create_task(consumer.poll(timeout_s=0.3))
        turns = 0
        while not polling.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 50


async def test_several_streams_are_read_as_one(bus: Bus) -> None:
    bus.create_stream("payments", partitions=2)
    publish(bus, ["a1"])
    publish(bus, ["b1", "c1"], "payments")
    async with bus.consumer("g", ["orders", "payments"]) as consumer:
        assert sorted(texts(await consumer.poll())) == ["a1", "b1", "c1"]


@pytest.mark.parametrize("options", [{"streams": "orders"}, {"streams": []}, {"max_poll_events": 0}, {"max_unacknowledged": 0}])
def test_options_that_make_no_sense_are_refused(bus: Bus, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        bus.consumer("g", **{"streams": ["orders"], **options})


def test_a_stream_that_is_not_there_is_told(bus: Bus) -> None:
    with pytest.raises(StreamNotFoundError, match="Did you mean 'orders'"):
        bus.consumer("g", ["order"])


# --- lanes and partitions ---------------------------------------------------------------------------------------------


async def test_a_critical_event_overtakes_what_is_read_ahead(bus: Bus) -> None:
    publish(bus, [f"a{i}" for i in range(1000)])
    async with bus.consumer("g", ["orders"]) as consumer:
        await consumer.poll(max_events=10)
        publish(bus, ["c1"], lane=CRITICAL)
        assert texts(await consumer.poll(max_events=10)) == ["c1", *[f"a{i}" for i in range(10, 19)]]


async def test_lanes_share_a_poll(bus: Bus) -> None:
    for lane in LANES:
        publish(bus, [f"{lane.value[0]}{i}" for i in range(30)], lane=lane)
    async with bus.consumer("g", ["orders"]) as consumer:
        polled = await consumer.poll(max_events=50)
        assert [event.priority for event in polled[:30]] == [CRITICAL] * 30
        for lane, wanted in ((HIGH, 12), (NORMAL, 6), (LOW, 2)):
            of_lane = [event.payload for event in polled if event.priority is lane]
            assert of_lane == [f"{lane.value[0]}{i}" for i in range(wanted)]


@pytest.mark.parametrize("most", [1, 3, 40])
async def test_partitions_take_turns(bus: Bus, most: int) -> None:
    info = bus.log.create_stream(StreamConfig(name="many", partitions=4))
    for partition in range(4):
        events = [Event(f"p{partition}-{i}", "t", 0, b"%d" % partition) for i in range(100)]
        bus.log.append([Append(info.stream_id, events, partition=partition)])
    seen = []
    async with bus.consumer("g", ["many"]) as consumer:
        while len(seen) < 120:
            seen += [event.payload for event in await consumer.poll(most)]
    assert all(abs(seen[:120].count(partition) - 30) <= 1 for partition in range(4))


# --- commits ----------------------------------------------------------------------------------------------------------


async def test_what_earlier_polls_handed_out_is_committed_at_the_next_one(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3"])
    async with bus.consumer("g", ["orders"], commit_interval_ms=0) as consumer:
        await consumer.poll(max_events=1)
        assert committed(bus) == {}
        await consumer.poll(max_events=1)
        assert committed(bus) == {(0, "NORMAL"): 1}
        await consumer.poll(max_events=1)
        assert committed(bus) == {(0, "NORMAL"): 2}
    assert committed(bus) == {(0, "NORMAL"): 3}


async def test_before_a_poll_waits_all_that_is_done_is_committed(bus: Bus) -> None:
    publish(bus, ["a1"])
    async with bus.consumer("g", ["orders"], commit_interval_ms=3_600_000) as consumer:
        await consumer.poll()
        await consumer.poll(timeout_s=0)
        assert committed(bus) == {(0, "NORMAL"): 1}


async def test_what_an_error_leaves_in_hand_is_delivered_again(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3"])

    async def fail() -> None:
        async with bus.consumer("g", ["orders"]) as consumer:
            await consumer.poll(max_events=1)
            await consumer.poll(max_events=1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with bus.consumer("g", ["orders"]) as consumer:
        assert texts(await consumer.poll()) == ["a2", "a3"]


async def test_without_automatic_commits_only_commit_commits(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        await consumer.poll(max_events=1)
        await consumer.commit()
        await consumer.poll(max_events=1)
        await consumer.poll(max_events=1)
    assert committed(bus) == {(0, "NORMAL"): 1}


async def test_the_lowest_event_that_is_not_acknowledged_is_committed(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3", "a4"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        one, two, three, four = await consumer.poll()
        assert consumer.ack(two)
        assert consumer.ack(four)
        await consumer.commit()
        assert committed(bus) == {}
        assert consumer.ack(one)
        await consumer.commit()
        assert committed(bus) == {(0, "NORMAL"): 2}
        assert not consumer.ack(one)
        consumer.ack(three)
        await consumer.commit()
        assert committed(bus) == {(0, "NORMAL"): 4}


async def test_events_that_are_not_acknowledged_are_bounded(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3", "a4", "a5"])
    async with bus.consumer("g", ["orders"], auto_commit=False, max_unacknowledged=3) as consumer:
        events = await consumer.poll()
        assert texts(events) == ["a1", "a2", "a3"]
        assert await consumer.poll(timeout_s=0.05) == []
        consumer.ack(events[1])
        assert texts(await consumer.poll()) == ["a4"]


async def test_acknowledgements_come_from_any_thread(bus: Bus) -> None:
    publish(bus, [f"a{i}" for i in range(400)])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        events = await consumer.poll()
        random.Random(1).shuffle(events)
        threads = [threading.Thread(target=lambda n=n: [consumer.ack(event) for event in events[n::4]]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        await consumer.commit()
    assert committed(bus) == {(0, "NORMAL"): 400}


async def test_a_position_is_told_of_what_is_in_hand(bus: Bus) -> None:
    publish(bus, ["a1", "a2"])
    async with bus.consumer("g", ["orders"]) as consumer:
        _, two = await consumer.poll()
        assert consumer.position(two) == (Split(consumer.assignment[0].stream_id, NORMAL, 0), 1)
        await consumer.poll(timeout_s=0)
        with pytest.raises(InvalidStateError, match="not in hand"):
            consumer.position(two)


async def test_iterating_hands_out_one_event_at_a_time(bus: Bus) -> None:
    publish(bus, ["a1", "a2", "a3", "a4"])
    seen = []
    async for event in bus.consumer("g", ["orders"]):
        seen.append(event.payload)
        if event.payload == "a2":
            break
    await asyncio.sleep(0.1)  # the loop that was left is closed by the event loop, at its next turn
    assert coordinator_of(bus.storage).get("default", "g").members == ()
    async with bus.consumer("g", ["orders"]) as consumer:
        async for event in consumer:
            seen.append(event.payload)
            if event.payload == "a3":
                publish(bus, ["c1"], lane=CRITICAL)
                await asyncio.sleep(0.002)  # the log is looked at once a millisecond
            if event.payload == "a4":
                break
    assert seen == ["a1", "a2", "a2", "a3", "c1", "a4"]
    assert committed(bus) == {(0, "NORMAL"): 4, (0, "CRITICAL"): 1}


async def test_closing_a_consumer_ends_its_iteration(bus: Bus) -> None:
    consumer = bus.consumer("g", ["orders"])
    async with consumer:
        asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(consumer.close()))
        assert [event async for event in consumer] == []
    with pytest.raises(ClosedError, match="consumer is closed"):
        await consumer.poll()


# --- events that fail -------------------------------------------------------------------------------------------------


async def deliveries_of(consumer: Consumer, bad: str, most: int = 30) -> list[str]:
    """Poll until nothing comes any more, and give back each event with the text ``bad``."""
    seen: list[str] = []
    while events := await consumer.poll(timeout_s=0.2):
        for event in events:
            seen.append(event.payload)
            assert len(seen) < most
            if event.payload == bad:
                consumer.nack(event, ValueError("no such product"))
    return seen


@pytest.mark.parametrize(("of_event", "of_group", "times"), [(3, 2, 3), (1, 5, 2), (0, 5, 1)])
async def test_what_is_given_back_comes_again_and_is_parked_in_the_end(
    bus: Bus, of_event: int, of_group: int, times: int
) -> None:
    group_id = make_group(bus, max_retries=of_group)
    bad, good = publish(bus, ["a1", "b1"], max_retries=of_event)
    async with bus.consumer("g", ["orders"], retry=AT_ONCE) as consumer:
        seen = await deliveries_of(consumer, "a1")
        member_id, stream_id = consumer.member_id, consumer.assignment[0].stream_id
        assert (seen.count("a1"), seen.count("b1")) == (times, 1)
        assert consumer.counts == {"redelivered": times - 1, "parked": 1} if times > 1 else {"parked": 1}
    assert committed(bus) == {(0, "NORMAL"): 2}
    (letter,) = read_all(bus, "_dead_letters")
    why = told_of(letter.metadata)
    assert original(letter) == bad != good
    assert why | {"failed_at_ms": 0} == {
        "event_id": bad.event_id,
        "stream_id": stream_id,
        "stream": "orders",
        "lane": "NORMAL",
        "partition": 0,
        "offset": 0,
        "step": "consumer:g",
        "error_type": "ValueError",
        "error_message": "no such product",
        "attempts": times,
        "failed_at_ms": 0,
        "group_id": group_id,
        "member_id": member_id,
    }


async def test_an_event_comes_again_after_a_pause(bus: Bus) -> None:
    publish(bus, ["a1"])
    async with bus.consumer("g", ["orders"], retry=RetryPolicy(backoff_ms=200, jitter=0.5)) as consumer:
        (event,) = await consumer.poll()
        consumer.nack(event)
        started_s = time.monotonic()
        assert await consumer.poll(timeout_s=5) == [event]
        assert 0.1 <= time.monotonic() - started_s < 1.0


async def test_while_an_event_waits_the_later_ones_of_its_key_wait(bus: Bus) -> None:
    publish(bus, ["a1", "b1", "a2", "b2", "a3"])
    async with bus.consumer("g", ["orders"], retry=RetryPolicy(backoff_ms=50)) as consumer:
        (first,) = await consumer.poll(max_events=1)
        consumer.nack(first)
        assert texts(await consumer.poll()) == ["b1", "b2"]
        assert texts([event for _ in range(3) for event in await consumer.poll()]) == ["a1", "a2", "a3"]
    assert committed(bus) == {(0, "NORMAL"): 5}


async def test_what_waits_to_come_again_is_not_committed(bus: Bus) -> None:
    publish(bus, ["a1", "b1", "c1"])
    async with bus.consumer("g", ["orders"], commit_interval_ms=0, retry=RetryPolicy(backoff_ms=60_000)) as consumer:
        events = await consumer.poll()
        consumer.nack(events[1])
        await consumer.poll(timeout_s=0)
    assert committed(bus) == {(0, "NORMAL"): 1}


async def test_a_parked_event_is_done_once_it_is_on_disk(bus: Bus) -> None:
    publish(bus, ["a1", "a2"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        one, two = await consumer.poll()
        assert consumer.park(one, "a duplicate")
        assert not consumer.park(one, "a duplicate")
        consumer.ack(two)
        await consumer.commit()
        assert committed(bus) == {(0, "NORMAL"): 2}
    (letter,) = read_all(bus, "_dead_letters")
    assert told_of(letter.metadata)["error_type"] == "Parked"
    assert told_of(letter.metadata)["error_message"] == "a duplicate"


async def test_a_parked_event_that_is_parked_again_is_one_letter(bus: Bus) -> None:
    publish(bus, ["a1"])
    for _ in range(2):
        async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
            await consumer.seek_to_beginning()
            (event,) = await consumer.poll()
            consumer.park(event, "bad")
    assert len(read_all(bus, "_dead_letters")) == 1


# --- where it reads ---------------------------------------------------------------------------------------------------


async def test_a_consumer_reads_on_where_it_is_sent(bus: Bus) -> None:
    publish(bus, ["a1", "a2"])
    await asyncio.sleep(0.002)
    publish(bus, ["a3"])
    async with bus.consumer("g", ["orders"]) as consumer:
        assert len(await consumer.poll()) == 3
        split = Split(consumer.assignment[0].stream_id, NORMAL, 0)
        consumer.seek(split, 1)
        assert texts(await consumer.poll()) == ["a2", "a3"]
        await consumer.seek_to_beginning()
        assert texts(await consumer.poll()) == ["a1", "a2", "a3"]
        await consumer.seek_to_time(1000, [split])
        assert len(await consumer.poll()) == 3
        await consumer.seek_to_time(1001)
        assert await consumer.poll(timeout_s=0) == []
        await consumer.seek_to_beginning([split])
        await consumer.seek_to_end()
        publish(bus, ["a4"])
        assert texts(await consumer.poll()) == ["a4"]
        with pytest.raises(InvalidStateError, match="not assigned"):
            consumer.seek(Split(split.stream_id, NORMAL, 1), 0)
        with pytest.raises(InvalidInputError):
            consumer.seek(split, -1)


@pytest.mark.parametrize("reset", OffsetReset)
async def test_a_group_that_has_committed_nothing_begins_where_it_is_told(bus: Bus, reset: OffsetReset) -> None:
    make_group(bus, auto_offset_reset=reset)
    publish(bus, ["a1"])
    async with bus.consumer("g", ["orders"]) as consumer:
        if reset is OffsetReset.NONE:
            with pytest.raises(OffsetOutOfRangeError, match="nothing is committed for it, and auto_offset_reset"):
                await consumer.poll()
            await consumer.seek_to_end()
            assert await consumer.poll(timeout_s=0) == []
        publish(bus, ["a2"])
        assert texts(await consumer.poll()) == (["a1", "a2"] if reset is OffsetReset.EARLIEST else ["a2"])


async def test_what_comes_after_the_first_member_began_at_the_end_is_not_lost_to_the_second(bus: Bus) -> None:
    make_group(bus, auto_offset_reset=OffsetReset.LATEST)
    async with bus.consumer("g", ["orders"], auto_commit=False):
        publish(bus, ["a1"])
    async with bus.consumer("g", ["orders"]) as consumer:
        assert texts(await consumer.poll()) == ["a1"]


@pytest.mark.parametrize("reset", OffsetReset)
async def test_what_retention_dropped_is_passed_over_as_the_group_says(bus: Bus, reset: OffsetReset) -> None:
    make_group(bus, auto_offset_reset=reset)
    bus.log.create_stream(StreamConfig(name="short", retention_ms=1))
    async with bus.consumer("g", ["short"]) as consumer:
        split = Split(consumer.assignment[0].stream_id, NORMAL, 0)
        publish(bus, ["a1", "a2"], "short")
        bus.log.enforce_retention(int(time.time() * 1000) + 1000)
        publish(bus, ["a3"], "short")
        for each in consumer.offsets() or [Split(split.stream_id, lane, 0) for lane in LANES]:
            consumer.seek(each, 0)
        if reset is OffsetReset.NONE:
            with pytest.raises(OffsetOutOfRangeError, match=r"holds 2 to 2, not 0, and auto_offset_reset of the group is none"):
                await consumer.poll()
            return
        assert texts(await consumer.poll(timeout_s=0.05)) == (["a3"] if reset is OffsetReset.EARLIEST else [])
        assert consumer.counts["resets"] == 1
        publish(bus, ["a4"], "short")
        assert texts(await consumer.poll()) == ["a4"]


async def test_a_batch_is_done_when_it_is_left_and_comes_again_after_an_error(bus: Bus) -> None:
    async def fail(consumer: Consumer) -> None:
        async with consumer.batch() as batch:
            assert (list(batch.before.values()), list(batch.after.values())) == ([1], [3])
            raise RuntimeError

    publish(bus, ["a0"])
    async with bus.consumer("g", ["orders"]) as consumer:
        await consumer.poll()
    publish(bus, ["a1", "a2"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        with pytest.raises(RuntimeError):
            await fail(consumer)
        async with consumer.batch() as again:
            assert texts(again.events) == ["a1", "a2"]
            assert (list(again.before.values()), list(again.after.values())) == ([1], [3])
        async with consumer.batch(timeout_s=0) as empty:
            assert empty == ([], {}, {})
        await consumer.commit()
    assert committed(bus) == {(0, "NORMAL"): 3}


async def test_partitions_are_paused_and_resumed(bus: Bus) -> None:
    publish(bus, ["a1"])
    async with bus.consumer("g", ["orders"]) as consumer:
        consumer.pause(*consumer.assignment)
        assert await consumer.poll(timeout_s=0.05) == []
        consumer.resume(*consumer.assignment)
        assert texts(await consumer.poll()) == ["a1"]
        with pytest.raises(InvalidStateError):
            consumer.pause(Partition("elsewhere", 0))


# --- the group changes ------------------------------------------------------------------------------------------------


async def together(*consumers: Consumer, times: int = 12, timeout_s: float = 0.04) -> list[list[Event]]:
    """Poll all at the same time, a number of times; what each was given."""
    given: list[list[Event]] = [[] for _ in consumers]
    for _ in range(times):
        for events, more in zip(given, await asyncio.gather(*(c.poll(5, timeout_s) for c in consumers)), strict=True):
            events += more
    return given


@pytest.mark.parametrize("strategy", AssignmentStrategy)
async def test_members_share_the_partitions_and_no_event_comes_twice(bus: Bus, strategy: AssignmentStrategy) -> None:
    make_group(bus, partition_assignment_strategy=strategy)
    bus.create_stream("many", partitions=4)
    published = publish(bus, [f"{key}{i}" for i in range(25) for key in "abcdefgh"], "many")
    told: list[tuple[str, str, tuple[Partition, ...]]] = []

    def listening(name: str) -> dict[str, Any]:
        async def on_assigned(consumer: Consumer, partitions: list[Partition]) -> None:
            assert set(partitions) <= set(consumer.assignment)
            told.append((name, "assigned", tuple(partitions)))

        return {
            "on_assigned": on_assigned,
            "on_revoked": lambda consumer, partitions: told.append((name, "revoked", tuple(partitions))),
        }

    async with bus.consumer("g", ["many"], **listening("one")) as one:
        seen = await one.poll(20)
        everything = one.assignment
        assert told == [("one", "assigned", everything)]
        async with bus.consumer("g", ["many"], **listening("two")) as two:
            first, second = await together(one, two)
            assert len(one.assignment) == len(two.assignment) == 2
            assert sorted((*one.assignment, *two.assignment)) == list(everything)
            assert first
            assert second
            seen += first + second
        while events := await one.poll(timeout_s=0.3):
            seen += events
        assert one.assignment == everything
    assert sorted(event.event_id for event in seen) == sorted(event.event_id for event in published)
    for key in "abcdefgh":
        numbers = [int(event.payload[1:]) for event in seen if event.key == key]
        assert all(a < b for a, b in pairwise(numbers))
    revoked_of_one = {p for name, what, partitions in told if (name, what) == ("one", "revoked") for p in partitions}
    assert len(revoked_of_one) == (2 if strategy is AssignmentStrategy.COOPERATIVE_STICKY else 4)


async def test_cooperative_members_keep_what_they_have_in_hand(bus: Bus) -> None:
    make_group(bus, partition_assignment_strategy=AssignmentStrategy.COOPERATIVE_STICKY)
    bus.create_stream("many", partitions=4)
    publish(bus, [f"{key}1" for key in "abcdefghijklmnop"], "many")
    async with bus.consumer("g", ["many"], auto_commit=False) as one:
        events = await one.poll()
        places = {event.event_id: one.position(event).split for event in events}
        async with bus.consumer("g", ["many"], auto_commit=False) as two:
            again = [event.event_id for given in await together(one, two) for event in given]
            for event in events:
                split = places[event.event_id]
                is_kept = Partition(split.stream_id, split.partition) in one.assignment
                assert one.ack(event) is is_kept
                assert again.count(event.event_id) == (0 if is_kept else 1)


async def test_an_eager_member_that_gets_a_partition_again_goes_on_with_what_was_not_done(bus: Bus) -> None:
    group_id = make_group(bus)
    publish(bus, ["a1", "b1", "c1"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        one, two, three = await consumer.poll()
        consumer.ack(two)
        coordinator_of(bus.storage).trigger_rebalance("default", group_id)
        assert await consumer.poll(timeout_s=1) == [one, three]
        assert consumer.generation == 2
        assert consumer.ack(one)


async def test_a_paused_group_is_given_nothing_and_keeps_its_members(bus: Bus) -> None:
    group_id = make_group(bus)
    coordinator = coordinator_of(bus.storage)
    async with bus.consumer("g", ["orders"]) as consumer:
        await consumer.poll(timeout_s=0)
        coordinator.set_paused("default", group_id, True)
        await consumer.poll(timeout_s=0.3)
        publish(bus, ["a1"])
        assert await consumer.poll(timeout_s=0.3) == []
        assert len(coordinator.get("default", group_id).members) == 1
        coordinator.set_paused("default", group_id, False)
        assert texts(await consumer.poll(timeout_s=2)) == ["a1"]


@pytest.mark.parametrize("strategy", [AssignmentStrategy.RANGE, AssignmentStrategy.COOPERATIVE_STICKY])
@pytest.mark.parametrize("holds_some", [True, False])
async def test_members_of_a_group_that_is_set_back_read_again(bus: Bus, strategy: AssignmentStrategy, holds_some: bool) -> None:
    group_id = make_group(bus, partition_assignment_strategy=strategy)
    coordinator = coordinator_of(bus.storage)
    publish(bus, ["a1", "a2"])
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        await consumer.poll()
        if not holds_some:
            await consumer.commit()
        coordinator.set_paused("default", group_id, True)
        coordinator.reset(group_id, {Split(consumer.assignment[0].stream_id, NORMAL, 0): 1})
        assert await consumer.poll(timeout_s=0.2) == []
        coordinator.set_paused("default", group_id, False)
        assert texts(await consumer.poll(timeout_s=2)) == ["a2"]


async def test_a_poll_that_was_cancelled_takes_nothing_with_it(bus: Bus) -> None:
    assigned: list[Partition] = []

    async def on_assigned(consumer: Consumer, partitions: list[Partition]) -> None:
        assigned.extend(partitions)

    published = [publish(bus, [f"a{i}"])[0] for i in range(30)]
    seen: list[Event] = []
    consumer = bus.consumer("g", ["orders"], on_assigned=on_assigned, commit_interval_ms=0)
    for delay in range(0, 60, 3):
        polling = asyncio.create_task(consumer.poll(1, timeout_s=0.5))
        await asyncio.sleep(delay / 4000)
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            seen += await polling
    while events := await consumer.poll(timeout_s=0.2):
        seen += events
    await consumer.close()
    assert seen == published
    assert assigned == [Partition(bus.log.find_stream("default", "orders").stream_id, 0)]


async def test_who_does_not_poll_is_put_out_and_joins_again_with_the_next_poll(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    make_group(bus, max_poll_interval_ms=1000, session_timeout_ms=10_000, heartbeat_interval_ms=100)
    publish(bus, ["a1", "a2"])
    async with bus.consumer("g", ["orders"]) as consumer:
        before = consumer.member_id
        assert texts(await consumer.poll(1)) == ["a1"]
        time.sleep(1.4)  # noqa: ASYNC251 - the loop is meant to be busy
        with pytest.raises(FencedError, match=r"came too late, and was refused.*did not ask for events for max_poll_interval_ms"):
            await consumer.commit()
        assert texts(await consumer.poll()) == ["a1", "a2"]
        assert consumer.counts["put_out"] == 1
        assert "lost its place in group g" in caplog.text
        assert consumer.member_id != before
    assert committed(bus) == {(0, "NORMAL"): 2}


async def test_heartbeats_go_on_while_the_event_loop_is_busy(bus: Bus) -> None:
    make_group(bus, session_timeout_ms=1000, heartbeat_interval_ms=200)
    async with bus.consumer("g", ["orders"]) as consumer:
        before = consumer.member_id
        time.sleep(1.5)  # noqa: ASYNC251 - the loop is meant to be busy
        assert coordinator_of(bus.storage).get("default", "g").members[0].member_id == before
        await consumer.poll(timeout_s=0)
        assert (consumer.member_id, consumer.counts) == (before, {})


async def test_a_group_that_is_deleted_ends_its_members(bus: Bus) -> None:
    group_id = make_group(bus)
    async with bus.consumer("g", ["orders"]) as consumer:
        await consumer.poll(timeout_s=0)
        deleting = asyncio.get_running_loop().run_in_executor(None, coordinator_of(bus.storage).delete, "default", group_id)
        with pytest.raises(GroupNotFoundError, match="may have been deleted"):
            await consumer.poll(timeout_s=5)
        await deleting
        with pytest.raises(GroupNotFoundError):
            await consumer.commit()
        with pytest.raises(GroupNotFoundError):
            await consumer.poll(timeout_s=5)


async def test_a_stream_that_is_dropped_is_told_once(bus: Bus) -> None:
    payments = bus.create_stream("payments")
    async with bus.consumer("g", ["orders", "payments"]) as consumer:
        await consumer.poll(timeout_s=0)
        bus.log.drop_stream(payments.stream_id)
        with pytest.raises(StreamNotFoundError, match="'payments', which consumer group 'g' reads, was dropped"):
            await consumer.poll(timeout_s=5)
        publish(bus, ["a1"])
        assert texts(await consumer.poll(timeout_s=5)) == ["a1"]
        bus.log.drop_stream(bus.log.find_stream("default", "orders").stream_id)
        for _ in range(2):
            with pytest.raises(StreamNotFoundError, match="'orders'"):
                await consumer.poll(timeout_s=5)


async def test_closing_the_data_folder_ends_a_poll(bus: Bus) -> None:
    consumer = bus.consumer("g", ["orders"])
    asyncio.get_running_loop().call_later(0.1, bus.close)
    with pytest.raises(ClosedError):
        await consumer.poll(timeout_s=10)
    with pytest.raises(ClosedError):
        await consumer.poll(timeout_s=10)
    await consumer.close()


async def test_closing_the_storage_below_ends_a_poll(bus: Bus) -> None:
    consumer = bus.consumer("g", ["orders"])
    asyncio.get_running_loop().call_later(0.1, bus.storage.close)
    with pytest.raises(ClosedError):
        await consumer.poll(timeout_s=10)
    await consumer.close()


async def test_a_consumer_that_is_forgotten_sends_no_more_heartbeats(bus: Bus) -> None:
    make_group(bus, "forgotten", heartbeat_interval_ms=100)
    await bus.consumer("forgotten", ["orders"]).poll(timeout_s=0)
    gc.collect()
    deadline_s = time.monotonic() + 2
    while any(thread.name.startswith("esb-member-forgotten") for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def test_a_damaged_batch_is_told_and_passed_by_a_seek(bus: Bus) -> None:
    publish(bus, ["a1"])
    publish(bus, ["a2"])
    database = sqlite3.connect(bus.folder / "log.db")
    database.execute("UPDATE batches SET body = zeroblob(length(body)) WHERE base_offset = 0 AND count = 1 AND split_no = 3")
    database.commit()
    database.close()
    async with bus.consumer("g", ["orders"]) as consumer:
        for _ in range(2):
            with pytest.raises(BusError, match="is damaged"):
                await consumer.poll()
        consumer.seek(Split(consumer.assignment[0].stream_id, NORMAL, 0), 1)
        assert texts(await consumer.poll()) == ["a2"]


# --- one split, whatever is done with its events ----------------------------------------------------------------------

SPLIT = Split("str_1", NORMAL, 0)
STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "ack", "nack", "park", "parked", "settle", "back"]), st.integers(0, 5)), max_size=60
)


@settings(max_examples=200)
@example(["a", "a"], [("take", 0), ("take", 0), ("back", 0), ("take", 0), ("nack", 0)], 2)
@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=25), STEPS, st.integers(1, 6))
def test_no_event_of_a_split_is_lost_and_keys_keep_their_order(
    keys: list[str | None], steps: list[tuple[str, int]], window: int
) -> None:
    events = [Event(f"e{i}", "t", 0, b"", key=key) for i, key in enumerate(keys)]
    reader = SplitReader(SPLIT, 0, window)
    reader.feed([RecordBatch(SPLIT, store_events(events, 0, CompressionType.NONE, 0))])
    done: list[int] = []
    now_s = 0.0
    for step, number in [*steps, *[("parked", 0)] * 30, *[("take", 5), ("settle", 0)] * 60]:
        now_s += 1.0
        hands = sorted(reader.hands)
        chosen = hands[number % len(hands)] if hands else -1
        if step == "take":
            reader.available(now_s)
            taken = [int(event.event_id[1:]) for event in reader.take(number + 1)]
            assert len(set(taken)) == len(taken) <= number + 1
            assert set(taken) <= set(reader.hands) - set(hands) - set(done)
            for offset in taken:  # none of its key that comes before it still waits
                waiting = [o for o in set(reader.pending) - reader.parking if o < offset and keys[o] == keys[offset]]
                assert keys[offset] is None or not waiting
            assert len(reader.hands) + len(reader.pending) <= window
        elif step == "settle":
            done += hands
            reader.settle()
        elif step == "parked" and reader.parking:
            done.append(min(reader.parking))
            assert reader.done(done[-1])
        elif step == "ack" and hands:
            done.append(chosen)
            assert reader.done(chosen)
        elif step == "nack" and hands:
            reader.nack(chosen, now_s + number)
        elif step == "park" and hands:
            reader.park(chosen)
        elif step == "back":
            reader.put_back(hands)
        assert reader.low() == min(set(range(len(keys) + 1)) - set(done))
    assert sorted(done) == list(range(len(keys)))
