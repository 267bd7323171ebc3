"""Routing rules over REST."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import ids

ROUTES = "/api/v1/routes"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, with the streams ``orders`` and ``big``."""
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=30) as client:
        for name in ("orders", "big"):
            await client.post("/api/v1/streams", json={"name": name})
        yield client


async def put(client: httpx.AsyncClient, name: str = "big", /, **config: Any) -> httpx.Response:
    return await client.put(f"{ROUTES}/{name}", json={"stream": "orders", **config})


async def publish(client: httpx.AsyncClient, payload: Any) -> dict[str, Any]:
    body = {"event_type": "t", "stream_id": "orders", "payload": payload}
    answer = await client.post("/api/v1/events", json=body)
    assert answer.status_code == 201, answer.text
    published: dict[str, Any] = answer.json()
    return published


async def test_a_rule_has_a_life(client: httpx.AsyncClient) -> None:
    made = await put(client, match="payload.total > 10", to=["big"])
    assert (made.status_code, made.json()["version"]) == (200, 1)
    again = await put(client, match="payload.total > 10", to=["big"])
    assert again.json() == made.json()
    changed = (await put(client, match="payload.total > 20", to=["big"], priority="HIGH")).json()
    assert (changed["version"], changed["priority"], changed["match"]) == (2, "HIGH", "payload.total > 20")
    assert (await client.get(f"{ROUTES}/big")).json() == changed
    assert (await client.get(f"{ROUTES}/big", params={"version": 1})).json() == made.json()
    for query in ({}, {"stream": "orders"}):
        assert (await client.get(ROUTES, params=query)).json() == {"routes": [changed], "next_cursor": None}
    assert (await client.get(ROUTES, params={"stream": "big"})).json() == {"routes": [], "next_cursor": None}
    removed = await client.delete(f"{ROUTES}/big")
    assert (removed.status_code, removed.json()["version"]) == (200, 2)
    for gone in (await client.get(f"{ROUTES}/big"), await client.delete(f"{ROUTES}/big")):
        assert (gone.status_code, gone.json()["title"]) == (404, "RouteNotFound")


async def test_published_events_are_routed_and_their_history_says_so(client: httpx.AsyncClient) -> None:
    await put(client, match="payload.total > 10", to=["big"], move=True)
    big = (await client.get("/api/v1/streams/big")).json()["stream_id"]
    moved, stayed = await publish(client, {"total": 20}), await publish(client, {"total": 5})
    assert moved["stream_id"] == big
    assert stayed["stream_id"] != big
    history = (await client.get(f"/api/v1/events/{moved['event_id']}/processing-history")).json()["processing_history"]
    told = [(step["processing_stage"], step["processor_name"]) for step in history]
    assert told == [("PUBLISH", "publisher"), ("ROUTING", "big@1: orders -> big")]


async def test_rules_are_tried_on_stored_events(client: httpx.AsyncClient) -> None:
    for total in (5, 20, None):
        await publish(client, {"total": total})
    await put(client, match="payload.total > 10", to=["big"])
    told = (await client.post(f"{ROUTES}/try", json={"stream": "orders", "last": 2})).json()
    assert (told["events"], told["events_to"]) == (2, {"big": 1})
    assert (told["rules"][0]["matched"], told["rules"][0]["not_evaluated"]) == (1, 1)
    candidate = {"name": "big", "stream": "orders", "to": ["big"], "move": True}
    told = (await client.post(f"{ROUTES}/try", json={"stream": "orders", "routes": [candidate]})).json()
    assert (told["stayed"], told["events_to"], told["rules"][0]["version"]) == (0, {"big": 3}, 2)
    assert (await client.get(f"{ROUTES}/big")).json()["version"] == 1


@pytest.mark.parametrize(
    ("config", "status", "detail"),
    [
        ({"to": ["none"]}, 404, "to[0]: There is no stream 'none'."),
        ({"to": ["big"], "match": "payload.a >> 1"}, 422, "match: "),
        ({"to": ["big"], "priority": "URGENT"}, 422, "priority: 'URGENT' is none of CRITICAL, HIGH, NORMAL, LOW"),
        ({"to": ["big"], "sample": 2}, 422, "sample: expected 0 to 1, got 2"),
        ({"to": ["orders"]}, 422, "to[0]: 'orders' is the stream that the events come from"),
        ({"to": ["big"], "name": "other"}, 400, "name: expected 'bad', as in the address, or none; got 'other'"),
    ],
)
async def test_bad_rules_are_refused_with_their_place(
    client: httpx.AsyncClient, config: dict[str, Any], status: int, detail: str
) -> None:
    answer = await put(client, "bad", **config)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)
    assert (await client.get(ROUTES)).json() == {"routes": [], "next_cursor": None}


async def test_cycles_are_refused_with_their_path(client: httpx.AsyncClient) -> None:
    await put(client, to=["big"])
    back = await client.put(f"{ROUTES}/back", json={"stream": "big", "to": ["orders"]})
    assert back.status_code == 422
    assert set(back.json()["cycle"]) == {"orders", "big"}
    tried = {"stream": "orders", "routes": [{"name": "back", "stream": "big", "to": ["orders"]}]}
    assert (await client.post(f"{ROUTES}/try", json=tried)).status_code == 422
