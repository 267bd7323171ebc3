"""Who may act for whom, where clients need a token: whose events are whose, and whose saved queries."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.api.access import Access
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

Ask = Callable[..., Any]
EVENT = {"event_type": "t", "payload": {}, "stream_id": "orders"}
QUERIES = "/api/v1/history/saved-queries"


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """``ask(principal, roles, method, path, body)`` is the answer to somebody with these roles."""
    storage = open_storage(tmp_path_factory.mktemp("guarded"))
    services = Services(storage)
    access = Access(storage, Authenticator(services.tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(services, hosts=["*"], access=access)) as client:

            def asked(principal: str, roles: list[str], method: str, path: str, body: Any = None) -> Any:
                token, _ = services.tokens.create(principal, roles, created_by="test")
                return client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})

            assert asked("root", ["admin"], "POST", "/api/v1/streams", {"name": "orders"}).is_success
            yield asked
    storage.close()


def user_of_event(ask: Ask, event_id: str) -> str | None:
    user: str | None = ask("root", ["admin"], "GET", f"/api/v1/events/{event_id}").json()["user_id"]
    return user


@pytest.mark.parametrize(
    ("roles", "named", "kept"),
    [
        (["publisher:orders"], None, "shop"),
        (["publisher:orders"], "shop", "shop"),
        (["publisher:orders"], "anna", None),
        (["publisher", "viewer"], "anna", None),
        (["publisher:orders", "delegate"], "anna", "anna"),
        (["publisher", "operator"], "anna", "anna"),
        (["publisher", "operator:orders"], "anna", None),
        (["admin"], "anna", "anna"),
        (["admin"], None, "shop"),
        (["delegate"], "anna", None),
    ],
)
def test_an_event_is_of_whoever_publishes_it_or_of_whom_they_may_name(
    ask: Ask, roles: list[str], named: str | None, kept: str | None
) -> None:
    one = EVENT if named is None else EVENT | {"user_id": named}
    for path, body in (("events", one), ("events/batch", {"stream_id": "orders", "events": [one, one]})):
        answer = ask("shop", roles, "POST", f"/api/v1/{path}", body)
        assert answer.status_code == (403 if kept is None else 201), answer.text
        if kept is None:
            assert answer.json()["permission"] in ("user:name", "event:publish")
            continue
        for receipt in answer.json().get("receipts", [answer.json()]):
            assert user_of_event(ask, receipt["event_id"]) == kept


def test_events_of_several_users_do_not_come_in_one_request(ask: Ask) -> None:
    batch = {"stream_id": "orders", "events": [EVENT, EVENT | {"user_id": "anna"}]}
    answer = ask("shop", ["publisher", "delegate"], "POST", "/api/v1/events/batch", batch)
    assert (answer.status_code, "of one user" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("roles", "named", "kept"),
    [
        (["publisher"], None, "bank"),
        (["publisher"], "anna", None),
        (["publisher", "delegate"], "anna", "anna"),
        (["admin"], "anna", "anna"),
    ],
)
def test_what_is_appended_is_too(ask: Ask, roles: list[str], named: str | None, kept: str | None) -> None:
    named_too = {} if named is None else {"user_id": named}
    event = {"event_type": "account.opened", "event_data": {}}
    about = {"aggregate_id": f"{'-'.join(roles)}/{named}", "aggregate_type": "Account"}
    one = ask("bank", roles, "POST", "/api/v1/event-sourcing/append", about | event | named_too)
    many = ask(
        "bank", roles, "POST", "/api/v1/event-sourcing/append-batch", {"appends": [about | {"events": [event]}]} | named_too
    )
    if kept is None:
        assert [(each.status_code, each.json()["permission"]) for each in (one, many)] == [(403, "user:name")] * 2
        return
    for event_id in (one.json()["event_id"], many.json()["events"][0]["event_id"]):
        assert user_of_event(ask, event_id) == kept


def test_a_refusal_to_name_somebody_is_in_the_audit(ask: Ask) -> None:
    assert ask("mallory", ["publisher"], "POST", "/api/v1/events", EVENT | {"user_id": "anna"}).status_code == 403
    entries = ask("root", ["admin"], "GET", "/api/v1/audit?actor=mallory").json()["entries"]
    assert [(entry["action"], entry["outcome"]) for entry in entries] == [("POST /api/v1/events", "REFUSED")]


@pytest.mark.parametrize(
    ("role", "read", "change"),
    [("admin", 200, 200), ("operator", 200, 200), ("viewer", 200, 403), ("consumer", 403, 403), ("publisher", 403, 403)],
)
def test_whoever_may_ask_the_history_may_run_saved_queries_and_operators_save_them(
    ask: Ask, role: str, read: int, change: int
) -> None:
    assert ask("root", ["admin"], "PUT", f"{QUERIES}/ready", {"sql": "SELECT 1"}).is_success
    asked = [("GET", ""), ("GET", "/ready"), ("POST", "/ready/run")]
    assert [ask("me", [role], method, QUERIES + path).status_code for method, path in asked] == [read] * 3
    assert ask("me", [role], "PUT", f"{QUERIES}/own-{role}", {"sql": "SELECT 1"}).status_code == change
    assert ask("me", [role], "DELETE", f"{QUERIES}/own-{role}").status_code == change


def test_a_saved_query_is_changed_by_whoever_saved_it_and_by_administrators(ask: Ask) -> None:
    path = f"{QUERIES}/hers"
    assert ask("eve", ["operator"], "PUT", path, {"sql": "SELECT 1"}).is_success
    assert ask("eve", ["operator"], "PUT", path, {"sql": "SELECT 2"}).is_success
    for method, body in (("PUT", {"sql": "SELECT 3"}), ("DELETE", None)):
        refused = ask("adam", ["operator"], method, path, body)
        assert (refused.status_code, "is of eve" in refused.json()["detail"]) == (403, True)
    assert ask("adam", ["viewer"], "GET", path).json()["sql"] == "SELECT 2"
    assert ask("adam", ["admin"], "DELETE", path).is_success
    assert ask("adam", ["operator"], "DELETE", path).status_code == 404
