"""Flows through the durable embedded log beside a plain loop over the same payloads."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from bytewax.testing import run_main
from harness import Figure

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all

EVENTS: Final = 200_000
_KEYS: Final = 1000


class _Order(msgspec.Struct):
    k: str
    total: int


def _payloads() -> list[bytes]:
    return [msgspec.json.encode({"k": f"k{i % _KEYS}", "total": i % 997, "note": "x" * 80, "n": i}) for i in range(EVENTS)]


def plain_loop() -> float:
    """The bound: a plain loop that decodes two fields of each payload and sums them by window and key."""
    payloads = _payloads()
    decoder = msgspec.json.Decoder(_Order)
    started_s = time.perf_counter()
    sums: dict[tuple[int, str], int] = defaultdict(int)
    for i, data in enumerate(payloads):
        order = decoder.decode(data)
        sums[i // 100_000, order.k] += order.total
    return EVENTS / (time.perf_counter() - started_s)


@contextmanager
def _flow(processor: dict[str, Any]) -> Iterator[tuple[Bus, Plan]]:
    with tempfile.TemporaryDirectory() as folder, open_bus(folder) as bus:
        data = {"streams": [{"name": "in"}, {"name": "out"}], "processors": [processor]}
        plan = deploy(parse_flow(data, name="bench"), bus.storage)
        stream_id = bus.log.find_stream("default", "in").stream_id
        payloads = _payloads()
        for start in range(0, EVENTS, 1000):
            events = [
                Event(event_id, "order", (start + i) // 10, payloads[start + i])
                for i, event_id in enumerate(ids.new_ids(ids.EVENT, 1000))
            ]
            bus.log.append([Append(stream_id, events, new_ids=True)])
        yield bus, plan


def _run(processor: dict[str, Any], expected: int) -> float:
    with _flow(processor) as (bus, plan):
        flow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
        started_s = time.perf_counter()
        run_main(flow)
        rate = EVENTS / (time.perf_counter() - started_s)
        assert len(read_all(bus, "out")) == expected
        return rate


def filtered() -> float:
    """Log -> FILTER that passes half -> log, exactly once, with history."""
    logic = {"filter_expression": "payload.n % 2 == 0"}
    names = {"processor_name": "f", "processor_type": "FILTER", "source_stream_id": "in", "target_stream_id": "out"}
    return _run(names | {"processing_logic": logic}, EVENTS // 2)


def summed() -> float:
    """Log -> 10 s tumbling sum over 1000 keys -> log, exactly once, with history."""
    logic = {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["k"]}
    names = {"processor_name": "a", "processor_type": "AGGREGATE", "source_stream_id": "in", "target_stream_id": "out"}
    window = {"window_type": "tumbling", "window_size_ms": 10_000}
    return _run(names | {"processing_logic": logic, "window_config": window}, 2 * _KEYS)


FIGURES: Final = [
    Figure("plain loop: decode and sum", "events/s", plain_loop),
    Figure("flow: log -> FILTER -> log", "events/s", filtered, None, "plain loop: decode and sum"),
    Figure("flow: log -> tumbling sum -> log", "events/s", summed, 300_000, "plain loop: decode and sum"),
]
