"""A server with more to do than it takes on loses nothing that was acknowledged, and answers. Small sizes: see overload.py."""

import asyncio
from pathlib import Path

import pytest
from overload_run import SMALL, STREAM_OF_LOAD
from overload_scenarios import SCENARIOS
from overload_server import ids_of, serving

from event_streaming_bus.api.load import LONGEST_WAIT_S
from event_streaming_bus.bus import open_bus
from event_streaming_bus.client import ClientOptions
from event_streaming_bus.errors import OverloadedError
from event_streaming_bus.models import EventConfig


@pytest.mark.parametrize("scenario", ["publishers", "stuck_history"])
def test_what_was_acknowledged_is_there_and_the_server_answers(scenario: str, tmp_path: Path) -> None:
    done = asyncio.run(SCENARIOS[scenario](tmp_path / "data", SMALL))
    assert not done.findings, done.figures


async def test_the_sdk_sends_again_what_is_refused_until_it_is_there_once(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--max-requests", "8") as served:
        options = ClientOptions(max_at_once=40, retry_for_s=6 * LONGEST_WAIT_S)
        with open_bus(served.url, options=options) as bus:
            bus.create_stream(STREAM_OF_LOAD, partitions=2)
            # Few events are known by their ids when they come again, many by one key for all of them.
            sizes = [3, 40] * 20
            config = EventConfig(event_type="load")
            told = await asyncio.gather(*(bus.publishing.publish_batch(config, [{}] * size, STREAM_OF_LOAD) for size in sizes))
        assert served.get("/health")["load"]["refused"]["publishing"] > 0, "nothing was refused: this was no overload"
    receipts = [receipt for receipts in told for receipt in receipts]
    there = ids_of(tmp_path / "data", STREAM_OF_LOAD)
    assert set(there.values()) == {1}
    assert there.keys() == {receipt.event_id for receipt in receipts}
    assert len(receipts) == sum(sizes)


async def test_a_client_that_does_not_wait_is_told_what_to_do(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data", "--max-requests", "1") as served,
        open_bus(served.url, options=ClientOptions(max_at_once=40, retry_for_s=0)) as bus,
    ):
        bus.create_stream(STREAM_OF_LOAD)
        config = EventConfig(event_type="load")
        work = (bus.publishing.publish_batch(config, [{}] * 40, STREAM_OF_LOAD) for _ in range(40))
        told = await asyncio.gather(*work, return_exceptions=True)
    refused = [each for each in told if isinstance(each, OverloadedError)]
    assert refused
    assert all(isinstance(each, list) for each in told if each not in refused)
    assert "--max-requests raises the limit" in refused[0].message
    assert refused[0].details["retry_after_s"] >= 1
