"""``esb routes``: what it prints where, and its exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Esb, commands

FILE = """\
routes:
  - name: large
    stream: orders
    match: payload.total > 100
    to: large-orders
    priority: HIGH
  - name: everything
    stream: "*"
    to: [archive]
"""


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder of its own with three streams and ``routes.yaml``."""
    with commands(tmp_path, monkeypatch) as run:
        for name in ("orders", "large-orders", "archive"):
            run("stream", "create", name)
        Path("routes.yaml").write_text(FILE)
        yield run


def names(esb: Esb) -> list[str]:
    return [json.loads(line)["name"] for line in esb("routes", "list", "--json").out.splitlines()]


def test_a_file_is_applied_and_applying_it_again_changes_nothing(esb: Esb) -> None:
    shown = esb("routes", "apply", "routes.yaml", "--dry-run")
    assert (shown.out, shown.err) == ("new        large@1\nnew        everything@1\n", "2 new; nothing was changed\n")
    assert names(esb) == []
    assert "Add --yes" in esb("routes", "apply", "routes.yaml", code=2).err
    assert esb("routes", "apply", "routes.yaml", "--yes").err == "2 new\n"
    assert names(esb) == ["everything", "large"]
    again = esb("routes", "apply", "routes.yaml")
    assert (again.out.split(), again.err) == (
        ["unchanged", "large@1", "unchanged", "everything@1"],
        "2 unchanged; nothing was changed\n",
    )
    changed = esb("routes", "apply", "-", "--yes", stdin=FILE.replace("> 100", "> 200"))
    assert changed.out.splitlines()[:2] == [
        "changed    large@2",
        '           changed /match: "payload.total > 100" -> "payload.total > 200"',
    ]
    assert changed.err == "1 changed, 1 unchanged\n"


def test_rules_are_set_shown_and_removed(esb: Esb) -> None:
    options = ["--stream", "orders", "--to", "large-orders", "--priority", "high", "--set-metadata", "by='esb'", "--then", "stop"]
    assert esb("routes", "set", "large", *options, "--match", "payload.total > 1").out == "new        large@1\n"
    shown = json.loads(esb("routes", "show", "large", "--json").out)
    assert shown["set_metadata"] == {"by": "'esb'"}
    assert (shown["priority"], shown["then"], shown["changed_by"]) == ("HIGH", "stop", "esb")
    assert "changed    large@2" in esb("routes", "set", "large", "--stream", "orders", "--dead-letter", "no more").out
    assert "dead_letter       no more" in esb("routes", "show", "large").out
    assert "match             payload.total > 1" in esb("routes", "show", "large", "--version", "1").out
    row = esb("routes", "list").out.splitlines()[-1].split()
    assert row[:4] == ["orders", "100", "large", "2"]
    esb("routes", "remove", "large", code=2)
    assert esb("routes", "remove", "large", "--yes").out == "large is removed\n"
    assert esb("routes", "list").err == "there are no routing rules yet; `esb routes set NAME` makes one\n"
    assert esb("routes", "show", "large", code=1).err.startswith("esb: There is no routing rule 'large'.")


def test_published_rows_are_routed(esb: Esb) -> None:
    esb("routes", "apply", "routes.yaml", "--yes")
    esb("publish", "orders", "-", stdin='{"total": 5}\n{"total": 500}\n')
    assert '{"total":500}' in esb("read", "large-orders").out
    assert len(esb("read", "archive").out.splitlines()) == 2


def test_rules_are_tried_without_writing(esb: Esb) -> None:
    esb("publish", "orders", "-", stdin='{"total": 5}\n{"total": 500}\n{"total": null}\n')
    tried = esb("routes", "try", "routes.yaml", "--stream", "orders", "--last", "10")
    assert "1 event to large-orders\n" in tried.out
    assert "3 events to archive\n" in tried.out
    assert "large: match: not evaluated for 1 event, as evt_" in tried.out
    assert tried.out.endswith("payload.total is null\n")
    assert tried.err == "3 events: 3 stay in orders, 0 of them as they are; nothing was written\n"
    assert json.loads(esb("routes", "try", "--stream", "orders", "--json").out)["rules"] == []
    assert (names(esb), esb("read", "archive").out) == ([], "")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("to: [archive]", "to: [nope]", "esb: routes.yaml:9: routes[1].to[0]: There is no stream 'nope'."),
        ("> 100", ">> 100", "esb: routes.yaml:4: routes[0].match: "),
        ("HIGH", "URGENT", "esb: routes.yaml:6: routes[0].priority: 'URGENT' is none of CRITICAL"),
        ("name: everything", "name: large", "esb: routes.yaml:7: routes[1].name: 'large' is the name of a rule before"),
        ("to: large-orders", "too: large-orders", "esb: routes.yaml:5: routes[0].too: unknown key; did you mean 'to'?"),
        ("routes:", "rules:", "esb: routes.yaml: expected a list 'routes', or a rule with a name"),
        ('stream: "*"', "stream: large-orders", None),
        ("to: [archive]", "to: [orders, archive]", "esb: routes: large-orders -> orders -> large-orders: a cycle"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(esb: Esb, before: str, after: str, message: str | None) -> None:
    Path("routes.yaml").write_text(FILE.replace(before, after))
    done = esb("routes", "apply", "routes.yaml", "--yes", code=0 if message is None else 1)
    assert done.err.startswith(message or "2 new")
    assert len(names(esb)) == (2 if message is None else 0)


def test_bad_options_are_wrong_usage(esb: Esb) -> None:
    assert "expected KEY=EXPRESSION" in esb("routes", "set", "x", "--stream", "orders", "--set-metadata", "a", code=2).err
    assert "the rule does nothing" in esb("routes", "set", "x", "--stream", "orders", code=1).err
    caret = esb("routes", "set", "x", "--stream", "orders", "--to", "archive", "--match", "payload.a + ]", code=1).err
    assert "    payload.a + ]\n" in caret
    assert "^" in caret
