"""Dead letters chosen by SQL, and previews of retries: what they say is what a retry does, and they change nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import commands, served

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import InUseError, InvalidInputError, QueryError
from event_streaming_bus.flows import letter_preview, letter_selection
from event_streaming_bus.flows.dead_letters import DeadLetterService
from event_streaming_bus.flows.letter_selection import found_ids
from event_streaming_bus.models import EventConfig, EventPriority, InvalidEventPolicy, StreamConfig, rfc3339
from event_streaming_bus.store import letters as letters_module
from event_streaming_bus.store.history import History
from event_streaming_bus.store.letters import LetterFilter, LetterStatus
from event_streaming_bus.store.questions import Answer
from event_streaming_bus.testing import read_all, temporary_bus

OPEN = LetterFilter()
ALL = "select dead_letter_id from dead_letters"


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


def guarded(bus: Bus, *required: str, version: str = "1.0", tenant_id: str = "default") -> None:
    """A stream ``orders`` whose schema wants these fields; made anew if it is there."""
    schema = {"schema_name": "order", "schema_version": version, "compatibility_level": "NONE"}
    json_schema = {"type": "object", "required": list(required)}
    schema_id = bus.schemas.register(schema | {"json_schema": json_schema}, tenant_id).schema_id
    for info in bus.log.list_streams(tenant_id):
        bus.log.drop_stream(info.stream_id)
    aside = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="orders", tenant_id=tenant_id, schema_id=schema_id, on_invalid=aside))


def publish(bus: Bus, *payloads: dict[str, Any], tenant_id: str = "default", **config: Any) -> list[str]:
    """Publish payloads with the key that ``k`` says; returns their ids, which are those of the letters that they become."""
    made = bus.publishing.submit(
        EventConfig(event_type="order", **config),
        payloads,
        stream_id="orders",
        keys=[payload.get("k") for payload in payloads],
        tenant_id=tenant_id,
    )
    return [receipt.event_id for receipt in made.result()]


def states(bus: Bus) -> list[tuple[str, int]]:
    """Status and retries of every letter."""
    page = bus.dead_letters.box().page(LetterFilter(status=None), limit=1000)
    return [(letter.state.status.value, letter.state.retries) for letter in page.letters]


# --- by SQL -----------------------------------------------------------------------------------------------------------


def test_letters_that_a_query_finds_are_retried_in_the_order_of_writing_whatever_its_order(bus: Bus) -> None:
    guarded(bus, "total")
    low = publish(bus, *({"k": "a", "n": n} for n in range(5)), priority=EventPriority.LOW)
    high = publish(bus, *({"k": "a", "n": n} for n in range(5)), priority=EventPriority.HIGH)
    guarded(bus, version="2.0")
    query = "select lane, DEAD_LETTER_ID, attempts from dead_letters where event_id != '{}' order by dead_letter_id desc;"
    reports = list(bus.dead_letters.retry(sql=query.format(low[2])))
    expected = [*high, *low[:2], *low[3:]]
    assert [(report.dead_letter_id, report.result.value) for report in reports] == [(each, "RETRIED") for each in expected]
    assert [e.payload["n"] for e in read_all(bus, "orders") if e.priority is EventPriority.LOW] == [0, 1, 3, 4]
    assert bus.dead_letters.count(sql=ALL) == 1


async def test_ids_that_are_no_open_letter_are_refused_and_the_others_go_on(bus: Bus) -> None:
    guarded(bus, "total")
    first, second, third = publish(bus, {"k": "a"}, {"k": "b"}, {"k": "c"})
    await bus.dead_letters.drop_dead_letter(first)
    guarded(bus, version="2.0")
    (published,) = publish(bus, {"k": "d"})
    unknown = f"{ALL} union all select event_id from events where stream = 'orders' union all select 'x' union all select null"
    told = await bus.dead_letters.retry_dead_letters(sql=unknown)
    assert {name: count for name, count in told["counts"].items() if count} == {"retried": 2, "refused": 3}
    refused = {report["dead_letter_id"]: report["message"] for report in told["reports"][:3]}
    gone = "there is no such dead letter, or no longer"
    assert refused == {published: gone, "x": gone, first: "it is DROPPED already"}
    assert (await bus.dead_letters.drop_dead_letters(sql=ALL))["counts"]["refused"] == 2
    assert {second, third} == {e.causation_id for e in read_all(bus, "orders")} - {None}


def test_a_query_sees_the_letters_of_its_tenant_alone(bus: Bus) -> None:
    for tenant_id in ("default", "other"):
        guarded(bus, "total", tenant_id=tenant_id)
    (mine,), (theirs,) = (publish(bus, {"k": "a"}, tenant_id=tenant_id) for tenant_id in ("default", "other"))
    dropped = list(bus.dead_letters.drop(sql=ALL, tenant_id="other"))
    assert [report.dead_letter_id for report in dropped] == [theirs]
    assert [letter.letter_id for letter in bus.dead_letters.box().page(OPEN, limit=9).letters] == [mine]
    with pytest.raises(QueryError, match="name tables without a schema"):
        bus.dead_letters.drop(sql="select dead_letter_id from main.dead_letters", tenant_id="other")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select event_id from dead_letters", "expected a column dead_letter_id in the answer; it has event_id"),
        ("select 1 as dead_letter_id", "expected the ids of dead letters in the column dead_letter_id, got 1"),
        ("select dead_letter_id from dead_leters", "there is no table dead_leters"),
        ("select dead_letter_id frm dead_letters", "syntax error"),
        ("delete from dead_letters", "history is read only"),
        (f"{ALL}; {ALL}", "expected one SQL statement, got 2"),
        (f"explain {ALL}", "SELECT"),
    ],
)
def test_a_query_that_finds_no_letters_is_told_and_changes_nothing(bus: Bus, query: str, message: str) -> None:
    guarded(bus, "total")
    publish(bus, {"k": "a"})
    for call in (bus.dead_letters.retry, bus.dead_letters.drop, bus.dead_letters.preview):
        with pytest.raises(QueryError, match=message):
            call(sql=query)
    with pytest.raises(InvalidInputError, match="expected one of the three"):
        bus.dead_letters.retry(sql=ALL, where=OPEN)
    assert states(bus) == [("OPEN", 0)]


def test_a_query_finds_a_bounded_number_of_letters(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_selection, "MAX_SELECTED", 3)
    guarded(bus, "total")
    publish(bus, *({"k": "a"} for _ in range(4)))
    with pytest.raises(QueryError, match="it finds more than 3 letters; WHERE or LIMIT make it fewer"):
        bus.dead_letters.retry(sql=ALL)
    assert len(list(bus.dead_letters.drop(sql=f"{ALL} limit 3"))) == 3
    with pytest.raises(QueryError, match="it finds more than 3 letters"):
        found_ids(Answer(["dead_letter_id"], [["a"]], truncated=True))
    assert found_ids(Answer(["x", "dead_letter_id"], [[1, "a"], [2, None], [3, "a"]], truncated=False)) == ["a"]


def test_the_history_that_a_process_has_open_is_asked_there(bus: Bus) -> None:
    guarded(bus, "total")
    publish(bus, {"k": "a"})
    history = History(bus.storage)
    try:
        with pytest.raises(InUseError, match="open in this process already"):
            bus.dead_letters.count(sql=ALL)
        assert DeadLetterService(bus.storage, history=history).count(sql=ALL) == 1
    finally:
        history.close()


@pytest.mark.parametrize("scanned_per_lookup", [0, 1_000_000])
def test_letters_far_apart_are_found_block_by_block(bus: Bus, monkeypatch: pytest.MonkeyPatch, scanned_per_lookup: int) -> None:
    monkeypatch.setattr(letters_module, "_SCANNED_PER_LOOKUP", scanned_per_lookup)
    monkeypatch.setattr(letters_module, "BLOCK_LETTERS", 8)
    guarded(bus, "total")
    ids = publish(bus, *({"k": "a"} for _ in range(40)))
    box = bus.dead_letters.box()
    wanted = [ids[33], ids[1], ids[7], ids[8], ids[1]]
    blocks = [[letter.letter_id for letter in block] for block in box.find_all(wanted)]
    assert blocks == [[ids[1], ids[7]], [ids[8]], [ids[33]]]
    (published,) = publish(bus, {"total": 1})
    assert box.locate(["x", ids[0], "x", published])[1] == ["x", published]


# --- previews ---------------------------------------------------------------------------------------------------------


async def test_a_preview_says_what_a_retry_does_and_changes_nothing(bus: Bus) -> None:
    guarded(bus, "total")
    rows: list[dict[str, Any]] = [{"k": "a", "n": 1}, {"k": "b"}, {"k": "b", "n": 2}, {"k": "c", "n": 3}, {"n": 4}]
    ids = publish(bus, *rows)
    await bus.dead_letters.drop_dead_letter(ids[3])
    guarded(bus, "n", version="2.0")
    version, before = bus.log.version(), states(bus)
    query = f"{ALL} union all select 'gone'"
    told = await bus.dead_letters.preview_retry(sql=query)
    assert (bus.log.version(), states(bus), read_all(bus, "orders")) == (version, before, [])
    assert (told["would"], told["truncated"]) == ({"retry": 2, "fail": 1, "wait": 1, "refuse": 2}, False)
    of_orders, of_none = told["groups"]
    stream = bus.log.find_stream("default", "orders")
    why = [letter.why for block in bus.dead_letters.box().find_all(ids) for letter in block]
    failed = sorted(each["failed_at_ms"] for each in why)
    assert (of_orders["oldest_failed_at"], of_orders["newest_failed_at"]) == (rfc3339(failed[0]), rfc3339(failed[-1]))
    assert {name: of_orders[name] for name in ("step", "stream", "error_type", "letters", "keys", "keys_are_complete")} == {
        "step": "validation",
        "stream": "orders",
        "error_type": "ValidationFailedError",
        "letters": 5,
        "keys": 3,
        "keys_are_complete": True,
    }
    assert of_orders["destination"] == {"kind": "STREAM", "id": stream.stream_id, "name": "orders"}
    assert of_orders["dead_letter_ids"] == ids
    assert [(r["would"], r["letters"], r["dead_letter_ids"]) for r in of_orders["reasons"]] == [
        ("fail", 1, [ids[1]]),
        ("wait", 1, [ids[2]]),
        ("refuse", 1, [ids[3]]),
    ]
    assert (of_none["step"], of_none["destination"], of_none["dead_letter_ids"]) == (None, None, ["gone"])
    assert (await bus.dead_letters.retry_dead_letters(sql=query))["counts"] == {
        "retried": 2,
        "failed": 1,
        "waiting": 1,
        "refused": 2,
        "dropped": 0,
    }


async def test_a_preview_of_a_group_s_letters_makes_no_stream(bus: Bus) -> None:
    bus.create_stream("orders")
    publish(bus, {"k": "a"}, {"k": "b"}, {"k": "a"})
    async with bus.consumer("billing", ["orders"]) as consumer:
        for event in await consumer.poll():
            consumer.park(event, ValueError("bad"))
    streams = bus.log.list_streams(internal=True)
    (group,) = (await bus.dead_letters.preview_retry(where=LetterFilter(group="billing")))["groups"]
    assert bus.log.list_streams(internal=True) == streams
    assert (group["step"], group["error_type"], group["letters"], group["keys"]) == ("consumer:billing", "ValueError", 3, 2)
    assert (group["destination"]["kind"], group["destination"]["name"]) == ("GROUP", "billing")
    assert group["would"] == {"retry": 3, "fail": 0, "wait": 0, "refuse": 0}
    assert {status for status, _ in states(bus)} == {LetterStatus.OPEN}


def test_a_preview_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_preview, "MAX_KEYS", 2)
    monkeypatch.setattr(letter_preview, "MAX_GROUPS", 1)
    guarded(bus, "total")
    publish(bus, *({"k": f"k{n}"} for n in range(12)))
    told = bus.dead_letters.preview(sql=f"{ALL} union all select 'x'")
    (group,) = told["groups"]
    assert (group["keys"], group["keys_are_complete"], group["letters"]) == (2, False, 12)
    assert (told["would"]["refuse"], told["truncated"]) == (1, True)
    assert [len(group["dead_letter_ids"]), *(len(r["dead_letter_ids"]) for r in group["reasons"])] == [5, 5]


# --- over REST and on the command line --------------------------------------------------------------------------------


def letters_left(folder: Path) -> list[str]:
    with open_bus(folder) as bus:
        guarded(bus, "total")
        ids = publish(bus, {"k": "a"}, {"k": "b"}, {"k": "a"})
        guarded(bus, version="2.0")
    return ids


def test_the_command_line_takes_sql_and_says_first_what_it_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = letters_left(tmp_path / "esb-data")
    by_key = f"select dead_letter_id from dead_letters join events using (event_id) where dead_letter_id != '{ids[1]}'"
    with commands(tmp_path, monkeypatch) as esb:
        told = esb("dead-letters", "retry", "--sql", by_key, "--dry-run")
        (columns, _, row) = told.out.splitlines()
        assert " ".join(columns.split()) == "group step stream error_type letters keys oldest newest to would first"
        assert row.split()[:6] == ["1", "validation", "orders", "ValidationFailedError", "2", "1"]
        assert "stream orders" in row
        assert told.err.endswith("2 would retry\n")
        told = esb("dead-letters", "retry", *ids, "--dry-run", "--json")
        assert json.loads(told.out)["letters"] == 3
        assert esb("dead-letters", "list", "--json").out.count("OPEN") == 3
        assert esb("dead-letters", "retry", "--sql", by_key).err.endswith("2 retried\n")
        again = esb("dead-letters", "retry", "--sql", by_key, "--dry-run")
        assert f"1: would refuse 2 letters: it is RETRIED already ({ids[0]}, {ids[2]})" in again.out
        asked = esb("dead-letters", "drop", "--sql", ALL, code=2)
        assert "1 dead letter will be dropped for good." in asked.err
        assert esb("dead-letters", "drop", "--sql", ALL, "--yes", code=3).err.endswith("2 refused, 1 dropped\n")
        assert "expected a column dead_letter_id" in esb("dead-letters", "retry", "--sql", "select 1 as x", code=1).err
        for wrong in (["--sql", ALL, "--all"], ["--sql", ALL, "--group", "g"], ["--sql", ALL, ids[0]]):
            assert "Say which" in esb("dead-letters", "retry", *wrong, code=2).err
        nothing = esb("dead-letters", "retry", "--all", "--group", "billing", "--dry-run")
        assert (nothing.out, nothing.err) == ("", "there are no such dead letters\n")


def test_a_server_selects_by_sql_for_itself_and_for_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = letters_left(tmp_path / "esb-data")
    letters = "/api/v1/dead-letters"
    first = {"sql": f"{ALL} where event_id = '{ids[0]}'"}
    with commands(tmp_path, monkeypatch) as esb, served(tmp_path / "esb-data") as url, httpx.Client(base_url=url) as http:
        told = http.post(f"{letters}/retry", json=first | {"preview": True}).json()
        assert (told["would"]["retry"], told["groups"][0]["destination"]["name"]) == (1, "orders")
        assert http.get(f"{letters}/{ids[0]}").json()["status"] == "OPEN"
        assert http.post(f"{letters}/retry", json=first).json()["counts"]["retried"] == 1
        refused = http.post(f"{letters}/drop", json=first | {"preview": True})
        assert (refused.status_code, "preview" in refused.json()["detail"]) == (400, True)
        bad = http.post(f"{letters}/retry", json={"sql": "select 1"})
        assert (bad.status_code, "expected a column dead_letter_id" in bad.json()["detail"]) == (400, True)
        assert http.get(letters, params={"group": "billing"}).json() == {"dead_letters": [], "next_cursor": None}
        assert esb("dead-letters", "retry", "--sql", ALL, code=3).err == "2 retried, 1 refused\n"
        assert "there is no table x" in esb("dead-letters", "retry", "--sql", "from x", code=1).err
