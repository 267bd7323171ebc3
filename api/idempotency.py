"""Requests with the header ``Idempotency-Key``: sent again, they are answered as before, and nothing is done again.

What is published or appended takes its event ids from the key and the body, so it is there once even if the server was killed
before its answer was kept. All else that takes a key is made once by nature: making it again with the same settings returns it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from litestar import Request, Response

from event_streaming_bus.api.asgi import App, HeldAnswer, Send, body_of, headers_of, respond
from event_streaming_bus.api.audited_actions import API
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import BusError
from event_streaming_bus.store.idempotency import IdempotencyStore, KeptAnswer

HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"
MAX_KEY_CHARS: Final = 255
ROUTES: Final = frozenset(
    f"{API}{path}"
    for path in (
        *("streams", "events", "events/batch", "stream-processors", "consumer-groups", "schemas/enhanced", "erasures"),
        *("event-sourcing/append", "event-sourcing/append-batch"),
    )
)
"""The routes that take a key, all with POST. A new token is not among them: its secret is kept nowhere."""
_STATE: Final = "idempotency_origin"
_KEEPING: Final = ThreadPoolExecutor(4, "esb-idempotency")  # publishers wait here for the disk, and nobody else for them
_log: Final = logging.getLogger(__name__)


def origin_of(request: Request[Any, Any, Any]) -> str | None:
    """What names the request, if it came with a key: the same for the same request of the tenant's, and for no other."""
    origin: str | None = (request.scope.get("state") or {}).get(_STATE)
    return origin


def derived_event_id(request: Request[Any, Any, Any], number: int) -> str | None:
    """The id of the request's event ``number``, if it came with a key: the same for the same request."""
    origin = origin_of(request)
    return None if origin is None else f"idem_{origin}_{number}"


def idempotent(store: IdempotencyStore, *, max_body_bytes: int, headers: Mapping[str, str]) -> Callable[[App], App]:
    """The middleware. It must be within the one that authenticates. ``headers`` go with what it answers itself."""
    in_flight: set[tuple[str, str, str]] = set()

    def wrap(app: App) -> App:
        async def once(scope: Any, receive: Any, send: Send) -> None:
            route = scope.get("path_template") or ""
            keys = headers_of(scope, HEADER) if scope["type"] == "http" and scope["method"] == "POST" else []
            if not keys or route not in ROUTES:
                await app(scope, receive, send)
                return
            key = keys[0]
            if len(keys) > 1 or not 1 <= len(key) <= MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
                told = f"{HEADER}: expected one key of 1 to {MAX_KEY_CHARS} printable ASCII characters"
                await respond(problem(400, "InvalidInput", told, scope["path"]), headers, scope, receive, send)
                return
            body, receive = await body_of(receive, max_body_bytes)
            if len(body) > max_body_bytes:  # whoever reads it refuses it
                await app(scope, receive, send)
                return
            place = (tenant_of(Request(scope)), route, key)
            if place in in_flight:
                told = f"{HEADER}: the request with this key is being worked on; try again when it is done"
                await respond(problem(409, "InUse", told, scope["path"]), headers, scope, receive, send)
                return
            in_flight.add(place)
            try:
                await _answered_once(store, place, body, app, headers, scope, receive, send)
            finally:
                in_flight.discard(place)

        return once

    return wrap


async def _answered_once(
    store: IdempotencyStore,
    place: tuple[str, str, str],
    body: bytes,
    app: App,
    headers: Mapping[str, str],
    scope: Any,
    receive: Any,
    send: Send,
) -> None:
    asked = hashlib.sha256(scope.get("query_string", b"") + b"\n" + body).hexdigest()
    loop = asyncio.get_running_loop()
    kept = await loop.run_in_executor(_KEEPING, store.find, *place)
    if kept is not None and kept.request_hash != asked:
        told = f"{HEADER}: this key came with another request before; a new request needs a new key"
        await respond(problem(422, "KeyReused", told, scope["path"]), headers, scope, receive, send)
        return
    if kept is not None and kept.body is not None:
        again: Response[bytes] = Response(kept.body, status_code=kept.status, media_type=kept.content_type)
        await respond(again, {**headers, REPLAYED_HEADER: "true"}, scope, receive, send)
        return
    scope.setdefault("state", {})[_STATE] = hashlib.sha256("\0".join((*place, asked)).encode()).hexdigest()[:32]
    answer = HeldAnswer()
    await app(scope, receive, answer.take)
    if 200 <= answer.status < 300:
        try:
            given = KeptAnswer(asked, answer.status, answer.content_type, answer.body)
            await loop.run_in_executor(_KEEPING, store.keep, *place, given)
        except BusError as error:  # it is done, and would be answered alike if it were asked again
            _log.error("the answer to a request with an idempotency key could not be kept: %s", error.message)
    await answer.release(send)
