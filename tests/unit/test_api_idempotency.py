"""Requests with an idempotency key: done once, and answered again."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import EventConfig, ids
from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import Receipt
from event_streaming_bus.store import idempotency, published_once
from event_streaming_bus.store.idempotency import IdempotencyStore, KeptAnswer

API = "/api/v1"
PROCESSOR = {
    "processor_name": "large",
    "processor_type": "FILTER",
    "source_stream_id": "orders",
    "target_stream_id": "big",
    "processing_logic": {"filter_expression": "payload.n > 1"},
}
AGGREGATE = {"aggregate_id": "a", "aggregate_type": "Account"}
OPENED = {"event_type": "opened", "event_data": {"n": 1}}
MADE: list[tuple[str, dict[str, Any]]] = [
    ("streams", {"name": "more"}),
    ("stream-processors", PROCESSOR),
    ("consumer-groups", {"group_name": "g"}),
    ("schemas/enhanced", {"schema_name": "s", "json_schema": {"type": "object"}}),
    ("event-sourcing/append", {**AGGREGATE, **OPENED}),
    ("event-sourcing/append-batch", {"appends": [{**AGGREGATE, "events": [OPENED, OPENED]}]}),
    ("events", {"event_type": "t", "stream_id": "orders", "payload": {}}),
    ("events/batch", {"stream_id": "orders", "events": [{"event_type": "t", "payload": {"n": n}} for n in range(3)]}),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=30) as client:
        for name in ("orders", "big"):
            await client.post(f"{API}/streams", json={"name": name})
        yield client


async def post(client: httpx.AsyncClient, path: str, body: Any, key: str = "key-1") -> httpx.Response:
    return await client.post(f"{API}/{path}", json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize(("path", "body"), MADE, ids=[path for path, _ in MADE])
async def test_the_same_request_again_is_answered_as_before(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    first, second = [await post(client, path, body) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 201), first.text
    assert (first.content, "idempotency-replayed" in first.headers) == (second.content, False)
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["x-content-type-options"] == "nosniff"


async def test_a_key_is_for_one_request(client: httpx.AsyncClient) -> None:
    await post(client, "events", {"event_type": "t", "stream_id": "orders", "payload": 1})
    other = await post(client, "events", {"event_type": "t", "stream_id": "orders", "payload": 2})
    assert (other.status_code, other.json()["title"]) == (422, "KeyReused")
    assert (await post(client, "streams", {"name": "x"})).status_code == 201  # of another route
    assert (await client.get(f"{API}/streams/orders")).json()["events"] == 1


async def test_what_was_refused_may_be_put_right_under_its_key(client: httpx.AsyncClient) -> None:
    assert (await post(client, "streams", {"name": "no good"})).status_code == 400
    assert (await post(client, "streams", {"name": "good"})).status_code == 201


async def test_an_answer_that_was_too_large_to_keep_is_made_again_of_the_same_events(client: httpx.AsyncClient) -> None:
    body = {"stream_id": "orders", "events": [{"event_type": "t", "payload": n} for n in range(1000)]}
    first, second = [(await post(client, "events/batch", body)).json()["receipts"] for _ in range(2)]
    assert [(each["event_id"], each["offset"]) for each in first] == [(each["event_id"], each["offset"]) for each in second]
    assert {each["duplicate"] for each in second} == {True}
    assert (await client.get(f"{API}/streams/orders")).json()["events"] == 1000


async def test_requests_with_one_key_at_a_time_publish_once(client: httpx.AsyncClient) -> None:
    body = {"event_type": "t", "stream_id": "orders", "payload": {}}
    answers = await asyncio.gather(*(post(client, "events", body) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert (await client.get(f"{API}/streams/orders")).json()["events"] == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tin"])
async def test_what_is_no_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    assert (await post(client, "streams", {"name": "x"}, key)).status_code == 400


def test_answers_are_kept_for_a_day_and_of_the_newest_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = [1_000_000_000_000]
    for clock in ("wall_ms", "patient_ms"):
        monkeypatch.setattr(idempotency, clock, lambda: now_ms[0])
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    store = IdempotencyStore(tmp_path / "log.db")
    answer = KeptAnswer("hash", 201, "application/json", b"{}")
    for n in range(5):
        now_ms[0] += 1
        store.keep("t", "r", f"k{n}", answer)
    assert [store.find("t", "r", f"k{n}") is not None for n in range(5)] == [False, False, True, True, True]
    assert store.find("other", "r", "k4") is None
    now_ms[0] += idempotency.KEPT_MS
    assert store.find("t", "r", "k4") is None
    store.keep("t", "r", "large", KeptAnswer("hash", 201, "application/json", b"x" * (1 << 17)))
    found = store.find("t", "r", "large")
    assert found is not None
    assert found.body is None
    store.close()


# --- many events with one key -----------------------------------------------------------------------------------------


def many(count: int) -> dict[str, Any]:
    return {"stream_id": "orders", "events": [{"event_type": "t", "payload": n, "key": f"k{n}"} for n in range(count)]}


async def test_many_events_are_published_once_although_the_answer_was_not_kept(tmp_path: Path) -> None:
    """As if the server had been killed between the two."""
    answers = []
    for _ in range(2):
        with served(tmp_path) as url:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                await client.post(f"{API}/streams", json={"name": "orders", "partitions": 3})
                answers.append(await post(client, "events/batch", many(100)))
                count = (await client.get(f"{API}/streams/orders")).json()["events"]
        with sqlite3.connect(tmp_path / "log.db") as db:
            db.execute("DELETE FROM idempotency_keys")
        db.close()
    first, second = (answer.json()["receipts"] for answer in answers)
    assert count == 100
    assert [each | {"duplicate": True} for each in first] == second
    assert {each["duplicate"] for each in first} == {False}
    assert not any(each["event_id"].startswith("idem_") for each in first)


async def test_many_events_that_wait_or_break_the_schema_or_are_routed_are_published_once(client: httpx.AsyncClient) -> None:
    schema = {"schema_name": "n", "json_schema": {"type": "integer", "minimum": 10}}
    await client.post(f"{API}/schemas/enhanced", json=schema)
    await client.post(f"{API}/streams", json={"name": "strict", "schema": "n", "on_invalid": "DEAD_LETTER"})
    await client.put(f"{API}/routes/some", json={"stream": "strict", "match": "payload > 50", "to": ["big"], "move": True})
    body = many(600) | {"stream_id": "strict"}
    for number in range(20, 30):
        body["events"][number]["deliver_at"] = "2034-01-01T00:00:00Z"
    answers = [await post(client, "events/batch", body) for _ in range(2)]
    first, second = (answer.json()["receipts"] for answer in answers)
    assert "idempotency-replayed" not in answers[1].headers  # it is too large to be kept, and so is made anew
    assert [each | {"duplicate": True} for each in first] == second
    assert len({each["stream_id"] for each in first}) == 3
    assert [number for number, each in enumerate(first) if "deliver_at" in each] == list(range(20, 30))
    counts = {name: (await client.get(f"{API}/streams/{name}")).json()["events"] for name in ("strict", "big")}
    assert counts == {"strict": 31, "big": 549}
    assert (await client.get(f"{API}/dead-letters/count")).json() == {"count": 10}


def test_receipts_are_kept_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = [1_000_000_000_000]
    for clock in ("wall_ms", "patient_ms"):
        monkeypatch.setattr(published_once, clock, lambda: now_ms[0])
    with open_bus(tmp_path) as bus:
        store = IdempotencyStore(tmp_path / "log.db")
        bus.create_stream("orders")

        async def publish(name: str, tenant_id: str = "default") -> list[Receipt]:
            once, config = store.once(tenant_id, name), EventConfig(event_type="t")
            return await bus.publishing.publish_once(once, config, [{}, {}], "orders")

        first, again, other, of_other = [asyncio.run(publish(*call)) for call in (("a",), ("a",), ("b",), ("a", "acme"))]
        assert [(each.event_id, each.position) for each in first] == [(each.event_id, each.position) for each in again]
        assert [each.duplicate for each in (*first, *again, *other, *of_other)] == [False, False, True, True, *[False] * 4]
        now_ms[0] += published_once.KEPT_MS
        assert not any(each.duplicate for each in asyncio.run(publish("a")))
        with sqlite3.connect(tmp_path / "log.db") as db:
            assert db.execute("SELECT count(*) FROM published_once").fetchone() == (1,)
        db.close()
        store.close()
