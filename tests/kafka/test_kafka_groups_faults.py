"""Members of a Kafka group that are killed, or stopped and wake up late, while others go on."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kafka_broker
import pytest

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.consumers.coordination import coordinator_of
from event_streaming_bus.consumers.lag import measured
from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.models import LANES, Event
from event_streaming_bus.store.log.base import Append

PROGRAM = Path(__file__).with_name("kafka_members.py")
TIMES = {"session_timeout_ms": 1500, "heartbeat_interval_ms": 200}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(kafka_broker.kafka_url(tmp_path)) as bus:
        bus.create_stream("orders", partitions=2)
        yield bus


class Member:
    """A process of ``kafka_members.py``, and the lines that it has printed."""

    def __init__(self, bus: Bus, *more: str) -> None:
        command = [sys.executable, str(PROGRAM), bus.storage.url, "g", "orders", *more]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was killed while it wrote it
                self.lines.append(line.rstrip())

    def told(self, word: str) -> list[str]:
        """The events of all lines that begin so."""
        return [event for line in list(self.lines) if line.split()[0] == word for event in line.split()[1:]]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reading.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def wait_until(is_so: object, timeout_s: float = 40.0) -> None:
    assert callable(is_so)
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def publish(bus: Bus, count: int) -> list[str]:
    made = ids.new_ids(ids.EVENT, count)
    events = [Event(each, "t", 0, b"1", key=str(i % 7), priority=LANES[i % 4]) for i, each in enumerate(made)]
    bus.log.append([Append(bus.log.find_stream("default", "orders").stream_id, events)])
    return made


def lag(bus: Bus) -> int:
    coordinator = coordinator_of(bus.storage)
    group = coordinator.get("default", "g")
    return sum(each.lag for each in measured(bus.log, group, coordinator.committed(group.group_id), {}, 0))


def test_when_a_member_is_killed_every_event_is_delivered_and_committed_once(bus: Bus) -> None:
    coordinator_of(bus.storage).create("default", GroupConfig(group_name="g", **TIMES))
    members = [Member(bus), Member(bus)]
    try:
        wait_until(lambda: all(member.lines for member in members))
        published = publish(bus, 40)
        wait_until(lambda: all(member.told("committed") for member in members))
        for number in range(30):
            published += publish(bus, 12)
            if number == 10:
                members[0].kill()
        wait_until(lambda: lag(bus) == 0)
        survivor, killed = members[1], members[0]
        wait_until(lambda: survivor.lines[-1].startswith("committed"))
        delivered = Counter(killed.told("delivered") + survivor.told("delivered"))
        committed = Counter(killed.told("committed") + survivor.told("committed"))
        assert set(delivered) == set(published)
        assert max(committed.values()) == 1
        # What the killed one had in hand is committed by the other, unless it was by itself right before it could tell.
        in_hand = set(killed.told("delivered")) - set(killed.told("committed"))
        assert set(published) - set(committed) <= in_hand
        assert {event for event, times in delivered.items() if times > 1} <= in_hand
    finally:
        for member in members:
            member.kill()


def test_a_member_that_stood_still_cannot_commit_what_another_one_has_taken_over(bus: Bus) -> None:
    coordinator_of(bus.storage).create("default", GroupConfig(group_name="g", **TIMES))
    published = publish(bus, 10)
    members = [Member(bus, "slow")]
    try:
        wait_until(lambda: set(members[0].told("delivered")) == set(published))
        members[0].process.send_signal(signal.SIGSTOP)
        members.append(Member(bus))
        wait_until(lambda: set(members[1].told("committed")) == set(published))
        members[1].kill()  # nobody is left in the group, so the broker would take offsets of one that is no member
        group = coordinator_of(bus.storage).get("default", "g")
        wait_until(lambda: not coordinator_of(bus.storage).get("default", "g").members)
        committed = coordinator_of(bus.storage).committed(group.group_id)
        stdin = members[0].process.stdin
        assert stdin is not None
        stdin.write("commit\n")
        stdin.flush()
        members[0].process.send_signal(signal.SIGCONT)
        wait_until(lambda: "fenced" in members[0].lines)
        assert coordinator_of(bus.storage).committed(group.group_id) == committed
        assert members[0].told("committed") == []
    finally:
        for member in members:
            member.kill()
