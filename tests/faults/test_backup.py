"""Backups that are made while everything runs, and the folders made of them: nothing that was acknowledged is missing or there
twice, flows go on to the right totals, the audit verifies, the history answers."""

import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import killed_runs
import pytest
from data_folders import HISTORY, by_hand, copy_of, flip, make_folder
from running import commands

from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.backup.making import KEYS, make_backup
from event_streaming_bus.backup.manifest import NAME
from event_streaming_bus.backup.restoring import restore_backup
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.doctor.examine import examine
from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, NotFoundError, StorageError, UnsupportedFormatError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import progress
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.store.history import History
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")
# One publisher's events come in order, so that windows close all the time and nothing is late; of the others none closes.
FLOW = """
streams: [{name: orders, partitions: 3}, {name: ticks}, {name: big}, {name: sums}, {name: totals}]
processors:
  - processor_name: big_orders
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: big
    processing_logic: {filter_expression: payload.total > 5}
  - processor_name: totals_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: totals
    processing_logic: {group_by: [k], aggregations: [{function: sum, field: total}, {function: count}]}
    window_config: {window_type: tumbling, window_size_ms: 1000000000, grace_period_ms: 1000}
  - processor_name: sums_of_ticks
    processor_type: AGGREGATE
    source_stream_id: ticks
    target_stream_id: sums
    processing_logic: {group_by: [k], aggregations: [{function: sum, field: total}, {function: count}]}
    window_config: {window_type: tumbling, window_size_ms: 1000, grace_period_ms: 0}
"""
PUBLISHER = """
import sys
import time
from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import EventConfig
name, stream = sys.argv[2:]
with open_bus(sys.argv[1]) as bus:
    for i in range(1_000_000):
        configs = [EventConfig(event_type="order", event_id=f"{name}-{i}-{n}") for n in range(10)]
        payloads = [{"k": f"k{n % 4}", "total": n} for n in range(10)]
        keys = [f"k{n % 4}" for n in range(10)]
        bus.publishing.submit(configs, payloads, stream_id=stream, keys=keys, timestamps_ms=[i * 200] * 10).result()
        print(i, flush=True)
        time.sleep(0.005)
"""
OUTPUT = ("big", "totals", "sums")


class Publisher:
    """A process that publishes, and how far it was told that it has come."""

    def __init__(self, folder: Path, name: str, stream: str) -> None:
        command = [sys.executable, "-c", PUBLISHER, str(folder), name, stream]
        self.name, self.stream, self.done = name, stream, -1
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.done = int(line)

    def acknowledged(self) -> set[str]:
        return {f"{self.name}-{i}-{n}" for i in range(self.done + 1) for n in range(10)}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    command = [ESB, "--data", str(folder), "serve", "--port", "0", "--auth", "off"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def outcome(bus: Bus) -> dict[str, list[Any]]:
    found = {}
    for stream in OUTPUT:
        events = read_all(bus, stream)
        assert len({event.event_id for event in events}) == len(events)
        found[stream] = sorted((event.timestamp_ms, event.data, event.key) for event in events)
    return found


def undisturbed(source: Bus, folder: Path, file: Path) -> dict[str, list[Any]]:
    """What the flow makes of the streams that a bus holds, from the beginning and at one go."""
    with closing(EmbeddedLog(folder)) as log:
        for name in ("orders", "ticks"):
            info = source.log.find_stream("default", name)
            log.create_stream(info.config, info.stream_id)
            ends = source.log.end_offsets(info.stream_id)
            for split in info.splits():
                log.adopt(list(batches_between(source.log, split, 0, ends[split])))
    with open_bus(folder) as bus:
        killed_runs.run(bus, deploy(load_flow(file), bus.storage), file, [1], [])
        return outcome(bus)


def test_backups_made_while_all_runs_hold_what_was_acknowledged_and_go_on(tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "flow.yaml"
    file.write_text(FLOW)
    acknowledged: dict[Path, list[tuple[str, set[str]]]] = {}
    with open_bus(folder) as bus, ExitStack() as running:
        plan = deploy(load_flow(file), bus.storage)
        audit = AuditService(bus.storage)
        audit.record("stream.create", tenant_id="default", actor="a-person", target="orders")
        running.enter_context(serving(folder))
        publishers = [Publisher(folder, name, "ticks" if name == "c" else "orders") for name in "abc"]
        for publisher in publishers:
            running.callback(publisher.kill)
        group = WorkerGroup(bus.storage, plan, ["--flow", str(file)], workers=2, snapshot_interval_ms=100)
        running.callback(group.kill)
        until(lambda: all(publisher.done > 5 for publisher in publishers) and progress(plan, bus.storage)[0] > 200)
        for name in ("first", "second.tar.zst"):
            acknowledged[tmp_path / name] = [(each.stream, each.acknowledged()) for each in publishers]
            make_backup(folder, tmp_path / name)
            audit.record("backup.create", tenant_id="default", actor="a-person", target=name)
            before = progress(plan, bus.storage)[0]
            until(lambda before=before: progress(plan, bus.storage)[0] > before + 300)  # it goes on
        assert group.exit_code() is None
        audit.close()
    for backup, expected in acknowledged.items():
        restored = tmp_path / f"{backup.name}-restored"
        restore_backup(backup, restored)
        report = examine(restored)
        assert report.is_sound, report.findings
        assert report.checked["flows with state"] == 1
        with open_bus(restored) as bus:
            for stream in ("orders", "ticks"):
                ids = [event.event_id for event in read_all(bus, stream)]
                assert len(ids) == len(set(ids))
                there = set(ids)
                for of_stream, wanted in expected:
                    assert of_stream != stream or (len(wanted) > 0 and wanted <= there)
            assert len(read_all(bus, "big")) > 0  # the flow had got somewhere, and goes on
            if backup.name == "first":
                continue  # that takes time
            killed_runs.run(bus, deploy(load_flow(file), bus.storage), file, [1], [])
            assert outcome(bus) == undisturbed(bus, tmp_path / f"{backup.name}-anew", file)
            verified = AuditService(bus.storage).verify()
            assert verified.is_intact
            assert verified.entries > 0
            with closing(History(bus.storage)) as history:
                history.catch_up()
                (count,) = next(history.query("SELECT count(*) FROM events WHERE stream = 'orders'").rows())
            assert count == len(read_all(bus, "orders"))


# --- what is in a backup ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    make_folder(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["copy", "copy.tar.gz", "copy.tar.zst"])
def test_a_restored_folder_answers_as_the_one_that_was_backed_up(sound: Path, tmp_path: Path, place: str) -> None:
    folder = copy_of(sound, tmp_path / "data")
    ask = "SELECT event_id, stream, payload FROM events ORDER BY event_id"
    with open_bus(folder) as bus, closing(History(bus.storage)) as history:
        expected = list(history.query(ask).rows())
        told: list[tuple[int, int]] = []
        made = make_backup(folder, tmp_path / place, progress=lambda done, total, what: told.append((done, total)))
    assert told == sorted(told)
    assert (tmp_path / place).stat().st_mode & 0o077 == 0
    restored = tmp_path / "restored"
    assert restore_backup(tmp_path / place, restored) == made
    assert names(restored) == {file.path for file in made.files}
    assert not any(name.endswith((".lock", "-wal", HISTORY)) for name in names(restored))
    assert set(KEYS) <= names(restored)
    report = examine(restored)
    assert report.is_sound, report.findings
    assert report.checked["subject keys"] == report.checked["projection builds"] == report.checked["tokens"] == 1
    with open_bus(restored) as bus, closing(History(bus.storage)) as history:
        history.catch_up()
        assert list(history.query(ask).rows()) == expected
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_backup_without_keys_has_none_and_takes_them_from_elsewhere(sound: Path, tmp_path: Path) -> None:
    made = make_backup(sound, tmp_path / "copy", with_keys=False)
    assert not made.has_keys
    assert not names(tmp_path / "copy") & set(KEYS)
    master = (sound / "master.key").read_bytes()
    assert not any(master in (tmp_path / "copy" / name).read_bytes() for name in names(tmp_path / "copy"))
    restored = tmp_path / "restored"
    restore_backup(tmp_path / "copy", restored)
    assert examine(restored).skipped == ["audit.db: the signatures of its checkpoints, for there is no audit.key"]
    for name in ("keys.db", "master.key", "audit.key"):
        (restored / name).write_bytes((sound / name).read_bytes())
        (restored / name).chmod(0o600)
    report = examine(restored)
    assert report.is_sound, report.findings
    assert report.checked["subject keys"] == 1


def test_what_a_symbolic_link_leads_to_is_told_to_be_left_out(sound: Path, tmp_path: Path) -> None:
    folder = copy_of(sound, tmp_path / "data")
    (folder / "history").rename(tmp_path / "elsewhere")
    (folder / "history").symlink_to(tmp_path / "elsewhere")
    left_out = make_backup(folder, tmp_path / "copy").left_out
    assert "history: a symbolic link; back up what it leads to as well" in left_out
    assert len(left_out) == 3  # the files of old days too
    restore_backup(tmp_path / "copy", tmp_path / "restored")
    assert examine(tmp_path / "restored").is_sound


# --- what is refused --------------------------------------------------------------------------------------------------


def test_places_that_are_taken_or_wrong_are_refused_and_nothing_is_left(sound: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("x")
    with pytest.raises(AlreadyExistsError):
        make_backup(sound, taken)
    with pytest.raises(InvalidInputError, match="within the data folder"):
        make_backup(sound, sound / "backup")
    with pytest.raises(InvalidInputError, match=r"copy\.zip: expected a folder"):
        make_backup(sound, tmp_path / "copy.zip")
    with pytest.raises(NotFoundError):
        make_backup(tmp_path / "nothing", tmp_path / "copy")
    make_backup(sound, tmp_path / "copy")
    with pytest.raises(AlreadyExistsError):
        restore_backup(tmp_path / "copy", taken)
    with pytest.raises(NotFoundError):
        restore_backup(tmp_path / "nothing", tmp_path / "restored")
    with pytest.raises(StorageError, match=r"there is no backup\.json in it"):
        restore_backup(taken, tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "taken"]


def remanifested(backup: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((backup / NAME).read_text())
    change(manifest)
    (backup / NAME).write_text(json.dumps(manifest))


DAMAGES: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda backup: flip(backup / "log.db", 100_000, 3), StorageError, r"log\.db is not what was backed up"),
    (lambda backup: (backup / "audit.db").unlink(), StorageError, r"audit\.db is missing"),
    (lambda backup: (backup / "more").write_text("x"), StorageError, "more is not in its manifest"),
    (lambda backup: (backup / "audit.key").write_text("x"), StorageError, r"audit\.key has 1 bytes, not"),
    (lambda backup: (backup / NAME).write_text("{"), StorageError, "cannot be read"),
    (lambda backup: remanifested(backup, lambda m: m.update(format=2)), UnsupportedFormatError, "Upgrade the bus"),
    (lambda backup: remanifested(backup, lambda m: m.update(data_format=2)), UnsupportedFormatError, "Upgrade the bus"),
    (lambda backup: remanifested(backup, lambda m: m["files"][0].update(path="../x")), StorageError, "outside of a data folder"),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES, ids=[str(i) for i in range(len(DAMAGES))])
def test_a_damaged_backup_is_refused_and_nothing_is_left(
    sound: Path, tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    make_backup(sound, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(error, match=message):
        restore_backup(tmp_path / "copy", tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize("name", ["copy.tar.gz", "copy.tar.zst"])
def test_a_damaged_or_cut_archive_is_refused(sound: Path, tmp_path: Path, name: str) -> None:
    make_backup(sound, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:500] + bytes([whole[500] ^ 8]) + whole[501:], b"", b"x" * 100):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(StorageError):
            restore_backup(tmp_path / name, tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "copy.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "evil", "../evil")
    with pytest.raises(StorageError, match="which no backup has"):
        restore_backup(tmp_path / "copy.tar.gz", tmp_path / "restored")


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_back_up_restore_and_check(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(sound, tmp_path / "data", without=(HISTORY, "history", "projections", "logs"))
    with by_hand(folder / "log.db") as db:
        db.execute("INSERT INTO group_offsets VALUES ('g', 1, 100000)")  # what the restored folder is told of
    with commands(tmp_path, monkeypatch) as esb:
        assert "with its keys" in esb("--data", "data", "backup", "copy.tar.zst").err
        assert esb("--data", "data", "audit", "list", "--action", "backup.create", "--json").out.count("copy.tar.zst") == 1
        assert "position-beyond-end" in esb("restore", "copy.tar.zst", "restored", code=1).out
        assert "is not empty; nothing was changed" in esb("restore", "copy.tar.zst", "restored", code=1).err
        assert esb("--data", "restored", "audit", "list", "--action", "backup.restore", "--json").out.count("copy.tar.zst") == 1
        assert "the log is on Kafka" in esb("--data", "kafka://localhost:1", "backup", "copy", code=1).err
