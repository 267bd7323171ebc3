"""Consumers over HTTP: how many events one client gets in polls and through an event stream, and how soon a long poll has one.

The server is a process of its own, the client of the polls sends its requests over one connection that it keeps. An event has
300 bytes, as in the benchmarks of the log.
"""

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
from bench_log import BATCH, batch_of
from harness import Figure

from event_streaming_bus import ids
from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.store.log.base import Append

EVENTS: Final = 100_000
POLLS: Final = 60
_GROUP: Final = "/api/v1/consumer-groups/g"
_ESB: Final = Path(sys.executable).with_name("esb")


class Client(NamedTuple):
    """One connection to a server."""

    connection: http.client.HTTPConnection

    def post(self, path: str, body: Any) -> Any:
        self.connection.request("POST", path, json.dumps(body))
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(data)
        return json.loads(data)


@contextmanager
def _server(events: int) -> Iterator[str]:
    """The address of a server with a stream ``s`` of so many events, and a group ``g``."""
    with tempfile.TemporaryDirectory() as folder:
        with open_bus(folder) as bus:
            info = bus.log.create_stream(StreamConfig(name="s"))
            for _ in range(events // BATCH):
                bus.log.append([Append(info.stream_id, batch_of(ids.new_ids(ids.EVENT, BATCH)), new_ids=True)])
        command = [_ESB, "--data", folder, "serve", "--port", "0", "--auth", "off"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split(" on ")[1].split()[0]
            try:
                _client(url).post("/api/v1/consumer-groups", {"group_name": "g"})
                yield url
            finally:
                process.terminate()


def _client(url: str) -> Client:
    return Client(http.client.HTTPConnection(url.removeprefix("http://"), timeout=60))


def _joined(client: Client, **more: Any) -> str:
    return f"{_GROUP}/members/{client.post(f'{_GROUP}/members', {'streams': ['s'], **more})['member_id']}"


def polls(most: int, *, manual: bool = False) -> float:
    """Events per second in polls of ``most``, with automatic commits, or each poll acknowledged up to its last event."""
    with _server(EVENTS) as url:
        client = _client(url)
        member = _joined(client, auto_commit=not manual)
        started_s, count = time.perf_counter(), 0
        while count < EVENTS:
            events = client.post(f"{member}/poll", {"max_events": most, "timeout_ms": 5000})["events"]
            count += len(events)
            if manual:
                last = {name: events[-1][name] for name in ("stream", "partition", "lane", "offset")}
                client.post(f"{member}/ack", {"up_to": last})
        return count / (time.perf_counter() - started_s)


def event_stream() -> float:
    """Events per second through an event stream."""
    with _server(EVENTS) as url, httpx.stream("GET", f"{url}{_GROUP}/events?streams=s", timeout=60) as answer:
        started_s, count, rest = time.perf_counter(), 0, b""
        for part in answer.iter_raw():
            count += (rest + part).count(b"\ndata: ")
            rest = part[-6:]  # a part may end within what is counted, which has 7 bytes
            if count > EVENTS:  # the first message is no event
                break
        return EVENTS / (time.perf_counter() - started_s)


def latency(percentile: int) -> float:
    """Milliseconds from the answer to a publish to the answer of the long poll that waited for the event."""

    async def run(url: str) -> list[float]:
        waits_ms = []
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            joined = await client.post(f"{_GROUP}/members", json={"streams": ["s"]})
            member = f"{_GROUP}/members/{joined.json()['member_id']}"
            for i in range(POLLS):
                waiting = asyncio.create_task(client.post(f"{member}/poll", json={"timeout_ms": 10_000}))
                await asyncio.sleep(0.03 + i % 7 / 100)
                await client.post("/api/v1/events", json={"event_type": "t", "stream_id": "s", "payload": i})
                published_s = time.perf_counter()
                await waiting
                waits_ms.append((time.perf_counter() - published_s) * 1000)
        return waits_ms

    with _server(0) as url:
        return statistics.quantiles(asyncio.run(run(url)), n=100)[percentile - 1]


FIGURES: Final = [
    Figure("consumer over HTTP: polls of 500", "events/s", lambda: polls(500), 20_000, None),
    Figure("consumer over HTTP: polls of 500, acknowledged", "events/s", lambda: polls(500, manual=True), None, None),
    Figure("consumer over HTTP: polls of 5,000", "events/s", lambda: polls(5000), None, None),
    Figure("consumer over HTTP: event stream", "events/s", event_stream, None, None),
    Figure("consumer over HTTP: publish to long poll, p50", "ms", lambda: latency(50), None, None),
    Figure("consumer over HTTP: publish to long poll, p99", "ms", lambda: latency(99), 50.0, None),
]
