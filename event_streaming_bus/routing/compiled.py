"""Rules ready to run, and the sets of them that streams have."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import xxhash

from event_streaming_bus.expressions import ENVELOPE_NAMES, NAMESPACE, Expression
from event_streaming_bus.models import Event
from event_streaming_bus.routing.model import ANY_STREAM, Rule, Then, expressions_of
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM

Evaluate: TypeAlias = Callable[[Event, Any, Mapping[str, Any]], Any]
"""An expression as a function of the event, its decoded payload, and the payload again or ``{}`` if it is no object."""

_MIN_INTEGER: Final = -(1 << 63)
_MAX_INTEGER: Final = (1 << 64) - 1
_HASHES: Final = float(1 << 64)


class Step(NamedTuple):
    """What a rule does with every event of a stream that it takes: all that history tells of it."""

    rule: str
    version: int
    stream: str
    to: tuple[str, ...]
    changed: tuple[str, ...]
    moved: bool

    def __str__(self) -> str:
        to = f" -> {', '.join(self.to)}" if self.to else ""
        changed = f" ({', '.join(self.changed)})" if self.changed else ""
        return f"{self.rule}@{self.version}: {self.stream}{to}{changed}"


class CompiledRule:
    """A rule ready to run. Its attributes are read by the router for every event, and never changed."""

    def __init__(self, rule: Rule) -> None:
        route = rule.route
        self.rule = rule
        self.parsed = expressions_of(route)
        self.match: Evaluate | None = None if self.parsed.match is None else _function(self.parsed.match)
        self.setters = [(key, _function(expression)) for key, expression in self.parsed.metadata.items()]
        self.literals = {key: value for key, value in route.set_metadata.items() if key not in self.parsed.metadata}
        self.removed = frozenset(route.remove_metadata)
        self.touches_metadata = bool(route.set_metadata or route.remove_metadata)
        self.priority = route.priority
        self.to = route.to
        self.move = route.move
        self.dead_letter = route.dead_letter
        self.stops = route.then is Then.STOP or route.dead_letter is not None
        self.sample = route.sample
        evaluated = [self.parsed.match, *self.parsed.metadata.values()]
        self.needs_payload = any("payload" in each.names for each in evaluated if each is not None)
        self._salt = f"{route.name}\x1f"
        keys = [f"metadata.{key}" for key in dict.fromkeys((*route.remove_metadata, *route.set_metadata))]
        self._changed = (*(["priority"] if route.priority is not None else []), *keys)
        self._steps: dict[str, Step] = {}

    def takes(self, event_id: str) -> bool:
        """Whether the event is in the rule's sample: of the same id and the same rule always the same."""
        return self.sample >= 1 or xxhash.xxh3_64_intdigest((self._salt + event_id).encode()) / _HASHES < self.sample

    def step(self, stream: str) -> Step:
        """What history tells of the rule's work on a stream."""
        step = self._steps.get(stream)
        if step is None:
            to = self.to if self.dead_letter is None else (DEAD_LETTER_STREAM,)
            moved = self.move or self.dead_letter is not None
            step = self._steps[stream] = Step(self.rule.route.name, self.rule.version, stream, to, self._changed, moved)
        return step


class RuleSet:
    """The active rules of a tenant, by stream, in the order in which they run."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        ordered = sorted(rules, key=lambda rule: (rule.route.order, rule.route.name))
        self._rules = [CompiledRule(rule) for rule in ordered if rule.route.is_active]
        self._everywhere = any(each.rule.route.stream == ANY_STREAM for each in self._rules)
        self._arrived: dict[str, tuple[CompiledRule, ...]] = {}
        for each in self._rules:
            if each.rule.route.stream != ANY_STREAM:
                self._arrived[each.rule.route.stream] = (*self._arrived.get(each.rule.route.stream, ()), each)
        self._published: dict[str, tuple[CompiledRule, ...]] = {}

    def published(self, stream: str) -> tuple[CompiledRule, ...]:
        """The rules for events that are published to a stream: its own, and those for every stream."""
        if not self._everywhere:
            return self._arrived.get(stream, ())
        found = self._published.get(stream)
        if found is None:
            found = tuple(each for each in self._rules if _applies(each, stream)) if not stream.startswith("_") else ()
            if len(self._published) < 10_000:
                self._published[stream] = found
        return found

    def arrived(self, stream: str) -> tuple[CompiledRule, ...]:
        """The rules for events that a rule has sent to a stream: its own. Those for every stream have seen them already."""
        return self._arrived.get(stream, ())

    def __iter__(self) -> Any:
        return iter(self._rules)


def _applies(each: CompiledRule, stream: str) -> bool:
    route = each.rule.route
    return stream not in route.to if route.stream == ANY_STREAM else route.stream == stream


def _function(expression: Expression) -> Evaluate:
    """The expression compiled so that events whose payload is decoded already are not decoded again."""

    def resolve(path: tuple[str, ...]) -> str:
        if path[0] == "payload":
            if len(path) == 1:
                return "_payload"
            value, path = f"_fields.get({path[1]!r})", path[1:]
        else:
            value = f"_event.{ENVELOPE_NAMES[path[0]]}"
        return f"_get_path({value}, {path[1:]!r})" if len(path) > 1 else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(f"lambda _event, _payload, _fields: ({expression.source(resolve)})", "<rule>", "eval")
    function: Evaluate = eval(code, dict(NAMESPACE))  # noqa: S307 - checked against the grammar
    return function


def as_metadata(value: Any) -> Any:
    """The value of an expression as metadata can hold it. Raises ``ValueError``, ``TypeError`` or ``OverflowError``."""
    kind = value.__class__
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        if not _MIN_INTEGER <= value <= _MAX_INTEGER:
            raise ValueError("an integer of more than 64 bits cannot be metadata")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be metadata")
        return value
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))
