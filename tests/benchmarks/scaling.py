"""How figures change with one size: python tests/benchmarks/scaling.py LAW X EVENTS runs one point, in a process of its own.

``laws.py`` lists them, with the sizes of a quick and of a full report. Each function makes its own events, checks what came
out, and returns the ``Outcome``; its docstring says what is measured.
"""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import bench_history
import bench_sourcing
import latency
import recovery
from bench_consumers import _bus as bus_with_events
from bytewax.testing import run_main
from costs import Meter, Outcome, age_s, metered, outcome, tell
from jobs import workers_run
from sales import fill

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.sourcing.rebuilding import SnapshotPolicy
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import temporary_bus

_SPAN_MS: Final = 1_000_000
_KEYS: Final = 1000
_AT_ONCE: Final = 1000


def _orders(events: int, keys: int, span_ms: int = _SPAN_MS, size: int = 130) -> Iterator[list[tuple[int, bytes]]]:
    """Events in order over ``span_ms``, their keys in turns, of ``size`` bytes of payload at least."""
    for start in range(0, events, _AT_ONCE):
        yield [
            (i * span_ms // events, b'{"k":"key-%d","total":%d,"n":%d,"note":"%b"}' % (i % keys, i % 997, i, b"x" * (size - 50)))
            for i in range(start, min(start + _AT_ONCE, events))
        ]


def _flow(processor: dict[str, Any], partitions: int = 1) -> dict[str, Any]:
    names = {"processor_name": "p", "source_stream_id": "in", "target_stream_id": "out"}
    return {
        "name": "scaling",
        "streams": [{"name": "in", "partitions": partitions}, {"name": "out"}],
        "processors": [names | processor],
    }


def _sum(window_ms: int) -> dict[str, Any]:
    return {
        "processor_type": "AGGREGATE",
        "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["k"]},
        "window_config": {"window_type": "tumbling", "window_size_ms": window_ms},
    }


_PASSED: Final = {"processor_type": "FILTER", "processing_logic": {"filter_expression": "payload.n >= 0"}}


def _run(flow: dict[str, Any], batches: Iterator[list[tuple[int, bytes]]], results: int, *, keyed: bool = False) -> Outcome:
    """From log to log in this process, exactly once, with history; so many results must come out."""
    with temporary_bus() as bus:
        plan = deploy(parse_flow(flow, name="scaling"), bus.storage)
        events = _keyed(bus, batches) if keyed else fill(bus, "in", batches)
        dataflow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
        gc.collect()
        gc.freeze()  # as a worker does
        gc.set_threshold(100_000, 20, 50)
        start_s = age_s()
        with metered() as meter:
            run_main(dataflow)
        result = outcome(events, meter, start_s)
        _expect(bus, results)
        return result


def _expect(bus: Bus, results: int) -> None:
    found = sum(bus.log.end_offsets(bus.log.find_stream("default", "out").stream_id).values())
    if found != results:
        raise AssertionError(f"{found} results instead of {results}")


def _keyed(bus: Bus, batches: Iterator[list[tuple[int, bytes]]]) -> int:
    """As ``fill``, but with keys, which decide the partitions."""
    stream_id, count = bus.log.find_stream("default", "in").stream_id, 0
    for batch in batches:
        named = zip(ids.new_ids(ids.EVENT, len(batch)), batch, strict=True)
        events = [Event(i, "order", at_ms, data, data[6 : data.index(b'"', 6)].decode()) for i, (at_ms, data) in named]
        bus.log.append([Append(stream_id, events, new_ids=True)])
        count += len(batch)
    return count


def keys(x: int, events: int) -> Outcome:
    """Log -> tumbling sum over ``x`` keys in one window -> log: events/s, and the memory of the process."""
    events = max(events, x)
    return _run(_flow(_sum(_SPAN_MS)), _orders(events, x), x)


def windows(x: int, events: int) -> Outcome:
    """Log -> tumbling sum over ten keys in ``x`` windows, one after the other -> log: events/s."""
    return _run(_flow(_sum(_SPAN_MS // x)), _orders(events, 10), 10 * x)


def event_size(x: int, events: int) -> Outcome:
    """Log -> FILTER that passes all, payloads of ``x`` bytes -> log: events/s."""
    events = max(_AT_ONCE, min(events, 200_000_000 // x))
    return _run(_flow(_PASSED), _orders(events, _KEYS, size=x), events)


def append_size(x: int, events: int) -> Outcome:
    """Durable appends of a thousand events with payloads of ``x`` bytes: events/s."""
    events = max(_AT_ONCE, min(events, 200_000_000 // x))
    with temporary_bus() as bus:
        bus.log.create_stream(StreamConfig(name="in"))
        batches = list(_orders(events, _KEYS, size=x))
        with metered() as meter:
            appended = fill(bus, "in", batches)
        return outcome(appended, meter)


def partitions(x: int, events: int) -> Outcome:
    """Log of ``x`` partitions -> tumbling sum over 1000 keys -> log, one worker: events/s."""
    return _run(_flow(_sum(_SPAN_MS // 10), x), _orders(events, _KEYS), 10 * _KEYS, keyed=True)


def workers(x: int, events: int) -> Outcome:
    """Log of eight partitions -> tumbling sum over 1000 keys -> log, ``x`` worker processes: events/s without their start."""
    with temporary_bus() as bus:
        flow = _flow(_sum(_SPAN_MS // 10), 8)
        plan = deploy(parse_flow(flow, name="scaling"), bus.storage)
        source = bus.log.find_stream("default", "in").stream_id
        _keyed(bus, _orders(events, _KEYS))
        ends = current_ends(plan, bus.storage)[source]
        empty = {**flow, "name": "empty", "processors": [{**flow["processors"][0], "processor_name": "empty"}]}
        start, _ = workers_run(bus, empty, {source: dict.fromkeys(ends, 0)}, x)
        whole, peak = workers_run(bus, flow, {source: ends}, x)
        _expect(bus, 10 * _KEYS)
        rest = Meter()
        rest.took_s, rest.cpu_s = whole.took_s - start.took_s, whole.cpu_s - start.cpu_s
        if rest.took_s <= 0:
            raise AssertionError("too few events: all of the time was the start")
        return outcome(events, rest, start.took_s, peak)


def streams(x: int, events: int) -> Outcome:
    """Durable appends of a hundred events, to ``x`` streams in turns: events/s."""
    with temporary_bus() as bus:
        named = [bus.log.create_stream(StreamConfig(name=f"s{i}")).stream_id for i in range(x)]
        rows = next(_orders(100, _KEYS))
        batches = max(x, events // 100)
        made = [
            [Event(i, "order", at_ms, data) for i, (at_ms, data) in zip(ids.new_ids(ids.EVENT, 100), rows, strict=True)]
            for _ in range(batches)
        ]
        with metered() as meter:
            for i, batch in enumerate(made):
                bus.log.append([Append(named[i % x], batch, new_ids=True)])
        found = sum(sum(bus.log.end_offsets(stream).values()) for stream in named)
        assert found == batches * 100, found
        return outcome(found, meter)


def groups(x: int, events: int) -> Outcome:
    """``x`` consumer groups in one process, in turns, each reads all of a stream in polls of 500: events/s of them all."""
    events = max(events // x, 10_000) // _AT_ONCE * _AT_ONCE

    async def consume(bus: Bus) -> Meter:
        async with AsyncExitStack() as stack:
            consumers = [await stack.enter_async_context(bus.consumer(f"g{i}", ["s"])) for i in range(x)]
            counts = [0] * x
            with metered() as meter:
                while min(counts) < events:
                    for i, consumer in enumerate(consumers):
                        if counts[i] < events:
                            counts[i] += len(await consumer.poll(500))
            assert counts == [events] * x, counts
            return meter

    with bus_with_events(events) as bus:
        return outcome(events * x, asyncio.run(consume(bus)))


def aggregate_events(x: int, events: int) -> Outcome:
    """Milliseconds to rebuild an aggregate of ``x`` events from the first one; the median of three."""

    async def rebuild(service: EventSourcingService) -> float:
        await service.get_aggregate("u")  # a thread of the pool is there, with its connection
        started_s = time.perf_counter()
        aggregate = await service.rebuild("u", "User")
        assert aggregate.version == x, aggregate.version
        return (time.perf_counter() - started_s) * 1000

    with bench_sourcing._service(snapshots=SnapshotPolicy(every_events=None, replay_exceeds_ms=None)) as service:
        some = bench_sourcing._events(min(x, 10_000))
        for start in range(0, x, len(some)):
            service.append_now([bench_sourcing._append("u", some[: x - start], start)])
        return Outcome(statistics.median(asyncio.run(rebuild(service)) for _ in range(3)))


def history_size(x: int, events: int) -> Outcome:
    """Rows a second loaded into DuckDB, three for each of ``x`` events."""
    return Outcome(bench_history.history_load(x))


RUNS: Final[dict[str, Callable[[int, int], Outcome]]] = {
    "keys": keys,
    "windows": windows,
    "event size: FILTER": event_size,
    "event size: append": append_size,
    "partitions": partitions,
    "workers": workers,
    "streams": streams,
    "groups": groups,
    "aggregate": aggregate_events,
    "history": history_size,
    "recovery": recovery.recovery,
    "latency": latency.latency,
    "idle": recovery.idle,
}
"""By the law's name."""


def main() -> int:
    """Run one point."""
    law, x, events = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    return tell(lambda: RUNS[law](x, events))


if __name__ == "__main__":
    sys.exit(main())
