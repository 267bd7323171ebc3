"""Consumer groups over REST."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import ids
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.store.storage import Storage, open_storage

GROUPS = "/api/v1/consumer-groups"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder) as url:
        yield url


@pytest.fixture
def storage(url: str, folder: Path) -> Iterator[Storage]:
    """The data folder of the server, opened by this process as well."""
    storage = open_storage(folder)
    yield storage
    storage.close()


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, with a stream ``orders`` of two events and a group ``mail``."""
    tenant = ids.new_id("tenant_")
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": tenant}, timeout=30) as client:
        await client.post("/api/v1/streams", json={"name": "orders", "partitions": 1})
        events = [{"event_type": "t", "payload": i, "timestamp": 1000 * i} for i in range(2)]
        published = await client.post("/api/v1/events/batch", json={"stream_id": "orders", "events": events})
        assert published.status_code == 201, published.text
        await client.post(GROUPS, json={"group_name": "mail"})
        yield client


async def reset(client: httpx.AsyncClient, query: str, **body: Any) -> httpx.Response:
    return await client.post(f"{GROUPS}/mail/reset-offsets{query}", json=body)


async def test_a_group_has_a_life(client: httpx.AsyncClient) -> None:
    answer = await client.post(GROUPS, json={"group_name": "audit", "max_retries": 5})
    assert answer.status_code == 201
    group_id = answer.json()["group_id"]
    listed = (await client.get(GROUPS)).json()["consumer_groups"]
    assert [(each["group_name"], each["max_retries"]) for each in listed] == [("audit", 5), ("mail", 3)]
    shown = (await client.get(f"{GROUPS}/{group_id}")).json()
    assert shown == (await client.get(f"{GROUPS}/audit")).json()
    assert (shown["state"], shown["members"]) == ("EMPTY", [])
    assert (await client.post(f"{GROUPS}/audit/pause")).json()["is_paused"] is True
    assert (await client.post(f"{GROUPS}/{group_id}/resume")).json()["is_paused"] is False
    assert (await client.delete(f"{GROUPS}/audit")).json()["group_id"] == group_id
    assert (await client.get(f"{GROUPS}/audit")).status_code == 404


async def test_lag_and_members_are_told(client: httpx.AsyncClient, storage: Storage) -> None:
    tenant = client.headers["X-Tenant-Id"]
    group_id = (await client.get(f"{GROUPS}/mail")).json()["group_id"]
    stream = storage.log.find_stream(tenant, "orders")
    joined = GroupCoordinator(storage).join(group_id, [stream.stream_id])
    lag = (await client.get(f"{GROUPS}/mail/lag")).json()
    assert (lag["total_lag"], lag["partition_lags"], lag["active_consumers"]) == (2, {"0": 2}, 1)
    assert (lag["verdict"], lag["splits"][0]["lag"]) == ("OK", 2)
    members = (await client.get(f"{GROUPS}/mail/members")).json()
    assert [member["member_id"] for member in members["members"]] == [joined.member_id]
    assert (members["group_id"], members["generation"]) == (group_id, joined.generation)
    assert (await client.post(f"{GROUPS}/mail/rebalance")).json() == {
        "message": "Consumer group rebalance triggered successfully"
    }
    refused = await reset(client, "?preview=false", to="latest")
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")


async def test_a_reset_is_previewed_unless_it_is_asked_for(client: httpx.AsyncClient) -> None:
    for query in ("", "?preview=true"):
        preview = (await reset(client, query, to="latest", streams=["orders"])).json()
        assert (preview["is_preview"], preview["is_allowed"], preview["events_skipped"]) == (True, True, 2)
    assert (await client.get(f"{GROUPS}/mail/lag")).json()["splits"] == []
    done = (await reset(client, "?preview=false", to={"timestamp": 1000}, streams=["orders"])).json()
    assert (done["is_preview"], done["message"]) == (False, "Offsets reset successfully")
    assert [(each["new_offset"], each["events"], each["effect"]) for each in done["splits"]] == [(1, 1, "SKIPPED")]
    assert (await client.get(f"{GROUPS}/mail/lag")).json()["total_lag"] == 1


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"group_name": "g", "session_timeout_ms": 1}, 400, "session_timeout_ms: "),
        (
            {"group_name": "g", "sesion_timeout_ms": 1},
            400,
            "sesion_timeout_ms: unknown field; did you mean 'session_timeout_ms'?",
        ),
        ({"group_name": "mail", "max_retries": 9}, 409, "mail"),
        ({}, 400, "group_name: is required"),
        ([], 400, "object"),
    ],
)
async def test_a_group_that_cannot_be_made_is_a_problem(client: httpx.AsyncClient, body: Any, status: int, told: str) -> None:
    answer = await client.post(GROUPS, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"to": "latest"}, 400, "streams: the group mail has read no stream yet"),
        ({"to": "latest", "streams": ["ordrs"]}, 404, "Did you mean 'orders'"),
        ({"to": {"offset": 3}, "streams": ["orders"]}, 416, "takes the offsets 0 to 2"),
        ({"to": "latst", "streams": ["orders"]}, 400, "to: expected"),
        ({"to": "latest", "stream": ["orders"]}, 400, "stream: unknown field; did you mean 'streams'?"),
        ({"to": "latest", "partitions": ["0"]}, 400, "partitions[0]: "),
        ({}, 400, "missing required field `to`"),
    ],
)
async def test_a_reset_that_cannot_be_is_a_problem(client: httpx.AsyncClient, body: Any, status: int, told: str) -> None:
    for query in ("", "?preview=false"):
        answer = await reset(client, query, **body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
        assert told in answer.json()["detail"]


async def test_other_tenants_do_not_see_a_group(client: httpx.AsyncClient) -> None:
    group_id = (await client.get(f"{GROUPS}/mail")).json()["group_id"]
    theirs = {"X-Tenant-Id": "theirs"}
    assert (await client.get(GROUPS, headers=theirs)).json() == {"consumer_groups": [], "next_cursor": None}
    for reference in (group_id, "mail"):
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/lag"),
            ("GET", "/members"),
            ("POST", "/rebalance"),
            ("POST", "/pause"),
            ("POST", "/resume"),
        ):
            answer = await client.request(method, f"{GROUPS}/{reference}{path}", headers=theirs)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        body = {"to": "latest"}
        assert (await client.post(f"{GROUPS}/{reference}/reset-offsets", headers=theirs, json=body)).status_code == 404
    assert (await client.get(f"{GROUPS}/mail")).status_code == 200
