"""ETag and If-Match over REST."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import ids

API = "/api/v1"
PROCESSOR: dict[str, Any] = {
    "processor_name": "large",
    "processor_type": "FILTER",
    "source_stream_id": "orders",
    "target_stream_id": "big",
    "processing_logic": {"filter_expression": "payload.n > 1"},
}

PROJECTION: dict[str, Any] = {
    "from": {"aggregate_types": ["Order"]},
    "table": {"columns": {"customer": "text", "orders": "integer"}, "key": ["customer"]},
    "on": {"order.placed": [{"upsert": {"customer": "payload.customer", "orders": "row.orders + 1"}}]},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, with one thing of each kind."""
    async with httpx.AsyncClient(base_url=f"{url}{API}/", headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=30) as client:
        for name in ("orders", "big"):
            await client.post("streams", json={"name": name})
        yield client


async def places(client: httpx.AsyncClient) -> dict[str, str]:
    """The addresses of one thing of each kind that has a tag."""
    schema = await client.post("schemas/enhanced", json={"schema_name": "s", "json_schema": {"type": "object"}})
    processor = await client.post("stream-processors", json=PROCESSOR)
    await client.post("consumer-groups", json={"group_name": "g"})
    await client.put("routes/r", json={"stream": "orders", "to": ["big"]})
    await client.put("flows/f", json={"processors": [PROCESSOR]})
    await client.put("projections/p", json=PROJECTION)
    return {
        "stream": "streams/big",
        "schema": f"schemas/{schema.json()['schema_id']}",
        "processor": f"stream-processors/{processor.json()['processor_id']}",
        "group": "consumer-groups/g",
        "route": "routes/r",
        "flow": "flows/f",
        "projection": "projections/p",
    }


async def test_whatever_can_change_has_a_tag_and_is_deleted_only_as_it_was_seen(client: httpx.AsyncClient) -> None:
    for kind, place in reversed((await places(client)).items()):
        shown = await client.get(place)
        tag = shown.headers["etag"]
        refused = await client.delete(place, headers={"If-Match": '"another"'})
        assert (refused.status_code, refused.json()["title"]) == (412, "PreconditionFailed"), kind
        assert refused.headers["content-type"].startswith("application/problem+json")
        assert refused.json()["etag"] == tag
        weak = await client.delete(place, headers={"If-Match": f"W/{tag}"})
        assert weak.status_code == 412
        deleted = await client.delete(place, headers={"If-Match": f'"another", {tag}'})
        assert deleted.status_code == 200, (kind, deleted.text)
        gone = await client.delete(place, headers={"If-Match": "*"})
        assert gone.status_code == (404 if kind == "schema" else 412)  # a version that was deleted can still be looked at


async def test_of_two_who_saw_the_same_rule_one_may_replace_it(client: httpx.AsyncClient) -> None:
    rule = {"stream": "orders", "to": ["big"]}
    made = await client.put("routes/r", json=rule, headers={"If-None-Match": "*"})
    assert made.status_code == 200
    assert (await client.put("routes/r", json=rule, headers={"If-None-Match": "*"})).status_code == 412
    seen = (await client.get("routes/r")).headers["etag"]
    assert made.headers["etag"] == seen
    first, second = [
        await client.put("routes/r", json=rule | {"match": f"payload.n > {n}"}, headers={"If-Match": seen}) for n in (1, 2)
    ]
    assert (first.status_code, second.status_code) == (200, 412)
    following = await client.put("routes/r", json=rule, headers={"If-Match": first.headers["etag"]})
    assert (following.status_code, following.json()["version"]) == (200, 3)


async def test_a_tag_stands_for_settings_and_not_for_counts(client: httpx.AsyncClient) -> None:
    before = (await client.get("streams/orders")).headers["etag"]
    await client.post("events", json={"event_type": "t", "stream_id": "orders", "payload": {}})
    assert (await client.get("streams/orders")).headers["etag"] == before
    await client.post("schemas/enhanced", json={"schema_name": "s", "json_schema": {"type": "object"}})
    moved = await client.put("streams/orders/schema", json={"schema": "s"}, headers={"If-Match": before})
    assert moved.status_code == 200
    after = (await client.get("streams/orders")).headers["etag"]
    assert (after != before, moved.headers["etag"]) == (True, after)
    again = await client.put("streams/orders/schema", json={"schema": "s"}, headers={"If-Match": before})
    assert again.status_code == 412


async def test_an_action_takes_a_precondition_too(client: httpx.AsyncClient) -> None:
    await client.post("consumer-groups", json={"group_name": "g"})
    seen = (await client.get("consumer-groups/g")).headers["etag"]
    assert (await client.post("consumer-groups/g/pause", headers={"If-Match": seen})).status_code == 200
    assert (await client.post("consumer-groups/g/pause", headers={"If-Match": seen})).status_code == 412


async def test_what_cannot_be_looked_at_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.delete("streams/big", headers={"If-Match": "no quotes"})).status_code == 400
    assert (await client.post("streams", json={"name": "x"}, headers={"If-Match": '"a"'})).status_code == 400
    assert (await client.get("streams/big", headers={"If-Match": '"a"'})).status_code == 200


async def test_an_unknown_query_parameter_is_refused_by_its_name(client: httpx.AsyncClient) -> None:
    answer = await client.get("dead-letters", params={"proccessor": "x"})
    assert (answer.status_code, answer.json()["path"]) == (400, "proccessor")
    assert "did you mean processor?" in answer.json()["detail"]
    assert (await client.get("streams/big/events", params={"from": "latest"})).status_code == 200
    assert (await client.get("streams/big/events", params={"start": "latest"})).status_code == 400
    assert (await client.get("streams", params={"limt": 1})).status_code == 400
