"""Retries of dead letters killed in the middle, over and over: every letter's events are written once, in order per key."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, EventConfig, InvalidEventPolicy, Split, StreamConfig
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.letters import LetterBox, LetterFilter, LetterStatus
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")
LETTERS = 12_000


def refused_orders(bus: Bus) -> None:
    """Letters of events that broke the schema of ``orders``, which is gone since."""
    schema = bus.schemas.register({"schema_name": "order", "json_schema": {"type": "object", "required": ["total"]}})
    config = StreamConfig(name="orders", schema_id=schema.schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER)
    stream = bus.log.create_stream(config)
    for start in range(0, LETTERS, 1000):
        bus.publishing.submit(
            EventConfig(event_type="order"),
            [{"n": n} for n in range(start, start + 1000)],
            stream_id="orders",
            keys=[f"k{n % 11}" for n in range(start, start + 1000)],
        ).result()
    bus.log.drop_stream(stream.stream_id)
    bus.create_stream("orders")


def failed_in_a_flow(bus: Bus) -> None:
    """Letters of a processor that would write each event to ``orders``."""
    processor = {
        "processor_name": "take",
        "processor_type": "FILTER",
        "source_stream_id": "in",
        "target_stream_id": "orders",
        "processing_logic": {"filter_expression": "payload.n >= 0"},
    }
    plan = deploy(
        parse_flow({"streams": [{"name": "in"}, {"name": "orders"}], "processors": [processor]}, name="flow"), bus.storage
    )
    source, (node,) = bus.log.find_stream("default", "in"), plan.nodes()
    letters = [
        dead_letter(
            Event(f"order-{n}", "order", n, b'{"n":%d}' % n, f"k{n % 11}"),
            event_id=f"letter-{n}",
            stream=source,
            step="take",
            error_type="TypeError",
            message="it was down",
            failed_at_ms=n,
            position={"lane": "NORMAL", "partition": 0, "offset": n},
            processor_id=node.processor_id,
            processor_name=node.name,
        )
        for n in range(LETTERS)
    ]
    bus.log.append([Append(bus.storage.dead_letters("default").stream_id, letters)])


def written(bus: Bus) -> int:
    stream = bus.log.find_stream("default", "orders")
    ends: dict[Split, int] = bus.log.end_offsets(stream.stream_id)
    return sum(ends.values())


@pytest.mark.parametrize("fill", [refused_orders, failed_in_a_flow])
def test_a_retry_killed_in_the_middle_writes_each_event_once(tmp_path: Path, fill: Callable[[Bus], None]) -> None:
    command = [ESB, "--data", str(tmp_path / "data"), "dead-letters", "retry", "--all"]
    with open_bus(tmp_path / "data") as bus:
        fill(bus)
        killed = 0
        for share in sorted(random.Random(1).uniform(0.02, 0.7) for _ in range(4)):
            running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while running.poll() is None and written(bus) <= share * LETTERS:
                time.sleep(0.001)
            running.kill()
            running.wait()
            killed += written(bus) < LETTERS
        assert killed > 1
        box = LetterBox(bus.log, bus.storage.dead_letters("default"))
        done = sum(map(len, box.blocks(LetterFilter(status=LetterStatus.RETRIED))))
        assert done == written(bus) < LETTERS
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stderr) == (0, f"{LETTERS - done:,} retried\n")
        numbers = [event.payload["n"] for event in read_all(bus, "orders")]
        assert sorted(numbers) == list(range(LETTERS))
        for key in range(11):
            of_key = [n for n in numbers if n % 11 == key]
            assert of_key == sorted(of_key)
        assert list(box.blocks(LetterFilter())) == []
