"""Event sourcing: appending with expected versions from one caller and from 32, rebuilding a long aggregate, reading a category;
beside the recorder of the package ``eventsourcing`` on SQLite, which keeps events and nothing else."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from harness import Figure

from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.rebuilding import SnapshotPolicy
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.recorded import EventQuery
from event_streaming_bus.testing import temporary_bus

_APPENDS: Final = 1_500
_CALLERS: Final = 32
_LONG: Final = 10_000
_READ: Final = int(os.environ.get("ESB_BENCH_AGGREGATE_EVENTS", "100000"))
_TEXT: Final = "x" * 60


def _events(count: int) -> list[NewEvent]:
    return [NewEvent(event_type="user.updated", event_data={"count": i, "text": _TEXT}) for i in range(count)]


def _append(aggregate_id: str, events: list[NewEvent], expected: int) -> NewEvents:
    return NewEvents(aggregate_id=aggregate_id, aggregate_type="User", events=events, expected_version=expected)


@contextmanager
def _service(**options: Any) -> Iterator[EventSourcingService]:
    with temporary_bus() as bus:
        yield EventSourcingService(bus.storage, **options)


def append_one() -> float:
    """Appends a second from one thread, each on disk when it returns."""
    with _service() as service:
        (event,) = _events(1)
        service.append_now([_append("u", [event], 0)])
        started_s = time.perf_counter()
        for version in range(1, _APPENDS):
            service.append_now([_append("u", [event], version)])
        return (_APPENDS - 1) / (time.perf_counter() - started_s)


def append_many() -> float:
    """Appends a second from 32 callers, each to an aggregate of its own."""
    (event,) = _events(1)

    async def caller(service: EventSourcingService, name: str) -> None:
        for version in range(_APPENDS // _CALLERS):
            await service.append([_append(name, [event], version)])

    async def all_callers(service: EventSourcingService) -> float:
        started_s = time.perf_counter()
        await asyncio.gather(*(caller(service, f"u{i}") for i in range(_CALLERS)))
        return _APPENDS // _CALLERS * _CALLERS / (time.perf_counter() - started_s)

    with _service() as service:
        return asyncio.run(all_callers(service))


def rebuild_cold() -> float:
    """Milliseconds to rebuild an aggregate of 10,000 events from the first."""
    with _service(snapshots=SnapshotPolicy(every_events=None, replay_exceeds_ms=None)) as service:
        service.append_now([_append("u", _events(_LONG), 0)])
        return _rebuilt_ms(service)


def rebuild_from_snapshot() -> float:
    """Milliseconds to rebuild it from a snapshot and ten events."""
    with _service() as service:
        service.append_now([_append("u", _events(_LONG), 0)])
        asyncio.run(service.rebuild("u", update_snapshots=True))
        service.append_now([_append("u", _events(10), _LONG)])
        return _rebuilt_ms(service)


def _rebuilt_ms(service: EventSourcingService) -> float:
    async def rebuild() -> float:
        await service.get_aggregate("u")  # a thread of the pool is there, with its connection
        started_s = time.perf_counter()
        aggregate = await service.rebuild("u", "User")
        took_ms = (time.perf_counter() - started_s) * 1000
        if aggregate.version < _LONG:
            raise AssertionError(f"the aggregate is at version {aggregate.version}")
        return took_ms

    return asyncio.run(rebuild())


def read_category() -> float:
    """Events a second of one category, in pages of 10,000. ``ESB_BENCH_AGGREGATE_EVENTS`` of them are there."""
    with _service() as service:
        store = service._store
        for i in range(_READ // 1000):
            service.append_now([_append(f"u{i % 100}", _events(1000), i // 100 * 1000)])
        query = EventQuery(aggregate_types=("User",))
        started_s, found, position = time.perf_counter(), 0, 0
        while True:
            page = store.read("default", query, after_position=position, limit=10_000)
            found, position = found + len(page.events), page.position
            if page.is_end:
                break
        took_s = time.perf_counter() - started_s
        if found != _READ // 1000 * 1000:
            raise AssertionError(f"{found} events were read")
        return found / took_s


@contextmanager
def _peer() -> Iterator[Any]:
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    with tempfile.TemporaryDirectory() as folder:
        datastore = SQLiteDatastore(str(Path(folder) / "events.db"))
        recorder = SQLiteApplicationRecorder(datastore)
        recorder.create_table()
        yield recorder
        datastore.close()


def _peer_append(recorder: Any, count: int) -> None:
    from eventsourcing.persistence import StoredEvent

    aggregate, state = uuid4(), b'{"count":1,"text":"' + _TEXT.encode() + b'"}'
    for version in range(count):
        recorder.insert_events([StoredEvent(aggregate, version, "user.updated", state)])


def peer_one() -> float:
    """As ``append_one``, by the peer."""
    with _peer() as recorder:
        _peer_append(recorder, 1)
        started_s = time.perf_counter()
        _peer_append(recorder, _APPENDS)
        return _APPENDS / (time.perf_counter() - started_s)


def peer_many() -> float:
    """As ``append_many``, by the peer, from eight threads."""
    with _peer() as recorder:
        threads = [threading.Thread(target=_peer_append, args=(recorder, _APPENDS // 8)) for _ in range(8)]
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _APPENDS // 8 * 8 / (time.perf_counter() - started_s)


_PEER_ONE: Final = Figure("event sourcing: the package eventsourcing, one thread", "appends/s", peer_one)
_PEER_MANY: Final = Figure("event sourcing: the package eventsourcing, 8 threads", "appends/s", peer_many)
FIGURES: Final = [
    _PEER_ONE,
    Figure("event sourcing: append at a version, one thread", "appends/s", append_one, None, _PEER_ONE.name, 0.9),
    _PEER_MANY,
    Figure("event sourcing: append at a version, 32 callers", "appends/s", append_many, None, _PEER_MANY.name, 5.0),
    Figure("event sourcing: rebuild 10,000 events", "ms", rebuild_cold, 50.0),
    Figure("event sourcing: rebuild from a snapshot", "ms", rebuild_from_snapshot, 2.0),
    Figure("event sourcing: read a category", "events/s", read_category, 500_000),
]
