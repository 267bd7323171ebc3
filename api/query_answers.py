"""Answers to questions over HTTP: begun, streamed in the form that was asked for, and given up when the client goes away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from litestar import Request, Response

from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.store.history.asking import Answering, Bounds
from event_streaming_bus.store.history.formats import MEDIA_TYPES, AnswerFormat, written
from event_streaming_bus.store.history.history import History
from event_streaming_bus.store.history.running import MAX_RUNNING

QUERY_ID_HEADER: Final = "X-Query-Id"
# Threads of their own: questions take long, and the server's other work must not wait for them. Those that begin may wait for
# room, so what is read of others has threads that never wait for that.
_BEGINNING: Final = ThreadPoolExecutor(2 * MAX_RUNNING, "esb-query")
_READING: Final = ThreadPoolExecutor(MAX_RUNNING, "esb-answer")
_log: Final = logging.getLogger(__name__)


def format_of(request: Request[Any, Any, Any], chosen: AnswerFormat | None) -> AnswerFormat | None:
    """The form that was asked for, by name or in ``Accept``; JSON if anything will do, None if nothing that there is."""
    if chosen is not None:
        return chosen
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(request.headers.get("accept", "*/*").split(",")):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            wanted.append((-float(quality), place, name))
        except ValueError:
            continue
    for negated, _, name in sorted(wanted):
        if name in ("*/*", "application/*") and negated < 0:
            return AnswerFormat.JSON
        found = next((form for form, media_type in MEDIA_TYPES.items() if media_type == name), None)
        if name == "text/*":
            found = AnswerFormat.CSV
        if found is not None and negated < 0:
            return found
    return None


async def begun(
    request: Request[Any, Any, Any],
    history: History,
    sql: str,
    *,
    tenant_id: str | None,
    parameters: Mapping[str, Any],
    bounds: Bounds,
    query_id: str | None,
) -> Answering:
    """The answer, once it has its first rows. Raises ``QueryError``. A client that goes away meanwhile has it stopped."""
    stop: list[Answering] = []

    def start() -> Answering:
        history.reach()
        return history.ask(sql, tenant_id=tenant_id, parameters=parameters, bounds=bounds, query_id=query_id, begun=stop.append)

    working: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(_BEGINNING, start)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        while not working.done():
            for each in stop:
                each.abandon()
            await asyncio.wait({working}, timeout=0.1)
        answering: Answering = working.result()
        return answering
    except asyncio.CancelledError:
        working.add_done_callback(lambda ended: None if ended.cancelled() or ended.exception() else ended.result().close())
        for each in stop:
            each.abandon()
        raise
    finally:
        gone.cancel()


class AnswerResponse(Response[bytes]):
    """An answer in a form, as a stream. One that cannot be given to its end is broken off, so that nobody takes it for whole."""

    def __init__(self, answering: Answering, form: AnswerFormat) -> None:
        super().__init__(
            b"",
            media_type=MEDIA_TYPES[form],
            headers={QUERY_ID_HEADER: _header(answering.query_id), "Cache-Control": "no-store"},
        )
        self._answering = answering
        self._form = form

    def to_asgi_response(self, *args: Any, **given: Any) -> Any:
        made = super().to_asgi_response(*args, **given)
        headers = [(name, value) for name, value in made.encode_headers() if name != b"content-length"]
        return partial(_sent, self._answering, self._form, made.status_code, headers)


async def _sent(
    answering: Answering,
    form: AnswerFormat,
    status: int,
    headers: list[tuple[bytes, bytes]],
    scope: Any,
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    pieces = written(form, answering.schema, answering.batches(), lambda: answering.is_truncated)
    loop = asyncio.get_running_loop()
    gone = asyncio.ensure_future(_gone(receive))
    gone.add_done_callback(lambda ended: None if ended.cancelled() else answering.abandon())
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while (piece := await loop.run_in_executor(_READING, _next, pieces)) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except BusError as error:
        if not gone.done():
            _log.warning("the answer to query %s was broken off: %s", answering.query_id, error.message)
    except asyncio.CancelledError:
        answering.abandon()
        raise
    finally:
        gone.cancel()
        # Not awaited: whoever closed the connection, or shuts down, does not wait for what is being fetched to stop.
        loop.run_in_executor(_READING, answering.close)


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _header(text: str) -> str:
    """A text for a header, which has no room for others than these."""
    if not text.isascii():
        raise InvalidInputError("query_id: expected ASCII characters")
    return text
