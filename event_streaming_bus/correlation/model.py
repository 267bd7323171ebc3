"""The vocabulary of tracing: events, what each of them was caused by, and the whole that they make."""

from collections.abc import Sequence
from functools import cached_property

import msgspec


class TracedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in a trace: where it is, and what it was caused by.

    ``version`` is that in its aggregate, if it was appended to one and is not further back than is looked. ``is_known`` is false
    for an id that events name as their cause, but that the history has no event of: a command's id, say, or that of an event
    that was dropped before its row was made. Such a one has nothing but its id. Times are RFC 3339 text in UTC.
    """

    event_id: str
    is_known: bool = True
    event_type: str | None = None
    stream: str | None = None
    lane: str | None = None
    partition: int | None = None
    offset: int | None = None
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    version: int | None = None
    timestamp: str | None = None
    published_at: str | None = None
    user_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


class Edge(msgspec.Struct, frozen=True):
    """One event was caused by another; both by their ids."""

    cause: str
    effect: str


class Placed(msgspec.Struct, frozen=True):
    """An event with its depth below the root that it belongs to, and the number of events that it is the cause of."""

    event: TracedEvent
    depth: int
    effects: int


class Trace(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Events, each of them once, and how they follow from one another. ``is_cut_off``: there was more than was asked for."""

    events: tuple[TracedEvent, ...]
    is_cut_off: bool = False

    @cached_property
    def edges(self) -> list[Edge]:
        """What was caused by what, as far as both are in the trace, in the order of the effects."""
        there = {event.event_id for event in self.events}
        return [Edge(event.causation_id, event.event_id) for event in self.events if event.causation_id in there]

    def placed(self) -> list[Placed]:
        """The events as a forest, depth first: each effect behind its cause, those of one cause in the order of ``events``.

        Where causes go round in a circle, which only ids that callers brought can do, the first of ``events`` is the root of it.
        """
        by_id = {event.event_id: event for event in self.events}
        effects: dict[str, list[TracedEvent]] = {}
        for edge in self.edges:
            effects.setdefault(edge.cause, []).append(by_id[edge.effect])
        roots = [event for event in self.events if event.causation_id not in by_id]
        placed: list[Placed] = []
        seen: set[str] = set()
        for root in (*roots, *self.events):  # after the roots nothing is left but circles
            stack: list[tuple[TracedEvent, int]] = [(root, 0)]
            while stack:
                event, depth = stack.pop()
                if event.event_id in seen:
                    continue
                seen.add(event.event_id)
                own = _unseen(effects.get(event.event_id, ()), seen)
                placed.append(Placed(event, depth, len(own)))
                stack.extend((effect, depth + 1) for effect in reversed(own))
        return placed


def _unseen(events: Sequence[TracedEvent], seen: set[str]) -> list[TracedEvent]:
    return [event for event in events if event.event_id not in seen]
