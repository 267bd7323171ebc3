"""Correlation: the tree of all that followed from an event, the way back from a result, and what belongs together."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from event_streaming_bus.correlation.model import Trace
from event_streaming_bus.correlation.tracer import Limits, Tracer
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.history import History
from event_streaming_bus.store.storage import Storage, open_storage

MAX_EVENTS: Final = 10_000
MAX_DEPTH: Final = 200
DEFAULT_EVENTS: Final = 1000
DEFAULT_DEPTH: Final = 50


class CorrelationService:
    """Says how a tenant's events follow from one another, by their ``causation_id``, and which belong together, by their
    ``correlation_id``.

    It asks the history, after loading what the log has. The history belongs to one process: one that has it open hands its
    ``history`` in; without it, each call opens it, and raises ``InUseError`` if a server has it. That one answers over REST.

    ``max_events`` (1 to 10,000) and ``max_depth`` (1 to 200 steps) bound the answers; ``Trace.is_cut_off`` says that there was
    more.
    """

    def __init__(self, storage: Storage | None = None, *, history: History | None = None) -> None:
        self._storage = storage or open_storage()
        self._history = history
        self._opening = threading.Lock()

    async def tree(
        self,
        event_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        max_events: int = DEFAULT_EVENTS,
        max_depth: int = DEFAULT_DEPTH,
    ) -> Trace:
        """The event and all that followed from it, nearest first. Raises ``EventNotFoundError``."""
        limits = _limits(max_events, max_depth)
        return await asyncio.to_thread(self._traced, tenant_id, limits, lambda tracer: tracer.effects(event_id))

    async def ancestors(self, event_id: str, tenant_id: str = DEFAULT_TENANT, *, max_depth: int = DEFAULT_DEPTH) -> Trace:
        """What led to the event, the first cause first, and the event. Raises ``EventNotFoundError``."""
        limits = _limits(MAX_EVENTS, max_depth)
        return await asyncio.to_thread(self._traced, tenant_id, limits, lambda tracer: tracer.causes(event_id))

    async def by_correlation(
        self, correlation_id: str, tenant_id: str = DEFAULT_TENANT, *, max_events: int = DEFAULT_EVENTS
    ) -> Trace:
        """All events with this correlation id, in the order in which they were published. Raises ``NotFoundError``."""
        limits = _limits(max_events, DEFAULT_DEPTH)
        return await asyncio.to_thread(self._traced, tenant_id, limits, lambda tracer: tracer.correlated(correlation_id))

    def _traced(self, tenant_id: str, limits: Limits, trace: Callable[[Tracer], Trace]) -> Trace:
        with self._opened() as history:
            history.reach()
            return trace(Tracer(history, self._storage.aggregates, tenant_id, limits))

    @contextmanager
    def _opened(self) -> Iterator[History]:
        if self._history is not None:
            yield self._history
            return
        with self._opening:  # a process cannot open it twice either
            history = History(self._storage)
            try:
                yield history
            finally:
                history.close()


def _limits(max_events: int, max_depth: int) -> Limits:
    for name, value, most in (("max_events", max_events, MAX_EVENTS), ("max_depth", max_depth, MAX_DEPTH)):
        if not 1 <= value <= most:
            raise InvalidInputError(f"{name}: expected 1 to {most:,}, got {value}", path=name)
    return Limits(max_events=max_events, max_depth=max_depth)
