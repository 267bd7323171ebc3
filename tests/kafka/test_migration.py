"""Everything of a data folder carried to Kafka and back, whatever happens on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kafka_broker
import pytest
from bytewax.testing import run_main

from event_streaming_bus.bus import open_bus
from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.migration.flow_states import folder_of
from event_streaming_bus.migration.plan import Choice, FlowOutputs
from event_streaming_bus.migration.service import migrate, plan_migration
from event_streaming_bus.models import LANES, Event, EventConfig, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.registry.streams import make_stream
from event_streaming_bus.store.log.base import Append, EventLog
from event_streaming_bus.store.log.kafka_partitions import partition_of as kafka_partition_of
from event_streaming_bus.store.log.writer import partition_of as embedded_partition_of
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")
PARTITIONS = 3
TIMEOUT_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def url(folder: Path) -> str:
    return kafka_broker.kafka_url(folder)


def event(number: int, key: str | None, lane: EventPriority = EventPriority.NORMAL, **more: Any) -> Event:
    data = b'{"n":%d}' % number
    return Event(f"e-{number}", "t", number, data, key=key, priority=lane, metadata={"n": number, "x": 1.5}, **more)


def events_of(begin: int, end: int) -> list[Event]:
    return [event(n, None if n % 7 == 0 else f"k{n % 11}", LANES[n % 4]) for n in range(begin, end)]


def publish(log: EventLog, stream: StreamInfo, events: Sequence[Event]) -> None:
    log.append([Append(stream.stream_id, events)])


def filled(folder: Path, count: int, name: str = "orders") -> StreamInfo:
    """A stream with so many events of four lanes, with keys and without."""
    with open_bus(folder) as bus:
        config = StreamConfig(name=name, partitions=PARTITIONS, retention_ms=10**12, description="what was bought")
        stream = bus.log.create_stream(config)
        for begin in range(0, count, 50):
            publish(bus.log, stream, events_of(begin, min(begin + 50, count)))
        return stream


def by_key(events: Sequence[Event]) -> dict[tuple[str | None, EventPriority], list[str]]:
    """The ids of each key and lane, in their order; without a key there is none."""
    found: dict[tuple[str | None, EventPriority], list[str]] = {}
    for each in events:
        found.setdefault((each.key, each.priority), []).append(each.event_id)
    return {place: sorted(ids) if place[0] is None else ids for place, ids in found.items()}


def unread(log: EventLog, stream: StreamInfo, group: str) -> list[str]:
    """The ids of the events that a group is given when it goes on."""
    ids: list[str] = []
    for split, offset in log.committed(group).items():
        while batches := log.read(split, offset):
            ids += [each for batch in batches for each in batch.column("event_id")]
            offset = batches[-1].end_offset
    assert {split.stream_id for split in log.committed(group)} <= {stream.stream_id}
    return ids


def halfway(log: EventLog, stream: StreamInfo, group: str) -> set[str]:
    """Commit half of each split for the group; the ids of what it has not read."""
    ends = log.end_offsets(stream.stream_id)
    log.commit(group, {split: end // 2 for split, end in ends.items()})
    return set(unread(log, stream, group))


def test_events_are_at_kafka_as_they_were_and_groups_miss_none_although_keys_move(folder: Path, url: str) -> None:
    assert any(embedded_partition_of(f"k{n}", PARTITIONS) != kafka_partition_of(f"k{n}", PARTITIONS) for n in range(11))
    stream = filled(folder, 300)
    with open_bus(folder) as bus:
        before = read_all(bus, "orders")
        wanted = halfway(bus.log, stream, "readers")
        bus.log.commit("done", bus.log.end_offsets(stream.stream_id))
        bus.log.commit("none", dict.fromkeys(stream.splits(), 0))
    report = migrate(str(folder), url)
    assert (report.agrees, report.copied, report.left) == (True, 300, 0)
    (told,) = [each for each in report.groups if each.group == "readers"]
    with open_bus(url) as bus:
        given = unread(bus.log, stream, "readers")
        assert wanted <= set(given)
        assert (told.unread, told.again) == (len(wanted), len(given) - len(wanted))
        assert unread(bus.log, stream, "done") == []
        assert len(unread(bus.log, stream, "none")) == 300
        there = bus.log.find_stream("default", "orders")
        assert (there.stream_id, there.config) == (stream.stream_id, stream.config)
        after = read_all(bus, "orders")
        assert sorted(after, key=lambda e: e.timestamp_ms) == sorted(before, key=lambda e: e.timestamp_ms)
        assert by_key(after) == by_key(before)
        for split in stream.splits():  # they were published in the order of their times, and no flow finds them late now
            times_ms = [each.timestamp_ms for each in _read(bus.log, split)]
            assert times_ms == sorted(times_ms)
        with open_bus(folder) as old:
            for split in stream.splits():  # those without a key stay where they are
                there_before = [e.event_id for e in _read(old.log, split) if e.key is None]
                assert [e.event_id for e in _read(bus.log, split) if e.key is None] == there_before
        assert bus.log.locate("default", "e-5") is not None
        publish(bus.log, there, [event(5, "k5")])
        assert len(read_all(bus, "orders")) == 300


def _read(log: EventLog, split: Split) -> list[Event]:
    offset, events = log.begin_offsets(split.stream_id)[split], []
    while batches := log.read(split, offset):
        events += [each for batch in batches for each in batch.events()]
        offset = batches[-1].end_offset
    return events


def test_a_second_run_carries_the_rest_and_leaves_groups_that_have_gone_on(folder: Path, url: str) -> None:
    stream = filled(folder, 100)
    with open_bus(folder) as bus:
        halfway(bus.log, stream, "moves")
        halfway(bus.log, stream, "waits")
    migrate(str(folder), url)
    with open_bus(url) as bus:
        bus.log.commit("moves", bus.log.end_offsets(stream.stream_id))
        publish(bus.log, stream, [event(900, "k1")])  # published at the target already
    with open_bus(folder) as bus:
        publish(bus.log, stream, events_of(100, 150))
        wanted = set(unread(bus.log, stream, "waits"))
    report = migrate(str(folder), url)
    assert (report.agrees, report.copied) == (True, 50)
    assert sum(lane.others for lane in report.lanes) == 1
    assert {each.group: each.is_left for each in report.groups} == {"moves": True, "waits": False}
    with open_bus(url) as bus:
        assert sorted(unread(bus.log, stream, "moves")) == sorted(["e-900", *(f"e-{n}" for n in range(100, 150))])
        assert wanted | {"e-900"} <= set(unread(bus.log, stream, "waits"))
        assert by_key(read_all(bus, "orders"))["k2", EventPriority.NORMAL] == ["e-2", "e-46", "e-90", "e-134"]


def test_back_in_its_folder_the_log_has_what_came_meanwhile_and_groups_miss_nothing(folder: Path, url: str) -> None:
    stream = filled(folder, 100)
    with open_bus(folder) as bus:
        halfway(bus.log, stream, "readers")
    migrate(str(folder), url)
    with open_bus(url) as bus:
        publish(bus.log, stream, events_of(100, 160))
        ends = bus.log.end_offsets(stream.stream_id)
        publish(bus.log, stream, events_of(160, 200))
        bus.log.commit("readers", ends)
        after = by_key(read_all(bus, "orders"))
    report = migrate(url, str(folder))
    assert report.agrees
    assert sum(lane.known for lane in report.lanes) == 100
    with open_bus(folder) as bus:
        assert by_key(read_all(bus, "orders")) == after
        assert set(unread(bus.log, stream, "readers")) >= {f"e-{n}" for n in range(160, 200)}
        assert "e-1" not in unread(bus.log, stream, "readers")
    assert migrate(url, str(folder)).copied == 0
    with pytest.raises(InvalidStateError, match="has been carried back from TO"):
        migrate(str(folder), url)


def test_killed_and_run_again_every_event_is_there_once(folder: Path, url: str) -> None:
    count = 1500
    stream = filled(folder, count)
    with open_bus(folder) as bus:
        before = by_key(read_all(bus, "orders"))
    code = (
        "import sys; from event_streaming_bus.migration import copying, service; copying.MAX_CHUNK_EVENTS = 25;"
        "tell = lambda phase, done, total, stream: print(phase, done, flush=True);"
        "service.migrate(*sys.argv[1:], tell=tell)"
    )
    for stop_at in (150, 600):
        running = subprocess.Popen([sys.executable, "-c", code, str(folder), url], stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        for line in running.stdout:
            assert line.startswith("copying")
            if int(line.split()[1]) >= stop_at:
                break
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=TIMEOUT_S)
        with open_bus(url) as bus:
            there = read_all(bus, "orders")
            assert stop_at <= len(there) < count
    report = migrate(str(folder), url)
    assert report.agrees
    assert 0 < report.copied < count
    with open_bus(url) as bus:
        after = read_all(bus, "orders")
        assert len(after) == count
        assert by_key(after) == before
        assert bus.log.find_stream("default", "orders").stream_id == stream.stream_id


async def test_consumers_of_the_bus_go_on_at_kafka_with_what_they_have_not_read(folder: Path, url: str) -> None:
    filled(folder, 60)
    with open_bus(folder) as bus:
        await bus.consumers.create_consumer_group({"group_name": "mail", "max_retries": 7})
        async with bus.consumer("mail", ["orders"]) as consumer:
            read = [each.event_id for each in await consumer.poll(20, 10)]
            await consumer.commit()
        config = EventConfig(event_type="t", event_id="later", key="k1", deliver_at=time.time_ns() // 1_000_000 + 3_600_000)
        await bus.publishing.publish_event(config, {}, stream_id="orders")
    report = migrate(str(folder), url)
    assert report.scheduled == 1
    with open_bus(url) as bus:
        assert (await bus.consumers.describe_consumer_group("mail"))["max_retries"] == 7
        (told,) = report.groups
        assert told.unread == 60 - len(read)
        given: list[str] = []
        async with bus.consumer("mail", ["orders"]) as consumer:
            deadline = time.monotonic() + TIMEOUT_S
            while len(given) < told.unread + told.again:
                assert time.monotonic() < deadline
                given += [each.event_id for each in await consumer.poll(100, 1)]
        assert {f"e-{n}" for n in range(60)} - set(read) <= set(given)
        assert [each.event.event_id for each in bus.log.scheduled("default").events] == ["later"]


FLOW = """
streams: [{name: orders, partitions: 3}, {name: sums}]
processors:
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic: {group_by: [k], aggregations: [{function: sum, field: n}]}
    window_config: {window_type: tumbling, window_size_ms: 100}
"""


def test_flows_begin_anew_at_kafka_and_go_on_where_they_were_once_back(folder: Path, url: str, tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(FLOW)

    def order(n: int) -> Event:
        return Event(f"o-{n}", "t", n * 10, b'{"n":%d,"k":%d}' % (n, n % 3), key=f"k{n % 3}")

    def run_here(data: str) -> None:
        with open_bus(data) as bus:
            plan = deploy(load_flow(file), bus.storage)
            run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))

    def run(data: str) -> None:
        command = [ESB, "run", str(file), "--until-end"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False, env={**os.environ, "ESB_DATA": data})
        assert done.returncode == 0, done.stderr.decode()

    def sums(data: str) -> list[dict[str, Any]]:
        with open_bus(data) as bus:
            return sorted((each.payload for each in read_all(bus, "sums")), key=str)

    def add(data: str, begin: int, end: int) -> None:
        with open_bus(data) as bus:
            stream = bus.log.create_stream(StreamConfig(name="orders", partitions=3))
            publish(bus.log, stream, [order(n) for n in range(begin, end)])

    add(str(folder), 0, 40)
    run(str(folder))
    before = sums(str(folder))
    assert before
    with pytest.raises(InvalidStateError, match=r"flows write to sums \(flow/sums_of_keys\).*--flow-outputs remake"):
        migrate(str(folder), url)
    choice = Choice(flow_outputs=FlowOutputs.REMAKE)
    assert {each.before.name: each.is_remade for each in plan_migration(str(folder), url, choice).streams}["sums"]
    report = migrate(str(folder), url, choice)
    aside = folder / folder_of(report.source)
    assert any(str(aside) in note for note in report.notes)
    assert list(aside.rglob("*.sqlite3"))
    assert not (folder / "recovery").exists()
    assert sums(url) == []
    run_here(url)
    assert sums(url) == before
    snapshots = folder / "recovery" / "default" / "flow"
    snapshots.mkdir(parents=True)
    migrate(str(folder), url, choice)  # what is there now is Kafka's, and stays
    assert snapshots.exists()
    add(url, 40, 60)
    run_here(url)
    after = sums(url)
    assert len(after) > len(before)
    report = migrate(url, str(folder), choice)
    assert "flows go on at the target from the snapshots that they left there" in report.notes
    run(str(folder))
    assert sums(str(folder)) == after


def test_the_command_carries_avro_that_the_registry_of_the_folder_reads(folder: Path, url: str) -> None:
    person = {"type": "record", "name": "Person", "fields": [{"name": "name", "type": "string"}]}
    config = EventConfig(event_type="p")
    with open_bus(folder) as bus:
        record = bus.schemas.register({"schema_name": "person", "avro_schema": person})
        make_stream(bus.log, bus.schemas, StreamConfig(name="people"), "person")
        bus.publishing.submit(config, [{"name": "Ann"}], stream_id="people").result()
    command = [ESB, "migrate", str(folder), "env:NEW_LOG", "--stream", "people"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "NEW_LOG": url})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("both ends agree\n")
    with open_bus(url) as bus:
        assert bus.log.find_stream("default", "people").config.schema_id == record.schema_id
        bus.publishing.submit(config, [{"name": "Bob"}], stream_id="people").result()
        assert [(each.schema_id, each.payload) for each in read_all(bus, "people")] == [
            (record.schema_id, {"name": "Ann"}),
            (record.schema_id, {"name": "Bob"}),
        ]
