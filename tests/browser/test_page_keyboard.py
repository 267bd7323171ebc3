"""The page without a mouse, and its colours."""

from typing import Any

import pytest

from .conftest import Server, Watched
from .test_page import go, has, looks

TEXT = [(text, ground) for text in ("text", "muted", "accent") for ground in ("page", "surface", "raised")]
TEXT += [("accent", "tint"), ("text", "tint"), ("on-accent", "accent")]
TEXT += [(tone, ground) for tone in ("good", "warn", "bad") for ground in ("surface", f"{tone}-tint")]
TEXT += [(f"series-{number}", "raised") for number in (1, 2, 3)]  # JSON
SHAPES = [("edge", ground) for ground in ("surface", "page", "raised")]
SHAPES += [(f"series-{number}", "surface") for number in range(1, 7)]


def focused(page: Any) -> str:
    found: str = page.evaluate("(document.activeElement?.id || document.activeElement?.textContent || '').trim()")
    return found


def test_the_first_stop_leads_past_the_navigation(page: Any) -> None:
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    page.keyboard.press("Enter")
    assert focused(page) == "main"


def test_every_view_is_two_keys_away_and_its_title_gets_the_focus(page: Any) -> None:
    titles = {"s": "Streams", "f": "Flows", "c": "Schemas", "g": "Consumer groups", "q": "SQL", "o": "Overview"}
    titles |= {"r": "Routing rules", "t": "Scheduled events", "p": "Projections", "e": "Erasure", "k": "Tokens"}
    for key, title in titles.items():
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.locator("h1", has_text=title).wait_for()
        assert focused(page) == title


def test_everything_in_the_navigation_is_reached_and_opened_with_keys(page: Any) -> None:
    seen = []
    for _ in range(21):
        page.keyboard.press("Tab")
        seen.append(focused(page))
        if seen[-1] == "Tokens":
            break
    assert seen[-14:] == [
        *("Overview", "Streams", "Flows", "Schemas", "Routing rules", "Consumer groups", "Dead letters", "Scheduled"),
        *("Aggregates", "Projections", "SQL", "Audit", "Erasure", "Tokens"),
    ]
    page.keyboard.press("Enter")
    has(page, "New token")
    assert page.locator("nav [aria-current=page]").inner_text().strip() == "Tokens"


def test_a_table_is_sorted_and_a_row_opened_with_keys(page: Any) -> None:
    go(page, "streams")
    events = page.get_by_role("button", name="Events")
    events.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("columnheader", name="Events").get_attribute("aria-sort") == "descending"
    first = page.get_by_role("table", name="Streams").get_by_role("row").nth(1)
    assert first.get_by_role("link").inner_text() == "flights"
    first.get_by_role("link").focus()
    page.keyboard.press("Enter")
    page.locator("h1", has_text="flights").wait_for()


def test_a_dialog_takes_the_focus_keeps_it_and_gives_it_back(page: Any) -> None:
    button = page.get_by_role("button", name="Settings")
    button.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Settings").wait_for()
    for _ in range(14):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    assert focused(page) == "settings"


def test_what_has_the_focus_is_marked(page: Any) -> None:
    page.get_by_role("link", name="Streams", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(width.removesuffix("px")) >= 2


def test_the_focus_stays_while_a_live_table_changes(page: Any) -> None:
    go(page, "flows")
    link = page.get_by_role("table", name="Processors").get_by_role("link", name="late_ones")
    link.focus()
    page.wait_for_timeout(3500)  # the list is read again, and three messages come
    assert focused(page) == "late_ones"


def test_the_colours_can_be_chosen_against_those_of_the_system(watched: Watched, server: Server) -> None:
    page = watched.open(server.url, color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.get_by_role("button", name="Cancel").click()
    page.locator("dialog").wait_for(state="detached")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("dark")
    page.get_by_role("button", name="Save").click()
    page.locator("dialog").wait_for(state="detached")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert [each for each in looks(page, "pairs", TEXT) if each[2] < 4.5] == []
    assert [each for each in looks(page, "pairs", SHAPES) if each[2] < 3] == []


def test_the_navigation_folds_up_where_there_is_no_room(watched: Watched, server: Server) -> None:
    page = watched.open(server.url, viewport={"width": 360, "height": 740})
    menu = page.get_by_role("button", name="Menu")
    assert page.get_by_role("link", name="Audit").is_hidden()
    menu.focus()
    page.keyboard.press("Enter")
    assert menu.get_attribute("aria-expanded") == "true"
    page.get_by_role("link", name="Audit").click()
    has(page, "Verify")
    assert page.get_by_role("link", name="Audit").is_hidden()
    assert looks(page, "overhang") == 0


def test_nothing_moves_for_who_wants_no_motion(watched: Watched, server: Server) -> None:
    page = watched.open(server.url, reduced_motion="reduce")
    page.evaluate("document.querySelector('main').append(Object.assign(document.createElement('p'), { className: 'loading' }))")
    assert page.evaluate("getComputedStyle(document.querySelector('p.loading'), '::before').animationName") == "none"
