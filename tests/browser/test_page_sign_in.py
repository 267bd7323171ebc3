"""Who the page takes one for: signing in and out, a token in the address, one that counts no more, what roles allow."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from event_streaming_bus.access.model import Role
from event_streaming_bus.access.permissions import PERMISSIONS, allows

from .conftest import Server, Watched
from .test_page import go, has, looks
from .test_page_management import admin_token, closed_server, got, refused, token_of


@pytest.fixture(scope="module")
def closed(served: Callable[..., Server]) -> Server:
    """The server that asks for tokens."""
    return closed_server(served)


def test_a_token_in_the_address_signs_in_and_leaves_it(watched: Watched, browser: Any, closed: Server) -> None:
    token = admin_token(closed)
    context = browser.new_context()
    for address, left, title in (
        ("#token={}", "#/", "Overview"),
        ("#/routes?token={}", "#/routes", "Routing rules"),
        ("#/sql?token={}&q=SELECT%201", "#/sql?q=SELECT+1", "SQL"),
    ):
        page = watched.visit(context, f"{closed.url}/{address.format(token)}")
        page.locator("h1", has_text=title).wait_for()
        assert page.evaluate("location.hash") == left
        assert page.evaluate("sessionStorage.getItem('esb.token')") == token
        assert page.evaluate("Object.keys(localStorage)") == []
        assert page.evaluate("history.length") <= 2  # about:blank and this one: none with the token
    context.close()


def test_a_token_may_come_into_a_page_that_is_open(watched: Watched, closed: Server) -> None:
    page = watched.open(closed.url)
    page.locator("h1", has_text="Sign in").wait_for()
    go_to = f"#/tokens?token={admin_token(closed)}"
    page.evaluate("(hash) => { location.hash = hash; }", go_to)
    page.locator("h1", has_text="Tokens").wait_for()
    assert page.evaluate("location.hash") == "#/tokens"
    refused(watched)


def test_signing_in_is_pasting_a_token_and_enter(watched: Watched, closed: Server, picture: Callable[[Any, str], None]) -> None:
    page = watched.open(f"{closed.url}/#/routes")
    has(page, "This server asks who you are")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert looks(page, "faint") == [], scheme
        picture(page, f"sign-in-{scheme}")
    assert looks(page, "nameless") == []
    assert page.get_by_role("link", name="Streams").count() == 0
    page.keyboard.insert_text("esb_01ABC_wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    page.keyboard.insert_text(admin_token(closed))
    page.keyboard.press("Enter")
    page.locator("h1", has_text="Routing rules").wait_for()
    page.locator("#live", has_text=re.compile("^Live$")).wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.locator("h1", has_text="Sign in").wait_for()
    assert page.evaluate("sessionStorage.getItem('esb.token')") is None
    refused(watched)


def test_who_is_refused_meanwhile_is_asked_again(watched: Watched, closed: Server) -> None:
    token = token_of(closed, "leaving", "viewer")
    page = watched.open(f"{closed.url}/#/routes?token={token}")
    page.get_by_role("link", name="large").wait_for()
    token_id = next(each["token_id"] for each in got(closed, "tokens")["tokens"] if each["principal"] == "leaving")
    assert closed.http.delete(f"/api/v1/tokens/{token_id}").is_success
    go(page, "streams")
    page.get_by_role("alert").get_by_text("The token was revoked").wait_for()
    page.locator("h1", has_text="Sign in").wait_for()
    refused(watched)


def test_roles_allow_in_the_page_what_they_allow_in_the_server(watched: Watched, closed: Server) -> None:
    page = watched.open(f"{closed.url}/#token={admin_token(closed)}")
    nouns = (
        "stream",
        "event",
        "group",
        "processor",
        "schema",
        "route",
        "projection",
        "dead-letter",
        "scheduled-event",
        "saved-query",
    )
    pairs = [f"{noun}:{verb}" for noun in (*nouns, "aggregate", "erasure", "token") for verb in ("read", "manage")]
    wanted = [*pairs, "audit:view", "history:query", "event:publish", "aggregate:append", "group:consume", "user:name"]
    base = page.evaluate("document.querySelector('script[type=module]').src.replace('main.js', '')")
    # Each is who somebody with such a role is, as the server tells it.
    grants = [*(role.value for role in Role), "publisher:orders,orders.*"]
    tokens = {grant: token_of(closed, "somebody", grant) for grant in grants}
    ask = """async ({ base, wanted, tokens }) => {
        const { may, me, remember } = await import(`${base}rights.js`);
        const self = me();
        const found = {};
        for (const [grant, token] of Object.entries(tokens)) {
            const answer = await fetch("/api/v1/tokens/self", { headers: { Authorization: `Bearer ${token}` } });
            remember(await answer.json());
            if (!grant.includes(":")) found[grant] = wanted.filter((each) => may(each));
        }
        found.streams = ["orders", "orders.eu", "orders_eu", "other"].filter((each) => may("event:publish", each));
        remember(self);
        return found;
    }"""
    told = page.evaluate(ask, {"base": base, "wanted": wanted, "tokens": tokens})
    assert told.pop("streams") == ["orders", "orders.eu"]
    assert told == {role.value: [each for each in wanted if allows(role, each)] for role in PERMISSIONS}, json.dumps(told)
