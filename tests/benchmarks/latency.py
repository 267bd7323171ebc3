"""How long an event takes from its publisher through a flow to a consumer, by how many are published a second."""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec
from costs import Outcome

from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.testing import temporary_bus

_SECONDS: Final = 5
_WARM_S: Final = 2
_PATIENCE_S: Final = 60.0
_FLOW: Final[dict[str, Any]] = {
    "name": "passed",
    "streams": [{"name": "in"}, {"name": "out"}],
    "processors": [
        {
            "processor_name": "pass",
            "processor_type": "FILTER",
            "source_stream_id": "in",
            "target_stream_id": "out",
            "processing_logic": {"filter_expression": "payload.n % 10 == 0"},
        }
    ],
}
_PUBLISHER: Final = """
import sys, time
from collections import deque
from event_streaming_bus import ids
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
folder, each_second, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = EmbeddedLog(folder); stream = log.find_stream("default", "in").stream_id
note = b"x" * 100
begun, sent, pending = time.monotonic(), 0, deque()
while sent < count:
    due = min(count, int((time.monotonic() - begun) * each_second) + 1) - sent
    if due <= 0:
        time.sleep(min(0.002, 1 / each_second))
        continue
    # An event's time is when it was due, not when there was time for it: a publisher that falls behind hides nothing.
    due_ns = [int((begun + n / each_second) * 1e9) for n in range(sent, sent + due)]
    payloads = [b'{"at":%d,"n":%d,"note":"%b"}' % (at_ns, n, note) for n, at_ns in enumerate(due_ns, sent)]
    now = time.time_ns() // 1_000_000
    events = [Event(i, "e", now, data) for i, data in zip(ids.new_ids(ids.EVENT, due), payloads)]
    pending.append(log.submit([Append(stream, events, new_ids=True)]))
    sent += due
    while len(pending) > 64:
        pending.popleft().result()
for each in pending:
    each.result()
log.close()
"""


class _Payload(msgspec.Struct, gc=False):
    at: int
    n: int


def latency(x: int, events: int) -> Outcome:
    """The median of the milliseconds from when an event was due to be published, ``x`` a second, until a consumer has it: of
    every tenth one, which a flow passes on. ``more``: p99, p99.9, and what share of the load came through in time. The first
    two seconds do not count."""
    count = x * (_SECONDS + _WARM_S)
    with temporary_bus() as bus, tempfile.TemporaryDirectory(prefix="esb-") as folder:
        file = Path(folder) / "flow.json"
        file.write_text(json.dumps(_FLOW))
        plan = deploy(load_flow(file), bus.storage)
        group = WorkerGroup(bus.storage, plan, ["--flow", str(file)], workers=1)
        try:
            waits_ms, took_s = asyncio.run(_consume(bus, x, count))
        finally:
            group.kill()
    counted = sorted(waits_ms)
    p50, p99 = (statistics.quantiles(counted, n=100)[i - 1] for i in (50, 99))
    share = min(1.0, (_SECONDS + _WARM_S) / took_s)
    return Outcome(p50, None, None, None, {"p99": p99, "p99.9": counted[int(len(counted) * 0.999)], "share": share})


async def _consume(bus: Bus, x: int, count: int) -> tuple[list[float], float]:
    decode, waits_ms, found = msgspec.json.Decoder(_Payload).decode, list[float](), 0
    async with bus.consumer("g", ["out"]) as consumer:
        await consumer.poll(timeout_s=0.01)
        await asyncio.sleep(1.5)  # the worker has started
        command = [sys.executable, "-c", _PUBLISHER, str(bus.folder), str(x), str(count)]
        with subprocess.Popen(command) as publisher:  # noqa: ASYNC220 - nothing else is under way yet
            begun_s, first_ns = 0.0, 0
            deadline_s = time.monotonic() + _SECONDS + _WARM_S + _PATIENCE_S
            while found < (count + 9) // 10:
                polled = await consumer.poll(5000)
                now_ns = time.monotonic_ns()
                for event in polled:
                    payload = decode(event.data)
                    if not first_ns:
                        first_ns, begun_s = payload.at, time.monotonic()
                    if payload.at >= first_ns + _WARM_S * 1_000_000_000:
                        waits_ms.append((now_ns - payload.at) / 1e6)
                found += len(polled)
                if time.monotonic() > deadline_s:
                    publisher.kill()
                    raise TimeoutError(f"{found} of {count // 10} events came")
            took_s = time.monotonic() - begun_s
    return waits_ms, took_s
