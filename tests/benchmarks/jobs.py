"""The work that the report measures, one run a process: python tests/benchmarks/jobs.py KIND ARGUMENT...

    memory SUBJECT FOLDER          a loop or dataflow over events in memory: ``MEMORY``
    log QUERY FOLDER WORKERS       worker processes, from the log to the log, exactly once, with history
    peer NAME QUERY FOLDER WORKERS another engine, from the files of JSON lines to such a file
    sales SUBJECT EVENTS           the sales of each day by customer segment and region: ``plain`` or ``flow``
    figure NAME                    a figure of the benchmarks beside this file, by its name in run.py
    here QUERY FOLDER              as log with one worker, but in this process
    profile KIND ARGUMENT...       where the time of such a run goes, by cProfile: lines that begin with PROFILE

``FOLDER`` is one that inputs.py made. An answer that is not the right one ends a run with an error.
"""

import cProfile
import gc
import io
import json
import pstats
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import costs
import inputs
import msgspec
import peers
import sales
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from costs import Meter, Outcome, age_s, descendants, metered, outcome, peak_mb, tell, watched
from nexmark import handwritten
from nexmark.answers import flow_file
from nexmark.generator import BID
from nexmark.in_memory import MemorySink, MemorySource, chunks_of, engine_dataflow, written

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.items import Chunk
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow, parse_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import Split, rfc3339
from event_streaming_bus.store.log.reading import batches_between

_WINDOW_MS: Final = handwritten.WINDOW_MS
_POLL_S: Final = 0.005
_PATIENCE_S: Final = 3600.0


# --- from memory --------------------------------------------------------------------------------------------------------


def plain_sum(chunks: list[Chunk]) -> tuple[Meter, Iterable[bytes]]:
    """The bound: a plain loop that decodes two fields with msgspec and sums them up by window and bidder."""
    decoder, sums = msgspec.json.Decoder(handwritten.Offer), dict[tuple[int, int], int]()
    get = sums.get
    with metered() as meter:
        for chunk in chunks:
            for event_type, _, at_ms, bid in handwritten.decoded(chunk, decoder):
                if event_type == BID:
                    place = at_ms - at_ms % _WINDOW_MS, bid.bidder
                    sums[place] = get(place, 0) + bid.price
        rows = [
            msgspec.json.encode(
                {
                    "bidder": bidder,
                    "offered": offered,
                    "window_start": rfc3339(start_ms),
                    "window_end": rfc3339(start_ms + _WINDOW_MS),
                }
            )
            for (start_ms, bidder), offered in sums.items()
        ]
    return meter, rows


def plain_q1(chunks: list[Chunk]) -> tuple[Meter, Iterable[bytes]]:
    """The bound of filter and map: a plain loop that decodes five fields, multiplies one and encodes them."""
    decoder, encode = msgspec.json.Decoder(handwritten.ConvertedBid), msgspec.json.Encoder().encode
    out: list[tuple[str, int, bytes]] = []
    with metered() as meter:
        for chunk in chunks:
            for event_type, key, at_ms, bid in handwritten.decoded(chunk, decoder):
                if event_type == BID:
                    bid.price *= 0.908
                    out.append((key, at_ms, encode(bid)))
    return meter, (data for _, _, data in out)


def _by_hand(write: Callable[..., Dataflow]) -> Callable[[list[Chunk]], tuple[Meter, Iterable[bytes]]]:
    def run(chunks: list[Chunk]) -> tuple[Meter, Iterable[bytes]]:
        sink = MemorySink()
        flow = write(MemorySource(chunks), sink)
        with metered() as meter:
            run_main(flow)
        return meter, (data for _, _, data in sink.items)

    return run


MEMORY: Final[dict[str, tuple[str, Callable[[list[Chunk]], tuple[Meter, Iterable[bytes]]] | None]]] = {
    "plain loop: q1": ("q1", plain_q1),
    "plain loop: sum": ("sum_by_bidder", plain_sum),
    "Bytewax item by item: sum": ("sum_by_bidder", _by_hand(handwritten.windowing_sum)),
    "Bytewax fused by hand: q1": ("q1", _by_hand(handwritten.fused_q1)),
    "Bytewax fused by hand: q2": ("q2", _by_hand(handwritten.fused_q2)),
    "Bytewax fused by hand: sum": ("sum_by_bidder", _by_hand(handwritten.fused_sum)),
    "flow file: q1": ("q1", None),
    "flow file: q2": ("q2", None),
    "flow file: sum": ("sum_by_bidder", None),
}
"""By name the query, and what runs it; ``None``: its flow file."""


def memory(subject: str, folder: str) -> Outcome:
    """Events per second over chunks that were read from the log before."""
    query, run = MEMORY[subject]
    with open_bus(Path(folder) / "bus-1") as bus:
        chunks = chunks_of(bus.log, bus.log.find_stream("default", "nexmark"))
        events = sum(len(batch.events()) for chunk in chunks for batch in chunk.batches)  # so that all columns are decoded
        gc.collect()
        gc.freeze()  # all as a worker does, for everybody: what is there stays, and cycles are looked for seldom
        gc.set_threshold(100_000, 20, 50)
        start_s = age_s()
        meter, rows = run(chunks) if run is not None else _flow_file(bus, query, chunks)
        result = outcome(events, meter, start_s)
        inputs.check(Path(folder), query, map(msgspec.json.decode, rows))
        return result


def _flow_file(bus: Bus, query: str, chunks: list[Chunk]) -> tuple[Meter, Iterable[bytes]]:
    name, data = _own(query, 1)
    plan, sink = deploy(parse_flow(data, name=name), bus.storage), MemorySink()
    flow = engine_dataflow(plan, bus.storage, chunks, sink)
    with metered() as meter:
        run_main(flow)
    return meter, written(sink, bus.log.find_stream("default", f"{name}_answer"))


def _own(query: str, partitions: int) -> tuple[str, dict[str, Any]]:
    """The flow of a query under a name of its own, so that it begins at the first event and writes a stream of its own."""
    data: Any = read_flow_file(flow_file(query)).data
    name = data["name"] = f"{query}_{uuid.uuid4().hex[:10]}"
    data["streams"][0]["partitions"] = partitions
    data["streams"][1]["name"] = f"{name}_answer"
    for processor in data["processors"]:
        if "target_stream_id" in processor:
            processor["target_stream_id"] = f"{name}_answer"
    return name, data


# --- from the log to the log --------------------------------------------------------------------------------------------


def log(query: str, folder: str, workers: str) -> Outcome:
    """Events per second of worker processes, beside what they need to start: the same run over no events, made just before."""
    with open_bus(Path(folder) / "bus-2") as bus:
        nexmark = bus.log.find_stream("default", "nexmark")
        ends = bus.log.end_offsets(nexmark.stream_id)
        events = sum(ends.values())
        start, _ = workers_run(bus, _own(query, 2)[1], {nexmark.stream_id: dict.fromkeys(ends, 0)}, int(workers))
        name, data = _own(query, 2)
        whole, peak = workers_run(bus, data, {nexmark.stream_id: ends}, int(workers))
        rest = Meter()
        rest.took_s, rest.cpu_s = whole.took_s - start.took_s, whole.cpu_s - start.cpu_s
        if rest.took_s <= 0:
            raise AssertionError(f"{events} events are too few: all of the time was the start")
        result = outcome(events, rest, start.took_s, peak, whole_s=whole.took_s)
        inputs.check(Path(folder), query, map(msgspec.json.decode, _payloads(bus, f"{name}_answer")))
        return result


def _payloads(bus: Bus, stream: str) -> Iterator[bytes]:
    """The payloads of a stream, of which there may be more than memory holds."""
    info = bus.log.find_stream("default", stream)
    for split, end in bus.log.end_offsets(info.stream_id).items():
        for batch in batches_between(bus.log, split, 0, end):
            yield from batch.payloads()


def here(query: str, folder: str) -> Outcome:
    """Events per second from log to log in this process, without snapshots: what can be profiled."""
    with open_bus(Path(folder) / "bus-2") as bus:
        name, data = _own(query, 2)
        plan = deploy(parse_flow(data, name=name), bus.storage)
        flow = build(plan, bus.storage, until=current_ends(plan, bus.storage))
        gc.freeze()
        start_s = age_s()
        with metered() as meter:
            run_main(flow)
        nexmark = bus.log.find_stream("default", "nexmark")
        return outcome(sum(bus.log.end_offsets(nexmark.stream_id).values()), meter, start_s)


def workers_run(bus: Bus, data: dict[str, Any], until: dict[str, dict[Split, int]] | None, workers: int) -> tuple[Meter, float]:
    """Run a flow in worker processes until these ends; what that took, and the highest resident set of a worker in MB."""
    with tempfile.TemporaryDirectory(prefix="esb-") as folder:
        file = Path(folder) / "flow.json"
        file.write_text(json.dumps(data))
        plan = deploy(load_flow(file), bus.storage)
        with metered() as meter:
            group = WorkerGroup(bus.storage, plan, ["--flow", str(file)], workers=workers, until=until)
            try:
                with watched(lambda: group.pids) as peaks:
                    deadline_s = time.monotonic() + _PATIENCE_S
                    while (code := group.exit_code()) is None:
                        time.sleep(_POLL_S)
                        if time.monotonic() > deadline_s:
                            raise TimeoutError(f"the workers did not end within {_PATIENCE_S:.0f} s")
            finally:
                group.kill()
        if code != 0:
            raise RuntimeError(group.last_error())
        return meter, max(peaks.values(), default=0.0)


def peer(name: str, query: str, folder: str, workers: str) -> Outcome:
    """Events per second of another engine, its start included in ``whole_s`` and told apart as it tells it."""
    command = peers.command(name)
    with tempfile.TemporaryDirectory(prefix="esb-") as scratch:
        out = Path(scratch) / "out.jsonl"
        with (
            metered() as meter,
            subprocess.Popen(
                [*command, query, folder, str(out), workers], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process,
            watched(lambda: descendants(process.pid)) as peaks,
        ):
            told, errors = process.communicate(timeout=_PATIENCE_S)
        if process.returncode != 0:
            raise RuntimeError(_reason(errors))
        start_s = float(told.split("STARTED ")[1].split()[0])
        inputs.check(Path(folder), query, _lines(out))
    rest = Meter()
    rest.took_s, rest.cpu_s = meter.took_s - start_s, meter.cpu_s
    return outcome(_events(folder), rest, start_s, sum(peaks.values()), whole_s=meter.took_s)


def _reason(errors: str) -> str:
    """The line that says most of what a program printed before it failed."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.lstrip().startswith(("at ", "..."))]
    causes = [line for line in lines if "Caused by" in line or "Error" in line]
    return (causes or lines or ["it said nothing"])[-1]


def _events(folder: str) -> int:
    with open_bus(Path(folder) / "bus-2") as bus:
        return sum(bus.log.end_offsets(bus.log.find_stream("default", "nexmark").stream_id).values())


def _lines(out: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, or of all files of a folder, in which some engines write."""
    for file in sorted(path for path in out.rglob("[!._]*") if path.is_file()) if out.is_dir() else [out]:
        with file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield msgspec.json.decode(line)


# --- figures of the other benchmarks ------------------------------------------------------------------------------------


def figure(name: str) -> Outcome:
    """A figure of run.py, with the CPU time between the first and the last time that its benchmark looks at the clock."""
    import run

    looked: list[tuple[float, float]] = []
    clock = time.perf_counter

    def looking() -> float:
        now_s = clock()
        if str(sys._getframe(1).f_globals.get("__name__", "")).startswith("bench_"):
            looked.append((now_s, time.process_time()))
        return now_s

    (found,) = [each for each in run.FIGURES if each.name == name]
    time.perf_counter = looking
    try:
        value = found.run() if costs.profile is None else costs.profile.runcall(found.run)
    finally:
        time.perf_counter = clock
    cost = None
    if len(looked) >= 2 and found.unit.endswith("/s"):
        (began_s, began_cpu_s), (ended_s, ended_cpu_s) = looked[0], looked[-1]
        cost = (ended_cpu_s - began_cpu_s) * 1e6 / (value * (ended_s - began_s))
    return Outcome(value, None, cost, peak_mb())


KINDS: Final[dict[str, Callable[..., Outcome]]] = {
    "memory": memory,
    "log": log,
    "peer": peer,
    "sales": sales.sales,
    "figure": figure,
    "here": here,
}


def _profiled(kind: str, *arguments: str) -> int:
    costs.profile = cProfile.Profile()
    KINDS[kind](*arguments)
    text = io.StringIO()
    pstats.Stats(costs.profile, stream=text).sort_stats("tottime").print_stats(12)
    rows = text.getvalue().partition("ncalls")[2].splitlines()
    for row in [f"ncalls{rows[0]}", *rows[1:]]:
        if row.strip():
            print("PROFILE", re.sub(r"\S*/(event_streaming_bus|site-packages|benchmarks|lib)/", "", row).rstrip())
    return 0


def main() -> int:
    """Run one; the outcome is the last line."""
    kind, *arguments = sys.argv[1:]
    if kind == "profile":
        return _profiled(*arguments)
    return tell(lambda: KINDS[kind](*arguments))


if __name__ == "__main__":
    sys.exit(main())
