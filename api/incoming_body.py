"""The body of a request, as it comes, and its part of the bytes that the server holds."""

import asyncio
from typing import Any, Final

from event_streaming_bus.api.asgi import Receive
from event_streaming_bus.api.load import Load

MIN_BYTES_PER_S: Final = 4096
"""Who sends a body is given ``stall_s``, and a second more for so many bytes that have come."""


class IncomingBody:
    """One body. Whoever made this must ``release`` it."""

    def __init__(self, load: Load, scope: Any, receive: Receive, max_bytes: int) -> None:
        self.receive = receive
        """What is to be received with: it begins with what was read."""
        self.size = 0
        """How many bytes are held."""
        self.is_stalled = False
        self.is_gone = False
        self.is_there = False
        """Whether the request has a body."""
        self._load = load
        self._source = receive
        self._max_bytes = max_bytes
        self._declared = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._declared = min(int(value[:20]), max_bytes) if value.isdigit() else 0
                self.is_there = self.is_there or self._declared > 0
            elif name == b"transfer-encoding":
                self.is_there = True

    def has_room(self) -> bool:
        """Whether there would be room for it, as far as the request tells."""
        return self._load.buffered_bytes + self._declared <= self._load.limits.max_buffered_bytes

    async def read(self) -> bool:
        """Read all of it, or as much as anybody may send. Otherwise there is no room, or it ``is_stalled``, or ``is_gone`` with
        its client."""
        until_s = asyncio.get_running_loop().time() + self._load.limits.stall_s
        messages: list[Any] = []
        is_whole = False
        while not is_whole and self.size <= self._max_bytes:
            if self._load.buffered_bytes > self._load.limits.max_buffered_bytes:
                return False
            try:
                message = await self._load.deadlines.by(until_s + self.size / MIN_BYTES_PER_S, self._source)
            except TimeoutError:
                self.is_stalled = True
                return False
            if message["type"] != "http.request":
                self.is_gone = True
                return False
            size = len(message.get("body", b""))
            self.size += size
            self._load.buffered_bytes += size
            messages.append(message)
            is_whole = not message.get("more_body", False)
        self.receive = _given(messages, self._source)
        return True

    def release(self) -> None:
        """Its bytes are held no longer."""
        if self.size:
            self._load.buffered_bytes -= self.size
            self._load.buffering.served += 1
            self.size = 0


def _given(messages: list[Any], rest: Receive) -> Receive:
    """``rest``, behind what was read, which is one message."""
    if len(messages) > 1:
        body = b"".join(each.get("body", b"") for each in messages)
        messages = [{"type": "http.request", "body": body, "more_body": messages[-1].get("more_body", False)}]

    async def again() -> Any:
        return messages.pop() if messages else await rest()

    return again
