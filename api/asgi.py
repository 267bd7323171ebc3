"""What middlewares need: headers as they came, bodies read and given on, answers held back."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from litestar import Request, Response

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
App = Callable[[Any, Any, Send], Awaitable[None]]


def headers_of(scope: Any, name: str) -> list[str]:
    """The values of a header, each as it came."""
    wanted = name.lower().encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted]


def header_of(scope: Any, name: bytes) -> str | None:
    """The first value of a header, whose name is given in lower case, as servers give names on."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def given_again(body: bytes, receive: Receive) -> Receive:
    """``receive``, which begins with a body that was read already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return again


async def body_of(receive: Receive, most: int) -> tuple[bytes, Receive]:
    """``(the body, what gives the same body on)``; of a longer body its beginning, and what gives on all of it."""
    messages: list[Any] = []
    size = 0
    while size <= most:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    body = b"".join(message.get("body", b"") for message in messages)

    async def again() -> Any:
        return messages.pop(0) if messages else await receive()

    return body, again


class HeldAnswer:
    """An answer that is held back until it is sent on."""

    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self._messages: list[Any] = []

    async def take(self, message: Any) -> None:
        """To be given to an application in place of ``send``."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.content_type = next((v.decode("latin-1") for k, v in message["headers"] if k.lower() == b"content-type"), "")
        self._messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self._messages)

    async def release(self, send: Send) -> None:
        """Send it on."""
        for message in self._messages:
            await send(message)


def with_headers(send: Send, more: Mapping[str, str]) -> Send:
    """``send``, which adds headers to an answer that is none of an error."""
    added = [(name.lower().encode(), value.encode()) for name, value in more.items()]

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] < 300:
            message = message | {"headers": [*message["headers"], *added]}
        await send(message)

    return sending


async def respond(answer: Response[bytes], headers: Mapping[str, str], scope: Any, receive: Any, send: Send) -> None:
    """Answer in the place of the application."""
    answer.headers.update(headers)
    await answer.to_asgi_response(None, Request(scope))(scope, receive, send)
