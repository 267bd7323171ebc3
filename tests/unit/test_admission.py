"""What a request has to find room for, and what is told to whoever finds none."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from event_streaming_bus.api import admission
from event_streaming_bus.api.admission import Admission
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.lanes import NEVER_REFUSED, lane_of
from event_streaming_bus.api.load import LONGEST_WAIT_S, MIN_BUFFERED_BYTES, Limit, Load, LoadLimits
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.storage import open_storage

PUBLISHING = "/api/v1/events"
MOST = 1 << 20


class Server:
    """An application that is admitted to: it reads the body and answers 200, once it may."""

    def __init__(self, **limits: Any) -> None:
        self.load = Load(LoadLimits(**limits))
        self.may_answer = asyncio.Event()
        self.bodies: list[int] = []
        self.at_work = self.most_at_work = 0
        self._admission = Admission(self.load, self._answer, max_body_bytes=MOST, headers={"X-Ours": "yes"})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.bodies.append(size)
        await self.may_answer.wait()
        self.at_work -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask(self, path: str, *parts: bytes, length: int | None = None, gone: bool = False, chunked: bool = False) -> Any:
        """``(status, headers, problem)`` of a request whose body comes in these parts, and then no more if ``length`` is more."""
        size = sum(map(len, parts)) if length is None else length
        told_size = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % size)
        headers, method = [(b"host", b"localhost"), told_size], "POST"
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "state": {}}
        coming = [
            {"type": "http.request", "body": part, "more_body": i < len(parts) or size > sum(map(len, parts))}
            for i, part in enumerate(parts, 1)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            if coming:
                return coming.pop(0)
            if gone:
                return {"type": "http.disconnect"}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self._admission(scope, receive, send)
        if not sent:
            return None
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], told, msgspec.json.decode(sent[1]["body"])

    async def busy(self, path: str, count: int) -> list["asyncio.Task[Any]"]:
        """So many requests that are being worked on, or wait."""
        tasks = [asyncio.create_task(self.ask(path, b"{}")) for _ in range(count)]
        for _ in range(20):
            await asyncio.sleep(0)
        return tasks


async def test_who_finds_no_room_is_told_when_to_come_again_and_what_would_make_room() -> None:
    server = Server(max_requests=3)
    tasks = await server.busy(PUBLISHING, 3)
    status, headers, told = await server.ask(PUBLISHING, b"{}")
    assert (status, headers["content-type"], headers["x-ours"]) == (503, "application/problem+json", "yes")
    assert 1 <= int(headers["retry-after"]) <= LONGEST_WAIT_S
    assert told["retry_after_s"] == int(headers["retry-after"])
    assert (told["title"], told["limit"], told["maximum"], told["raised_by"]) == (
        *("Overloaded", "publishing"),
        *(3, "--max-requests"),
    )
    assert server.bodies == [2, 2, 2]
    server.may_answer.set()
    assert [(await task)[0] for task in tasks] == [200] * 3
    assert (await server.ask(PUBLISHING, b"{}"))[0] == 200
    assert server.load.told()["refused"]["publishing"] == 1
    assert server.load.publishing.in_flight == 0


async def test_publishers_take_no_room_from_others_and_health_is_never_refused() -> None:
    server = Server(max_requests=1)
    await server.busy(PUBLISHING, 1)
    server.may_answer.set()
    for path in ("/api/v1/streams", "/docs", "/api/v1/consumer-groups/g/members/m/poll", "/api/v1/history/query", *NEVER_REFUSED):
        assert (await server.ask(path, b"{}"))[0] == 200


async def test_a_body_that_there_is_no_room_for_is_refused_before_it_is_read() -> None:
    server = Server(max_buffered_bytes=MIN_BUFFERED_BYTES)
    tasks = [asyncio.create_task(server.ask(PUBLISHING, b"x" * MOST)) for _ in range(MIN_BUFFERED_BYTES // MOST)]
    await asyncio.sleep(0.05)
    assert server.load.buffered_bytes == MIN_BUFFERED_BYTES
    status, headers, told = await server.ask(PUBLISHING, b"", length=10)
    assert (status, told["limit"], told["raised_by"]) == (503, "buffered_bytes", "--max-buffered-mb")
    assert "retry-after" in headers
    server.may_answer.set()
    await asyncio.gather(*tasks)
    assert server.load.buffered_bytes == 0


async def test_a_body_of_unknown_length_is_refused_when_the_room_is_used_up() -> None:
    server = Server(max_buffered_bytes=MIN_BUFFERED_BYTES)
    tasks = [asyncio.create_task(server.ask(PUBLISHING, b"x" * MOST)) for _ in range(MIN_BUFFERED_BYTES // MOST)]
    await asyncio.sleep(0.05)
    status, _, told = await server.ask(PUBLISHING, b"x", b"y" * 10, b"z", chunked=True)
    assert (status, told["limit"]) == (503, "buffered_bytes")
    server.may_answer.set()
    await asyncio.gather(*tasks)
    assert server.load.buffered_bytes == 0


async def test_a_body_that_does_not_come_is_given_up_and_takes_no_place_meanwhile() -> None:
    server = Server(stall_s=0.1, max_requests=1)
    slow = asyncio.create_task(server.ask(PUBLISHING, b"{", length=100))
    await asyncio.sleep(0.02)
    assert (server.load.publishing.in_flight, server.load.buffered_bytes) == (0, 1)
    server.may_answer.set()
    assert (await server.ask(PUBLISHING, b"{}"))[0] == 200
    status, headers, told = await slow
    assert (status, headers["connection"], told["title"]) == (408, "close", "Request Timeout")
    assert (server.load.buffered_bytes, server.bodies) == (0, [2])


async def test_nothing_is_done_for_a_client_that_went_away_before_its_body_was_there() -> None:
    server = Server()
    assert await server.ask(PUBLISHING, b"{", length=100, gone=True) is None
    assert (server.bodies, server.load.buffered_bytes, server.load.publishing.in_flight) == ([], 0, 0)


async def test_of_a_body_that_is_too_long_no_more_is_held_than_anybody_may_send() -> None:
    server = Server()
    server.may_answer.set()
    parts = [b"x" * (MOST // 2)] * 8
    assert (await server.ask(PUBLISHING, *parts))[0] == 200
    assert server.bodies == [4 * MOST], "whoever refuses it gets all of it"


@pytest.mark.parametrize(("path", "lane"), [("/api/v1/events/evt_1", "history"), ("/api/v1/streams", "changing")])
async def test_what_may_get_stuck_in_threads_waits_for_a_place(path: str, lane: str) -> None:
    server = Server()
    tasks = await server.busy(path, 50)
    assert (server.most_at_work, server.load.told()["requests"][lane]) == (6, 50)
    server.may_answer.set()
    assert {(await task)[0] for task in tasks} == {200}
    assert server.most_at_work == 6


async def test_who_waits_for_a_place_in_vain_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PLACE_S", 0.05)
    server = Server()
    tasks = await server.busy("/api/v1/events/evt_1", 6)
    status, headers, told = await server.ask("/api/v1/events/evt_1", b"{}")
    assert (status, told["limit"], server.load.history.in_flight) == (503, "history", 6)
    assert "stuck" in told["detail"]
    assert "retry-after" in headers
    server.may_answer.set()
    assert {(await task)[0] for task in tasks} == {200}


def test_those_who_are_refused_come_again_in_portions_that_can_be_served() -> None:
    limit = Limit("publishing", 10, "--max-requests", usual=10)
    first = [limit.refuse() for _ in range(10)]
    assert max(first) <= 2
    later = [limit.refuse() for _ in range(90)]
    assert max(later) <= LONGEST_WAIT_S
    assert len(set(later[45:])) > 3, "all of them at once would be refused once more"
    assert limit.refused == 100


@pytest.mark.parametrize("limits", [{"max_requests": 0}, {"max_connections": 0}, {"max_buffered_bytes": 1}, {"stall_s": 0}])
def test_limits_that_let_nothing_through_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(limits))):
        LoadLimits(**limits)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, str]]]:
    """``(method, path)`` of every route."""
    storage = open_storage(tmp_path_factory.mktemp("data"))
    services = Services(storage)
    app = create_app(services)
    yield [
        (method, re.sub(r"\{[^}]*\}", "some", route.path))
        for route in app.routes
        if hasattr(route, "route_handler_map") or hasattr(route, "route_handlers")
        for handler in route.route_handlers
        for method in sorted(getattr(handler, "http_methods", ()))
    ]
    services.close()
    storage.close()


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
def test_every_route_has_its_lane(routes: list[tuple[str, str]]) -> None:
    load = Load()
    lanes: dict[str, set[str]] = {}
    for method, path in routes:
        lane = lane_of({"type": "http", "method": method, "path": path}, load)
        lanes.setdefault("none" if lane is None else lane.name, set()).add(f"{method} {path}")
    assert {path.partition(" ")[2] for path in lanes["none"]} == set(NEVER_REFUSED)
    assert lanes["publishing"] == {
        f"POST /api/v1/{path}" for path in ("events", "events/batch", "event-sourcing/append", "event-sourcing/append-batch")
    }
    members = "/api/v1/consumer-groups/some/members"
    assert {f"POST {members}", f"POST {members}/some/poll", "GET /api/v1/consumer-groups/some/events"} <= lanes["consuming"]
    assert {"GET /api/v1/events/some", "GET /api/v1/events/some/story", "POST /api/v1/dead-letters/retry"} <= lanes["history"]
    asked = {path for path in lanes["questions"] if path.startswith("POST")}
    assert asked == {"POST /api/v1/history/query", "POST /api/v1/history/saved-queries/some/run"}
    assert {"POST /api/v1/streams", "POST /api/v1/flows/validate", "DELETE /api/v1/streams/some"} <= lanes["changing"]
    assert {"GET /api/v1/streams", "GET /api/v1/dead-letters", f"GET {members.removesuffix('/members')}"} <= lanes["looking"]
