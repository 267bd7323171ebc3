"""Dead letters retried: each once, in order per key, what comes of it written together with what is noted of it."""

import time
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import BusError, StreamNotFoundError
from event_streaming_bus.flows.letter_destinations import ROUTING, Destination, Destinations, Kind
from event_streaming_bus.flows.reprocessing import Outcome, reprocess
from event_streaming_bus.models import Position, StreamInfo
from event_streaming_bus.registry.deliveries import delivered, for_schema, told_of_refused
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.store.history_records import DEAD, FILTERED, PASSED, EventError, Processed, Published, Run, to_event
from event_streaming_bus.store.letters import Letter, LetterBox, LetterState, LetterStatus
from event_streaming_bus.store.log.base import Append, AppendResult, Journal
from event_streaming_bus.store.redeliveries import redelivery
from event_streaming_bus.store.storage import Storage

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


class Tried(msgspec.Struct, frozen=True):
    """What a retry would do with a letter, where it would go if it can be, and why it cannot be retried if it cannot."""

    letter: Letter
    destination: Destination | None
    report: LetterReport


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
        self._destinations = Destinations(storage, tenant_id)
        self._failed: dict[tuple[str, ...], str] = {}  # by order group: the letter that the later ones wait for

    def retry(self, blocks: Iterable[list[Letter]]) -> Iterator[LetterReport]:
        """Retry the letters, given block by block; their reports come when they are on disk."""
        for block in blocks:
            for start in range(0, len(block), _BATCH_LETTERS):
                yield from self._box.change(block[start : start + _BATCH_LETTERS], self._retry)

    def preview(self, blocks: Iterable[list[Letter]]) -> Iterator[Tried]:
        """What ``retry`` would do with the letters, given block by block. Nothing is changed.

        Events are checked against the schemas of their streams, but not processed: of those that would go to a processor it is
        only known that they can. They are told as RETRIED.
        """
        for block in blocks:
            for start in range(0, len(block), _BATCH_LETTERS):
                letters = block[start : start + _BATCH_LETTERS]
                found = dict(zip(_positions(letters), self._destinations.lookup(letters), strict=True))
                outcomes = self._outcomes(letters, found, is_preview=True)
                for attempt in _attempts(letters, outcomes, self._failed):
                    destination = found[attempt.letter.position]
                    yield Tried(attempt.letter, None if isinstance(destination, BusError) else destination, attempt.report)

    def _retry(self, letters: Sequence[Letter]) -> list[LetterReport]:
        try:
            return self._retry_once(letters)
        except StreamNotFoundError:  # dropped since it was looked up, perhaps with its consumer group
            self._destinations = Destinations(self._storage, self._tenant_id)
            return self._retry_once(letters)

    def _retry_once(self, letters: Sequence[Letter]) -> list[LetterReport]:
        open_ones = [letter for letter in letters if letter.state.status is LetterStatus.OPEN]
        found = dict(zip(_positions(open_ones), self._destinations.lookup(open_ones), strict=True))
        failed: dict[tuple[str, ...], str] = {}
        attempts = _attempts(letters, self._outcomes(open_ones, found), ChainMap(failed, self._failed))
        self._write(attempts)
        self._failed |= failed
        return [attempt.report for attempt in attempts]

    def _outcomes(
        self, letters: Sequence[Letter], found: Mapping[Position, Destination | BusError], *, is_preview: bool = False
    ) -> dict[Position, Outcome | BusError]:
        """What would come of each letter by its position, or why it cannot be retried."""
        outcomes: dict[Position, Outcome | BusError] = {}
        together: dict[Destination, list[Letter]] = {}
        for letter in letters:
            destination = found[letter.position]
            if isinstance(destination, BusError):
                outcomes[letter.position] = destination
            elif destination.kind is Kind.STREAM:
                outcomes[letter.position] = self._published(letter, *self._destinations.target(destination))
            elif is_preview:
                outcomes[letter.position] = Outcome(passed=True)
            else:
                together.setdefault(destination, []).append(letter)
        for destination, members in together.items():
            make = self._reprocessed if destination.kind is Kind.PROCESSOR else self._redelivered
            outcomes.update(zip(_positions(members), make(destination, members), strict=True))
        return outcomes

    def _published(self, letter: Letter, stream: StreamInfo, guard: SchemaGuard | None) -> Outcome:
        """The event checked against the schema that its stream has now."""
        event = for_schema(letter.original(), stream.config.schema_id)
        made, refused = delivered(guard, [event])
        if refused:
            try:
                told = told_of_refused(guard, event) if guard is not None else str(event.payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                return Outcome(error=EventError(0, type(error).__name__, f"the payload cannot be decoded: {error}"))
            return Outcome(error=EventError(0, "ValidationFailedError", told))
        again = msgspec.structs.replace(
            made[0],
            event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "retried", letter.letter_id),
            causation_id=letter.letter_id,
        )
        return Outcome({stream.stream_id: [again]}, passed=True)

    def _reprocessed(self, destination: Destination, letters: Sequence[Letter]) -> Sequence[Outcome | BusError]:
        try:
            return reprocess(self._storage, self._destinations.plan(destination), destination.name, letters)
        except BusError as error:
            return [error] * len(letters)

    def _redelivered(self, destination: Destination, letters: Sequence[Letter]) -> Sequence[Outcome]:
        stream_id = self._destinations.retry_stream(destination, letters[0]).stream_id
        return [Outcome({stream_id: [redelivery(letter.event)]}, passed=True) for letter in letters]

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

        def journal(results: Sequence[AppendResult]) -> Append | None:
            now_us = time.time_ns() // 1000
            entries = []
            for result in results:
                runs = [Run(s.stream_id, s.lane.value, s.partition, offset, count) for s, offset, count in result.written]
                if not runs:
                    continue
                published = Published(tenant_id=tenant_id, runs=runs, accepted_us=started_us, appended_us=now_us)
                guard = self._destinations.guard(result.stream_id)
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


def _attempts(
    letters: Sequence[Letter], outcomes: Mapping[Position, Outcome | BusError], failed: MutableMapping[tuple[str, ...], str]
) -> list[_Attempt]:
    """What becomes of each letter. ``failed`` has by order group the letter that the later ones wait for; it is added to."""
    attempts = []
    for letter in letters:
        outcome = outcomes.get(letter.position)
        group = _order_group(letter)
        if letter.state.status is not LetterStatus.OPEN or outcome is None:
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


def _positions(letters: Iterable[Letter]) -> list[Position]:
    return [letter.position for letter in letters]


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
            by_step.setdefault((_step_id(why), str(why.get("step"))), []).append(attempt)
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


def _step_id(why: Mapping[str, Any]) -> str:
    """The id by which history knows what the letter comes from."""
    if why.get("step") == ROUTING:
        return f"route_{why.get('rule')}"
    return str(why.get("processor_id") or why.get("group_id") or VALIDATION_ID)
