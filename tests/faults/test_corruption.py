"""Damaged data folders: every flipped byte of what matters is found and named, the rest stays readable, and what can be made anew
is."""

import json
import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import killed_runs
import pytest
from data_folders import BUILD, HISTORY, by_hand, copy_of, flip, make_folder
from running import commands

from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.bus import open_bus
from event_streaming_bus.doctor.examine import examine
from event_streaming_bus.doctor.findings import Finding, Report
from event_streaming_bus.doctor.repairs import repair
from event_streaming_bus.errors import BusError, CorruptLogError, InUseError, NotFoundError, StorageError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import LANES, Event, EventConfig, Split
from event_streaming_bus.store.audit import AuditFilter, AuditStore
from event_streaming_bus.store.history import History
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.projections_sqlite import SqliteProjection
from event_streaming_bus.store.storage import open_storage

LOG_ONLY = (HISTORY, "history", "projections", "recovery", "logs")
PART = "recovery/default/flow/part-{}.sqlite3"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    make_folder(folder)
    return folder


def place_of(path: Path, data: bytes, rng: random.Random) -> int:
    """Where in a file a random byte of some data is, which SQLite may have split over pages."""
    contents = path.read_bytes()
    while True:
        at = rng.randrange(len(data))
        begin = max(0, at - 12)
        piece = data[begin : at + 12]
        if len(piece) > 12 and contents.count(piece) == 1:
            return contents.index(piece) + at - begin


def only(report: Report) -> Finding:
    assert [finding.problem for finding in report.findings] == [report.findings[0].problem], report.findings
    return report.findings[0]


def problems(report: Report) -> set[tuple[str, str]]:
    return {(finding.file, finding.problem) for finding in report.findings}


def read_splits(folder: Path) -> tuple[dict[str, list[Event]], dict[str, CorruptLogError]]:
    """``(events of each split, the error that reading one ended with)``."""
    events: dict[str, list[Event]] = {}
    errors: dict[str, CorruptLogError] = {}
    with closing(EmbeddedLog(folder)) as log:
        for info in log.list_streams(internal=True):
            for split, offset in log.begin_offsets(info.stream_id).items():
                events[str(split)] = found = []
                try:
                    while batches := log.read(split, offset):
                        for batch in batches:
                            found += batch.events()
                            offset = batch.end_offset
                except CorruptLogError as error:
                    errors[str(split)] = error
    return events, errors


# --- looking ----------------------------------------------------------------------------------------------------------


def test_a_sound_folder_is_sound_and_looking_at_it_changes_nothing(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told: list[tuple[int, int]] = []
    report = examine(folder, lambda done, total, what: told.append((done, total)))
    assert report.is_sound, report.findings
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    for kind in ("record batches", "states of flows", "audit entries", "tokens", "subject keys", "rows of the history"):
        assert report.checked[kind] > 0, kind
    assert "states without a checksum" not in report.checked
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


def test_what_a_crash_left_in_the_write_ahead_log_is_looked_at_and_stays(sound: Path, tmp_path: Path) -> None:
    used = copy_of(sound, tmp_path / "used", without=LOG_ONLY)
    with open_bus(used) as bus:
        events = bus.publishing.submit(EventConfig(event_type="t"), [{"n": n} for n in range(50)], stream_id="orders")
        assert len(events.result()) == 50
        folder = copy_of(used, tmp_path / "crashed")  # as kill -9 would leave it
    before = {name: (folder / name).read_bytes() for name in ("log.db", "log.db-wal")}
    assert len(before["log.db-wal"]) > 0
    report = examine(folder)
    assert report.is_sound, report.findings
    assert report.checked["events"] == examine(used).checked["events"]
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_folder_is_looked_at_while_it_is_in_use(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data")
    with open_bus(folder) as bus, closing(History(bus.storage)):
        bus.publishing.submit(EventConfig(event_type="t"), [{"n": 1}], stream_id="orders").result()
        report = examine(folder)
        assert report.is_sound, report.findings
        assert report.skipped == [f"{HISTORY}: open in another process, or in this one, which alone can read it"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_what_is_no_data_folder_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError):
        examine(tmp_path / name)


# --- flipped bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_byte_in_a_record_batch_is_named_and_the_rest_is_read(sound: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = copy_of(sound, tmp_path / "data", without=LOG_ONLY), random.Random(seed)
    with by_hand(folder / "log.db") as db:
        batches = db.execute(
            "SELECT body, base_offset, count, stream_id, name, lane, partition FROM batches JOIN splits USING (split_no) "
            "JOIN streams USING (stream_no) ORDER BY batch_no"
        ).fetchall()
    body, base, count, stream_id, name, lane, partition = rng.choice(batches)
    whole, _ = read_splits(folder)
    flip(folder / "log.db", place_of(folder / "log.db", body, rng), rng.randrange(8))

    found = only(examine(folder))
    assert (found.file, found.problem) == ("log.db", "damaged-batch")
    assert found.place == f"stream {name}, partition {partition}, lane {LANES[lane].value}, offsets {base} to {base + count - 1}"
    damaged = str(Split(stream_id, LANES[lane], partition))
    events, errors = read_splits(folder)
    assert set(errors) == {damaged}
    assert errors[damaged].details | {"offset": base} == errors[damaged].details
    assert events.pop(damaged) == whole.pop(damaged)[:base]
    assert events == whole


def content(path: Path, unpack: Callable[[Any], Any] = lambda value: value) -> object:
    """What a SQLite file says, without the times that Bytewax notes."""
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        found = {}
        for (table,) in db.execute("SELECT CAST(name AS BLOB) FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1].decode() for row in db.execute(f"PRAGMA table_info({table.decode()})") if row[1] != b"created_at"]
            rows = db.execute(f"SELECT {', '.join(columns)} FROM {table.decode()}").fetchall()
            found[table] = sorted(repr([unpack(value) for value in row]) for row in rows)
        return found


def unpickled(value: Any) -> Any:
    return pickle.loads(value) if isinstance(value, bytes) and value.startswith(b"\x80") else value


@pytest.mark.parametrize(("name", "unpack"), [("log.db", repr), ("audit.db", repr), (PART.format(3), unpickled)])
def test_a_byte_flipped_anywhere_is_found_or_changes_nothing(
    sound: Path, tmp_path: Path, name: str, unpack: Callable[[Any], Any]
) -> None:
    without = tuple(set(LOG_ONLY) - {"recovery"}) if name.startswith("recovery") else LOG_ONLY
    folder = copy_of(sound, tmp_path / "data", without=without)
    path, whole = folder / name, (sound / name).read_bytes()
    expected, rng, found = content(path, unpack), random.Random(1), 0
    for _ in range(40):
        path.write_bytes(whole)
        flip(path, rng.randrange(len(whole)), rng.randrange(8))
        report = examine(folder)
        if report.findings:
            assert name in {finding.file for finding in report.findings}
            found += 1
        else:
            assert content(path, unpack) == expected
    assert 2 <= found < 40


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_in_the_state_of_a_flow_is_named_and_the_flow_says_so(sound: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = copy_of(sound, tmp_path / "data", without=(HISTORY, "history", "projections")), random.Random(seed)
    part = PART.format(rng.randrange(4))
    with by_hand(folder / part) as db:
        step, key, state = rng.choice(db.execute("SELECT step_id, state_key, ser_change FROM snaps").fetchall())
        damaged = bytearray(state)
        damaged[rng.randrange(24, len(state) - 1)] ^= 1 << rng.randrange(8)
        db.execute("UPDATE snaps SET ser_change = ? WHERE step_id = ? AND state_key = ?", (bytes(damaged), step, key))
    found = only(examine(folder))
    assert (found.file, found.problem) == (part, "damaged-state")
    processor, _, kind = step.removeprefix("flow.").partition(":")
    assert f"processor {processor}, {kind} {key}," in found.place
    if seed == 0:
        bus = open_bus(folder)
        file = sound.with_name("flow.yaml")
        with pytest.raises(AssertionError, match="The state that the flow has kept is damaged"):
            killed_runs.run(bus, deploy(load_flow(file), bus.storage), file, [1], [])
        bus.close()


def test_a_flow_says_which_of_its_files_is_no_database_any_more(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=(HISTORY, "history", "projections"))
    (folder / PART.format(2)).write_bytes(b"x" * 40960)
    assert problems(examine(folder)) == {(PART.format(2), "unreadable")}
    bus = open_bus(folder)
    file = sound.with_name("flow.yaml")
    with pytest.raises(AssertionError, match=r"part-2\.sqlite3 is damaged: file is not a database"):
        killed_runs.run(bus, deploy(load_flow(file), bus.storage), file, [1], [])
    bus.close()


def test_a_byte_flipped_anywhere_in_the_history_is_found(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=("projections", "recovery"))
    whole, rng = (folder / HISTORY).read_bytes(), random.Random(2)
    for _ in range(8):
        (folder / HISTORY).write_bytes(whole)
        flip(folder / HISTORY, rng.randrange(len(whole)), rng.randrange(8))
        report = examine(folder)
        if report.is_sound:  # a block that DuckDB has let go of, or the older one of its two headers
            with open_bus(folder) as bus, closing(History(bus.storage)) as history:
                assert next(history.query("SELECT count(*) FROM events").rows())[0] > 0
        else:
            assert problems(report) == {(HISTORY, "damaged-history")}


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_in_a_parquet_file_is_named(sound: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = copy_of(sound, tmp_path / "data", without=("projections", "recovery")), random.Random(seed)
    path = rng.choice(sorted(folder.glob("history/parquet/*/*/*.parquet")))
    flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
    found = only(examine(folder))
    assert (found.file, found.problem) == (str(path.relative_to(folder)), "damaged-parquet")
    assert f"rows of {path.parent.parent.name} of {path.parent.name}" in found.place


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_in_an_entry_of_the_audit_is_named(sound: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = copy_of(sound, tmp_path / "data", without=LOG_ONLY), random.Random(seed)
    number = rng.randrange(1, 6)
    flip(folder / "audit.db", (folder / "audit.db").read_bytes().index(f"stream-{number - 1}".encode()) + 2, 1)
    found = examine(folder).findings
    assert {finding.file for finding in found} == {"audit.db"}
    assert (f"entry {number}", "audit-changed") in {(finding.place, finding.problem) for finding in found}


def test_whatever_is_read_of_damaged_files_is_an_error_of_ours(sound: Path, tmp_path: Path) -> None:
    folder, rng, told = copy_of(sound, tmp_path / "data"), random.Random(3), 0
    for name in ("log.db", "audit.db", "keys.db", HISTORY, BUILD) * 6:
        path, whole = folder / name, (sound / name).read_bytes()
        damaged = bytearray(whole)
        for _ in range(40):
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            storage = open_storage(folder)
            try:
                read_everything(folder, storage)
            finally:
                storage.close()
        except BusError:
            told += 1
        path.write_bytes(whole)
        for beside in ("-wal", "-shm", ".wal"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
    assert told > 10


def read_everything(folder: Path, storage: Any) -> None:
    for info in storage.log.list_streams(internal=True):
        for split, offset in storage.log.begin_offsets(info.stream_id).items():
            while batches := storage.log.read(split, offset):
                offset = batches[-1].end_offset
                list(map(type(batches[0]).events, batches))
    AuditStore(folder).page(AuditFilter(), limit=100)
    AuditService(storage).verify()
    storage.subject_keys.of_subjects("default", ["a-subject"])
    with closing(History(storage)) as history:
        history.catch_up()
        history.query("SELECT * FROM events")
    with closing(SqliteProjection(folder / BUILD, ())) as build:
        build.progress()


# --- what does not agree ----------------------------------------------------------------------------------------------


def change(sql: str, file: str = "log.db") -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        with by_hand(folder / file) as db:
            for statement in sql.split("; "):
                assert db.execute(statement).rowcount != 0

    return run


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


CHANGES: list[tuple[Callable[[Path], None], str, str, bool]] = [
    (change("DELETE FROM batches WHERE batch_no = 5"), "log.db", "missing-events", False),
    (change("UPDATE batches SET base_offset = base_offset + 1 WHERE batch_no = 7"), "log.db", "damaged-batch", False),
    (change("UPDATE batches SET codec = 77 WHERE batch_no = 5"), "log.db", "damaged-batch", False),
    (change("UPDATE splits SET end_offset = end_offset + 9 WHERE end_offset > 0"), "log.db", "missing-events", False),
    (change("UPDATE splits SET stored_bytes = 1 WHERE end_offset > 0"), "log.db", "wrong-count", True),
    (change("DELETE FROM event_ids WHERE rowid_of % 3 = 0".replace("rowid_of", "abs(hash)")), "log.db", "unknown-ids", True),
    (change("INSERT INTO event_ids VALUES (1, 999999)"), "log.db", "stray-ids", True),
    (change("INSERT INTO group_offsets VALUES ('g', 1, 100000)"), "log.db", "position-beyond-end", False),
    (change("UPDATE streams SET config = json_set(config, '$.schema_id', 'sch_1')"), "log.db", "missing-schema", False),
    (change("UPDATE streams SET config = '{' WHERE name = 'sums'"), "log.db", "damaged-settings", False),
    (change("UPDATE marks SET value = x'00' WHERE owner LIKE 'window:%'"), "log.db", "damaged-mark", False),
    (change("PRAGMA user_version = 2"), "log.db", "newer-format", False),
    (remove("log.db"), "log.db", "missing-log", False),
    (remove(PART.format(1)), "recovery/default/flow", "missing-partition", False),
    (change("UPDATE commits SET commit_epoch = 1000", PART.format(0)), PART.format(0), "mixed-partitions", False),
    (
        change("UPDATE splits SET end_offset = 1 WHERE end_offset > 1; DELETE FROM marks WHERE owner LIKE 'window:%'"),
        *(PART.format(3), "state-ahead-of-log", False),
    ),
    (remove("master.key"), "master.key", "unusable-key", False),
    (lambda folder: (folder / "master.key").write_text("A" * 43 + "="), "master.key", "wrong-master-key", False),
    (change("UPDATE subject_keys SET wrapped = x'00'", "keys.db"), "keys.db", "damaged-key", False),
    (change("UPDATE api_tokens SET record = '{}'", "tokens.db"), "tokens.db", "damaged-token", False),
    (
        change("DROP TRIGGER audit_entries_stay; DELETE FROM audit_entries WHERE seq = 2", "audit.db"),
        "audit.db",
        "audit-missing",
        False,
    ),
    (lambda folder: folder.chmod(0o755), ".", "open-folder", True),
    (lambda folder: (folder / "audit.key").chmod(0o644), "audit.key", "open-secret", True),
    (lambda folder: (folder / "serve.json").write_text("{}"), "serve.json", "leftover", True),
    (
        lambda folder: shutil.copy(folder / BUILD, folder / BUILD.replace("b1", "b9")),
        BUILD.replace("b1", "b9"),
        "stray-build",
        True,
    ),
    (lambda folder: (folder / BUILD).write_bytes(b"x" * 4096), BUILD, "unreadable", True),
    (lambda folder: (folder / HISTORY).write_bytes(b"x" * 4096), HISTORY, "damaged-history", True),
]


@pytest.mark.parametrize(("damage", "file", "problem", "mends"), CHANGES, ids=[f"{c[2]}-{i}" for i, c in enumerate(CHANGES)])
def test_what_does_not_agree_is_named_and_what_can_be_made_anew_is(
    sound: Path, tmp_path: Path, damage: Callable[[Path], None], file: str, problem: str, mends: bool
) -> None:
    folder = copy_of(sound, tmp_path / "data", without=("logs",) if HISTORY in file or mends else (HISTORY, "history", "logs"))
    damage(folder)
    report = examine(folder)
    assert (file, problem) in problems(report), report.findings
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    mended = repair(folder, report)
    assert mended.is_sound is mends, mended.findings
    assert mended.repaired or not mends
    if problem not in ("leftover", "stray-build"):  # which are all that is ever removed
        for name in before:
            aside = [*folder.glob(f"set-aside-*/{name}"), folder / name]
            assert any(path.exists() for path in aside), name
    if not mended.repaired:
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_index_of_ids_that_was_made_anew_knows_every_id(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=LOG_ONLY)
    change("DELETE FROM event_ids")(folder)
    assert repair(folder, examine(folder)).is_sound
    with open_bus(folder) as bus:
        again = bus.publishing.submit(
            [EventConfig(event_type="order", event_id=f"order-1-{n}") for n in range(20)], [{}] * 20, stream_id="orders"
        ).result()
        assert all(receipt.duplicate for receipt in again)


def test_a_history_that_was_made_anew_has_the_same_rows(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=("projections", "recovery"))
    ask = "SELECT event_id, stream, payload FROM events ORDER BY event_id"
    with open_bus(folder) as bus, closing(History(bus.storage)) as history:
        expected = list(history.query(ask).rows())
    flip(folder / HISTORY, 300_000, 3)
    mended = repair(folder, examine(folder))
    assert mended.is_sound, mended.findings
    assert len(list(folder.glob(f"set-aside-*/{HISTORY}"))) == 1
    with open_bus(folder) as bus, closing(History(bus.storage)) as history:
        assert list(history.query(ask).rows()) == expected


def test_a_damaged_parquet_file_is_set_aside_and_the_others_answer(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=("projections", "recovery"))
    path = next(folder.glob("history/parquet/processing_history/*/*.parquet"))
    flip(path, path.stat().st_size // 2, 1)
    with open_bus(folder) as bus, closing(History(bus.storage)) as history:
        count = list(history.query("SELECT count(*) FROM events").rows())
    mended = repair(folder, examine(folder))
    assert mended.is_sound, mended.findings
    assert list(folder.glob("set-aside-*/history/parquet/processing_history/*/*.parquet"))
    with open_bus(folder) as bus, closing(History(bus.storage)) as history:
        assert list(history.query("SELECT count(*) FROM events").rows()) == count
        history.query("SELECT * FROM processing_history")


def test_a_folder_in_use_is_not_repaired(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=LOG_ONLY)
    report = examine(folder)
    with (folder / "serve.lock").open("w") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InUseError):
            repair(folder, report)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_tells_repairs_and_exits_by_what_remains(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(sound, tmp_path / "data", without=LOG_ONLY)
    change("DELETE FROM event_ids")(folder)
    with commands(tmp_path, monkeypatch) as esb:
        told = esb("--data", "data", "doctor", "--json", code=1)
        assert {finding["repair"] for finding in json.loads(told.out)["findings"]} == {"event-ids"}
        assert "unknown-ids: 16 event ids are not in the index of ids" in esb("doctor", "data", code=1).out
        assert "ids were entered in the index of ids" in esb("doctor", "data", "--repair").err
        assert esb("--data", "data", "audit", "list", "--action", "doctor.repair", "--json").out.count("doctor.repair") == 1
        assert esb("doctor", str(folder)).out == ""
        assert "the log is on Kafka" in esb("--data", "kafka://localhost:1", "doctor", code=1).err


def test_errors_of_the_storage_are_told_with_the_file(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data", without=LOG_ONLY)
    (folder / "log.db").write_bytes(b"x" * 8192)
    with pytest.raises(StorageError, match=r"log\.db is damaged"):
        open_storage(folder)
