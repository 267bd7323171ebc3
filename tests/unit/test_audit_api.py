"""What requests and commands leave in the audit, and how it is looked at."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient
from running import Esb, commands

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.audit_recording import MAX_CALLERS, Repeats, _Caller
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

Http = TestClient[Any]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    storage = open_storage(tmp_path_factory.mktemp("served"))
    yield Services(storage)
    storage.close()


@pytest.fixture(scope="module")
def app(services: Services) -> Iterator[Http]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(services, hosts=["*"])) as client:
            yield client


class Watched:
    """The app, and what was written into its audit since the test began."""

    def __init__(self, app: Http) -> None:
        self.app = app
        found = app.get("/api/v1/audit?all_tenants=true&limit=1").json()["entries"]
        self.last_seq: int = found[0]["seq"] if found else 0

    def __getattr__(self, method: str) -> Any:
        return getattr(self.app, method)


@pytest.fixture
def http(app: Http) -> Watched:
    for stream in app.get("/api/v1/streams").json()["streams"]:
        app.delete(f"/api/v1/streams/{stream['name']}")
    return Watched(app)


def entries(http: Watched, **wanted: Any) -> list[dict[str, Any]]:
    response = http.get("/api/v1/audit", params=wanted)
    assert response.status_code == 200, response.text
    return [entry for entry in response.json()["entries"] if entry["seq"] > http.last_seq]


def test_actions_are_there_with_what_was_before_and_after(http: Watched) -> None:
    http.post("/api/v1/streams", json={"name": "orders"}, headers={"X-Request-Id": "r-1"})
    http.post("/api/v1/consumer-groups", json={"group_name": "g"})
    http.post("/api/v1/consumer-groups/g/pause")
    http.put("/api/v1/routes/all", json={"stream": "orders", "priority": "HIGH"})
    http.delete("/api/v1/streams/orders")
    told = entries(http)
    assert [entry["action"] for entry in told] == ["stream.delete", "route.set", "group.pause", "group.create", "stream.create"]
    assert {(entry["outcome"], entry["actor"]) for entry in told} == {("DONE", "anonymous")}
    drop, route, pause, _, create = told
    assert (create["before"], create["after"]["name"], create["request_id"]) == (None, "orders", "r-1")
    assert (drop["before"]["name"], drop["after"]) == ("orders", None)
    assert (pause["before"]["is_paused"], pause["after"]["is_paused"]) == (False, True)
    assert route["after"]["priority"] == "HIGH"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/v1/streams", {"name": "orders", "partitions": 9}, 409),
        ("POST", "/api/v1/streams", {"name": "orders", "colour": 1}, 400),
        ("DELETE", "/api/v1/streams/orders-2", None, 404),
        ("PUT", "/api/v1/streams/orders/schema", {"schema": "nope"}, 404),
        ("POST", "/api/v1/stream-processors/proc_1/start", None, 404),
    ],
)
def test_what_was_refused_is_there_with_its_reason(http: Watched, method: str, path: str, body: Any, status: int) -> None:
    http.post("/api/v1/streams", json={"name": "orders"})
    response = http.request(method, path, json=body)
    assert response.status_code == status
    entry = entries(http)[0]
    assert (entry["outcome"], entry["reason"]) == ("REFUSED", f"{status}: {response.json()['detail']}"[:500])
    assert entry["request_id"] == response.headers["x-request-id"]
    assert entry["target"] in path or entry["target"] == body["name"]


def test_the_registry_of_kafkas_clients_is_audited_too(http: Watched) -> None:
    schema = {"schema": '"string"'}
    assert http.post("/registry/subjects/a%2fb/versions", json=schema).status_code == 200
    assert http.post("/registry/subjects/a%2fb", json=schema).status_code == 200  # a question
    assert http.put("/registry/config/a%2fb", json={"compatibility": "WRONG"}).status_code == 422
    assert http.delete("/registry/subjects/a%2fb").status_code == 200
    told = [(entry["action"], entry["target"], entry["outcome"]) for entry in entries(http)]
    assert told == [
        ("registry.delete-subject", "a/b", "DONE"),
        ("registry.set-config", "a/b", "REFUSED"),
        ("registry.register", "a/b", "DONE"),
    ]


def test_data_and_questions_leave_nothing(http: Watched) -> None:
    http.post("/api/v1/streams", json={"name": "orders"})
    http.post("/api/v1/events", json={"event_type": "x", "stream_id": "orders", "payload": {}})
    http.post("/api/v1/events", json={"event_type": "x", "stream_id": "nope", "payload": {}})
    http.post("/api/v1/history/query", json={"sql": "SELECT 1"})
    http.post("/api/v1/routes/try", json={"stream": "orders"})
    http.get("/api/v1/streams")
    assert len(entries(http)) == 1


def test_what_is_only_previewed_leaves_nothing(http: Watched) -> None:
    http.post("/api/v1/streams", json={"name": "orders"})
    http.post("/api/v1/consumer-groups", json={"group_name": "p"})
    before = len(entries(http))
    reset = {"to": "latest", "streams": ["orders"]}
    previews: list[tuple[str, Any]] = [
        ("consumer-groups/p/reset-offsets", reset),
        ("consumer-groups/p/reset-offsets?preview=true", reset),
        ("dead-letters/retry", {"filter": {}, "preview": True}),
        ("event-sourcing/scavenge?preview=true", {}),
        ("history/roll-off?all_tenants=true", {"days": 1, "dry_run": True}),
    ]
    for path, body in previews:
        answer = http.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 200, (path, answer.text)
        assert answer.headers["x-request-id"]
    assert http.post("/api/v1/consumer-groups/nope/reset-offsets", json={"to": "latest"}).status_code == 404
    assert len(entries(http)) == before
    for path, body in previews:
        body = body | {"preview": False} if "preview" in body else body | {"dry_run": False} if "dry_run" in body else body
        query = "all_tenants=true" if "roll" in path else "" if "preview" in body else "preview=false"
        answer = http.post(f"/api/v1/{path.partition('?')[0]}?{query}", json=body)
        assert answer.status_code == 200, (path, answer.text)
    done = [entry["action"] for entry in entries(http)[:-before]]
    assert done == [
        *("history.roll-off", "aggregate.scavenge", "dead-letter.retry", "group.reset-offsets", "group.reset-offsets"),
    ]
    http.delete("/api/v1/consumer-groups/p")


def test_saved_queries_are_a_resource_of_their_own(http: Watched) -> None:
    assert http.put("/api/v1/history/saved-queries/mine", json={"sql": "SELECT 1"}).is_success
    assert http.post("/api/v1/history/saved-queries/mine/run").is_success
    assert http.delete("/api/v1/history/saved-queries/mine").is_success
    told = [(entry["action"], entry["target"]) for entry in entries(http)]
    assert told == [("saved-query.delete", "mine"), ("saved-query.set", "mine")]


def test_tenants_see_their_own_entries(http: Watched) -> None:
    http.post("/api/v1/streams", json={"name": "mine"}, headers={"X-Tenant-Id": "acme"})
    http.post("/api/v1/streams", json={"name": "other"})
    found = http.get("/api/v1/audit", headers={"X-Tenant-Id": "acme"}).json()["entries"]
    assert [entry["tenant_id"] for entry in found] == ["acme"]
    assert len(entries(http, all_tenants=True)) == 2
    exported = http.get("/api/v1/audit/export", headers={"X-Tenant-Id": "acme"}).text
    assert "mine" in exported
    assert "other" not in exported


def test_the_audit_is_verified_and_its_key_given_out(http: Watched) -> None:
    http.post("/api/v1/streams", json={"name": "a"})
    assert http.post("/api/v1/audit/verify").json()["is_intact"]
    told = http.get("/api/v1/audit/key").json()
    assert told["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    assert told["checkpoint"]["seq"] == http.last_seq + 1


@pytest.mark.parametrize("query", ["outcome=MAYBE", "since=yesterday", "limit=0", "limit=1001"])
def test_questions_that_make_no_sense_are_refused(http: Watched, query: str) -> None:
    assert http.get(f"/api/v1/audit?{query}").status_code == 400


def test_nothing_is_managed_that_cannot_be_recorded(http: Watched, services: Services) -> None:
    http.post("/api/v1/streams", json={"name": "a"})
    file = services.storage.folder / "audit.db"
    services.audit.close()
    file.rename(file.with_name("away.db"))
    file.mkdir()
    assert "was carried out" in http.post("/api/v1/streams", json={"name": "b"}).json()["detail"]
    assert http.get("/api/v1/streams/b").status_code == 200
    assert http.post("/api/v1/streams", json={"name": "c"}).status_code == 503
    assert http.get("/api/v1/streams/c").status_code == 404
    assert http.post("/api/v1/events", json={"event_type": "x", "stream_id": "a", "payload": {}}).status_code == 201
    file.rmdir()
    file.with_name("away.db").rename(file)
    assert http.post("/api/v1/streams", json={"name": "c"}).status_code == 201
    assert [entry["action"] for entry in entries(http)] == ["stream.create", "audit.gap", "stream.create"]


def test_refusals_of_one_caller_are_told_together() -> None:
    repeats = Repeats()
    caller = _Caller("10.0.0.1", "anonymous", "GET /api/v1/streams", 401)
    assert repeats.due(caller, {"target": "a"}) == [{"target": "a"}]
    assert [repeats.due(caller, {"target": "b"}) for _ in range(3)] == [[], [], []]
    assert repeats.rest() == [{"target": "b", "repeated": 3}]
    flood = [repeats.due(caller._replace(address=str(number)), {"target": ""}) for number in range(3 * MAX_CALLERS)]
    assert sum(map(len, flood)) == MAX_CALLERS + 1
    assert [what["repeated"] for what in repeats.rest()] == [2 * MAX_CALLERS - 1]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as esb:
        yield esb


def listed(esb: Esb, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in esb("audit", "list", "--json", *options).out.splitlines()]


def test_commands_are_audited_with_who_gave_them(esb: Esb) -> None:
    esb("stream", "create", "orders")
    esb("stream", "create", "orders", "--partitions", "3", code=1)
    esb("groups", "create", "g")
    esb("groups", "reset", "g", "--to", "latest", "--dry-run", code=None)
    esb("stream", "list")
    esb("--tenant", "acme", "stream", "create", "theirs")
    esb("stream", "drop", "orders", "--yes")
    told = listed(esb)
    assert [(entry["action"], entry["target"], entry["outcome"]) for entry in told] == [
        ("stream.delete", "orders", "DONE"),
        ("stream.create", "theirs", "DONE"),
        ("group.create", "g", "DONE"),
        ("stream.create", "orders", "REFUSED"),
        ("stream.create", "orders", "DONE"),
    ]
    assert all(entry["actor"].startswith("cli:") for entry in told)
    assert (told[0]["before"]["name"], told[0]["after"]) == ("orders", None)
    assert [entry["tenant_id"] for entry in listed(esb, "--action", "stream.*", "--limit", "2")] == ["default", "acme"]
    assert "orders" in esb("audit", "list").out


def test_asking_makes_no_data_folder(esb: Esb, tmp_path: Path) -> None:
    assert "no data folder" in esb("audit", "list", code=1).err
    assert not (tmp_path / "esb-data").exists()


def test_an_export_is_verified_by_whoever_has_the_public_key(esb: Esb, tmp_path: Path) -> None:
    esb("stream", "create", "orders")
    esb("stream", "drop", "orders", "--yes")
    esb("audit", "export", "audit.jsonl")
    esb("audit", "export", "audit.jsonl", code=1)  # nothing is overwritten
    (tmp_path / "audit.pem").write_text(esb("audit", "key").out)
    (tmp_path / "checkpoint.json").write_text(esb("audit", "checkpoint").out)
    assert "2 entries: intact; signed up to entry 2" in esb("audit", "verify").err
    elsewhere = ("audit", "verify", "--file", "audit.jsonl", "--public-key", "audit.pem", "--checkpoint", "checkpoint.json")
    assert json.loads(esb(*elsewhere, "--json").out)["is_intact"]
    text = (tmp_path / "audit.jsonl").read_text()
    (tmp_path / "audit.jsonl").write_text(text.replace("stream.delete", "stream.create"))
    assert esb(*elsewhere, code=1).out.startswith("changed")
    (tmp_path / "audit.jsonl").write_text("".join(text.splitlines(keepends=True)[:2]))
    assert "truncated" in esb(*elsewhere, code=1).out
