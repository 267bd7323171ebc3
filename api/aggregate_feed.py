"""The events of all aggregates over REST, in the order in which they were recorded, and the types that there are."""

import asyncio
from typing import Any, Final

import msgspec
from litestar import Controller, Request, get

from event_streaming_bus.api.consuming import watched
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.tenancy import tenant_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.sourcing.plain import event_data
from event_streaming_bus.store.recorded import EventQuery

MAX_EVENTS: Final = 1000
MAX_TIMEOUT_MS: Final = 30_000
_LOOK_S: Final = 1.0  # how long it may take to notice that the client is gone, or that the server stops


class AggregateFeedController(Controller):
    """Follow what is recorded in aggregates."""

    path = "/api/v1/event-sourcing"
    tags = ["event sourcing"]  # noqa: RUF012 - as the base class has it

    @get("/types", summary="The types of aggregates that there are, or that a retention was set for")
    async def types(self, request: Request[Any, Any, Any], services: Services) -> dict[str, Any]:
        return {"aggregate_types": await services.sourcing.list_types(tenant_of(request))}

    @get("/events", summary="A page of the events of all aggregates, in the order in which they were recorded")
    async def events(
        self,
        request: Request[Any, Any, Any],
        services: Services,
        aggregate_types: list[str] | None = None,
        event_types: list[str] | None = None,
        aggregate_ids: list[str] | None = None,
        where: str | None = None,
        after_position: int = 0,
        limit: int = 100,
        timeout_ms: int = 0,
    ) -> dict[str, Any]:
        if not 0 <= timeout_ms <= MAX_TIMEOUT_MS:
            raise InvalidInputError(f"timeout_ms: expected 0 to {MAX_TIMEOUT_MS:,}, got {timeout_ms:,}", path="timeout_ms")
        query = EventQuery(
            aggregate_types=_chosen(aggregate_types),
            event_types=_chosen(event_types),
            aggregate_ids=_chosen(aggregate_ids),
            where=None if where is None else _fields(where),
        )
        tenant_id, loop = tenant_of(request), asyncio.get_running_loop()
        until_s = loop.time() + timeout_ms / 1000
        services.consuming.watch_for_the_end()
        async with watched(request) as is_gone:
            while True:
                seen = services.log_watch.version()
                page = await services.sourcing.read(query, tenant_id, after_position=after_position, limit=min(limit, MAX_EVENTS))
                left_s = until_s - loop.time()
                if page.events or left_s <= 0 or is_gone() or services.consuming.is_stopping:
                    break
                after_position = page.position
                if page.is_end:
                    await services.log_watch.wait(seen, min(left_s, _LOOK_S))
        return {"events": list(map(event_data, page.events)), "position": page.position, "is_end": page.is_end}


def _chosen(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _fields(text: str) -> dict[str, Any]:
    """The payload fields that ``where`` asks for. Raises ``InvalidInputError``."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, str | int | float | bool | None])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidInputError(
            f'where: expected a JSON object of fields of the payload with scalars, such as {{"owner":"ann"}}: {error}',
            path="where",
        ) from None
    return dict(fields)
