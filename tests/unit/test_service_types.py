"""Processors of the newer types, created with ``StreamManagementService`` as over REST, and run as worker processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import FlowError, StreamNotFoundError
from event_streaming_bus.flows.service import STATE_STORE, StreamManagementService
from event_streaming_bus.models import EventConfig
from event_streaming_bus.testing import read_all, temporary_bus

TIMEOUT_S = 60.0


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    with temporary_bus() as opened:
        for name in ("left", "right", "out"):
            opened.create_stream(name, partitions=2)
        yield opened


@pytest.fixture
async def service(bus: Bus) -> AsyncIterator[StreamManagementService]:
    made = StreamManagementService(bus.storage)
    yield made
    await asyncio.to_thread(made.close)


def config(kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "processor_name": "p",
        "processor_type": kind,
        "source_stream_id": "left",
        "target_stream_id": "out",
        "processing_logic": logic,
    } | more


def publish(bus: Bus, stream: str, *payloads: Any, at_ms: int) -> None:
    keys = [payload["k"] for payload in payloads]
    times = [at_ms] * len(payloads)
    bus.publishing.submit(EventConfig(event_type="t"), list(payloads), stream_id=stream, keys=keys, timestamps_ms=times).result()


async def until(true: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (found := true()):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    return found


async def test_a_join_reads_both_its_streams_and_tells_of_both(bus: Bus, service: StreamManagementService) -> None:
    logic = {"join_stream_id": "right", "on": ["k"], "lookup": True, "fields": {"k": "left.k", "name": "right.name"}}
    store = {"store_type": "rocksdb"}
    processor_id = await service.create_stream_processor(config("JOIN", logic, state_store_config=store))
    now_ms = time.time_ns() // 1_000_000
    publish(bus, "right", {"k": "a", "name": "Ada"}, {"k": "b", "name": "Bob"}, at_ms=now_ms - 1000)
    publish(bus, "left", {"k": "a"}, {"k": "b"}, {"k": "c"}, at_ms=now_ms)
    await service.start_stream_processor(processor_id)
    # These are live streams: when nothing more comes, time goes by the clock, and lets the last events out.
    await until(lambda: len(read_all(bus, "out")) == 2)
    assert sorted(event.payload["name"] for event in read_all(bus, "out")) == ["Ada", "Bob"]
    await service.stop_stream_processor(processor_id)
    metrics = await service.get_processor_metrics(processor_id)
    assert (metrics["events_processed"], metrics["events_passed"], metrics["events_filtered"]) == (5, 4, 1)
    assert (metrics["events_out"], metrics["events_in_state"], metrics["processing_rate"]) == (2, 0, 100.0)
    told = (await service.get_stream_processor(processor_id))["state_store"]
    assert (told["requested"], told["used"]) == ("rocksdb", STATE_STORE)


async def test_duplicates_are_dropped_over_a_stop_and_a_start(bus: Bus, service: StreamManagementService) -> None:
    logic = {"deduplicate_by": ["k"], "within_ms": 3_600_000}
    processor_id = await service.create_stream_processor(config("DEDUPLICATE", logic))
    now_ms = time.time_ns() // 1_000_000
    publish(bus, "left", {"k": "a", "n": 1}, {"k": "b", "n": 1}, at_ms=now_ms)
    await service.start_stream_processor(processor_id)
    await until(lambda: len(read_all(bus, "out")) == 2)
    await service.stop_stream_processor(processor_id)
    publish(bus, "left", {"k": "a", "n": 2}, {"k": "c", "n": 2}, at_ms=time.time_ns() // 1_000_000)
    await service.start_stream_processor(processor_id)
    await until(lambda: len(read_all(bus, "out")) == 3)
    assert sorted((event.payload["k"], event.payload["n"]) for event in read_all(bus, "out")) == [("a", 1), ("b", 1), ("c", 2)]


async def test_what_cannot_run_is_refused_and_not_in_the_list(bus: Bus, service: StreamManagementService) -> None:
    with pytest.raises(FlowError, match=r"processor\.processing_logic\.function: the module os is not allowed"):
        await service.create_stream_processor(config("CUSTOM", {"function": "os:getcwd"}))
    logic = {"join_stream_id": "elsewhere", "on": ["k"], "within_ms": 1}
    with pytest.raises(StreamNotFoundError, match="elsewhere"):
        await service.create_stream_processor(config("JOIN", logic))
    assert await service.list_stream_processors() == []
