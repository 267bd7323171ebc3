"""What runs in processes of its own, or in a command, reads the log on Kafka, and no file that is beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus.api.flow_trials import FlowTrials
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.registry.replay import trial
from event_streaming_bus.store.log.kafka_settings import parse_url

ESB = Path(sys.executable).with_name("esb")
COUNT = 40
FLOW = {
    "streams": [{"name": "orders"}, {"name": "big"}],
    "processors": [
        {
            "processor_name": "big_orders",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "big",
            "processing_logic": {"filter_expression": "payload.n >= 35"},
        }
    ],
}


@pytest.fixture(scope="module")
def bus(url: str) -> Iterator[Bus]:
    """A bus with events, each in a transaction of its own, so that as many offsets hold none."""
    with open_bus(url) as opened:
        opened.create_stream("orders")
        opened.create_stream("big")
        for n in range(COUNT):
            opened.publishing.submit(EventConfig(event_type="order"), [{"n": n}], stream_id="orders").result()
        yield opened


def esb(url: str, folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints on another machine: one whose folder has nothing yet."""
    settings = parse_url(url, "unused")
    elsewhere = f"kafka://{settings.brokers}?prefix={settings.prefix}&data={folder / 'elsewhere'}"
    done = subprocess.run(
        [ESB, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**os.environ, "ESB_DATA": elsewhere},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


async def test_a_dry_run_over_rest_takes_the_newest_events_of_kafka(bus: Bus) -> None:
    told: dict[str, Any] = json.loads(await FlowTrials(bus.storage).run(parse_flow(FLOW, name="flow"), 20))
    assert (told["read"], told["partial"]) == ({"orders": 20}, True)
    assert [event["payload"] for event in told["written"][0]["events"]] == [{"n": n} for n in range(35, COUNT)]
    assert bus.log.end_offsets(bus.log.find_stream("default", "big").stream_id) == dict.fromkeys(
        bus.log.find_stream("default", "big").splits(), 0
    )


def test_a_schema_is_tried_on_kafka_by_several_processes(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_ALONE_EVENTS", 0)
    monkeypatch.setattr(trial, "_MIN_PART_EVENTS", 16)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 29}}}
    report = trial.try_schema(
        bus.storage, {"schema_name": "order", "schema_version": "1.0.0", "json_schema": schema}, "orders", workers=2
    )
    assert (report.checked, report.invalid, report.dropped, report.workers) == (COUNT, 10, 0, 2)


def test_commands_on_another_machine_find_what_is_on_kafka(bus: Bus, url: str, tmp_path: Path) -> None:
    (tmp_path / "flow.json").write_text(json.dumps(FLOW))
    told = json.loads(esb(url, tmp_path, "dry-run", "flow.json", "--last", "30", "--json"))
    assert told["read"] == {"orders": 30}
    assert [event["payload"]["n"] for event in told["written"]["big"]] == list(range(35, COUNT))
    schema = {"schema_name": "order", "schema_version": "1.0.0", "json_schema": {"type": "object"}}
    (tmp_path / "order.json").write_text(json.dumps(schema))
    tried = json.loads(esb(url, tmp_path, "schemas", "try", "order.json", "--against", "orders", "--json"))
    assert (tried["checked"], tried["valid"]) == (COUNT, COUNT)
