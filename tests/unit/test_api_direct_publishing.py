"""Publishing past the framework answers as the framework does, and refuses what it refuses."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.access.model import Limits
from event_streaming_bus.api.access import Access
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.direct_publishing import DirectPublishing
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.audit import AuditFilter
from event_streaming_bus.store.storage import open_storage

Http = TestClient[Any]
ONE = "/api/v1/events"
MANY = "/api/v1/events/batch"
EVENT: dict[str, Any] = {"event_type": "t", "stream_id": "orders", "payload": {"a": 1}}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    storage = open_storage(tmp_path_factory.mktemp("direct"))
    yield Services(storage)
    storage.close()


@pytest.fixture(scope="module")
def http(services: Services) -> Iterator[Http]:
    access = Access(services.storage, Authenticator(services.tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(services, hosts=["testserver.local"], access=access)) as client:
            client.headers = bearer(services, "admin")
            for name in ("orders", "secret"):
                assert client.post("/api/v1/streams", json={"name": name}).is_success
            yield client


def bearer(services: Services, *roles: str, **limits: Any) -> dict[str, str]:
    text, _ = services.tokens.create("somebody", roles, created_by="test", limits=Limits(**limits))
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def went_direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that were answered directly."""
    paths: list[str] = []
    published = DirectPublishing._published

    async def noted(self: DirectPublishing, scope: Any, *how: Any) -> bytes:
        answer = await published(self, scope, *how)
        paths.append(scope["path"])
        return answer

    monkeypatch.setattr(DirectPublishing, "_published", noted)
    return paths


@pytest.mark.parametrize(("path", "body"), [(ONE, EVENT), (MANY, {"stream_id": "orders", "events": [{**EVENT}] * 3})])
def test_both_ways_give_the_same_answer(http: Http, went_direct: list[str], path: str, body: Any) -> None:
    direct = http.post(path, json=body)
    assert went_direct == [path]
    ordinary = http.post(path, json=body, headers={"Idempotency-Key": f"key of {path}"})
    assert went_direct == [path]
    assert (direct.status_code, ordinary.status_code) == (201, 201)
    assert shape(direct.json()) == shape(ordinary.json())
    assert dict(direct.headers) == dict(ordinary.headers) | {"content-length": str(len(direct.content))}


def shape(value: Any) -> Any:
    """What an answer has, without the ids and numbers that differ from event to event."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items() if name not in ("event_id", "offset")}
    return list(map(shape, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        (ONE, b"{", 400, "not JSON"),
        (ONE, {**EVENT, "colour": "red"}, 400, "colour"),
        (ONE, {**EVENT, "max_retries": 10**30}, 400, "max_retries"),
        (ONE, {**EVENT, "stream_id": "ordres"}, 404, "orders"),
        (ONE, {**EVENT, "deliver_at": "soon"}, 400, "deliver_at"),
        (MANY, {"events": [{"event_type": "t"}]}, 400, "payload"),
    ],
)
def test_what_is_wrong_is_told_as_everywhere(
    http: Http, went_direct: list[str], path: str, body: Any, status: int, told: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post(path, content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert told in answer.json()["detail"]
    assert went_direct == []


def test_who_may_not_publish_is_refused_and_that_is_audited_once(http: Http, services: Services) -> None:
    before = services.audit.page(AuditFilter(), limit=1000).entries
    assert http.post(ONE, json=EVENT, headers={"Authorization": "Bearer nobody"}).status_code == 401
    reader = bearer(services, "viewer")
    assert http.post(ONE, json=EVENT, headers=reader).status_code == 403
    only_secret = bearer(services, "publisher:secret")
    assert http.post(ONE, json=EVENT, headers=only_secret).status_code == 403
    assert http.post(ONE, json={**EVENT, "stream_id": "secret"}, headers=only_secret).status_code == 201
    after = services.audit.page(AuditFilter(), limit=1000).entries
    assert len(after) - len(before) == 3


def test_limits_of_the_token_hold(http: Http, services: Services) -> None:
    short = bearer(services, "publisher", max_body_bytes=50)
    assert http.post(ONE, json=EVENT, headers=short).status_code == 413
    slow = bearer(services, "publisher", requests_per_s=0.001)
    assert [http.post(ONE, json=EVENT, headers=slow).status_code for _ in range(2)] == [201, 429]


def test_requests_that_are_not_plain_go_the_ordinary_way(http: Http, went_direct: list[str]) -> None:
    assert http.post(f"{ONE}?colour=red", json=EVENT).status_code == 400
    assert http.post(ONE, json=EVENT, headers={"If-Match": "*"}).status_code == 400
    assert http.post(ONE, json=EVENT, headers={"Host": "elsewhere.example"}).status_code == 400
    assert http.post(ONE, json=EVENT, headers={"Origin": "https://elsewhere.example"}).status_code in (201, 403)
    assert went_direct == []


def test_the_request_s_trace_is_the_event_s(http: Http, went_direct: list[str]) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    published = http.post(ONE, json=EVENT, headers={"traceparent": trace}).json()
    found = http.get(f"{ONE}/{published['event_id']}").json()
    assert (found["traceparent"], went_direct) == (trace, [ONE])


def test_a_fault_of_ours_is_told_and_nothing_is_tried_twice(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def fail(*how: Any) -> bytes:
        nonlocal calls
        calls += 1
        raise RuntimeError("broken")

    monkeypatch.setattr(DirectPublishing, "_published", fail)
    answer = http.post(ONE, json=EVENT)
    assert (answer.status_code, answer.json()["title"], calls) == (500, "Internal Server Error", 1)
