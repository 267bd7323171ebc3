"""Dead letters that are retried for a consumer group: delivered again to that group, as the events that they were."""

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from event_streaming_bus.api.consuming_hands import Delivery, EventPlace, Hands, Shown, shown
from event_streaming_bus.api.delivered import delivered
from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig, OffsetReset, Partition
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.errors import StreamNotFoundError
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import LANES, Event, Position, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.dead_letters import told_of
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.redeliveries import as_delivered, redelivery, redelivery_of, retry_stream_name
from event_streaming_bus.testing import read_all, temporary_bus

NORMAL = LANES[2]
_numbers = count()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as bus:
        bus.create_stream("orders")
        yield bus


def publish(bus: Bus, *texts: str, **more: Any) -> list[Event]:
    """Publish an event for each text; ``a1`` has the key ``a``."""
    events = [Event(f"e{next(_numbers)}", "t", 1000, b'"%s"' % text.encode(), key=text[0], **more) for text in texts]
    bus.log.append([Append(bus.log.find_stream("default", "orders").stream_id, events)])
    return events


def group_id(bus: Bus, group: str = "g") -> str:
    return GroupCoordinator(bus.storage).get("default", group).group_id


def make_group(bus: Bus, **config: Any) -> str:
    return GroupCoordinator(bus.storage).create("default", GroupConfig(group_name="g", **config)).group_id


def retry(bus: Bus, *letters: Event, partitions: int = 1) -> StreamInfo:
    """Write these dead letters, or all, to the group's stream of redeliveries."""
    config = StreamConfig(name=retry_stream_name(group_id(bus)), partitions=partitions)
    stream = bus.log.create_stream(config)
    bus.log.append([Append(stream.stream_id, [redelivery(each) for each in letters or read_all(bus, "_dead_letters")])])
    return stream


async def park(bus: Bus, *texts: str, group: str = "g") -> list[Event]:
    """Publish events, and have a consumer of the group set them all aside; returns the letters."""
    publish(bus, *texts)
    async with bus.consumer(group, ["orders"]) as consumer:
        for event in await poll(consumer, len(texts)):
            consumer.park(event, "no such address")
    return read_all(bus, "_dead_letters")[-len(texts) :]


async def poll(consumer: Consumer, most: int = 1) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(5):
        while len(events) < most:
            events += await consumer.poll(timeout_s=0.2)
    return events


def texts(events: list[Event]) -> list[str]:
    return [event.payload for event in events]


async def lag(bus: Bus) -> dict[str, Any]:
    return await ConsumerManagementService(bus.storage).get_consumer_lag("g")


# --- delivered --------------------------------------------------------------------------------------------------------


async def test_a_member_that_is_there_already_is_given_what_is_retried(bus: Bus) -> None:
    (event,) = publish(bus, "a1", metadata={"trace": 7}, causation_id="evt_cause")
    told: list[Partition] = []
    async with bus.consumer("g", ["orders"], on_assigned=lambda _, partitions: told.extend(partitions)) as consumer:
        for each in await poll(consumer):
            consumer.park(each, "no such address")
        await consumer.commit()
        assert consumer.retry_stream_id is None
        stream = retry(bus)
        (again,) = await poll(consumer)
        assert consumer.retry_stream_id == stream.stream_id
        assert consumer.assignment == tuple(sorted(told[-2:]))
        assert Partition(stream.stream_id, 0) in consumer.assignment
        assert consumer.position(again) == Position(Split(stream.stream_id, NORMAL, 0), 0)
    assert (again.event_id, again.payload, again.causation_id) == (event.event_id, "a1", "evt_cause")
    assert again.metadata is not None
    assert again.metadata["trace"] == 7
    why = redelivery_of(again)
    assert why is not None
    assert (why["stream"], why["partition"], why["lane"], why["offset"], why["attempts"]) == ("orders", 0, "NORMAL", 0, 1)


async def test_only_the_group_that_set_it_aside_is_given_it_again(bus: Bus) -> None:
    await park(bus, "a1")
    async with bus.consumer("other", ["orders"]) as other, bus.consumer("g", ["orders"]) as consumer:
        assert texts(await poll(other)) == ["a1"]
        retry(bus)
        assert texts(await poll(consumer)) == ["a1"]
        assert await other.poll(timeout_s=0.3) == []


@pytest.mark.parametrize("strategy", AssignmentStrategy)
async def test_members_share_what_is_retried(bus: Bus, strategy: AssignmentStrategy) -> None:
    make_group(bus, partition_assignment_strategy=strategy)
    names = [f"{letter}{number}" for letter in "abcdef" for number in range(3)]
    await park(bus, *names)
    found: list[str] = []
    async with bus.consumer("g", ["orders"]) as one, bus.consumer("g", ["orders"]) as other, asyncio.timeout(10):
        stream = retry(bus, partitions=4)
        shares: set[int] = set()
        while len(found) < len(names) or shares != {2}:
            found += texts(await one.poll(timeout_s=0.02)) + texts(await other.poll(timeout_s=0.02))
            shares = {sum(each.stream_id == stream.stream_id for each in c.assignment) for c in (one, other)}
    assert sorted(found) == sorted(names)
    for letter in "abcdef":
        assert [text for text in found if text[0] == letter] == [f"{letter}{number}" for number in range(3)]


@pytest.mark.parametrize("reset", OffsetReset)
async def test_all_of_it_is_delivered_once_whatever_the_reset(bus: Bus, reset: OffsetReset) -> None:
    make_group(bus, auto_offset_reset=reset)
    (letter,) = await park_with_seek(bus, reset)
    retry(bus, letter)
    async with bus.consumer("g", ["orders"]) as consumer:
        assert texts(await poll(consumer)) == ["a1"]
    async with bus.consumer("g", ["orders"]) as consumer:
        assert await consumer.poll(timeout_s=0.1) == []


async def park_with_seek(bus: Bus, reset: OffsetReset) -> list[Event]:
    publish(bus, "a1")
    stream_id = bus.log.find_stream("default", "orders").stream_id

    def from_the_beginning(consumer: Consumer, partitions: object) -> None:
        consumer.seek_to(dict.fromkeys(bus.log.begin_offsets(stream_id), 0))

    async with bus.consumer("g", ["orders"], on_assigned=from_the_beginning) as consumer:
        for event in await poll(consumer):
            consumer.park(event, "no")
    return read_all(bus, "_dead_letters")


async def test_the_order_of_a_key_is_kept_when_one_fails_again(bus: Bus) -> None:
    await park(bus, "a1", "a2", "b1")
    retry(bus)
    at_once = RetryPolicy(backoff_ms=1, max_backoff_ms=1)
    async with bus.consumer("g", ["orders"], retry=at_once, auto_commit=False) as consumer:
        (first,) = await consumer.poll(1)
        consumer.nack(first, "not yet")
        rest = await poll(consumer, 2)
        assert sorted(texts(rest)) == ["a1", "b1"]
        for event in rest:
            consumer.ack(event)
        assert texts(await poll(consumer)) == ["a2"]


# --- parked again -----------------------------------------------------------------------------------------------------


async def test_the_letter_of_what_fails_again_tells_of_the_beginning(bus: Bus) -> None:
    (letter,) = await park(bus, "a1")
    retry(bus)
    async with bus.consumer("g", ["orders"], retry=RetryPolicy(backoff_ms=1, max_backoff_ms=1)) as consumer:
        (event,) = await poll(consumer)
        consumer.nack(event, "once")
        (event,) = await poll(consumer)
        consumer.park(event, ValueError("for good"))
    first, second = read_all(bus, "_dead_letters")
    why, before = told_of(second.metadata), told_of(first.metadata)
    for name in ("event_id", "stream_id", "stream", "lane", "partition", "offset", "step", "group_id"):
        assert why[name] == before[name]
    assert (why["attempts"], why["error_type"], why["redelivered_from"]) == (1 + 2, "ValueError", letter.event_id)
    assert second.metadata is not None
    assert set(second.metadata) == {"dead_letter"}
    assert second.event_id != first.event_id
    retry(bus, second)
    async with bus.consumer("g", ["orders"]) as consumer:
        (again,) = await poll(consumer)
    assert again.event_id == event.event_id
    assert (redelivery_of(again) or {})["attempts"] == 3


async def test_an_event_and_its_redelivery_are_acknowledged_each_by_itself(bus: Bus) -> None:
    publish(bus, "a1")
    dying = bus.consumer("g", ["orders"], auto_commit=False)
    for each in await poll(dying):
        dying.park(each, "no")
    for _ in range(100):
        if read_all(bus, "_dead_letters"):
            break
        await asyncio.sleep(0.01)
    dying.abandon()  # before it has committed, so the event is delivered again, too
    retry(bus)
    async with bus.consumer("g", ["orders"], auto_commit=False) as consumer:
        both = await poll(consumer, 2)
        assert len({event.event_id for event in both}) == 1
        event, again = sorted(both, key=lambda each: redelivery_of(each) is not None)
        assert consumer.position(event).split != consumer.position(again).split
        assert [consumer.ack(event), consumer.ack(event), consumer.ack(again), consumer.ack(again)] == [True, False, True, False]
        await consumer.commit()
    assert (await lag(bus))["total_lag"] == 0


# --- looked after -----------------------------------------------------------------------------------------------------


async def test_lag_counts_what_is_retried(bus: Bus) -> None:
    await park(bus, "a1", "b1")
    assert ((await lag(bus))["total_lag"], (await lag(bus))["parked"]) == (0, 2)
    stream = retry(bus)
    told = await lag(bus)
    assert (told["total_lag"], told["stream_lags"]) == (2, {"orders": 0, stream.name: 2})
    async with bus.consumer("g", ["orders"]) as consumer:
        await poll(consumer, 2)
        described = await ConsumerManagementService(bus.storage).describe_consumer_group("g")
        assert {each["stream"] for each in described["members"][0]["assignment"]} == {"orders", stream.name}
    assert (await lag(bus))["total_lag"] == 0


async def test_an_offset_is_not_meant_for_what_is_retried_unless_it_is_named(bus: Bus) -> None:
    publish(bus, "a1", "a2", "a3")
    await park(bus, "b1")
    service, stream = ConsumerManagementService(bus.storage), retry(bus)
    told = await service.preview_reset("g", to={"offset": 2})
    assert {each["stream"] for each in told["splits"]} == {"orders"}
    told = await service.preview_reset("g", to="latest")
    assert {each["stream"] for each in told["splits"]} == {"orders", stream.name}
    told = await service.reset_offsets("g", to={"offset": 1}, streams=[stream.name])
    assert [(each["new_offset"], each["effect"]) for each in told["splits"]] == [(1, "SKIPPED")]


async def test_a_group_is_deleted_with_what_is_on_its_way_to_it(bus: Bus) -> None:
    await park(bus, "a1")
    stream = retry(bus)
    await ConsumerManagementService(bus.storage).delete_consumer_group("g")
    with pytest.raises(StreamNotFoundError):
        bus.log.find_stream("default", stream.name)


async def test_a_member_reads_on_when_the_stream_of_what_is_retried_is_gone(bus: Bus) -> None:
    await park(bus, "a1")
    stream = retry(bus)
    async with bus.consumer("g", ["orders"]) as consumer:
        assert texts(await poll(consumer)) == ["a1"]
        bus.log.drop_stream(stream.stream_id)
        publish(bus, "a2")
        assert texts(await poll(consumer)) == ["a2"]
        assert [each.stream_id for each in consumer.assignment] == [bus.log.find_stream("default", "orders").stream_id]
        anew = retry(bus)
        assert texts(await poll(consumer)) == ["a1"]
        assert consumer.retry_stream_id == anew.stream_id


# --- over HTTP --------------------------------------------------------------------------------------------------------

NAMES = {"str_o": "orders", "str_r": retry_stream_name("grp_1")}
IDS = {name: stream_id for stream_id, name in NAMES.items()} | {each: each for each in NAMES}


def hand(offset: int, *, redelivered_from: int | None = None) -> Delivery:
    """An event at this offset of ``orders``; or one that was read there at ``redelivered_from``, and lies at ``offset`` of the
    stream of redeliveries."""
    place = offset if redelivered_from is None else redelivered_from
    event = Event(f"e{place}", "t", 0, b"1")
    if redelivered_from is None:
        return Delivery(event, Position(Split("str_o", NORMAL, 0), offset))
    told = {"event_id": event.event_id, "stream_id": "str_o", "stream": "orders", "lane": "NORMAL", "partition": 0}
    metadata = {"redelivery": told | {"offset": place, "attempts": 1, "dead_letter_id": f"l{offset}"}}
    return Delivery(as_delivered(Event("x", "t", 0, b"1", metadata=metadata)), Position(Split("str_r", NORMAL, 1), offset))


def hands(*deliveries: Delivery) -> Hands:
    made = Hands()
    for each in deliveries:
        made.add(each, NAMES)
    return made


def at(offset: int, stream: str = "orders") -> EventPlace:
    return EventPlace(stream=stream, partition=0, offset=offset)


def test_a_client_is_told_where_an_event_was_at_first() -> None:
    again = hand(0, redelivered_from=5)
    assert shown(again, NAMES) == Shown("orders", 0, NORMAL, 5)
    (told,) = delivered([again], NAMES)
    assert (told.event_id, told.stream, told.partition, told.offset) == ("e5", "orders", 0, 5)
    assert shown(hand(7), NAMES) == Shown("orders", 0, NORMAL, 7)


def test_an_event_and_its_redelivery_are_named_one_after_the_other() -> None:
    event, again = hand(5), hand(0, redelivered_from=5)
    mine = hands(event, again)
    assert mine.chosen([at(5)], [], [], IDS) == ([event], [])
    assert mine.chosen([at(5), at(5)], [], [], IDS) == ([event, again], [])
    assert mine.chosen([], ["e5", "e5"], [], IDS) == ([event, again], [])
    mine.drop(event.position)
    assert mine.chosen([at(5)], [], [], IDS) == ([again], [])
    assert mine.chosen([], ["e5"], [], IDS) == ([again], [])
    mine.drop(again.position)
    assert mine.chosen([at(5)], ["e5"], [], IDS) == ([], [at(5), "e5"])


def test_all_up_to_an_event_means_what_was_handed_out_before_it() -> None:
    earlier, first, last, later = hand(0, redelivered_from=1), hand(8), hand(9), hand(1, redelivered_from=2)
    mine = hands(earlier, first, last, later)
    assert mine.chosen([], [], [at(9)], IDS)[0] == [first, last, earlier]
    assert mine.chosen([], [], [at(2)], IDS)[0] == [later]


def test_a_client_may_name_a_stream_that_it_has_only_redelivered_events_of() -> None:
    again = hand(0, redelivered_from=5)
    mine, ids = hands(again), {"returns": "str_x", "str_x": "str_x"}
    assert mine.chosen([at(5)], [], [at(5, "str_o")], ids) == ([again], [])
    with pytest.raises(StreamNotFoundError, match="does not read 'else' but returns"):
        mine.chosen([at(5, "else")], [], [], ids)
