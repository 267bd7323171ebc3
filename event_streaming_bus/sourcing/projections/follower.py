"""Follows the events for one build, in a thread of its own: catches up, then waits for new ones."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from event_streaming_bus.errors import BusError, InUseError, LostDatabaseError, StorageError
from event_streaming_bus.sourcing.projections.classes import Projection, definition_of, load_class
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition, StoreKind
from event_streaming_bus.sourcing.projections.folding import Fold
from event_streaming_bus.store.projections import BuildRecord, EventFailure, ProjectionStore
from event_streaming_bus.store.projections_base import Progress, ProjectionDatabase
from event_streaming_bus.store.recorded import EVERY_EVENT, EventQuery, RecordedEvent

BATCH_EVENTS: Final = 4096
_LOOK_AGAIN_S: Final = 5.0
_TELL_EVERY_S: Final = 0.2
_FIRST_RETRY_S: Final = 0.5
_MAX_RETRY_S: Final = 30.0
_RATE_WINDOW: Final = 20
_log: Final = logging.getLogger(__name__)


class Page(Protocol):
    """Events in the global order, and how far has been looked for them."""

    @property
    def events(self) -> list[RecordedEvent]:
        """At most as many as were asked for."""

    @property
    def position(self) -> int:
        """Up to here there are no others."""

    @property
    def is_end(self) -> bool:
        """There was nothing more."""


class Events(Protocol):
    """What projections need of an event store."""

    def read(
        self, tenant_id: str, query: EventQuery = EVERY_EVENT, *, after_position: int = 0, limit: int = BATCH_EVENTS
    ) -> Page:
        """The tenant's events that fit, by global position."""

    def head(self, tenant_id: str) -> int:
        """The position that was given last, to whichever tenant; 0 if none was."""

    def wait(self, tenant_id: str, after_position: int, timeout_s: float) -> bool:
        """Wait until there is a position after this one; whether there is."""


def open_build(store: ProjectionStore, build: BuildRecord, definition: ProjectionDefinition) -> ProjectionDatabase:
    """The database of a build, made if it is missing."""
    if definition.store is StoreKind.DUCKDB:
        from event_streaming_bus.store.projections_duckdb import SUFFIX, DuckdbProjection  # DuckDB is slow to import

        return DuckdbProjection(store.file(build.tenant_id, build.name, build.build_no, SUFFIX), definition.tables)
    from event_streaming_bus.store import projections_sqlite

    path = store.file(build.tenant_id, build.name, build.build_no, projections_sqlite.SUFFIX)
    return projections_sqlite.SqliteProjection(path, definition.tables)


class Follower:
    """A build that is run. ``start`` and ``stop`` it; the rest may be looked at from any thread.

    ``position``: every event up to there that the projection is for is in its tables. ``is_live``: the end of the events has
    been seen. ``failure``: it has stopped at an event, or could not begin. ``trouble``: what goes wrong now and is tried again.
    """

    def __init__(
        self,
        store: ProjectionStore,
        events: Events,
        build: BuildRecord,
        definition: ProjectionDefinition,
        cls: type[Projection] | None = None,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.build = build
        self.definition = definition
        self.position = -1  # not known before the file is open: what the catalog says may be of one that is gone
        self.progress = build.progress
        self.is_live = False
        self.has_been_live = False
        self.failure: EventFailure | None = None
        self.trouble: str | None = None
        self.database: ProjectionDatabase | None = None
        self._store = store
        self._events = events
        self._cls = cls
        self._on_change = on_change
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, Callable[[], None]]] = []
        self._rates: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)
        self._told: tuple[object, ...] = ()
        self._told_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"esb-projection-{build.name}", daemon=True)

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def request_stop(self) -> None:
        """Let it end after the present batch, without waiting for that."""
        self._stopping.set()
        self._news.set()

    def notice(self) -> None:
        """There are new events."""
        self._news.set()

    def stop(self) -> None:
        """End after the present batch. The database stays open, to be read, until ``close``."""
        self.request_stop()
        if self._thread.is_alive():
            self._thread.join()
        self._wake(everyone=True)

    def close(self) -> None:
        """Stop, and close the database."""
        self.stop()
        if self.database is not None:
            self.database.close()
            self.database = None

    @property
    def is_running(self) -> bool:
        """Whether it may still move on."""
        return self.failure is None and not self._stopping.is_set()

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether it was stopped from outside."""
        return self._stopping.is_set()

    def events_per_second(self) -> float:
        """Events projected in a second, over the last few seconds; 0 if it rests."""
        samples = list(self._rates)
        if len(samples) < 2 or time.monotonic() - samples[-1][0] > 2.0:
            return 0.0
        (first_s, first), (last_s, last) = samples[0], samples[-1]
        return (last - first) / max(1e-6, last_s - first_s)

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until the position is reached; whether it is. False at once when it has stopped."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        waiter = (position, wake)
        with self._lock:
            if self.position >= position or not self.is_running:
                return self.position >= position
            self._waiters.append(waiter)
        try:
            await asyncio.wait_for(done.wait(), timeout_s)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self.position >= position

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._stopping.is_set() and self.failure is None:
            try:
                if self.database is None:
                    self._check_class()
                    self.database = open_build(self._store, self.build, self.definition)
                self._follow(self.database)
                retry_s = _FIRST_RETRY_S
            except (StorageError, InUseError) as error:  # a full disk, a file that is open elsewhere: it may pass
                self.trouble = error.message
                _log.warning("projection %s: %s Trying again in %.1f s.", self.build.name, error.message, retry_s)
                if isinstance(error, LostDatabaseError) and self.database is not None:
                    database, self.database = self.database, None
                    database.close()
                self._tell()
                self._stopping.wait(retry_s)
                retry_s = min(_MAX_RETRY_S, retry_s * 2)
            except BusError as error:
                self._fail(EventFailure(error.message, _now_ms()))
            except Exception as error:
                _log.exception("projection %s failed", self.build.name)
                self._fail(EventFailure(f"{type(error).__name__}: {error}", _now_ms()))
        self._tell()

    def _check_class(self) -> None:
        """Have the class of a projection that is one. Its code must be that of the build."""
        name = self.definition.class_name
        if name is None:
            return
        self._cls = load_class(name) if self._cls is None else self._cls
        if definition_of(self._cls).hash != self.build.hash:
            raise BusError(f"The code of {name} has changed; this build stays as it is until the new one has caught up.")

    def _follow(self, database: ProjectionDatabase) -> None:
        build = self.build
        fold = Fold(self.definition, database, self._cls, skip_position=build.skip_position)
        self.progress = fold.progress
        head = self._events.head(build.tenant_id)
        if fold.progress.position > head:
            told = f"It has seen position {fold.progress.position}, but the events end at {head}"
            self._fail(EventFailure(f"{told}: they were put back to an earlier state. Build the projection anew.", _now_ms()))
            return
        self._advance(fold.progress.position)
        query = self.definition.query
        while not self._stopping.is_set():
            self._news.clear()
            page = self._events.read(build.tenant_id, query, after_position=self.position, limit=BATCH_EVENTS)
            if page.events:
                failure = fold.project(page.events, page.position)
                self.progress = fold.progress
                self._rates.append((time.monotonic(), fold.progress.events))
                if failure is not None:
                    self._advance(fold.progress.position)
                    self._fail(failure)
                    return
            self.trouble = None
            became_live = page.is_end and not self.is_live
            self.is_live = page.is_end  # before those who wait for the position are woken: they may ask
            self.has_been_live = self.has_been_live or page.is_end
            # Where no event fits there is nothing to write: the position that is kept may stay behind this one.
            self._advance(page.position)
            if became_live:
                self._on_change()
            self._tell(busy=not page.is_end)
            if page.is_end:
                self._news.wait(_LOOK_AGAIN_S)

    def _fail(self, failure: EventFailure) -> None:
        self.is_live = False
        self._tell(failure=failure)  # first: who sees that it has failed may have it go on, and that goes by what is kept
        self.failure = failure
        self._wake(everyone=True)
        self._on_change()

    def _advance(self, position: int) -> None:
        self.position = position
        self._wake()

    def _wake(self, *, everyone: bool = False) -> None:
        with self._lock:
            ready = [each for each in self._waiters if everyone or each[0] <= self.position]
            self._waiters = [each for each in self._waiters if each not in ready]
        for _, wake in ready:
            wake()

    def _tell(self, *, busy: bool = False, failure: EventFailure | None = None) -> None:
        """Keep in the catalog how far it is, for other processes: when it rests, and now and then while it is busy."""
        now_s, failure = time.monotonic(), failure or self.failure
        told: tuple[Any, ...] = (self.position, self.is_live, failure, self.trouble)
        if told == self._told or (busy and now_s - self._told_at_s < _TELL_EVERY_S):
            return
        progress = Progress(self.position, self.progress.events, self.progress.skipped, self.progress.recorded_at_ms)
        try:
            self._store.put_progress(
                self.build.build_no,
                progress,
                is_live=self.is_live,
                failure=failure,
                trouble=self.trouble,
                at_ms=_now_ms(),
            )
            self._told, self._told_at_s = told, now_s
        except BusError as error:
            _log.warning("projection %s: its progress cannot be told: %s", self.build.name, error.message)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
