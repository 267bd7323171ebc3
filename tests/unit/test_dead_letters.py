"""Dead letters listed, retried and dropped, on a real log: once each, in order per key, and nothing else disturbed."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.errors import DeadLetterNotFoundError, InvalidInputError, InvalidStateError, StreamNotFoundError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.dead_letters import letter_filter
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.letter_retries import LetterReport, Retrier
from event_streaming_bus.flows.letter_selection import MAX_IDS
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, EventPriority, InvalidEventPolicy, StreamConfig
from event_streaming_bus.store import letters as letters_module
from event_streaming_bus.store.dead_letters import dead_letter, original
from event_streaming_bus.store.history import History
from event_streaming_bus.store.letters import BLOCK_LETTERS, LetterBox, LetterFilter, LetterStatus
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.redeliveries import redelivery_of, retry_stream_name
from event_streaming_bus.testing import read_all, temporary_bus

ORDER = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
OPEN = LetterFilter()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def guarded_stream(bus: Bus, *, version: str = "1.0", schema: dict[str, Any] = ORDER) -> None:
    """A stream ``orders`` that puts aside what breaks its schema; made anew if it is there."""
    config = {"schema_name": "order", "schema_version": version, "json_schema": schema, "compatibility_level": "NONE"}
    schema_id = bus.schemas.register(config).schema_id
    for info in bus.log.list_streams("default"):
        if info.name == "orders":
            bus.log.drop_stream(info.stream_id)
    bus.log.create_stream(StreamConfig(name="orders", schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER))


def publish(bus: Bus, stream: str, *payloads: dict[str, Any], **config: Any) -> None:
    """Publish payloads, each with the key that its ``k`` says, at the second of its place."""
    bus.publishing.submit(
        EventConfig(event_type="order", **config),
        payloads,
        stream_id=stream,
        keys=[payload.get("k") for payload in payloads],
        timestamps_ms=[1000 * i for i in range(len(payloads))],
    ).result()


def letters(bus: Bus, wanted: LetterFilter = OPEN) -> list[letters_module.Letter]:
    return [letter for block in box(bus).blocks(wanted) for letter in block]


def box(bus: Bus) -> LetterBox:
    return LetterBox(bus.log, bus.storage.dead_letters("default"))


def retry_all(bus: Bus, **fields: str) -> list[tuple[str, str | None]]:
    """Retry the open letters; ``(result, message)`` of each."""
    return told(bus.dead_letters.retry(where=letter_filter(**fields)))


def told(reports: Iterator[LetterReport]) -> list[tuple[str, str | None]]:
    return [(report.result.value, report.message) for report in reports]


def processor(name: str, kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": "in"} | more


def deployed(bus: Bus, *processors: dict[str, Any], streams: tuple[str, ...] = ("in", "out", "b")) -> Plan:
    data = {"streams": [{"name": name} for name in streams], "processors": list(processors)}
    return deploy(parse_flow(data, name="flow"), bus.storage)


def run(bus: Bus, plan: Plan) -> None:
    run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))


def payloads(bus: Bus, stream: str) -> list[Any]:
    return [event.payload for event in read_all(bus, stream)]


DOUBLE = {"fields": {"x": "payload.x * 2"}}
HALVE = {"fields": {"x": "payload.x / payload.d"}}


# --- the letter itself ------------------------------------------------------------------------------------------------


def test_the_original_of_a_letter_is_the_event_it_was_made_of(bus: Bus) -> None:
    bus.create_stream("s")
    publish(bus, "s", {"k": "a"}, metadata={"m": 1}, causation_id="cause", correlation_id="c", priority=EventPriority.HIGH)
    (event,) = read_all(bus, "s")
    stream = bus.log.find_stream("default", "s")
    for event_id in (event.event_id, "another"):
        letter = dead_letter(event, event_id=event_id, stream=stream, step="f", error_type="E", message="m", failed_at_ms=5)
        assert letter != event
        assert original(letter) == event


# --- listing ----------------------------------------------------------------------------------------------------------


async def test_letters_are_listed_by_stream_processor_error_key_and_status(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, {"k": "b"})
    plan = deployed(bus, processor("double", "MAP", DOUBLE, target_stream_id="out"))
    publish(bus, "in", {"k": "a", "x": None})
    run(bus, plan)

    async def found(**fields: Any) -> list[tuple[str, str]]:
        page = await bus.dead_letters.list_dead_letters(**fields)
        assert page["next_cursor"] is None
        return [(letter["step"], letter["key"]) for letter in page["dead_letters"]]

    everything = [("validation", "a"), ("validation", "b"), ("double", "a")]
    assert await found() == everything
    assert await found(newest_first=True) == everything[::-1]
    assert await found(stream="orders") == everything[:2]
    assert await found(stream=bus.log.find_stream("default", "in").stream_id) == everything[2:]
    assert await found(processor="validation", key="b") == [("validation", "b")]
    assert await found(processor=plan.nodes()[0].processor_id) == everything[2:]
    assert await found(error_type="TypeError") == everything[2:]
    assert await found(status="retried") == await found(stream="nothing") == []
    bus.dead_letters.drop([letters(bus)[1].letter_id]).__next__()
    assert await found() == [everything[0], everything[2]]
    assert await found(status="DROPPED") == [everything[1]]
    assert await found(status="ALL") == everything
    assert await bus.dead_letters.list_dead_letters("another") == {"dead_letters": [], "next_cursor": None}


async def test_what_cannot_be_listed_is_told(bus: Bus) -> None:
    for fields, message in (
        ({"status": "LOST"}, "status: expected one of OPEN, RETRIED, DROPPED, ALL, got 'LOST'"),
        ({"limit": 0}, "limit: expected 1 to 1000, got 0"),
        ({"cursor": "NORMAL-x-1"}, "cursor: expected the next_cursor of an earlier page"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            await bus.dead_letters.list_dead_letters(**fields)


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_follow_each_other_without_gap_or_overlap(bus: Bus, monkeypatch: pytest.MonkeyPatch, newest_first: bool) -> None:
    monkeypatch.setattr(letters_module, "BLOCK_LETTERS", 8)
    guarded_stream(bus)
    for priority in (EventPriority.NORMAL, EventPriority.CRITICAL):
        publish(bus, "orders", *({"k": f"k{i % 3}", "n": i} for i in range(30)), priority=priority)
    dropped = [letter.letter_id for letter in letters(bus)[5:25]]
    assert {result for result, _ in told(bus.dead_letters.drop(dropped))} == {"DROPPED"}
    for status, count in ((LetterStatus.OPEN, 40), (LetterStatus.DROPPED, 20), (None, 60)):
        wanted = LetterFilter(status=status)
        for limit, most_looked_at in ((1, 1000), (7, 1000), (1000, 10)):
            monkeypatch.setattr(letters_module, "MAX_LOOKED_AT", most_looked_at)
            found, cursor, pages = [], None, 0
            while pages == 0 or cursor is not None:
                page = box(bus).page(wanted, limit=limit, cursor=cursor, newest_first=newest_first)
                found += page.letters
                cursor, pages = page.next_cursor, pages + 1
            assert [letter.event.priority for letter in found] == sorted(e.event.priority for e in found)
            of_lane = [letter.position.offset for letter in found if letter.event.priority is EventPriority.NORMAL]
            assert of_lane == sorted(of_lane, reverse=newest_first)
            assert len({letter.letter_id for letter in found}) == len(found) == count
            assert pages > 1


def test_letters_that_retention_has_dropped_are_not_listed(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, {"k": "b"})
    short = bus.log.create_stream(StreamConfig(name="short", retention_bytes=1))
    for letter in letters(bus):
        bus.log.append([Append(short.stream_id, [msgspec.structs.replace(letter.event, event_id=f"again {letter.event.key}")])])
    assert len(LetterBox(bus.log, short).page(OPEN, limit=9).letters) == 2
    assert bus.log.enforce_retention() > 0
    assert len(LetterBox(bus.log, short).page(OPEN, limit=9, cursor="NORMAL-0-0").letters) < 2


async def test_a_letter_is_shown_with_its_event_as_it_was(bus: Bus) -> None:
    plan = deployed(bus, processor("double", "MAP", DOUBLE, target_stream_id="out"))
    publish(bus, "in", {"k": "a", "x": 1}, {"k": "a", "x": None}, metadata={"m": 1}, correlation_id="c")
    run(bus, plan)
    shown = await bus.dead_letters.get_dead_letter(letters(bus)[0].letter_id)
    assert shown["payload"] == {"k": "a", "x": None}
    assert (shown["metadata"], shown["correlation_id"]) == ({"m": 1}, "c")
    assert shown["position"] == {"lane": "NORMAL", "partition": 0, "offset": 1}
    assert shown["event_id"] == read_all(bus, "in")[1].event_id
    assert (shown["status"], shown["retries"], shown["error_type"]) == ("OPEN", 0, "TypeError")
    for unknown in ("nothing", read_all(bus, "in")[0].event_id):
        with pytest.raises(DeadLetterNotFoundError, match="There is no dead letter"):
            await bus.dead_letters.get_dead_letter(unknown)


# --- events that broke a schema ---------------------------------------------------------------------------------------


async def test_an_event_that_breaks_its_schema_still_stays_open_with_the_error_noted(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"})
    (letter,) = letters(bus)
    for retries in (1, 2):
        report = await bus.dead_letters.retry_dead_letter(letter.letter_id)
        assert report["result"] == "FAILED"
        assert "total" in report["message"]
        shown = await bus.dead_letters.get_dead_letter(letter.letter_id)
        assert (shown["status"], shown["retries"], shown["last_error"]) == ("OPEN", retries, report["message"])
    assert read_all(bus, "orders") == []


async def test_an_event_that_its_schema_accepts_now_is_appended_to_its_stream_once(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, priority=EventPriority.HIGH, metadata={"m": 1}, correlation_id="c")
    (letter,) = letters(bus)
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    assert (await bus.dead_letters.retry_dead_letter(letter.letter_id))["events_written"] == 1
    (event,) = read_all(bus, "orders")
    assert (event.payload, event.key, event.priority, event.timestamp_ms) == ({"k": "a"}, "a", EventPriority.HIGH, 0)
    assert (event.metadata, event.correlation_id, event.causation_id) == ({"m": 1}, "c", letter.letter_id)
    assert event.event_id != letter.letter_id
    assert event.schema_id == bus.log.find_stream("default", "orders").config.schema_id
    with pytest.raises(InvalidStateError, match="it is RETRIED already"):
        await bus.dead_letters.retry_dead_letter(letter.letter_id)
    with pytest.raises(InvalidStateError, match="it is RETRIED already"):
        await bus.dead_letters.drop_dead_letter(letter.letter_id)
    assert len(read_all(bus, "orders")) == 1


def test_letters_of_a_stream_that_is_gone_are_refused_and_stay_open(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"})
    bus.log.drop_stream(bus.log.find_stream("default", "orders").stream_id)
    ((result, message),) = retry_all(bus)
    assert (result, "There is no stream 'orders'" in str(message)) == ("REFUSED", True)
    assert letters(bus)[0].state.retries == 0


# --- order, once, concurrency -----------------------------------------------------------------------------------------


def test_letters_of_a_key_are_retried_in_order_and_wait_for_one_that_fails_again(bus: Bus) -> None:
    guarded_stream(bus)
    rows: list[dict[str, Any]] = [{"k": "a", "n": 1}, {"k": "b", "n": 2}, {"k": "a", "n": 3}, {"k": "b"}, {"k": "b", "n": 5}, {}]
    publish(bus, "orders", *rows, {})
    guarded_stream(bus, version="2.0", schema={"type": "object", "required": ["n"]})
    ids = [letter.letter_id for letter in letters(bus)]
    reports = told(bus.dead_letters.retry([*ids[::-1], ids[0]]))
    assert [result for result, _ in reports] == ["RETRIED", "RETRIED", "RETRIED", "FAILED", "WAITING", "FAILED", "FAILED"]
    assert reports[4][1] == f"waits for {ids[3]}"
    assert [event.payload["n"] for event in read_all(bus, "orders")] == [1, 2, 3]
    assert [(letter.letter_id, letter.state.retries) for letter in letters(bus)] == list(zip(ids[3:], [1, 0, 1, 1], strict=True))


def test_a_failure_holds_back_later_batches_of_the_same_call(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    from event_streaming_bus.flows import letter_retries

    monkeypatch.setattr(letter_retries, "_BATCH_LETTERS", 2)
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, *({"k": "a", "n": i} for i in range(5)))
    guarded_stream(bus, version="2.0", schema={"type": "object", "required": ["n"]})
    assert [result for result, _ in retry_all(bus)] == ["FAILED", *["WAITING"] * 5]
    assert read_all(bus, "orders") == []


def test_letters_retried_by_many_at_once_are_written_once(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", *({"k": f"k{i % 7}", "n": i} for i in range(600)))
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    together, results = threading.Barrier(4), list[tuple[str, str | None]]()

    def retry() -> None:
        together.wait()
        results.extend(retry_all(bus))

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.payload["n"] for event in read_all(bus, "orders")) == list(range(600))
    assert [result for result, _ in results].count("RETRIED") == 600
    assert {result for result, _ in results} <= {"RETRIED", "REFUSED"}
    for key in range(7):
        numbers = [event.payload["n"] for event in read_all(bus, "orders") if event.key == f"k{key}"]
        assert numbers == sorted(numbers)


def test_a_letter_dropped_by_another_meanwhile_is_not_retried(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, {"k": "b"})
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    stale = letters(bus)
    assert told(bus.dead_letters.drop([stale[0].letter_id])) == [("DROPPED", None)]
    assert told(Retrier(bus.storage, "default").retry([stale])) == [("REFUSED", "it is DROPPED already"), ("RETRIED", None)]
    assert payloads(bus, "orders") == [{"k": "b"}]


def test_what_is_gone_since_it_was_looked_up_is_looked_up_again(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a", "n": 1}, {"k": "a", "n": 2})
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    first, second = letters(bus)

    def blocks() -> Iterator[list[letters_module.Letter]]:
        yield [first]
        guarded_stream(bus, version="3.0", schema={"type": "object", "required": ["n"]})
        yield [second]

    retried = Retrier(bus.storage, "default").retry(blocks())
    assert [report.result.value for report in retried] == ["RETRIED", "RETRIED"]
    assert payloads(bus, "orders") == [{"k": "a", "n": 2}]


def test_letters_over_many_blocks_and_lanes_are_retried_each_once(bus: Bus) -> None:
    guarded_stream(bus)
    count = BLOCK_LETTERS + 10
    for priority in (EventPriority.LOW, EventPriority.CRITICAL):
        publish(bus, "orders", *({"n": i} for i in range(count)), priority=priority)
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    assert {result for result, _ in retry_all(bus)} == {"RETRIED"}
    assert len(read_all(bus, "orders")) == 2 * count
    assert retry_all(bus) == []


async def test_dropping_twice_is_harmless_and_drops_only_what_was_meant(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, {"k": "b"}, {"k": "b"})
    answer = await bus.dead_letters.drop_dead_letters(where=LetterFilter(key="b"))
    assert (answer["counts"]["dropped"], answer["truncated"], len(answer["reports"])) == (2, False, 2)
    dropped = letters(bus, LetterFilter(status=LetterStatus.DROPPED))
    assert (await bus.dead_letters.drop_dead_letter(dropped[0].letter_id))["result"] == "DROPPED"
    assert told(bus.dead_letters.retry([dropped[0].letter_id])) == [("REFUSED", "it is DROPPED already")]
    assert [letter.event.key for letter in letters(bus)] == ["a"]


def test_what_cannot_be_selected_is_told_and_changes_nothing(bus: Bus) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"})
    known = letters(bus)[0].letter_id
    for call in (bus.dead_letters.retry, bus.dead_letters.drop):
        for arguments, message in (
            ({}, "expected one of the three"),
            ({"ids": [known], "where": OPEN}, "expected one of the three"),
            ({"ids": ["x"] * (MAX_IDS + 1)}, "at most 1,000 are accepted, got 1,001"),
            ({"where": LetterFilter(status=LetterStatus.DROPPED)}, "only OPEN letters"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                call(**arguments)
        with pytest.raises(DeadLetterNotFoundError, match="nothing"):
            call([known, "nothing"])
    assert letters(bus)[0].state.retries == 0


# --- events that a member of a consumer group set aside ----------------------------------------------------------------


async def park(bus: Bus, group: str, stream: str = "orders") -> str:
    """Let a member of a group set aside all that there is; returns the id of the group."""
    async with bus.consumer(group, [stream]) as consumer:
        while events := await consumer.poll(timeout_s=0.2):
            for event in events:
                consumer.park(event, "bad")
    return str((await ConsumerManagementService(bus.storage).get_consumer_group(group)).group_id)


def redelivered(bus: Bus, group_id: str) -> list[Event]:
    return read_all(bus, retry_stream_name(group_id))


async def test_letters_of_a_group_are_listed_by_its_name_or_id(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", {"k": "a"}, {"k": "b"})
    ids = {group: await park(bus, group) for group in ("billing", "shipping")}
    for group in ("billing", ids["billing"]):
        page = await bus.dead_letters.list_dead_letters(group=group)
        assert [(d["step"], d["group_id"], d["key"]) for d in page["dead_letters"]] == [
            ("consumer:billing", ids["billing"], key) for key in "ab"
        ]
    assert (await bus.dead_letters.list_dead_letters(group="bill"))["dead_letters"] == []


async def test_letters_of_a_group_go_to_its_own_stream_once_and_in_order(bus: Bus) -> None:
    bus.create_stream("orders", partitions=3)
    publish(bus, "orders", *({"k": f"k{i % 4}", "n": i} for i in range(12)), metadata={"m": 1}, correlation_id="c")
    publish(bus, "orders", {"k": "k1", "n": 12}, priority=EventPriority.CRITICAL)
    ids = {group: await park(bus, group) for group in ("billing", "shipping")}
    there = {letter.letter_id: letter for letter in letters(bus, LetterFilter(group="billing"))}
    assert retry_all(bus, group="billing") == [("RETRIED", None)] * 13
    again = redelivered(bus, ids["billing"])
    assert bus.log.find_stream("default", retry_stream_name(ids["billing"])).config.partitions == 3
    for event in again:
        told = redelivery_of(event)
        assert told is not None
        letter = there.pop(told["dead_letter_id"])
        was = letter.original()
        assert (told["event_id"], told["stream"], event.causation_id) == (was.event_id, "orders", letter.letter_id)
        assert letter.place().items() <= told.items()
        kept = {"event_id": was.event_id, "causation_id": was.causation_id, "metadata": was.metadata}
        assert msgspec.structs.replace(event, **kept) == was
    assert there == {}
    for key in range(4):
        numbers = [event.payload["n"] for event in again if event.key == f"k{key}" and event.priority is EventPriority.NORMAL]
        assert numbers == sorted(numbers)
    assert [event.payload["n"] for event in again if event.priority is EventPriority.CRITICAL] == [12]
    assert len(letters(bus, LetterFilter(group="shipping"))) == 13
    assert len(read_all(bus, "orders")) == 13
    with pytest.raises(StreamNotFoundError):
        redelivered(bus, ids["shipping"])
    assert retry_all(bus, group="billing") == []


async def test_what_a_group_set_aside_is_delivered_to_that_group_alone_as_it_was(bus: Bus) -> None:
    bus.create_stream("orders", partitions=2)
    await park(bus, "shipping")
    async with bus.consumer("billing", ["orders"]) as billing, bus.consumer("shipping", ["orders"]) as shipping:
        publish(bus, "orders", *({"k": f"k{i % 2}", "n": i} for i in range(6)))
        while len(letters(bus)) < 6:
            for event in await billing.poll(timeout_s=1):
                billing.park(event, "bad")
        assert len(await shipping.poll(timeout_s=1)) == 6
        assert retry_all(bus, group="billing") == [("RETRIED", None)] * 6
        again: list[Event] = []
        while len(again) < 6:
            again += await billing.poll(timeout_s=5)
        assert await shipping.poll(timeout_s=0.2) == await billing.poll(timeout_s=0.2) == []
    assert sorted(event.event_id for event in again) == sorted(event.event_id for event in read_all(bus, "orders"))
    for key in ("k0", "k1"):
        numbers = [event.payload["n"] for event in again if event.key == key]
        assert numbers == sorted(numbers)


async def test_letters_of_a_group_that_is_gone_are_refused_also_if_there_is_another_of_its_name(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", {"k": "a"})
    group_id = await park(bus, "billing")
    service = ConsumerManagementService(bus.storage)
    await service.delete_consumer_group("billing")
    for _ in range(2):
        ((result, message),) = retry_all(bus)
        assert (result, f"the consumer group 'billing' ({group_id}), whose member" in str(message)) == ("REFUSED", True)
        assert letters(bus)[0].state.retries == 0
        await service.create_consumer_group({"group_name": "billing"})


async def test_letters_of_a_group_whose_stream_is_gone_go_to_a_stream_of_one_partition(bus: Bus) -> None:
    bus.create_stream("orders", partitions=4)
    publish(bus, "orders", {"k": "a"})
    group_id = await park(bus, "billing")
    bus.log.drop_stream(bus.log.find_stream("default", "orders").stream_id)
    assert retry_all(bus) == [("RETRIED", None)]
    assert bus.log.find_stream("default", retry_stream_name(group_id)).config.partitions == 1
    assert len(redelivered(bus, group_id)) == 1


async def test_a_group_s_letters_retried_by_many_at_once_are_written_once(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", *({"k": f"k{i % 7}", "n": i} for i in range(300)))
    group_id = await park(bus, "billing")
    together, results = threading.Barrier(4), list[tuple[str, str | None]]()

    def retry() -> None:
        together.wait()
        results.extend(retry_all(bus))

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.payload["n"] for event in redelivered(bus, group_id)) == list(range(300))
    assert [result for result, _ in results].count("RETRIED") == 300


async def test_an_event_that_has_expired_is_not_redelivered(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, "orders", {"k": "a"})
    await park(bus, "billing")
    (letter,) = letters(bus)
    why = letter.why | {"expires_at_ms": 1000}
    expired = msgspec.structs.replace(letter.event, event_id="expired", metadata={"dead_letter": why})
    bus.log.append([Append(bus.storage.dead_letters("default").stream_id, [expired])])
    (report,) = bus.dead_letters.retry(["expired"])
    assert (report.result.value, report.message) == (
        "REFUSED",
        "the event expired at 1970-01-01T00:00:01.000Z, and consumers skip it: publish it anew, or drop the letter",
    )


# --- events that a routing rule set aside ------------------------------------------------------------------------------


def rules(bus: Bus, *configs: dict[str, Any]) -> None:
    whole = [{"name": f"r{i}", "stream": "orders", **config} for i, config in enumerate(configs)]
    bus.routing.apply(bus.routing.read(whole, [f"routes[{i}]" for i in range(len(whole))], "default"), "default")


def test_an_event_that_a_rule_set_aside_goes_to_its_stream_without_being_routed_again(bus: Bus) -> None:
    bus.create_stream("orders")
    bus.create_stream("copies")
    aside = {"match": "payload.n < 0", "dead_letter": "negative"}
    rules(bus, aside)
    publish(bus, "orders", {"k": "a", "n": -1}, metadata={"m": 1})
    rules(bus, aside, {"to": ["copies"]})
    (letter,) = letters(bus, LetterFilter(processor="routing"))
    assert retry_all(bus) == [("RETRIED", None)]
    (event,) = read_all(bus, "orders")
    assert (event.payload, event.key, event.metadata) == ({"k": "a", "n": -1}, "a", {"m": 1})
    assert (event.causation_id, event.event_id != letter.letter_id) == (letter.letter_id, True)
    assert read_all(bus, "copies") == letters(bus) == []


def test_an_event_that_a_rule_set_aside_is_checked_against_the_schema_of_its_stream(bus: Bus) -> None:
    guarded_stream(bus)
    rules(bus, {"match": "payload.total < 0", "dead_letter": "negative"})
    publish(bus, "orders", {"k": "a", "total": -1}, {"k": "a", "total": -2, "n": 1})
    guarded_stream(bus, version="2.0", schema={"type": "object", "required": ["n"]})
    ids = [letter.letter_id for letter in letters(bus)]
    (result, message), waiting = retry_all(bus)
    assert (result, "n" in str(message), waiting) == ("FAILED", True, ("WAITING", f"waits for {ids[0]}"))
    assert told(bus.dead_letters.retry([ids[1]])) == [("RETRIED", None)]
    assert [event.payload["n"] for event in read_all(bus, "orders")] == [1]


def test_an_event_that_a_rule_could_not_send_on_is_refused(bus: Bus) -> None:
    bus.create_stream("orders")
    bus.create_stream("gone")
    rules(bus, {"to": ["gone"]})
    bus.log.drop_stream(bus.log.find_stream("default", "gone").stream_id)
    publish(bus, "orders", {"k": "a"})
    ((result, message),) = retry_all(bus)
    assert (result, message) == (
        "REFUSED",
        "the rule 'r0' could not send it on, and a retry does not route: publish the event anew",
    )


# --- events that a processor failed on --------------------------------------------------------------------------------


def test_a_processor_and_those_below_it_write_what_they_make_of_the_event_and_the_others_nothing(bus: Bus) -> None:
    failing = processor("failing", "MAP", HALVE, source_stream_id="double", target_stream_id="out")
    flow = [
        processor("double", "MAP", DOUBLE, target_stream_id="b"),
        failing,
        processor("sibling", "FILTER", {"filter_expression": "payload.x > 0"}, source_stream_id="double", target_stream_id="s"),
        processor("below", "MAP", {"fields": {"y": "payload.x + 1"}}, source_stream_id="failing", target_stream_id="below_out"),
    ]
    streams = ("in", "out", "b", "s", "below_out")
    plan = deployed(bus, *flow, streams=streams)
    publish(bus, "in", {"k": "a", "x": 4, "d": 0}, {"k": "a", "x": 1, "d": 1}, metadata={"m": 1})
    run(bus, plan)
    before = {stream: read_all(bus, stream) for stream in streams}
    counts = flow_metrics(plan, bus.storage)
    (letter,) = letters(bus)
    assert retry_all(bus)[0][0] == "FAILED"
    deployed(bus, flow[0], failing | {"processing_logic": {"fields": {"x": "payload.x - payload.d"}}}, *flow[2:], streams=streams)
    assert retry_all(bus) == [("RETRIED", None)]
    after = {stream: read_all(bus, stream)[len(before[stream]) :] for stream in streams}
    assert {stream: [event.payload for event in events] for stream, events in after.items()} == {
        "in": [],
        "out": [{"k": "a", "x": 8, "d": 0}],
        "b": [],
        "s": [],
        "below_out": [{"k": "a", "x": 8, "d": 0, "y": 9}],
    }
    source = before["in"][0]
    for event in (*after["out"], *after["below_out"]):
        kept = (event.causation_id, event.timestamp_ms, event.key, event.metadata)
        assert kept == (source.event_id, source.timestamp_ms, "a", {"m": 1})
    assert box(bus).find(letter.letter_id).state.retries == 2
    assert flow_metrics(plan, bus.storage) == counts
    run(bus, plan)
    assert len(read_all(bus, "out")) == 2


def test_an_event_that_the_corrected_processor_filters_out_is_done_with(bus: Bus) -> None:
    filtering = processor("f", "FILTER", {"filter_expression": "payload.x > 1"}, target_stream_id="out")
    plan = deployed(bus, filtering)
    publish(bus, "in", {"k": "a", "x": None})
    run(bus, plan)
    deployed(bus, filtering | {"processing_logic": {"filter_expression": "payload.x != null and payload.x > 1"}})
    (report,) = bus.dead_letters.retry(where=OPEN)
    assert (report.result.value, report.events_written) == ("RETRIED", 0)
    assert letters(bus) == read_all(bus, "out") == []


def test_an_event_that_fails_further_down_becomes_a_letter_of_that_processor(bus: Bus) -> None:
    top = processor("top", "MAP", HALVE, target_stream_id="out")
    low = processor("low", "MAP", {"fields": {"z": "payload.z + 1"}}, source_stream_id="top", target_stream_id="b")
    plan = deployed(bus, top, low)
    publish(bus, "in", {"k": "a", "x": 1, "d": 0})
    run(bus, plan)
    deployed(bus, top | {"processing_logic": DOUBLE}, low)
    assert retry_all(bus) == [("RETRIED", None)]
    assert [event.payload["x"] for event in read_all(bus, "out")] == [2]
    (letter,) = letters(bus)
    assert (letter.why["step"], letter.place()) == ("low", {"lane": "NORMAL", "partition": 0, "offset": 0})
    deployed(bus, top | {"processing_logic": DOUBLE}, low | {"processing_logic": {"fields": {"z": "1"}}})
    assert retry_all(bus) == [("RETRIED", None)]
    assert [event.payload["z"] for event in read_all(bus, "b")] == [1]
    assert len(read_all(bus, "out")) == 1


def test_an_event_that_fails_on_the_way_to_its_processor_names_the_one_that_failed(bus: Bus) -> None:
    top = processor("top", "MAP", DOUBLE)
    low = processor("low", "MAP", HALVE, source_stream_id="top", target_stream_id="out")
    plan = deployed(bus, top, low)
    publish(bus, "in", {"k": "a", "x": 1, "d": 0})
    run(bus, plan)
    deployed(bus, top | {"processing_logic": {"fields": {"x": "payload.gone + 1"}}}, low)
    ((result, message),) = retry_all(bus)
    assert result == "FAILED"
    assert "top, on the way to low: " in str(message)


@pytest.mark.parametrize("strategy", ["SKIP", "STOP"])
def test_a_retry_that_fails_is_an_answer_whatever_the_strategy_is_now(bus: Bus, strategy: str) -> None:
    failing = processor("failing", "MAP", HALVE, target_stream_id="out")
    run_plan = deployed(bus, failing)
    publish(bus, "in", {"k": "a", "x": 1, "d": 0})
    run(bus, run_plan)
    deployed(bus, failing | {"error_handling_strategy": strategy})
    assert [result for result, _ in retry_all(bus)] == ["FAILED"]
    assert len(letters(bus)) == 1


def test_letters_that_need_the_state_of_a_processor_are_refused_with_what_to_do_instead(bus: Bus) -> None:
    window = {"window_type": "tumbling", "window_size_ms": 60_000}
    summing = processor(
        "sums",
        "AGGREGATE",
        {"aggregation_function": "sum", "aggregation_field": "x"},
        source_stream_id="halve",
        target_stream_id="out",
        window_config=window,
    )
    halve = processor("halve", "MAP", HALVE)
    plan = deployed(bus, halve, summing)
    publish(bus, "in", {"k": "a", "x": 1, "d": 0}, {"k": "a", "x": "one", "d": 1})
    run(bus, plan)
    for result, message in retry_all(bus):
        assert result == "REFUSED"
        assert "sums (AGGREGATE) keeps state" in str(message)
        assert "Publish the event anew, corrected, or run the flow from the start" in str(message)
    assert [letter.state.retries for letter in letters(bus)] == [0, 0]


def test_a_preview_tells_which_letters_of_processors_could_be_retried_without_processing_them(bus: Bus) -> None:
    window = {"window_type": "tumbling", "window_size_ms": 60_000}
    logic = {"aggregation_function": "sum", "aggregation_field": "x"}
    double, halve = processor("double", "MAP", DOUBLE, target_stream_id="out"), processor("halve", "MAP", HALVE)
    sums = processor("sums", "AGGREGATE", logic, source_stream_id="halve", target_stream_id="b", window_config=window)
    plan = deployed(bus, double, halve, sums)
    publish(bus, "in", {"k": "a", "x": None, "d": 1}, {"k": "b", "x": None, "d": 1})
    run(bus, plan)
    version = bus.log.version()
    groups = {group["step"]: group for group in bus.dead_letters.preview(where=OPEN)["groups"]}
    assert bus.log.version() == version
    processor_id = next(node.processor_id for node in plan.nodes() if node.name == "double")
    assert groups["double"]["destination"] == {"kind": "PROCESSOR", "id": processor_id, "name": "double"}
    assert (groups["double"]["would"]["retry"], groups["double"]["keys"], groups["double"]["reasons"]) == (2, 2, [])
    assert (groups["halve"]["destination"], groups["halve"]["would"]["refuse"]) == (None, 2)
    assert "sums (AGGREGATE) keeps state" in groups["halve"]["reasons"][0]["message"]
    assert sorted(result for result, _ in retry_all(bus)) == ["FAILED", "FAILED", "REFUSED", "REFUSED"]


def test_results_of_windows_that_a_processor_below_failed_on_are_retried(bus: Bus) -> None:
    window = {"window_type": "tumbling", "window_size_ms": 60_000}
    logic = {"group_by": ["k"], "aggregations": [{"function": "sum", "field": "x", "as": "x"}]}
    summing = processor("sums", "AGGREGATE", logic, target_stream_id="out", window_config=window)
    low = processor("low", "MAP", {"fields": {"y": "payload.gone + 1"}}, source_stream_id="sums", target_stream_id="b")
    plan = deployed(bus, summing, low)
    publish(bus, "in", {"k": "a", "x": 1}, {"k": "a", "x": 2})
    run(bus, plan)
    assert [letter.why["step"] for letter in letters(bus)] == ["low"]
    deployed(bus, summing, low | {"processing_logic": {"mode": "replace", "fields": {"y": "payload.x + 1"}}})
    assert retry_all(bus) == [("RETRIED", None)]
    assert payloads(bus, "b") == [{"y": 4}]
    assert len(read_all(bus, "out")) == 1


def test_letters_of_a_processor_that_is_no_longer_there_are_refused(bus: Bus) -> None:
    plan = deployed(bus, processor("double", "MAP", DOUBLE, target_stream_id="out"))
    publish(bus, "in", {"k": "a", "x": None})
    run(bus, plan)
    bus.storage.catalog.delete_processor("default", plan.nodes()[0].processor_id)
    ((result, message),) = retry_all(bus)
    assert (result, "There is no processor" in str(message)) == ("REFUSED", True)


def test_letters_written_again_by_a_flow_from_the_start_give_their_events_once(bus: Bus) -> None:
    double = processor("double", "MAP", DOUBLE, target_stream_id="out")
    plan = deployed(bus, double)
    publish(bus, "in", {"k": "a", "x": None})
    run(bus, plan)
    from event_streaming_bus.flows.recovery import forget

    forget(bus.storage, "default", "flow", ["double"])
    run(bus, plan)
    assert len(letters(bus)) == 2
    deployed(bus, double | {"processing_logic": {"fields": {"x": "1"}}})
    assert retry_all(bus) == [("RETRIED", None), ("RETRIED", None)]
    assert len(read_all(bus, "out")) == 1


def test_an_event_that_is_no_json_object_fails_again(bus: Bus) -> None:
    plan = deployed(bus, processor("double", "MAP", DOUBLE, target_stream_id="out"))
    bus.publishing.submit(EventConfig(event_type="list"), [[1]], stream_id="in").result()
    run(bus, plan)
    ((result, message),) = retry_all(bus)
    assert (result, "the payload is no JSON object" in str(message)) == ("FAILED", True)


def test_what_is_no_dead_letter_of_a_known_step_is_refused(bus: Bus) -> None:
    stream = bus.storage.dead_letters("default")
    bus.log.append([Append(stream.stream_id, [Event("somehow-there", "t", 0, b"{}")])])
    assert retry_all(bus) == [("REFUSED", "it comes from no known step, which cannot be retried; publish the event anew")]


async def test_history_tells_of_every_retry(bus: Bus, tmp_path: Path) -> None:
    guarded_stream(bus)
    publish(bus, "orders", {"k": "a"}, event_id="order-1")
    await bus.dead_letters.retry_dead_letter("order-1")
    guarded_stream(bus, version="2.0", schema={"type": "object"})
    await bus.dead_letters.retry_dead_letter("order-1")
    history = History(bus.storage)
    try:
        history.catch_up()
        steps = history.processing_history("default", "order-1")["processing_history"]
        retried = history.query("select event_id from events where stream = 'orders'", tenant_id="default")
        assert [(s["processing_stage"], s["status"]) for s in steps] == [
            ("VALIDATION", "FAILED"),
            ("RETRY", "FAILED"),
            ("RETRY", "COMPLETED"),
        ]
        assert [row[0] for row in retried.rows()] == [read_all(bus, "orders")[0].event_id]
    finally:
        history.close()
