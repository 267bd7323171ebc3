"""What a worker needs to go on after a stop, by how much state it held; and what a server needs while nothing happens."""

import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from bench_schemas import served
from costs import Outcome, watched

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.flows.workers import WorkerGroup
from event_streaming_bus.models import Event
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import temporary_bus

_DAY_MS: Final = 86_400_000
_AT_ONCE: Final = 1000
_PATIENCE_S: Final = 900.0
_IDLE_S: Final = 6.0
_SETTLING_S: Final = 4.0
_FLOW: Final[dict[str, Any]] = {
    "name": "recovered",
    "streams": [{"name": "in"}, {"name": "sums"}, {"name": "seen"}],
    "processors": [
        {
            "processor_name": "sum",
            "processor_type": "AGGREGATE",
            "source_stream_id": "in",
            "target_stream_id": "sums",
            "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total", "group_by": ["k"]},
            "window_config": {"window_type": "tumbling", "window_size_ms": _DAY_MS},
        },
        {
            "processor_name": "see",
            "processor_type": "FILTER",
            "source_stream_id": "in",
            "target_stream_id": "seen",
            "processing_logic": {"filter_expression": "payload.k == 'last'"},
        },
    ],
}


def recovery(x: int, events: int) -> Outcome:
    """Seconds from starting a worker process that holds ``x`` keys of a window of a day, until the first result of an event
    that was published while it was stopped: that event closes the window, and in the end each key must have its sum."""
    with temporary_bus() as bus, tempfile.TemporaryDirectory(prefix="esb-") as folder:
        file = Path(folder) / "flow.json"
        file.write_text(json.dumps(_FLOW))
        plan = deploy(load_flow(file), bus.storage)
        for start in range(0, x, _AT_ONCE):
            _append(bus, [(i % 3_600_000, b'{"k":"key-%d","total":1}' % i) for i in range(start, min(start + _AT_ONCE, x))])
        _append(bus, [(3_600_000, b'{"k":"last","total":1}')])
        with _worker(bus, plan, file) as group:
            _until(group, lambda: _count(bus, "seen") == 1)
            assert group.stop(_PATIENCE_S) == 0, group.last_error()
        _append(bus, [(2 * _DAY_MS, b'{"k":"closing","total":1}')])
        started_s = time.monotonic()
        with _worker(bus, plan, file) as group, watched(lambda: group.pids) as peaks:
            _until(group, lambda: _count(bus, "sums") > 0)
            took_s = time.monotonic() - started_s
            _until(group, lambda: _count(bus, "sums") >= x + 1)
            assert group.stop(_PATIENCE_S) == 0, group.last_error()
        assert _count(bus, "sums") == x + 1, _count(bus, "sums")
        return Outcome(took_s, None, None, max(peaks.values(), default=0.0))


@contextmanager
def _worker(bus: Bus, plan: Plan, file: Path) -> Iterator[WorkerGroup]:
    group = WorkerGroup(bus.storage, plan, ["--flow", str(file)], workers=1)
    try:
        yield group
    finally:
        group.kill()


def _until(group: WorkerGroup, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not is_so():
        time.sleep(0.005)
        if group.exit_code() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"it did not come: {group.last_error()}")


def _append(bus: Bus, rows: list[tuple[int, bytes]]) -> None:
    stream_id = bus.log.find_stream("default", "in").stream_id
    named = zip(ids.new_ids(ids.EVENT, len(rows)), rows, strict=True)
    bus.log.append([Append(stream_id, [Event(i, "e", at_ms, data) for i, (at_ms, data) in named], new_ids=True)])


def _count(bus: Bus, stream: str) -> int:
    return sum(bus.log.end_offsets(bus.log.find_stream("default", stream).stream_id).values())


def idle(x: int, events: int) -> Outcome:
    """Percent of a core that ``esb serve`` and its workers use in 6 s without an event, with ``x`` processors running."""
    with served() as url:
        for i in range(x):
            logic = {"filter_expression": "payload.n > 0"}
            names = {"processor_name": f"p{i}", "source_stream_id": "in", "target_stream_id": f"out{i}"}
            for stream in ["in"] * (i == 0) + [f"out{i}"]:
                _post(f"{url}/api/v1/streams", {"name": stream})
            answer = _post(f"{url}/api/v1/stream-processors", names | {"processor_type": "FILTER", "processing_logic": logic})
            _post(f"{url}/api/v1/stream-processors/{answer['processor_id']}/start", {})
        _await_running(url, x)
        time.sleep(_SETTLING_S)
        before, woken_before, began_s = _cpu_s(), _wake_ups(), time.monotonic()
        time.sleep(_IDLE_S)
        after, woken, took_s = _cpu_s(), _wake_ups(), time.monotonic() - began_s
        assert before.keys() == after.keys(), (before, after)
        assert len(after) >= x + 1, after
        server = min(after)  # it was started first
        used = {pid: (after[pid] - before[pid]) / took_s * 100 for pid in after}
        more = {"server": used[server], "wake_ups_per_s_of_a_worker": (woken - woken_before) / took_s / x}
        return Outcome(sum(used.values()), None, None, None, more)


def _await_running(url: str, x: int) -> None:
    deadline_s = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(f"{url}/api/v1/stream-processors") as answer:
            found = json.load(answer)["processors"]
        if sum(each["status"] == "RUNNING" for each in found) == x:
            return
        assert time.monotonic() < deadline_s, found
        time.sleep(0.2)


def _cpu_s() -> dict[int, float]:
    """By process the CPU seconds of what this process has started."""
    found = {}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        times = process.cpu_times()
        found[process.pid] = times.user + times.system
    return found


def _wake_ups() -> int:
    """How often the main threads of all workers have been woken so far."""
    workers = psutil.Process(os.getpid()).children(recursive=True)[1:]
    return sum(process.num_ctx_switches().voluntary for process in workers)


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
