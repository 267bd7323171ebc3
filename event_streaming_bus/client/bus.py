"""A bus at a URL: the services of a server over one pool of connections."""

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.connecting import Connection
from event_streaming_bus.client.options import ClientOptions, Target
from event_streaming_bus.client.publishing import EventPublishingService
from event_streaming_bus.client.schemas import SchemaRegistryService
from event_streaming_bus.client.streams import StreamCatalog
from event_streaming_bus.models import DEFAULT_TENANT, StreamConfig, StreamInfo

if TYPE_CHECKING:
    from event_streaming_bus.client.audit import AuditService
    from event_streaming_bus.client.consumer import Consumer
    from event_streaming_bus.client.consumer_groups import ConsumerManagementService
    from event_streaming_bus.client.correlation import CorrelationService
    from event_streaming_bus.client.dead_letters import DeadLetterService
    from event_streaming_bus.client.erasure import ErasureService
    from event_streaming_bus.client.history import RemoteHistory
    from event_streaming_bus.client.processors import StreamManagementService
    from event_streaming_bus.client.projections import ProjectionService
    from event_streaming_bus.client.routing import RoutingService
    from event_streaming_bus.client.settings import Settings
    from event_streaming_bus.client.sourcing import EventSourcingService
    from event_streaming_bus.client.tokens import TokenService


class RemoteBus:
    """A bus that a server has. Its services have the names, the methods and the results of those in process; each is made when it
    is first asked for. Nothing is sent before something is asked."""

    def __init__(self, target: Target) -> None:
        self._connection = Connection(target)
        self._consumers: WeakSet[Consumer] = WeakSet()

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._connection.target.url

    @cached_property
    def publishing(self) -> EventPublishingService:
        return EventPublishingService(self._connection)

    @cached_property
    def schemas(self) -> SchemaRegistryService:
        return SchemaRegistryService(self._connection)

    @cached_property
    def streams(self) -> StreamCatalog:
        """Makes, lists and drops streams; in process, ``log`` does."""
        return StreamCatalog(self._connection)

    @cached_property
    def routing(self) -> "RoutingService":
        from event_streaming_bus.client.routing import RoutingService

        return RoutingService(self._connection)

    @cached_property
    def sourcing(self) -> "EventSourcingService":
        from event_streaming_bus.client.sourcing import EventSourcingService

        return EventSourcingService(self._connection)

    @cached_property
    def processors(self) -> "StreamManagementService":
        from event_streaming_bus.client.processors import StreamManagementService

        return StreamManagementService(self._connection)

    @cached_property
    def dead_letters(self) -> "DeadLetterService":
        from event_streaming_bus.client.dead_letters import DeadLetterService

        return DeadLetterService(self._connection)

    @cached_property
    def projections(self) -> "ProjectionService":
        from event_streaming_bus.client.projections import ProjectionService

        return ProjectionService(self._connection)

    @cached_property
    def correlation(self) -> "CorrelationService":
        from event_streaming_bus.client.correlation import CorrelationService

        return CorrelationService(self._connection)

    @cached_property
    def erasure(self) -> "ErasureService":
        from event_streaming_bus.client.erasure import ErasureService

        return ErasureService(self._connection)

    @cached_property
    def consumers(self) -> "ConsumerManagementService":
        from event_streaming_bus.client.consumer_groups import ConsumerManagementService

        return ConsumerManagementService(self._connection)

    @cached_property
    def history(self) -> "RemoteHistory":
        """Asks the history in SQL."""
        from event_streaming_bus.client.history import RemoteHistory

        return RemoteHistory(self._connection)

    @cached_property
    def tokens(self) -> "TokenService":
        from event_streaming_bus.client.tokens import TokenService

        return TokenService(self._connection)

    @cached_property
    def audit(self) -> "AuditService":
        from event_streaming_bus.client.audit import AuditService

        return AuditService(self._connection)

    @cached_property
    def settings(self) -> "Settings":
        """What can be changed while the server runs."""
        from event_streaming_bus.client.settings import Settings

        return Settings(self._connection)

    @property
    def storage(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("reaching what a bus keeps", "ask its services, or open the data folder")

    @property
    def folder(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("reaching the data folder", "ask the bus's services, or open the folder")

    @property
    def log(self) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("reaching the log", "streams makes, lists and drops streams; consumer reads them")

    def create_stream(self, name: str, *, tenant_id: str = DEFAULT_TENANT, partitions: int = 1) -> StreamInfo:
        """Make a stream, or find the one that is there with the same settings. Blocks. ``streams`` takes all settings."""
        config = StreamConfig(name=name, tenant_id=tenant_id, partitions=partitions)
        return self._connection.now(self.streams.create_stream(config))

    def consumer(self, group: str, streams: Sequence[str], *, tenant_id: str = DEFAULT_TENANT, **options: Any) -> "Consumer":
        """A consumer of these streams (names or ids) in a consumer group, which is made with the default settings if it is not
        there. ``Consumer`` tells the options."""
        from event_streaming_bus.client.consumer import Consumer

        consumer = Consumer(self._connection, group, streams, tenant_id=tenant_id, **options)
        self._consumers.add(consumer)
        return consumer

    def close(self) -> None:
        """Let the consumers leave their groups, and close the connections. What the server runs goes on. Closing twice is
        harmless."""
        for consumer in list(self._consumers):
            consumer.abandon()
        self._connection.close()

    def __enter__(self) -> "RemoteBus":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def connect(
    url: str, *, token: str | None = None, tenant_id: str | None = None, options: ClientOptions | None = None
) -> RemoteBus:
    """The bus at a URL. ``token`` falls back to ``ESB_TOKEN``; ``tenant_id`` is whom calls are about that name none, and only an
    administrator of the default tenant may choose it; None leaves it to the token."""
    return RemoteBus(Target(url, token, tenant_id, options))
