"""``esb dead-letters`` as a process of its own: what it prints where, and its exit codes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm import run_esb

from event_streaming_bus.bus import open_bus
from event_streaming_bus.testing import read_all

ESB = str(Path(sys.executable).with_name("esb"))
FLOW = """
streams: [{name: orders}, {name: shares}]
processors:
  - processor_name: share
    processor_type: MAP
    source_stream_id: orders
    target_stream_id: shares
    processing_logic: {fields: {share: "payload.total / payload.people"}}
"""
Completed = subprocess.CompletedProcess[str]
Esb = Callable[..., Completed]


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Esb:
    """Runs ``esb`` in a folder where the flow has left three dead letters, two of the key ``a``; ``code`` is the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0, stdin: str = "") -> Completed:
        done = run_esb(arguments, stdin=stdin)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    rows = [("a", 8, 0), ("a", 8, 2), ("b", 9, 0), ("a", 6, 0)]
    Path("orders.csv").write_text("who,total,people\n" + "".join(f"{who},{total},{people}\n" for who, total, people in rows))
    Path("flow.yaml").write_text(FLOW)
    run("stream", "create", "orders")
    run("publish", "orders", "orders.csv", "--key", "who")
    run("run", "flow.yaml", "--until-end")
    return run


def rows(done: Completed) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_letters_are_listed_as_a_table_and_as_json(esb: Esb) -> None:
    table = esb("dead-letters", "list").stdout.splitlines()
    columns = "dead_letter_id status retries failed_at stream step key error_type error_message"
    assert " ".join(table[0].split()) == columns
    assert len([line for line in table if "ZeroDivisionError" in line]) == 3
    listed = rows(esb("dead-letters", "list", "--json"))
    assert [(row["key"], row["step"], row["status"]) for row in listed] == [(k, "share", "OPEN") for k in "aba"]
    newest = rows(esb("dead-letters", "list", "--json", "--newest-first", "--limit", "3"))
    assert newest == listed[::-1]
    limited = esb("dead-letters", "list", "--json", "--limit", "2")
    assert rows(limited) == listed[:2]
    assert limited.stderr == "there are more than 2; --limit says how many to list\n"
    assert rows(esb("dead-letters", "list", "--json", "--key", "b", "--processor", "share", "--stream", "orders")) == listed[1:2]
    nothing = esb("dead-letters", "list", "--status", "dropped")
    assert (nothing.stdout, nothing.stderr) == ("", "there are no such dead letters\n")


def test_a_letter_is_shown_as_json(esb: Esb) -> None:
    (letter,) = rows(esb("dead-letters", "list", "--json", "--key", "b"))
    shown = json.loads(esb("dead-letters", "show", letter["dead_letter_id"]).stdout)
    assert shown["payload"] == {"who": "b", "total": 9, "people": 0}
    assert shown | letter == shown
    assert "There is no dead letter 'x'" in esb("dead-letters", "show", "x", code=1).stderr


def test_what_fails_again_and_what_waits_for_it_ends_with_3_and_a_corrected_flow_ends_with_0(esb: Esb) -> None:
    ids = [row["dead_letter_id"] for row in rows(esb("dead-letters", "list", "--json"))]
    failed = esb("dead-letters", "retry", "--all", code=3)
    lines = failed.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[ids[0], "FAILED"], [ids[1], "FAILED"], [ids[2], "WAITING"]]
    assert lines[2].endswith(f"waits for {ids[0]}")
    assert failed.stderr == "2 failed, 1 waiting\n"
    Path("flow.yaml").write_text(FLOW.replace("/ payload.people", "/ max(payload.people, 1)"))
    esb("run", "flow.yaml", "--until-end")
    assert rows(esb("dead-letters", "retry", ids[1], "--json")) == [
        {"dead_letter_id": ids[1], "result": "RETRIED", "message": None, "events_written": 1}
    ]
    rest = esb("dead-letters", "retry", "--all", "--processor", "share")
    assert rest.stdout.splitlines() == [f"{letter_id}  RETRIED  1 event written" for letter_id in (ids[0], ids[2])]
    with open_bus() as bus:
        assert [event.payload["share"] for event in read_all(bus, "shares")] == [4, 9, 8, 6]
    assert esb("dead-letters", "retry", "--all").stderr == "there are no such dead letters\n"
    assert "it is RETRIED already" in esb("dead-letters", "retry", ids[0], code=3).stdout


def test_a_running_flow_goes_on_undisturbed_by_a_retry(esb: Esb) -> None:
    Path("flow.yaml").write_text(FLOW.replace("/ payload.people", "/ max(payload.people, 1)"))
    running = subprocess.Popen([ESB, "run", "flow.yaml"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with open_bus() as bus:
            for there in (5, 12):
                esb("publish", "orders", "orders.csv", "--key", "who")
                deadline = time.monotonic() + 60
                while len(read_all(bus, "shares")) < there:
                    assert time.monotonic() < deadline
                    assert running.poll() is None
                    time.sleep(0.05)
                if there == 5:
                    assert esb("dead-letters", "retry", "--all").stderr == "3 retried\n"
            assert sorted(event.payload["share"] for event in read_all(bus, "shares")) == sorted([4, 9, 8, 6] * 3)
    finally:
        running.terminate()
        _, errors = running.communicate(timeout=60)
    assert errors.splitlines()[-1] == "esb: stopped; the same command goes on from here"


def test_dropping_wants_a_yes(esb: Esb) -> None:
    ids = [row["dead_letter_id"] for row in rows(esb("dead-letters", "list", "--json"))]
    asked = esb("dead-letters", "drop", "--all", "--key", "a", code=2)
    assert "2 dead letters will be dropped for good. Add --yes to say so." in asked.stderr
    dropped = esb("dead-letters", "drop", "--all", "--key", "a", "--yes")
    assert dropped.stdout.splitlines() == [f"{letter_id}  DROPPED" for letter_id in (ids[0], ids[2])]
    assert dropped.stderr == "2 dropped\n"
    assert [row["dead_letter_id"] for row in rows(esb("dead-letters", "list", "--json"))] == [ids[1]]
    assert esb("dead-letters", "drop", "--all", "--key", "a").stderr == "there are no such dead letters\n"


@pytest.mark.parametrize("arguments", [[], ["x", "--all"], ["x", "--key", "a"], ["--key", "a"]])
@pytest.mark.parametrize("command", ["retry", "drop"])
def test_a_command_that_does_not_say_which_letters_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_esb(["dead-letters", command, *arguments])
    assert (done.returncode, "Say which" in done.stderr) == (2, True)
