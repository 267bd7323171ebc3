"""The router: published events go through the rules of their stream, and on through those of the streams they are sent to.

An event comes to a stream at most once, whatever number of rules or ways lead there: the first one counts.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import Event, StreamInfo
from event_streaming_bus.registry.deliveries import delivered, for_schema, told_of_refused
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.protection import protect_letters
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.compiled import CompiledRule, RuleSet, Step, as_metadata
from event_streaming_bus.routing.graph import MAX_HOPS
from event_streaming_bus.routing.tally import Tally
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.tracing.tracer import tracer

ROUTING: Final = "routing"
"""The step of the letters of events that a rule put aside."""
ROUTED_ASIDE: Final = "RoutedToDeadLetters"
_VALIDATION: Final = "validation"
_ID_CHARS: Final = len(ids.EVENT) + 26
_TIME_CHARS: Final = len(ids.EVENT) + 10
_NO_FIELDS: Final[dict[str, Any]] = {}
_replace: Final = msgspec.structs.replace

Trail: TypeAlias = tuple[Step, ...]
"""The rules that an event went through, oldest first."""


class Arrival(NamedTuple):
    """An event where it ends up. ``root`` is the index of the published event it comes from; ``is_root``: it is that event
    itself, under its own id, and no copy. ``why`` tells of a letter why the last rule of its trail failed."""

    event: Event
    trail: Trail
    root: int
    is_root: bool
    visited: set[str]
    why: tuple[str, str] | None = None


class Part(msgspec.Struct):
    """Events for one stream, or without a ``stream_id`` dead letters. ``guard`` is what checked them; ``refused_by`` is the id of
    the stream whose guard made dead letters of them."""

    stream_id: str | None
    arrivals: list[Arrival]
    guard: SchemaGuard | None = None
    refused_by: str | None = None


class Routed(msgspec.Struct):
    """Where events end up: ``kept`` stays in their stream, with the trail of each; ``parts`` goes elsewhere. ``places`` has for
    each event the index of its part, -1 for ``kept``, and its place there. ``again`` are the events whose id another event of
    the same call had before: the index of that one."""

    kept: list[Event]
    trails: list[Trail]
    parts: list[Part]
    places: list[tuple[int, int]]
    again: dict[int, int]
    started_us: int
    completed_us: int


class _Moves(NamedTuple):
    """What a stream's rules do with an event."""

    event: Event
    trail: Trail
    copies: list[tuple[str, Event, Trail]]
    moved_to: tuple[str, ...]  # where the event itself goes: to the first of these that it has not been at
    letter: str | None  # why it goes to the dead letters


class Router:
    """Routes events of any tenant. Safe to use from any thread."""

    def __init__(self, storage: Storage, schemas: SchemaRegistryService) -> None:
        self._storage = storage
        self._schemas = schemas

    def route(
        self, rules: RuleSet, stream: StreamInfo, events: Sequence[Event], *, own_ids: bool = True, tally: Tally | None = None
    ) -> Routed:
        """Route events that were published to ``stream``, as it keeps them. Nothing is written.

        ``own_ids``: no two events can have the same id. Otherwise only the first one of an id is routed.
        """
        started_us = time.time_ns() // 1000
        of_stream = rules.published(stream.name)
        routed = Routed([], [], [], [(-1, -1)] * len(events), {}, started_us, started_us)
        journey = _Journey(self, rules, stream.tenant_id, tally)
        first: dict[str, int] = {}
        for i, event in enumerate(events):
            if not own_ids and first.setdefault(event.event_id, i) != i:
                routed.again[i] = first[event.event_id]
                continue
            moves = _run(of_stream, event, stream.name, tally)
            if moves is None:
                trail: Trail = ()
            else:
                event, trail = moves.event, moves.trail
                if not journey.send(moves, Arrival(event, trail, i, True, {stream.name}), stream):
                    continue
            routed.places[i] = (-1, len(routed.kept))
            routed.kept.append(event)
            routed.trails.append(trail)
        routed.parts = journey.finish()
        for number, part in enumerate(routed.parts):
            for place, arrival in enumerate(part.arrivals):
                if arrival.is_root:
                    routed.places[arrival.root] = (number, place)
        routed.completed_us = time.time_ns() // 1000
        if tally is None and (using := tracer()) is not None:
            from event_streaming_bus.routing.traced import trace_routed

            trace_routed(using, stream, routed)
        return routed

    def target(self, tenant_id: str, name: str) -> tuple[StreamInfo, SchemaGuard | None]:
        """A stream that events are sent to, and its guard. Raises ``BusError`` if it takes none."""
        stream = self._storage.log.find_stream(tenant_id, name)
        guard = self._schemas.guard_of(stream)
        if guard is not None:
            guard.check_producer()
        return stream, guard


class _Journey:
    """Events of one call on their way through the streams, one hop after the other."""

    def __init__(self, router: Router, rules: RuleSet, tenant_id: str, tally: Tally | None) -> None:
        self._router = router
        self._rules = rules
        self._tenant_id = tenant_id
        self._tally = tally
        self._waiting: dict[str, list[tuple[Arrival, StreamInfo]]] = {}
        self._parts: dict[tuple[str | None, str | None], Part] = {}
        self._now_ms = time.time_ns() // 1_000_000

    def send(self, moves: _Moves, came: Arrival, stream: StreamInfo) -> bool:
        """Note where the rules of ``stream`` send an event that came there; whether it stays.

        One that is to be moved stays if it has been at each of the streams that it is moved to."""
        event_id = came.event.event_id
        moved_to = next((target for target in moves.moved_to if target not in came.visited), None)
        for target, event, trail in moves.copies:
            if target in came.visited:
                continue
            came.visited.add(target)
            is_same = target == moved_to
            if not is_same:
                event = _replace(event, event_id=_copy_id(event, target), causation_id=event_id)
            arrival = Arrival(event, trail, came.root, came.is_root and is_same, came.visited)
            self._waiting.setdefault(target, []).append((arrival, stream))
        if moves.letter is not None:
            why = (ROUTED_ASIDE, moves.letter)
            self._aside(Arrival(moves.event, moves.trail, came.root, came.is_root, came.visited, why), stream, ROUTING)
        return moved_to is None and moves.letter is None

    def finish(self) -> list[Part]:
        """Send on what waits until all have arrived."""
        for hop in range(1, MAX_HOPS + 1):
            waiting, self._waiting = self._waiting, {}
            for name, arrivals in sorted(waiting.items()):  # which way comes first must not depend on the other events
                self._arrive(name, arrivals, is_last=hop == MAX_HOPS)
        for part in self._parts.values():  # events of one key stay in order, on whatever ways they came
            part.arrivals.sort(key=lambda arrival: arrival.root)
        return list(self._parts.values())

    def _arrive(self, name: str, arrivals: Sequence[tuple[Arrival, StreamInfo]], *, is_last: bool) -> None:
        try:
            stream, guard = self._router.target(self._tenant_id, name)
        except BusError as error:
            for arrival, source in arrivals:
                why = (type(error).__name__, f"it could not be sent to {name}: {error.message}")
                self._aside(arrival._replace(why=why), source, ROUTING)
            return
        schema_id = stream.config.schema_id
        events, refused = delivered(guard, [for_schema(arrival.event, schema_id) for arrival, _ in arrivals])
        for i in refused:
            self._refuse(arrivals[i][0], stream, guard)
        aside = set(refused)
        of_stream = () if is_last else self._rules.arrived(name)
        for i, (arrival, _) in enumerate(arrivals):
            if i in aside:
                continue
            arrived = arrival._replace(event=events[i])
            moves = _run(of_stream, arrived.event, name, self._tally) if of_stream else None
            if moves is not None:
                arrived = arrived._replace(event=moves.event, trail=arrived.trail + moves.trail)
                copies = [(target, event, arrival.trail + trail) for target, event, trail in moves.copies]
                if not self.send(moves._replace(copies=copies, trail=arrived.trail), arrived, stream):
                    continue
            self._part(stream.stream_id, guard=guard).arrivals.append(arrived)

    def _refuse(self, arrival: Arrival, stream: StreamInfo, guard: SchemaGuard | None) -> None:
        """Put aside what the schema of ``stream`` refuses."""
        try:
            told = told_of_refused(guard, arrival.event) if guard is not None else ""
            error_type = "ValidationFailedError"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            error_type, told = type(error).__name__, f"the payload cannot be decoded: {error}"
        (event,) = protect_letters(guard, [arrival.event])
        self._aside(arrival._replace(event=event, why=(error_type, told)), stream, _VALIDATION, guard)

    def _aside(self, arrival: Arrival, stream: StreamInfo, step: str, guard: SchemaGuard | None = None) -> None:
        assert arrival.why is not None  # noqa: S101 - every letter says why
        error_type, message = arrival.why
        event = arrival.event
        letter = dead_letter(
            event,
            event_id=event.event_id,
            stream=stream,
            step=step,
            error_type=error_type,
            message=message,
            failed_at_ms=self._now_ms,
            rule=arrival.trail[-1].rule,
            rule_version=arrival.trail[-1].version,
        )
        refused_by = stream.stream_id if step == _VALIDATION else None
        part = self._part(None, guard=guard, refused_by=refused_by)
        part.arrivals.append(arrival._replace(event=letter))

    def _part(self, stream_id: str | None, *, guard: SchemaGuard | None = None, refused_by: str | None = None) -> Part:
        part = self._parts.get((stream_id, refused_by))
        if part is None:
            part = self._parts[stream_id, refused_by] = Part(stream_id, [], guard, refused_by)
        return part


def _run(rules: Sequence[CompiledRule], event: Event, stream: str, tally: Tally | None) -> _Moves | None:
    """Run a stream's rules over an event, in their order; None if no rule took it."""
    trail: Trail = ()
    copies: list[tuple[str, Event, Trail]] = []
    moved_to: tuple[str, ...] = ()
    letter = None
    payload: Any = None
    fields: dict[str, Any] = _NO_FIELDS
    unread: Exception | None = None
    is_decoded = False
    for rule in rules:
        if rule.dead_letter is not None and moved_to:
            continue  # it is no longer there
        if rule.needs_payload and not is_decoded:
            is_decoded = True
            try:
                payload = event.payload
                fields = payload if payload.__class__ is dict else _NO_FIELDS
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                unread = error
        if rule.match is not None:
            try:
                if unread is not None and rule.needs_payload:
                    raise unread
                if not rule.match(event, payload, fields):
                    continue
            except Exception as error:  # a value that does not fit: the event is none of those that the rule is for
                if tally is not None:
                    tally.failed(rule, "match", rule.parsed.match, error, event)
                continue
        is_taken = rule.takes(event.event_id)
        if tally is not None:
            tally.matched(rule, stream, is_taken)
        if not is_taken:
            continue
        trail = (*trail, rule.step(stream))
        if rule.priority is not None or rule.touches_metadata:
            metadata = _metadata(rule, event, payload, fields, tally) if rule.touches_metadata else event.metadata
            event = _replace(event, priority=rule.priority or event.priority, metadata=metadata)
        for target in rule.to:
            copies.append((target, event, trail))  # noqa: PERF401 - every rule adds to the same few
        if rule.move:
            moved_to += rule.to
        letter = rule.dead_letter
        if rule.stops:
            break
    return _Moves(event, trail, copies, moved_to, letter) if trail else None


def _metadata(
    rule: CompiledRule, event: Event, payload: Any, fields: dict[str, Any], tally: Tally | None
) -> dict[str, Any] | None:
    """The event's metadata as the rule changes it. A value that cannot be evaluated is not set."""
    metadata = {key: value for key, value in (event.metadata or {}).items() if key not in rule.removed}
    metadata.update(rule.literals)
    for key, evaluate in rule.setters:
        try:
            metadata[key] = as_metadata(evaluate(event, payload, fields))
        except Exception as error:  # as above
            if tally is not None:
                tally.failed(rule, f"set_metadata.{key}", rule.parsed.metadata[key], error, event)
    return metadata or None


def _copy_id(event: Event, target: str) -> str:
    """The id of the event's copy on a stream: always the same. That of an event with an id of ours has the same time in it."""
    # Not its timestamp, which is another one when the event is published again without.
    derived = ids.derived_id(ids.EVENT, 0, "routed", event.event_id, target)
    is_ours = len(event.event_id) == _ID_CHARS and event.event_id.startswith(ids.EVENT)
    return event.event_id[:_TIME_CHARS] + derived[_TIME_CHARS:] if is_ours else derived
