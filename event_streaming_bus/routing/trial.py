"""Dry runs: what rules would do with the newest events of a stream. Nothing is written."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.samples import newest
from event_streaming_bus.models import DEFAULT_TENANT, Event, StreamInfo
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.compiled import RuleSet
from event_streaming_bus.routing.model import Route, rule_of
from event_streaming_bus.routing.router import Part, Routed, Router
from event_streaming_bus.routing.service import with_candidates
from event_streaming_bus.routing.tally import Tally
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.storage import Storage

MAX_EVENTS: Final = 100_000
DEFAULT_EVENTS: Final = 1000
_READ_BYTES: Final = 4 << 20
_CHUNK: Final = 4096
_MAX_REASONS: Final = 10


def try_routes(
    storage: Storage,
    stream: str,
    tenant_id: str = DEFAULT_TENANT,
    *,
    last: int = DEFAULT_EVENTS,
    candidates: Sequence[Route] = (),
) -> dict[str, Any]:
    """What the tenant's rules, with ``candidates`` applied to them, would do with the ``last`` newest events of a stream if they
    were published anew.

    ``rules`` has those of the streams that events come to, in the order in which they run: how many events each one ``matched``,
    how many of these its sample has ``taken``, on which streams, and how often an expression could not be evaluated, with an
    example. ``events_to`` counts the events by the streams they are sent to; ``stayed`` are those that stay, ``unchanged`` those
    that no rule took. Raises ``StreamNotFoundError``, and ``ConfigError`` for candidates that could not be applied.
    """
    if not 1 <= last <= MAX_EVENTS:
        raise InvalidInputError(f"last: expected 1 to {MAX_EVENTS:,}, got {last:,}")
    info = storage.log.find_stream(tenant_id, stream)
    rules = RuleSet(with_candidates(map(rule_of, storage.routes.current(tenant_id)), candidates))
    router = Router(storage, SchemaRegistryService(storage))
    tally, outcome = Tally(), _Outcome()
    events = _newest(storage, info, last)
    for start in range(0, len(events), _CHUNK):
        outcome.add(router.route(rules, info, events[start : start + _CHUNK], tally=tally))
    names = {each.stream_id: each.name for each in storage.log.list_streams(tenant_id, internal=True)}
    events_to = {names.get(stream_id, DEAD_LETTER_STREAM): count for stream_id, count in outcome.arrived.items()}
    reached = {info.name, *events_to}
    told = [
        {"name": route.name, "version": each.rule.version, "stream": route.stream, "to": list(route.to), **tally.told(route.name)}
        for each in rules
        if (route := each.rule.route).stream in reached or each in rules.published(info.name) or route.name in tally.counts
    ]
    return {
        "stream": info.name,
        "events": len(events),
        "stayed": outcome.stayed,
        "unchanged": outcome.unchanged,
        "events_to": dict(sorted(events_to.items())),
        "dead_letters": [{"reason": reason, "count": count} for reason, count in outcome.reasons.most_common(_MAX_REASONS)],
        "rules": told,
    }


class _Outcome:
    """Where events end up, counted."""

    def __init__(self) -> None:
        self.stayed = 0
        self.unchanged = 0
        self.arrived: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def add(self, routed: Routed) -> None:
        self.stayed += len(routed.kept)
        self.unchanged += routed.trails.count(())
        for part in routed.parts:
            self.arrived[part.stream_id or ""] += len(part.arrivals)
            self._add_reasons(part)

    def _add_reasons(self, part: Part) -> None:
        for arrival in part.arrivals:
            if arrival.why is not None:
                self.reasons[f"{arrival.why[0]}: {arrival.why[1]}"] += 1


def _newest(storage: Storage, stream: StreamInfo, count: int) -> list[Event]:
    log, events = storage.log, []
    ends = log.end_offsets(stream.stream_id)
    for split, begin in newest(log, stream, count).items():
        for batch in batches_between(log, split, begin, ends[split], _READ_BYTES):
            events += batch.events()
    return events[-count:]
