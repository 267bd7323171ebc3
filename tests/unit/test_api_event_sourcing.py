"""Event sourcing over REST."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from running import served

from event_streaming_bus import ids

ROOT = "/api/v1/event-sourcing"
BANK = """
aggregate_type: Account
initial: {balance: 0}
apply:
  deposited: {balance: state.balance + payload.amount}
"""
ODD_IDS = ["a/b", "a%2Fb", "50%", "/", "a b", "ä/ö", "..", "a?b#c", "a/events", "%", "a+b"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "bank.yaml").write_text(BANK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESB_FOLDS", str(folder / "bank.yaml"))
        with served(folder) as url:
            yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own."""
    async with httpx.AsyncClient(base_url=url + ROOT, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=30) as client:
        yield client


async def append(client: httpx.AsyncClient, aggregate_id: str, amount: int, **more: Any) -> httpx.Response:
    body = {"aggregate_id": aggregate_id, "aggregate_type": "Account", "event_type": "deposited"}
    return await client.post("/append", json={**body, "event_data": {"amount": amount}, **more})


async def rebuilt(client: httpx.AsyncClient, aggregate_id: str, **more: Any) -> Any:
    answer = await client.post("/reconstruct", json={"aggregate_id": aggregate_id, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_events_are_appended_and_read_and_the_state_is_rebuilt(client: httpx.AsyncClient) -> None:
    first = await append(client, "a", 1, expected_version="no_stream", metadata={"m": 1}, correlation_id="c", user_id="ann")
    assert (first.status_code, first.json()["version"], first.json()["duplicate"]) == (201, 1, False)
    await append(client, "a", 2, expected_version=1)
    assert (await rebuilt(client, "a"))["state"] == {"balance": 3}
    then = await rebuilt(client, "a", as_of_version=1)
    assert (then["current_version"], then["state"]) == (1, {"balance": 1})
    assert (await rebuilt(client, "a", as_of_time="1970-01-01T00:00:00Z"))["state"] == {"balance": 0}
    events = (await client.get("/aggregates/a/events")).json()["events"]
    assert [event["event_data"] for event in events] == [{"amount": 1}, {"amount": 2}]
    assert (events[0]["metadata"], events[0]["correlation_id"], events[0]["user_id"]) == ({"m": 1}, "c", "ann")
    assert (await client.get("/aggregates/a/events", params={"after_version": 1})).json()["events"] == events[1:]
    one = (await client.get("/aggregates/a")).json()
    assert (one["aggregate_type"], one["status"], one["current_version"]) == ("Account", "ACTIVE", 2)


async def test_a_conflict_tells_the_version_and_what_came_between(client: httpx.AsyncClient) -> None:
    for amount in (1, 2):
        await append(client, "a", amount)
    refused = await append(client, "a", 3, expected_version=1)
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    told = refused.json()
    assert (told["title"], told["current_version"], told["expected_version"]) == ("VersionConflict", 2, 1)
    assert [event["event_data"] for event in told["events"]] == [{"amount": 2}]


async def test_the_same_event_again_gives_the_first_answer(client: httpx.AsyncClient) -> None:
    first = (await append(client, "a", 1, event_id="evt_1", expected_version=0)).json()
    again = (await append(client, "a", 1, event_id="evt_1", expected_version=0)).json()
    assert again == {**first, "duplicate": True}


async def test_several_aggregates_are_appended_to_or_none(client: httpx.AsyncClient) -> None:
    def part(aggregate_id: str, expected: int) -> dict[str, Any]:
        event = {"event_type": "deposited", "event_data": {"amount": 1}}
        return {
            "aggregate_id": aggregate_id,
            "aggregate_type": "Account",
            "events": [event],
            "expected_version": expected,
        }

    done = await client.post("/append-batch", json={"appends": [part("a", 0), part("b", 0)]})
    assert [event["aggregate_id"] for event in done.json()["events"]] == ["a", "b"]
    refused = await client.post("/append-batch", json={"appends": [part("a", 1), part("b", 5)]})
    assert (refused.status_code, refused.json()["aggregate_id"]) == (409, "b")
    assert (await client.get("/aggregates/a")).json()["current_version"] == 1
    unless = {"query": {"event_types": ["deposited"], "where": {"amount": 1}}, "after": 0}
    refused = await client.post("/append-batch", json={"appends": [part("c", 0)], "unless": unless})
    assert (refused.status_code, refused.json()["title"], len(refused.json()["events"])) == (409, "ConditionNotMet", 2)


@pytest.mark.parametrize(
    ("route", "body", "status", "told"),
    [
        ("/append", {"aggregate_id": "a"}, 400, "aggregate_type"),
        ("/append", {"expected_version": -1}, 400, "expected_version: expected 0 or more"),
        ("/append", {"event_data": [1]}, 400, "event_data"),
        ("/append", {"aggregate_type": "_x"}, 400, "aggregate_type: expected"),
        ("/append", {"stream": "missing"}, 404, "missing"),
        ("/append", {"surprise": 1}, 400, "surprise"),
        ("/append-batch", {"appends": []}, 400, "events: expected 1 to"),
        ("/reconstruct", {"aggregate_id": "missing"}, 404, "There is no aggregate 'missing'"),
        ("/reconstruct", {"aggregate_id": "a", "as_of_version": 7}, 400, "has the versions 0 to 1"),
        ("/reconstruct", {"aggregate_id": "a", "aggregate_type": "Order"}, 400, "is a Account, not a Order"),
        ("/reconstruct", {"aggregate_id": "a", "as_of_time": "noon"}, 400, "noon"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], status: int, told: str
) -> None:
    await append(client, "a", 1)
    if route == "/append" and len(body) == 1 and "aggregate_id" not in body:
        body = {"aggregate_id": "a", "aggregate_type": "Account", "event_type": "deposited", "event_data": {}, **body}
    answer = await client.post(route, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert told in answer.json()["detail"]


async def test_a_fold_that_fails_names_the_event(client: httpx.AsyncClient) -> None:
    await append(client, "a", 1)
    await append(client, "a", 2, event_data={"amount": "two"})
    answer = await client.post("/reconstruct", json={"aggregate_id": "a"})
    assert (answer.status_code, answer.json()["version"], answer.json()["event_type"]) == (422, 2, "deposited")


async def test_all_events_are_read_in_pages(client: httpx.AsyncClient) -> None:
    for n in range(3):
        await append(client, f"a{n}", n)
    page = (await client.get("/events", params={"limit": 2})).json()
    assert ([event["aggregate_id"] for event in page["events"]], page["is_end"]) == (["a0", "a1"], False)
    rest = (await client.get("/events", params={"after_position": page["position"], "aggregate_types": ["Account"]})).json()
    assert ([event["aggregate_id"] for event in rest["events"]], rest["is_end"]) == (["a2"], True)
    assert (await client.get("/events", params={"event_types": "withdrawn"})).json()["events"] == []


async def test_snapshots_are_verified(client: httpx.AsyncClient) -> None:
    await append(client, "a", 1)
    await rebuilt(client, "a", update_snapshots=True)
    [check] = (await client.post("/aggregates/a/verify")).json()["snapshots"]
    assert (check["is_equal"], check["version"]) == (True, 1)


@pytest.mark.parametrize("aggregate_id", ODD_IDS)
async def test_an_id_may_be_any_text_if_it_is_encoded(client: httpx.AsyncClient, aggregate_id: str) -> None:
    await append(client, aggregate_id, 1)
    path = f"/aggregates/{quote(aggregate_id, safe='').replace('.', '%2E')}"
    assert (await client.get(path)).json()["aggregate_id"] == aggregate_id
    [event] = (await client.get(f"{path}/events")).json()["events"]
    assert event["aggregate_id"] == aggregate_id
    assert (await client.post(f"{path}/verify")).json() == {"snapshots": []}
    assert (await client.post(f"{path}/archive")).json()["status"] == "ARCHIVED"
    assert (await client.post(f"{path}/restore")).json()["status"] == "ACTIVE"
    assert (await client.delete(path)).json()["aggregate_id"] == aggregate_id


# --- the life of aggregates -------------------------------------------------------------------------------------------


async def test_an_aggregate_is_archived_and_restored(client: httpx.AsyncClient) -> None:
    for amount in (1, 2):
        await append(client, "a", amount)
    archived = (await client.post("/aggregates/a/archive")).json()
    assert (archived["action"], archived["status"], archived["current_version"], archived["events"]) == (
        "archived",
        "ARCHIVED",
        2,
        2,
    )
    assert (await client.get("/events")).json()["events"] == []
    assert (await rebuilt(client, "a"))["state"] == {"balance": 3}
    refused = await append(client, "a", 3)
    assert (refused.status_code, "Restore it first" in refused.json()["detail"]) == (409, True)
    assert (await client.post("/aggregates/a/archive")).status_code == 409
    assert (await client.post("/aggregates/a/restore")).json()["events"] == 2
    assert (await append(client, "a", 3)).json()["version"] == 3


async def test_an_aggregate_is_deleted_for_now_or_for_ever(client: httpx.AsyncClient) -> None:
    await append(client, "a", 1)
    refused = await client.delete("/aggregates/a", params={"expected_version": 7})
    assert (refused.status_code, refused.json()["current_version"]) == (409, 1)
    deleted = await client.delete("/aggregates/a", params={"expected_version": 1})
    assert (deleted.status_code, deleted.json()["status"], deleted.json()["events"]) == (200, "EMPTY", 1)
    assert (await client.get("/aggregates/a")).status_code == 404
    assert (await append(client, "a", 2)).json()["version"] == 2
    assert (await client.delete("/aggregates/a", params={"hard": True})).json()["status"] == "DELETED"
    assert (await append(client, "a", 3)).status_code == 409
    assert (await client.delete("/aggregates/a")).status_code == 404
    listed = (await client.get("/aggregates", params={"aggregate_type": "Account", "status": "DELETED"})).json()
    assert [each["aggregate_id"] for each in listed["aggregates"]] == ["a"]


async def test_old_events_are_dropped(client: httpx.AsyncClient) -> None:
    for amount in (1, 2, 4):
        await append(client, "a", amount)
    limits = {"aggregate_type": "Account", "max_age_ms": None, "max_count": 1, "fold": "declared"}
    assert (await client.put("/retention/Account", json={"max_count": 1})).json() == limits
    assert (await client.get("/retention/Account")).json() == limits
    assert (await client.get("/retention")).json() == {"retention": [limits]}
    preview = (await client.post("/scavenge", params={"preview": True})).json()
    assert (preview["is_preview"], preview["events"], preview["refused"]) == (True, 2, [])
    done = (await client.post("/scavenge", params={"aggregate_type": "Account"})).json()
    assert done["scavenged"] == [{"aggregate_id": "a", "aggregate_type": "Account", "gone_version": 2, "events": 2}]
    assert (await rebuilt(client, "a"))["state"] == {"balance": 7}
    gone = await client.post("/reconstruct", json={"aggregate_id": "a", "as_of_version": 1})
    assert (gone.status_code, gone.json()["gone_version"]) == (409, 2)
    assert (await client.put("/retention/Account", json={"max_count": 0})).status_code == 400
    assert (await client.put("/retention/Account", json={"max_cuont": 1})).status_code == 400


async def test_the_feed_waits_for_an_event_that_fits_and_no_longer_than_asked(client: httpx.AsyncClient) -> None:
    await append(client, "a", 1)
    head = (await client.get("/events")).json()["position"]
    waiting = {"after_position": head, "where": '{"amount": 3}', "timeout_ms": 20_000}
    asked = asyncio.create_task(client.get("/events", params=waiting))
    await asyncio.sleep(0.3)
    for amount in (2, 3):
        await append(client, "a", amount)
    told = (await asyncio.wait_for(asked, 10)).json()
    assert [event["event_data"] for event in told["events"]] == [{"amount": 3}]
    started_s = time.monotonic()
    told = (await client.get("/events", params={"after_position": told["position"], "timeout_ms": 300})).json()
    assert (told["events"], told["is_end"]) == ([], True)
    assert 0.3 <= time.monotonic() - started_s < 5


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"timeout_ms": 30_001}, "timeout_ms: expected 0 to 30,000, got 30,001"),
        ({"where": "[1]"}, "where: expected a JSON object"),
        ({"where": '{"a": {"b": 1}}'}, "where: expected a JSON object"),
        ({"where": "{"}, "where: expected a JSON object"),
    ],
)
async def test_what_the_feed_cannot_be_asked_is_refused(client: httpx.AsyncClient, query: dict[str, Any], told: str) -> None:
    answer = await client.get("/events", params=query)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(told)


async def test_types_are_listed(client: httpx.AsyncClient) -> None:
    await append(client, "a", 1)
    assert (await client.get("/types")).json() == {"aggregate_types": ["Account"]}
