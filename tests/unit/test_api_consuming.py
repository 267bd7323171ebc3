"""Consuming over REST and server-sent events."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from event_streaming_bus import ids
from event_streaming_bus.api.consuming_sessions import ConsumingSessions, TooManyMembersError
from event_streaming_bus.bus import open_bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.redeliveries import redelivery, retry_stream_name
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")
GROUP = "/api/v1/consumer-groups/mail"
MEMBERS = f"{GROUP}/members"


def serve(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """A server on a data folder, and its address."""
    command = [ESB, "--data", str(folder), "serve", "--port", "0", "--auth", "off"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split(" on ")[1].split()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    process, url = serve(folder)
    yield url
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, with a stream ``orders`` of two partitions and a group ``mail``."""
    headers = {"X-Tenant-Id": ids.new_id("tenant_")}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        await client.post("/api/v1/streams", json={"name": "orders", "partitions": 2})
        group = {"group_name": "mail", "session_timeout_ms": 1000, "heartbeat_interval_ms": 100}
        assert (await client.post("/api/v1/consumer-groups", json=group)).status_code == 201
        yield client


async def publish(client: httpx.AsyncClient, *payloads: Any, **more: Any) -> None:
    events = [{"event_type": "placed", "payload": payload, "key": f"k{i}", **more} for i, payload in enumerate(payloads)]
    answer = await client.post("/api/v1/events/batch", json={"stream_id": "orders", "events": events})
    assert answer.status_code == 201, answer.text


async def join(client: httpx.AsyncClient, **more: Any) -> str:
    answer = await client.post(MEMBERS, json={"streams": ["orders"], **more})
    assert answer.status_code == 201, answer.text
    return f"{MEMBERS}/{answer.json()['member_id']}"


async def poll(client: httpx.AsyncClient, member: str, **more: Any) -> Any:
    answer = await client.post(f"{member}/poll", json={"timeout_ms": 3000, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def poll_all(client: httpx.AsyncClient, member: str, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        events = (await poll(client, member))["events"]
        assert events, f"{len(found)} events of {count}"
        found += events
    return found


async def lag(client: httpx.AsyncClient) -> Any:
    return (await client.get(f"{GROUP}/lag")).json()


async def until_lag(client: httpx.AsyncClient, wanted: int) -> None:
    for _ in range(60):
        if (await lag(client))["total_lag"] == wanted:
            return
        await asyncio.sleep(0.05)
    assert (await lag(client))["total_lag"] == wanted


async def until_nobody_is_left(client: httpx.AsyncClient) -> None:
    for _ in range(60):
        if not (await client.get(MEMBERS)).json()["members"]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it has not left")


def payloads(events: list[dict[str, Any]]) -> list[Any]:
    return sorted(event["payload"] for event in events)


def place(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in ("stream", "partition", "lane", "offset")}


# --- members that poll ------------------------------------------------------------------------------------------------


async def test_a_member_joins_polls_and_leaves(client: httpx.AsyncClient) -> None:
    await publish(client, 1, 2, 3, metadata={"a": 1}, user_id="u")
    answer = await client.post(MEMBERS, json={"streams": ["orders"], "client_id": "me"})
    joined = answer.json()
    assert (answer.status_code, joined["session_timeout_ms"], joined["heartbeat_interval_ms"]) == (201, 1000, 100)
    (member,) = (await client.get(MEMBERS)).json()["members"]
    assert (member["member_id"], member["client_id"], len(joined["assignment"])) == (joined["member_id"], "me", 2)
    path = f"{MEMBERS}/{joined['member_id']}"
    events = await poll_all(client, path, 3)
    assert payloads(events) == [1, 2, 3]
    event = events[0]
    assert (event["stream"], event["lane"], event["metadata"], event["user_id"]) == ("orders", "NORMAL", {"a": 1}, "u")
    assert (await client.delete(path)).status_code == 200
    await until_lag(client, 0)
    assert (await client.get(MEMBERS)).json()["members"] == []
    assert (await client.delete(path)).status_code == 200
    gone = await client.post(f"{path}/poll")
    assert (gone.status_code, "it left" in gone.json()["detail"]) == (404, True)


async def test_a_poll_takes_what_is_there_up_to_max_events(client: httpx.AsyncClient) -> None:
    await publish(client, *range(10))
    member = await join(client)
    sizes = [len((await poll(client, member, max_events=4))["events"]) for _ in range(3)]
    assert (sizes[0], sum(sizes)) == (4, 10)
    started_s = time.monotonic()
    last = await poll(client, member, timeout_ms=0)
    assert (last["events"], last["is_rebalancing"], last["batch"]) == ([], False, 3)
    assert time.monotonic() - started_s < 0.5


async def test_a_long_poll_returns_soon_after_a_publish(client: httpx.AsyncClient) -> None:
    member = await join(client)
    waits_s = []
    for i in range(4):
        waiting = asyncio.create_task(poll(client, member))
        await asyncio.sleep(0.15)
        await publish(client, i)
        published_s = time.monotonic()
        assert payloads((await waiting)["events"]) == [i]
        waits_s.append(time.monotonic() - published_s)
    assert min(waits_s) < 0.05, waits_s


async def test_an_answer_that_was_lost_is_given_again(client: httpx.AsyncClient) -> None:
    await publish(client, 1, 2)
    member = await join(client)
    first = await poll(client, member)
    for _ in range(2):
        again = await poll(client, member, received=first["batch"] - 1)
        assert (payloads(again["events"]), again["batch"]) == (payloads(first["events"]), first["batch"])
    assert (await poll(client, member, received=again["batch"], timeout_ms=0))["batch"] == again["batch"]
    refused = await client.post(f"{member}/poll", json={"received": 9})
    assert (refused.status_code, refused.json()["detail"][:9]) == (400, "received:")


async def test_an_answer_that_was_lost_before_leaving_is_not_committed(client: httpx.AsyncClient) -> None:
    await publish(client, 1)
    for received, count in ((0, 1), (1, 0)):
        member = await join(client)
        await poll(client, member)
        await client.delete(f"{member}?received={received}")
        assert (await lag(client))["total_lag"] == count


async def test_a_client_that_hangs_up_frees_its_poll(client: httpx.AsyncClient) -> None:
    member = await join(client)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(f"{member}/poll", json={"timeout_ms": 30_000}, timeout=0.2)
    started_s = time.monotonic()
    assert (await poll(client, member, timeout_ms=0))["events"] == []
    assert time.monotonic() - started_s < 1
    await publish(client, 1)
    assert payloads((await poll(client, member))["events"]) == [1]


# --- acknowledging ----------------------------------------------------------------------------------------------------


async def test_events_are_acknowledged_in_any_order(client: httpx.AsyncClient) -> None:
    await publish(client, *range(4), key="one")
    member = await join(client, auto_commit=False)
    events = await poll_all(client, member, 4)
    last = await client.post(f"{member}/ack", json={"positions": [place(events[3])], "event_ids": [events[1]["event_id"]]})
    assert last.json() == {"acknowledged": 2, "not_in_hand": []}
    assert (await client.post(f"{member}/commit")).status_code == 200
    assert (await lag(client))["total_lag"] == 4
    first = await client.post(f"{member}/ack", json={"event_ids": [events[0]["event_id"], "evt_x"]})
    assert first.json() == {"acknowledged": 1, "not_in_hand": ["evt_x"]}
    await until_lag(client, 2)  # without a commit that is asked for
    rest = await client.post(f"{member}/ack", json={"up_to": place(events[3])})
    assert rest.json() == {"acknowledged": 1, "not_in_hand": []}
    await until_lag(client, 0)


async def test_what_was_not_acknowledged_comes_again_to_another(client: httpx.AsyncClient) -> None:
    await publish(client, 1, 2, key="one")
    member = await join(client, auto_commit=False)
    events = await poll_all(client, member, 2)
    await client.post(f"{member}/ack", json={"up_to": [place(events[0])]})
    await client.delete(member)
    assert payloads(await poll_all(client, await join(client), 1)) == [2]


async def test_an_event_given_back_is_delivered_again_and_then_parked(client: httpx.AsyncClient) -> None:
    await publish(client, 1, max_retries=1)
    member = await join(client, auto_commit=False)
    for _ in range(2):
        (event,) = await poll_all(client, member, 1)
        answer = await client.post(f"{member}/nack", json={"event_ids": [event["event_id"]], "error": "no stamps"})
        assert answer.json() == {"given_back": 1, "not_in_hand": []}
    await until_lag(client, 0)
    (letter,) = (await client.get("/api/v1/dead-letters")).json()["dead_letters"]
    assert ("no stamps" in json.dumps(letter), (await lag(client))["parked"]) == (True, 1)


async def test_parking_one_event_leaves_the_others_in_hand(client: httpx.AsyncClient) -> None:
    await publish(client, 1, 2, key="one")
    member = await join(client, auto_commit=False)
    events = await poll_all(client, member, 2)
    parked = await client.post(f"{member}/park", json={"positions": [place(events[0])], "reason": "no address"})
    assert parked.json() == {"parked": 1, "not_in_hand": []}
    await until_lag(client, 1)
    assert (await lag(client))["parked"] == 1
    await client.post(f"{member}/ack", json={"event_ids": [events[1]["event_id"]]})
    await until_lag(client, 0)


async def test_an_event_that_is_retried_is_given_again_as_it_was(client: httpx.AsyncClient, folder: Path) -> None:
    member = await join(client, auto_commit=False)
    await publish(client, "a", "b")
    events = await poll_all(client, member, 2)
    parked = next(event for event in events if event["payload"] == "a")
    assert (await client.post(f"{member}/park", json={"event_ids": [parked["event_id"]], "reason": "no"})).json()["parked"] == 1
    await until_lag(client, 1)
    with open_bus(folder) as bus:
        letter = read_all(bus, "_dead_letters", tenant_id=client.headers["X-Tenant-Id"])[-1]
        group_id = (await client.get(GROUP)).json()["group_id"]
        config = StreamConfig(name=retry_stream_name(group_id), tenant_id=client.headers["X-Tenant-Id"])
        bus.log.append([Append(bus.log.create_stream(config).stream_id, [redelivery(letter)])])
    again = next(event for event in await poll_all(client, member, 1) if event["payload"] == "a")
    assert (again["event_id"], place(again)) == (parked["event_id"], place(parked))
    assert again["metadata"]["redelivery"]["dead_letter_id"] == letter.event_id
    heard = (await client.post(f"{member}/heartbeat")).json()
    assert config.name in {each["stream"] for each in heard["assignment"]}
    for acked, other in ((1, []), (0, [place(again)])):
        answer = await client.post(f"{member}/ack", json={"positions": [place(again)]})
        assert answer.json() == {"acknowledged": acked, "not_in_hand": other}
    assert (await lag(client))["stream_lags"].keys() == {"orders", config.name}
    await client.delete(member)


async def test_a_member_seeks(client: httpx.AsyncClient) -> None:
    await publish(client, *range(3), key="one", timestamp=1000)
    member = await join(client)
    events = await poll_all(client, member, 3)
    moved = await client.post(f"{member}/seek", json={**place(events[2])})
    assert [each["offset"] for each in moved.json()["positions"]] == [events[2]["offset"]]
    assert payloads((await poll(client, member))["events"]) == [events[2]["payload"]]
    for to, count in (("earliest", 3), ("latest", 0), ({"timestamp": 1000}, 3), ({"timestamp": 2000}, 0)):
        assert (await client.post(f"{member}/seek", json={"to": to})).status_code == 200
        assert len((await poll(client, member, timeout_ms=200 if count == 0 else 3000))["events"]) == count


# --- sharing ----------------------------------------------------------------------------------------------------------


async def shared(client: httpx.AsyncClient, *members: str) -> None:
    """Poll until each of two members has a partition."""
    for _ in range(100):
        for member in members:
            await poll(client, member, timeout_ms=0)
        told = (await client.get(MEMBERS)).json()
        if told["state"] == "STABLE" and sorted(len(each["assignment"]) for each in told["members"]) == [1, 1]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(told)


async def test_two_members_share_until_one_leaves(client: httpx.AsyncClient) -> None:
    one = await join(client)
    other = await join(client)
    await shared(client, one, other)
    await publish(client, *range(20))
    first, second = await poll(client, one), await poll(client, other)
    assert payloads(first["events"] + second["events"]) == list(range(20))
    assert {each["partition"] for each in first["events"]} ^ {each["partition"] for each in second["events"]} == {0, 1}
    await client.delete(other)
    await publish(client, *range(20))
    assert payloads(await poll_all(client, one, 20)) == list(range(20))


async def test_the_events_of_a_silent_member_go_to_others(client: httpx.AsyncClient) -> None:
    silent = await join(client)
    await publish(client, *range(10))
    await poll_all(client, silent, 10)
    other = await join(client, client_id="other")
    assert payloads(await poll_all(client, other, 10)) == list(range(10))
    gone = await client.post(f"{silent}/heartbeat")
    assert (gone.status_code, "session_timeout_ms = 1000" in gone.json()["detail"]) == (404, True)


async def test_heartbeats_keep_a_member(client: httpx.AsyncClient) -> None:
    member = await join(client)
    for _ in range(4):
        await asyncio.sleep(0.4)
        beat = await client.post(f"{member}/heartbeat")
        assert (beat.status_code, beat.json()["is_rebalancing"]) == (200, False)


async def test_a_paused_group_gives_nothing(client: httpx.AsyncClient) -> None:
    member = await join(client)
    await client.post(f"{GROUP}/pause")
    await asyncio.sleep(0.3)  # its next heartbeat tells the member
    await publish(client, 1)
    assert (await poll(client, member, timeout_ms=300))["events"] == []
    await client.post(f"{GROUP}/resume")
    assert payloads((await poll(client, member))["events"]) == [1]


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("", {"streams": ["ordrs"]}, 404, "orders"),
        ("", {"streams": []}, 400, "streams: expected a list of at least one"),
        ("", {"streams": "orders"}, 400, "streams: "),
        ("", {"streams": ["orders"], "autocommit": True}, 400, "did you mean 'auto_commit'?"),
        ("", {"streams": ["orders"], "client_id": "x" * 201}, 400, "client_id: expected at most 200"),
        ("/MEMBER/poll", {"max_events": 0}, 400, "max_events: expected 1 to 5,000, got 0"),
        ("/MEMBER/poll", {"max_events": 5001}, 400, "max_events: expected 1 to 5,000"),
        ("/MEMBER/poll", {"timeout_ms": 30_001}, 400, "timeout_ms: expected 0 to 30,000"),
        ("/MEMBER/poll", {"timeout_ms": "1"}, 400, "timeout_ms: "),
        ("/MEMBER/ack", {}, 400, "positions, event_ids, up_to: expected"),
        ("/MEMBER/ack", {"positions": [{"stream": "orders", "offset": 1}]}, 400, "positions[0]: "),
        ("/MEMBER/ack", {"positions": [{"stream": "x", "partition": 0, "offset": 1}]}, 404, "does not read 'x' but orders"),
        ("/MEMBER/park", {"event_ids": ["evt_x"]}, 400, "reason"),
        ("/MEMBER/seek", {}, 400, 'expected either "offset", or "to"'),
        ("/MEMBER/seek", {"offset": 1}, 400, "stream, partition: required"),
        ("/MEMBER/seek", {"to": "latst"}, 400, "to: expected"),
        ("/MEMBER/seek", {"stream": "orders", "partition": 7, "offset": 1}, 409, "assigned"),
        ("/mbr_x/poll", {}, 404, "'mbr_x' is no member"),
    ],
)
async def test_what_is_not_acceptable_is_a_problem(
    client: httpx.AsyncClient, path: str, body: Any, status: int, told: str
) -> None:
    member = await join(client)
    answer = await client.post(MEMBERS + path.replace("MEMBER", member.rpartition("/")[2]), json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert told in answer.json()["detail"]


async def test_other_tenants_and_groups_do_not_see_a_member(client: httpx.AsyncClient) -> None:
    member = await join(client)
    theirs = {"X-Tenant-Id": ids.new_id("tenant_")}
    for method, path in (("POST", "/poll"), ("POST", "/heartbeat"), ("POST", "/commit"), ("DELETE", "")):
        assert (await client.request(method, member + path, headers=theirs)).status_code == 404
    await client.post("/api/v1/consumer-groups", json={"group_name": "other"})
    assert (await client.post(f"{member.replace('mail', 'other')}/poll")).status_code == 404
    assert (await client.post(f"{MEMBERS.replace('mail', 'nobody')}", json={"streams": ["orders"]})).status_code == 404
    assert (await client.post(f"{member}/heartbeat")).status_code == 200


async def test_a_group_deleted_under_its_members_is_not_found(client: httpx.AsyncClient) -> None:
    member = await join(client)
    await client.delete(GROUP)
    for path in ("poll", "poll", "heartbeat"):
        assert (await client.post(f"{member}/{path}", json={})).status_code == 404


async def test_a_member_that_did_not_poll_in_time_is_told_that_it_was_put_out(client: httpx.AsyncClient) -> None:
    group = {"group_name": "slow", "max_poll_interval_ms": 1000, "session_timeout_ms": 1000, "heartbeat_interval_ms": 100}
    await client.post("/api/v1/consumer-groups", json=group)
    member = (await join_other(client, "slow")) + "/"
    for _ in range(10):
        await asyncio.sleep(0.2)
        beat = await client.post(member + "heartbeat")
        if beat.status_code != 200:
            break
    assert (beat.status_code, beat.headers["content-type"]) == (409, "application/problem+json"), beat.text
    assert "was put out of consumer group 'slow'" in beat.json()["detail"]
    assert (await client.post(member + "poll")).status_code == 404


async def join_other(client: httpx.AsyncClient, group: str) -> str:
    members = MEMBERS.replace("mail", group)
    return f"{members}/{(await client.post(members, json={'streams': ['orders']})).json()['member_id']}"


# --- event streams ----------------------------------------------------------------------------------------------------


class EventStream:
    """The messages of an event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        message: dict[str, str] = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name:
                    message[name] = message[name] + "\n" + value if name == "data" and name in message else value
                elif "data" in message:
                    return message
        raise AssertionError("the stream has ended")


@asynccontextmanager
async def stream(client: httpx.AsyncClient, query: str = "", **headers: str) -> AsyncIterator[EventStream]:
    async with client.stream("GET", f"{GROUP}/events?streams=orders{query}", headers=headers) as response:
        assert response.headers.get("content-type", "").startswith("text/event-stream"), await response.aread()
        yield EventStream(response)


async def test_an_event_stream_has_the_events_as_they_come(client: httpx.AsyncClient) -> None:
    async with stream(client, "&client_id=browser") as events:
        first = await events.next()
        joined = json.loads(first["data"])
        assert (first["event"], first["retry"], joined["ack"]) == ("esb-joined", "1000", "auto")
        (member,) = (await client.get(MEMBERS)).json()["members"]
        assert (member["member_id"], member["client_id"]) == (joined["member_id"], "browser")
        for i in range(2):
            await publish(client, {"n": i})
            message = await events.next()
            assert (message["event"], json.loads(message["data"])["payload"]) == ("placed", {"n": i})
        assert (await client.post(f"{MEMBERS}/{joined['member_id']}/poll")).status_code == 409
        await until_lag(client, 0)
    await until_nobody_is_left(client)


async def test_an_event_stream_is_resumed(client: httpx.AsyncClient) -> None:
    async with stream(client) as events:
        await events.next()
        tokens = []
        for i in range(3):
            await publish(client, i)
            tokens.append((await events.next())["id"])
        await until_lag(client, 0)
    async with stream(client, **{"Last-Event-ID": tokens[0]}) as events:
        await events.next()
        assert sorted([json.loads((await events.next())["data"])["payload"] for _ in range(2)]) == [1, 2]
    async with stream(client, f"&last_event_id={tokens[1]}") as events:
        await events.next()
        assert json.loads((await events.next())["data"])["payload"] == 2


async def test_a_stream_that_broke_off_goes_on_behind_what_was_read(client: httpx.AsyncClient) -> None:
    await publish(client, *range(250))
    seen: set[int] = set()
    token = ""
    while len(seen) < 250:
        async with stream(client, f"&last_event_id={token}") as events:
            await events.next()
            wanted = min(250, len(seen) + 37)  # in the middle of what is sent, and committed, together
            while len(seen) < wanted:
                message = await events.next()
                seen.add(json.loads(message["data"])["payload"])
                token = message.get("id", token)
        await until_nobody_is_left(client)


async def test_an_event_stream_is_acknowledged(client: httpx.AsyncClient) -> None:
    await publish(client, 1, 2, key="one")
    async with stream(client, "&ack=manual") as events:
        member = json.loads((await events.next())["data"])["member_id"]
        first, second = [await events.next() for _ in range(2)]
        assert "id" not in second
        await client.post(f"{MEMBERS}/{member}/ack", json={"event_ids": [json.loads(first["data"])["event_id"]]})
        await until_lag(client, 1)
    async with stream(client, "&ack=manual") as events:
        await events.next()
        assert json.loads((await events.next())["data"])["payload"] == 2


async def test_messages_are_what_the_format_says(client: httpx.AsyncClient) -> None:
    payload = b'{\r\n"a":\n[1],\r "\xc3\xa9": "\\n"}'
    body = b'{"event_type": "two\\nlines", "stream_id": "orders", "payload": ' + payload + b"}"
    assert (await client.post("/api/v1/events", content=body)).status_code == 201
    async with stream(client) as events:
        await events.next()
        message = await events.next()
        assert (message["event"], json.loads(message["data"])["payload"]) == ("two lines", json.loads(payload))
    await publish(client, 1)
    async with stream(client, "&named=false") as events:
        await events.next()
        assert "event" not in await events.next()


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("", 400, "streams: expected"),
        ("streams=orders&ack=no", 400, "ack: expected auto or manual"),
        ("streams=orders&last_event_id=x", 400, "last_event_id: expected"),
        ("streams=orders,ordrs", 404, "orders"),
    ],
)
async def test_an_event_stream_that_cannot_be_is_a_problem(client: httpx.AsyncClient, query: str, status: int, told: str) -> None:
    answer = await client.get(f"{GROUP}/events?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert told in answer.json()["detail"]


async def test_an_event_stream_tells_why_it_ends(client: httpx.AsyncClient) -> None:
    async with stream(client) as events:
        await events.next()
        await client.delete(GROUP)
        message = await events.next()
        assert (message["event"], json.loads(message["data"])["title"]) == ("esb-error", "GroupNotFound")


async def test_a_server_that_stops_ends_streams_and_polls(tmp_path: Path) -> None:
    process, url = await asyncio.to_thread(serve, tmp_path)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await client.post("/api/v1/streams", json={"name": "orders"})
        await client.post("/api/v1/consumer-groups", json={"group_name": "mail"})
        await publish(client, 1)
        member = await join(client)
        await poll(client, member)
        waiting = asyncio.create_task(poll(client, member, timeout_ms=30_000))
        async with client.stream("GET", f"{GROUP}/events?streams=orders") as response:
            await asyncio.sleep(0.2)
            started_s = time.monotonic()
            process.terminate()
            assert b"esb-joined" in await response.aread()
        assert (await waiting)["events"] == []
    _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert (process.returncode, errors, time.monotonic() - started_s < 5) == (0, "", True)


async def test_a_slow_reader_is_read_for_at_its_own_pace(client: httpx.AsyncClient) -> None:
    body = {"stream_id": "orders", "events": [{"event_type": "t", "payload": "x" * 100_000}] * 120}
    for _ in range(3):
        assert (await client.post("/api/v1/events/batch", json=body)).status_code == 201
    address = client.base_url
    reader = socket.create_connection((address.host, address.port or 80))
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    lines = (f"GET {GROUP}/events?streams=orders HTTP/1.1", "Host: localhost", f"X-Tenant-Id: {client.headers['X-Tenant-Id']}")
    with reader:
        reader.sendall("\r\n".join((*lines, "", "")).encode())
        await asyncio.sleep(1.5)
        told = await lag(client)
        assert (told["active_consumers"], told["total_lag"] > 100) == (1, True)
    await until_nobody_is_left(client)


async def test_members_are_bounded_in_number(tmp_path: Path) -> None:
    with open_bus(tmp_path) as bus:
        for tenant in ("a", "b", "c"):
            bus.create_stream("orders", tenant_id=tenant)
            GroupCoordinator(bus.storage).create(tenant, GroupConfig(group_name="mail"))
        sessions = ConsumingSessions(bus.storage, max_members=2, max_tenant_members=1)
        member = await sessions.join("a", "mail", ["orders"])
        await sessions.join("b", "mail", ["orders"])
        for tenant, status in (("a", 503), ("c", 503)):
            with pytest.raises(TooManyMembersError) as refused:
                await sessions.join(tenant, "mail", ["orders"])
            assert (refused.value.status, refused.value.retry_after_s) == (status, 5)
        await sessions.leave("a", "mail", member.member_id)
        with pytest.raises(TooManyMembersError) as refused:
            await sessions.join("b", "mail", ["orders"])
        assert refused.value.status == 429
        await sessions.join("c", "mail", ["orders"])
        await sessions.close()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"max_unacknowledged": 0}, "max_unacknowledged: expected 1 to 100,000, got 0"),
        ({"retry": {"backoff_ms": -1}}, "retry.backoff_ms: expected"),
        ({"retry": {"pause": 1}}, "retry.pause: "),
        ({"retry": {"backoff_ms": 2, "max_backoff_ms": 1}}, "retry.max_backoff_ms: expected at least backoff_ms (2)"),
    ],
)
async def test_a_member_cannot_join_with_what_makes_no_sense(client: httpx.AsyncClient, more: dict[str, Any], told: str) -> None:
    answer = await client.post(MEMBERS, json={"streams": ["orders"], **more})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(told)


async def test_paused_partitions_are_told_until_they_are_taken_away(client: httpx.AsyncClient) -> None:
    member = await join(client)
    for partition in (0, 1):
        answer = await client.post(f"{member}/pause", json={"partitions": [{"stream": "orders", "partition": partition}]})
        assert answer.status_code == 200
    assert [each["is_paused"] for each in answer.json()["assignment"]] == [True, True]
    await publish(client, *range(8))
    assert (await poll(client, member, timeout_ms=200))["events"] == []
    answer = await client.post(f"{member}/resume", json={"partitions": [{"stream": "orders", "partition": 1}]})
    assert [each["is_paused"] for each in answer.json()["assignment"]] == [True, False]
    assert {event["partition"] for event in (await poll(client, member))["events"]} == {1}
    wrong = await client.post(f"{member}/pause", json={"partitions": [{"stream": "orders", "partition": 7}]})
    assert (wrong.status_code, wrong.json()["title"]) == (409, "InvalidState")
    other = asyncio.create_task(join(client))
    for _ in range(50):  # it gives one up, and gets it back as one that is not paused
        await poll(client, member, timeout_ms=100)
        if other.done():
            break
    await client.delete(await other)
    for _ in range(50):
        told = (await client.post(f"{member}/heartbeat")).json()
        if len(told["assignment"]) == 2:
            break
        await poll(client, member, timeout_ms=100)
    paused = {each["partition"] for each in told["assignment"] if each["is_paused"]}
    assert paused <= {0}
    assert len(told["assignment"]) == 2
