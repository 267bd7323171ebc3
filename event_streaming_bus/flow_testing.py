"""Runs the tests of a flow, and flows in the tests of those who build on the bus."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.flows.differences import MAX_TOLD, event_differences, told
from event_streaming_bus.flows.flow_tests import ExpectedEvent, FlowTest, GivenEvent
from event_streaming_bus.flows.spec import FlowSpec, load_flow
from event_streaming_bus.flows.trial import DeadEvent, TrialResult, trial
from event_streaming_bus.models import Event, EventConfig
from event_streaming_bus.publishing import EventPublishingService

__all__ = ["FlowTestResult", "GivenEvent", "TrialResult", "run_flow", "run_tests"]


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
    for test in spec.tests:
        if not wanted(test.name):
            continue
        started_s = time.perf_counter()
        try:
            problems = _problems(test, run_flow(spec, dict(test.given)))
        except BusError as error:
            problems = [error.message]
        yield FlowTestResult(name=test.name, problems=tuple(problems), seconds=time.perf_counter() - started_s)


def run_flow(flow: FlowSpec | str | os.PathLike[str], given: Mapping[str, Sequence[GivenEvent]]) -> TrialResult:
    """Publish events by stream, and run a flow (or that of a flow file) over them, on a log of its own that is gone afterwards.

    Events without a key go to partition 0. Where a processor tries again what failed, it does not wait in between. Raises what
    publishing and the flow raise: ``ValidationFailedError`` for an event that its stream's schema refuses, and
    ``InvalidInputError`` for a stream that the flow does not have.
    """
    spec = _without_pauses(flow if isinstance(flow, FlowSpec) else load_flow(Path(flow)))
    streams = spec.streams_used()
    for stream in given:
        if stream not in streams:
            raise InvalidInputError(f"given.{stream}: the flow has no such stream; it has {', '.join(streams)}")
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
                partition=0,  # any would do, but always the same: what is late is decided partition by partition
            ).result()
        return tried.run()


def _without_pauses(spec: FlowSpec) -> FlowSpec:
    """The same flow, without its tests, that waits for nothing when it tries again."""
    processors = tuple(
        processor
        if processor.retry_policy is None
        else msgspec.structs.replace(processor, retry=msgspec.structs.replace(processor.retry_policy, backoff_ms=0))
        for processor in spec.processors
    )
    return msgspec.structs.replace(spec, processors=processors, tests=())


def _times(given: Sequence[GivenEvent]) -> list[int]:
    times: list[int] = []
    for event in given:
        before_ms = times[-1] if times else 0
        times.append(before_ms if event.timestamp_ms is None else event.timestamp_ms)
    return times


def _problems(test: FlowTest, result: TrialResult) -> list[str]:
    """What a test finds wrong with a result."""
    problems: list[str] = []
    for stream, expected in test.expect:
        problems += event_differences(stream, expected, result.outputs[stream], ordered=test.ordered)
    for processor, payloads in test.late:
        late = _distinct([each.event for each in result.late if each.processor == processor])
        problems += event_differences(f"late for {processor}", _as_expected(payloads), late, ordered=False)
    for place, payloads in test.dead:
        dead = [each.event for each in result.dead if _died_in(each) == place]
        problems += event_differences(f"dead in {place}", _as_expected(payloads), dead, ordered=False)
    named = dict(test.dead)
    unexpected = [each for each in result.dead if _died_in(each) not in named]
    problems += [
        f"dead in {_died_in(each)}: {told(each.event.payload)}\n    {each.error_type}: {each.reason}"
        for each in unexpected[:MAX_TOLD]
    ]
    if len(unexpected) > MAX_TOLD:
        problems.append(f"dead: and {len(unexpected) - MAX_TOLD:,} more")
    return problems


def _died_in(dead: DeadEvent) -> str:
    """The processor that failed, or the stream whose schema refused the event."""
    return dead.processor or dead.stream


def _distinct(events: list[Event]) -> list[Event]:
    """A late event is told once for each window that it missed."""
    return list({event.event_id: event for event in events}.values())


def _as_expected(payloads: Sequence[object]) -> list[ExpectedEvent]:
    return [ExpectedEvent(payload=payload) for payload in payloads]
