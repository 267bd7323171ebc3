"""The Litestar application."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from event_streaming_bus import __version__
from event_streaming_bus.api.confluent.app import mounted
from event_streaming_bus.api.consumer_groups import ConsumerGroupsController
from event_streaming_bus.api.consuming import ConsumingController, join_group
from event_streaming_bus.api.dead_letters import DeadLettersController
from event_streaming_bus.api.docs_page import PlainPage
from event_streaming_bus.api.events import MAX_BATCH_BYTES, EventsController
from event_streaming_bus.api.health import health, live, ready
from event_streaming_bus.api.history import HistoryController
from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.problems import HANDLERS, problem
from event_streaming_bus.api.processors import ProcessorsController
from event_streaming_bus.api.routes import RoutesController
from event_streaming_bus.api.schema_trials import SchemaTrialsController
from event_streaming_bus.api.schemas import SchemasController
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.streams import StreamsController
from event_streaming_bus.errors import InvalidInputError

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_DESCRIPTION: Final = "Publish events to streams, run processors over them, and question their history."
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
}


def _only_for(hosts: frozenset[str]) -> Callable[[Request[Any, Any, Any]], Awaitable[Response[bytes] | None]]:
    """Refuses requests whose Host header names another host."""

    async def check(request: Request[Any, Any, Any]) -> Response[bytes] | None:
        try:
            check_host(request.headers.get("host", ""), hosts)
        except InvalidInputError as error:
            return problem(400, "Bad Request", error.message, request.url.path)
        return None

    return check


async def _secure(response: Response[Any]) -> Response[Any]:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def create_app(services: Services, *, hosts: Sequence[str] = LOOPBACK_HOSTS) -> Litestar:
    """The API over ``services``. Starting it starts the history writer and the processors that were running; stopping it stops
    them. Requests for other ``hosts`` are refused, so that no page elsewhere can reach a server on this machine by a name of
    its own; ``["*"]`` accepts all."""

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncIterator[None]:
        try:
            services.history.start()
            await services.processors.resume()
            yield
        finally:
            await services.consuming.close()
            await asyncio.to_thread(services.close)

    return Litestar(
        route_handlers=[
            health,
            live,
            ready,
            StreamsController,
            EventsController,
            ProcessorsController,
            DeadLettersController,
            ConsumerGroupsController,
            ConsumingController,
            join_group,
            RoutesController,
            HistoryController,
            SchemasController,
            SchemaTrialsController,
            mounted(services.schemas.subjects, hosts=hosts, headers=HEADERS),
        ],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        after_request=_secure,
        lifespan=[running],
        before_request=_only_for(frozenset(hosts)),
        request_max_body_size=MAX_BATCH_BYTES + (1 << 16),
        openapi_config=OpenAPIConfig(
            title="Event Streaming Bus",
            version=__version__,
            description=_DESCRIPTION,
            path="/docs",
            render_plugins=[PlainPage(), JsonRenderPlugin()],
        ),
    )
