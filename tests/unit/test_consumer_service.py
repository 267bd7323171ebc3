"""Managing consumer groups from Python: making them, their lag as a whole, resets, pausing, and what is refused."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus import ConsumerManagementService, ids
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig, Joined, OffsetReset
from event_streaming_bus.errors import (
    AlreadyExistsError,
    GroupNotFoundError,
    InvalidInputError,
    InvalidStateError,
    OffsetOutOfRangeError,
    StreamNotFoundError,
)
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage, open_storage

TENANT = "default"
HOUR_MS = 3_600_000


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


@pytest.fixture
def service(storage: Storage) -> ConsumerManagementService:
    return ConsumerManagementService(storage)


@pytest.fixture
def orders(storage: Storage) -> StreamInfo:
    """A stream of two partitions, with ten events in the first one, an hour of event time apart from 1970 on."""
    info = storage.log.create_stream(StreamConfig(name="orders", partitions=2))
    append(storage, info, 10)
    return info


def append(storage: Storage, stream: StreamInfo, count: int, partition: int = 0) -> None:
    events = [Event(each, "t", i * HOUR_MS, b"1") for i, each in enumerate(ids.new_ids(ids.EVENT, count))]
    storage.log.append([Append(stream.stream_id, events, partition=partition)])


def normal(stream: StreamInfo, partition: int = 0) -> Split:
    return Split(stream.stream_id, EventPriority.NORMAL, partition)


def join(storage: Storage, group_id: str, *streams: StreamInfo) -> Joined:
    """A member alone in its group, with all partitions."""
    coordinator = GroupCoordinator(storage)
    joined = coordinator.join(group_id, [stream.stream_id for stream in streams], client_id="c")
    while joined.is_rebalancing:
        time.sleep(0.01)
        joined = coordinator.heartbeat(group_id, joined.member_id, joined.generation)
    return joined


def commit(storage: Storage, group_id: str, joined: Joined, offsets: dict[Split, int]) -> None:
    GroupCoordinator(storage).commit(group_id, joined.member_id, joined.generation, offsets)


# --- making groups ------------------------------------------------------------------------------------------------------


async def test_a_group_is_made_once_and_found_by_id_and_name(service: ConsumerManagementService) -> None:
    group_id = await service.create_consumer_group({"group_name": "mail", "session_timeout_ms": 20_000}, user_id="user_1")
    assert await service.create_consumer_group(GroupConfig(group_name="mail", session_timeout_ms=20_000)) == group_id
    for reference in (group_id, "mail"):
        told = await service.describe_consumer_group(reference)
        assert (told["group_id"], told["session_timeout_ms"], told["created_by"]) == (group_id, 20_000, "user_1")
        assert (told["state"], told["members"], told["is_paused"], told["last_rebalance"]) == ("EMPTY", [], False, None)
    with pytest.raises(AlreadyExistsError):
        await service.create_consumer_group({"group_name": "mail"})
    await service.create_consumer_group({"group_name": "audit"})
    assert [group.name for group in await service.list_consumer_groups()] == ["audit", "mail"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, ["group_name: is required"]),
        (["mail"], ["group_config: expected settings by name, got ['mail']"]),
        ({"group_name": 1}, ["group_name: "]),
        ({"group_name": "a b"}, ["group_name", "expected 1 to 200 letters, digits"]),
        ({"group_name": "g", "session_timeout": 1}, ["session_timeout: unknown field; did you mean 'session_timeout_ms'?"]),
        ({"group_name": "g", "sesion": 1}, ["sesion: unknown field", "(accepted: auto_offset_reset, ", "session_timeout_ms)"]),
        ({"group_name": "g", "session_timeout_ms": 10}, ["session_timeout_ms: ", "1000 to 1800000", "10"]),
        ({"group_name": "g", "session_timeout_ms": 10**30}, ["session_timeout_ms: ", "1000 to 1800000"]),
        ({"group_name": "g", "session_timeout_ms": "30s"}, ["session_timeout_ms: ", "1000 to 1800000", "got '30s'"]),
        ({"group_name": "g", "max_retries": -1}, ["max_retries: ", "0 to 1000"]),
        ({"group_name": "g", "max_retries": 1.5}, ["max_retries: expected a whole number, 0 to 1000, got 1.5"]),
        ({"group_name": "g", "max_poll_interval_ms": 10}, ["max_poll_interval_ms: ", "1000 to 86400000"]),
        ({"group_name": "g", "rebalance_timeout_ms": 10}, ["rebalance_timeout_ms: ", "1000 to 3600000"]),
        ({"group_name": "g", "heartbeat_interval_ms": 40_000}, ["heartbeat_interval_ms: "]),
        ({"group_name": "g", "partition_assignment_strategy": "rang"}, ["expected one of range, roundrobin, sticky, coop"]),
        ({"group_name": "g", "auto_offset_reset": ["latest"]}, ["auto_offset_reset: expected one of earliest, latest, none"]),
    ],
)
async def test_a_setting_that_is_not_accepted_is_named_with_what_is(
    service: ConsumerManagementService, config: Any, told: list[str]
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await service.create_consumer_group(config)
    assert [part for part in told if part not in caught.value.message] == [], caught.value.message
    assert await service.list_consumer_groups() == []


async def test_groups_belong_to_their_tenant(service: ConsumerManagementService) -> None:
    group_id = await service.create_consumer_group({"group_name": "mail"}, "ours")
    assert await service.list_consumer_groups("theirs") == []
    for act in (service.get_consumer_lag, service.describe_consumer_group, service.pause, service.delete_consumer_group):
        with pytest.raises(GroupNotFoundError):
            await act(group_id, "theirs")
    with pytest.raises(GroupNotFoundError):
        await service.reset_offsets(group_id, "theirs", to="earliest")
    assert await service.create_consumer_group({"group_name": "mail", "max_retries": 0}, "theirs") != group_id


async def test_a_deleted_group_is_gone_with_what_it_committed(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    group_id = await service.create_consumer_group({"group_name": "mail"})
    commit(storage, group_id, join(storage, group_id, orders), {normal(orders): 4})
    assert (await service.delete_consumer_group("mail")).group_id == group_id
    with pytest.raises(GroupNotFoundError, match="mail"):
        await service.get_consumer_lag("mail")
    again = await service.create_consumer_group({"group_name": "mail"})
    assert (await service.get_consumer_lag(again))["partition_lags"] == {}


# --- lag ----------------------------------------------------------------------------------------------------------------


async def test_a_group_that_reads_nothing_yet_has_no_lag(service: ConsumerManagementService) -> None:
    lag = await service.get_consumer_lag(await service.create_consumer_group({"group_name": "mail"}))
    assert (lag["total_lag"], lag["partition_lags"], lag["consumption_rate"], lag["last_rebalance"]) == (0, {}, 0, None)
    assert (lag["verdict"], lag["evidence"]["sentence"]) == ("OK", "the group has read no stream yet")


async def test_lag_adds_up_by_partition_stream_and_lane(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    clicks = storage.log.create_stream(StreamConfig(name="clicks", partitions=3))
    append(storage, clicks, 4, partition=2)
    append(storage, orders, 3, partition=1)
    storage.log.append([Append(clicks.stream_id, [Event("e", "t", 0, b"1", priority=EventPriority.HIGH)], partition=0)])
    group_id = await service.create_consumer_group({"group_name": "mail"})
    joined = join(storage, group_id, orders, clicks)
    commit(storage, group_id, joined, {normal(orders): 6, normal(orders, 1): 3})
    lag = await service.get_consumer_lag("mail")
    assert (lag["total_lag"], lag["partition_lags"]) == (9, {"0": 5, "1": 0, "2": 4})
    assert lag["stream_lags"] == {"clicks": 5, "orders": 4}
    assert lag["lane_lags"] == {"CRITICAL": 0, "HIGH": 1, "NORMAL": 8, "LOW": 0}
    assert lag["active_consumers"] == 1
    assert lag["last_rebalance"].endswith("Z")
    assert [(each["stream"], each["partition"], each["lane"], each["lag"]) for each in lag["splits"]] == [
        ("clicks", 0, "HIGH", 1),
        ("clicks", 2, "NORMAL", 4),
        ("orders", 0, "NORMAL", 4),
        ("orders", 1, "NORMAL", 0),
    ]
    assert {each["member_id"] for each in lag["splits"]} == {joined.member_id}
    assert 0 <= lag["seconds_behind"] < 60


async def test_the_verdict_is_that_of_the_worst_lane_with_its_commits(storage: Storage, orders: StreamInfo) -> None:
    ahead_ms = 0
    service = ConsumerManagementService(storage, clock_ms=lambda: time.time_ns() // 1_000_000 + ahead_ms)
    group_id = await service.create_consumer_group({"group_name": "mail"})
    joined = join(storage, group_id, orders)
    for _ in range(3):
        commit(storage, group_id, joined, {normal(orders): 4})
    append(storage, orders, 1, partition=1)
    stalled = await service.get_consumer_lag(group_id)
    assert stalled["verdict"] == "STALLED"
    assert stalled["evidence"]["split"] == {"stream": "orders", "partition": 0, "lane": "NORMAL"}
    assert [each["lag"] for each in stalled["evidence"]["commits"]] == [6, 6, 6]
    GroupCoordinator(storage).leave(group_id, joined.member_id)
    ahead_ms = 31_000
    stopped = await service.get_consumer_lag(group_id)
    assert stopped["verdict"] == "STOPPED"
    assert stopped["evidence"]["sentence"].startswith("orders, partition 0, lane NORMAL: 6 events wait without a commit for 3")
    assert stopped["evidence"]["sentence"].endswith("(and 1 more are not OK); nobody is in the group")
    assert stopped["seconds_behind"] > 30


async def test_open_dead_letters_of_the_group_are_parked(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    letters = [
        dead_letter(
            Event(event_id, "t", 0, b"1"),
            event_id=event_id,
            stream=orders,
            step=step,
            error_type="E",
            message="m",
            failed_at_ms=0,
        )
        for event_id, step in (("a", "consumer:mail"), ("b", "consumer:mail"), ("c", "consumer:audit"), ("d", "validation"))
    ]
    storage.log.append([Append(storage.dead_letters(TENANT).stream_id, letters)])
    lag = await service.get_consumer_lag(await service.create_consumer_group({"group_name": "mail"}))
    assert (lag["parked"], lag["parked_is_complete"]) == (2, True)


# --- resets -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def mail(storage: Storage, service: ConsumerManagementService, orders: StreamInfo) -> str:
    """A group that nobody is in any more, and that has committed 4 of the 10 events."""
    group_id = await service.create_consumer_group({"group_name": "mail"})
    joined = join(storage, group_id, orders)
    commit(storage, group_id, joined, {normal(orders): 4})
    GroupCoordinator(storage).leave(group_id, joined.member_id)
    return group_id


@pytest.mark.parametrize(
    ("to", "offset", "effect", "events"),
    [
        ("earliest", 0, "READ_AGAIN", 4),
        ("latest", 10, "SKIPPED", 6),
        ({"offset": 4}, 4, "UNCHANGED", 0),
        ({"offset": 10}, 10, "SKIPPED", 6),
        ({"timestamp": "1970-01-01T02:30:00Z"}, 3, "READ_AGAIN", 1),
        ({"timestamp": 5 * HOUR_MS}, 5, "SKIPPED", 1),
        ({"timestamp": datetime(2100, 1, 1, tzinfo=UTC)}, 10, "SKIPPED", 6),
    ],
)
async def test_a_reset_does_what_its_preview_says(
    service: ConsumerManagementService, mail: str, to: object, offset: int, effect: str, events: int
) -> None:
    preview = await service.preview_reset(mail, to=to)
    (split,) = preview["splits"]
    assert (split["committed"], split["current_offset"], split["new_offset"]) == (4, 4, offset)
    assert (split["effect"], split["events"]) == (effect, events)
    assert (preview["is_allowed"], preview["events_read_again"] + preview["events_skipped"]) == (True, events)
    assert (await service.get_consumer_lag(mail))["total_lag"] == 6
    assert await service.reset_offsets("mail", to=to) == preview
    assert (await service.get_consumer_lag(mail))["total_lag"] == 10 - offset


async def test_a_group_that_has_read_nothing_is_reset_on_the_streams_named(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    append(storage, orders, 5, partition=1)
    config = GroupConfig(group_name="late", auto_offset_reset=OffsetReset.LATEST)
    group_id = await service.create_consumer_group(config)
    with pytest.raises(InvalidInputError, match="streams: the group late has read no stream yet"):
        await service.reset_offsets(group_id, to="earliest")
    await service.reset_offsets(group_id, to={"offset": 2}, streams=["orders", orders.stream_id], partitions=[1])
    assert (await service.get_consumer_lag(group_id))["partition_lags"] == {"0": 0, "1": 3}
    await service.reset_offsets(group_id, to="earliest", streams=["orders"], lanes=["normal"])
    assert (await service.get_consumer_lag(group_id))["partition_lags"] == {"0": 10, "1": 5}


async def test_a_reset_is_refused_while_members_are_active_unless_the_group_is_paused(
    storage: Storage, service: ConsumerManagementService, mail: str, orders: StreamInfo
) -> None:
    join(storage, mail, orders)
    preview = await service.preview_reset(mail, to="earliest")
    assert (preview["is_allowed"], "1 active member" in preview["refusal"]) == (False, True)
    with pytest.raises(InvalidStateError):
        await service.reset_offsets(mail, to="earliest")
    assert (await service.get_consumer_lag(mail))["total_lag"] == 6
    assert (await service.pause(mail)).is_paused
    assert (await service.preview_reset(mail, to="earliest"))["refusal"] is None
    await service.reset_offsets(mail, to="earliest")
    assert not (await service.resume(mail)).is_paused
    lag = await service.get_consumer_lag(mail)
    assert (lag["total_lag"], lag["verdict"]) == (10, "REWOUND")


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        (
            {"to": {"offset": 11}},
            OffsetOutOfRangeError,
            "to.offset: partition 0 of orders, lane NORMAL, takes the offsets 0 to 10",
        ),
        ({"to": {"offset": -1}}, InvalidInputError, "to.offset: expected 0 or more, got -1"),
        ({"to": {"offset": True}}, InvalidInputError, 'to: expected "earliest", "latest"'),
        ({"to": {"offset": 1, "timestamp": 1}}, InvalidInputError, "to: expected"),
        ({"to": {"offset": 1}, "partitions": [1]}, InvalidInputError, "to.offset: none of the splits"),
        ({"to": {"timestamp": "soon"}}, InvalidInputError, "to.timestamp: 'soon' is no time"),
        ({"to": "erliest"}, InvalidInputError, "to: expected"),
        ({"to": None}, InvalidInputError, "to: expected"),
        ({"to": "latest", "streams": ["ordrs"]}, StreamNotFoundError, "Did you mean 'orders'"),
        ({"to": "latest", "streams": "orders"}, InvalidInputError, "streams: expected a list, got 'orders'"),
        ({"to": "latest", "partitions": 0}, InvalidInputError, "partitions: expected a list, got 0"),
        ({"to": "latest", "streams": []}, InvalidInputError, "streams: expected at least one"),
        ({"to": "latest", "partitions": [2]}, InvalidInputError, "partitions: expected 0 to 1, the partitions of orders, got 2"),
        ({"to": "latest", "partitions": []}, InvalidInputError, "partitions, lanes: expected at least one"),
        ({"to": "latest", "lanes": ["URGENT"]}, InvalidInputError, "lanes: expected CRITICAL, HIGH, NORMAL, LOW, got 'URGENT'"),
    ],
)
async def test_a_reset_that_cannot_be_names_the_place_and_changes_nothing(
    service: ConsumerManagementService, mail: str, fields: dict[str, Any], error: type[Exception], told: str
) -> None:
    for act in (service.preview_reset, service.reset_offsets):
        with pytest.raises(error, match=told):
            await act(mail, **fields)
    assert (await service.get_consumer_lag(mail))["total_lag"] == 6


# --- members ------------------------------------------------------------------------------------------------------------


async def test_members_are_described_with_what_they_read(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    group_id = await service.create_consumer_group({"group_name": "mail"})
    joined = join(storage, group_id, orders)
    (member,) = (await service.describe_consumer_group("mail"))["members"]
    assert (member["member_id"], member["client_id"], member["streams"]) == (joined.member_id, "c", ["orders"])
    assert [(each["stream"], each["partition"]) for each in member["assignment"]] == [("orders", 0), ("orders", 1)]


async def test_a_rebalance_lets_members_join_anew_and_is_nothing_to_an_empty_group(
    storage: Storage, service: ConsumerManagementService, orders: StreamInfo
) -> None:
    group_id = await service.create_consumer_group({"group_name": "mail"})
    assert (await service.trigger_rebalance("mail")).state == "EMPTY"
    joined = join(storage, group_id, orders)
    assert (await service.trigger_rebalance("mail")).state == "PREPARING"
    assert GroupCoordinator(storage).heartbeat(group_id, joined.member_id, joined.generation).is_rebalancing
    with pytest.raises(GroupNotFoundError, match="Did you mean 'mail'"):
        await service.trigger_rebalance("mial")
