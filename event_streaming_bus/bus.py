"""The composition root: a data folder opened, and the services over it."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakSet

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT, StreamConfig, StreamInfo
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.settings import Settings
from event_streaming_bus.store.storage import Storage, check_database, open_storage

if TYPE_CHECKING:
    from event_streaming_bus.access.tokens import TokenService
    from event_streaming_bus.audit.service import AuditService
    from event_streaming_bus.client.bus import RemoteBus
    from event_streaming_bus.client.options import ClientOptions
    from event_streaming_bus.consumers.consumer import Consumer
    from event_streaming_bus.consumers.service import ConsumerManagementService
    from event_streaming_bus.correlation.service import CorrelationService
    from event_streaming_bus.erasure.service import ErasureService
    from event_streaming_bus.flows.dead_letters import DeadLetterService
    from event_streaming_bus.flows.service import StreamManagementService
    from event_streaming_bus.routing.service import RoutingService
    from event_streaming_bus.sourcing.projections import ProjectionService
    from event_streaming_bus.sourcing.service import EventSourcingService


class Bus:
    """An open bus: its log, and its services, each built once and when it is first asked for."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.schemas = SchemaRegistryService(storage)  # from the start, since whoever reads an event may need its schema
        self._consumers: WeakSet[Consumer] = WeakSet()

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.storage.folder

    @property
    def log(self) -> EventLog:
        """The log below: streams, offsets, reading and waiting."""
        return self.storage.log

    @cached_property
    def publishing(self) -> EventPublishingService:
        return EventPublishingService(self.storage)

    @cached_property
    def routing(self) -> "RoutingService":
        from event_streaming_bus.routing.service import RoutingService

        return RoutingService(self.storage)

    @cached_property
    def sourcing(self) -> "EventSourcingService":
        from event_streaming_bus.sourcing.service import EventSourcingService

        return EventSourcingService(self.storage)

    @cached_property
    def processors(self) -> "StreamManagementService":
        from event_streaming_bus.flows.service import StreamManagementService  # loads Bytewax: only for those who need it

        return StreamManagementService(self.storage)

    @cached_property
    def dead_letters(self) -> "DeadLetterService":
        from event_streaming_bus.flows.dead_letters import DeadLetterService

        return DeadLetterService(self.storage)

    @cached_property
    def projections(self) -> "ProjectionService":
        from event_streaming_bus.sourcing.projections import ProjectionService

        return ProjectionService(self.storage)

    @cached_property
    def correlation(self) -> "CorrelationService":
        from event_streaming_bus.correlation.service import CorrelationService

        return CorrelationService(self.storage)

    @cached_property
    def consumers(self) -> "ConsumerManagementService":
        from event_streaming_bus.consumers.service import ConsumerManagementService

        return ConsumerManagementService(self.storage)

    @cached_property
    def tokens(self) -> "TokenService":
        from event_streaming_bus.access.tokens import TokenService

        return TokenService(self.storage)

    @cached_property
    def audit(self) -> "AuditService":
        from event_streaming_bus.audit.service import AuditService

        return AuditService(self.storage)

    @cached_property
    def erasure(self) -> "ErasureService":
        from event_streaming_bus.erasure.service import ErasureService

        return ErasureService(self.storage)

    @property
    def settings(self) -> Settings:
        """What can be changed while the data folder is in use."""
        return self.storage.settings

    def create_stream(self, name: str, *, tenant_id: str = DEFAULT_TENANT, partitions: int = 1) -> StreamInfo:
        """Make a stream, or find the one that is there with the same settings. ``log.create_stream`` takes all settings."""
        return self.log.create_stream(StreamConfig(name=name, tenant_id=tenant_id, partitions=partitions))

    def consumer(self, group: str, streams: Sequence[str], *, tenant_id: str = DEFAULT_TENANT, **options: Any) -> "Consumer":
        """A consumer of these streams (names or ids) in a consumer group, which is made with the default settings if it is not
        there. ``Consumer`` tells the options."""
        from event_streaming_bus.consumers.consumer import Consumer

        consumer = Consumer(self.storage, group, streams, tenant_id=tenant_id, **options)
        self._consumers.add(consumer)
        return consumer

    def close(self) -> None:
        """Stop the processors that were started here, let the consumers leave their groups, and close what is open."""
        for consumer in list(self._consumers):
            consumer.abandon()
        if "processors" in self.__dict__:
            self.processors.close()
        for name in ("tokens", "audit"):
            if name in self.__dict__:
                getattr(self, name).close()
        self.storage.close()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


@overload
def open_bus(url: str | os.PathLike[str] | None = None) -> Bus: ...


@overload
def open_bus(
    url: str | None = None, *, token: str | None, tenant_id: str | None = None, options: "ClientOptions | None" = None
) -> "RemoteBus": ...


@overload
def open_bus(url: str | None = None, *, tenant_id: str, options: "ClientOptions | None" = None) -> "RemoteBus": ...


def open_bus(
    url: str | os.PathLike[str] | None = None,
    *,
    token: str | None = None,
    tenant_id: str | None = None,
    options: "ClientOptions | None" = None,
) -> "Bus | RemoteBus":
    """Open the bus in a data folder: a path, ``embedded:PATH``, or by default ``ESB_DATA`` or ``./esb-data``; or, by a URL with
    ``http`` or ``https``, that of a server, whose services have the same names and methods.

    ``token`` (or ``ESB_TOKEN``), ``tenant_id`` and ``options`` are for servers: see ``event_streaming_bus.client.connect``, which
    type checkers know to be a ``RemoteBus`` by the URL alone.
    """
    place = os.environ.get("ESB_DATA") if url is None else url
    if isinstance(place, str) and place.lower().startswith(("http://", "https://")):
        from event_streaming_bus.client.bus import connect  # loads httpx: only for those who need it

        return connect(place, token=token, tenant_id=tenant_id, options=options)
    if token is not None or tenant_id is not None or options is not None:
        raise InvalidInputError("token, tenant_id, options: only go with the URL of a server, as in http://127.0.0.1:8080")
    check_database(url)
    return Bus(open_storage(url))
