"""Commands that ask the server which has the data folder: they show it a token, and say what to do if that is not enough."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Esb, commands, served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("closed")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A server that wants tokens, with an event ``one``, and ``two`` that it caused."""
    with served(folder / "esb-data", "--auth", "auto", may_tell=("broken off", "without completing")) as url:
        token = (folder / "esb-data" / "admin.token").read_text().strip()
        with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as http:
            event = {"event_type": "t", "event_id": "one", "payload": {}}
            for each in (event, event | {"event_id": "two", "causation_id": "one"}):
                assert http.post("/events", json=each).is_success
        yield url


@pytest.fixture
def esb(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(folder, monkeypatch) as esb:
        yield esb


def token_of(esb: Esb, *arguments: str) -> str:
    return esb("tokens", "create", "me", *arguments).out.strip()


ASKING = [
    (("sql", "select count(*) as n from events", "--csv"), "n\n2\n"),
    (("trace", "one"), "two"),
    (("why", "one"), "two"),
    (("history", "roll-off", "--days", "1", "--dry-run", "--json"), "days"),
]


@pytest.mark.parametrize(("arguments", "told"), ASKING, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_whoever_may_read_the_folder_is_answered_as_the_administrator(esb: Esb, arguments: tuple[str, ...], told: str) -> None:
    assert told in esb(*arguments).out


def test_the_token_of_the_environment_comes_first(esb: Esb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_TOKEN", f" {token_of(esb, '--role', 'viewer')}\n")
    assert esb("--tenant", "default", "sql", "select 1 as n", "--csv").out == "n\n1\n"
    assert "two" in esb("trace", "one").out
    token = token_of(esb, "--role", "publisher")
    monkeypatch.setenv("ESB_TOKEN", token)
    for arguments in (("--tenant", "default", "sql", "select 1"), ("trace", "one"), ("why", "one")):
        refused = esb(*arguments, code=1).err
        assert "does not have the permission" in refused
        assert "The token of ESB_TOKEN was shown to it; set ESB_TOKEN to another: `esb tokens create" in refused
        assert token not in refused


@pytest.mark.parametrize("content", ["esb_gone_x\n", "", "no\ntoken", "\u00e9"], ids=["gone", "empty", "lines", "letters"])
def test_without_a_token_that_counts_one_is_told_what_to_do(
    esb: Esb, folder: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    file = folder / "esb-data" / "admin.token"
    before = file.read_bytes()
    try:
        file.write_text(content, "utf-8")
        for arguments in (("sql", "select 1"), ("trace", "one"), ("why", "one")):
            refused = esb(*arguments, code=1).err
            assert f"{file.name}" in refused
            assert "set ESB_TOKEN to another: `esb tokens create NAME --role viewer`" in refused
    finally:
        file.write_bytes(before)


def test_why_an_answer_was_broken_off_is_asked_with_the_token_too(esb: Esb) -> None:
    late = "select case when range > 900000 then error('one too many') else range end as n from range(1000000)"
    assert "one too many" in esb("sql", late, "--csv", code=1).err
