"""Nexmark: flow files beside the same queries written by hand for Bytewax, fed from memory; and from log to log.

Every run's rows are compared with the answer of DuckDB for the same events before its figure counts.
``ESB_BENCH_EVENTS`` is the number of events (default 200,000).
"""

import atexit
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain, count
from typing import Any, Final, NamedTuple

import msgspec
import xxhash
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from harness import Figure
from nexmark import generator, handwritten
from nexmark.answers import Answers, flow_file
from nexmark.generator import BID, Settings
from nexmark.in_memory import MemorySink, MemorySource, chunks_of, engine_dataflow, written
from nexmark.loading import load

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import FlowSpec, parse_flow
from event_streaming_bus.models import rfc3339
from event_streaming_bus.testing import read_all, temporary_bus

EVENTS: Final = int(os.environ.get("ESB_BENCH_EVENTS", "200000"))
SETTINGS: Final = Settings(distinct_bidders=1000)
_WINDOW_MS: Final = handwritten.WINDOW_MS
_QUERIES: Final = ("q1", "q2", "q12", "sum_by_bidder", "join_in_window", "join_in_interval")
_WRITERS: Final = {
    "q1": handwritten.fused_q1,
    "q2": handwritten.fused_q2,
    "q12": handwritten.fused_q12,
    "sum_by_bidder": handwritten.fused_sum,
}
_numbers = count()


class _Digest(NamedTuple):
    """Rows told apart whatever their order: how many there are, and the sum of their hashes."""

    rows: int
    hashes: int


class _Prepared(NamedTuple):
    """A bus whose stream ``nexmark`` (one partition) holds the events, them as chunks, and what the queries answer."""

    bus: Bus
    chunks: list[Chunk]
    expected: dict[str, _Digest]


@cache
def _prepared() -> _Prepared:
    stack = ExitStack()
    atexit.register(stack.close)
    bus = stack.enter_context(temporary_bus())
    load(bus, generator.batches(EVENTS, SETTINGS), partitions=1)
    with Answers(chain.from_iterable(generator.batches(EVENTS, SETTINGS))) as answers:
        expected = {query: _digest(answers.rows(query)) for query in _QUERIES}
    return _Prepared(bus, chunks_of(bus.log, bus.log.find_stream("default", "nexmark")), expected)


def _digest(rows: Iterable[Any]) -> _Digest:
    hashes = [xxhash.xxh3_64_intdigest(msgspec.json.encode(row, order="sorted")) for row in rows]
    return _Digest(len(hashes), sum(hashes) % (1 << 64))


def _rate(run: Callable[[], None], rows: Callable[[], Iterable[bytes]], query: str) -> float:
    """Events per second of ``run``, if ``rows`` (as JSON) are the answer to the query."""
    gc.collect()
    started_s = time.perf_counter()
    run()
    took_s = time.perf_counter() - started_s
    found = _digest(map(msgspec.json.decode, rows()))
    expected = _prepared().expected[query]
    if found != expected:
        raise AssertionError(f"{query}: {found.rows} rows that are not the {expected.rows} expected ones")
    return EVENTS / took_s


def plain_loop() -> float:
    """The bound: a plain loop over the same batches that decodes two fields and sums them up by window and bidder."""
    chunks = _prepared().chunks
    decoder = msgspec.json.Decoder(handwritten.Offer)
    sums: dict[tuple[int, int], int] = {}

    def run() -> None:
        get = sums.get
        for chunk in chunks:
            for event_type, _, time_ms, bid in handwritten.decoded(chunk, decoder):
                if event_type == BID:
                    place = time_ms - time_ms % _WINDOW_MS, bid.bidder
                    sums[place] = get(place, 0) + bid.price

    def rows() -> Iterable[bytes]:
        for (start_ms, bidder), offered in sums.items():
            times = {"window_start": rfc3339(start_ms), "window_end": rfc3339(start_ms + _WINDOW_MS)}
            yield msgspec.json.encode({"bidder": bidder, "offered": offered, **times})

    return _rate(run, rows, "sum_by_bidder")


def by_hand(write: Callable[..., Dataflow], query: str) -> float:
    """A dataflow written by hand, from memory to memory."""
    sink = MemorySink()
    flow = write(MemorySource(_prepared().chunks), sink)
    return _rate(lambda: run_main(flow), lambda: (data for _, _, data in sink.items), query)


def _flow(query: str) -> FlowSpec:
    """The flow of a query, under a name that was not used before, over one partition."""
    data: Any = read_flow_file(flow_file(query)).data
    data["name"] = f"{query}_{next(_numbers)}"
    data["streams"][0]["partitions"] = 1
    data["streams"][1]["name"] = f"{data['name']}_answer"
    for processor in data["processors"]:
        if "target_stream_id" in processor:
            processor["target_stream_id"] = f"{data['name']}_answer"
    return parse_flow(data, name=query)


def engine_only(query: str) -> float:
    """The flow file's dataflow, from memory to memory."""
    bus, chunks, _ = _prepared()
    spec, sink = _flow(query), MemorySink()
    plan = deploy(spec, bus.storage)
    flow = engine_dataflow(plan, bus.storage, chunks, sink)
    target = bus.log.find_stream("default", f"{spec.name}_answer")
    return _rate(lambda: run_main(flow), lambda: written(sink, target), query)


def end_to_end(query: str) -> float:
    """Log -> flow file -> log, exactly once, with history."""
    bus = _prepared().bus
    spec = _flow(query)
    plan = deploy(spec, bus.storage)
    flow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
    return _rate(lambda: run_main(flow), lambda: (e.data for e in read_all(bus, f"{spec.name}_answer")), query)


def _available(query: str) -> bool:
    """Whether this version can run a query; told if not."""
    try:
        _flow(query)
    except FlowError as error:
        print(f"nexmark {query} is not measured: {error.message.splitlines()[0]}", file=sys.stderr)
        return False
    return True


def figures() -> list[Figure]:
    """What can be measured."""
    unit = "events/s"
    plain = "nexmark plain loop: sum_by_bidder"
    fold, join = "nexmark fold_window: sum_by_bidder", "nexmark join_window: join_in_window"
    made = [
        Figure(plain, unit, plain_loop),
        Figure(fold, unit, partial(by_hand, handwritten.windowing_sum, "sum_by_bidder"), None, plain),
        Figure(join, unit, partial(by_hand, handwritten.windowing_join, "join_in_window")),
    ]
    for query, write in _WRITERS.items():
        fused = f"nexmark fused by hand: {query}"
        made.append(Figure(fused, unit, partial(by_hand, write, query)))
        made.append(Figure(f"nexmark flow file: {query}", unit, partial(engine_only, query), None, fused, 0.85))
    for name, query, baseline, ratio in (
        ("nexmark flow file: sum beside fold_window", "sum_by_bidder", fold, 10.0),
        ("nexmark flow file: join_in_window", "join_in_window", join, 5.0),
        ("nexmark flow file: join_in_interval", "join_in_interval", join, 5.0),
    ):
        if _available(query):
            made.append(Figure(name, unit, partial(engine_only, query), None, baseline, ratio))
    made.append(Figure("nexmark log -> q1 -> log", unit, partial(end_to_end, "q1"), None, plain))
    made.append(Figure("nexmark log -> sum of 1000 keys -> log", unit, partial(end_to_end, "sum_by_bidder"), 300_000, plain))
    return made
