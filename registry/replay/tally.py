"""Why stored events would be refused, counted by reason, in bounded time and memory however many there are."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.models import EventPriority
from event_streaming_bus.registry.parsing import JsonSchema, ParsedSchema
from event_streaming_bus.registry.violations import Violation

MAX_REASONS: Final = 100
MAX_EXPLAINED: Final = 2000
"""How many payloads one ``Explainer`` explains in full."""
_MAX_EXPLAINING_S: Final = 5.0
_MAX_SORTS: Final = 1000
_INDEX: Final = re.compile(r"\[\d+\]")
_MISSING: Final = re.compile(r"'(.+)' is a required property", re.DOTALL)
_BRANCHING: Final = re.compile(r'"(anyOf|oneOf|\$dynamicRef|\$recursiveRef)"')
_COUNTS: Final = ("checked", "invalid", "warnings", "unreadable", "dropped", "unlisted")


class Example(msgspec.Struct, frozen=True):
    """One event that is refused, or warned of: where it is, and what is wrong with it."""

    event_id: str
    partition: int
    lane: EventPriority
    offset: int
    timestamp: str
    message: str


MakeExample = Callable[[str], Example]
"""Makes the example of a certain event, of the message."""


class Failure(msgspec.Struct):
    """A reason for which events fail. ``kind`` is ``schema``, ``rule``, ``migration`` or ``unreadable``; ``rule`` the schema's
    keyword or the rule's name, ``path`` the place in the payload, with ``[]`` for items of a list. ``count`` counts events."""

    kind: str
    severity: str
    rule: str
    path: str
    count: int
    examples: list[Example]


class Tally(msgspec.Struct):
    """What became of events. Those ``checked`` are ``invalid``, ``unreadable`` or valid.

    ``warnings`` counts the ones that break a rule of severity ``warning``, ``dropped`` those that retention took away before they
    were read, ``unlisted`` the refused ones with a reason that ``failures`` does not have.
    """

    examples: int
    """How many examples a reason has at most."""
    checked: int = 0
    invalid: int = 0
    warnings: int = 0
    unreadable: int = 0
    dropped: int = 0
    unlisted: int = 0
    failures: dict[str, Failure] = {}

    def failure(self, kind: str, severity: str, rule: str, path: str) -> Failure | None:
        """The reason, new if it is not there; None if there is no place for it."""
        key = "\0".join((kind, severity, rule, path))
        failure = self.failures.get(key)
        if failure is None and len(self.failures) < MAX_REASONS:
            failure = self.failures[key] = Failure(kind, severity, rule, path, 0, [])
        return failure

    def add(self, found: Violation, example: MakeExample) -> Failure | None:
        """Count an event for a reason, and return this; None if there is no place for it."""
        failure = self.failure(found.kind, found.severity, found.rule, _reason_path(found))
        if failure is not None:
            failure.count += 1
            if len(failure.examples) < self.examples:
                failure.examples.append(example(found.message))
        return failure

    def merge(self, later: "Tally") -> None:
        """Add what became of later events."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for key, failure in later.failures.items():
            there = self.failures.get(key)
            if there is not None:
                there.count += failure.count
                there.examples += failure.examples[: self.examples - len(there.examples)]
            elif len(self.failures) < MAX_REASONS:
                self.failures[key] = failure
            else:
                self.unlisted += failure.count


class Explainer:
    """Tells what is wrong with payloads that break a schema.

    Explaining one in full takes a hundred times as long as finding that it is broken, so that is done for the first ones of their
    sort only: the compiled validator says which keywords fail where. Where keywords branch it would follow every branch to say
    so; there, and for Avro, each payload is explained. All of this ends at ``MAX_EXPLAINED``, or after five seconds of it.
    """

    def __init__(self, parsed: ParsedSchema, tally: Tally) -> None:
        self._violations = parsed.violations
        self._tally = tally
        self._errors: Callable[[Any], Any] | None = None
        if isinstance(parsed, JsonSchema) and not _branches(parsed):
            self._errors = parsed.validator.errors
        self._known: dict[frozenset[tuple[str, str]], list[Failure]] = {}
        self._left = MAX_EXPLAINED
        self._left_s = _MAX_EXPLAINING_S

    def count(self, payload: Any, example: MakeExample) -> None:
        """Count why a payload breaks the schema."""
        tally = self._tally
        sort = None if self._errors is None else frozenset(map(_sort_of, self._errors(payload)))
        known = self._known.get(sort) if sort is not None else None
        if known is not None and all(len(failure.examples) >= tally.examples for failure in known):
            for each in known:
                each.count += 1
            return
        found = self._explain(payload)
        if found is None:
            tally.unlisted += 1
            return
        listed = [failure for violation in found if (failure := tally.add(violation, example)) is not None]
        if len(listed) < len(found):
            tally.unlisted += 1
        elif sort is not None and len(self._known) < _MAX_SORTS:
            self._known[sort] = listed

    def _explain(self, payload: Any) -> list[Violation] | None:
        """What is wrong, the first violation of each reason; None if too much was explained already."""
        if self._left <= 0 or self._left_s <= 0:
            return None
        started_s = time.monotonic()
        found = {(each.rule, _reason_path(each)): each for each in reversed(self._violations(payload))}
        self._left -= 1
        self._left_s -= time.monotonic() - started_s
        return list(found.values())[::-1]


def _branches(parsed: JsonSchema) -> bool:
    documents = (parsed.document, *parsed.references.values())
    return any(_BRANCHING.search(msgspec.json.encode(document).decode()) for document in documents)


def _sort_of(error: Any) -> tuple[str, str]:
    """What an error of the compiled validator is about: its keyword and place, with the name of a property that is missing."""
    path = _pattern(error.instance_path)
    kind = error.kind
    name: str = kind.name
    return name, f"{path}.{kind.property}" if name == "required" else path


def _pattern(path: Sequence[str | int]) -> str:
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path) if path else ""


def _reason_path(found: Violation) -> str:
    """The place that a reason is about: that of the violation, or of the property that is missing."""
    path = _INDEX.sub("[]", found.path)
    missing = _MISSING.fullmatch(found.message) if found.rule == "required" else None
    return path if missing is None else f"{path}.{missing[1]}" if path else missing[1]
