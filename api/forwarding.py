"""Requests that only the leader can answer, sent on to it by the other nodes.

The leader has the history, runs the processors and the projections, and hosts the members of consumer groups. All else every node
does by itself. A client is known by its token to all of them, so what it shows is sent on as it is.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import httpx
from litestar.connection import ASGIConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin, Subprotocol

from event_streaming_bus.api.asgi import Receive, Send, header_of, respond
from event_streaming_bus.api.audited_actions import API
from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.monitoring_access import check_page
from event_streaming_bus.api.problems import problem
from event_streaming_bus.errors import InvalidInputError

if TYPE_CHECKING:
    from event_streaming_bus.store.election import Election  # loads psycopg: only for those who need it

_LEADERS: Final = frozenset(
    {
        *("consumer-groups", "correlations", "dead-letters", "erasures", "flows", "history", "projections", "stream-processors"),
    }
)
_FORWARDED: Final = b"x-esb-forwarded"
# Of one connection: those of the client end here, and begin anew behind it.
_OF_THE_HOP: Final = frozenset(
    {
        *(b"connection", b"host", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"upgrade"),
        *(b"transfer-encoding", _FORWARDED),
    }
)
_CONNECT_S: Final = 5.0
_POLICY, _TRY_LATER, _RESTARTS, _ABNORMAL = 1008, 1013, 1012, 1006
_RETRY_S: Final = 2
logging.getLogger("httpx").setLevel(logging.WARNING)  # or it would tell of every request


class Forwarding:
    """An ASGI application for requests that it ``takes``, on a node that does not lead. ``hosts`` are the names that this node
    may be asked by, ``headers`` go with every answer of its own."""

    def __init__(self, election: "Election", *, hosts: Collection[str], headers: Mapping[str, str]) -> None:
        self._election = election
        self._hosts = hosts
        self._told = headers
        self._client: httpx.AsyncClient | None = None

    def takes(self, scope: Any) -> bool:
        """Whether a request is for the leader, and this node is not it."""
        if scope["type"] not in ("http", "websocket") or self._election.leads:
            return False
        path: str = scope["path"]
        if not path.startswith(API):
            return bool(scope["type"] == "websocket")
        noun, _, rest = path.removeprefix(API).partition("/")
        return noun in _LEADERS or (noun == "events" and rest not in ("", "batch"))

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let the leader answer. That nobody asks by another name is for this node to see to: the leader is asked by its own."""
        try:
            check_host(header_of(scope, b"host") or "", self._hosts)
            if scope["type"] == "websocket":
                check_page(ASGIConnection(scope), self._hosts)
        except InvalidInputError as error:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": _POLICY, "reason": error.message[:100]})
            else:
                told = problem(400, "Bad Request", error.message, scope["path"], **error.details)
                await respond(told, self._told, scope, receive, send)
            return
        leader = self._election.leader()
        url = None if leader is None else leader.url
        was_forwarded = any(name == _FORWARDED for name, _ in scope["headers"])
        if scope["type"] == "websocket":
            await _socket(None if was_forwarded else url, scope, receive, send)
        elif url is None or was_forwarded:
            await self._refuse(scope, receive, send, "no node leads at the moment; one will within seconds")
        else:
            await self._request(url, scope, receive, send)

    async def close(self) -> None:
        """Close the connections. Closing twice is harmless."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _refuse(self, scope: Any, receive: Receive, send: Send, told: str) -> None:
        headers = {**self._told, "Retry-After": str(_RETRY_S)}
        await respond(problem(503, "Service Unavailable", told, scope["path"]), headers, scope, receive, send)

    async def _request(self, url: str, scope: Any, receive: Receive, send: Send) -> None:
        if self._client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            timeout = httpx.Timeout(None, connect=_CONNECT_S)
            authorities = ssl.create_default_context()  # those of SSL_CERT_FILE, for nodes with certificates of their own
            self._client = httpx.AsyncClient(timeout=timeout, limits=limits, verify=authorities, trust_env=False)
        request = self._client.build_request(
            scope["method"],
            f"{url}{_target(scope)}",
            headers=[*_kept(scope["headers"]), (_FORWARDED, b"1")],
            content=_body(receive) if _has_body(scope) else None,
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            await self._refuse(scope, receive, send, f"the node that leads cannot be reached: {error or type(error).__name__}")
            return
        gone = asyncio.ensure_future(_gone(receive)) if not _has_body(scope) else None
        try:
            await send({"type": "http.response.start", "status": answer.status_code, "headers": _kept(answer.headers.raw)})
            async for part in _parts(answer, gone):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if gone is not None:
                gone.cancel()
            await answer.aclose()


def _target(scope: Any) -> str:
    """The path as it was sent, and the query."""
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    return str((path + b"?" + query if query else path).decode("latin-1"))


def _kept(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in _OF_THE_HOP]


def _has_body(scope: Any) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _gone(receive: Receive) -> None:
    """Returns when the client is."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _parts(answer: httpx.Response, gone: "asyncio.Future[None] | None") -> AsyncIterator[bytes]:
    """The answer's body as it comes, encoded as it is, until the client is gone: an endless one would have no other end."""
    parts = answer.aiter_raw()
    while True:
        part: asyncio.Task[bytes | None] = asyncio.create_task(_next(parts))
        waited: set[asyncio.Future[Any]] = {part} if gone is None else {part, gone}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not part.done():
            part.cancel()
            with suppress(asyncio.CancelledError, httpx.TransportError):
                await part
            return
        data = part.result()
        if data is None:
            return
        yield data


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)


async def _socket(url: str | None, scope: Any, receive: Receive, send: Send) -> None:
    """A WebSocket, message by message, in both directions."""
    await receive()  # the client's wish to connect
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in _kept(scope["headers"])}
    own = {name: value for name, value in headers.items() if not name.startswith("sec-websocket-") and name != "origin"}
    asked = [Subprotocol(name) for name in scope.get("subprotocols") or ()]
    try:
        if url is None:
            raise OSError("no node leads")
        origin = Origin(url) if "origin" in headers else None  # the leader's own page: this node has looked at the client's
        there = await connect(
            f"ws{url.removeprefix('http')}{_target(scope)}",
            additional_headers={**own, _FORWARDED.decode(): "1"},
            subprotocols=asked or None,
            origin=origin,
            open_timeout=_CONNECT_S,
            max_size=None,
            proxy=None,
        )
    except (OSError, InvalidHandshake, TimeoutError):
        await send({"type": "websocket.close", "code": _TRY_LATER, "reason": "no node leads at the moment"})
        return
    await send({"type": "websocket.accept", "subprotocol": there.subprotocol})
    down, up = asyncio.ensure_future(_down(there, send)), asyncio.ensure_future(_up(receive, there))
    _, pending = await asyncio.wait([down, up], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await there.close()


async def _down(there: ClientConnection, send: Send) -> None:
    try:
        async for message in there:
            await send({"type": "websocket.send", **({"text": message} if isinstance(message, str) else {"bytes": message})})
    except ConnectionClosed:
        pass
    code = there.close_code or _ABNORMAL
    with suppress(RuntimeError):  # the client has closed meanwhile
        await send(
            {"type": "websocket.close", "code": _RESTARTS if code == _ABNORMAL else code, "reason": there.close_reason or ""}
        )


async def _up(receive: Receive, there: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while (message := await receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            await there.send(text if text is not None else message.get("bytes", b""))
