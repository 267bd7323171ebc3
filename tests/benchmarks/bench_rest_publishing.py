"""Publishing over HTTP: requests a second with one event each, events a second in batches, from 32 connections that each keep one
request under way; and the memory of the server, idle and after that load. Every answer is checked; an event has 300 bytes.

The client speaks HTTP/1.1 just as far as is needed here: on two cores a full client would be measured in the server's place.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx
from harness import Figure

_CONNECTIONS: Final = 32
_SECONDS: Final = 5.0
_BATCH: Final = 500
_ESB: Final = Path(sys.executable).with_name("esb")
_EVENT: Final = {"event_type": "order.created", "key": "k1", "payload": {"id": 12345, "amount": 12.5, "text": "x" * 250}}


class Server(NamedTuple):
    """A server that is up, and its process."""

    url: str
    pid: int

    def memory_mb(self, name: str) -> float:
        """The process's memory now (``VmRSS``) or at most so far (``VmHWM``)."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


@contextmanager
def _server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        command = [_ESB, "--data", folder, "serve", "--port", "0", "--auth", "off"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().split(" on ")[1].split()[0]
                httpx.post(f"{url}/api/v1/streams", json={"name": "s", "partitions": 4}).raise_for_status()
                yield Server(url, process.pid)
            finally:
                process.terminate()


class _Connection(asyncio.Protocol):
    """Sends one request again and again, each when the one before is answered."""

    def __init__(self, request: bytes, until_s: float, done: "asyncio.Future[None]") -> None:
        self._request = request
        self._until_s = until_s
        self._done = done
        self._answer = b""
        self.answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 201"):
            self._done.set_exception(RuntimeError(self._answer.decode()))
            self._transport.close()
            return
        self._answer = b""
        self.answered += 1
        if time.perf_counter() < self._until_s:
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def _load(url: str, path: str, body: bytes) -> float:
    """Requests a second."""
    place = urlsplit(url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    started_s = time.perf_counter()
    connections, ends = [], []
    for _ in range(_CONNECTIONS):
        done: asyncio.Future[None] = loop.create_future()
        connection = _Connection(head.encode() + body, started_s + _SECONDS, done)
        await loop.create_connection(lambda made=connection: made, place.hostname, place.port)  # type: ignore[misc]
        connections.append(connection)
        ends.append(done)
    await asyncio.gather(*ends)
    return sum(connection.answered for connection in connections) / (time.perf_counter() - started_s)


def single(server: Server) -> float:
    """Events a second, one a request."""
    return asyncio.run(_load(server.url, "/api/v1/events", json.dumps({"stream_id": "s", **_EVENT}).encode()))


def batches(server: Server) -> float:
    """Events a second, in batches."""
    body = json.dumps({"stream_id": "s", "events": [_EVENT] * _BATCH}).encode()
    return _BATCH * asyncio.run(_load(server.url, "/api/v1/events/batch", body))


def publish_single() -> float:
    """``single`` on a new server."""
    with _server() as server:
        return single(server)


def publish_batches() -> float:
    """``batches`` on a new server."""
    with _server() as server:
        return batches(server)


def memory_idle_mb() -> float:
    """The memory of a server that nobody asks."""
    with _server() as server:
        time.sleep(1)
        return server.memory_mb("VmRSS")


def memory_loaded_mb() -> float:
    """The most memory that a server took under both loads."""
    with _server() as server:
        single(server)
        batches(server)
        return server.memory_mb("VmHWM")


FIGURES: Final = [
    Figure("REST: publish one, 32 connections", "events/s", publish_single, 3_000),
    Figure(f"REST: publish batches of {_BATCH}, 32 connections", "events/s", publish_batches, 100_000),
    Figure("REST: server's memory, idle", "MB", memory_idle_mb, 300),
    Figure("REST: server's memory under that load, most", "MB", memory_loaded_mb, 1_000),
]
