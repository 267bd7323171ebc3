"""Scheduled events under faults: killed publishers, and processes that race to release and are killed at it."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from event_streaming_bus.models import Event, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append, Released, Schedule
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.reading import read_stream

PUBLISHER = """
import sys, time
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append, Schedule
from event_streaming_bus.store.log.embedded import EmbeddedLog
log = EmbeddedLog(sys.argv[1])
info = log.find_stream("default", "s")
print("ready", flush=True)
for i in range(1_000_000):
    due_ms = time.time_ns() // 1_000_000 + 100 + i * 7 % 300
    pair = [Event(f"{i}-{n}", "t", i, b"x", key=f"k{n}", deliver_at_ms=due_ms) for n in range(2)]
    log.append([Append(info.stream_id, pair, schedule=Schedule())])
    print(i, flush=True)
"""
RELEASER = """
import sys, time
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
log, name = EmbeddedLog(sys.argv[1]), sys.argv[2]
info = log.find_stream("default", "s")
print("ready", flush=True)
for i in range(1_000_000):
    log.version()
    if i % 20 == 0:
        log.append([Append(info.stream_id, [Event(f"own-{name}-{i}", "t", 0, b"x", key="k0")])])
    time.sleep(0.001)
"""


@pytest.fixture
def info(tmp_path: Path) -> StreamInfo:
    log = EmbeddedLog(tmp_path)
    made = log.create_stream(StreamConfig(name="s", partitions=2))
    log.close()
    return made


def started(script: str, *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(process: "subprocess.Popen[str]") -> str:
    """Kill it without warning; returns what it had printed."""
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate()
    return printed


def check_none_came_early(log: EmbeddedLog, split: Split) -> list[Event]:
    """Each batch of the split was appended when all of its events were due; returns the events that had waited."""
    waited, offset = [], 0
    while batches := log.read(split, offset):
        for batch in batches:
            of_batch = [event for event in batch.events() if event.deliver_at_ms is not None]
            assert all((event.deliver_at_ms or 0) <= batch.appended_at_ms for event in of_batch)
            waited += of_batch
        offset = batches[-1].end_offset
    return waited


@pytest.mark.parametrize("seed", range(3))
def test_what_a_killed_publisher_scheduled_is_delivered_once(tmp_path: Path, info: StreamInfo, seed: int) -> None:
    process = started(PUBLISHER, str(tmp_path))
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(4)]  # however long that takes on a busy machine
    time.sleep(random.Random(seed).uniform(0.05, 0.6))  # some have been released by then, some have not
    acknowledged = [int(line) for line in (*first, *killed(process).split())]
    time.sleep(0.45)
    log = EmbeddedLog(tmp_path)
    for split in info.splits():
        check_none_came_early(log, split)
    found = [event.event_id for event in read_stream(log, info)]
    assert log.scheduled("default").events == []
    log.close()
    assert len(acknowledged) > 3
    assert len(found) == len(set(found))
    assert {f"{i}-{n}" for i in acknowledged for n in range(2)} <= set(found)
    assert len(found) <= 2 * len(acknowledged) + 2  # at most the one append that was under way


def test_processes_that_race_and_are_killed_release_each_event_once_and_in_order(tmp_path: Path, info: StreamInfo) -> None:
    count, chance = 1500, random.Random(7)
    log = EmbeddedLog(tmp_path)
    notes = log.create_stream(StreamConfig(name="_notes"))
    racing = [started(RELEASER, str(tmp_path), f"0-{i}") for i in range(3)]
    start_ms = time.time_ns() // 1_000_000 + 300
    events = [
        Event(f"e{i}", "t", 0, b"x", key=f"k{i % 5}", deliver_at_ms=start_ms + chance.randrange(1200), max_retries=i)
        for i in range(count)
    ]
    for i in range(0, count, 100):
        note = [b"%d" % i]
        log.append([Append(info.stream_id, events[i : i + 100], schedule=Schedule(notes.stream_id, [note] * 100))])
    assert time.time_ns() // 1_000_000 < start_ms
    log.close()
    for round_ in range(1, 6):
        time.sleep(0.2)
        killed(racing.pop(0))
        racing.append(started(RELEASER, str(tmp_path), str(round_)))
    time.sleep(0.3)
    for process in racing:
        killed(process)
    log = EmbeddedLog(tmp_path)
    assert log.scheduled("default").events == []
    released = []
    for split in info.splits():
        waited = check_none_came_early(log, split)
        assert waited == sorted(waited, key=lambda event: (event.deliver_at_ms, event.max_retries))
        released += waited
    assert sorted(released, key=lambda event: event.max_retries) == events
    told: Counter[bytes] = Counter()
    for event in read_stream(log, notes):
        note = msgspec.msgpack.decode(event.data, type=Released)
        told[note.note] += note.count
    assert told == {b"%d" % i: 100 for i in range(0, count, 100)}
    log.close()
