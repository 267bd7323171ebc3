"""The regression guard: what flows and the log cost beside plain loops over the same events, in CPU time of one process.

Both are measured in turns in the same thread and the best of the turns counts, so that other work on the machine hardly shows:
it takes time from both, and CPU time is not the time that passes. The limits leave wide margins; they are for a regression that
at least doubles a cost, and are never absolute times. (Counting instructions would be steadier, but neither virtual machines
nor containers have the counters as a rule.)
"""

import gc
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from bytewax.testing import run_main
from nexmark import generator, handwritten
from nexmark.answers import flow_file
from nexmark.generator import BID, Settings
from nexmark.in_memory import MemorySink, chunks_of, engine_dataflow, written
from nexmark.loading import load

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import Event, StreamConfig
from event_streaming_bus.store.log.base import Append

EVENTS: Final = 40_000
TURNS: Final = 3
_SETTINGS: Final = Settings(distinct_bidders=1000)


class Cost(NamedTuple):
    """CPU seconds of the best turn, of ours and of the plain loop."""

    ours_s: float
    plain_s: float

    @property
    def ratio(self) -> float:
        """How many times the CPU time of the plain loop ours needs."""
        return self.ours_s / self.plain_s


def cost(ours: Callable[[], None], plain: Callable[[], None], turns: int = TURNS) -> Cost:
    """Both in turns, with the collector of cycles at rest."""
    best = [float("inf"), float("inf")]
    for _ in range(turns):
        for i, run in enumerate((ours, plain)):
            gc.collect()
            gc.disable()
            try:
                started_s = time.thread_time()
                run()
                best[i] = min(best[i], time.thread_time() - started_s)
            finally:
                gc.enable()
    return Cost(*best)


def prepared(bus: Bus) -> list[Chunk]:
    """Nexmark events, put into the stream of the flow files and read from it."""
    load(bus, generator.batches(EVENTS, _SETTINGS))
    return chunks_of(bus.log, bus.log.find_stream("default", "nexmark"))


def flow_cost(bus: Bus, chunks: list[Chunk], query: str, plain: Callable[[list[Chunk]], int]) -> Cost:
    """A flow file over chunks in memory, beside a loop that returns how many rows it made; ours must make as many each time."""
    plan = deploy(load_flow(flow_file(query)), bus.storage)
    target = bus.log.find_stream("default", f"{query}_answer")
    expected = plain(chunks)
    flows = [(engine_dataflow(plan, bus.storage, chunks, sink), sink) for sink in (MemorySink() for _ in range(TURNS))]
    pending = iter(flows)

    def ours() -> None:
        run_main(next(pending)[0])

    found = cost(ours, lambda: (plain(chunks), None)[1])
    for _, sink in flows:
        rows = len(written(sink, target))
        if rows != expected:
            raise AssertionError(f"{query}: {rows} rows instead of {expected}")
    return found


def loop_of_q1(chunks: list[Chunk]) -> int:
    """Filter and map: decode five fields, change one, encode."""
    decoder, encode, out = msgspec.json.Decoder(handwritten.ConvertedBid), msgspec.json.Encoder().encode, []
    for chunk in chunks:
        for event_type, key, time_ms, bid in handwritten.decoded(chunk, decoder):
            if event_type == BID:
                bid.price *= 0.908
                out.append((key, time_ms, encode(bid)))
    return len(out)


def loop_of_sum(chunks: list[Chunk]) -> int:
    """Sums by window and bidder."""
    decoder, sums = msgspec.json.Decoder(handwritten.Offer), dict[tuple[int, int], int]()
    get = sums.get
    for chunk in chunks:
        for event_type, _, time_ms, bid in handwritten.decoded(chunk, decoder):
            if event_type == BID:
                place = time_ms - time_ms % handwritten.WINDOW_MS, bid.bidder
                sums[place] = get(place, 0) + bid.price
    return len(sums)


def append_cost(bus: Bus) -> Cost:
    """Appends of a thousand events, beside encoding the same envelopes with msgspec. The writer's thread and the disk are in
    neither."""
    stream_id = bus.log.create_stream(StreamConfig(name="guarded")).stream_id
    data = b'{"order_id":"ord_1","total":12.5,"note":"' + b"x" * 100 + b'"}'
    batches = [
        [Event(i, "order", 1_700_000_000_000 + n, data, f"k{n % 100}") for n, i in enumerate(ids.new_ids(ids.EVENT, 1000))]
        for _ in range(30 * TURNS)
    ]
    pending = iter(batches)
    encode = msgspec.msgpack.Encoder().encode

    def ours() -> None:
        for _ in range(30):
            bus.log.append([Append(stream_id, next(pending), new_ids=True)])

    def plain() -> None:
        for batch in batches[:30]:
            encode([(e.event_id, e.event_type, e.timestamp_ms, e.key, e.data) for e in batch])

    found = cost(ours, plain)
    appended = sum(bus.log.end_offsets(stream_id).values())
    if appended != 30_000 * TURNS:
        raise AssertionError(f"{appended} events were appended")
    return found
