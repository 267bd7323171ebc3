"""Which commands are in the audit: every command that there is says so, in one of two tables."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from running import Esb, commands

from event_streaming_bus.cli.auditing import AUDITED, RESULT, UNTOLD, commands_of
from event_streaming_bus.cli.main import cli

FLOW = """
streams: [{name: orders}, {name: large}]
processors:
  - processor_name: large_ones
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: large
    processing_logic: {filter_expression: payload.n > 1}
"""


def every_command() -> dict[tuple[str, ...], click.Command]:
    context = click.Context(cli)
    found: dict[tuple[str, ...], click.Command] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found |= commands_of(name, command)
    return found


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as esb:
        yield esb


def told(esb: Esb) -> list[tuple[str, str, str]]:
    entries = [json.loads(line) for line in esb("audit", "list", "--json").out.splitlines()]
    assert all(entry["actor"].startswith("cli:") for entry in entries if entry["action"] != "erasure.certify")
    return [(entry["action"], entry["target"], entry["outcome"]) for entry in reversed(entries)]


def test_every_command_is_audited_or_listed_as_one_that_changes_nothing() -> None:
    there = every_command()
    assert not any(isinstance(command, click.Group) for command in there.values()), "groups of groups are not walked"
    assert sorted(there) == sorted([*AUDITED, *UNTOLD])


@pytest.mark.parametrize("path", AUDITED, ids=" ".join)
def test_the_table_names_parameters_that_there_are(path: tuple[str, ...]) -> None:
    command, what = every_command()[path], AUDITED[path]
    named = {parameter.name for parameter in command.params}
    assert {what.target, what.only_with} - {None, RESULT} <= named
    assert hasattr(command.callback, "audited")


def test_rolling_the_history_off_is_audited_and_asking_is_not(esb: Esb) -> None:
    esb("stream", "create", "orders")
    esb("history", "roll-off", "--days", "1", "--dry-run")
    esb("history", "roll-off", "--days", "1")
    assert told(esb)[1:] == [("history.roll-off", "days=1", "DONE")]


def test_an_erasure_is_audited_by_its_certificate_and_never_by_its_subject(esb: Esb, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"who": {"type": "string"}, "mail": {"type": "string", "x-personal": True}}}
    (tmp_path / "user.json").write_text(json.dumps({"schema_name": "user", "json_schema": schema | {"x-subject": "/who"}}))
    (tmp_path / "users.ndjson").write_text('{"who": "anna-4711", "mail": "a@example.org"}\n')
    esb("schemas", "register", "user.json")
    esb("stream", "create", "users", "--schema", "user")
    esb("publish", "users", "users.ndjson", "--type", "user")
    esb("erase", "nobody-0815", "--reason", "asked", "--yes", code=1)
    made = esb("erase", "anna-4711", "--reason", "asked", "--yes").out.split()[-1]
    esb("erasures", "reapply")
    entries = [entry for entry in told(esb) if entry[0].startswith("erasure")]
    assert entries == [
        ("erasure.create", "", "REFUSED"),
        ("erasure.certify", made, "DONE"),
        ("erasure.create", made, "DONE"),
        ("erasure.reapply", "", "DONE"),
    ]
    everything = esb("audit", "list", "--json").out
    assert "anna-4711" not in everything
    assert "nobody-0815" not in everything


def test_a_query_is_audited_when_it_is_saved_and_not_when_it_is_asked(esb: Esb) -> None:
    esb("stream", "create", "orders")
    esb("sql", "select 1", "--save-as", "mine")
    esb("sql", "--saved", "mine")
    esb("sql", "select 2")
    esb("sql", "drop table events", "--save-as", "theirs", code=1)
    assert told(esb)[1:] == [("saved-query.set", "mine", "DONE"), ("saved-query.set", "theirs", "REFUSED")]


def test_a_flow_is_audited_when_it_starts(esb: Esb, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    esb("stream", "create", "orders")
    esb("run", "flow.yaml", "--until-end")
    esb("run", "other.yaml", "--until-end", code=1)
    assert told(esb)[1:] == [("flow.start", "flow.yaml", "DONE"), ("flow.start", "other.yaml", "REFUSED")]
