"""Admission: what a request has to find room for before it is worked on, and what is told to whoever finds none.

Nothing was done of what is refused here, so it is safe to send it again. Bodies are read before they take a place in a lane: who
sends slowly takes no room from others but for the bytes that have come.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.api.asgi import App, Receive, Send, respond
from event_streaming_bus.api.incoming_body import IncomingBody
from event_streaming_bus.api.lanes import lane_of
from event_streaming_bus.api.load import Lane, Limit, Load, problem_members
from event_streaming_bus.api.problems import PROBLEM, UNAVAILABLE, problem, problem_document

PLACE_S: Final = 10.0
"""How long a request waits for a place among those that are worked on at once."""


class Admission:
    """Lets requests through to ``app`` as long as there is room for them."""

    def __init__(self, load: Load, app: App, *, max_body_bytes: int, headers: Mapping[str, str]) -> None:
        """Of a body that is longer than ``max_body_bytes`` no more is held: ``app`` refuses it. ``headers`` go with what is
        answered here."""
        self._load = load
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._headers = dict(headers)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        lane = lane_of(scope, self._load)
        if lane is None:
            await self._app(scope, receive, send)
            return
        body = IncomingBody(self._load, scope, receive, self._max_body_bytes)
        try:
            if lane.is_full() or not body.has_room():
                await self._refuse(lane, scope, receive, send)
                return
            if body.is_there and not await body.read():
                await self._refuse_body(body, scope, receive, send)
                return
            if lane.is_full():
                await self._refuse(lane, scope, receive, send)
                return
            if not await self._worked_on(lane, body, scope, send):
                told = (
                    f"For {PLACE_S:g} s there was no place among the requests of its kind ({lane.name}), which are slow or stuck"
                )
                await refuse(lane, told, scope["path"], self._headers, send)
        finally:
            body.release()

    async def _worked_on(self, lane: Lane, body: IncomingBody, scope: Any, send: Send) -> bool:
        """Whether there was a place for it in time."""
        lane.in_flight += 1
        try:
            await lane.turns.come(body.size)
            if lane.places is None:
                await self._app(scope, body.receive, send)
                return True
            try:
                async with asyncio.timeout(PLACE_S):
                    await lane.places.acquire()
            except TimeoutError:
                return False
            try:
                await self._app(scope, body.receive, send)
            finally:
                lane.places.release()
            return True
        finally:
            lane.in_flight -= 1
            lane.served += 1

    async def _refuse(self, lane: Lane, scope: Any, receive: Receive, send: Send) -> None:
        if lane.is_full():
            told = f"The server works on {lane.most:,} requests of this kind ({lane.name}), and takes on no more"
            await refuse(lane, told, scope["path"], self._headers, send)
        else:
            await self._refuse_for_bytes(scope, send)

    async def _refuse_body(self, body: IncomingBody, scope: Any, receive: Receive, send: Send) -> None:
        if body.is_gone:
            return
        if not body.is_stalled:
            await self._refuse_for_bytes(scope, send)
            return
        told = f"The body of the request has not come within {self._load.limits.stall_s:g} s, or comes too slowly."
        answer = problem(408, "Request Timeout", told, scope["path"])
        await respond(answer, {**self._headers, "Connection": "close"}, scope, receive, send)

    async def _refuse_for_bytes(self, scope: Any, send: Send) -> None:
        most = self._load.limits.max_buffered_bytes
        told = f"The server holds {self._load.buffered_bytes:,} of at most {most:,} bytes of requests, and takes on no more"
        await refuse(self._load.buffering, told, scope["path"], self._headers, send)


async def refuse(limit: Limit, told: str, path: str, headers: dict[str, str], send: Send) -> None:
    """Answer a request that met a limit: 503, with when to come again. It is counted. In an overload this is done more often than
    anything else, so it takes the shortest way."""
    wait_s = limit.refuse()
    detail = f"{told}. Nothing of this request was done; send it again in {wait_s} s. esb serve {limit.option} raises the limit."
    document = problem_document(UNAVAILABLE, "Overloaded", detail, path, **problem_members(limit, wait_s))
    body = msgspec.json.encode(document)
    more = {"content-type": PROBLEM, "content-length": str(len(body)), "retry-after": str(wait_s), "cache-control": "no-store"}
    told_headers = [(name.lower().encode(), value.encode()) for name, value in (headers | more).items()]
    await send({"type": "http.response.start", "status": UNAVAILABLE, "headers": told_headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
