"""Schemas over REST."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from running import served

from event_streaming_bus import ids

ORDER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"id": {"type": "string"}, "total": {"type": "number"}},
    "required": ["id"],
}
NEEDS_TOTAL = {**ORDER, "required": ["id", "total"]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, which has no schemas yet."""
    tenant = ids.new_id("tenant_")
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": tenant}, timeout=30) as client:
        yield client


async def register(client: httpx.AsyncClient, schema: Any, **more: Any) -> httpx.Response:
    return await client.post("/api/v1/schemas/enhanced", json={"schema_name": "order", "json_schema": schema, **more})


async def test_a_schema_has_a_life(client: httpx.AsyncClient) -> None:
    first = (await register(client, ORDER)).json()["schema_id"]
    second = (await register(client, {**ORDER, "title": "t"})).json()["schema_id"]
    shown = (await client.get(f"/api/v1/schemas/{first}")).json()
    assert (shown["schema_version"], shown["version"], shown["id"], shown["format"]) == ("1.0", 1, 1, "JSON")
    versions = (await client.get(f"/api/v1/schemas/{second}/versions")).json()["versions"]
    assert [each["schema_version"] for each in versions] == ["1.0", "1.1"]
    assert len((await client.get("/api/v1/schemas?name=order")).json()["schemas"]) == 2
    deprecated = await client.post(f"/api/v1/schemas/{first}/deprecate", json={"refuse_producers_after": "2030-01-01T00:00:00Z"})
    assert deprecated.json()["deprecated"]["refuse_producers_after"] == "2030-01-01T00:00:00.000Z"
    answer = (await client.post(f"/api/v1/schemas/{first}/validate", json={"id": "a"})).json()
    assert (answer["is_valid"], answer["deprecated"]["message"]) == (True, "")
    assert "deprecated" not in (await client.post(f"/api/v1/schemas/{first}/activate")).json()
    assert (await client.post(f"/api/v1/schemas/{first}/deactivate")).json()["is_active"] is False
    assert (await client.delete(f"/api/v1/schemas/{first}")).status_code == 200
    assert [each["schema_version"] for each in (await client.get("/api/v1/schemas")).json()["schemas"]] == ["1.1"]


async def test_a_diff_names_what_changed(client: httpx.AsyncClient) -> None:
    first = (await register(client, ORDER)).json()["schema_id"]
    second = (await register(client, NEEDS_TOTAL, evolution_strategy="BREAKING_CHANGE")).json()["schema_id"]
    diff = (await client.get(f"/api/v1/schemas/{first}/diff", params={"to": second})).json()
    assert diff["is_backward_compatible"] is False
    assert diff["backward"][0]["pointer"].startswith("/required")
    assert ("added", "/json_schema/required/1") in [(change["change"], change["pointer"]) for change in diff["changes"]]


async def test_what_is_incompatible_is_a_conflict_with_each_difference(client: httpx.AsyncClient) -> None:
    await register(client, ORDER)
    answer = await register(client, NEEDS_TOTAL)
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    (difference,) = answer.json()["incompatibilities"][0]["differences"]
    assert {"kind", "pointer", "message", "fix"} <= difference.keys()
    checked = await client.post("/api/v1/schemas/check", json={"schema_name": "order", "json_schema": NEEDS_TOTAL})
    assert checked.json()["is_compatible"] is False
    assert checked.json()["incompatibilities"] == answer.json()["incompatibilities"]


async def test_levels_are_set_and_seen(client: httpx.AsyncClient) -> None:
    level = "/api/v1/schemas/level"
    assert (await client.get(level)).json()["compatibility_level"] == "BACKWARD"
    await client.put(level, params={"name": "order"}, json={"compatibility_level": "FULL"})
    assert (await client.get(level, params={"name": "order"})).json()["compatibility_level"] == "FULL"
    assert (await client.get(level)).json()["compatibility_level"] == "BACKWARD"
    wrong = await client.put(level, json={"compatibility_level": "SIDEWAYS"})
    assert (wrong.status_code, "compatibility_level" in wrong.json()["detail"]) == (400, True)


async def test_a_stream_is_moved_to_another_version(client: httpx.AsyncClient) -> None:
    await register(client, ORDER)
    stream = (await client.post("/api/v1/streams", json={"name": "orders", "schema": "order"})).json()
    second = (await register(client, {**ORDER, "title": "t"})).json()["schema_id"]
    assert stream["schema_id"] != second
    moved = await client.put("/api/v1/streams/orders/schema", json={"schema": "order"})
    assert moved.json()["schema_id"] == second


async def test_avro_is_published_and_validated(client: httpx.AsyncClient) -> None:
    avro = {"type": "record", "name": "O", "fields": [{"name": "n", "type": "int"}]}
    answer = await client.post("/api/v1/schemas/enhanced", json={"schema_name": "o", "avro_schema": avro})
    schema_id = answer.json()["schema_id"]
    assert (await client.post(f"/api/v1/schemas/{schema_id}/validate", json={"n": "x"})).json()["is_valid"] is False
    await client.post("/api/v1/streams", json={"name": "os", "schema": "o"})
    sent = await client.post("/api/v1/events", json={"event_type": "t", "payload": {"n": 3}, "stream_id": "os"})
    event = (await client.get(f"/api/v1/events/{sent.json()['event_id']}")).json()
    assert (event["payload"], event["serialization_format"]) == ({"n": 3}, "AVRO")


def _nested(opening: str, inner: str, closing: str, levels: int) -> bytes:
    return (opening * levels + inner + closing * levels).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "a thousand levels": (b'{"schema_name": "x", "json_schema": ' + _nested('{"not":', "{}", "}", 1000) + b"}", "nested"),
    "many more levels": (b'{"schema_name": "x", "json_schema": ' + _nested('{"not":', "{}", "}", 50_000) + b"}", "nested"),
    "Avro of a thousand levels": (
        b'{"schema_name": "x", "avro_schema": ' + _nested('{"type":"array","items":', '"int"', "}", 1000) + b"}",
        "nested",
    ),
    "not JSON": (b'{"schema_name": "x",\n "json_schema": }', "line 2, column 17"),
    "cut off": (b'{"schema_name": "x"', "line 1, column 20"),
    "a list": (b"[]", "object"),
    "over 1 MiB": (json.dumps({"schema_name": "x", "json_schema": {"title": "x" * (1 << 20)}}).encode(), "1,048,576"),
    "over 5 MiB": (json.dumps({"schema_name": "x", "json_schema": {"title": "x" * (5 << 20)}}).encode(), "1,048,576"),
    "in a circle": (b'{"schema_name": "x", "json_schema": {"$ref": "#"}}', "circle"),
    "to nowhere": (b'{"schema_name": "x", "json_schema": {"$ref": "#/a"}}', "json_schema/$ref"),
    "a type that is none": (b'{"schema_name": "x", "avro_schema": {"type": "record", "name": "R", "fields": 1}}', "avro_schema"),
    "a pattern that is none": (b'{"schema_name": "x", "json_schema": {"pattern": "("}}', "json_schema/pattern"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_schema_is_refused_within_a_second_and_nothing_is_kept(client: httpx.AsyncClient, name: str) -> None:
    body, told = BAD[name]
    started_s = time.perf_counter()
    answer = await client.post("/api/v1/schemas/enhanced", content=body)
    taken_s = time.perf_counter() - started_s
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert taken_s < 5  # within a second, on a machine that does nothing else
    assert (await client.get("/api/v1/schemas")).json()["schemas"] == []


async def test_a_payload_nested_too_deep_is_refused(client: httpx.AsyncClient) -> None:
    schema_id = (await register(client, {"properties": {"a": {"$ref": "#"}}})).json()["schema_id"]
    answer = await client.post(f"/api/v1/schemas/{schema_id}/validate", content=_nested('{"a":', "{}", "}", 50_000))
    assert (answer.status_code, answer.json()["detail"]) == (400, "the body is nested too deep")
