"""``esb aggregates`` from the command line."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Done, Esb, commands

BANK = """
aggregate_type: Account
initial: {balance: 0}
apply:
  deposited: {balance: state.balance + payload.amount}
"""
CLASS = """
from event_streaming_bus import Aggregate, applies

class Account(Aggregate):
    total: int = 0

    @applies("deposited")
    def deposited(self, payload: dict) -> None:
        self.total += payload["amount"]
"""


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    Path(tmp_path / "bank.yaml").write_text(BANK)
    Path(tmp_path / "bank.py").write_text(CLASS)
    monkeypatch.setenv("ESB_SYNCHRONOUS", "NORMAL")  # nothing here is about power cuts
    with commands(tmp_path, monkeypatch) as run:
        yield run


def append(esb: Esb, aggregate_id: str, *amounts: int, code: int = 0) -> Done:
    done = Done(0, "", "")
    for amount in amounts:
        done = esb("aggregates", "append", "Account", aggregate_id, "deposited", f'{{"amount": {amount}}}', code=code)
    return done


def rows(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def shown(esb: Esb, *arguments: str, code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(esb("aggregates", "show", *arguments, code=code).out)
    return told


# --- appending and looking --------------------------------------------------------------------------------------------


def test_events_are_appended_and_the_aggregate_is_shown(esb: Esb) -> None:
    assert append(esb, "a", 1).out.startswith("version 1  position 1  evt_")
    append(esb, "a", 2)
    told = shown(esb, "a")
    assert (told["version"], told["data"], told["events_replayed"]) == (2, {"amount": 2}, 2)
    assert shown(esb, "a", "--as-of-version", "1")["data"] == {"amount": 1}
    assert shown(esb, "a", "--as-of-time", "1000")["data"] == {}
    lines = esb("aggregates", "events", "a").out.splitlines()
    assert [line.split("  ", 1)[1].strip() for line in lines] == ['1  deposited  {"amount":1}', '2  deposited  {"amount":2}']
    [event] = rows(esb("aggregates", "events", "a", "--json", "--after-version", "1"))
    assert (event["version"], event["event_data"], event["aggregate_type"]) == (2, {"amount": 2}, "Account")
    assert len(esb("read", "Account").out.splitlines()) == 2


def test_data_come_from_a_file_or_from_standard_input(esb: Esb) -> None:
    Path("event.json").write_text('{"amount": 1}')
    esb("aggregates", "append", "Account", "a", "deposited", "--file", "event.json")
    esb("aggregates", "append", "Account", "a", "deposited", "-", stdin='{"amount": 2}')
    events = rows(esb("aggregates", "events", "a", "--json"))
    assert [event["event_data"]["amount"] for event in events] == [1, 2]


def test_the_envelope_is_given_by_options(esb: Esb) -> None:
    given = {"event-id": "e1", "correlation-id": "c", "causation-id": "d", "user": "ann", "stream": "bank"}
    options = [f"--{name}={value}" for name, value in given.items()] + ["--expected-version", "no_stream"]
    esb("stream", "create", "bank")
    arguments = ["aggregates", "append", "Account", "a", "deposited", "{}", *options, "--metadata", '{"m": 1}', "--time", "1000"]
    [first] = rows(esb(*arguments, "--json"))
    assert (first["version"], first["duplicate"]) == (1, False)
    [event] = rows(esb("aggregates", "events", "a", "--json"))
    assert (event["event_id"], event["correlation_id"], event["causation_id"], event["user_id"]) == ("e1", "c", "d", "ann")
    assert (event["metadata"], event["timestamp"]) == ({"m": 1}, "1970-01-01T00:00:01.000Z")
    again = esb(*arguments)
    assert again.out == "version 1  position 1  e1  (it was there before)\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["{}", "--expected-version", "5"], 1, "esb: The aggregate 'a' is at version 0; expected_version 5 lies in the future"),
        (["{}", "--expected-version", "-1"], 1, "expected_version: expected 0 or more"),
        (["{}", "--expected-version", "x"], 1, "expected_version: expected 0 or more"),
        (["[1]"], 1, "esb: the event's data: expected a JSON object"),
        (['{"a": }'], 1, "esb: the event's data: not JSON: line 1, column"),
        (["{}", "--metadata", "7"], 1, "esb: --metadata: expected a JSON object"),
        (["{}", "--time", "noon"], 1, "timestamp"),
        (["--file", "missing.json"], 1, "esb: missing.json: cannot be read"),
        ([], 2, "give the event's data"),
        (["{}", "--file", "x"], 2, "one of them"),
    ],
)
def test_what_cannot_be_appended_is_told(esb: Esb, arguments: list[str], code: int, told: str) -> None:
    assert told in esb("aggregates", "append", "Account", "a", "deposited", *arguments, code=code).err


def test_folds_are_named_or_come_from_the_environment(esb: Esb, monkeypatch: pytest.MonkeyPatch) -> None:
    append(esb, "a", 1, 2)
    assert shown(esb, "a", "--folds", "bank.yaml")["data"] == {"balance": 3}
    assert shown(esb, "a", "--folds", "bank.py:Account")["data"] == {"total": 3}
    monkeypatch.setenv("ESB_FOLDS", "bank.yaml")
    assert shown(esb, "a")["data"] == {"balance": 3}
    assert "bank.yaml" in esb("aggregates", "show", "a", "--folds", "bank.yaml", "--folds", "bank.py:Account", code=1).err
    assert "there is no file" in esb("aggregates", "show", "a", "--folds", "bnak.py:Account", code=1).err


def test_aggregates_are_listed(esb: Esb) -> None:
    assert "there are no aggregates yet" in esb("aggregates", "list").err
    for name in ("a", "b", "c"):
        append(esb, name, 1)
    assert esb("aggregates", "list").out == "Account\n"
    assert [row["aggregate_id"] for row in rows(esb("aggregates", "list", "Account", "--json"))] == ["a", "b", "c"]
    short = esb("aggregates", "list", "Account", "--limit", "2", "--json")
    assert [row["aggregate_id"] for row in rows(short)] == ["a", "b"]
    assert "--after b" in short.err
    assert "there are no such aggregates" in esb("aggregates", "list", "Order").err
    assert "ACTIVE" in esb("aggregates", "list", "Account").out


def test_what_is_not_there_is_an_error(esb: Esb) -> None:
    for command in ("show", "events", "verify", "archive", "restore"):
        assert "There is no aggregate 'a'" in esb("aggregates", command, "a", code=1).err
    assert "There is no aggregate 'a'" in esb("aggregates", "delete", "a", "--yes", code=1).err


# --- proving ----------------------------------------------------------------------------------------------------------


def test_snapshots_are_proved(esb: Esb) -> None:
    for name in ("a", "b"):
        append(esb, name, 1, 2)
        esb("aggregates", "show", name, "--update-snapshot", "--folds", "bank.yaml")
    done = esb("aggregates", "verify", "--folds", "bank.yaml")
    assert done.out == ("EQUAL    a  version 2: equals a full replay\nEQUAL    b  version 2: equals a full replay\n")
    assert done.err == "2 aggregates, 2 snapshots: no problem\n"
    assert "UNKNOWN  a  version 2: made by another fold" in esb("aggregates", "verify", "a").out
    [check, _] = rows(esb("aggregates", "verify", "--type", "Account", "--json", "--folds", "bank.yaml"))
    assert check["is_equal"] is True
    assert "but not both" in esb("aggregates", "verify", "a", "--type", "Account", code=2).err


def test_a_snapshot_that_differs_makes_the_command_fail(esb: Esb) -> None:
    append(esb, "a", 1)
    append(esb, "b", 1)
    esb("aggregates", "show", "a", "--update-snapshot")
    with sqlite3.connect("esb-data/log.db") as db:
        db.execute("UPDATE aggregate_snapshots SET state = ?", (b'\x00{"amount":2}',))
    db.close()
    done = esb("aggregates", "verify", code=1)
    assert done.out == "DIFFERS  a  version 1: differs from a full replay\n"
    assert done.err == "2 aggregates, 1 snapshot: 1 problem\n"


def test_an_aggregate_that_cannot_be_replayed_does_not_hide_the_others(esb: Esb) -> None:
    append(esb, "a", 1)
    esb("aggregates", "append", "Account", "b", "deposited", '{"amount": 2}')
    for name in ("a", "b"):
        esb("aggregates", "show", name, "--update-snapshot", "--folds", "bank.yaml")
    with sqlite3.connect("esb-data/log.db") as db:  # an event that the fold cannot apply
        (record,) = db.execute("SELECT record FROM aggregate_events WHERE aggregate_no = 1").fetchone()
        db.execute("UPDATE aggregate_events SET record = ? WHERE aggregate_no = 1", (record.replace(b"amount", b"amonut"),))
    db.close()
    done = esb("aggregates", "verify", "--folds", "bank.yaml", code=1)
    assert done.out.startswith("FAILED   a  the fold of Account in bank.yaml cannot apply deposited")
    assert "EQUAL    b" in done.out


# --- the end ----------------------------------------------------------------------------------------------------------


def test_aggregates_are_archived_restored_and_deleted(esb: Esb) -> None:
    append(esb, "a", 1, 2)
    append(esb, "b", 1)
    archived = esb("aggregates", "archive", "a", "b").out.splitlines()
    assert archived[0].startswith("a  archived at version 2: 2 events, ")
    assert "Restore it first" in append(esb, "a", 3, code=1).err
    assert shown(esb, "a")["data"] == {"amount": 2}
    assert len(rows(esb("aggregates", "list", "Account", "--status", "ARCHIVED", "--json"))) == 2
    assert esb("aggregates", "restore", "a").out.startswith("a  restored at version 2: 2 events")
    assert "Add --yes" in esb("aggregates", "delete", "a", code=2).err
    assert "not at 1" in esb("aggregates", "delete", "a", "--yes", "--expected-version", "1", code=1).err
    assert esb("aggregates", "delete", "a", "--yes").out == "a  deleted at version 2: 2 events\n"
    assert append(esb, "a", 3).out.startswith("version 3")
    assert esb("aggregates", "delete", "a", "--hard", "--yes").out == "a  closed for ever at version 3: 1 event\n"
    assert "is DELETED" in append(esb, "a", 4, code=1).err
    [row] = rows(esb("aggregates", "list", "Account", "--status", "DELETED", "--json"))
    assert (row["aggregate_id"], row["current_version"]) == ("a", 3)


def test_old_events_are_dropped(esb: Esb) -> None:
    append(esb, "a", 1, 2, 3)
    assert "kept without end" in esb("aggregates", "retention").err
    [told] = rows(esb("aggregates", "retention", "Account", "--max-count", "1", "--folds", "bank.yaml", "--json"))
    assert told == {"aggregate_type": "Account", "max_age_ms": None, "max_count": 1, "fold": "declared"}
    assert "Account" in esb("aggregates", "retention").out
    assert "load the fold" in esb("aggregates", "scavenge", code=3).err
    preview = esb("aggregates", "scavenge", "--dry-run", "--folds", "bank.yaml")
    assert preview.out == "a  2 events, up to version 2\n"
    assert preview.err == "2 events of 1 aggregate would be dropped\n"
    [report] = rows(esb("aggregates", "scavenge", "Account", "--folds", "bank.yaml", "--json"))
    assert (report["events"], report["is_preview"]) == (2, False)
    assert shown(esb, "a", "--folds", "bank.yaml")["data"] == {"balance": 6}
    assert "versions 1 to 2 of the aggregate 'a' are no longer kept" in esb("aggregates", "show", "a", code=1).err
    kept = esb("aggregates", "events", "a")
    assert len(kept.out.splitlines()) == 1
    assert "up to version 2 are no longer kept" in kept.err
    esb("aggregates", "retention", "Account", "--unlimited")
    assert "kept without end" in esb("aggregates", "retention").err


@pytest.mark.parametrize(
    "arguments",
    [["Account", "--unlimited", "--max-count", "1"], ["--max-count", "1"], ["Account", "--max-count", "0"]],
)
def test_bad_options_are_wrong_usage(esb: Esb, arguments: list[str]) -> None:
    esb("aggregates", "retention", *arguments, code=2)
