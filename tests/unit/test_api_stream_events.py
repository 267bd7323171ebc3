"""The events of a stream over REST: pages, filters, cursors and live tails."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import ids

EVENTS = "/api/v1/streams/orders/events"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, with a stream ``orders`` of two partitions."""
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=40) as client:
        await client.post("/api/v1/streams", json={"name": "orders", "partitions": 2})
        yield client


async def publish(client: httpx.AsyncClient, *numbers: int, **fields: Any) -> None:
    events = [
        {"event_type": "order", "event_id": f"e{n}", "key": f"k{n % 5}", "payload": {"n": n}, "timestamp": 1000 * n, **fields}
        for n in numbers
    ]
    answer = await client.post("/api/v1/events/batch", json={"stream_id": "orders", "events": events})
    assert answer.is_success, answer.text


async def page(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get(EVENTS, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def numbers(client: httpx.AsyncClient, **query: Any) -> list[int]:
    """The numbers of all pages, one after the other."""
    found: list[int] = []
    while True:
        each = await page(client, **query)
        found += [event["payload"]["n"] for event in each["events"]]
        if each["next_cursor"] is None:
            return found
        query = {name: value for name, value in query.items() if name != "from"} | {"cursor": each["next_cursor"]}


async def test_an_event_comes_with_its_envelope_and_its_place(client: httpx.AsyncClient) -> None:
    await publish(client, 7, priority="HIGH")
    (event,) = (await page(client))["events"]
    assert (event["event_id"], event["payload"], event["stream"]) == ("e7", {"n": 7}, "orders")
    assert (event["lane"], event["offset"], event["partition"] in (0, 1)) == ("HIGH", 0, True)


async def test_pages_follow_one_another_forwards_and_backwards(client: httpx.AsyncClient) -> None:
    for start in range(0, 60, 20):
        await publish(client, *range(start, start + 20))
    for limit in (1, 7, 1000):
        forwards = await numbers(client, limit=limit)
        assert sorted(forwards) == list(range(60))
        assert [n // 20 for n in forwards] == sorted(n // 20 for n in forwards)  # by time of appending
        assert await numbers(client, limit=limit, newest_first="true") == forwards[::-1]


async def test_it_begins_where_it_is_told_to(client: httpx.AsyncClient) -> None:
    await publish(client, *range(10), key="k")
    await publish(client, 10, priority="CRITICAL")
    assert await numbers(client, **{"from": 8}) == [8, 9]
    assert await numbers(client, **{"from": "1970-01-01T00:00:07.500Z"}) == [8, 9, 10]
    assert await numbers(client, **{"from": "latest"}) == []
    assert await numbers(client, **{"from": 2, "newest_first": "true"}) == [10, 1, 0]
    assert await numbers(client, lane="CRITICAL") == [10]
    assert len(await numbers(client, partition=0)) in (0, 1, 10, 11)


async def test_a_filter_takes_what_it_holds_for_and_says_where_it_could_not_be_evaluated(client: httpx.AsyncClient) -> None:
    await publish(client, *range(10))
    await client.post("/api/v1/events", json={"event_type": "odd", "stream_id": "orders", "payload": {"n": None}})
    assert sorted(await numbers(client, filter="payload.n >= 7 and key != 'k4'", limit=2)) == [7, 8]
    found = await page(client, filter="payload.n > 100")
    assert (found["events"], found["looked_at"], found["filter_failures"]["count"]) == ([], 11, 1)
    assert "payload.n is null" in found["filter_failures"]["example"]
    refused = await client.get(EVENTS, params={"filter": "payload.n >"})
    assert (refused.status_code, refused.json()["title"]) == (422, "Expression")


async def test_a_search_ends_a_page_before_it_has_found_enough(client: httpx.AsyncClient) -> None:
    for start in range(0, 25_000, 5000):
        await publish(client, *range(start, start + 5000))
    first = await page(client, filter="payload.n == 24999")
    assert (first["events"], 20_000 <= first["looked_at"] < 21_000) == ([], True)
    assert await numbers(client, filter="payload.n == 24999") == [24999]


async def test_a_live_tail_waits_for_the_next_event(client: httpx.AsyncClient) -> None:
    tail = (await page(client, **{"from": "latest"}))["tail_cursor"]
    waiting = asyncio.create_task(page(client, cursor=tail, wait_ms=20_000, filter="payload.n == 2"))
    await asyncio.sleep(0.1)
    await publish(client, 1)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    began_s = time.monotonic()
    await publish(client, 2)
    found = await waiting
    assert ([event["payload"]["n"] for event in found["events"]], time.monotonic() - began_s < 2) == ([2], True)
    began_s = time.monotonic()
    assert (await page(client, cursor=found["tail_cursor"], wait_ms=200))["events"] == []
    assert 0.2 <= time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({"from": "yesterday"}, "from"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"wait_ms": 30_001}, "wait_ms"),
        ({"wait_ms": 1, "newest_first": "true"}, "wait_ms"),
        ({"partition": 2}, "partition"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "x", "from": "latest"}, "from"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_name(client: httpx.AsyncClient, query: dict[str, Any], place: str) -> None:
    answer = await client.get(EVENTS, params=query)
    assert (answer.status_code, answer.json()["path"]) == (400, place), answer.text


async def test_personal_values_are_shown(client: httpx.AsyncClient) -> None:
    schema = {
        "schema_name": "person",
        "json_schema": {
            "type": "object",
            "properties": {"who": {"type": "string"}, "mail": {"type": "string", "x-personal": {"subject": "/who"}}},
        },
    }
    made = await client.post("/api/v1/schemas/enhanced", json=schema)
    assert made.is_success, made.text
    await client.post("/api/v1/streams", json={"name": "people", "schema": "person"})
    body = {"event_type": "t", "stream_id": "people", "payload": {"who": "ann", "mail": "ann@example.com"}}
    assert (await client.post("/api/v1/events", json=body)).is_success
    found = (await client.get("/api/v1/streams/people/events", params={"filter": "'@' in payload.mail"})).json()
    assert [event["payload"]["mail"] for event in found["events"]] == ["ann@example.com"]
