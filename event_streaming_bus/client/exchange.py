"""Requests sent and answers read: over one pool of connections, sent again where that is safe, errors as the bus's own."""

import random
import time
import uuid
from contextlib import nullcontext
from importlib.metadata import version
from typing import Final

import httpx

from event_streaming_bus.client.client_errors import ServerUnreachableError, error_of, problem_of, retry_after_s
from event_streaming_bus.client.options import Target
from event_streaming_bus.client.requests import KEY_HEADER, KEY_IN_USE, TENANT_HEADER, Request
from event_streaming_bus.client.waiting import Semaphore, sleep
from event_streaming_bus.errors import BusError, ClosedError

_PACKAGE: Final = "event-streaming-bus"
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUSY: Final = (429, 503)


class Exchange:
    """What talks to the server.

    A request is sent again, within ``retry_for_s``, if it cannot have been carried out (the connection was not made, or the
    server is busy and says when to come again), or if carrying it out twice is as good as once: it reads, or has an idempotency
    key. Until the server has answered for the first time, one that is not there is told at once.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        options = target.options
        headers = {"User-Agent": f"{_PACKAGE}/{version(_PACKAGE)}", "Accept": "application/json"}
        if target.token is not None:
            headers["Authorization"] = f"Bearer {target.token}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(options.answer_timeout_s, connect=options.connect_timeout_s),
            limits=httpx.Limits(
                max_connections=options.max_connections,
                max_keepalive_connections=options.max_idle_connections,
                keepalive_expiry=options.idle_s,
            ),
        )
        self._turns = Semaphore(options.max_at_once)
        self._has_answered = False

    async def answer(self, request: Request) -> bytes:
        """The body of the answer. Raises what the server raised, ``ServerUnreachableError``, and ``ClosedError``."""
        headers = {} if request.tenant_id is None else {TENANT_HEADER: request.tenant_id}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.is_keyed:
            headers[KEY_HEADER] = uuid.uuid4().hex
        deadline_s = time.monotonic() + self.target.options.retry_for_s
        pause_s = _FIRST_PAUSE_S
        doubt: BusError | None = None  # the first failure of a try that may have been carried out
        while True:
            failure: BusError
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - it guards nothing
            try:
                response = await self._sent(request, headers)
            except httpx.RequestError as error:
                is_never_sent = isinstance(error, _NEVER_SENT)
                failure = self._unreachable(request, error, is_never_sent=is_never_sent)
                failure.__cause__ = error
                doubt = doubt or (None if is_never_sent else failure)
                may_repeat = (is_never_sent and self._has_answered) or (
                    not is_never_sent and (request.is_repeatable or request.is_keyed)
                )
            else:
                self._has_answered = True
                if response.status_code < 300:
                    return response.content
                failure, told_s = self._refused(request, response)
                may_repeat = told_s is not None
                if not may_repeat:
                    raise failure
                wait_s += told_s or 0.0  # not less, and others who were told the same come at other times
            if not may_repeat or time.monotonic() + wait_s > deadline_s:
                raise doubt or failure  # that the last try was not carried out says nothing of those before it
            await sleep(wait_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _sent(self, request: Request, headers: dict[str, str]) -> httpx.Response:
        options = self.target.options
        if self._client.is_closed:
            raise ClosedError("The connection to the server is closed.")

        # The pool's own queue takes the longer for each request the longer it is.
        async with nullcontext() if request.more_s else self._turns:
            return await self._client.request(
                request.method,
                self.target.url + request.path,
                content=request.body,
                headers=headers,
                timeout=httpx.Timeout(options.answer_timeout_s + request.more_s, connect=options.connect_timeout_s),
            )

    def _refused(self, request: Request, response: httpx.Response) -> tuple[BusError, float | None]:
        """``(the error, after how long to ask again; None: not at all)``."""
        problem = problem_of(response.status_code, response.content, self.target.url)
        error = error_of(response.status_code, problem)
        if response.status_code == 409 and problem.detail.startswith(KEY_IN_USE):
            return error, 0.0
        told_s = retry_after_s(response.headers.get("Retry-After", ""))
        if response.status_code in _BUSY and told_s is not None:
            return error, told_s
        if response.status_code == 503 and (request.is_repeatable or request.is_keyed):  # it stops, or is about to start
            return error, 0.0
        return error, None

    def _unreachable(self, request: Request, error: httpx.RequestError, *, is_never_sent: bool) -> ServerUnreachableError:
        url = self.target.url
        reason = str(error) or type(error).__name__
        if is_never_sent:
            told = f"The server at {url} cannot be reached: {reason}. Nothing was sent."
        elif isinstance(error, httpx.TimeoutException):
            waited_s = self.target.options.answer_timeout_s + request.more_s
            told = f"The server at {url} has not answered {request.method} {request.path} within {waited_s:g} s."
        else:
            told = f"The connection to {url} was lost during {request.method} {request.path}: {reason}"
        return ServerUnreachableError(told, url=url)

    async def close(self) -> None:
        """Close the connections. Closing twice is harmless."""
        await self._client.aclose()
