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


@pytest.mark.parametrize(
    ("method", "path", "body", "show", "field"),
    [
        ("POST", "schemas/enhanced", {"schema_name": "o", "json_schema": {}}, "schemas/{schema_id}", "created_by"),
        ("POST", "consumer-groups", {"group_name": "g"}, "consumer-groups/{group_id}", "created_by"),
        ("PUT", "routes/urgent", {"stream": "orders", "priority": "HIGH"}, "routes/urgent", "changed_by"),
        (
            "POST",
            "routes/apply",
            {"routes": [{"name": "low", "stream": "orders", "priority": "LOW"}]},
            "routes/low",
            "changed_by",
        ),
        ("PUT", "settings/history.keep_days", {"value": 7}, "settings/history.keep_days", "changed_by"),
        (
            "POST",
            "stream-processors",
            {
                "processor_name": "p",
                "processor_type": "FILTER",
                "source_stream_id": "orders",
                "target_stream_id": "orders2",
                "processing_logic": {"filter_expression": "true"},
            },
            "stream-processors/{processor_id}",
            "created_by",
        ),
    ],
)
def test_what_is_managed_says_who_did_it(ask: Ask, method: str, path: str, body: Any, show: str, field: str) -> None:
    ask("root", ["admin"], "POST", "/api/v1/streams", {"name": "orders2"})
    made = ask("carol", ["admin"], method, f"/api/v1/{path}", body)
    assert made.is_success, made.text
    shown = ask("root", ["admin"], "GET", f"/api/v1/{show.format(**made.json())}")
    assert shown.json()[field] == "carol"


def test_what_a_client_of_the_registry_registers_says_who_did_it(ask: Ask) -> None:
    made = ask("dave", ["operator"], "POST", "/registry/subjects/r/versions", {"schema": '"string"'})
    assert made.is_success, made.text
    (record,) = ask("root", ["admin"], "GET", "/api/v1/schemas?name=r").json()["schemas"]
    assert record["created_by"] == "dave"


def test_several_rules_are_one_entry_of_the_audit_and_a_dry_run_is_none(ask: Ask) -> None:
    rules = [{"name": name, "stream": "orders", "set_metadata": {"a": 1}} for name in ("first", "second")]
    for dry_run in (True, False):
        answer = ask("erin", ["operator"], "POST", "/api/v1/routes/apply", {"routes": rules, "dry_run": dry_run})
        assert [each["verdict"] for each in answer.json()["routes"]] == ["new", "new"]
    entries = ask("root", ["admin"], "GET", "/api/v1/audit?actor=erin").json()["entries"]
    assert [(each["action"], each["target"], each["outcome"]) for each in entries] == [("route.apply", "first, second", "DONE")]
    assert [each["name"] for each in entries[0]["after"]] == ["first", "second"]
    assert ask("viewer", ["viewer"], "POST", "/api/v1/routes/apply", {"routes": rules}).status_code == 403


def test_a_token_tells_what_it_allows_and_where(ask: Ask) -> None:
    told = ask("shop", ["publisher:orders,orders.*", "viewer"], "GET", "/api/v1/tokens/self").json()
    assert told["roles"] == ["publisher:orders,orders.*", "viewer"]
    assert told["permissions"] == [
        {
            "role": "publisher",
            "streams": ["orders", "orders.*"],
            "allows": ["aggregate:append", "event:publish", "schema:read", "stream:read"],
        },
        {"role": "viewer", "streams": ["*"], "allows": ["*:read", "history:query"]},
    ]
