"""The embedded log under faults: killed writers, full disks, damaged files, many processes."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from event_streaming_bus.errors import CorruptLogError, DiskFullError, StorageError, UnsupportedFormatError
from event_streaming_bus.models import Event, EventPriority, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append
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


@pytest.fixture
def info(tmp_path: Path) -> StreamInfo:
    log = EmbeddedLog(tmp_path)
    made = log.create_stream(StreamConfig(name="s", partitions=2))
    log.close()
    return made


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_no_half(tmp_path: Path, info: StreamInfo, seed: int) -> None:
    with writer(tmp_path, "w", 1_000_000) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in process.stdout.read().split() if line.isdigit()]
    log = EmbeddedLog(tmp_path)
    found = ids_in(log, info)
    log.close()
    assert len(acknowledged) > 3
    assert len(found) == len(set(found))
    assert {f"w-{i}-{n}" for i in acknowledged for n in range(2)} <= set(found)
    pairs = {event_id[:-2] for event_id in found}
    assert {f"{pair}-{n}" for pair in pairs for n in range(2)} == set(found)


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


def test_a_full_disk_is_told_and_what_came_before_is_kept(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs the rights of root")
    try:
        log = EmbeddedLog(mount / "data")
        small = log.create_stream(StreamConfig(name="s"))
        ballast = mount / "ballast"
        ballast.write_bytes(b"x" * (1 << 20))
        kept: list[str] = []

        def fill() -> None:
            for i in range(100):
                log.append([Append(small.stream_id, [Event(f"e{i}", "t", 0, os.urandom(100_000))])])
                kept.append(f"e{i}")

        with pytest.raises(DiskFullError, match="Free some space"):
            fill()
        assert ids_in(log, small) == kept
        ballast.unlink()
        log.append([Append(small.stream_id, [Event("after", "t", 0, os.urandom(100_000))])])
        assert ids_in(log, small) == [*kept, "after"]
        log.close()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_flipped_byte_is_found_and_named_and_the_rest_can_be_read(tmp_path: Path, info: StreamInfo) -> None:
    log = EmbeddedLog(tmp_path)
    for i in range(3):
        log.append([Append(info.stream_id, [Event(f"e{i}", "t", 0, b"x" * 50, key="k")])])
    (split,) = (split for split, end in log.end_offsets(info.stream_id).items() if end)
    log.close()
    database = sqlite3.connect(tmp_path / "log.db")
    number, body = database.execute("SELECT batch_no, body FROM batches WHERE base_offset = 1").fetchone()
    damaged = bytearray(body)
    damaged[len(body) // 2] ^= 1
    database.execute("UPDATE batches SET body = ? WHERE batch_no = ?", (bytes(damaged), number))
    database.commit()
    database.close()
    log = EmbeddedLog(tmp_path)
    assert log.read(split, 0, max_bytes=1)[0].events()[0].event_id == "e0"
    assert log.read(split, 2)[0].events()[0].event_id == "e2"
    with pytest.raises(CorruptLogError, match=f"offsets 1 to 1 of stream {info.stream_id}, partition {split.partition}"):
        log.read(split, 1)
    assert split.lane is EventPriority.NORMAL
    log.close()


def test_a_truncated_file_is_told_when_it_is_opened(tmp_path: Path, info: StreamInfo) -> None:
    file = tmp_path / "log.db"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 8192)
    with pytest.raises(CorruptLogError, match="truncated"):
        EmbeddedLog(tmp_path)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"this is not a database, and long enough to be looked at" * 100)
    with pytest.raises(CorruptLogError, match=r"log\.db"):
        EmbeddedLog(tmp_path)


def test_a_folder_of_a_newer_version_is_not_touched(tmp_path: Path, info: StreamInfo) -> None:
    database = sqlite3.connect(tmp_path / "log.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(UnsupportedFormatError, match="format 99"):
        EmbeddedLog(tmp_path)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be used"):
        EmbeddedLog(tmp_path / "file" / "data")
