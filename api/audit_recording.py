"""Recording requests in the audit: every management action, however it ended, and whatever was refused to anybody.

The answer to a management action is held back until its entry is on disk. If it cannot be written, the answer says so, and
nothing more is managed until it can: an entry that tells of the gap is tried first. A process that is killed between an action
and its entry leaves the action without one.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from litestar import Request, Response

from event_streaming_bus import ids
from event_streaming_bus.access.tokens import TokenService, token_data
from event_streaming_bus.api.audited_actions import Told, is_preview, made, made_together, names_of, told
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.tenancy import actor_of, tenant_of
from event_streaming_bus.audit.describing import describe
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.errors import BusError, NotFoundError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.audit_entries import Outcome
from event_streaming_bus.store.storage import Storage

Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]

REQUEST_ID_HEADER: Final = "X-Request-Id"
REPEATS_S: Final = 60.0
MAX_CALLERS: Final = 1000
_REFUSALS: Final = frozenset({401, 403, 429})
_REQUEST_ID: Final = re.compile(r"[\w.:-]{1,100}")
_MAX_BODY_BYTES: Final = 1 << 16
_log: Final = logging.getLogger(__name__)


class _Caller(NamedTuple):
    address: str
    actor: str
    action: str
    status: int


class Repeats:
    """Refusals of the same caller for the same thing: the first is told at once, those of the minute after it together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[_Caller, tuple[float, int, dict[str, Any]]] = {}
        self._looked_at = 0.0

    def due(self, caller: _Caller, what: dict[str, Any]) -> list[dict[str, Any]]:
        """What is to be written now that this was refused."""
        now = time.monotonic()
        with self._lock:
            written = []
            if now - self._looked_at >= 1:  # not each time: whoever is refused a lot must not cost a lot
                self._looked_at, written = now, self._taken(lambda since: now - since >= REPEATS_S)
            if caller not in self._seen and len(self._seen) >= MAX_CALLERS:
                caller, what = _Caller("", "", "many", 0), what | {"target": "", "reason": "more callers than are told apart"}
            if caller in self._seen:
                since, count, _ = self._seen[caller]
                self._seen[caller] = since, count + 1, what
            else:
                self._seen[caller] = now, 0, what
                written.append(what)
        return written

    def rest(self) -> list[dict[str, Any]]:
        """What was not told yet."""
        with self._lock:
            return self._taken(lambda since: True)

    def _taken(self, is_over: Callable[[float], bool]) -> list[dict[str, Any]]:
        over = [caller for caller, (since, _, _) in self._seen.items() if is_over(since)]
        counted = [self._seen.pop(caller) for caller in over]
        return [what | {"repeated": count} for _, count, what in counted if count]


class Recorder:
    """Writes what requests did. One for each app."""

    def __init__(self, storage: Storage, audit: AuditService, tokens: TokenService) -> None:
        self._storage = storage
        self._audit = audit
        self._tokens = tokens
        self._repeats = Repeats()
        self._is_failing = False

    async def close(self) -> None:
        """Write what was counted and not told yet."""
        await self._write(self._repeats.rest())

    async def can_write(self) -> bool:
        """Whether actions can be recorded; after a failure it tries, with an entry that tells of it."""
        if self._is_failing:
            gap: dict[str, Any] = {"action": "audit.gap", "tenant_id": DEFAULT_TENANT, "actor": "server"}
            await self._write([gap | {"outcome": Outcome.FAILED, "reason": "entries before this one could not be written"}])
        return not self._is_failing

    async def describe(self, request: Told, tenant_id: str, target: str) -> Any:
        """What the thing that a request is about is like."""
        try:
            if request.noun == "token" and target:
                return token_data(await asyncio.to_thread(self._tokens.find, target, tenant_id))
            return await asyncio.to_thread(describe, self._storage, request.noun, tenant_id, target)
        except NotFoundError:
            return None
        except BusError as error:
            return {"unknown": error.message}

    async def write(self, what: dict[str, Any]) -> bool:
        """Whether this was written."""
        return await self._write([what])

    async def refused(self, status: int, what: dict[str, Any]) -> None:
        """Write that something was refused, or count it with others of its kind."""
        caller = _Caller(what["address"] or "", what["token_id"] or what["actor"], what["action"], status)
        await self._write(self._repeats.due(caller, what))

    async def _write(self, whats: list[dict[str, Any]]) -> bool:
        try:
            for what in whats:
                await self._audit.note(**what)
        except BusError as error:
            _log.error("the audit could not be written: %s", error.message)
            self._is_failing = True
        else:
            self._is_failing = False if whats else self._is_failing
        return not self._is_failing


def recording(recorder: Recorder) -> Callable[[App], App]:
    """The middleware. It must be within the one that authenticates, which tells the recorder itself what it refuses."""

    def wrap(app: App) -> App:
        async def recorded(scope: Any, receive: Any, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            request = told(scope)
            if request.is_management:
                await _managed(recorder, request, app, scope, receive, send)
            else:
                await _watched(recorder, request, app, scope, receive, send)

        return recorded

    return wrap


async def _watched(recorder: Recorder, request: Told, app: App, scope: Any, receive: Any, send: Send) -> None:
    """Let a request through, and note if it was refused."""
    answer = _Answer(send, is_held=False)
    await app(scope, receive, answer.take)
    if answer.status in _REFUSALS:
        await recorder.refused(answer.status, what_of(scope, request, answer.status, answer.detail()))


async def _managed(recorder: Recorder, request: Told, app: App, scope: Any, receive: Any, send: Send) -> None:
    if not await recorder.can_write():
        told_so = "Nothing is managed while the audit cannot be written; the server's log has the reason."
        await _respond(problem(503, "AuditUnavailable", told_so, scope["path"]), scope, receive, send)
        return
    answer, asked = _Answer(send, is_held=True), _Asked(receive)
    before = await recorder.describe(request, tenant_of(Request(scope)), request.target)
    try:
        await app(scope, asked.receive, answer.take)
    except BaseException:
        answer.status = answer.status or 500
        await recorder.write(what_of(scope, request, answer.status, answer.detail()))
        raise
    if is_preview(scope) and answer.status not in _REFUSALS:
        await answer.release(what_of(scope, request, answer.status, "")["request_id"])
        return
    what = what_of(scope, request, answer.status, answer.detail())
    if what["outcome"] is Outcome.DONE:
        content = answer.content()
        several = [] if request.target else made_together(content)
        what["target"] = request.target or made(content) or names_of(several)
        what["before"] = before
        what["after"] = several or await recorder.describe(request, what["tenant_id"], what["target"])
    elif not request.target:
        what["target"] = made(asked.content())
    if answer.status in _REFUSALS:
        await recorder.refused(answer.status, what)
    elif not await recorder.write(what):
        done = "was carried out" if what["outcome"] is Outcome.DONE else "was not carried out"
        told_so = f"The request {done}, but could not be written into the audit; the server's log has the reason."
        await _respond(problem(500, "AuditUnavailable", told_so, scope["path"]), scope, receive, send)
        return
    await answer.release(what["request_id"])


def what_of(scope: Any, request: Told, status: int, detail: str) -> dict[str, Any]:
    """What is recorded of a request that was answered with this status."""
    outcome = Outcome.DONE if status < 400 else Outcome.REFUSED if status < 500 else Outcome.FAILED
    actor, token_id = actor_of(scope)
    asked: Request[Any, Any, Any] = Request(scope)
    given = asked.headers.get(REQUEST_ID_HEADER, "")
    return {
        "action": request.action,
        "tenant_id": tenant_of(asked),
        "actor": actor,
        "token_id": token_id,
        "address": (scope.get("client") or (None,))[0],
        "target": request.target,
        "outcome": outcome,
        "reason": None if outcome is Outcome.DONE else f"{status}: {detail}",
        "request_id": given if _REQUEST_ID.fullmatch(given) else ids.new_id("req_"),
    }


class _Asked:
    """The request's body on its way in: the names in it tell what should have been made. Nothing else of it is kept."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._body = bytearray()

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._body += message.get("body", b"")[: _MAX_BODY_BYTES - len(self._body)]
        return message

    def content(self) -> Any:
        """The request's JSON, if it is some."""
        return _json(self._body)


class _Answer:
    """The answer on its way out: passed on, or held back until it may go."""

    def __init__(self, send: Send, *, is_held: bool) -> None:
        self.status = 0
        self._send = send
        self._is_held = is_held
        self._held: list[Any] = []
        self._body = bytearray()

    async def take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and (self._is_held or self.status in _REFUSALS):
            self._body += message.get("body", b"")[: _MAX_BODY_BYTES - len(self._body)]
        if self._is_held:
            self._held.append(message)
        else:
            await self._send(message)

    async def release(self, request_id: str) -> None:
        for message in self._held:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER.lower().encode(), request_id.encode())]
            await self._send(message)

    def content(self) -> Any:
        """The answer's JSON, if it is some."""
        return _json(self._body)

    def detail(self) -> str:
        """Why a request was refused, as its answer says."""
        content = self.content()
        found = content.get("detail") or content.get("message") if isinstance(content, dict) else None
        return str(found or "")


def _json(data: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _respond(answer: Response[bytes], scope: Any, receive: Any, send: Send) -> None:
    await answer.to_asgi_response(None, Request(scope))(scope, receive, send)
