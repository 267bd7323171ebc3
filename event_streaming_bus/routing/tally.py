"""What rules do with events, counted rule by rule: what a dry run tells."""

from collections import Counter
from typing import Any

import msgspec

from event_streaming_bus.expressions import Expression
from event_streaming_bus.models import Event
from event_streaming_bus.routing.compiled import CompiledRule


class Failed(msgspec.Struct):
    """An expression that could not be evaluated: how often, and the first event for which."""

    place: str
    count: int
    event_id: str
    message: str


class Tally:
    """Counts of each rule by its name."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.streams: dict[str, Counter[str]] = {}
        self.failures: dict[str, dict[str, Failed]] = {}

    def matched(self, rule: CompiledRule, stream: str, is_taken: bool) -> None:
        """An event matched, and was taken or left out of the sample."""
        name = rule.rule.route.name
        counts = self.counts.setdefault(name, Counter())
        counts["matched"] += 1
        if is_taken:
            counts["taken"] += 1
            self.streams.setdefault(name, Counter())[stream] += 1

    def failed(self, rule: CompiledRule, place: str, expression: Expression | None, error: Exception, event: Event) -> None:
        """An expression of the rule could not be evaluated."""
        failures = self.failures.setdefault(rule.rule.route.name, {})
        if place in failures:
            failures[place].count += 1
            return
        message = str(error) if expression is None else expression.explain(error, event)
        failures[place] = Failed(place, 1, event.event_id, message)

    def told(self, name: str) -> dict[str, Any]:
        """What is told of a rule."""
        counts = self.counts.get(name, Counter())
        failures = self.failures.get(name, {})
        return {
            "matched": counts["matched"],
            "taken": counts["taken"],
            "by_stream": dict(self.streams.get(name, {})),
            "not_evaluated": sum(each.count for each in failures.values()),
            "examples": [msgspec.to_builtins(each) for each in failures.values()],
        }
