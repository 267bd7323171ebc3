"""Calls to the server that has a data folder open: DuckDB files belong to one process, so others ask that one.

The server wants a token: that of ``ESB_TOKEN``, or, of those who may read the data folder anyway, the first administrator's.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, NamedTuple

from event_streaming_bus.errors import BusError, InUseError

SERVER_FILE: Final = "serve.json"
"""Where a server writes down its address, in the data folder."""
TOKEN_FILE: Final = "admin.token"  # noqa: S105 - a file's name
"""Where the first administrator's token is handed over, in the data folder."""
TOKEN_VARIABLE: Final = "ESB_TOKEN"  # noqa: S105 - a variable's name
_MAX_TOKEN_CHARS: Final = 16_384


class NotLetInError(BusError):
    """The server that has the data folder wants a token that allows this. Set ``ESB_TOKEN``."""


class Server(NamedTuple):
    """The server that has a data folder, and the token to show it; ``token_from`` says where that is from."""

    url: str
    token: str | None
    token_from: str

    @property
    def authorization(self) -> dict[str, str]:
        """The header that says who asks; none without a token."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def server_of(folder: Path, error: InUseError) -> Server:
    """The server that has the folder. Raises ``error`` if none has written its address down."""
    try:
        url = str(json.loads((folder / SERVER_FILE).read_text("utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError):
        raise error from None
    given = _token(os.environ.get(TOKEN_VARIABLE, ""))
    if given is not None:
        return Server(url, given, TOKEN_VARIABLE)
    file = folder / TOKEN_FILE
    try:
        return Server(url, _token(file.read_text("ascii")), str(file))
    except (OSError, UnicodeDecodeError):
        return Server(url, None, str(file))


def _token(text: str) -> str | None:
    """The text as a token, if it can be one: a header takes no others."""
    text = text.strip()
    return text if text.isascii() and text.isprintable() and 0 < len(text) <= _MAX_TOKEN_CHARS else None


def opened(
    server: Server,
    path: str,
    error: InUseError,
    *,
    body: object = None,
    tenant_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    refusal: Callable[[int], type[BusError]] = lambda status: BusError,
) -> HTTPResponse:
    """The answer of the server to a GET or, with a ``body``, a POST of JSON; the caller reads and closes it.

    Without ``tenant_id`` the request names no tenant. Raises ``error`` if the server cannot be reached, ``NotLetInError`` if it
    wants another token, which says what to do, and if it refuses otherwise what ``refusal`` makes of its status, with what the
    server says.
    """
    request = urllib.request.Request(  # noqa: S310 - our own server, by the address it wrote down
        f"{server.url}/api/v1/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={
            **({} if body is None else {"Content-Type": "application/json"}),
            **({} if tenant_id is None else {"X-Tenant-Id": tenant_id}),
            **server.authorization,
            **(headers or {}),
        },
    )
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
    except urllib.error.HTTPError as refused:
        told: Any = None
        with suppress(ValueError, AttributeError):
            problem = json.load(refused)
            told = problem.get("detail") or problem.get("title")
        told = told or f"the server at {server.url} answered {refused.code} {refused.reason}"
        if refused.code in (401, 403):
            raise NotLetInError(f"{told} {_what_to_do(server)}") from None
        raise refusal(refused.code)(told) from None
    except OSError:
        raise error from None
    return answer


def _what_to_do(server: Server) -> str:
    shown = f"The token of {server.token_from} was shown to it" if server.token else f"There is no token in {server.token_from}"
    return (
        f"The server at {server.url} has the data folder. {shown}; set {TOKEN_VARIABLE} to another: "
        "`esb tokens create NAME --role viewer` makes one for whoever may write to the folder."
    )


def asked(server: Server, path: str, error: InUseError, **how: Any) -> bytes:
    """The whole answer; see ``opened``. Raises ``error`` also for a server that goes away while it answers."""
    with opened(server, path, error, **how) as answer:
        try:
            return answer.read()
        except OSError:
            raise error from None
