"""Clients that make an overload: over bare sockets, so that thousands of them cost little, and behave as badly as is wanted."""

import asyncio
import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

HOST: Final = "127.0.0.1"
_ERRORS: Final = (OSError, asyncio.IncompleteReadError, EOFError)


class Tally:
    """What publishers were told."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[str, int]] = []
        """``(prefix, how many)``: the events ``PREFIX-0`` and so on of each acknowledged request."""
        self.refused = 0
        self.without_retry_after = 0
        self.lost = 0
        """Connections that were lost; the request was sent again."""
        self.others: dict[int, int] = {}
        """Answers with another status, which there should be none of."""
        self.limits: dict[str, int] = {}
        self.waited_s: list[int] = []

    @property
    def events(self) -> int:
        """How many events were acknowledged."""
        return sum(count for _, count in self.acknowledged)

    def ids(self) -> Iterator[str]:
        """The ids of all events that were acknowledged."""
        for prefix, count in self.acknowledged:
            yield from (f"{prefix}-{i}" for i in range(count))

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        asked = len(self.acknowledged) + self.refused
        return {
            "acknowledged_requests": len(self.acknowledged),
            "acknowledged_events": self.events,
            "refused": self.refused,
            "refused_share": round(self.refused / max(1, asked), 3),
            "without_retry_after": self.without_retry_after,
            "lost_connections": self.lost,
            "other_statuses": self.others,
            "limits": self.limits,
            "retry_after_s_most": max(self.waited_s, default=0),
        }


async def answered(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """``(status, headers, body)`` of one answer. Raises ``EOFError`` and others of ``_ERRORS`` if it does not come whole."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


async def publish(port: int, name: str, stream: str, events: int, payload: Any, until: asyncio.Event, tally: Tally) -> None:
    """Publish batch after batch over one connection until told to stop; what is refused, or lost on the way, is sent again with
    the same ids, as the documentation asks it of clients."""
    number, body, writer = 0, b"", None
    reader: asyncio.StreamReader | None = None
    while not until.is_set():
        prefix = f"{name}-{number}"
        if not body:
            batch = [{"event_type": "load", "event_id": f"{prefix}-{i}", "payload": payload} for i in range(events)]
            body = json.dumps({"events": batch, "stream_id": stream}).encode()
        try:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(
                b"POST /api/v1/events/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
            status, headers, answer = await answered(reader)
        except _ERRORS:
            tally.lost += 1
            if writer is not None:
                writer.close()
            reader = writer = None
            await asyncio.sleep(0.2)
            continue
        if headers.get("connection") == "close":
            writer.close()
            reader = writer = None
        if status == 201:
            tally.acknowledged.append((prefix, events))
            number, body = number + 1, b""
        elif status in (429, 503):
            tally.refused += 1
            told = headers.get("retry-after", "")
            tally.without_retry_after += not told.isdecimal()
            limit = str(json.loads(answer).get("limit"))
            tally.limits[limit] = tally.limits.get(limit, 0) + 1
            tally.waited_s.append(int(told or 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), int(told or 1))
        else:
            tally.others[status] = tally.others.get(status, 0) + 1
            await asyncio.sleep(0.2)
    if writer is not None:
        writer.close()


class Holder:
    """Connections that are held open without any good."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.opened = 0
        self.failed = 0
        self.closed = 0

    async def hold(self, count: int, first: bytes = b"", drip: bytes = b"", every_s: float = 1.0) -> None:
        """Open so many, send ``first``, and then ``drip`` again and again; nothing that comes is read. What the server closes is
        opened anew."""
        for begin in range(0, count, 200):
            opening = [self._kept(first, drip, every_s) for _ in range(begin, min(count, begin + 200))]
            self._tasks += [asyncio.create_task(each) for each in opening]
            await asyncio.sleep(0.05)

    @property
    def open(self) -> int:
        """How many are open."""
        return self.opened - self.closed

    async def _kept(self, first: bytes, drip: bytes, every_s: float) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(HOST, self._port)
            except OSError:
                self.failed += 1
                await asyncio.sleep(1)
                continue
            self.opened += 1
            try:
                writer.write(first)
                await self._dripped(reader, writer, drip, every_s)
            finally:
                self.closed += 1
                writer.close()
            await asyncio.sleep(0.5)

    @staticmethod
    async def _dripped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes, every_s: float) -> None:
        with suppress(*_ERRORS):
            if not drip:
                while await reader.read(1 << 16):
                    pass
                return
            while not reader.at_eof():
                writer.write(drip)
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1 << 16), every_s)

    async def release(self) -> None:
        """Close all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


SILENT: Final = b""
SLOW_HEAD: Final = b"GET /api/v1/streams HTTP/1.1\r\nHost: localhost\r\n"
SLOW_HEADER: Final = b"X-Slow: yes\r\n"


def slow_body(size: int = 1 << 20) -> bytes:
    """The begin of a request to publish whose body does not come."""
    return b"POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{" % size


def upgrade(path: str = "/ws/monitoring") -> bytes:
    """What asks for a WebSocket."""
    key = base64.b64encode(os.urandom(16))
    return (
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (path.encode(), key)
    )


def unread_socket(port: int) -> socket.socket:
    """A connection of somebody who never reads, and whose machine takes little for him."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.connect((HOST, port))
    return opened
