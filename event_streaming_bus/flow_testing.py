"""Runs the tests of a flow, and says how what came differs from what was expected."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import BusError
from event_streaming_bus.flows.flow_tests import ExpectedEvent, FlowTest, GivenEvent
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.flows.trial import TrialResult, trial
from event_streaming_bus.models import Event, EventConfig, rfc3339
from event_streaming_bus.publishing import EventPublishingService

_MISSING: Final = object()
_MAX_TOLD: Final = 5
"""So many differences of a kind are told of each stream or processor."""


class FlowTestResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a test went; ``problems`` is empty if it passed. A line that goes on begins with blanks."""

    name: str
    problems: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.problems


def run_tests(spec: FlowSpec, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[FlowTestResult]:
    """Run the tests whose names are ``wanted``, one after the other, each on a log of its own."""
    flow = msgspec.structs.replace(spec, tests=())
    for test in spec.tests:
        if not wanted(test.name):
            continue
        started_s = time.perf_counter()
        try:
            problems = _compare(test, run_flow(flow, dict(test.given)))
        except BusError as error:
            problems = [error.message]
        yield FlowTestResult(name=test.name, problems=tuple(problems), seconds=time.perf_counter() - started_s)


def run_flow(spec: FlowSpec, given: Mapping[str, Sequence[GivenEvent]]) -> TrialResult:
    """Publish events by stream, and run a flow over them, on a log of its own that is gone afterwards.

    Raises what publishing and the flow raise: ``ValidationFailedError`` for an event that its stream's schema refuses.
    """
    with trial() as tried:
        tried.prepare(spec)
        publishing = EventPublishingService(tried.storage)
        for stream, events in given.items():
            publishing.submit(
                [EventConfig(event_type=event.event_type, key=event.key, priority=event.priority) for event in events],
                [event.payload for event in events],
                stream_id=stream,
                tenant_id=spec.tenant_id,
                timestamps_ms=_times(events),
            ).result()
        return tried.run(spec)


def _times(given: Sequence[GivenEvent]) -> list[int]:
    times: list[int] = []
    for event in given:
        before_ms = times[-1] if times else 0
        times.append(before_ms if event.timestamp_ms is None else event.timestamp_ms)
    return times


def _compare(test: FlowTest, result: TrialResult) -> list[str]:
    problems: list[str] = []
    for stream, expected in test.expect:
        if stream not in result.outputs:
            problems.append(f"{stream}: the flow does not write this stream; it writes {', '.join(result.outputs) or 'none'}")
            continue
        problems += _compare_events(stream, expected, result.outputs[stream], test.ordered)
    dead = dict(test.dead)
    late = dict(test.late)
    for processor, payloads in late.items():
        found = _distinct([each.event for each in result.late if each.processor == processor])
        problems += _compare_events(f"late for {processor}", _as_expected(payloads), found, False)
    for processor, payloads in dead.items():
        found = [each.event for each in result.dead if each.processor == processor]
        problems += _compare_events(f"dead in {processor}", _as_expected(payloads), found, False)
    problems += [
        f"dead in {each.processor or 'validation'}: {_told(each.event.payload)}\n    {each.error_type}: {each.reason}"
        for each in result.dead
        if each.processor not in dead
    ][:_MAX_TOLD]
    return problems


def _distinct(events: list[Event]) -> list[Event]:
    """A late event is told once for each window that it missed."""
    return list({event.event_id: event for event in events}.values())


def _as_expected(payloads: Sequence[Any]) -> list[ExpectedEvent]:
    return [ExpectedEvent(payload=payload) for payload in payloads]


def _compare_events(place: str, expected: Sequence[ExpectedEvent], found: Sequence[Event], ordered: bool) -> list[str]:
    if ordered:
        pairs = list(zip(expected, found, strict=False))
        wrong = [_difference(place, want, got) for want, got in pairs if not _matches(want, got)]
        missing, more = list(expected[len(pairs) :]), list(found[len(pairs) :])
    else:
        missing, more = list(expected), list(found)
        for want in expected:
            match = next((i for i, got in enumerate(more) if _matches(want, got)), None)
            if match is not None:
                del more[match]
                missing.remove(want)
        wrong = []
        for want in list(missing):
            nearest = max(more, key=lambda got: _likeness(want, got), default=None)
            if nearest is not None and _likeness(want, nearest) > 0:
                wrong.append(_difference(place, want, nearest))
                more.remove(nearest)
                missing.remove(want)
    problems = wrong[:_MAX_TOLD]
    problems += [f"{place}: missing {_told(want.payload)}" for want in missing[:_MAX_TOLD]]
    problems += [f"{place}: not expected {_told(got.payload)}" for got in more[:_MAX_TOLD]]
    left = len(wrong) + len(missing) + len(more) - len(problems)
    return [*problems, f"{place}: and {left} more"] if left else problems


def _matches(want: ExpectedEvent, got: Event) -> bool:
    return not any(_differences(want, got))


def _likeness(want: ExpectedEvent, got: Event) -> int:
    """How many fields of the payload are equal."""
    payload = got.payload
    if not isinstance(want.payload, dict) or not isinstance(payload, dict):
        return 0
    return sum(payload.get(name, _MISSING) == value for name, value in want.payload.items())


def _difference(place: str, want: ExpectedEvent, got: Event) -> str:
    lines = [f"{place}: expected {_told(want.payload)}", f"    got      {_told(got.payload)}"]
    return "\n".join([*lines, *(f"      {line}" for line in _differences(want, got))])


def _differences(want: ExpectedEvent, got: Event) -> Iterator[str]:
    yield from _different(want.payload, got.payload, "payload")
    for name, expected, found in (
        ("key", want.key, got.key),
        ("event_type", want.event_type, got.event_type),
        ("timestamp", want.timestamp_ms, got.timestamp_ms),
    ):
        if expected is not None and expected != found:
            told = [rfc3339(value) if isinstance(value, int) else repr(value) for value in (expected, found)]
            yield f"{name}: expected {told[0]}, got {told[1]}"


def _different(want: Any, got: Any, path: str) -> Iterator[str]:
    if isinstance(want, dict) and isinstance(got, dict):
        for name in dict.fromkeys([*want, *got]):
            if name not in got:
                yield f"{path}.{name}: missing, expected {_told(want[name])}"
            elif name not in want:
                yield f"{path}.{name}: not expected, got {_told(got[name])}"
            else:
                yield from _different(want[name], got[name], f"{path}.{name}")
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            yield from _different(a, b, f"{path}[{i}]")
    elif want != got or isinstance(want, bool) != isinstance(got, bool):
        yield f"{path}: expected {_told(want)}, got {_told(got)}"


def _told(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 300 else f"{text[:297]}..."
