"""A second opinion on the event store: the test cases by which the library ``eventsourcing`` judges its own recorders.

A small adapter makes a recorder of our aggregates. The library counts an aggregate's events from whichever number its first one
has; ours count from 1. The adapter keeps the library's number in the payload, and appends each event at the version that its
number means: what is refused, is refused by the store.
"""

import base64
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

pytest.importorskip("eventsourcing.tests.persistence", exc_type=ImportError)  # it needs the library's extra "crypto"

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    StoredEvent,
    Subscription,
)
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.recorded import EventQuery, RecordedEvent
from event_streaming_bus.store.storage import Storage

TENANT: Final = "default"
KIND: Final = "Originator"
_WAIT_S: Final = 0.2


class Recorder(AggregateRecorder):
    """Aggregates as the library's recorder of aggregates: positions are not told."""

    def __init__(self, storage: Storage) -> None:
        self.store = storage.aggregates
        self._appender = Appender(storage)

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        self._insert(stored_events)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent]) -> list[int]:
        if not stored_events:
            return []
        firsts: dict[str, int] = {}
        appends = []
        for event in stored_events:
            originator = str(event.originator_id)
            if originator not in firsts:
                first = self.store.events(TENANT, originator, until_version=1)
                firsts[originator] = number_of(first[0]) if first else event.originator_version
            payload = {
                "number": event.originator_version,
                "state": base64.b64encode(event.state).decode(),
                "is_uuid": isinstance(event.originator_id, UUID),
            }
            append = NewEvents(
                aggregate_id=originator,
                aggregate_type=KIND,
                events=[NewEvent(event_type=event.topic, event_data=payload)],
                expected_version=max(0, event.originator_version - firsts[originator]),
            )
            appends.append(append)
        try:
            recorded = self._appender.append(appends, TENANT, None)
        except VersionConflictError as error:
            raise IntegrityError(str(error)) from error
        return [each.position for each in recorded]

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        events = [stored(event) for event in self.store.events(TENANT, str(originator_id))]
        chosen = [
            event
            for event in events
            if (gt is None or event.originator_version > gt) and (lte is None or event.originator_version <= lte)
        ]
        return chosen[:: -1 if desc else 1][:limit]


class PositionRecorder(Recorder, ApplicationRecorder):
    """The same with positions, which are the library's notification ids."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        return self._insert(stored_events)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = 0 if start is None else start - inclusive_of_start
        query = EventQuery(event_types=tuple(topics) or None)
        found: list[Notification] = []
        while len(found) < limit:
            page = self.store.read(TENANT, query, after_position=after, until_position=stop, limit=limit - len(found))
            found += [notification(event) for event in page.events]
            after = page.position
            if page.is_end:
                break
        return found

    def max_notification_id(self) -> int | None:
        return self.store.head(TENANT) or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        return Following(self, gt, topics)


class Following(Subscription[PositionRecorder]):
    """Events from a position on, and then those that are recorded."""

    def __next__(self) -> Notification:
        while not self._has_been_stopped:
            after = self._last_notification_id or 0
            for found in self._recorder.select_notifications(after, 1, topics=self._topics, inclusive_of_start=False):
                self._last_notification_id = found.id
                return found
            self._recorder.store.wait(TENANT, after, _WAIT_S)
        raise StopIteration


def number_of(event: RecordedEvent) -> int:
    payload: Any = event.payload
    return int(payload["number"])


def fields_of(event: RecordedEvent) -> dict[str, Any]:
    payload: Any = event.payload
    return {
        "originator_id": UUID(event.aggregate_id) if payload["is_uuid"] else event.aggregate_id,
        "originator_version": payload["number"],
        "topic": event.event_type,
        "state": base64.b64decode(payload["state"]),
    }


def stored(event: RecordedEvent) -> StoredEvent:
    return StoredEvent(**fields_of(event))


def notification(event: RecordedEvent) -> Notification:
    return Notification(**fields_of(event), id=event.position)


class OnAFolder:
    """A storage of its own for each test."""

    addCleanup: Callable[..., Any]  # noqa: N815 - as unittest has it

    def a_storage(self) -> Storage:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name)
        storage = Storage(path, EmbeddedLog(path))
        self.addCleanup(storage.close)
        return storage


class TestAggregateRecorder(OnAFolder, AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return Recorder(self.a_storage())


class TestApplicationRecorder(OnAFolder, ApplicationRecorderTestCase[ApplicationRecorder]):
    def create_recorder(self) -> ApplicationRecorder:
        return PositionRecorder(self.a_storage())

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestPositionsOfOneAppendAreNeighbours(OnAFolder, NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return PositionRecorder(self.a_storage())


del AggregateRecorderTestCase, ApplicationRecorderTestCase, NonInterleavingNotificationIDsBaseCase  # not to be run themselves
