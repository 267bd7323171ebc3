"""The page in a browser: what its views show and do."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from .conftest import Server, Watched, posted

LOOKS = Path(__file__).with_name("looks.js").read_text(encoding="utf-8")
VIEWS = {
    "overview": ("", "Overview", ["Throughput", "Latency, end to end", "billing", "late_ones"]),
    "streams": ("streams", "Streams", ["flights", "late_flights", "guarded"]),
    "stream": ("streams/flights", "flights", ["Live tail", "flight.departure", "3 partitions"]),
    "event": ("events/{event}", "evt_", ["Payload", "validation", "late_ones", "late_flights"]),
    "flows": ("flows", "Flows", ["late_ones", "Running"]),
    "processor": ("flows/{processor}", "late_ones", ["Watermark", "payload.dep_delay > 60", "Logs"]),
    "schemas": ("schemas", "Schemas", ["flight", "2.0", "JSON"]),
    "schema": ("schemas/{schema}", "flight", ["2 versions", "Backward incompatible", "origin != dest"]),
    "groups": ("groups", "Consumer groups", ["billing"]),
    "group": ("groups/billing", "billing", ["Lag by partition", "Generation 1", "joined"]),
    "dead-letters": ("dead-letters", "Dead letters", ["A flight goes elsewhere", "flights"]),
    "dead-letter": ("dead-letters/{letter}", "Dead letter", ["A flight goes elsewhere", '"EWR"', "Retry"]),
    "aggregates": ("aggregates", "Aggregates", ["acc/1", "Active"]),
    "aggregate": ("aggregates/acc%2F1", "acc/1", ["Version 3", "account.changed", '"balance": 25']),
    "sql": ("sql", "SQL", ["SELECT", "processing_history"]),
    "audit": ("audit", "Audit", ["stream.create", "processor.start", "anonymous"]),
    "nowhere": ("nothing/there", "Not found", ["There is no such page"]),
}


def looks(page: Any, name: str, argument: Any = None) -> Any:
    return page.evaluate(LOOKS, {"name": name, "argument": argument})


def row(server: Server, sql: str) -> Any:
    return posted(server, "history/query", {"sql": sql})["rows"][0][0]


@pytest.fixture(scope="module")
def named(server: Server) -> dict[str, str]:
    """The ids that views are about."""
    processors = server.http.get("/api/v1/stream-processors").json()["processors"]
    return {
        "event": row(server, "SELECT causation_id FROM events WHERE stream = 'late_flights' LIMIT 1"),
        "processor": next(each["processor_id"] for each in processors if each["processor_name"] == "late_ones"),
        "schema": server.http.get("/api/v1/schemas?name=flight").json()["schemas"][0]["schema_id"],
        "letter": server.http.get("/api/v1/dead-letters").json()["dead_letters"][0]["dead_letter_id"],
    }


def go(page: Any, place: str) -> None:
    """Show another view of the page that is loaded."""
    page.evaluate("(hash) => { location.hash = hash; }", f"#/{place}")


def has(page: Any, *texts: str) -> None:
    for text in texts:
        page.locator("main").get_by_text(text).first.wait_for()


@pytest.fixture(scope="module")
def tour(browser: Any, server: Server) -> Iterator[tuple[Any, Watched]]:
    """One page that goes from view to view."""
    watched = Watched(browser)
    yield watched.open(server.url, reduced_motion="reduce"), watched
    watched.close()
    assert watched.hosts <= {urlsplit(server.url).netloc, ""}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_there_is_light_and_dark_wide_and_narrow(
    tour: tuple[Any, Watched], named: dict[str, str], picture: Callable[[Any, str], None], view: str
) -> None:
    page, watched = tour
    page.set_viewport_size({"width": 1280, "height": 860})
    page.emulate_media(color_scheme="light")
    place, title, texts = VIEWS[view]
    go(page, place.format(**named))
    page.locator("h1", has_text=title).wait_for()
    if view == "sql":
        assert texts[0] in page.locator("textarea").input_value()
    has(page, *texts[view == "sql" :])
    page.locator(".loading").first.wait_for(state="detached")
    if view == "overview":
        page.locator(".chart .line[d*=L]").first.wait_for(state="attached")  # two messages have come
    assert page.locator(".notice[role=alert]").count() == 0
    assert title in page.title()
    assert looks(page, "nameless") == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert looks(page, "faint") == [], scheme
        picture(page, f"{view}-{scheme}")
    page.set_viewport_size({"width": 360, "height": 740})
    assert looks(page, "overhang") == 0
    picture(page, f"{view}-narrow")
    assert watched.complaints == []


def test_the_page_is_ready_within_a_second(watched: Watched, server: Server) -> None:
    def ready_ms() -> float:
        page = watched.open(server.url)
        found: float = page.evaluate("performance.getEntriesByName('esb:ready')[0].startTime")
        return found

    assert any(ready_ms() < 1000 for _ in range(3))  # on a busy machine one load may be slow


def test_three_clicks_lead_from_nothing_to_a_running_flow(
    watched: Watched, served: Callable[..., Server], picture: Callable[[Any, str], None]
) -> None:
    empty = served()
    page = watched.open(empty.url)
    has(page, "Welcome")
    assert looks(page, "nameless") == []
    picture(page, "first-run")
    page.get_by_role("button", name="Make the sample stream").click()
    page.locator(".steps .done").first.wait_for()
    page.get_by_role("button", name="Start the sample flow").click()
    page.locator(".steps .done").nth(1).wait_for()
    page.get_by_role("button", name="Watch the flow").click()
    page.locator("h1", has_text="Flows").wait_for()
    page.locator(".graph .edge.flowing").first.wait_for(timeout=25_000)
    page.locator(".graph .rate", has_text=re.compile(r"^[1-9][\d,.]*/s$")).first.wait_for()
    picture(page, "first-flow")
    processors = empty.http.get("/api/v1/stream-processors").json()["processors"]
    assert sorted((each["processor_name"], each["status"]) for each in processors) == [
        ("large_orders", "RUNNING"),
        ("totals_by_country", "RUNNING"),
    ]
    page.get_by_role("button", name="Stop publishing sample orders").click()
    assert page.locator("#traffic").is_hidden()
    page.get_by_role("button", name="Stop large_orders").click()
    page.get_by_role("button", name="Start large_orders").wait_for()
    assert watched.hosts <= {urlsplit(empty.url).netloc}


def test_the_live_tail_follows_filters_and_pauses(page: Any, server: Server) -> None:
    posted(server, "streams", {"name": "orders"})
    go(page, "streams/orders")
    has(page, "No event yet")
    tail = page.get_by_role("table", name="Events of orders")

    def publish(number: int) -> None:
        posted(
            server,
            "events",
            {"stream_id": "orders", "event_type": "order.placed", "payload": {"number": number, "total": number * 10}},
        )

    publish(1)
    tail.get_by_text('"number":1,').wait_for()
    page.get_by_label("Filter: an expression").fill("payload.total > 25")
    page.keyboard.press("Enter")
    tail.get_by_text('"number":1,').wait_for(state="detached")
    publish(2)
    publish(3)
    tail.get_by_text('"number":3,').wait_for()
    assert tail.get_by_role("row").count() == 2  # the headings, and the one that the filter takes
    page.get_by_role("button", name="Pause").click()
    publish(4)
    has(page, "Paused, 1 new")
    page.get_by_role("button", name="Go on").click()
    tail.get_by_text('"number":4,').wait_for()
    tail.get_by_role("link").first.click()
    has(page, "What was done with it", "publisher")


def test_what_the_server_refuses_is_told_and_can_be_tried_again(watched: Watched, server: Server) -> None:
    page = watched.open(server.url)
    go(page, "streams/flights")
    page.get_by_label("Filter: an expression").fill("payload.total >")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert "filter" in page.get_by_role("alert").inner_text().lower()
    go(page, "streams/nothing")
    page.get_by_role("alert").get_by_text("There is no stream 'nothing'").wait_for()
    assert page.get_by_role("button", name="Try again").is_visible()
    # Chromium itself notes answers with an error status; nothing else may complain.
    assert all("Failed to load resource" in each for each in watched.complaints)
    watched.complaints.clear()


def test_an_event_is_published_from_the_page_and_bad_json_is_not(page: Any) -> None:
    go(page, "streams/late_flights")
    page.get_by_role("button", name="Publish an event").click()
    payload = page.get_by_label("Payload, in JSON")
    payload.fill('{"from": "the page",')
    page.get_by_role("button", name="Publish", exact=True).click()
    page.get_by_role("dialog").get_by_text("The payload is not JSON").wait_for()
    payload.fill('{"from": "<img src=x>"}')
    page.get_by_role("button", name="Publish", exact=True).click()
    page.get_by_text("It is on disk").wait_for()
    page.get_by_role("table", name="Events of late_flights").get_by_text("<img src=x>").wait_for()
    assert page.locator("main img").count() == 0


def test_sql_is_asked_drawn_and_saved(page: Any, tmp_path: Path) -> None:
    go(page, "sql")
    question = page.get_by_role("textbox", name="Question")
    question.fill("SELECT stream, count(*) AS events, '=1+1' AS formula FROM events GROUP BY stream ORDER BY stream")
    question.press("Control+Enter")
    page.get_by_role("img", name="events by stream").wait_for()
    page.get_by_role("cell", name="late_flights").wait_for()
    page.locator(".chart rect").nth(2).wait_for()
    page.get_by_label("Draw").select_option("line")
    page.get_by_role("img", name=re.compile("events over stream")).wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    waiting.value.save_as(tmp_path / "answer.csv")
    lines = (tmp_path / "answer.csv").read_text().splitlines()
    assert lines[0] == "stream,events,formula"
    assert "flights,3000,'=1+1" in lines


def test_a_compatibility_check_says_what_would_break(page: Any, named: dict[str, str]) -> None:
    go(page, f"schemas/{named['schema']}")
    text = page.get_by_label("A next version, or an event, in JSON")
    text.fill('{"type": "object", "required": ["gate"]}')
    page.get_by_role("button", name="Check as the next version").click()
    has(page, "It would be refused")
    page.get_by_role("status").get_by_text("the writer may leave it out").wait_for()
    text.fill('{"carrier": "UA", "origin": "EWR", "dest": "EWR"}')
    page.get_by_role("button", name="Validate as an event").click()
    has(page, "It is not valid")


def test_dead_letters_are_retried_after_a_look_at_what_that_does(page: Any) -> None:
    go(page, "dead-letters")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Retry 1").click()
    page.get_by_role("dialog").get_by_text("0 would be retried, 1 would fail again").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Drop 1").click()
    page.get_by_role("button", name="Drop them").click()
    page.get_by_text("Dropped 1.").wait_for()
    page.get_by_label("Status").select_option("DROPPED")
    page.get_by_role("cell", name="Dropped").wait_for()


def test_an_aggregate_is_seen_as_of_each_version(page: Any) -> None:
    go(page, f"aggregates/{quote('acc/1', safe='')}")
    page.get_by_role("button", name="2 account.changed").click()
    has(page, "What version 2 changed")
    page.locator(".diff .added", has_text='"balance": 30').wait_for()
    page.locator(".diff .removed", has_text='"balance": 10').wait_for()


def test_offsets_are_reset_after_a_look_at_what_that_does(page: Any, server: Server) -> None:
    posted(server, "consumer-groups", {"group_name": "mail"})
    posted(server, "consumer-groups/mail/reset-offsets?preview=false", {"to": "earliest", "streams": ["flights"]})
    go(page, "groups/mail")
    page.get_by_role("button", name="Reset offsets").click()
    page.get_by_role("button", name="See what that means").click()
    page.get_by_role("dialog").get_by_text("3,000 events will be skipped").wait_for()
    page.get_by_role("button", name="Reset the offsets").click()
    page.get_by_text("The offsets are reset.").wait_for()
    assert server.http.get("/api/v1/consumer-groups/mail/lag").json()["total_lag"] == 0


def test_the_audit_is_verified_from_the_page(page: Any) -> None:
    go(page, "audit")
    page.get_by_role("button", name="Verify").click()
    has(page, "unchanged and in their places")


def test_a_server_with_a_login_asks_for_a_token_and_keeps_it_in_the_tab(watched: Watched, served: Callable[..., Server]) -> None:
    closed = served("--auth", "required")
    page = watched.open(closed.url)
    has(page, "give it a token")
    page.get_by_label("Token").fill("esb_01ABC_wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Token").fill((closed.folder / "admin.token").read_text().strip())
    page.get_by_role("button", name="Sign in").click()
    has(page, "Welcome")
    page.locator("#live", has_text=re.compile("^Live$")).wait_for()
    page.reload()
    has(page, "Welcome")
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("Object.keys(localStorage)") == []
    assert all("401" in each for each in watched.complaints), watched.complaints
    watched.complaints.clear()


def test_the_numbers_come_again_after_the_connection_broke(watched: Watched, server: Server) -> None:
    page = watched.open(server.url)
    page.locator("#live", has_text=re.compile("^Live$")).wait_for()
    page.context.set_offline(True)
    page.context.set_offline(False)
    until_s = time.monotonic() + 10
    while page.locator("#live").inner_text() != "Live":
        assert time.monotonic() < until_s
        time.sleep(0.1)
