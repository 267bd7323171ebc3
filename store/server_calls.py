"""Calls to the server that has a data folder open: DuckDB files belong to one process, so others ask that one."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final

from event_streaming_bus.errors import BusError, InUseError

SERVER_FILE: Final = "serve.json"
"""Where a server writes down its address, in the data folder."""


def server_url(folder: Path, error: InUseError) -> str:
    """The address of the server that has the folder. Raises ``error`` if none has written it down."""
    try:
        return str(json.loads((folder / SERVER_FILE).read_text("utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError):
        raise error from None


def opened(
    url: str,
    path: str,
    error: InUseError,
    *,
    body: object = None,
    tenant_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float,
    refusal: Callable[[int], type[BusError]] = lambda status: BusError,
) -> HTTPResponse:
    """The answer of the server at ``url`` to a GET or, with a ``body``, a POST of JSON; the caller reads and closes it.

    Without ``tenant_id`` the request names no tenant. Raises ``error`` if the server cannot be reached, and if it refuses what
    ``refusal`` makes of its status, with what the server says.
    """
    request = urllib.request.Request(  # noqa: S310 - our own server, by the address it wrote down
        f"{url}/api/v1/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={
            **({} if body is None else {"Content-Type": "application/json"}),
            **({} if tenant_id is None else {"X-Tenant-Id": tenant_id}),
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
        raise refusal(refused.code)(told or f"the server at {url} answered {refused.code} {refused.reason}") from None
    except OSError:
        raise error from None
    return answer


def asked(url: str, path: str, error: InUseError, **how: Any) -> bytes:
    """The whole answer; see ``opened``. Raises ``error`` also for a server that goes away while it answers."""
    with opened(url, path, error, **how) as answer:
        try:
            return answer.read()
        except OSError:
            raise error from None
