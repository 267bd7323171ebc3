"""The embedded log under faults: killed writers, full disks, damaged files, many processes."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from event_streaming_bus.errors import CorruptLogError, DiskFullError, StorageError, UnsupportedFormatError
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log import stored
from event_streaming_bus.store.log import writer as writing
from event_streaming_bus.store.log.base import Append, Mark
from event_streaming_bus.store.log.embedded import EmbeddedLog

WRITER = """
import sys
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
log, name = EmbeddedLog(sys.argv[1]), sys.argv[2]
info = log.find_stream("default", "s")
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    pair = [Event(f"{name}-{i}-{n}", "t", i, b"x" * 200, key=f"k{n}") for n in range(2)]
    log.append([Append(info.stream_id, pair)])
    print(i, flush=True)
log.close()
"""


def writer(folder: Path, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ids_in(log: EmbeddedLog, info: StreamInfo) -> list[str]:
    found = []
    for split in info.splits():
        offset = 0
        while batches := log.read(split, offset):
            for batch in batches:
                assert batch.offset == offset
                found += [event.event_id for event in batch.events()]
                offset = batch.end_offset
    return found


def first_acknowledged(process: "subprocess.Popen[str]") -> list[int]:
    """The first few appends, once they are acknowledged, however long that takes on a busy machine."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    return [int(line) for line in lines if line.strip().isdigit()]


def acknowledged_by(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    return [int(line) for line in process.stdout.read().split() if line.isdigit()]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at ``folder``; the test is skipped where none can be mounted."""
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs the rights of root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def by_hand(folder: Path) -> Iterator[sqlite3.Connection]:
    """The log's file, opened behind its back."""
    database = sqlite3.connect(folder / "log.db")
    yield database
    database.commit()
    database.close()


def damage(folder: Path, base_offset: int) -> None:
    """Flip one bit in the middle of the body of the batch at ``base_offset``."""
    with by_hand(folder) as database:
        number, body = database.execute("SELECT batch_no, body FROM batches WHERE base_offset = ?", (base_offset,)).fetchone()
        flipped = bytearray(body)
        flipped[len(body) // 2] ^= 1
        database.execute("UPDATE batches SET body = ? WHERE batch_no = ?", (bytes(flipped), number))


@pytest.fixture
def info(tmp_path: Path) -> StreamInfo:
    log = EmbeddedLog(tmp_path)
    made = log.create_stream(StreamConfig(name="s", partitions=2))
    log.close()
    return made


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_no_half(tmp_path: Path, info: StreamInfo, seed: int) -> None:
    with writer(tmp_path, "w", 1_000_000) as process:
        first = first_acknowledged(process)
        time.sleep(random.Random(seed).uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        acknowledged = first + acknowledged_by(process)
    log = EmbeddedLog(tmp_path)
    found = ids_in(log, info)
    log.close()
    assert len(acknowledged) > 3
    assert len(found) == len(set(found))
    assert {f"w-{i}-{n}" for i in acknowledged for n in range(2)} <= set(found)
    pairs = {event_id[:-2] for event_id in found}
    assert {f"{pair}-{n}" for pair in pairs for n in range(2)} == set(found)
    assert len(pairs) <= len(acknowledged) + 1  # at most the one append that was under way


def test_writers_killed_again_and_again_and_started_over_leave_each_event_once(tmp_path: Path, info: StreamInfo) -> None:
    moments, acknowledged = random.Random(7), -1
    stays = EmbeddedLog(tmp_path)
    for _ in range(4):
        with writer(tmp_path, "w", 1_000_000) as process:  # publishes the same ids, from the first one on
            first = first_acknowledged(process)
            time.sleep(moments.uniform(0.02, 0.2))
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *first, *acknowledged_by(process)])
    found = ids_in(stays, info)
    stays.close()
    assert acknowledged > 3
    assert len(found) == len(set(found))
    last = max(int(event_id.split("-")[1]) for event_id in found)
    assert last >= acknowledged
    assert set(found) == {f"w-{i}-{n}" for i in range(last + 1) for n in range(2)}


def test_many_processes_append_at_once_and_nothing_is_lost_or_doubled(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    processes = [writer(tmp_path, f"p{n}", 60) for n in range(4)]
    for i in range(60):
        log.append([Append(info.stream_id, [Event(f"own-{i}", "t", i, b"x", key="k0")])])
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    found = ids_in(log, info)
    log.close()
    expected = {f"p{p}-{i}-{n}" for p in range(4) for i in range(60) for n in range(2)} | {f"own-{i}" for i in range(60)}
    assert len(found) == len(expected)
    assert set(found) == expected


def test_processes_that_publish_the_same_ids_at_once_append_each_once(tmp_path: Path, info: StreamInfo) -> None:
    processes = [writer(tmp_path, "same", 60) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    log = EmbeddedLog(tmp_path)
    found = ids_in(log, info)
    log.close()
    assert sorted(found) == sorted(f"same-{i}-{n}" for i in range(60) for n in range(2))


def test_a_process_that_waits_sees_what_another_appends(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    ends = dict.fromkeys(info.splits(), 0)
    with writer(tmp_path, "w", 1) as process:
        assert log.wait(ends, 60.0)
        assert sorted(ids_in(log, info)) == ["w-0-0", "w-0-1"]
        process.communicate(timeout=60)
    log.close()


def test_processes_that_come_and_go_leave_the_log_of_one_that_stays_whole(tmp_path: Path, info: StreamInfo) -> None:
    stays, second = EmbeddedLog(tmp_path), EmbeddedLog(tmp_path)
    second.close()  # must not let go of the locks that the first one holds in this process
    for number in range(3):
        _, errors = writer(tmp_path, f"r{number}", 20).communicate(timeout=60)
        assert not errors
        for i in range(20):
            stays.append([Append(info.stream_id, [Event(f"s{number}-{i}", "t", i, b"x" * 300)])])
    assert len(ids_in(stays, info)) == 3 * (40 + 20)
    stays.close()
    check = sqlite3.connect(tmp_path / "log.db")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_threads_that_come_and_go_leave_no_open_files_behind(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    open_files = []
    for _ in range(30):
        thread = threading.Thread(target=log.end_offsets, args=(info.stream_id,))
        thread.start()
        thread.join()
        open_files.append(sum(1 for _ in Path("/dev/fd").iterdir()))
    assert max(open_files[5:]) <= open_files[5] + 3  # those of one connection, closed when the next is opened
    log.close()


def test_a_full_disk_is_told_and_what_came_before_is_kept(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    with small_disk(mount, "4m"):
        log = EmbeddedLog(mount / "data")
        small = log.create_stream(StreamConfig(name="s"))
        ballast = mount / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        kept = fill(log, small)
        assert ids_in(log, small) == kept
        ballast.unlink()
        (again,) = log.append([Append(small.stream_id, [Event(f"e{len(kept)}", "t", 0, os.urandom(100_000))])])
        assert not again.duplicates
        assert ids_in(log, small) == [*kept, f"e{len(kept)}"]
        log.close()
        log = EmbeddedLog(mount / "data")
        assert ids_in(log, small) == [*kept, f"e{len(kept)}"]
        log.close()


def fill(log: EmbeddedLog, info: StreamInfo) -> list[str]:
    """Append until the disk is full; returns the ids that were acknowledged."""
    kept: list[str] = []

    def append_one() -> None:
        event = Event(f"e{len(kept)}", "t", 0, os.urandom(100_000))
        log.append([Append(info.stream_id, [event])], marks=[Mark("me", f"{len(kept)}", None, b"1")])
        kept.append(event.event_id)

    def append_many() -> None:
        while len(kept) < 1000:
            append_one()

    with pytest.raises(DiskFullError, match="Free some space"):
        append_many()
    assert 0 < len(kept) < 1000
    assert len(log.marks("me")) == len(kept)
    return kept


def test_a_database_that_may_not_grow_is_a_full_disk_until_it_may(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    log.append([Append(info.stream_id, [])])  # the thread that writes has its connection now
    pool = log._db._pool
    connections = [*pool._apart, *(connection for _, connection in pool._of_thread.values())]
    for connection in connections:
        connection.execute("PRAGMA max_page_count=200")
    kept = fill(log, info)
    assert sorted(ids_in(log, info)) == sorted(kept)
    for connection in connections:
        connection.execute("PRAGMA max_page_count=100000")
    log.append([Append(info.stream_id, [Event("after", "t", 0, os.urandom(100_000))])])
    assert sorted(ids_in(log, info)) == sorted([*kept, "after"])
    log.close()


@pytest.mark.parametrize("base_offset", [0, 1, 2])
def test_a_flipped_bit_is_found_and_named_and_the_rest_can_be_read(tmp_path: Path, base_offset: int) -> None:
    log = EmbeddedLog(tmp_path)
    stream = log.create_stream(StreamConfig(name="one"))
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    for i in range(3):
        log.append([Append(stream.stream_id, [Event(f"e{i}", "t", 0, b"x" * 50)])])
    log.close()
    damage(tmp_path, base_offset)
    log = EmbeddedLog(tmp_path)
    for offset in {0, 1, 2} - {base_offset}:
        assert log.read(split, offset)[0].events()[0].event_id == f"e{offset}"
    with pytest.raises(
        CorruptLogError, match=f"offsets {base_offset} to {base_offset} of stream {stream.stream_id}, partition 0, lane NORMAL"
    ) as caught:
        log.read(split, base_offset)
    assert caught.value.details["offset"] == base_offset
    assert [batch.offset for batch in log.read(split, 0)] == list(range(base_offset)) if base_offset else True
    assert log.read(split, 3) == []
    log.append([Append(stream.stream_id, [Event("after", "t", 0, b"")])])
    assert log.read(split, 3)[0].events()[0].event_id == "after"
    log.close()


def test_an_append_that_needs_a_damaged_batch_fails_alone(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    log.append([Append(info.stream_id, [Event("known", "t", 0, b"", key="k")])])
    log.close()
    damage(tmp_path, 0)
    log = EmbeddedLog(tmp_path)
    futures = [log.submit([Append(info.stream_id, [Event(name, "t", 0, b"", key="k")])]) for name in ("a", "known", "b")]
    assert isinstance(futures[1].exception(), CorruptLogError)
    assert [futures[i].result()[0].receipts()[0].position.offset for i in (0, 2)] == [1, 2]
    log.close()


def test_a_batch_that_is_missing_is_told_where_it_was(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    stream = log.create_stream(StreamConfig(name="one"))
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    for i in range(3):
        log.append([Append(stream.stream_id, [Event(f"e{i}", "t", 0, b"x")])])
    with by_hand(tmp_path) as database:
        database.execute("DELETE FROM batches WHERE base_offset = 1")
    assert [batch.offset for batch in log.read(split, 0)] == [0]
    with pytest.raises(CorruptLogError, match=r"offset 1 of stream .* is missing"):
        log.read(split, 1)
    assert [batch.offset for batch in log.read(split, 2)] == [2]
    log.close()


def test_retention_drops_a_damaged_batch_like_any_other(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    stream = log.create_stream(StreamConfig(name="one", retention_ms=1))
    split = Split(stream.stream_id, EventPriority.NORMAL, 0)
    log.append([Append(stream.stream_id, [Event("a", "t", 0, b"x")])])
    damage(tmp_path, 0)
    assert log.enforce_retention(time.time_ns() // 1_000_000 + 60_000) == 1
    (result,) = log.append([Append(stream.stream_id, [Event("a", "t", 0, b"x")])])
    assert not result.duplicates
    assert log.read(split, 1)[0].events()[0].event_id == "a"
    log.close()


def test_ids_with_equal_hashes_are_told_apart(tmp_path: Path, info: StreamInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (writing, stored):
        monkeypatch.setattr(module, "id_hash", lambda tenant_id, event_id: 7)
    log = EmbeddedLog(tmp_path)
    (first,) = log.append([Append(info.stream_id, [Event(name, "t", 0, b"", key="k") for name in "abc"])])
    (second,) = log.append([Append(info.stream_id, [Event(name, "t", 0, b"", key="k") for name in "cd"])])
    assert (first.duplicates, second.duplicates) == (0, 1)
    assert second.receipts()[0].position == first.receipts()[2].position
    assert ids_in(log, info) == list("abcd")
    log.close()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_file_is_told_when_it_is_opened(tmp_path: Path, info: StreamInfo, share: float) -> None:
    file = tmp_path / "log.db"
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))
    with pytest.raises(CorruptLogError, match=r"log\.db is (truncated|damaged)"):
        EmbeddedLog(tmp_path)


@pytest.mark.parametrize("size", [1, 20, 31, 32, 100, 20_000])
def test_rubbish_for_a_write_ahead_log_harms_nothing(tmp_path: Path, info: StreamInfo, size: int) -> None:
    log = EmbeddedLog(tmp_path)
    log.append([Append(info.stream_id, [Event("before", "t", 0, b"x")])])
    log.close()
    assert not (tmp_path / "log.db-wal").exists()  # a log that was closed has all in one file
    (tmp_path / "log.db-wal").write_bytes(random.Random(size).randbytes(size))
    log = EmbeddedLog(tmp_path)
    log.append([Append(info.stream_id, [Event("after", "t", 0, b"x")])])
    log.close()
    log = EmbeddedLog(tmp_path)
    assert sorted(ids_in(log, info)) == ["after", "before"]
    log.close()


@pytest.mark.parametrize("made_before", [True, False])
def test_a_folder_that_is_read_only_is_told(tmp_path: Path, made_before: bool) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, "4m"):
        if made_before:
            log = EmbeddedLog(folder / "data")
            log.create_stream(StreamConfig(name="s"))
            log.close()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(StorageError, match=r"small.*[Rr]ead-?only"):
            EmbeddedLog(folder / "data")


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is not a database, and long enough to be looked at" * 100)
    with pytest.raises(CorruptLogError, match=r"log\.db"):
        EmbeddedLog(tmp_path)


def test_a_folder_of_a_newer_version_is_not_touched(tmp_path: Path, info: StreamInfo) -> None:
    database = sqlite3.connect(tmp_path / "log.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    before = (tmp_path / "log.db").read_bytes()
    with pytest.raises(UnsupportedFormatError, match="format 99"):
        EmbeddedLog(tmp_path)
    assert (tmp_path / "log.db").read_bytes() == before


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be used"):
        EmbeddedLog(tmp_path / "file" / "data")


def test_a_new_data_folder_is_for_its_owner_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    there.mkdir(mode=0o750)
    for folder in (made, there):
        EmbeddedLog(folder).close()
    assert (made.stat().st_mode & 0o777, there.stat().st_mode & 0o777) == (0o700, 0o750)
