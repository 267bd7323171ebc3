"""Roll-off: old days move into Parquet files, and questions find the same rows as before; killed anywhere, nothing is lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from pyarrow import parquet
from running import commands, served

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidInputError, QueryError
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.history import TABLES, History, parquet_files, roll_off
from event_streaming_bus.store.history import history as history_module
from event_streaming_bus.store.history.asking import Bounds
from event_streaming_bus.store.history_records import Late, Processed, ProcessorRun, Published, Rebalanced, Run, to_event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage, open_storage

DAY_MS = 86_400_000
NOW = datetime(2025, 1, 26, 12, tzinfo=UTC)
NOW_MS = round(NOW.timestamp() * 1000)


def live(storage: Storage, days_ago: float, tenant_id: str = "default", count: int = 10) -> None:
    """Something of everything, recorded so many days ago."""
    at_ms = NOW_MS - round(days_ago * DAY_MS)
    stream = storage.log.create_stream(StreamConfig(name="orders", tenant_id=tenant_id))
    events = [
        Event(event_id, "order", at_ms, msgspec.json.encode({"n": i, "ago": days_ago}), key="k")
        for i, event_id in enumerate(ids.new_ids(ids.EVENT, count))
    ]
    (result,) = storage.log.append([Append(stream.stream_id, events, new_ids=True, partition=0)])
    ((split, first, n),) = result.written
    run, at_us = Run(split.stream_id, split.lane.value, split.partition, first, n), at_ms * 1000
    records = [
        Published(tenant_id, [run], at_us, at_us + 1000),
        Processed(tenant_id, "proc_1", "paid", "PROCESSING", run, at_us, at_us + 5, outcomes=b"\x01"),
        Late(tenant_id, "proc_1", "paid", split.stream_id, "NORMAL", 0, [first], [0], [1], 2, at_us),
        ProcessorRun(tenant_id, "run_1", "proc_1", "paid", "sales", "RUNNING", 1, at_us, events_in=n),
        Rebalanced(tenant_id, "grp", "readers", "range", 1, "joined", {}, {}, at_us, at_us),
    ]
    told = [msgspec.structs.replace(to_event(record), timestamp_ms=at_ms) for record in records]
    storage.log.append([Append(storage.history().stream_id, told, new_ids=True)])


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = open_storage(tmp_path)
    for days_ago in (5, 4, 3.1, 3, 1, 0):
        live(opened, days_ago)
        live(opened, days_ago, "o'ther", 3)
    yield opened
    opened.close()


@pytest.fixture
def history(storage: Storage) -> Iterator[History]:
    opened = History(storage)
    opened.catch_up()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A history with days in files."""
    storage = open_storage(tmp_path_factory.mktemp("moved"))
    for days_ago in (5, 1):
        live(storage, days_ago)
    found = History(storage)
    found.roll_off(days=2, now=NOW)
    yield found
    found.close()
    storage.close()


def rows(history: History, tenant_id: str | None = None) -> dict[str, list[str]]:
    """All rows of all tables."""
    return {table: sorted(map(repr, history.query(f"FROM {table}", tenant_id=tenant_id).rows())) for table in TABLES}


def in_database(history: History) -> int:
    (count,) = history._db.cursor().execute("SELECT count(*) FROM base.events").fetchone() or (0,)
    return int(count)


def test_old_days_are_moved_and_nothing_looks_different(history: History) -> None:
    before, mine = rows(history), rows(history, "o'ther")
    done = history.roll_off(days=2, now=NOW)
    assert list(done.days) == ["2025-01-21", "2025-01-22", "2025-01-23"]  # 3 and 3.1 days ago are one day
    assert done.days["2025-01-23"]["events"] == 26
    assert in_database(history) == 26
    assert (done.rows, done.removed_days) == (sum(sum(day.values()) for day in done.days.values()), [])
    assert (rows(history), rows(history, "o'ther")) == (before, mine)
    files = sorted(path.relative_to(history.path.parent / "history/parquet") for path in history.path.parent.rglob("*.parquet"))
    assert len(files) == 3 * 5
    assert str(files[0]).startswith("events/2025-01-21/")
    (event_id,) = next(history.query("SELECT event_id FROM events ORDER BY published_at LIMIT 1", tenant_id="default").rows())
    assert history.event("default", event_id) is not None
    assert len(history.processing_history("default", event_id)["processing_history"]) == 2


def test_rolling_off_again_does_nothing_and_later_days_follow(history: History) -> None:
    history.roll_off(days=2, now=NOW)
    assert history.roll_off(days=2, now=NOW).days == {}
    before = rows(history)
    assert list(history.roll_off(days=0, now=NOW).days) == ["2025-01-25"]
    assert rows(history) == before


def test_a_dry_run_changes_nothing(history: History) -> None:
    told = history.roll_off(days=2, keep_days=3, now=NOW, dry_run=True)
    assert (len(told.days), told.dry_run) == (3, True)
    assert in_database(history) == 6 * 13
    assert not (history.path.parent / "history").exists()


def test_a_rebuild_and_a_deleted_database_load_only_what_is_not_in_files(storage: Storage, history: History) -> None:
    before = rows(history)
    history.roll_off(days=2, now=NOW)
    history.rebuild()
    assert (rows(history), in_database(history)) == (before, 26)
    history.close()
    history.path.unlink()
    again = History(storage)
    again.catch_up()
    assert (rows(again), in_database(again)) == (before, 26)
    live(storage, 0)
    again.catch_up()
    assert len(rows(again)["events"]) == len(before["events"]) + 10
    again.close()


def test_what_comes_late_for_a_day_in_files_is_a_file_of_its_own(storage: Storage, history: History) -> None:
    history.roll_off(days=0, now=NOW)
    live(storage, 4)  # the clock went back
    history.catch_up()
    before = rows(history)
    later = datetime(2025, 1, 28, tzinfo=UTC)
    history.roll_off(days=0, now=later)
    assert (rows(history), in_database(history)) == (before, 0)
    assert history.backlog() == 0


def test_the_oldest_files_are_removed(history: History) -> None:
    before = rows(history)
    done = history.roll_off(days=2, keep_days=3, now=NOW)
    assert done.removed_days == ["2025-01-21", "2025-01-22"]
    assert len(rows(history)["events"]) == len(before["events"]) - 2 * 13
    assert done.removed_rows > 2 * 13
    assert {path.parent.name for path in history.path.parent.rglob("*.parquet")} == {"2025-01-23"}
    history.rebuild()
    assert len(rows(history)["events"]) == len(before["events"]) - 2 * 13
    with pytest.raises(InvalidInputError, match="keep_days: expected 3 or more"):
        history.roll_off(days=3, keep_days=2)


def test_what_was_recorded_for_days_that_are_removed_leaves_the_log(storage: Storage, history: History) -> None:
    def kept() -> tuple[int, int]:
        stream_id = storage.history().stream_id
        (begin,) = {begin for split, begin in storage.log.begin_offsets(stream_id).items() if split == history._split}
        return begin, storage.log.stored_bytes(stream_id)

    before, all_kept = rows(history), kept()
    history.roll_off(days=0, now=NOW)
    assert kept() == all_kept  # without its files, the history can be built again
    history.roll_off(keep_days=3, now=NOW, dry_run=True)
    assert kept() == all_kept
    history.roll_off(keep_days=3, now=NOW)
    begin, stored_bytes = kept()
    assert begin == 2 * 2 * 5  # of two days, with two tenants and five records each
    assert 0 < stored_bytes < all_kept[1]
    left = rows(history)
    assert len(left["events"]) == len(before["events"]) - 2 * 13
    live(storage, 0)
    history.catch_up()
    assert len(rows(history)["events"]) == len(left["events"]) + 10
    assert history.roll_off(keep_days=3, now=NOW).removed_days == []
    assert kept()[0] == begin


def test_files_that_are_being_read_are_removed_when_nobody_reads_them(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_READERS_S", 0.1)
    history.roll_off(days=2, now=NOW)
    found = history.ask(
        "SELECT a.event_id FROM events a, events b, range(1000)", bounds=Bounds(max_rows=1 << 30, max_bytes=1 << 40)
    )
    history.roll_off(keep_days=2, now=NOW)
    assert list(history.path.parent.rglob("*.parquet"))
    assert sum(batch.num_rows for batch in found.batches()) == 78 * 78 * 1000
    found.close()
    history.roll_off(keep_days=2, now=NOW)
    assert not list(history.path.parent.rglob("*.parquet"))


@pytest.mark.parametrize("place", ["finished", "keep", "install"])
def test_broken_off_anywhere_the_next_start_does_what_is_left(
    storage: Storage, history: History, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = rows(history)

    class Killed(BaseException):
        pass

    def kill(*arguments: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        if place == "install":
            patched.setattr(roll_off, "install", kill)
        else:
            patched.setattr(parquet_files.ParquetFolder, place, kill)
        with pytest.raises(Killed):
            history.roll_off(days=2, now=NOW)
    assert rows(history) == before  # whoever asks now still sees all, once
    history.close()
    again = History(storage)
    again.catch_up()
    assert rows(again) == before
    left_over = set(again.path.parent.rglob("*.parquet*"))
    assert len(left_over) == (5 if place == "install" else 0)
    again.roll_off(days=2, now=NOW)
    assert (rows(again), in_database(again)) == (before, 26)
    again.close()


def test_killed_while_rolling_off(storage: Storage, history: History) -> None:
    before = rows(history)
    history.close()
    script = (
        "import os, signal, sys\n"
        "from datetime import UTC, datetime\n"
        "from event_streaming_bus.store.history import History, roll_off\n"
        "from event_streaming_bus.store.storage import open_storage\n"
        "install, calls = roll_off.install, []\n"
        "def kill(*arguments):\n"
        "    calls.append(1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else install(*arguments)\n"
        "history = History(open_storage(sys.argv[1]))\n"
        "roll_off.install = kill\n"
        "history.roll_off(days=2, now=datetime(2025, 1, 26, 12, tzinfo=UTC))\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(storage.folder)], check=False)
    assert died.returncode < 0
    again = History(storage)
    again.catch_up()
    assert (rows(again), in_database(again)) == (before, 6 * 13 - 2 * 13)
    again.close()


def test_a_file_that_is_gone_is_told_and_the_rest_is_there(
    storage: Storage, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.roll_off(days=2, now=NOW)
    history.close()
    next((history.path.parent / "history/parquet/events/2025-01-21").iterdir()).unlink()
    again = History(storage)
    assert len(rows(again)["events"]) == 5 * 13
    assert "13 rows of 2025-01-21" in caplog.text
    again.close()


def test_files_of_another_log_are_set_aside(storage: Storage, history: History, tmp_path: Path) -> None:
    history.roll_off(days=2, now=NOW)
    history.close()
    other = open_storage(tmp_path / "other")
    live(other, 0)
    (tmp_path / "history").rename(tmp_path / "other" / "history")
    opened = History(other)
    opened.catch_up()
    assert len(rows(opened)["events"]) == 10
    assert [path.name.split("-set")[0] for path in (tmp_path / "other" / "history").iterdir()] == ["parquet"]
    opened.close()
    other.close()


@pytest.mark.parametrize("tenant_id", [None, "default"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_parquet('{folder}/*/*/*.parquet')",
        "SELECT * FROM '{folder}/events/2025-01-21/{file}'",
        "SELECT * FROM parquet_scan('{folder}/*/*/*.parquet')",
        "SELECT * FROM parquet_metadata('{folder}/events/2025-01-21/{file}')",
        "SELECT * FROM glob('{folder}/**')",
        "SELECT * FROM read_text('{folder}/manifest.json')",
        "SELECT * FROM read_blob('{database}')",
        "EXPLAIN SELECT * FROM read_parquet('{folder}/*/*/*.parquet')",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/mine.parquet'",
        "COPY (SELECT 1) TO '{folder}/mine.parquet'",
    ],
)
def test_nobodys_sql_reaches_the_files(moved: History, sql: str, tenant_id: str | None) -> None:
    folder = moved.path.parent / "history/parquet"
    file = next((folder / "events/2025-01-21").iterdir()).name
    with pytest.raises(QueryError):
        moved.query(sql.format(folder=folder, file=file, database=moved.path), tenant_id=tenant_id)
    assert not (folder / "mine.parquet").exists()


def test_a_serving_history_rolls_off_by_itself(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_HISTORY_DAYS", "30")
    monkeypatch.setenv("ESB_HISTORY_KEEP_DAYS", "100000")
    history = History(storage)
    history.start()
    deadline = time.monotonic() + 20
    while in_database(history) or not list(history.path.parent.rglob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(rows(history)["events"]) == 6 * 13
    history.stop()
    history.close()


def test_old_rows_are_rolled_off_on_the_command_line_and_over_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        storage = open_storage(tmp_path / "esb-data")
        live(storage, 0, count=4)
        assert "--days" in esb("history", "roll-off", code=2).err
        told = esb("history", "roll-off", "--days", "30", "--dry-run")
        assert "would be moved" in told.out
        assert "2025-01-26  4 events" in told.out
        moved = esb("history", "roll-off", "--days", "30")
        assert moved.out.endswith("bytes of files\n")
        assert esb("sql", "select count(*) as n from events", "--csv").out == "n\n4\n"
        (file,) = tmp_path.rglob("events/*/*.parquet")
        assert parquet.read_metadata(file).num_rows == 4
        with served(tmp_path / "esb-data") as url:
            assert httpx.post(f"{url}/api/v1/history/roll-off", json={"days": 30}, timeout=30).status_code == 400
            done = esb("history", "roll-off", "--keep-days", "30", "--json")
            assert msgspec.json.decode(done.out)["removed_days"] == ["2025-01-26"]
            assert esb("sql", "select count(*) as n from events", "--csv").out == "n\n0\n"
