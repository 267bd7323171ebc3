"""What consumers do is history: deliveries, retries, dead letters, and events whose time was over."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.consumers.split_ledger import MAX_MIXED, SplitLedger
from event_streaming_bus.consumers.split_reader import SplitReader
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import LANES, CompressionType, Event, EventConfig, Split, StreamConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history_records import DEAD, EXPIRED, PASSED, EventError
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.record_batch import RecordBatch, store_events
from event_streaming_bus.store.redeliveries import redelivery, retry_stream_name
from event_streaming_bus.testing import read_all, temporary_bus

SPLIT = Split("str_1", LANES[2], 0)
AT_ONCE = RetryPolicy(backoff_ms=1, max_backoff_ms=1)


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as bus:
        bus.create_stream("orders")
        yield bus


def publish(bus: Bus, *payloads: Any) -> list[str]:
    config = EventConfig(event_type="placed", key="k")
    receipts = bus.publishing.submit(config, list(payloads), stream_id="orders").result()
    return [receipt.event_id for receipt in receipts]


def append(bus: Bus, *events: Event) -> None:
    bus.log.append([Append(bus.log.find_stream("default", "orders").stream_id, events)])


async def poll(consumer: Consumer, most: int = 1) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(5):
        while len(events) < most:
            events += await consumer.poll(timeout_s=0.2)
    return events


def ask(bus: Bus, sql: str) -> list[tuple[Any, ...]]:
    history = History(bus.storage)
    try:
        history.catch_up()
        return list(history.query(sql).rows())
    finally:
        history.close()


def steps(bus: Bus, event_id: str) -> list[dict[str, Any]]:
    """The event's history."""
    history = History(bus.storage)
    try:
        history.catch_up()
        told: list[dict[str, Any]] = history.processing_history("default", event_id)["processing_history"]
        return told
    finally:
        history.close()


def stages(bus: Bus, event_id: str) -> list[tuple[str, str, str]]:
    return [(each["processing_stage"], each["processor_name"], each["status"]) for each in steps(bus, event_id)]


# --- deliveries -------------------------------------------------------------------------------------------------------


async def test_the_history_of_an_event_tells_of_each_group_that_has_it(bus: Bus) -> None:
    event_id, _ = publish(bus, 1, 2)
    for group in ("mail", "stock"):
        async with bus.consumer(group, ["orders"]) as consumer:
            await poll(consumer, 2)
    assert stages(bus, event_id) == [
        ("PUBLISH", "publisher", "COMPLETED"),
        ("DELIVERY", "consumer:mail", "COMPLETED"),
        ("DELIVERY", "consumer:stock", "COMPLETED"),
    ]
    mail = steps(bus, event_id)[1]
    assert mail["processor_id"] == GroupCoordinator(bus.storage).get("default", "mail").group_id
    assert mail["started_at"] <= mail["completed_at"]
    assert mail["processing_duration_ms"] > 0


async def test_what_was_not_committed_is_told_when_it_is(bus: Bus) -> None:
    event_id, other_id = publish(bus, 1, 2)
    async with bus.consumer("mail", ["orders"], auto_commit=False) as consumer:
        first, _ = await poll(consumer, 2)
        consumer.ack(first)
        await consumer.commit()
    assert [len(stages(bus, each)) for each in (event_id, other_id)] == [2, 1]
    async with bus.consumer("mail", ["orders"]) as consumer:
        await poll(consumer)
    assert [len(stages(bus, each)) for each in (event_id, other_id)] == [2, 2]


async def test_frequent_commits_are_told_together(bus: Bus) -> None:
    publish(bus, *range(300))
    before = ask(bus, "SELECT count(*) FROM rebalances")  # and makes the stream of history
    stream = bus.storage.history()
    begin = sum(bus.log.end_offsets(stream.stream_id).values())
    async with bus.consumer("mail", ["orders"], auto_commit=False) as consumer:
        for _ in range(100):
            await consumer.poll(3)
            await consumer.commit()
    assert ask(bus, "SELECT count(*), count(DISTINCT event_id) FROM processing_history WHERE processing_stage = 'DELIVERY'") == [
        (300, 300)
    ]
    assert sum(bus.log.end_offsets(stream.stream_id).values()) - begin < 50 + before[0][0]


async def test_a_consumer_that_asks_for_nothing_more_has_told_of_all_by_its_next_heartbeat(bus: Bus) -> None:
    GroupCoordinator(bus.storage).create("default", GroupConfig(group_name="mail", heartbeat_interval_ms=100))
    first_id, last_id = publish(bus, 1, 2)
    async with bus.consumer("mail", ["orders"], auto_commit=False) as consumer:
        for _ in range(2):
            assert len(await consumer.poll(1)) == 1
            await consumer.commit()
        for _ in range(50):
            if len(stages(bus, last_id)) == 2:
                break
            await asyncio.sleep(0.05)
        assert [len(stages(bus, each)) for each in (first_id, last_id)] == [2, 2]


async def test_events_that_a_seek_passes_over_were_not_delivered(bus: Bus) -> None:
    ids = publish(bus, *range(5))
    async with bus.consumer("mail", ["orders"], auto_commit=False) as consumer:
        assert len(await consumer.poll(1)) == 1
        await consumer.commit()
        (split,) = [split for split, offset in consumer.offsets().items() if offset]
        consumer.seek(split, 3)
        assert len(await consumer.poll(1)) == 1
        await consumer.commit()
    assert [len(stages(bus, each)) for each in ids] == [2, 1, 1, 2, 1]


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_retries_and_the_dead_letter_are_history(bus: Bus) -> None:
    GroupCoordinator(bus.storage).create("default", GroupConfig(group_name="mail", max_retries=2))
    event_id, other_id = publish(bus, 1, 2)
    async with bus.consumer("mail", ["orders"], retry=AT_ONCE) as consumer, asyncio.timeout(5):
        while not consumer.counts["parked"]:
            for event in await consumer.poll(timeout_s=0.1):
                if event.event_id == event_id:
                    consumer.nack(event, ValueError("no such address"))
        await consumer.poll(timeout_s=0.05)
    told = steps(bus, event_id)
    assert sorted((each["processing_stage"], each["status"]) for each in told) == [
        ("DEAD_LETTER", "FAILED"),
        ("DELIVERY", "FAILED"),
        ("PUBLISH", "COMPLETED"),
        ("RETRY", "FAILED"),
        ("RETRY", "FAILED"),
    ]
    retries = [each for each in told if each["processing_stage"] == "RETRY"]
    assert [each["output_data"] for each in retries] == [{"retry": 1}, {"retry": 2}]
    assert {(each["error_type"], each["error_message"]) for each in told[1:]} == {("ValueError", "no such address")}
    (letter,) = read_all(bus, "_dead_letters")
    (dead,) = [each for each in told if each["processing_stage"] == "DEAD_LETTER"]
    assert dead["output_data"] == {"dead_letter_id": letter.event_id, "attempts": 3}
    assert stages(bus, other_id)[1:] == [("DELIVERY", "consumer:mail", "COMPLETED")]
    rows = ask(bus, 'SELECT dead_letter_id, event_id, stream, "offset", step, error_message, attempts FROM dead_letters')
    assert rows == [(letter.event_id, event_id, "orders", 0, "consumer:mail", "no such address", 3)]


async def test_what_became_of_a_redelivery_is_told_of_the_event(bus: Bus) -> None:
    (event_id,) = publish(bus, 1)
    async with bus.consumer("mail", ["orders"]) as consumer:
        for event in await poll(consumer):
            consumer.park(event, "no such address")
    group_id = GroupCoordinator(bus.storage).get("default", "mail").group_id
    stream = bus.log.create_stream(StreamConfig(name=retry_stream_name(group_id)))
    bus.log.append([Append(stream.stream_id, [redelivery(letter) for letter in read_all(bus, "_dead_letters")])])
    async with bus.consumer("mail", ["orders"]) as consumer:
        await poll(consumer)
    assert [(stage, status) for stage, _, status in stages(bus, event_id)][-1] == ("DELIVERY", "COMPLETED")
    assert [row[0] for row in ask(bus, "SELECT stream_id FROM processing_history ORDER BY completed_at DESC LIMIT 1")] == [
        stream.stream_id
    ]


# --- expiry -----------------------------------------------------------------------------------------------------------


def expiring(number: int, in_ms: int | None, key: str | None = None) -> Event:
    expires_at_ms = None if in_ms is None else time.time_ns() // 1_000_000 + in_ms
    return Event(f"e{number}", "t", 0, b"%d" % number, key=key, expires_at_ms=expires_at_ms)


async def test_events_whose_time_is_over_are_not_handed_out(bus: Bus) -> None:
    append(bus, expiring(0, None), expiring(1, -5), expiring(2, 60_000), *(expiring(number, -5) for number in range(3, 8)))
    async with bus.consumer("mail", ["orders"], max_poll_events=2) as consumer:
        events = [*await consumer.poll(), *await consumer.poll(timeout_s=0.1)]
        assert [event.payload for event in events] == [0, 2]
        assert consumer.counts["expired"] == 6
    assert (await ConsumerManagementService(bus.storage).get_consumer_lag("mail"))["total_lag"] == 0
    rows = ask(bus, "SELECT event_id, status FROM processing_history WHERE processing_stage = 'DELIVERY' ORDER BY 1")
    assert rows == [(f"e{n}", "COMPLETED" if n in (0, 2) else "EXPIRED") for n in range(8)]


async def test_a_stream_of_nothing_but_expired_events_is_passed_over(bus: Bus) -> None:
    append(bus, *(expiring(number, -5) for number in range(3000)))
    append(bus, expiring(3000, None))
    async with bus.consumer("mail", ["orders"]) as consumer:
        assert [event.payload for event in await consumer.poll()] == [3000]
        assert consumer.counts["expired"] == 3000
    rows = ask(bus, "SELECT status, count(*) FROM processing_history WHERE processing_stage = 'DELIVERY' GROUP BY 1 ORDER BY 1")
    assert rows == [("COMPLETED", 1), ("EXPIRED", 3000)]


async def test_an_event_that_expires_before_its_retry_is_not_delivered_again(bus: Bus) -> None:
    append(bus, expiring(0, 300, key="a"), expiring(1, None, key="a"))
    async with bus.consumer("mail", ["orders"], retry=RetryPolicy(backoff_ms=400, max_backoff_ms=400)) as consumer:
        (event,) = await consumer.poll(1)
        consumer.nack(event, "later")
        again = await poll(consumer)  # the next one of its key waits for it no longer
        assert [each.payload for each in again] == [1]
        assert consumer.counts["expired"] == 1
    rows = ask(bus, "SELECT event_id, status FROM processing_history WHERE processing_stage = 'DELIVERY' ORDER BY 1")
    assert rows == [("e0", "EXPIRED"), ("e1", "COMPLETED")]


# --- what is told of a split, whatever is done with its events --------------------------------------------------------


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from([PASSED, EXPIRED, DEAD]), min_size=1, max_size=40),
    st.lists(st.tuples(st.sampled_from(["take", "ack", "settle", "tell", "seek", "skip"]), st.integers(0, 12)), max_size=40),
)
def test_what_is_told_of_a_split_is_what_became_of_its_events(fates: list[int], actions: list[tuple[str, int]]) -> None:
    events = [Event(f"e{i}", "t", 0, b"", expires_at_ms=1 if fate == EXPIRED else None) for i, fate in enumerate(fates)]
    batch = RecordBatch(SPLIT, store_events(events, 0, CompressionType.NONE, 0))
    reader = SplitReader(SPLIT, 0, 100)
    due: dict[int, int] = {}  # by offset, what is to be told
    for action, number in [*actions, *[("take", 100)] * 10, ("settle", 0), ("tell", 0)]:
        done = []
        if action == "take":
            if not reader.buffered and reader.next_offset < len(events):
                reader.feed([batch.slice(reader.next_offset, min(reader.next_offset + 4, len(events)))])
            before = reader.next_offset
            reader.take(number + 1, 1000)
            due |= {offset: EXPIRED for offset in range(before, reader.next_offset) if fates[offset] == EXPIRED}
        elif action == "ack" and reader.hands:
            done = [sorted(reader.hands)[number % len(reader.hands)]]
        elif action == "settle":
            done = sorted(reader.hands)
        elif action == "seek":
            reader.seek(min(number, len(events)))
            due.clear()
        elif action == "skip" and not reader.buffered and reader.next_offset + number <= len(events):
            reader.skip_to(reader.next_offset + number)
        elif action == "tell":
            low = reader.low()
            told = {}
            for stretch in reader.told(low):
                outcomes = stretch.outcomes * (stretch.size if len(stretch.outcomes) == 1 else 1)
                assert len(outcomes) == stretch.size
                told |= dict(enumerate(outcomes, stretch.offset))
                assert all(outcomes[error.index] == DEAD for error in stretch.errors)
            assert told == {offset: fate for offset, fate in due.items() if offset < low}
            due = {offset: fate for offset, fate in due.items() if offset >= low}
            assert reader.told(low) == []
        for offset in done:
            reader.done(offset)
            due[offset] = fates[offset]
            if fates[offset] == DEAD:
                reader.ledger.note(offset, DEAD, EventError(0, "E", "m"))


def test_few_events_of_many_with_outcomes_of_their_own_cost_little() -> None:
    ledger = SplitLedger(SPLIT, 0)
    ledger.handed_out(0, 7)
    ledger.handed_out(500_000, 8)
    for offset in (10, 12, 600_000):
        ledger.note(offset, DEAD, EventError(0, "E", str(offset)))
    told = ledger.told(1_000_000)
    assert [(each.offset, each.size, len(each.outcomes), each.started_us) for each in told] == [
        (0, 10, 1, 7),
        (10, 3, 3, 7),
        (13, 599_987, 1, 7),
        (600_000, 1, 1, 8),
        (600_001, 399_999, 1, 8),
    ]
    assert [(error.index, error.message) for error in told[1].errors] == [(0, "10"), (2, "12")]
    for offset in range(0, 10 * MAX_MIXED, 2):
        ledger.note(1_000_000 + offset, DEAD)
    assert max(each.size for each in ledger.told(1_000_000 + 10 * MAX_MIXED)) <= MAX_MIXED


def test_times_of_handing_out_are_bounded() -> None:
    ledger = SplitLedger(SPLIT, 0)
    for offset in range(5000):
        ledger.handed_out(offset, offset)
    assert len(ledger._times) == 1000
    assert [each.started_us for each in ledger.told(5000)] == [0]
    ledger.handed_out(5000, 6000)
    assert ledger.told(5001)[0].started_us == 6000
