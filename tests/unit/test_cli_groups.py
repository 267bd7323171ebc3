"""``esb groups``: what it prints where, and its exit codes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Done, Esb, commands

from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.models import EventPriority, Split
from event_streaming_bus.store.storage import open_storage


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder of its own with a stream ``orders`` of three events and the group ``mail``."""
    with commands(tmp_path, monkeypatch) as run:
        run("stream", "create", "orders")
        run("publish", "orders", "-", stdin='{"at": 1000}\n{"at": 2000}\n{"at": 3000}\n')
        run("groups", "create", "mail", "--description", "sends mail")
        yield run


def joined(committed: int | None = None) -> str:
    """Joins the group ``mail``, and commits how far ``orders`` is read; returns the member's id."""
    storage = open_storage()
    group = GroupCoordinator(storage).get("default", "mail")
    stream_id = storage.log.find_stream("default", "orders").stream_id
    member = GroupCoordinator(storage).join(group.group_id, [stream_id], client_id="c1")
    if committed is not None:
        split = Split(stream_id, EventPriority.NORMAL, 0)
        GroupCoordinator(storage).commit(group.group_id, member.member_id, member.generation, {split: committed})
    return member.member_id


def rows(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def test_groups_are_made_and_listed(esb: Esb) -> None:
    again = esb("groups", "create", "mail", "--description", "sends mail").out
    assert again.startswith("mail  grp_")
    [row] = rows(esb("groups", "list", "--json"))
    assert (row["group_name"], row["group_description"], row["state"]) == ("mail", "sends mail", "EMPTY")
    assert again.split() == ["mail", row["group_id"]]
    heading = "group_name state is_paused active_consumers generation last_rebalance group_id"
    assert " ".join(esb("groups", "list").out.splitlines()[0].split()) == heading
    nothing = esb("--tenant", "other", "groups", "list")
    assert (nothing.out, nothing.err) == ("", "there are no consumer groups yet; `esb groups create NAME` makes one\n")


def test_a_group_is_described_and_its_members_listed(esb: Esb) -> None:
    assert esb("groups", "members", "mail").err == "nobody is in the group mail\n"
    member_id = joined()
    described = json.loads(esb("groups", "describe", "mail").out)
    assert (described["group_name"], described["active_consumers"]) == ("mail", 1)
    assert rows(esb("groups", "members", "mail", "--json")) == described["members"]
    line = esb("groups", "members", described["group_id"]).out.splitlines()[2]
    assert (member_id in line, " c1 " in line, line.endswith("orders 0")) == (True, True, True)


def test_lag_is_a_table_or_json(esb: Esb) -> None:
    assert "evidence          the group has read no stream yet" in esb("groups", "lag", "mail").out
    member_id = joined(committed=1)
    [told] = rows(esb("groups", "lag", "mail", "--json"))
    assert (told["total_lag"], told["partition_lags"], told["verdict"]) == (2, {"0": 2}, "OK")
    table = esb("groups", "lag", "mail").out
    assert "total_lag         2\nverdict           OK\n" in table
    line = table.splitlines()[-1].split()
    assert [*line[:6], *line[7:]] == ["orders", "0", "NORMAL", "1", "3", "2", "OK", member_id]


def test_a_reset_shows_what_it_does_and_asks(esb: Esb) -> None:
    GroupCoordinator(open_storage()).leave(json.loads(esb("groups", "list", "--json").out)["group_id"], joined(committed=1))
    dry = esb("groups", "reset", "mail", "--to", "latest", "--dry-run")
    assert dry.out.splitlines()[-1].split() == ["orders", "0", "NORMAL", "1", "3", "2", "SKIPPED"]
    assert dry.err == "0 events will be read again, 2 events skipped; nothing was changed\n"
    unasked = esb("groups", "reset", "mail", "--to", "earliest", code=2)
    assert "mail: 1 event will be read again, 0 events skipped. Add --yes to say so." in unasked.err
    assert rows(esb("groups", "lag", "mail", "--json"))[0]["total_lag"] == 2
    done = esb("groups", "reset", "mail", "--to", "earliest", "--yes")
    assert done.err == "reset: 1 event read again, 0 events skipped\n"
    assert rows(esb("groups", "lag", "mail", "--json"))[0]["total_lag"] == 3
    chosen = ["--stream", "orders", "--partition", "0", "--lane", "normal", "--json", "--yes"]
    [told] = rows(esb("groups", "reset", "mail", "--to-offset", "2", *chosen))
    assert [(split["new_offset"], split["effect"]) for split in told["splits"]] == [(2, "SKIPPED")]
    esb("groups", "reset", "mail", "--to-time", "1000", "--yes")
    assert rows(esb("groups", "lag", "mail", "--json"))[0]["total_lag"] == 3


def test_a_group_with_members_is_reset_when_it_is_paused(esb: Esb) -> None:
    joined(committed=1)
    refused = esb("groups", "reset", "mail", "--to", "latest", "--yes", code=1)
    assert "esb: mail has 1 active member" in refused.err
    assert esb("groups", "pause", "mail").out == "mail is paused\n"
    esb("groups", "reset", "mail", "--to", "latest", "--yes")
    assert esb("groups", "resume", "mail").out == "mail goes on\n"
    assert esb("groups", "rebalance", "mail").out == "mail: 1 member will join anew\n"


def test_a_group_is_deleted_if_somebody_says_so(esb: Esb) -> None:
    assert (
        "The group mail, with 0 members, and what it has committed will be gone." in esb("groups", "delete", "mail", code=2).err
    )
    assert esb("groups", "delete", "mail", "--yes").out == "mail is gone\n"
    assert "esb: " in esb("groups", "delete", "mail", "--yes", code=1).err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["lag", "mial"], 1, "Did you mean 'mail'"),
        (["describe", "mial"], 1, "Did you mean 'mail'"),
        (["create", "g", "--session-timeout-ms", "5"], 1, "session_timeout_ms"),
        (["create", "g", "--strategy", "rang"], 2, "'range', 'roundrobin', 'sticky', 'cooperative-sticky'"),
        (["create", "mail", "--max-retries", "9"], 1, "mail"),
        (["reset", "mail"], 2, "Say where to, once"),
        (["reset", "mail", "--to", "latest", "--to-offset", "1"], 2, "Say where to, once"),
        (["reset", "mail", "--to", "latest"], 1, "esb: streams: the group mail has read no stream yet"),
        (["reset", "mail", "--to", "latest", "--stream", "ordrs"], 1, "Did you mean 'orders'"),
        (["reset", "mail", "--to-offset", "4", "--stream", "orders"], 1, "takes the offsets 0 to 3"),
        (["reset", "mail", "--to-time", "soon", "--stream", "orders"], 1, "esb: to.timestamp: 'soon' is no time"),
        (["reset", "mail", "--to", "latest", "--stream", "orders", "--partition", "1"], 1, "esb: partitions: expected 0 to 0"),
    ],
)
def test_a_mistake_is_told_in_one_message(esb: Esb, arguments: list[str], code: int, told: str) -> None:
    done = esb("groups", *arguments, code=code)
    assert told in done.err
    assert (done.out, done.err.count("\n") if code == 1 else 1) == ("", 1)
