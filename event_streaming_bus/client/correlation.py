"""How events follow from one another, asked of a server."""

from typing import Any, Final

import msgspec

from event_streaming_bus.client.remote_service import RemoteService
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.correlation.model import Trace
from event_streaming_bus.models import DEFAULT_TENANT

DEFAULT_EVENTS: Final = 1000
DEFAULT_DEPTH: Final = 50


class CorrelationService(RemoteService):
    """Says how a tenant's events follow from one another, by their ``causation_id``, and which belong together, by their
    ``correlation_id``. ``max_events`` (1 to 10,000) and ``max_depth`` (1 to 200 steps) bound the answers."""

    async def tree(
        self,
        event_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        max_events: int = DEFAULT_EVENTS,
        max_depth: int = DEFAULT_DEPTH,
    ) -> Trace:
        """The event and all that followed from it, nearest first. Raises ``EventNotFoundError``."""
        return await self._trace(tenant_id, "events", event_id, "tree", max_events=max_events, max_depth=max_depth)

    async def ancestors(self, event_id: str, tenant_id: str = DEFAULT_TENANT, *, max_depth: int = DEFAULT_DEPTH) -> Trace:
        """What led to the event, the first cause first, and the event. Raises ``EventNotFoundError``."""
        return await self._trace(tenant_id, "events", event_id, "ancestors", max_depth=max_depth)

    async def by_correlation(
        self, correlation_id: str, tenant_id: str = DEFAULT_TENANT, *, max_events: int = DEFAULT_EVENTS
    ) -> Trace:
        """All events with this correlation id, in the order in which they were published. Raises ``NotFoundError``."""
        return await self._trace(tenant_id, "correlations", correlation_id, max_events=max_events)

    async def _trace(self, tenant_id: str, *parts: str, **bounds: Any) -> Trace:
        answer = await self._content("GET", path_of(*parts, format="list", **bounds), tenant_id)
        return msgspec.json.decode(answer, type=Trace)
