"""Lists over REST come in pages."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.paging import paged
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.storage import open_storage

API = "/api/v1"
PROCESSOR: dict[str, Any] = {
    "processor_type": "FILTER",
    "source_stream_id": "s0",
    "target_stream_id": "s1",
    "processing_logic": {"filter_expression": "payload.n > 1"},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient[Any]]:
    """A server with five things of each kind."""
    storage = open_storage(tmp_path_factory.mktemp("paged"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(Services(storage), hosts=["*"])) as client:
            asked = [client.post(f"{API}/streams", json={"name": f"s{n}"}) for n in range(5)]
            for n in range(5):
                asked += [
                    client.post(f"{API}/consumer-groups", json={"group_name": f"g{n}"}),
                    client.post(f"{API}/schemas/enhanced", json={"schema_name": f"x{n}", "json_schema": {}}),
                    client.put(f"{API}/routes/r{n}", json={"stream": "s0", "to": ["s1"], "order": -n}),
                ]
                assert all(each.is_success for each in asked), [each.text for each in asked]
            for n in range(5):
                made = client.post(f"{API}/stream-processors", json=PROCESSOR | {"processor_name": f"p{n}"})
                assert made.is_success, made.text
                made = client.put(f"{API}/flows/f{n}", json={"processors": [PROCESSOR | {"processor_name": f"f{n}"}]})
                assert made.is_success, made.text
            yield client
    storage.close()


@pytest.mark.parametrize(
    ("path", "member", "name", "count"),
    [
        ("streams", "streams", "name", 5),
        ("consumer-groups", "consumer_groups", "group_name", 5),
        ("schemas", "schemas", "schema_name", 5),
        ("routes", "routes", "name", 5),
        ("flows", "flows", "name", 5),
        ("stream-processors", "processors", "processor_name", 10),
    ],
)
def test_pages_hold_each_thing_once_in_the_order_of_the_whole(
    client: TestClient[Any], path: str, member: str, name: str, count: int
) -> None:
    whole = client.get(f"{API}/{path}").json()
    assert (len(whole[member]), whole["next_cursor"]) == (count, None)
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = client.get(f"{API}/{path}", params=query).json()
        assert 1 <= len(page[member]) <= 2
        found += [each[name] for each in page[member]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == [each[name] for each in whole[member]]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "!"}):
        refused = client.get(f"{API}/{path}", params=wrong)
        assert (refused.status_code, refused.json()["path"]) == (400, next(iter(wrong)))


def test_what_goes_between_pages_moves_nothing() -> None:
    page, cursor = paged(["a", "b", "c", "d"], str, 2, None)
    assert page == ["a", "b"]
    assert paged(["a", "c", "d"], str, 2, cursor) == (["c", "d"], None)
    with pytest.raises(InvalidInputError):
        paged([], str, 2, "é")
