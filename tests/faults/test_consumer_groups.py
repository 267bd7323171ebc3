"""Consumer groups under faults: members that are stopped and wake up late, are killed, join and leave, while events are
published.

Each member writes down what it was given and what it has committed. Afterwards these logs are checked against what was published.
"""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import AssignmentStrategy, GroupConfig
from event_streaming_bus.models import LANES, Event, StreamConfig
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import temporary_bus

PARTITIONS = 5
RUN_S = 5.0

# What a member writes down, a line each: D (delivered), C (committed up to), F (a commit was refused), L (put out), B (bye).
MEMBER = """
import asyncio, os, random, signal, sys, time
from event_streaming_bus import open_bus
from event_streaming_bus.errors import FencedError

folder, path, mode, seed = sys.argv[1:]
chance, stopping = random.Random(seed), False
out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(lines):
    os.write(out, "".join(f"{line} {time.monotonic():.6f}\\n" for line in lines).encode())

async def main():
    global stopping
    def stop():
        global stopping
        stopping = True
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    auto = mode == "auto"
    with open_bus(folder) as bus:
        async with bus.consumer("g", ["s"], auto_commit=auto, commit_interval_ms=0, max_poll_events=40) as consumer:
            print("ready", flush=True)
            while not stopping:
                before, losses, member = consumer.offsets(), dict(consumer.counts), consumer.member_id
                events = await consumer.poll(timeout_s=0.2)
                if auto and losses == dict(consumer.counts):
                    note(f"C {consumer.generation} {member} {split} {offset}" for split, offset in before.items())
                if consumer.counts["put_out"] > losses.get("put_out", 0):
                    note([f"L {consumer.generation} {member}"])
                places = [consumer.position(event) for event in events]
                note(f"D {consumer.generation} {consumer.member_id} {split} {offset} {event.event_id}"
                     for (split, offset), event in zip(places, events))
                await asyncio.sleep(chance.uniform(0.002, 0.02))
                if not auto:
                    offsets, member = consumer.offsets(), consumer.member_id
                    try:
                        await consumer.commit()
                        note(f"C {consumer.generation} {member} {split} {offset}" for split, offset in offsets.items())
                    except FencedError:
                        note([f"F {consumer.generation} {member}"])
            before, member = consumer.offsets(), consumer.member_id
        note([f"C {consumer.generation} {member} {split} {offset}" for split, offset in before.items()] if auto else [])
        note([f"B {consumer.generation} {member}"])

asyncio.run(main())
"""

HOLDER = """
import asyncio, sys
from event_streaming_bus import open_bus
from event_streaming_bus.errors import FencedError

async def main():
    with open_bus(sys.argv[1]) as bus:
        async with bus.consumer("g", ["s"], auto_commit=False) as consumer:
            events = await consumer.poll(timeout_s=10)
            print("holds", len(events), flush=True)
            sys.stdin.readline()
            try:
                await consumer.commit()
                print("committed", flush=True)
            except FencedError as error:
                print("refused:", error, flush=True)
            again = await consumer.poll(timeout_s=3)
            print("again", len(again), consumer.counts["put_out"], flush=True)

asyncio.run(main())
"""


class Delivery(NamedTuple):
    """An event that a member was given."""

    generation: int
    member: str
    split: str
    offset: int
    event_id: str
    at_s: float


class Logs(NamedTuple):
    """What all members wrote down."""

    deliveries: list[Delivery]
    commits: dict[tuple[str, str], int]
    """By member and split, the highest offset that the member knows to have committed."""
    lost: set[str]
    refused: int


class Process(NamedTuple):
    """A member's process."""

    popen: "subprocess.Popen[str]"
    path: Path

    def member_ids(self) -> set[str]:
        """The ids that the process has had in the group so far."""
        return {line.split()[2] for line in self.path.read_text().splitlines()} if self.path.exists() else set()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as bus:
        bus.log.create_stream(StreamConfig(name="s", partitions=PARTITIONS))
        yield bus


def make_group(bus: Bus, strategy: AssignmentStrategy = AssignmentStrategy.RANGE) -> str:
    config = GroupConfig(
        group_name="g",
        session_timeout_ms=1000,
        heartbeat_interval_ms=200,
        rebalance_timeout_ms=3000,
        partition_assignment_strategy=strategy,
    )
    return GroupCoordinator(bus.storage).create("default", config).group_id


def publish_for(bus: Bus, seconds: float, seed: int, published: list[str]) -> None:
    stream, chance = bus.log.find_stream("default", "s"), random.Random(seed)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        events = [
            Event(f"e{len(published) + i}", "t", 0, b"{}", key=f"k{chance.randrange(40)}", priority=chance.choice(LANES))
            for i in range(chance.randint(1, 12))
        ]
        bus.log.append([Append(stream.stream_id, events)])
        published += [event.event_id for event in events]
        time.sleep(chance.uniform(0.002, 0.02))


def read_logs(folder: Path) -> Logs:
    deliveries, commits, lost, refused = [], {}, set(), 0
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            what, generation, member, *rest = line.split()
            if what == "D":
                split, offset, event_id, at_s = rest
                deliveries.append(Delivery(int(generation), member, split, int(offset), event_id, float(at_s)))
            elif what == "C":
                place = member, rest[0]
                commits[place] = max(commits.get(place, 0), int(rest[1]))
            elif what in "LF":
                lost.add(member)
                refused += what == "F"
    return Logs(sorted(deliveries, key=lambda each: each.at_s), commits, lost, refused)


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until_s, "it took too long"
        time.sleep(0.05)


@contextlib.contextmanager
def members(bus: Bus, folder: Path, seed: int) -> Iterator[Callable[[str], Process]]:
    """Starts members; those that still run in the end are killed."""
    started: list[Process] = []

    def start(mode: str) -> Process:
        path = folder / f"{len(started)}.log"
        command = [sys.executable, "-c", MEMBER, str(bus.folder), str(path), mode, f"{seed}-{len(started)}"]
        started.append(Process(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), path))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.popen.kill()
            process.popen.communicate()


def end(process: Process) -> None:
    """Let a member leave, and see that nothing went wrong in it."""
    process.popen.send_signal(signal.SIGTERM)
    _, errors = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 0, errors


@pytest.mark.parametrize(
    ("seed", "strategy"),
    [(1, AssignmentStrategy.RANGE), (2, AssignmentStrategy.COOPERATIVE_STICKY)],
)
def test_no_event_is_lost_and_none_goes_to_two_members_of_a_generation(
    bus: Bus, tmp_path: Path, seed: int, strategy: AssignmentStrategy
) -> None:
    group_id, chance = make_group(bus, strategy), random.Random(seed)
    published: list[str] = []
    disturbed: set[str] = set()
    publisher = threading.Thread(target=publish_for, args=(bus, RUN_S, seed, published))
    with members(bus, tmp_path, seed) as start:
        running = [start("auto"), start("manual"), start("manual")]
        for process in running:
            assert process.popen.stdout is not None
            assert process.popen.stdout.readline() == "ready\n", process.popen.communicate()
        publisher.start()
        time.sleep(chance.uniform(0.3, 0.8))
        stopped = running[chance.randrange(3)]
        stopped.popen.send_signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.1, 0.4))
        running.append(start("auto"))
        time.sleep(chance.uniform(1.5, 1.8))
        disturbed |= stopped.member_ids()
        stopped.popen.send_signal(signal.SIGCONT)
        time.sleep(chance.uniform(0.2, 0.6))
        killed = chance.choice([process for process in running if process is not stopped])
        killed.popen.kill()
        killed.popen.wait()
        disturbed |= killed.member_ids()
        running.remove(killed)
        running.append(start("manual"))
        time.sleep(chance.uniform(0.3, 0.7))
        leaving = chance.choice([process for process in running[:-1] if process is not stopped])
        running.remove(leaving)
        end(leaving)
        publisher.join()
        stream_id = bus.log.find_stream("default", "s").stream_id
        ends = {split: offset for split, offset in bus.log.end_offsets(stream_id).items() if offset}
        wait_until(lambda: ends.items() <= GroupCoordinator(bus.storage).committed(group_id).items(), 12)
        for process in running:
            end(process)

    logs = read_logs(tmp_path)
    assert {each.event_id for each in logs.deliveries} == set(published)

    given: dict[tuple[int, str, int], set[str]] = defaultdict(set)
    by_event: dict[str, list[Delivery]] = defaultdict(list)
    for each in logs.deliveries:
        given[each.generation, each.split, each.offset].add(each.member)
        by_event[each.event_id].append(each)
    assert [place for place, to in given.items() if len(to) > 1] == []

    again = Counter(len(times) for times in by_event.values())
    excused = disturbed | logs.lost
    for times in by_event.values():
        for each in times[:-1]:
            assert each.member in excused, f"seed {seed}: {times}"
            assert each.offset >= logs.commits.get((each.member, each.split), 0), f"seed {seed}: {times}"
    generation = max(each.generation for each in logs.deliveries)
    print(
        f"seed {seed}, {strategy}: {len(published)} events, {generation} generations, delivered so many times: {dict(again)}, "
        f"members put out {len(logs.lost)}, late commits refused {logs.refused}"
    )


def test_the_late_commit_of_a_member_that_was_stopped_is_refused(bus: Bus) -> None:
    group_id = make_group(bus)
    stream = bus.log.find_stream("default", "s")
    bus.log.append([Append(stream.stream_id, [Event(f"e{i}", "t", 0, b"{}", key="k") for i in range(3)])])
    coordinator = GroupCoordinator(bus.storage)
    command = [sys.executable, "-c", HOLDER, str(bus.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "holds 3\n"
            holder.send_signal(signal.SIGSTOP)
            wait_until(lambda: not coordinator.get("default", "g").members, 5)
            joined = coordinator.join(group_id, [stream.stream_id])
            (at,) = [split for split, offset in bus.log.end_offsets(stream.stream_id).items() if offset]
            coordinator.commit(group_id, joined.member_id, joined.generation, {at: 2})
            holder.send_signal(signal.SIGCONT)
            holder.stdin.write("go on\n")
            holder.stdin.flush()
            assert holder.stdout.readline().startswith("refused: The commit of this consumer of group 'g' came too late")
            assert coordinator.committed(group_id)[at] == 2
            coordinator.leave(group_id, joined.member_id)
            assert holder.stdout.readline() == "again 1 1\n"  # the last event, and it was put out once
        finally:
            holder.kill()
