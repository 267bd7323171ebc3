"""Consuming over HTTP: join a group, poll with long polling or read an event stream, acknowledge, and leave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.response import Stream

from event_streaming_bus.api.bodies import decode
from event_streaming_bus.api.consuming_hands import Delivery, EventPlace
from event_streaming_bus.api.consuming_sessions import TooManyMembersError, streamed_only
from event_streaming_bus.api.delivered import Polled, delivered
from event_streaming_bus.api.event_stream import Resume, messages
from event_streaming_bus.api.hosted_member import HostedMember
from event_streaming_bus.api.problems import problem
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.checker import Problems, format_path
from event_streaming_bus.flows.retry_policy import RetryPolicy, read_retry_policy
from event_streaming_bus.models import EventPriority

MAX_EVENTS: Final = 5000
MAX_TIMEOUT_MS: Final = 30_000
MAX_UNACKNOWLEDGED: Final = 100_000
_MAX_BODY_BYTES: Final = 1 << 20
_MANY_EVENTS: Final = 1000  # writing so many takes a few milliseconds, which others of the event loop need not wait
_NO_STORE: Final = {"Cache-Control": "no-store"}


class Join(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a member wants to read, by names or ids. Without ``auto_commit`` it acknowledges, and so many events of a lane of a
    partition may be unacknowledged; ``retry`` says how long after a ``nack`` an event comes again."""

    streams: list[str]
    client_id: str = ""
    auto_commit: bool = True
    max_unacknowledged: int = 10_000
    retry: dict[str, Any] | None = None


class Poll(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many events are wanted, and how long to wait for the first of them. ``received``: the ``batch`` of the last answer that
    has arrived; if the last one has not, it is given again."""

    max_events: int = 500
    timeout_ms: int = 0
    received: int | None = None


class Selection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which of the events in hand are meant: by position, by id, or all of a lane up to a position."""

    positions: list[EventPlace] = []
    event_ids: list[str] = []
    up_to: list[EventPlace] | EventPlace = []


class Nack(Selection, kw_only=True, forbid_unknown_fields=True):
    """Events that could not be processed, and why."""

    error: str = ""


class Park(Selection, kw_only=True, forbid_unknown_fields=True):
    """Events that are to be set aside, and why."""

    reason: str


class NamedPartition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A partition of a stream, by its name or id."""

    stream: str
    partition: int


class Partitions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which partitions are meant."""

    partitions: list[NamedPartition]


class Seek(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where to go on: at an ``offset`` of a lane, or ``to`` a place in all that is assigned, or less."""

    stream: str | None = None
    partition: int | None = None
    lane: EventPriority | None = None
    offset: int | None = None
    to: Any = None


def _too_many(request: Request[Any, Any, Any], error: TooManyMembersError) -> Response[bytes]:
    answer = problem(error.status, "TooManyMembers", error.message, request.url.path)
    answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


_PATH: Final = "/api/v1/consumer-groups/{group:str}"
_TAGS: Final = ["consuming"]
_HANDLERS: Final[dict[Any, Any]] = {TooManyMembersError: _too_many}


# Not in the controller, for each controller answers OPTIONS for its paths by itself, and GET of this one is in another.
@post(
    f"{_PATH}/members",
    tags=_TAGS,
    exception_handlers=_HANDLERS,
    summary="Join a group: the server hosts a member for as long as its client is heard of",
)
async def join_group(request: Request[Any, Any, Any], services: Services, group: str) -> dict[str, Any]:
    """A new member, with what it was given and how often to be heard of."""
    wanted = decode(await request.body(), Join, _MAX_BODY_BYTES)
    _check_range("max_unacknowledged", wanted.max_unacknowledged, 1, MAX_UNACKNOWLEDGED)
    member = await services.consuming.join(
        tenant_of(request),
        group,
        wanted.streams,
        client_id=wanted.client_id,
        auto_commit=wanted.auto_commit,
        max_unacknowledged=wanted.max_unacknowledged,
        retry=None if wanted.retry is None else _policy(wanted.retry),
    )
    config = member.group.config
    return {
        **_told(member),
        "heartbeat_interval_ms": config.heartbeat_interval_ms,
        "session_timeout_ms": config.session_timeout_ms,
        "max_poll_interval_ms": config.max_poll_interval_ms,
    }


class ConsumingController(Controller):
    """Consume the events of streams as a member of a consumer group, at least once."""

    path = _PATH
    tags = _TAGS
    exception_handlers = _HANDLERS

    @post("/members/{member:str}/poll", status_code=200, summary="The next events; with timeout_ms, wait for the first of them")
    async def poll(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> Response[bytes]:
        wanted = decode(await request.body() or b"{}", Poll, _MAX_BODY_BYTES)
        _check_range("max_events", wanted.max_events, 1, MAX_EVENTS)
        _check_range("timeout_ms", wanted.timeout_ms, 0, MAX_TIMEOUT_MS)
        sessions = services.consuming
        async with sessions.using(tenant_of(request), group, member) as hosted, watched(request) as is_gone:
            if hosted.is_streamed:
                raise streamed_only(hosted)
            deliveries = await hosted.poll(
                wanted.max_events,
                wanted.timeout_ms / 1000,
                lambda: is_gone() or sessions.is_stopping,
                received=wanted.received,
            )
            is_rebalancing = await hosted.is_rebalancing()

            def written() -> bytes:
                return msgspec.json.encode(
                    Polled(
                        member_id=hosted.member_id,
                        batch=hosted.batch,
                        generation=hosted.generation,
                        is_rebalancing=is_rebalancing,
                        events=delivered(deliveries, hosted.names),
                    )
                )

            body = await asyncio.to_thread(written) if len(deliveries) > _MANY_EVENTS else written()
        return Response(body, media_type="application/json", headers=_NO_STORE)

    @post("/members/{member:str}/ack", status_code=200, summary="Events are done; they are committed within a moment")
    async def ack(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> Response[bytes]:
        wanted = decode(await request.body(), Selection, _MAX_BODY_BYTES)
        return await _act(request, services, group, member, wanted, "acknowledged", HostedMember.ack)

    @post("/members/{member:str}/nack", status_code=200, summary="Events could not be processed: deliver them again, later")
    async def nack(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> Response[bytes]:
        wanted = decode(await request.body(), Nack, _MAX_BODY_BYTES)
        return await _act(request, services, group, member, wanted, "given_back", lambda m, e: m.nack(e, wanted.error))

    @post("/members/{member:str}/park", status_code=200, summary="Set events aside as dead letters")
    async def park(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> Response[bytes]:
        wanted = decode(await request.body(), Park, _MAX_BODY_BYTES)
        return await _act(request, services, group, member, wanted, "parked", lambda m, e: m.park(e, wanted.reason))

    @post("/members/{member:str}/commit", status_code=200, summary="Commit now what is done")
    async def commit(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> dict[str, Any]:
        async with services.consuming.using(tenant_of(request), group, member) as hosted:
            await hosted.commit()
            return _told(hosted) | {"message": "Committed"}

    @post("/members/{member:str}/heartbeat", status_code=200, summary="The client is there, though it does not ask for events")
    async def heartbeat(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> dict[str, Any]:
        async with services.consuming.using(tenant_of(request), group, member) as hosted:
            hosted.check_place()
            return _told(hosted) | {"is_rebalancing": await hosted.is_rebalancing()}

    @post("/members/{member:str}/seek", status_code=200, summary="Go on elsewhere")
    async def seek(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> dict[str, Any]:
        wanted = decode(await request.body(), Seek, _MAX_BODY_BYTES)
        async with services.consuming.using(tenant_of(request), group, member) as hosted:
            splits = await hosted.seek(wanted.stream, wanted.partition, wanted.lane, wanted.offset, wanted.to)
            offsets, names = hosted.offsets(), hosted.names
            return {
                "positions": [
                    {
                        "stream": names[split.stream_id],
                        "partition": split.partition,
                        "lane": split.lane.value,
                        "offset": offsets.get(split),
                    }
                    for split in splits
                ]
            }

    @post("/members/{member:str}/pause", status_code=200, summary="Give nothing of some partitions, until they are resumed")
    async def pause(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> dict[str, Any]:
        return await _set_paused(request, services, group, member, paused=True)

    @post("/members/{member:str}/resume", status_code=200, summary="Go on with paused partitions")
    async def resume(self, request: Request[Any, Any, Any], services: Services, group: str, member: str) -> dict[str, Any]:
        return await _set_paused(request, services, group, member, paused=False)

    @delete("/members/{member:str}", status_code=200, summary="Leave the group; leaving twice is harmless")
    async def leave(
        self, request: Request[Any, Any, Any], services: Services, group: str, member: str, received: int | None = None
    ) -> dict[str, str]:
        await services.consuming.leave(tenant_of(request), group, member, received=received)
        return {"member_id": member, "message": "Left the group"}

    @get("/events", media_type="text/event-stream", summary="The events of streams as server-sent events")
    async def events(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        group: str,
        streams: str = "",
        client_id: str = "",
        ack: str = "auto",
        named: bool = True,
        last_event_id: str = "",
    ) -> Stream:
        wanted = [name.strip() for name in streams.split(",") if name.strip()]
        if not wanted:
            raise InvalidInputError("streams: expected names or ids, with commas between them, as in ?streams=orders,returns")
        if ack not in ("auto", "manual"):
            raise InvalidInputError(f"ack: expected auto or manual, got {ack!r}")
        token = (request.headers.get("Last-Event-ID") or last_event_id) if ack == "auto" else ""
        sessions = services.consuming
        member = await sessions.join(
            tenant_of(request),
            group,
            wanted,
            client_id=client_id,
            auto_commit=ack == "auto",
            is_streamed=True,
            on_assigned=Resume(token) if token else None,
        )
        gone = asyncio.create_task(_disconnected(request))
        gone.add_done_callback(lambda _: sessions.end_soon(member, "its client went away"))
        return Stream(
            messages(sessions, member, gone.done, named=named),
            media_type="text/event-stream",
            headers=_NO_STORE | {"X-Accel-Buffering": "no"},  # proxies are to pass on each message as it comes
        )


async def _act(
    request: Request[Any, Any, Any],
    services: Services,
    group: str,
    member: str,
    wanted: Selection,
    done: str,
    act: Callable[[HostedMember, list[Delivery]], int],
) -> Response[bytes]:
    """Do something with the events that are meant, and tell with how many, and which of them were not in hand."""
    up_to = [wanted.up_to] if isinstance(wanted.up_to, EventPlace) else wanted.up_to
    if not (wanted.positions or wanted.event_ids or up_to):
        raise InvalidInputError("positions, event_ids, up_to: expected at least one event")
    async with services.consuming.using(tenant_of(request), group, member) as hosted:
        events, missing = hosted.chosen(wanted.positions, wanted.event_ids, up_to)
        told = {done: act(hosted, events), "not_in_hand": missing}
    return Response(msgspec.json.encode(told), media_type="application/json", headers=_NO_STORE)


async def _set_paused(
    request: Request[Any, Any, Any], services: Services, group: str, member: str, *, paused: bool
) -> dict[str, Any]:
    wanted = decode(await request.body(), Partitions, _MAX_BODY_BYTES)
    async with services.consuming.using(tenant_of(request), group, member) as hosted:
        hosted.set_paused([(each.stream, each.partition) for each in wanted.partitions], paused=paused)
        return _told(hosted)


def _policy(told: dict[str, Any]) -> RetryPolicy:
    """The pauses before redeliveries. Raises ``InvalidInputError`` with the place."""
    problems = Problems()
    policy = read_retry_policy(told, ("retry",), problems)
    for path, message in problems.found:
        place = format_path(path)
        raise InvalidInputError(f"{place}: {message}", path=place)
    assert isinstance(policy, RetryPolicy)  # noqa: S101 - else there are problems
    return policy


def _told(member: HostedMember) -> dict[str, Any]:
    return {"member_id": member.member_id, "generation": member.generation, "assignment": member.assignment()}


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidInputError(f"{name}: expected {least:,} to {most:,}, got {value:,}", path=name)


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    """Returns once the client has gone away, or has its answer."""
    receive: Callable[[], Awaitable[Any]] = request.receive
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def watched(request: Request[Any, Any, Any]) -> AsyncIterator[Callable[[], bool]]:
    """Tells whether the client has gone away meanwhile. To be used once the body was read."""
    gone = asyncio.create_task(_disconnected(request))
    try:
        yield gone.done
    finally:
        gone.cancel()
