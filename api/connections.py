"""The connections of clients: how many there are, and which of them are given up.

A connection that owes a request (it is new, or has been answered) costs little and is worth little: it is closed after a while,
and sooner if there is no room for another one. When all are at work, some more are let in to be told so, and to ask how the
server is.
"""

import asyncio
import time
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from event_streaming_bus.api.admission import refuse
from event_streaming_bus.api.asgi import App, Receive, Send
from event_streaming_bus.api.lanes import NEVER_REFUSED
from event_streaming_bus.api.load import SPARE_CONNECTIONS, Load

MAX_HEAD_BYTES: Final = 64 << 10
MAX_PIPELINED: Final = 32
_LOOK_S: Final = 0.5
_SETTLED_S: Final = 1.0  # a connection that has just come is not closed for the next one
_Connection = Any  # of HTTP or a WebSocket: what both have is a transport


class Connections:
    """All that are open. Belongs to one event loop."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._open: set[_Connection] = set()
        self._spare: set[_Connection] = set()
        # Each by since when, and so the longest ago first.
        self._owing: dict[_Connection, float] = {}
        self._stuck: dict[_Connection, float] = {}
        self._ending: dict[_Connection, float] = {}
        self._looking: asyncio.TimerHandle | None = None

    def enter(self, connection: _Connection) -> bool:
        """One more; whether there is room for it. Without room it is a spare one, or gone already."""
        now_s = time.monotonic()
        has_room = len(self._open) - len(self._spare) < self._load.limits.max_connections or self._make_room(now_s)
        if not has_room:
            if len(self._spare) >= SPARE_CONNECTIONS:
                self._load.connecting.refuse()
                connection.transport.abort()
                return False
            self._spare.add(connection)
        self._open.add(connection)
        self._owing[connection] = now_s
        self._load.connections = len(self._open)
        if self._looking is None:
            self._look_later()
        return has_room

    def join(self, connection: _Connection) -> None:
        """One that was let in goes on as a WebSocket."""
        self._open.add(connection)
        self._load.connections = len(self._open)

    def leave(self, connection: _Connection) -> None:
        """It is closed."""
        if connection in self._open:
            self._load.connecting.served += 1
        self._open.discard(connection)
        self._spare.discard(connection)
        for each in (self._owing, self._stuck, self._ending):
            each.pop(connection, None)
        self._load.connections = len(self._open)

    def owes(self, connection: _Connection) -> None:
        """From now on it owes a request, or the rest of one."""
        self._owing.pop(connection, None)
        if connection in self._open:
            self._owing[connection] = time.monotonic()

    def has_asked(self, connection: _Connection) -> None:
        """The head of its request is there."""
        self._owing.pop(connection, None)

    def is_stuck(self, connection: _Connection, *, stuck: bool) -> None:
        """Whether its client takes nothing of what was sent."""
        self._stuck.pop(connection, None)
        if stuck and connection in self._open:
            self._stuck[connection] = time.monotonic()

    def _make_room(self, now_s: float) -> bool:
        """Close the connection that has owed a request for the longest time, if it is not new."""
        for connection, since_s in self._owing.items():
            if connection in self._spare:
                continue
            if now_s - since_s < _SETTLED_S:
                return False
            connection.transport.abort()
            self.leave(connection)
            return True
        return False

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Give up those that stand still."""
        self._looking = None
        before_s = time.monotonic() - self._load.limits.stall_s
        # What is closing waits for what was sent to be taken: not for ever.
        for connection in self._open:
            if connection not in self._ending and connection.transport.is_closing():
                self._ending[connection] = time.monotonic()
        for waiting in (self._owing, self._stuck, self._ending):
            for connection in _until(waiting, before_s):
                connection.transport.abort()
                waiting.pop(connection, None)
        if self._open:
            self._look_later()


def _until(waiting: dict[_Connection, float], before_s: float) -> list[_Connection]:
    """Those that have waited since before that."""
    found = []
    for connection, since_s in waiting.items():
        if since_s > before_s:
            break
        found.append(connection)
    return found


def protocols(load: Load) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """What speaks HTTP, and what speaks WebSockets, with connections of one server."""
    connections = Connections(load)

    class Counted(asyncio.Protocol):
        """What both have: how they end, and whether their clients take what is sent."""

        def connection_lost(self, exc: Exception | None) -> None:
            connections.leave(self)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            connections.is_stuck(self, stuck=True)
            super().pause_writing()

        def resume_writing(self) -> None:
            connections.is_stuck(self, stuck=False)
            super().resume_writing()

    class Http(Counted, HttpToolsProtocol):
        """HTTP as the server speaks it, with bounds on what comes before anything can be answered."""

        is_spare = False
        unread = 0  # bytes in which nothing was understood yet
        head = 0  # bytes of the head, as far as it was understood

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.is_spare = not connections.enter(self)
            if self.is_spare:
                self.app = _told_to_wait(load, self.app)

        def data_received(self, data: bytes) -> None:
            self.unread += len(data)
            super().data_received(data)
            if self.unread > MAX_HEAD_BYTES + len(data) and not self.transport.is_closing():
                self.send_400_response("Request header fields too large.")

        def on_message_begin(self) -> None:
            self.unread = self.head = 0
            if self.cycle is None or self.cycle.response_complete:
                connections.owes(self)
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._of_head(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._of_head(name, value)
            super().on_header(name, value)

        def _of_head(self, *parts: bytes) -> None:
            self.unread = 0
            self.head += sum(map(len, parts))
            if self.head > MAX_HEAD_BYTES:
                raise ValueError("the head is too large")  # the parser makes a 400 of it

        def on_headers_complete(self) -> None:
            self.unread = 0
            if len(self.pipeline) >= MAX_PIPELINED:
                raise ValueError("too many requests at once")
            connections.has_asked(self)
            super().on_headers_complete()
            if self.is_spare and self.cycle is not None:
                self.cycle.keep_alive = False

        def on_body(self, body: bytes) -> None:
            self.unread = 0
            super().on_body(body)

        def on_response_complete(self) -> None:
            if not self.pipeline:
                connections.owes(self)
            super().on_response_complete()

        def timeout_keep_alive_handler(self) -> None:
            # A loop that had much to do calls its timers before it looks for what has come: the next request may be there.
            self.timeout_keep_alive_task = self.loop.call_later(_LOOK_S, super().timeout_keep_alive_handler)

        def _should_upgrade(self) -> bool:
            return not self.is_spare and super()._should_upgrade()

        def _unsupported_upgrade_warning(self) -> None:
            if not self.is_spare:
                super()._unsupported_upgrade_warning()

        def handle_websocket_upgrade(self) -> None:
            connections.leave(self)
            super().handle_websocket_upgrade()

    class WebSocket(Counted, AutoWebSocketsProtocol):  # type: ignore[misc, valid-type]  # which one it is depends on what is installed
        """WebSockets as the server speaks them."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connections.join(self)

    return Http, WebSocket


def _told_to_wait(load: Load, app: App) -> App:
    """``app``, for a connection that there is no room for: it is told so, unless it asks how the server is."""

    async def tell(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] in NEVER_REFUSED:
            await app(scope, receive, send)
            return
        told = f"The server has {load.connecting.most:,} connections, and takes no more"
        await refuse(load.connecting, told, scope["path"], {"connection": "close"}, send)

    return tell
