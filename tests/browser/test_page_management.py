"""The page in a browser, signed in: routing rules, projections, scheduled events, erasure, tokens."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from event_streaming_bus.access.model import Role

from .conftest import WINDOW, Server, Watched, posted
from .test_page import go, has, looks

VIEWS: Final = {
    "routes": ("routes", "Routing rules", ["large", "copied to large_orders", "payload.total > 100", "every stream"]),
    "route": ("routes/large", "large", ["What it does", "What was changed by version", "Try the rules"]),
    "projections": ("projections", "Projections", ["totals", "Live", "strict", "Failed"]),
    "projection": ("projections/totals", "totals", ["Rows", "customer_3", "Its definition"]),
    "scheduled": ("scheduled", "Scheduled events", ["call.due", "reminders", "2034-01-01"]),
    "erasure": ("erasure", "Erasure", ["A subject", "asked to be forgotten"]),
    "tokens": ("tokens", "Tokens", ["shop", "publisher", "orders, orders.*", "yours"]),
}
TOTALS: Final = {
    "from": {"aggregate_types": ["Order"]},
    "table": {"columns": {"customer": "text", "orders": "integer", "total": "number"}, "key": ["customer"]},
    "on": {
        "order.placed": [
            {"upsert": {"customer": "payload.customer", "orders": "row.orders + 1", "total": "row.total + payload.total"}}
        ]
    },
}
PERSON: Final = {
    "type": "object",
    "x-subject": "/user",
    "properties": {"user": {"type": "string"}, "mail": {"type": "string", "x-personal": True}},
    "required": ["user", "mail"],
}


@functools.cache  # one for all modules
def closed_server(served: Callable[..., Server]) -> Server:
    """A server that asks for tokens, with something of each kind. Its client is signed in as the administrator."""
    server = served("--auth", "required")
    server.http.headers["Authorization"] = f"Bearer {admin_token(server)}"
    for name in ("orders", "large_orders", "reminders"):
        posted(server, "streams", {"name": name})
    orders = [{"event_type": "order.placed", "payload": {"total": number}} for number in range(50, 150, 10)]
    posted(server, "events/batch", {"stream_id": "orders", "events": orders})
    for match in ("payload.total > 500", "payload.total > 100"):
        put(server, "routes/large", {"stream": "orders", "match": match, "to": ["large_orders"], "priority": "HIGH"})
    put(server, "routes/tagged", {"stream": "*", "set_metadata": {"desk": "'sales'"}, "description": "Says whose it is"})
    for name, data in (("totals", TOTALS), ("strict", {**TOTALS, "from": {"aggregate_types": ["Broken", "Order"]}})):
        put(server, f"projections/{name}", data)
    for number in range(12):
        append(server, f"order-{number}", "Order", {"customer": f"customer_{number % 4}", "total": number})
    append(server, "order-x", "Broken", {"customer": None, "total": 1})
    for year in (2034, 2035):
        when = {"deliver_at": f"{year}-01-01T09:00:00Z", "event_id": f"evt_{year}"}
        posted(server, "events", {"stream_id": "reminders", "event_type": "call.due", "payload": {}, **when})
    posted(server, "schemas/enhanced", {"schema_name": "person", "json_schema": PERSON})
    posted(server, "streams", {"name": "people", "schema": "person"})
    for user in ("u-1", "u-2"):
        person = {"user": user, "mail": f"{user}@example.org"}
        posted(server, "events", {"stream_id": "people", "event_type": "person.joined", "payload": person})
    posted(server, "erasures", {"subject": "u-2", "reason": "asked to be forgotten"})
    token_of(server, "shop", "publisher:orders,orders.*")
    posted(server, "projections/totals/wait", {"timeout_s": 20})
    return server


@pytest.fixture(scope="module")
def closed(served: Callable[..., Server]) -> Server:
    """The server that asks for tokens."""
    return closed_server(served)


def admin_token(server: Server) -> str:
    return (server.folder / "admin.token").read_text().strip()


def token_of(server: Server, principal: str, *roles: str) -> str:
    """A new token."""
    found: str = posted(server, "tokens", {"principal": principal, "roles": roles})["token"]
    return found


def put(server: Server, path: str, body: Any) -> None:
    answer = server.http.put(f"/api/v1/{path}", json=body)
    assert answer.is_success, answer.text


def append(server: Server, aggregate_id: str, kind: str, data: Any) -> None:
    event = {"aggregate_id": aggregate_id, "aggregate_type": kind, "event_type": "order.placed", "event_data": data}
    posted(server, "event-sourcing/append", event)


def got(server: Server, path: str) -> Any:
    return server.http.get(f"/api/v1/{path}").json()


@pytest.fixture(scope="module")
def signed_in(browser: Any, closed: Server) -> Iterator[tuple[Any, Watched]]:
    """One page of the administrator's, and what it did."""
    watched = Watched(browser)
    yield watched.open(f"{closed.url}/#token={admin_token(closed)}", reduced_motion="reduce"), watched
    watched.close()
    assert watched.hosts <= {urlsplit(closed.url).netloc, ""}


@pytest.fixture
def page(signed_in: tuple[Any, Watched]) -> Iterator[Any]:
    """The administrator's page; it may not complain."""
    page, watched = signed_in
    page.set_viewport_size(WINDOW)
    page.emulate_media(color_scheme="light")
    yield page
    assert watched.complaints == []


def dialog(page: Any, name: str) -> Any:
    return page.get_by_role("dialog", name=name)


def refused(watched: Watched, status: int = 401) -> None:
    """Chromium itself notes answers with an error status; nothing else may have complained."""
    assert all(f"status of {status}" in each for each in watched.complaints), watched.complaints
    watched.complaints.clear()


# --- what views show --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_there_is_light_and_dark_wide_and_narrow(
    page: Any, picture: Callable[[Any, str], None], view: str
) -> None:
    place, title, texts = VIEWS[view]
    go(page, place)
    page.locator("h1", has_text=title).wait_for()
    has(page, *texts)
    page.locator(".loading").first.wait_for(state="detached")
    assert looks(page, "nameless") == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert looks(page, "faint") == [], scheme
        picture(page, f"{view}-{scheme}")
    page.set_viewport_size({"width": 360, "height": 740})
    assert looks(page, "overhang") == 0
    picture(page, f"{view}-narrow")


@pytest.mark.parametrize(
    ("place", "button", "title"),
    [("routes", "New rule", "New routing rule"), ("tokens", "New token", "New token")],
)
def test_a_form_can_be_read_and_fits(page: Any, picture: Callable[[Any, str], None], place: str, button: str, title: str) -> None:
    go(page, place)
    page.get_by_role("button", name=button).click()
    for details in dialog(page, title).locator("summary").all():
        details.click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert looks(page, "faint") == [], scheme
    assert looks(page, "nameless") == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert looks(page, "overhang") == 0
    box = dialog(page, title)
    assert box.evaluate("(each) => each.scrollWidth - each.clientWidth") == 0
    picture(page, f"{place}-form-narrow")
    page.keyboard.press("Escape")
    box.wait_for(state="detached")


# --- what they do -----------------------------------------------------------------------------------------------------


def test_a_rule_is_tried_before_it_is_made_then_changed_and_removed(
    page: Any, signed_in: tuple[Any, Watched], closed: Server
) -> None:
    go(page, "routes")
    page.get_by_role("button", name="New rule").click()
    box = dialog(page, "New routing rule")
    box.get_by_label("Name").fill("cheap")
    box.get_by_label("Events of the stream").fill("orders")
    box.get_by_label("That match").fill("payload.total <")
    box.get_by_label("Send them to").fill("large_orders")
    page.keyboard.press("Enter")
    box.get_by_role("alert").wait_for()
    box.get_by_label("That match").fill("payload.total < 70")
    box.get_by_text("What it would do").click()
    box.get_by_role("button", name="Try").click()
    box.get_by_text("6 would go to large_orders").wait_for()  # two that are cheap, four that are large
    assert "cheap" not in [rule["name"] for rule in got(closed, "routes")["routes"]]
    box.get_by_role("button", name="Make the rule").click()
    page.get_by_role("link", name="cheap").click()
    page.get_by_role("button", name="Change").click()
    dialog(page, "Change cheap").get_by_label("That match").fill("payload.total < 60")
    page.keyboard.press("Enter")
    page.locator(".diff .added", has_text="payload.total < 60").wait_for()
    page.get_by_role("button", name="Turn off").click()
    page.get_by_role("button", name="Turn on").wait_for()
    rule = got(closed, "routes/cheap")
    assert (rule["match"], rule["is_active"], rule["version"]) == ("payload.total < 60", False, 3)
    page.get_by_role("button", name="Remove").click()
    dialog(page, "Remove cheap?").get_by_role("button", name="Remove the rule").click()
    page.locator("h1", has_text="Routing rules").wait_for()
    assert closed.http.get("/api/v1/routes/cheap").status_code == 404
    refused(signed_in[1], 422)


def test_the_rows_of_a_projection_are_looked_at_and_it_is_paused(page: Any, closed: Server) -> None:
    go(page, "projections/totals")
    rows = page.get_by_role("table", name="Rows of totals")
    rows.get_by_role("cell", name="customer_3").wait_for()
    page.get_by_label("Those whose").select_option("total")
    page.get_by_label("How it is compared").select_option("gt")
    page.get_by_label("Value").fill("18")
    page.get_by_label("Value").press("Enter")
    rows.get_by_role("cell", name="customer_0").wait_for(state="detached")
    assert rows.get_by_role("row").count() == 2  # the headings, and customer_3 with 21
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert got(closed, "projections/totals")["state"] == "PAUSED"
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Rebuild").click()
    page.get_by_role("button", name="Rebuild it").click()
    page.get_by_text("It is being built anew").wait_for()


def test_a_projection_that_failed_goes_on_without_the_event(page: Any, closed: Server) -> None:
    go(page, "projections/strict")
    page.get_by_role("alert").get_by_text("It has stopped at an event").wait_for()
    assert page.get_by_role("alert").get_by_role("link", name="order-x").is_visible()
    page.get_by_role("button", name="Skip the event").click()
    dialog(page, "Skip this event?").get_by_role("button", name="Skip the event").click()
    page.locator(".state.good", has_text="Live").first.wait_for()
    has(page, "Skipped events")
    assert got(closed, "projections/strict")["skipped"] == 1


def test_a_scheduled_event_is_cancelled_after_a_question(page: Any, closed: Server) -> None:
    go(page, "scheduled")
    cancel = page.get_by_role("button", name="Cancel evt_2035")
    cancel.click()
    dialog(page, "Cancel this event?").get_by_role("button", name="Cancel", exact=True).click()
    cancel.click()
    dialog(page, "Cancel this event?").get_by_role("button", name="Cancel the event").click()
    cancel.wait_for(state="detached")
    assert [event["event_id"] for event in got(closed, "scheduled")["events"]] == ["evt_2034"]


def test_a_subject_is_erased_only_by_who_types_its_name(page: Any, closed: Server) -> None:
    go(page, "erasure")
    page.get_by_label("Subject, as events name it").fill("u-1")
    page.get_by_label("Count its events").check()
    page.get_by_role("button", name="Look up").click()
    has(page, "1 on people")
    page.get_by_role("button", name="Erase this subject").click()
    box = dialog(page, "Erase u-1?")
    box.get_by_label("Why").fill("asked for it")
    box.get_by_label("To confirm, type the subject").fill("u-2")
    box.get_by_role("button", name="Erase for good").click()
    box.get_by_text("The subject is u-1").wait_for()
    assert len(got(closed, "erasures")["erasures"]) == 1
    box.get_by_label("To confirm, type the subject").fill("u-1")
    box.get_by_role("button", name="Erase for good").click()
    page.get_by_role("cell", name="asked for it").wait_for()
    has(page, "There is no personal data of u-1 that could be read. It was erased 1 time before.")
    page.get_by_role("button", name="Verify").click()
    has(page, "2 certificates are there, unchanged and true")
    assert got(closed, "erasures")["erasures"][-1]["erased_by"] == got(closed, "tokens/self")["principal"]


def test_a_token_is_shown_once_works_and_is_revoked(page: Any, closed: Server) -> None:
    go(page, "tokens")
    page.get_by_role("button", name="New token").click()
    box = dialog(page, "New token")
    assert box.get_by_label("Role", exact=True).locator("option").all_inner_texts() == [role.value for role in Role]
    box.get_by_label("For whom").fill("billing")
    box.get_by_label("Role", exact=True).select_option("consumer")
    box.get_by_label("Streams").fill("orders, orders.*")
    box.get_by_label("It expires").select_option("30")
    box.get_by_label("For whom").press("Enter")
    box = dialog(page, "The token of billing")
    token = box.get_by_label("Token").input_value()
    page.keyboard.press("Escape")
    assert box.is_visible()
    box.get_by_role("button", name="I have it").click()
    box.wait_for(state="detached")
    assert token not in page.content()
    told = closed.http.get("/api/v1/tokens/self", headers={"Authorization": f"Bearer {token}"}).json()
    assert (told["principal"], told["roles"]) == ("billing", ["consumer:orders,orders.*"])
    page.get_by_role("button", name=re.compile("^Revoke billing")).click()
    dialog(page, "Revoke the token of billing?").get_by_role("button", name="Revoke it").click()
    page.get_by_role("button", name=re.compile("^Revoke billing")).wait_for(state="detached")
    assert closed.http.get("/api/v1/tokens/self", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_an_answer_of_a_hundred_thousand_rows_is_drawn_with_its_peak(page: Any) -> None:
    go(page, "sql")
    question = page.get_by_role("textbox", name="Question")
    question.fill("SELECT range AS n, CASE WHEN range = 77777 THEN 600 ELSE range % 7 END AS height FROM range(100000)")
    question.press("Control+Enter")
    page.get_by_label("Draw").select_option("line")
    line = page.locator(".chart .line")
    line.wait_for(state="attached")
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get_attribute("d"))
    assert 500 < len(points) < 2000
    highest, lowest = (choose(float(y) for _, y in points) for choose in (min, max))
    assert (highest, lowest) == (8, 220)  # the top and the bottom of a chart of 240 pixels


def test_a_viewer_is_offered_nothing_that_would_be_refused(watched: Watched, closed: Server) -> None:
    page = watched.open(f"{closed.url}/#token={token_of(closed, 'looker', 'viewer')}")
    assert page.get_by_role("link", name="Projections").is_visible()
    assert page.get_by_role("link", name="Tokens").count() == page.get_by_role("link", name="Audit").count() == 0
    for place, shown, offered in (
        ("routes/large", "What it does", {"Try"}),
        ("projections/totals", "Its definition", {"Look"}),
        ("scheduled", "call.due", {"Filter"}),
        ("erasure", "asked to be forgotten", {"Verify"}),
        ("streams/orders", "Live tail", {"Filter", "Pause"}),
        ("dead-letters", "No dead letter fits", {"Filter"}),
        ("groups", "There is no consumer group", set()),
    ):
        go(page, place)
        has(page, shown)
        texts = {text for text in page.locator("main button:visible:not(th button)").all_inner_texts() if text}
        assert texts == offered, place
    go(page, "tokens")
    has(page, "Tokens are for administrators")
