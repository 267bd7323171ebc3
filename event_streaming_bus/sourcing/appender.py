"""Appending events to aggregates: checked, encoded and routed as all that is published, and recorded in the same transaction."""

import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from event_streaming_bus.errors import AlreadyExistsError, InvalidInputError, StreamChangedError, StreamNotFoundError
from event_streaming_bus.models import EventConfig, StreamConfig, StreamInfo, check_not_internal
from event_streaming_bus.publication import Publication, Publications, made_of
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.sourcing.model import NewEvents
from event_streaming_bus.store.aggregate_appends import AggregateAppend, Expectation, ExpectedVersion, Recording, Unless
from event_streaming_bus.store.log.base import AppendResult
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.conditional import conditional, ids_finder
from event_streaming_bus.store.recorded import Recorded
from event_streaming_bus.store.storage import Storage

MAX_EVENTS: Final = 10_000
_MAX_TEXT: Final = 200
_MAX_STREAMS: Final = 1_000
TRIES: Final = 5
STALE: Final = (StreamChangedError, StreamNotFoundError)
"""What tells that a stream has changed, or is gone, since it was looked up: look it up again, and try again."""
_TYPE: Final = re.compile(r"[A-Za-z0-9.-][A-Za-z0-9._-]{0,199}")


class Appender:
    """Appends to the aggregates of a data folder. Safe to use from any thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._publishing = EventPublishingService(storage)
        self._log = conditional(storage.log)
        self._has_outbox = capabilities_of(storage.log).outbox
        self._find_ids = ids_finder(self._log)
        self._streams: dict[tuple[str, str], StreamInfo] = {}

    def append(
        self, appends: Sequence[NewEvents], tenant_id: str, user_id: str | None, unless: Unless | None = None
    ) -> list[Recorded]:
        """Append to one or several aggregates: all of it is on disk when this returns, or, if it raises, nothing is. With an
        outbox, it comes into its streams right after.

        Raises ``VersionConflictError`` and what else ``Recording`` refuses, and what publishing does.
        """
        for left in reversed(range(TRIES)):
            try:
                together, recording = self._prepare(appends, tenant_id, user_id, unless)
                self._log.append(together.appends, journal=together.journal, condition=recording)
            except STALE:
                if not left:
                    raise
                self.forget_streams()
            else:
                break
        return recording.recorded

    def submit(
        self, appends: Sequence[NewEvents], tenant_id: str, user_id: str | None, unless: Unless | None = None
    ) -> "Future[list[Recorded]]":
        """As ``append``, without waiting: appends of many callers are written together. What can be known beforehand is raised by
        this call; errors that are ``STALE`` ask to call ``forget_streams``, and this again."""
        appended, recording = self.begin(appends, tenant_id, user_id, unless)
        return made_of(appended, lambda results: recording.recorded)

    def begin(
        self, appends: Sequence[NewEvents], tenant_id: str, user_id: str | None, unless: Unless | None = None
    ) -> "tuple[Future[list[AppendResult]], Recording]":
        """As ``submit``; the recording tells what was recorded, once the future is done."""
        together, recording = self._prepare(appends, tenant_id, user_id, unless)
        return self._log.submit(together.appends, journal=together.journal, condition=recording), recording

    def _prepare(
        self, appends: Sequence[NewEvents], tenant_id: str, user_id: str | None, unless: Unless | None
    ) -> tuple[Publications, Recording]:
        if not 1 <= sum(len(append.events) for append in appends) <= MAX_EVENTS:
            raise InvalidInputError(f"events: expected 1 to {MAX_EVENTS:,} events in one append", path="events")
        publications: list[Publication] = []
        checked: list[AggregateAppend] = []
        for i, append in enumerate(appends):
            at = f"appends[{i}]." if len(appends) > 1 else ""
            expected = _expectation(append.expected_version, at)
            publication = self._publication(append, tenant_id, user_id, at)
            publications.append(publication)
            checked.append(
                AggregateAppend(
                    aggregate_id=append.aggregate_id,
                    aggregate_type=append.aggregate_type,
                    expected=expected,
                    events=publication.events,
                )
            )
        together = Publications(self._storage, publications)
        own_ids = all(event.event_id is None for append in appends for event in append.events)
        recording = Recording(
            tenant_id,
            checked,
            together.receipts,
            own_ids=own_ids,
            find_ids=self._find_ids,
            keeps_ids=self._has_outbox,
            unless=unless,
        )
        return together, recording

    def _publication(self, append: NewEvents, tenant_id: str, user_id: str | None, at: str) -> Publication:
        _check_text(f"{at}aggregate_id", append.aggregate_id)
        if not _TYPE.fullmatch(append.aggregate_type):
            raise InvalidInputError(
                f"{at}aggregate_type: expected 1 to 200 letters, digits, '.', '_' or '-', not beginning with '_', got "
                f"{append.aggregate_type!r}",
                path=f"{at}aggregate_type",
            )
        configs = []
        for i, event in enumerate(append.events):
            place = f"{at}events[{i}]." if len(append.events) > 1 else at
            _check_text(f"{place}event_type", event.event_type)
            if not isinstance(event.event_data, dict):
                raise InvalidInputError(
                    f"{place}event_data: expected an object, got {type(event.event_data).__name__}", path=f"{place}event_data"
                )
            if event.event_id is not None:
                _check_text(f"{place}event_id", event.event_id)
            configs.append(
                EventConfig(
                    event_type=event.event_type,
                    aggregate_id=append.aggregate_id,
                    aggregate_type=append.aggregate_type,
                    metadata=event.metadata,
                    correlation_id=event.correlation_id,
                    causation_id=event.causation_id,
                    event_id=event.event_id,
                    timestamp=event.timestamp,
                    traceparent=event.traceparent,
                )
            )
        stream = self._stream(tenant_id, append.stream or append.aggregate_type, make=append.stream is None)
        return self._publishing.prepare(
            configs,
            [event.event_data for event in append.events],
            stream,
            tenant_id=tenant_id,
            user_id=user_id,
            refuse_invalid=True,
            is_checked_again=True,
            may_wait=self._has_outbox,
        )

    def forget_streams(self) -> None:
        """Look the streams up again. That one has changed, or is gone, is found in the transaction of an append."""
        self._streams.clear()

    def _stream(self, tenant_id: str, reference: str, *, make: bool) -> StreamInfo:
        stream = self._streams.get((tenant_id, reference))
        if stream is None:
            if len(self._streams) >= _MAX_STREAMS:
                self._streams.clear()
            stream = self._streams[tenant_id, reference] = self._find_stream(tenant_id, reference, make=make)
        return stream

    def _find_stream(self, tenant_id: str, reference: str, *, make: bool) -> StreamInfo:
        try:
            stream = self._log.find_stream(tenant_id, reference)
            check_not_internal(stream.name)
            return stream
        except StreamNotFoundError:
            if not make:
                raise
        try:
            return self._log.create_stream(StreamConfig(name=reference, tenant_id=tenant_id))
        except AlreadyExistsError:  # made by another process since, with other settings
            return self._log.find_stream(tenant_id, reference)


def _check_text(path: str, text: str) -> None:
    if not 1 <= len(text) <= _MAX_TEXT:
        raise InvalidInputError(f"{path}: expected 1 to {_MAX_TEXT} characters, got {len(text)}", path=path)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"{path}: expected Unicode text, got {text!r}", path=path) from None


def _expectation(expected: int | str | None, at: str) -> ExpectedVersion:
    if expected is None:
        return Expectation.ANY
    if isinstance(expected, int) and not isinstance(expected, bool) and expected >= 0:
        return expected
    if isinstance(expected, str) and expected in list(Expectation):
        return Expectation(expected)
    raise InvalidInputError(
        f"{at}expected_version: expected 0 or more, 'any', 'no_stream' or 'stream_exists', got {expected!r}",
        path=f"{at}expected_version",
    )
