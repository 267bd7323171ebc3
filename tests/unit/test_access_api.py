"""What a server that asks for tokens lets through, and what not: over its whole surface."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from litestar.exceptions import LitestarDeprecationWarning, WebSocketDisconnect
from litestar.testing import TestClient

from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.access.model import Limits
from event_streaming_bus.api.access import Access
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

Http = TestClient[Any]
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    storage = open_storage(tmp_path_factory.mktemp("guarded"))
    yield Services(storage)
    storage.close()


@pytest.fixture(scope="module")
def http(services: Services) -> Iterator[Http]:
    access = Access(services.storage, Authenticator(services.tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(services, hosts=["*"], access=access)) as client:
            yield client


@pytest.fixture(scope="module")
def token(services: Services) -> Callable[..., dict[str, str]]:
    """``token("viewer", ...)``: the headers of a new token with these roles."""

    def make(*roles: str, tenant_id: str = "default", **limits: Any) -> dict[str, str]:
        name = f"{tenant_id}-{roles[0].partition(':')[0]}"
        text, _ = services.tokens.create(name, roles, tenant_id=tenant_id, created_by="test", limits=Limits(**limits))
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture(scope="module", autouse=True)
def _streams(http: Http, token: Callable[..., dict[str, str]]) -> None:
    """Two tenants with a bit of everything."""
    for tenant_id in ("default", "acme"):
        admin = token("admin", tenant_id=tenant_id)
        for name in ("orders", "orders.eu", "secret"):
            assert http.post("/api/v1/streams", json={"name": name}, headers=admin).is_success


def every_route(http: Http) -> list[tuple[str, str]]:
    found = [(method, route.path_format) for route in http.app.routes for method in getattr(route, "methods", ())]
    return [(method, path) for method, path in found if method != "OPTIONS"]


# --- who --------------------------------------------------------------------------------------------------------------


def test_no_route_but_health_and_docs_answers_somebody_unknown(http: Http) -> None:
    asked = every_route(http)
    assert len(asked) > 80
    for method, path in asked:
        status = http.request(method, path.replace("{", "").replace("}", "")).status_code
        is_open = path.startswith(("/health", "/docs"))
        assert (status == 401) != is_open, (method, path, status)
    assert http.get("/registry/subjects").status_code == 401


@pytest.mark.parametrize("header", ["Bearer esb_01ABC_def", "Bearer x.y.z", "Basic eDp5", "Bearer", "Digest x"])
def test_what_is_no_token_is_refused_with_what_was_expected(http: Http, header: str) -> None:
    answer = http.get("/api/v1/streams", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_revoked_token_is_refused_at_once(http: Http, services: Services, token: Callable[..., dict[str, str]]) -> None:
    viewer = token("viewer")
    token_id = http.get("/api/v1/tokens/self", headers=viewer).json()["token_id"]
    services.tokens.revoke(token_id, None, by="test")
    assert "revoked" in http.get("/api/v1/tokens/self", headers=viewer).json()["detail"]


# --- what -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "method", "path", "body", "allowed"),
    [
        ("viewer", "GET", "/api/v1/streams", None, True),
        ("viewer", "POST", "/api/v1/history/query", {"sql": "SELECT 1"}, True),
        ("viewer", "GET", "/metrics", None, True),
        ("viewer", "POST", "/api/v1/streams", {"name": "x"}, False),
        ("viewer", "POST", "/api/v1/events", {"event_type": "t", "stream_id": "orders", "payload": {}}, False),
        ("viewer", "GET", "/api/v1/audit", None, False),
        ("viewer", "GET", "/api/v1/tokens", None, False),
        ("viewer", "POST", "/api/v1/erasures/subject-report", {"subject": "u"}, False),
        ("operator", "GET", "/api/v1/audit", None, True),
        ("operator", "POST", "/api/v1/consumer-groups", {"group_name": "by-operator"}, True),
        ("operator", "POST", "/api/v1/tokens", {"principal": "x", "roles": ["admin"]}, False),
        ("operator", "POST", "/api/v1/erasures", {"subject": "u", "reason": "r"}, False),
        ("operator", "POST", "/api/v1/events", {"event_type": "t", "stream_id": "orders", "payload": {}}, False),
        ("publisher", "POST", "/api/v1/events", {"event_type": "t", "stream_id": "orders", "payload": {}}, True),
        ("publisher", "GET", "/registry/subjects", None, True),
        ("publisher", "POST", "/registry/subjects/x/versions", {"schema": '"string"'}, False),
        ("publisher", "POST", "/registry/compatibility/subjects/x/versions", {"schema": '"string"'}, True),
        ("publisher", "POST", "/api/v1/history/query", {"sql": "SELECT 1"}, False),
        ("publisher", "POST", "/api/v1/consumer-groups/by-admin/members", {"streams": ["orders"]}, False),
        ("consumer", "POST", "/api/v1/consumer-groups/by-admin/members", {"streams": ["orders"]}, True),
        ("consumer", "DELETE", "/api/v1/consumer-groups/by-admin", None, False),
        ("consumer", "GET", "/api/v1/schemas", None, True),
        ("admin", "GET", "/api/v1/audit", None, True),
        ("monitor", "GET", "/metrics", None, True),
        ("monitor", "GET", "/api/v1/streams", None, False),
        ("monitor", "POST", "/api/v1/history/query", {"sql": "SELECT 1"}, False),
    ],
)
def test_roles_let_through_what_they_are_for(
    http: Http, token: Callable[..., dict[str, str]], role: str, method: str, path: str, body: Any, allowed: bool
) -> None:
    http.post("/api/v1/consumer-groups", json={"group_name": "by-admin"}, headers=token("admin"))
    answer = http.request(method, path, json=body, headers=token(role))
    assert (answer.status_code != 403) is allowed, answer.text
    if allowed:
        assert answer.is_success or answer.status_code == 404, answer.text


def test_streams_are_listed_that_the_token_is_for(http: Http, token: Callable[..., dict[str, str]]) -> None:
    listed = http.get("/api/v1/streams", headers=token("publisher:orders*")).json()["streams"]
    assert [stream["name"] for stream in listed] == ["orders", "orders.eu"]


@pytest.mark.parametrize(
    ("role", "method", "path", "body", "allowed"),
    [
        ("publisher:orders*", "POST", "/api/v1/events", {"stream_id": "orders.eu"}, True),
        ("publisher:orders*", "POST", "/api/v1/events", {"stream_id": "secret"}, False),
        ("publisher:orders*", "POST", "/api/v1/events", {}, False),  # the stream that is meant without one
        ("publisher:orders*", "POST", "/api/v1/events", {"stream_id": "ID"}, False),
        ("publisher:orders*", "POST", "/api/v1/events/batch", {"stream_id": "orders"}, True),
        ("publisher:orders*", "POST", "/api/v1/events/batch", {"stream_id": "secret"}, False),
        ("publisher:orders*", "POST", "/api/v1/events/batch", {}, False),
        ("publisher:secret", "POST", "/api/v1/events", {"stream_id": "ID"}, True),
        ("publisher:orders*", "POST", "/api/v1/event-sourcing/append", {}, False),
        ("consumer:orders*", "POST", "/api/v1/consumer-groups/g/members", {"streams": ["orders", "secret"]}, False),
        ("consumer:orders*", "POST", "/api/v1/consumer-groups/g/members", {"streams": []}, False),
        ("consumer:orders*", "POST", "/api/v1/consumer-groups/g/members", {"streams": ["orders"]}, True),
        ("consumer:orders*", "GET", "/api/v1/consumer-groups/g/events?streams=orders,secret", None, False),
        ("viewer:orders*", "GET", "/api/v1/streams/orders", None, True),
        ("viewer:orders*", "GET", "/api/v1/streams/secret", None, False),
        ("viewer:orders*", "GET", "/api/v1/streams", None, True),
        ("consumer:orders*", "GET", "/api/v1/streams/orders/events", None, True),
        ("consumer:orders*", "GET", "/api/v1/streams/secret/events", None, False),
        ("publisher:orders*", "GET", "/api/v1/streams/orders/events", None, False),
        ("viewer:orders*", "POST", "/api/v1/history/query", {"sql": "SELECT 1"}, False),
        ("viewer:orders*", "GET", "/api/v1/dead-letters", None, False),
        ("operator:tmp.*", "POST", "/api/v1/streams", {"name": "tmp.a"}, True),
        ("operator:tmp.*", "POST", "/api/v1/streams", {"name": "other"}, False),
        ("operator:tmp.*", "DELETE", "/api/v1/streams/secret", None, False),
        ("operator:tmp.*", "PUT", "/api/v1/routes/r", {"stream": "tmp.a"}, False),
    ],
)
def test_patterns_keep_a_role_to_its_streams(
    http: Http,
    services: Services,
    token: Callable[..., dict[str, str]],
    role: str,
    method: str,
    path: str,
    body: Any,
    allowed: bool,
) -> None:
    http.post("/api/v1/consumer-groups", json={"group_name": "g"}, headers=token("admin"))
    if path.endswith("/batch"):
        body = body | {"events": [{"event_type": "t", "payload": {}}]}
    elif body is not None and path.endswith("/events"):
        body = {"event_type": "t", "payload": {}} | body
        if body.get("stream_id") == "ID":
            body["stream_id"] = services.storage.log.find_stream("default", "secret").stream_id
    answer = http.request(method, path, json=body, headers=token(role))
    assert (answer.status_code != 403) is allowed, answer.text
    assert answer.is_success is allowed, answer.text


# --- whose ------------------------------------------------------------------------------------------------------------


def test_another_tenant_cannot_be_asked_for(http: Http, token: Callable[..., dict[str, str]]) -> None:
    mine = token("admin", tenant_id="acme")
    for asked in ("default", "other"):
        answer = http.get("/api/v1/streams", headers=mine | {"X-Tenant-Id": asked})
        assert (answer.status_code, answer.json()["permission"]) == (403, "tenant:choose")
    assert http.get("/metrics?tenant_id=default", headers=mine).status_code == 403
    assert http.get("/api/v1/streams", headers=mine | {"X-Tenant-Id": "acme"}).is_success
    chosen = http.get("/api/v1/streams/secret", headers=token("admin") | {"X-Tenant-Id": "acme"})
    assert chosen.json()["tenant_id"] == "acme"
    assert http.get("/api/v1/streams", headers=token("operator") | {"X-Tenant-Id": "acme"}).status_code == 403


@pytest.mark.parametrize(
    "body",
    [b'{"sql":"SELECT 1","all_tenants":true}', b'{"sql":"SELECT 1","all\\u005ftenants":true}', b'{"all_tenants":1,"sql":"x"}'],
)
def test_sql_over_all_tenants_is_for_administrators_of_the_default_one(
    http: Http, token: Callable[..., dict[str, str]], body: bytes
) -> None:
    for headers in (token("admin", tenant_id="acme"), token("viewer")):
        assert http.post("/api/v1/history/query", content=body, headers=headers).status_code == 403
    if b"true" in body:
        assert http.post("/api/v1/history/query", content=body, headers=token("admin")).is_success


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/audit", "/api/v1/audit/export"])
def test_answers_about_all_tenants_are_too(http: Http, token: Callable[..., dict[str, str]], path: str) -> None:
    for flag in ("true", "1", "yes", ""):
        answer = http.get(f"{path}?all_tenants={flag}", headers=token("admin", tenant_id="acme"))
        assert answer.status_code == 403, answer.text
    assert http.get(f"{path}?all%5Ftenants=true", headers=token("admin", tenant_id="acme")).status_code == 403
    assert http.get(f"{path}?all_tenants=true", headers=token("admin")).is_success
    assert http.post("/api/v1/audit/verify", headers=token("admin", tenant_id="acme")).status_code == 403


def test_ids_of_another_tenant_lead_nowhere(http: Http, services: Services, token: Callable[..., dict[str, str]]) -> None:
    """Everything that a tenant has, asked for by the administrator of another one with its right id."""
    mine, theirs = token("admin", tenant_id="acme"), token("admin", tenant_id="other")

    def made(method: str, path: str, body: Any, name: str) -> str:
        answer = http.request(method, path, json=body, headers=mine)
        assert answer.is_success, answer.text
        return str(answer.json()[name])

    stream = services.storage.log.find_stream("acme", "orders").stream_id
    event = made("POST", "/api/v1/events", {"event_type": "t", "stream_id": "orders", "payload": {"card": "4111"}}, "event_id")
    group = made("POST", "/api/v1/consumer-groups", {"group_name": "theirs"}, "group_id")
    schema = {"schema_name": "s", "json_schema": {"type": "object"}, "schema_version": "1.0"}
    schema_id = made("POST", "/api/v1/schemas/enhanced", schema, "schema_id")
    config = {"processor_name": "p", "processor_type": "FILTER", "source_stream_id": "orders", "target_stream_id": "orders.eu"}
    logic = {"processing_logic": {"filter_expression": "true"}}
    processor = made("POST", "/api/v1/stream-processors", config | logic, "processor_id")
    made("PUT", "/api/v1/routes/theirs", {"stream": "orders", "priority": "LOW"}, "name")
    append = {"aggregate_id": "a-1", "aggregate_type": "A", "event_type": "t", "event_data": {"card": "4111"}}
    made("POST", "/api/v1/event-sourcing/append", append, "event_id")
    created = http.post("/api/v1/tokens", json={"principal": "x", "roles": ["viewer"]}, headers=mine).json()
    assert created["tenant_id"] == "acme"
    values = {
        "stream": stream,
        "event_id": event,
        "group": group,
        "schema_id": schema_id,
        "processor_id": processor,
        "name": "theirs",
        "aggregate_id": "a-1",
        "token_id": created["token_id"],
    }
    asked = 0
    for method, template in every_route(http):
        names = [part[1:-1] for part in template.split("/") if part.startswith("{")]
        if not names or any(name not in values for name in names):
            continue
        answer = http.request(method, template.format(**values), json={} if method in ("POST", "PUT") else None, headers=theirs)
        assert answer.status_code in (400, 404, 409, 422) or not any(
            mark in answer.text for mark in ("4111", stream, event, group, schema_id, processor)
        ), (method, template, answer.text)
        asked += 1
    assert asked > 30
    for path, body in (
        ("events", {"event_type": "t", "stream_id": stream, "payload": {}}),
        ("consumer-groups/theirs/members", {"streams": [stream]}),
        ("schemas/check", schema | {"schema_id": schema_id}),
        ("history/query", {"sql": "SELECT * FROM events"}),
    ):
        answer = http.post(f"/api/v1/{path}", json=body, headers=theirs)
        assert "4111" not in answer.text
        assert not answer.is_success or answer.json().get("rows") == [], answer.text
    for path in ("streams", "consumer-groups", "schemas", "stream-processors", "routes", "tokens", "scheduled"):
        answer = http.get(f"/api/v1/{path}", headers=theirs).text
        assert not any(value in answer for value in values.values() if len(value) > 10), path
    entries = http.get("/api/v1/audit?limit=1000", headers=theirs).json()["entries"]
    assert {entry["tenant_id"] for entry in entries} == {"other"}
    for path in (f"streams/{stream}", f"consumer-groups/{group}", f"schemas/{schema_id}", f"stream-processors/{processor}"):
        assert http.get(f"/api/v1/{path}", headers=mine).is_success, path


# --- how much ---------------------------------------------------------------------------------------------------------


def test_a_tokens_limits_hold(http: Http, token: Callable[..., dict[str, str]]) -> None:
    slow = token("viewer", requests_per_s=2)
    answers = [http.get("/api/v1/streams", headers=slow) for _ in range(4)]
    assert [answer.status_code for answer in answers][:2] == [200, 200]
    assert answers[3].status_code == 429
    assert int(answers[3].headers["retry-after"]) >= 1
    small = token("publisher", max_body_bytes=200)
    event = {"event_type": "t", "stream_id": "orders", "payload": "x"}
    assert http.post("/api/v1/events", json=event, headers=small).is_success
    assert http.post("/api/v1/events", json=event | {"payload": "x" * 500}, headers=small).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield from (b'{"event_type":"t",', b" " * 150, b" " * 150, b'"payload":1}')

    assert http.post("/api/v1/events", content=chunks(), headers=small).status_code == 413


# --- WebSockets -------------------------------------------------------------------------------------------------------


def test_websockets_ask_too_and_take_the_token_as_a_protocol(http: Http, token: Callable[..., dict[str, str]]) -> None:
    viewer = token("viewer", tenant_id="acme")
    text = viewer["Authorization"].removeprefix("Bearer ")
    with http.websocket_connect("/ws/monitoring", headers=viewer) as socket:
        assert "orders" in str(socket.receive_json(timeout=10))
    with http.websocket_connect("/ws/monitoring", subprotocols=["bearer", text]) as socket:
        assert socket.accepted_subprotocol == "bearer"
    for refused in ({}, {"Authorization": "Bearer x"}, token("publisher")):
        with pytest.raises(WebSocketDisconnect), http.websocket_connect("/ws/monitoring", headers=refused):
            pass
    with pytest.raises(WebSocketDisconnect), http.websocket_connect("/ws/monitoring?tenant_id=default", headers=viewer):
        pass


# --- what is told -----------------------------------------------------------------------------------------------------


def test_what_was_refused_is_in_the_audit_and_unknown_callers_write_to_no_tenant(
    http: Http, token: Callable[..., dict[str, str]]
) -> None:
    http.delete("/api/v1/streams/secret", headers={"X-Tenant-Id": "acme"})
    viewer = token("viewer", tenant_id="acme")
    http.delete("/api/v1/streams/secret", headers=viewer)
    answer = http.get("/api/v1/audit", headers=token("admin", tenant_id="acme"), params={"target": "secret"}).json()
    (entry,) = (each for each in answer["entries"] if each["action"] == "stream.delete")
    assert (entry["actor"], entry["outcome"], entry["token_id"][:4]) == ("acme-viewer", "REFUSED", "tok_")
    assert entry["reason"].startswith("403: acme-viewer does not have the permission stream:manage")
    unknown = http.get("/api/v1/audit?all_tenants=true", headers=token("admin"), params={"actor": "anonymous"}).json()
    assert {entry["tenant_id"] for entry in unknown["entries"]} == {"default"}
    assert http.get("/api/v1/streams/secret", headers=viewer).is_success


def test_tokens_are_audited_without_their_secret(http: Http, token: Callable[..., dict[str, str]]) -> None:
    admin = token("admin")
    created = http.post("/api/v1/tokens", json={"principal": "x", "roles": ["viewer"]}, headers=admin).json()
    http.delete(f"/api/v1/tokens/{created['token_id']}", headers=admin)
    text = http.get("/api/v1/audit", headers=admin, params={"target": created["token_id"]}).text
    assert created["token"] not in text
    assert '"status":"active"' in text
    assert '"status":"revoked"' in text
