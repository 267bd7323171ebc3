"""Traces out of the history: two scans of its events, however far it goes."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.correlation.model import Trace, TracedEvent
from event_streaming_bus.errors import EventNotFoundError, NotFoundError
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.aggregates import AggregateStore
from event_streaming_bus.store.history import History
from event_streaming_bus.store.sql import load_queries

_VERSIONS_AT_ONCE: Final = 1000
_MAX_VERSIONS_READ: Final = 100_000

SQL: Final = load_queries("traces.sql", "event_streaming_bus.correlation")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a trace may have: so many events, and so many steps away from the event that was asked for."""

    max_events: int
    max_depth: int
    timeout_s: float = 60.0


class Tracer:
    """Traces the events of one tenant; those of others are never seen. Every method blocks.

    The history is asked as it is: who wants the newest events loads them first.
    """

    def __init__(self, history: History, aggregates: AggregateStore, tenant_id: str, limits: Limits) -> None:
        self._history = history
        self._aggregates = aggregates
        self._tenant_id = tenant_id
        self._limits = limits

    def effects(self, event_id: str) -> Trace:
        """The event, and all that followed from it: those nearest to it first, then in the order in which they were published.

        Raises ``EventNotFoundError`` if there is no such event and none that names it as its cause.
        """
        most, deepest = self._limits.max_events, self._limits.max_depth
        found = self._select("effects", event_id=_literal(event_id), depth=deepest + 1, most=most + 1)
        root = next((event for event in found if event.event_id == event_id), None)
        events = {event_id: root or TracedEvent(event_id=event_id, is_known=False)}
        depths = {event_id: 0}
        for event in found:
            if event.causation_id in depths and event.event_id not in depths:
                depths[event.event_id] = depths[event.causation_id] + 1
                events[event.event_id] = event
        if root is None and len(events) == 1:
            raise _unknown(event_id)
        kept = [event for event in events.values() if depths[event.event_id] <= deepest][:most]
        return self._trace(kept, len(kept) < len(events))

    def causes(self, event_id: str) -> Trace:
        """What led to the event: the first cause, what that led to, and so on to the event itself.

        An id of a cause that the history does not know is the first. Raises ``EventNotFoundError``.
        """
        deepest = self._limits.max_depth
        found = {event.event_id: event for event in self._select("causes", event_id=_literal(event_id), depth=deepest)}
        if event_id not in found:
            raise _unknown(event_id)
        chain: dict[str, TracedEvent] = {}
        wanted: str | None = event_id
        while wanted is not None and wanted not in chain and len(chain) <= deepest:
            chain[wanted] = found.get(wanted) or TracedEvent(event_id=wanted, is_known=False)
            wanted = chain[wanted].causation_id
        return self._trace(list(chain.values())[::-1], wanted is not None and wanted not in chain)

    def correlated(self, correlation_id: str) -> Trace:
        """All events with this correlation id, in the order in which they were published. Raises ``NotFoundError``."""
        most = self._limits.max_events
        found = self._select("correlated", correlation_id=_literal(correlation_id), most=most + 1)
        if not found:
            raise NotFoundError(f"There is no event with the correlation id '{correlation_id}'.", correlation_id=correlation_id)
        return self._trace(found[:most], len(found) > most)

    def _select(self, name: str, **values: object) -> list[TracedEvent]:
        result = self._history.query(SQL[name].format(**values), tenant_id=self._tenant_id, timeout_s=self._limits.timeout_s)
        return [_event(row) for row in result.rows()]

    def _trace(self, events: list[TracedEvent], is_cut_off: bool) -> Trace:
        versions = self._versions(events)
        told = [msgspec.structs.replace(event, version=versions.get(event.event_id)) for event in events]
        return Trace(events=tuple(told), is_cut_off=is_cut_off)

    def _versions(self, events: Sequence[TracedEvent]) -> dict[str, int]:
        """The version of each event that is in an aggregate. Aggregates are read from their newest events on, and no more than
        100,000 events of them all together."""
        wanted: dict[str, set[str]] = {}
        for event in events:
            if event.aggregate_id is not None and event.aggregate_type is not None:
                wanted.setdefault(event.aggregate_id, set()).add(event.event_id)
        versions: dict[str, int] = {}
        left = _MAX_VERSIONS_READ
        for aggregate_id, event_ids in wanted.items():
            try:
                until = self._aggregates.find(self._tenant_id, aggregate_id).version
            except NotFoundError:
                continue  # its events were published, and it has none
            while until > 0 and event_ids and left > 0:
                begin = max(0, until - _VERSIONS_AT_ONCE)
                page = self._aggregates.events(self._tenant_id, aggregate_id, after_version=begin, until_version=until)
                there = {event.event_id: event.version for event in page if event.event_id in event_ids}
                versions |= there
                event_ids -= there.keys()
                until, left = begin, left - _VERSIONS_AT_ONCE
        return versions


def _event(row: Sequence[Any]) -> TracedEvent:
    event_id, event_type, stream, lane, partition, offset, aggregate_type, aggregate_id, *rest = row
    timestamp_ms, published_ms, user_id, correlation_id, causation_id = rest
    return TracedEvent(
        event_id=event_id,
        event_type=event_type,
        stream=stream,
        lane=lane,
        partition=partition,
        offset=offset,
        aggregate_type=aggregate_type,
        aggregate_id=aggregate_id,
        timestamp=None if timestamp_ms is None else rfc3339(timestamp_ms),
        published_at=None if published_ms is None else rfc3339(published_ms),
        user_id=user_id,
        correlation_id=correlation_id,
        causation_id=causation_id,
    )


def _literal(text: str) -> str:
    """The text as SQL has it. What UTF-8 cannot write is nobody's id, and finds nothing."""
    if any("\ud800" <= each <= "\udfff" for each in text):
        return "NULL::VARCHAR"
    return "'" + text.replace("'", "''") + "'"


def _unknown(event_id: str) -> EventNotFoundError:
    return EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
