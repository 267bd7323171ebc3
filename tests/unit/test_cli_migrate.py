"""``esb migrate`` between two data folders: what it carries, what it refuses, and what it says."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ESB, Esb, commands

from event_streaming_bus.bus import open_bus
from event_streaming_bus.errors import InUseError, InvalidStateError
from event_streaming_bus.migration import copying
from event_streaming_bus.migration.checking import check_stream
from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.migration.plan import Choice
from event_streaming_bus.migration.service import COPYING, migrate, plan_migration
from event_streaming_bus.models import LANES, Event, EventConfig, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder where ``old`` is a data folder with 40 events."""
    with commands(tmp_path, monkeypatch) as run:
        filled(Path("old"), 40)
        yield run


def events_of(begin: int, end: int) -> list[Event]:
    return [
        Event(f"e-{n}", "t", n, b'{"n":%d}' % n, key=None if n % 5 == 0 else f"k{n % 3}", priority=LANES[n % 4])
        for n in range(begin, end)
    ]


def filled(folder: Path, count: int, partitions: int = 2) -> StreamInfo:
    with open_bus(folder) as bus:
        stream = bus.log.create_stream(StreamConfig(name="orders", partitions=partitions))
        bus.log.append([Append(stream.stream_id, events_of(0, count))])
        return stream


def test_a_dry_run_says_what_would_be_done_and_does_nothing(esb: Esb) -> None:
    done = esb("migrate", "old", "new", "--dry-run")
    assert [line.split() for line in done.out.splitlines() if line.startswith("orders")] == [["orders", "2", "40", "copied"]]
    assert not Path("new").exists()


def test_the_report_compares_each_lane(esb: Esb) -> None:
    done = esb("migrate", "old", "new")
    lanes = [line.split() for line in done.out.splitlines() if line.startswith("orders")]
    assert [line[:4] for line in lanes] == [["orders", lane.value, "10", "10"] for lane in LANES]
    assert {line[-1] for line in lanes} == {"agrees"}
    assert done.out.startswith(f"embedded:{Path('old').resolve()} -> embedded:{Path('new').resolve()}\n")
    assert done.out.endswith("both ends agree\n")
    again = json.loads(esb("migrate", "old", "new", "--json").out)
    assert (again["copied"], again["agrees"]) == (0, True)
    told = [json.loads(line) for line in esb("--data", "new", "audit", "list", "--json").out.splitlines()]
    assert {each["action"] for each in told} == {"log.migrate"}


def test_streams_can_be_named_or_left_out(esb: Esb) -> None:
    esb("--data", "old", "stream", "create", "small")
    esb("migrate", "old", "only", "--stream", "small")
    esb("migrate", "old", "rest", "--except", "small")
    for folder, name in (("only", "small"), ("rest", "orders")):
        assert esb("--data", folder, "stream", "list").out.splitlines()[2].startswith(name)
    assert "There is no stream 'large'" in esb("migrate", "old", "x", "--stream", "large", code=1).err


def test_a_log_may_be_named_by_a_variable(esb: Esb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW_LOG", "new")
    esb("migrate", "old", "env:NEW_LOG")
    assert len(esb("--data", "new", "read", "orders", "--json").out.splitlines()) == 40
    assert "OTHER is not set" in esb("migrate", "old", "env:OTHER", code=2).err


@pytest.mark.parametrize(("source", "told"), [("old", "the same log"), ("none", "There is no data folder")])
def test_what_makes_no_sense_is_refused(esb: Esb, source: str, told: str) -> None:
    assert told in esb("migrate", source, "old", code=1).err
    assert not Path("none").exists()


def test_another_stream_of_the_name_is_in_the_way(esb: Esb) -> None:
    esb("--data", "new", "stream", "create", "orders")
    assert "TO has another stream of the name orders" in esb("migrate", "old", "new", code=1).err
    planned = esb("migrate", "old", "new", "--dry-run", code=1)
    assert "in the way: TO has another stream" in planned.out


def test_what_the_other_folder_would_lack_is_named(esb: Esb) -> None:
    Path("s.json").write_text('{"schema_name": "s", "schema_version": "1.0.0", "json_schema": {"type": "object"}}')
    esb("--data", "old", "schemas", "register", "s.json")
    assert "FROM keeps schemas in" in esb("migrate", "old", "new", code=1).err


def test_a_run_that_is_broken_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "old", 40)
    monkeypatch.setattr(copying, "MAX_CHUNK_EVENTS", 3)

    def tell(phase: str, done: int, total: int, stream: str) -> None:
        assert (total, stream) == (40, "orders")
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(str(tmp_path / "old"), str(tmp_path / "new"), tell=tell)
    report = migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    assert report.agrees
    assert 20 < report.copied <= 30
    with open_bus(tmp_path / "old") as old, open_bus(tmp_path / "new") as new:
        assert read_all(new, "orders") == read_all(old, "orders")


def test_of_two_runs_at_the_same_time_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "old", 40)
    monkeypatch.setattr(copying, "MAX_CHUNK_EVENTS", 20)
    command = [str(ESB), "migrate", str(tmp_path / "old"), str(tmp_path / "new")]

    def tell(phase: str, done: int, total: int, stream: str) -> None:
        if phase == COPYING and done == 20:
            subprocess.run(command, check=True, timeout=60, capture_output=True)

    with pytest.raises(InUseError, match="Another process carries the same events"):
        migrate(str(tmp_path / "old"), str(tmp_path / "new"), tell=tell)
    report = migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    assert (report.agrees, report.copied, sum(lane.target_events for lane in report.lanes)) == (True, 0, 40)


def test_a_difference_between_the_ends_is_found(tmp_path: Path) -> None:
    stream = filled(tmp_path / "old", 40, partitions=1)
    migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    with open_bus(tmp_path / "old") as old, open_bus(tmp_path / "other") as other, open_bus(tmp_path / "new") as new:
        there = other.log.create_stream(stream.config, stream.stream_id)
        changed = [
            e if e.event_id != "e-7" else Event("e-7", "t", 7, b"{}", e.key, priority=e.priority) for e in events_of(0, 40)
        ]
        other.log.append([Append(there.stream_id, changed)])
        pair = Pair(
            f"embedded:{tmp_path / 'old'}", old.log.find_stream("default", "orders"), new.log.find_stream("default", "orders")
        )
        differs = [lane.lane for lane in check_stream(other.storage, new.storage, pair).lanes if not lane.agrees]
        assert differs == [LANES[7 % 4]]
        assert all(lane.agrees for lane in check_stream(old.storage, new.storage, pair).lanes)


async def test_groups_keep_their_settings_and_go_on_where_they_were(tmp_path: Path) -> None:
    stream = filled(tmp_path / "old", 40, partitions=1)
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    with open_bus(tmp_path / "old") as bus:
        group_id = await bus.consumers.create_consumer_group({"group_name": "mail", "max_retries": 7})
        bus.log.commit(group_id, {split: 2})
        bus.log.commit("of_a_program", {split: 1})
    report = migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    assert {(each.group, each.is_left) for each in report.groups} == {("mail", False), ("of_a_program", False)}
    with open_bus(tmp_path / "new") as bus:
        told = await bus.consumers.describe_consumer_group("mail")
        assert (told["group_id"], told["max_retries"]) == (group_id, 7)
        assert bus.log.committed(group_id)[split] == 2
        assert bus.log.committed("of_a_program")[split] == 1
        bus.log.commit(group_id, {split: 4})
    report = migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    assert {(each.group, each.is_left) for each in report.groups} == {("mail", True), ("of_a_program", False)}
    with open_bus(tmp_path / "new") as bus:
        assert bus.log.committed(group_id)[split] == 4


async def test_scheduled_events_wait_at_the_target_and_at_the_source_no_more(tmp_path: Path) -> None:
    filled(tmp_path / "old", 1)
    due_ms = time.time_ns() // 1_000_000 + 3_600_000
    with open_bus(tmp_path / "old") as bus:
        config = EventConfig(event_type="t", event_id="later", key="k", deliver_at=due_ms)
        await bus.publishing.publish_event(config, {"n": 1}, stream_id="orders")
    assert plan_migration(str(tmp_path / "old"), str(tmp_path / "new")).scheduled == 1
    assert migrate(str(tmp_path / "old"), str(tmp_path / "new")).scheduled == 1
    with open_bus(tmp_path / "old") as old, open_bus(tmp_path / "new") as new:
        (waiting,) = new.log.scheduled("default").events
        assert (waiting.event.event_id, waiting.due_ms) == ("later", due_ms)
        assert old.log.scheduled("default").events == []


async def test_what_became_of_dead_letters_is_carried(tmp_path: Path) -> None:
    filled(tmp_path / "old", 40)
    with open_bus(tmp_path / "old") as bus:
        async with bus.consumer("mail", ["orders"]) as consumer:
            for event in await consumer.poll(3, 10):
                consumer.park(event, "no such address")
        letters = (await bus.dead_letters.list_dead_letters())["dead_letters"]
        await bus.dead_letters.drop_dead_letter(letters[0]["dead_letter_id"])
    assert migrate(str(tmp_path / "old"), str(tmp_path / "new")).letters == 1
    with open_bus(tmp_path / "new") as bus:
        left = (await bus.dead_letters.list_dead_letters())["dead_letters"]
        assert [each["dead_letter_id"] for each in left] == [each["dead_letter_id"] for each in letters[1:]]


def test_events_that_are_at_the_target_already_are_known_there(tmp_path: Path) -> None:
    stream = filled(tmp_path / "old", 40)
    with open_bus(tmp_path / "new") as bus:
        there = bus.log.create_stream(stream.config, stream.stream_id)
        bus.log.append([Append(there.stream_id, events_of(0, 10))])
    report = migrate(str(tmp_path / "old"), str(tmp_path / "new"))
    assert (report.copied, report.known, report.agrees) == (40, 10, True)
    with open_bus(tmp_path / "new") as bus:
        assert sorted(event.timestamp_ms for event in read_all(bus, "orders")) == list(range(40))


def test_events_would_not_come_behind_newer_ones_where_retention_has_dropped_them(tmp_path: Path) -> None:
    stream = filled(tmp_path / "old", 40)
    with open_bus(tmp_path / "new") as bus:
        config = StreamConfig(name="orders", partitions=2, retention_ms=1)
        there = bus.log.create_stream(config, stream.stream_id)
        bus.log.append([Append(there.stream_id, events_of(0, 10))])
        bus.log.enforce_retention(time.time_ns() // 1_000_000 + 1000)
        bus.log.append([Append(there.stream_id, events_of(30, 40))])
    with pytest.raises(InvalidStateError, match="retention has dropped old events"):
        migrate(str(tmp_path / "old"), str(tmp_path / "new"), Choice(only=["orders"]))
