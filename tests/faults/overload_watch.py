"""A watcher of a server under load: a process of its own, so that the load does not slow its clock.

    python tests/faults/overload_watch.py URL PID

Until its standard input ends it asks ``/health`` over a new connection five times a second, and publishes one event, as an
ordinary client would; it looks at the memory of the server and of its workers, and writes a JSON line of each look.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import psutil

EVERY_S: Final = 0.2
TIMEOUT_S: Final = 20.0
STREAM: Final = "watched"
_MIB: Final = 1 << 20


class Look(NamedTuple):
    """One look: when (monotonic), how long ``/health`` took and a publication (None: it was not answered, or refused), MiB of
    resident memory of the server and of its workers, connections that it has."""

    at_s: float
    health_s: float | None
    publish_s: float | None
    status: int
    server_mib: float
    workers_mib: float


def watch(url: str, pid: int) -> None:
    """Write looks to standard output until standard input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    process = psutil.Process(pid)
    while not ended.is_set():
        begun = time.monotonic()
        health_s, _ = asked(url, "GET", "/health")
        event = {"events": [{"event_type": "watch", "payload": {}}], "stream_id": STREAM}
        publish_s, status = asked(url, "POST", "/api/v1/events/batch", event)
        server_mib, workers_mib = memory_of(process)
        look = Look(begun, health_s, publish_s if status == 201 else None, status, server_mib, workers_mib)
        print(json.dumps(look), flush=True)
        ended.wait(max(0.0, EVERY_S - (time.monotonic() - begun)))


def asked(url: str, method: str, path: str, body: Any = None) -> tuple[float | None, int]:
    """``(seconds until it was answered, the status)``, over a connection of its own; ``(None, 0)`` if it was not."""
    begun = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        answer = connection.getresponse()
        answer.read()
        return time.monotonic() - begun, answer.status
    except (OSError, http.client.HTTPException):
        return None, 0
    finally:
        connection.close()


def memory_of(process: psutil.Process) -> tuple[float, float]:
    """MiB that are resident of a process, and of those below it."""
    below = 0
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            below += child.memory_info().rss
    return process.memory_info().rss / _MIB, below / _MIB


class Watched:
    """What a watcher has seen."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def between(self, from_s: float, to_s: float) -> "Watched":
        """Only what was seen in that time."""
        part = Watched()
        part.looks = [look for look in self.looks if from_s <= look.at_s < to_s]
        return part

    def figures(self) -> dict[str, Any]:
        """Memory at the begin, at its highest, and of the last tenth; latencies of ``/health``, and of what was published."""
        looks = self.looks
        if not looks:
            return {}
        rss = [look.server_mib for look in looks]
        last = rss[-max(1, len(rss) // 10) :]
        return {
            "seconds": round(looks[-1].at_s - looks[0].at_s, 1),
            "rss_mib": {"first": round(rss[0]), "most": round(max(rss)), "last": round(sum(last) / len(last))},
            "workers_mib_most": round(max(look.workers_mib for look in looks)),
            "health_ms": _quantiles([look.health_s for look in looks]),
            "health_unanswered": sum(look.health_s is None for look in looks),
            "publish_ms": _quantiles([look.publish_s for look in looks]),
            "publish_refused": sum(look.status != 201 for look in looks),
        }

    def plateau_mib(self) -> float:
        """How much more memory the server had in the last third of the time than in the second one, at the median: near nothing
        if its memory is bounded."""
        third = len(self.looks) // 3
        if not third:
            return 0.0
        rss = [look.server_mib for look in self.looks]
        return _median(rss[-third:]) - _median(rss[third : 2 * third])

    def recovered_s(self, since_s: float, usual_s: float) -> float | None:
        """How long after a moment both were answered again about as fast as usual, three times in a row; None: not yet."""
        enough_s = max(0.1, 3 * usual_s)
        run: list[Look] = []
        for look in self.looks:
            if look.at_s < since_s:
                continue
            is_fast = max(look.health_s or TIMEOUT_S, look.publish_s or TIMEOUT_S) <= enough_s
            run = [*run, look] if is_fast else []
            if len(run) == 3:
                return max(0.0, run[0].at_s - since_s)
        return None

    def usual_s(self) -> float:
        """The time that both took, at the median."""
        return _median([max(look.health_s or TIMEOUT_S, look.publish_s or TIMEOUT_S) for look in self.looks])


def _quantiles(seconds: Sequence[float | None]) -> dict[str, float]:
    known = sorted(1000 * each for each in seconds if each is not None)
    if not known:
        return {}
    return {"p50": round(_median(known), 1), "p99": round(known[int(len(known) * 0.99)], 1), "most": round(known[-1], 1)}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


@contextmanager
def watching(url: str, pid: int) -> Iterator[Watched]:
    """A watcher at work; what it has seen is complete afterwards, and grows meanwhile."""
    command = [sys.executable, str(Path(__file__)), url, str(pid)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    seen = Watched()
    begun = threading.Event()

    def take(lines: Any) -> None:
        for line in lines:
            seen.looks.append(Look(*json.loads(line)))
            begun.set()

    taking = threading.Thread(target=take, args=(process.stdout,), daemon=True)
    taking.start()
    assert begun.wait(60), "the watcher sees nothing"
    try:
        yield seen
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(2 * TIMEOUT_S + 5)
        taking.join(5)
        process.stdout.close()


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
