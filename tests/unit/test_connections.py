"""Connections to a server: which are given up, which are let in when there are many, and what is told to the others."""

import asyncio
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from event_streaming_bus.api.connections import MAX_HEAD_BYTES, MAX_PIPELINED, protocols
from event_streaming_bus.api.load import Load, LoadLimits

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANG = b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
STALL_S = 0.6
KEPT_S = 1


class App:
    """An application with a path that is answered at once, one that is only when it may be, one with a large answer."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        if scope["path"] == "/block":
            time.sleep(KEPT_S * 1.6)  # noqa: ASYNC251 - it is to block the loop, as much work at once would
        if scope["path"] == "/hang":
            await asyncio.to_thread(self.may_answer.wait, 30)
        body = b"x" * (64 << 20) if scope["path"] == "/large" else b"well"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        for begin in range(0, len(body), 1 << 20):
            await send({"type": "http.response.body", "body": body[begin : begin + (1 << 20)], "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.ended.append(scope["path"])


class At:
    """A server at work."""

    def __init__(self, port: int, load: Load, app: App) -> None:
        self.port = port
        self.load = load
        self.app = app
        self._open = ExitStack()

    def connected(self, *said: bytes) -> socket.socket:
        """A connection on which this was said."""
        opened = self._open.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=10))
        for part in said:
            opened.sendall(part)
        return opened

    def close(self) -> None:
        self.app.may_answer.set()
        self._open.close()


@contextmanager
def serving(**limits: Any) -> Iterator[At]:
    load, app = Load(LoadLimits(**{"stall_s": STALL_S, **limits})), App()
    http, websockets = protocols(load)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        config = uvicorn.Config(
            app,
            http=http,
            ws=websockets,
            log_level="critical",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=KEPT_S,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        at = At(listener.getsockname()[1], load, app)
        try:
            eventually(lambda: server.started)
            yield at
        finally:
            at.close()
            server.should_exit = True
            running.join()


def eventually(is_so: Callable[[], bool], within_s: float = 10) -> None:
    give_up = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection, or has given the whole answer."""
    found = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
            head, _, body = found.partition(b"\r\n\r\n")
            if b"content-length: %d" % len(body) in head:
                break
    return found


def test_who_says_nothing_or_says_it_slowly_is_given_up() -> None:
    with serving() as at:
        begun = time.monotonic()
        silent, slow = at.connected(), at.connected(b"GET /health HTTP/1.1\r\n")
        kept = at.connected(HEALTH)
        assert b"200 OK" in answer(kept)
        for number in range(4):
            time.sleep(STALL_S / 6)
            slow.sendall(b"X-Header-%d: 1\r\n" % number)
        assert (answer(silent), answer(slow)) == (b"", b"")
        assert STALL_S * 0.9 <= time.monotonic() - begun < STALL_S + 5
        assert answer(kept) == b"", "one that was answered owes a request, too"
        eventually(lambda: at.load.connections == 0)


def test_a_connection_that_works_is_not_given_up() -> None:
    with serving() as at:
        busy = at.connected(HANG)
        time.sleep(STALL_S * 2.5)
        at.app.may_answer.set()
        assert b"200 OK" in answer(busy)


def test_a_busy_server_does_not_close_a_connection_on_which_the_next_request_has_come() -> None:
    with serving(stall_s=60) as at:
        kept = at.connected(HEALTH)
        assert b"200 OK" in answer(kept)
        busy = at.connected(HEALTH.replace(b"/health", b"/block"))
        time.sleep(KEPT_S * 0.3)
        kept.sendall(HEALTH)
        assert b"200 OK" in answer(kept)
        assert b"200 OK" in answer(busy)


def test_when_there_is_no_room_those_that_owe_a_request_go_first() -> None:
    with serving(max_connections=4, stall_s=60) as at:
        oldest = at.connected()
        time.sleep(0.1)
        others = [at.connected(HEALTH) for _ in range(3)]
        assert all(b"200 OK" in answer(each) for each in others)
        time.sleep(1.1)
        assert b"200 OK" in answer(at.connected(HEALTH))
        assert answer(oldest) == b"", "it had been there for the longest time"
        others[0].sendall(HEALTH)
        assert b"200 OK" in answer(others[0]), "the others are still there"
        assert at.load.told()["refused"]["connections"] == 0


def test_when_all_are_at_work_others_are_told_to_come_again_and_may_ask_for_health() -> None:
    with serving(max_connections=3, stall_s=60) as at:
        busy = [at.connected(HANG) for _ in range(3)]
        eventually(lambda: at.load.connections == 3)
        refused = answer(at.connected(LARGE))
        head, _, body = refused.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head
        assert b"connection: close" in head
        told = json.loads(body)
        assert (told["title"], told["limit"], told["maximum"], told["raised_by"]) == (
            *("Overloaded", "connections"),
            *(3, "--max-connections"),
        )
        healthy = at.connected(HEALTH)
        assert answer(healthy).endswith(b"well")
        assert answer(healthy) == b"", "it was let in for one request"
        eventually(lambda: at.load.connections == 3)
        at.app.may_answer.set()
        assert all(b"200 OK" in answer(each) for each in busy)
        time.sleep(1.1)
        assert b"200 OK" in answer(at.connected(HEALTH))


def test_a_websocket_is_refused_when_there_is_no_room_and_counted_when_there_is() -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with serving(max_connections=2, stall_s=0.3) as at:
        with connect(f"ws://127.0.0.1:{at.port}/ws") as client:
            eventually(lambda: at.load.connections == 1)
            at.connected(HANG)
            eventually(lambda: at.load.connections == 2)
            assert answer(at.connected(upgrade)).startswith(b"HTTP/1.1 503 ")
            time.sleep(1)
            client.ping().wait(5)
        at.app.may_answer.set()
        eventually(lambda: at.load.connections == 0)


def test_who_does_not_read_an_answer_is_given_up() -> None:
    with serving() as at:
        unread = at.connected(LARGE)
        eventually(lambda: at.app.ended == ["/large"])
        assert len(answer(unread)) < 64 << 20
        eventually(lambda: at.load.connections == 0)


def test_who_reads_slowly_gets_all_of_an_answer() -> None:
    with serving() as at:
        slow = at.connected(LARGE)
        read, begun = 0, time.monotonic()
        while read < 64 << 20:
            part = slow.recv(1 << 20)
            assert part, "it was given up"
            read += len(part)
            if time.monotonic() - begun < 3 * STALL_S:
                time.sleep(0.02)


@pytest.mark.parametrize(
    "said",
    [
        [b"GET /health HTTP/1.1\r\nX-Large: " + b"x" * (3 * MAX_HEAD_BYTES)],
        [b"GET /health HTTP/1.1\r\n", *(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(80))],
        [b"GET /" + b"x" * (3 * MAX_HEAD_BYTES)],
        [HANG * (2 * MAX_PIPELINED)],
    ],
    ids=["one header", "many headers", "the path", "requests without waiting for answers"],
)
def test_what_is_said_before_an_answer_is_bounded(said: list[bytes]) -> None:
    with serving(stall_s=60) as at:
        connection = at.connected()
        with suppress(OSError):
            for part in said:
                connection.sendall(part)
        refused = answer(connection)
        assert refused == b"" or refused.startswith(b"HTTP/1.1 400 ")
        eventually(lambda: at.load.connections == 0)


def test_as_many_connections_are_allowed_as_files_may_be_open() -> None:
    code = (
        "import resource\n"
        "from event_streaming_bus.api.load import LoadLimits\n"
        "from event_streaming_bus.api.open_files import fitted\n"
        "notes = []\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2000))\n"
        "print(fitted(LoadLimits(), notes.append).max_connections, fitted(LoadLimits(max_connections=500), notes.append)"
        ".max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(notes))\n"
        "print(*notes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd(), check=True)
    figures, told = done.stdout.splitlines()
    assert figures.split() == ["1104", "500", "2000", "1"]
    assert "at most 1,104 connections" in told
    assert "ulimit -n" in told
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 2000
