"""Dead letters retried: each once, in order per key, what comes of it written together with what is noted of it."""

import time
from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError, NotFoundError, StreamNotFoundError
from event_streaming_bus.flows.plan import Plan
from event_streaming_bus.flows.reprocessing import Outcome, plan_around, reprocess
from event_streaming_bus.models import Position, StreamInfo
from event_streaming_bus.registry.deliveries import delivered, for_schema
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.history_records import DEAD, FILTERED, PASSED, EventError, Processed, Published, Run, to_event
from event_streaming_bus.store.letters import Letter, LetterBox, LetterState, LetterStatus
from event_streaming_bus.store.log.base import Append, AppendResult, Journal
from event_streaming_bus.store.storage import Storage

VALIDATION: Final = "validation"
"""The step of the letters of events that broke their stream's schema."""
VALIDATION_ID: Final = "proc_validation"
_BATCH_LETTERS: Final = 256


class Result(StrEnum):
    """What a call did with a letter. WAITING and REFUSED letters are as they were."""

    RETRIED = "RETRIED"
    FAILED = "FAILED"
    WAITING = "WAITING"
    REFUSED = "REFUSED"
    DROPPED = "DROPPED"


class LetterReport(msgspec.Struct, frozen=True):
    """What a call did with a letter; ``message`` says why it was not done, ``events_written`` how many events came of it."""

    dead_letter_id: str
    result: Result
    message: str | None = None
    events_written: int = 0


class _Attempt(msgspec.Struct, frozen=True):
    """What is to be noted, written and told of a letter."""

    letter: Letter
    report: LetterReport
    state: LetterState | None = None
    outcome: Outcome | None = None


class Retrier:
    """Retries letters of one tenant. For one call: streams, schemas and flows are looked up once.

    Letters of one key, lane and step are retried in the order in which they were written. Where one fails again, the later ones
    wait: they stay OPEN and are not tried. One id is remembered for each key that failed.
    """

    def __init__(self, storage: Storage, tenant_id: str) -> None:
        self._storage = storage
        self._tenant_id = tenant_id
        self._box = LetterBox(storage.log, storage.dead_letters(tenant_id))
        self._schemas = SchemaRegistryService(storage)
        self._plans: dict[str, Plan | BusError] = {}
        self._targets: dict[str, tuple[StreamInfo, SchemaGuard | None] | BusError] = {}
        self._failed: dict[tuple[str, ...], str] = {}  # by order group: the letter that the later ones wait for

    def retry(self, blocks: Iterable[list[Letter]]) -> Iterator[LetterReport]:
        """Retry the letters, given block by block; their reports come when they are on disk."""
        for block in blocks:
            for start in range(0, len(block), _BATCH_LETTERS):
                yield from self._box.change(block[start : start + _BATCH_LETTERS], self._retry)

    def _retry(self, letters: Sequence[Letter]) -> list[LetterReport]:
        failed: dict[tuple[str, ...], str] = {}
        attempts = self._attempts(letters, ChainMap(failed, self._failed))
        self._write(attempts)
        self._failed |= failed
        return [attempt.report for attempt in attempts]

    def _attempts(self, letters: Sequence[Letter], failed: MutableMapping[tuple[str, ...], str]) -> list[_Attempt]:
        outcomes = self._outcomes([letter for letter in letters if letter.state.status is LetterStatus.OPEN])
        attempts = []
        for letter in letters:
            outcome = outcomes.get(letter.position)
            group = _order_group(letter)
            if outcome is None:
                attempts.append(_Attempt(letter, _refused(letter, f"it is {letter.state.status.value} already")))
            elif isinstance(outcome, BusError):
                attempts.append(_Attempt(letter, _refused(letter, outcome.message)))
            elif group is not None and group in failed:
                report = LetterReport(letter.letter_id, Result.WAITING, f"waits for {failed[group]}")
                attempts.append(_Attempt(letter, report))
            else:
                attempts.append(_tried(letter, outcome))
                if outcome.error is not None and group is not None:
                    failed[group] = letter.letter_id
        return attempts

    def _outcomes(self, letters: Sequence[Letter]) -> dict[Position, Outcome | BusError]:
        """What would come of each letter by its position, or why it cannot be retried."""
        outcomes: dict[Position, Outcome | BusError] = {}
        by_processor: dict[str, list[Letter]] = {}
        for letter in letters:
            if letter.why.get("processor_id") is not None:
                by_processor.setdefault(str(letter.why["processor_id"]), []).append(letter)
            elif letter.why.get("step") == VALIDATION:
                outcomes[letter.position] = self._published(letter)
            else:
                step = letter.why.get("step") or "no known step"
                outcomes[letter.position] = BusError(f"it comes from {step}, which cannot be retried; publish the event anew")
        for processor_id, of_processor in by_processor.items():
            made = self._reprocessed(processor_id, of_processor)
            outcomes.update((letter.position, each) for letter, each in zip(of_processor, made, strict=True))
        return outcomes

    def _published(self, letter: Letter) -> Outcome | BusError:
        """The event checked again, against the schema that its stream has now."""
        target = self._target(letter)
        if isinstance(target, BusError):
            return target
        stream, guard = target
        event = for_schema(letter.original(), stream.config.schema_id)
        made, refused = delivered(guard, [event])
        if refused:
            try:
                payload = event.payload
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                return Outcome(error=EventError(0, type(error).__name__, f"the payload cannot be decoded: {error}"))
            told = guard.told(payload) if guard is not None else ""
            return Outcome(error=EventError(0, "ValidationFailedError", told))
        again = msgspec.structs.replace(
            made[0],
            event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "retried", letter.letter_id),
            causation_id=letter.letter_id,
        )
        return Outcome({stream.stream_id: [again]}, passed=True)

    def _target(self, letter: Letter) -> tuple[StreamInfo, SchemaGuard | None] | BusError:
        """The stream that the letter's event was published to, by its id or, where it was made anew, its name."""
        stream_id, name = str(letter.why.get("stream_id")), str(letter.why.get("stream"))
        if stream_id not in self._targets:
            try:
                stream = self._find_stream(stream_id, name)
                self._targets[stream_id] = stream, self._schemas.guard_of(stream)
            except NotFoundError as error:
                self._targets[stream_id] = error
        return self._targets[stream_id]

    def _find_stream(self, stream_id: str, name: str) -> StreamInfo:
        try:
            return self._storage.log.find_stream(self._tenant_id, stream_id)
        except StreamNotFoundError:
            return self._storage.log.find_stream(self._tenant_id, name)

    def _reprocessed(self, processor_id: str, letters: Sequence[Letter]) -> Sequence[Outcome | BusError]:
        if processor_id not in self._plans:
            try:
                self._plans[processor_id] = plan_around(self._storage, self._tenant_id, processor_id)
            except BusError as error:
                self._plans[processor_id] = error
        plan = self._plans[processor_id]
        if isinstance(plan, BusError):
            return [plan] * len(letters)
        name = next(node.name for node in plan.nodes() if node.processor_id == processor_id)
        try:
            return reprocess(self._storage, plan, name, letters)
        except BusError as error:
            return [error] * len(letters)

    def _write(self, attempts: Sequence[_Attempt]) -> None:
        """Write what comes of the letters, and their new states, in one transaction. ``FencedError`` if one was changed."""
        marks = [self._box.mark(attempt.letter, attempt.state) for attempt in attempts if attempt.state is not None]
        if not marks:
            return
        events: dict[str, list[Any]] = {}
        for attempt in attempts:
            if attempt.state is not None and attempt.outcome is not None:
                for stream_id, made in attempt.outcome.events.items():
                    events.setdefault(stream_id, []).extend(made)
        # Not as new ids: an event that is in the log already, of a letter that was written twice, is not written again.
        appends = [Append(stream_id, made) for stream_id, made in events.items()]
        self._storage.log.append(appends, marks=marks, journal=self._journal(attempts))

    def _journal(self, attempts: Sequence[_Attempt]) -> Journal:
        history, tenant_id, started_us = self._storage.history(), self._tenant_id, time.time_ns() // 1000
        checked = {t[0].stream_id: t for t in self._targets.values() if isinstance(t, tuple)}

        def journal(results: Sequence[AppendResult]) -> Append | None:
            now_us = time.time_ns() // 1000
            entries = []
            for result in results:
                runs = [Run(s.stream_id, s.lane.value, s.partition, offset, count) for s, offset, count in result.written]
                if not runs:
                    continue
                published = Published(tenant_id=tenant_id, runs=runs, accepted_us=started_us, appended_us=now_us)
                guard = checked[result.stream_id][1] if result.stream_id in checked else None
                if guard is not None:
                    published = msgspec.structs.replace(
                        published,
                        schema_id=guard.schema_id,
                        schema_version=guard.schema_version,
                        validation_started_us=started_us,
                        validation_completed_us=started_us,
                    )
                entries.append(to_event(published))
            entries += map(to_event, _records(attempts, tenant_id, started_us, now_us))
            return Append(history.stream_id, entries, new_ids=True) if entries else None

        return journal


def _order_group(letter: Letter) -> tuple[str, ...] | None:
    """What letters have in common that must keep their order; ``None`` for a letter without a key, which has none."""
    why, event = letter.why, letter.event
    if event.key is None:
        return None
    return str(why.get("stream_id")), str(why.get("processor_id") or why.get("step")), event.priority.value, event.key


def _refused(letter: Letter, message: str) -> LetterReport:
    return LetterReport(letter.letter_id, Result.REFUSED, message)


def _tried(letter: Letter, outcome: Outcome) -> _Attempt:
    retries, now_ms = letter.state.retries + 1, time.time_ns() // 1_000_000
    if outcome.error is not None:
        told = f"{outcome.error.error_type}: {outcome.error.message}"
        state = LetterState(LetterStatus.OPEN, retries, told, now_ms)
        return _Attempt(letter, LetterReport(letter.letter_id, Result.FAILED, told), state, outcome)
    written = sum(map(len, outcome.events.values()))
    report = LetterReport(letter.letter_id, Result.RETRIED, events_written=written)
    return _Attempt(letter, report, LetterState(LetterStatus.RETRIED, retries, None, now_ms), outcome)


def _records(attempts: Sequence[_Attempt], tenant_id: str, started_us: int, now_us: int) -> Iterator[Processed]:
    """What history is told: one record for each step and the stretch of letters that went through it again."""
    by_step: dict[tuple[str, str], list[_Attempt]] = {}
    for attempt in attempts:
        if attempt.outcome is not None:
            why = attempt.letter.why
            step = str(why.get("processor_id") or VALIDATION_ID), str(why.get("step"))
            by_step.setdefault(step, []).append(attempt)
    for (processor_id, name), members in by_step.items():
        split, first = members[0].letter.position
        outcomes = bytearray(members[-1].letter.position.offset - first + 1)
        errors = []
        for attempt in members:
            assert attempt.outcome is not None  # noqa: S101 - they were picked by it
            index = attempt.letter.position.offset - first
            error = attempt.outcome.error
            outcomes[index] = DEAD if error is not None else PASSED if attempt.outcome.passed else FILTERED
            if error is not None:
                errors.append(msgspec.structs.replace(error, index=index))
        run = Run(split.stream_id, split.lane.value, split.partition, first, len(outcomes))
        yield Processed(tenant_id, processor_id, name, "RETRY", run, started_us, now_us, bytes(outcomes), errors)
