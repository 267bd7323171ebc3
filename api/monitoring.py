"""Live monitoring: one message a second over a WebSocket, for as long as the client reads them."""

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Final

from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import WebsocketRouteHandler

from event_streaming_bus.api.monitoring_access import check_access, check_page
from event_streaming_bus.api.monitoring_hub import MAX_CONNECTIONS, Monitoring
from event_streaming_bus.api.monitoring_messages import MAX_MESSAGE_BYTES, Subscription, changed, refusal
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import BusError, InvalidInputError

MAX_FAULTS: Final = 3
SEND_S: Final = 5.0
"""A client that has not taken a message for so long is dropped."""
_BREATH_S: Final = 0.05  # between two messages of a client: whoever sends more is read for at this pace
NORMAL, POLICY, TOO_BIG, TRY_LATER = 1000, 1008, 1009, 1013
_log: Final = logging.getLogger(__name__)


class _Connection:
    """One client: what it wants to see, and what went wrong with its messages."""

    def __init__(self, socket: WebSocket[Any, Any, Any], monitoring: Monitoring, tenant_id: str) -> None:
        self._socket = socket
        self._monitoring = monitoring
        self._tenant_id = tenant_id
        self._subscription: Subscription | None = Subscription()
        self._faults = 0

    async def serve(self) -> None:
        """Until the client is gone, takes nothing any more, or says nothing that is understood."""
        hearing, telling = asyncio.create_task(self._hear()), asyncio.create_task(self._tell())
        try:
            done, _ = await asyncio.wait((hearing, telling), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            telling.cancel()
            await asyncio.gather(hearing, telling, return_exceptions=True)
        for task in done:
            error = task.exception()
            if isinstance(error, TimeoutError):
                _log.warning("a client of the monitoring was dropped: it took no message for %g s", SEND_S)
            elif error is not None and not _is_gone(error):
                raise error

    async def _tell(self) -> None:
        frame = None
        while True:
            frame = await self._monitoring.next(frame)
            if self._subscription is not None:
                await self._send(frame.message(self._tenant_id, self._subscription))

    async def _hear(self) -> None:
        while True:
            event: Any = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            text = event.get("text")
            data: bytes = text.encode() if text is not None else event.get("bytes") or b""
            code = await self._take(data)
            if code is not None:
                async with asyncio.timeout(SEND_S):
                    await self._socket.close(code, "the messages are not understood")
                return
            await asyncio.sleep(_BREATH_S)

    async def _take(self, data: bytes) -> int | None:
        """Do as the message says; the code to close with if it was one too many that cannot be done."""
        try:
            if len(data) > MAX_MESSAGE_BYTES:
                raise InvalidInputError(f"the message has {len(data):,} bytes; at most {MAX_MESSAGE_BYTES:,} are accepted")
            self._subscription = changed(self._subscription, data)
        except InvalidInputError as error:
            self._faults += 1
            await self._send(refusal(error.message))
            if self._faults < MAX_FAULTS:
                return None
            return TOO_BIG if len(data) > MAX_MESSAGE_BYTES else POLICY
        self._faults = 0
        return None

    async def _send(self, message: bytes) -> None:
        """Raises ``TimeoutError`` if the client does not take what was sent before. So at most one message waits for it."""
        async with asyncio.timeout(SEND_S):
            await self._socket.send_text(message.decode())


def monitoring_socket(hosts: Collection[str]) -> WebsocketRouteHandler:
    """The WebSocket for clients that name one of ``hosts``, and for pages of this server only."""

    @websocket("/ws/monitoring")
    async def live(socket: WebSocket[Any, Any, Any], services: Services) -> None:
        try:
            check_page(socket, hosts)
            tenant_id = check_access(socket)
        except BusError:
            await socket.close(POLICY)  # before it is accepted: the client gets a 403
            return
        await socket.accept()
        if not services.monitoring.join():
            await socket.close(TRY_LATER, f"{MAX_CONNECTIONS} clients are connected already")
            return
        try:
            await _Connection(socket, services.monitoring, tenant_id).serve()
        finally:
            services.monitoring.leave()

    return live


def _is_gone(error: BaseException) -> bool:
    """Whether the client has gone away meanwhile: servers say so with an error of their own, an ``OSError``."""
    return isinstance(error, (WebSocketDisconnect, OSError))
