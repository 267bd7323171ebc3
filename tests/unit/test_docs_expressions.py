"""docs/expressions.md: every row of its tables is true, and nothing of the language is left out."""

import json
import re
from pathlib import Path

import pytest

from event_streaming_bus.errors import ExpressionError
from event_streaming_bus.expressions import ENVELOPE_NAMES, parse
from event_streaming_bus.expressions.functions import FUNCTIONS, GUARDED_METHODS, METHODS
from event_streaming_bus.models import Event

PAGE = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.M | re.S)
    assert found, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


EXAMPLES = [(codes(row[0])[0], codes(row[1])[0]) for row in rows("Examples")]
REFUSED = [codes(row[0])[0] for row in rows("What is refused")]


@pytest.mark.parametrize(("text", "answer"), EXAMPLES)
def test_an_example_gives_the_answer_that_stands_beside_it(text: str, answer: str) -> None:
    payload = re.search(r"```json\n(.*?)```", PAGE, re.S)
    assert payload
    event = Event("evt_1", "order.paid", 1_359_628_200_000, payload[1].encode(), key="k1")
    assert json.loads(json.dumps(parse(text).compile()(event))) == json.loads(answer)


@pytest.mark.parametrize("text", REFUSED)
def test_what_the_page_says_is_refused_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


def test_the_tables_are_there() -> None:
    assert len(EXAMPLES) >= 20
    assert len(REFUSED) >= 10


def test_every_function_is_listed_and_no_other() -> None:
    listed = {re.match(r"\w+", code)[0] for row in rows("Functions") for code in codes(row[0])}  # type: ignore[index]
    assert listed == {*FUNCTIONS, "exists"}


def test_every_method_is_listed_and_no_other() -> None:
    assert set(codes(section("Methods of text"))[0].split()) == {*METHODS, *GUARDED_METHODS}


def test_every_name_of_the_envelope_is_listed() -> None:
    intro = PAGE.partition("The names of the envelope are")[2].partition("\n\n")[0]
    assert set(codes(intro)) == set(ENVELOPE_NAMES)


@pytest.mark.parametrize("text", ["1 == true", "7 // 2 == 3", "-7 % 4 == 1", "7 / 2 == 3.5", "not ('a' == 1)"])
def test_what_the_page_says_of_pythons_answers_is_so(text: str) -> None:
    assert parse(text).compile()(Event("evt_1", "t", 0, b"{}")) is True
