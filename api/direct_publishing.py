"""Publishing without the framework's way through a request, which costs several times what the publishing does.

Only plain requests to the routes of ``events.PUBLISHING`` are taken, and of those only success is answered here: whoever makes
the request is asked who it is as everywhere, and whatever is refused goes the ordinary way, with the same body, to be refused
there with all that belongs to it: its problem document, the audit, the counts. Such a request counts twice against the rate of
its token.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Any, Final

from litestar import Request

from event_streaming_bus.api.access import Access
from event_streaming_bus.api.asgi import App, Receive, Send, body_of, given_again, header_of, respond
from event_streaming_bus.api.events import MAX_BATCH_BYTES, PUBLISHING
from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.problems import unexpected
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import BusError

_CREATED: Final = 201
# What only the ordinary way knows of.
_NOT_PLAIN: Final = frozenset({b"origin", b"idempotency-key", b"if-match", b"if-none-match"})


class DirectPublishing:
    """An ASGI application for requests that it ``takes``; ``ordinary`` is the one that answers all others."""

    def __init__(
        self, services: Services, ordinary: App, *, access: Access | None, hosts: Collection[str], headers: Mapping[str, str]
    ) -> None:
        """``headers`` go with every answer. Without ``access``, nobody has to say who they are."""
        self._services = services
        self._ordinary = ordinary
        self._access = access
        self._hosts = hosts
        self._told = headers
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._headers.append((b"content-type", b"application/json"))

    @staticmethod
    def takes(scope: Any) -> bool:
        """Whether a request is a plain one that publishes."""
        return (
            scope["type"] == "http"
            and scope["path"] in PUBLISHING
            and scope["method"] == "POST"
            and not scope["query_string"]
            and _NOT_PLAIN.isdisjoint(name for name, _ in scope["headers"])
        )

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer it."""
        body, again = await body_of(receive, MAX_BATCH_BYTES)
        try:
            with ExitStack() as held:
                answer = await self._published({**scope, "state": dict(scope.get("state") or {})}, body, receive, held)
        except BusError:
            await self._ordinary(scope, again, send)
            return
        except Exception as error:  # a fault of ours, and nobody knows what was done: it is not done again
            await respond(unexpected(Request(scope), error), self._told, scope, receive, send)
            return
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": _CREATED, "headers": [*self._headers, length]})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def _published(self, scope: Any, body: bytes, receive: Receive, held: ExitStack) -> bytes:
        route = scope["path_template"] = scope["path"]
        scope["route_handler"] = self
        check_host(header_of(scope, b"host") or "", self._hosts)
        if self._access is not None:
            receive = await self._access.admitted(scope, given_again(body, receive), held)
            await receive()  # refuses a body that has more bytes than the token may send
        return await PUBLISHING[route](Request(scope), self._services, body)
