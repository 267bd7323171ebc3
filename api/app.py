"""The Litestar application."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from event_streaming_bus import __version__
from event_streaming_bus.api.access import Access, guarding
from event_streaming_bus.api.admission import Admission
from event_streaming_bus.api.aggregate_feed import AggregateFeedController
from event_streaming_bus.api.aggregate_lifecycle import AggregateLifecycleController
from event_streaming_bus.api.aggregate_paths import keep_ids
from event_streaming_bus.api.asyncapi import asyncapi
from event_streaming_bus.api.audit import AuditController
from event_streaming_bus.api.audit_recording import Recorder, recording
from event_streaming_bus.api.confluent.app import mounted
from event_streaming_bus.api.consumer_groups import ConsumerGroupsController
from event_streaming_bus.api.consuming import ConsumingController, join_group
from event_streaming_bus.api.correlation import CorrelationController
from event_streaming_bus.api.dead_letters import DeadLettersController
from event_streaming_bus.api.direct_publishing import DirectPublishing
from event_streaming_bus.api.docs_page import PlainPage
from event_streaming_bus.api.erasure import ErasuresController
from event_streaming_bus.api.event_sourcing import EventSourcingController
from event_streaming_bus.api.events import MAX_BATCH_BYTES, EventsController
from event_streaming_bus.api.flows import FlowsController
from event_streaming_bus.api.health import health, live, ready
from event_streaming_bus.api.history import HistoryController
from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.idempotency import idempotent
from event_streaming_bus.api.leading import lead_when_elected
from event_streaming_bus.api.load import WORKERS
from event_streaming_bus.api.metrics import counting_refusals, metrics
from event_streaming_bus.api.monitoring import monitoring_socket
from event_streaming_bus.api.openapi.document import CompleteDocument
from event_streaming_bus.api.preconditions import conditional
from event_streaming_bus.api.problems import HANDLERS, problem
from event_streaming_bus.api.processors import ProcessorsController
from event_streaming_bus.api.projections import ProjectionsController
from event_streaming_bus.api.query_parameters import check_query
from event_streaming_bus.api.routes import RoutesController
from event_streaming_bus.api.saved_queries import SavedQueriesController
from event_streaming_bus.api.scheduled import ScheduledController
from event_streaming_bus.api.schema_trials import SchemaTrialsController
from event_streaming_bus.api.schemas import SchemasController
from event_streaming_bus.api.services import Services
from event_streaming_bus.api.settings import SettingsController
from event_streaming_bus.api.story import StoryController
from event_streaming_bus.api.stream_events import StreamEventsController
from event_streaming_bus.api.streams import StreamsController
from event_streaming_bus.api.tokens import TokensController
from event_streaming_bus.api.web_page import Page
from event_streaming_bus.errors import InvalidInputError

if TYPE_CHECKING:
    from event_streaming_bus.api.forwarding import Forwarding

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_MAX_BODY_BYTES: Final = MAX_BATCH_BYTES + (1 << 16)
_DESCRIPTION: Final = "Publish events to streams, run processors over them, and question their history."
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
}


def _only_for(hosts: frozenset[str]) -> Callable[[Request[Any, Any, Any]], Awaitable[Response[bytes] | None]]:
    """Refuses requests whose Host header names another host, and those with query parameters that nobody would look at."""

    async def check(request: Request[Any, Any, Any]) -> Response[bytes] | None:
        try:
            check_host(request.headers.get("host", ""), hosts)
            check_query(request)
        except InvalidInputError as error:
            return problem(400, "Bad Request", error.message, request.url.path, **error.details)
        return None

    return check


async def _secure(response: Response[Any]) -> Response[Any]:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


class _App(Litestar):
    """Litestar, but for the page, which is no route, for publishing, and for paths that name aggregates. All of it as far as
    there is room."""

    admission: Admission
    page: Page
    publishing: DirectPublishing
    forwarding: "Forwarding | None"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.admission(scope, receive, send)

    async def admitted(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that there is room for."""
        if self.forwarding is not None and self.forwarding.takes(scope):
            await self.forwarding(scope, receive, send)
        elif Page.takes(scope):
            await self.page(scope, receive, send)
        elif DirectPublishing.takes(scope):
            await self.publishing(scope, receive, send)
        else:
            keep_ids(scope)
            await super().__call__(scope, receive, send)


def create_app(
    services: Services,
    *,
    hosts: Sequence[str] = LOOPBACK_HOSTS,
    access: Access | None = None,
) -> Litestar:
    """The API over ``services``. Starting it starts the history writer and the processors that were running, on one of several
    nodes once the election lets it lead; stopping it stops them. Requests for other ``hosts`` are refused, so that no page
    elsewhere can reach a server on this machine by a name of its own; ``["*"]`` accepts all. Without ``access``, nobody has to
    say who they are."""
    election = services.election
    forwarding = None
    if election is not None:
        from event_streaming_bus.api.forwarding import Forwarding  # loads httpx: only for those who need it

        forwarding = Forwarding(election, hosts=frozenset(hosts), headers=HEADERS)
    recorder = Recorder(services.storage, services.audit, services.tokens)

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncIterator[None]:
        stopping: list[Callable[[], None]] = []
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "esb-api"))

        async def lead() -> None:
            services.history.start()
            await services.processors.resume()
            await services.flows.resume()
            services.projections.start()
            stopping.append(services.sourcing.lifecycle.start_scavenging())

        following = None
        try:
            if election is None:
                await lead()
            else:
                await asyncio.to_thread(election.start)
                following = asyncio.create_task(lead_when_elected(election, lead))
            yield
        finally:
            if following is not None:
                following.cancel()
            for stop in stopping:
                await asyncio.to_thread(stop)
            if forwarding is not None:
                await forwarding.close()
            await services.consuming.close()
            await recorder.close()
            await asyncio.to_thread(services.close)
            if election is not None:  # when all that it did is ended, another may begin
                await asyncio.to_thread(election.close)

    app = _App(
        route_handlers=[
            health,
            live,
            ready,
            metrics,
            monitoring_socket(frozenset(hosts)),
            StreamsController,
            StreamEventsController,
            asyncapi,
            EventsController,
            ScheduledController,
            ProcessorsController,
            FlowsController,
            DeadLettersController,
            ConsumerGroupsController,
            ConsumingController,
            join_group,
            RoutesController,
            EventSourcingController,
            AggregateFeedController,
            AggregateLifecycleController,
            ProjectionsController,
            ErasuresController,
            AuditController,
            TokensController,
            SettingsController,
            HistoryController,
            SavedQueriesController,
            CorrelationController,
            StoryController,
            SchemasController,
            SchemaTrialsController,
            mounted(services.schemas.subjects, hosts=hosts, headers=HEADERS),
        ],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        after_request=_secure,
        after_exception=[counting_refusals(services)],
        middleware=[
            guarding(access, recorder, hosts=hosts, headers=HEADERS),
            idempotent(services.idempotency, max_body_bytes=_MAX_BODY_BYTES, headers=HEADERS),
            recording(recorder),
            conditional(services, headers=HEADERS),
        ],
        lifespan=[running],
        before_request=_only_for(frozenset(hosts)),
        request_max_body_size=_MAX_BODY_BYTES,
        openapi_config=OpenAPIConfig(
            title="Event Streaming Bus",
            version=__version__,
            description=_DESCRIPTION,
            path="/docs",
            render_plugins=[PlainPage(), CompleteDocument()],
        ),
    )
    app.admission = Admission(services.load, app.admitted, max_body_bytes=_MAX_BODY_BYTES, headers=HEADERS)
    app.forwarding = forwarding
    app.page = Page(hosts=frozenset(hosts), headers=HEADERS)
    app.publishing = DirectPublishing(services, super(_App, app).__call__, access=access, hosts=frozenset(hosts), headers=HEADERS)
    return app
