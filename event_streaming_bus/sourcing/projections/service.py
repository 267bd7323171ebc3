"""ProjectionService: declare projections, run them, see how they do, and ask their tables."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from event_streaming_bus.errors import InUseError, InvalidInputError, NotFoundError, QueryError, StorageError
from event_streaming_bus.models import DEFAULT_TENANT, rfc3339
from event_streaming_bus.registry.readers import StorageReaders
from event_streaming_bus.sourcing.projection_errors import (
    ProjectionFailedError,
    ProjectionLagError,
    ProjectionNotRunningError,
)
from event_streaming_bus.sourcing.projections import builds as catalog
from event_streaming_bus.sourcing.projections.builds import (
    Applied,
    Builds,
    builds_of,
    definition_of_class,
    found,
    kept_definition,
)
from event_streaming_bus.sourcing.projections.classes import Projection, load_class
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition, StoreKind
from event_streaming_bus.sourcing.projections.follower import Events
from event_streaming_bus.sourcing.projections.queries import DEFAULT_ROWS, MAX_ROWS, answer_data, row_query
from event_streaming_bus.sourcing.projections.reading import read_projection, read_projection_file
from event_streaming_bus.sourcing.projections.runner import ProjectionRunner
from event_streaming_bus.sourcing.projections.status import status_data
from event_streaming_bus.store.projections import BuildRecord, ProjectionRecord, ProjectionStore
from event_streaming_bus.store.projections_base import MAX_KEPT_SKIPPED, Answer, Bounds
from event_streaming_bus.store.storage import Storage, open_storage

Declared = Mapping[str, Any] | ProjectionDefinition | type[Projection] | str | os.PathLike[str]
"""A projection: plain data, a definition, a class, or the path of a file."""

T = TypeVar("T")
MAX_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.02
_TRIES: Final = 20
_NOBODY_S: Final = 0.5
"""After so long without anybody who runs projections, nobody is about to."""


class ProjectionService:
    """The projections of a data folder. ``start`` runs them in this process, if no other does; without it they are only read.

    Wherever a ``position`` is given (as ``append`` returned it), the answer is not older than that, or ``ProjectionLagError`` is
    raised after ``timeout_s``. ``async with`` starts and closes.
    """

    def __init__(self, storage: Storage | str | os.PathLike[str] | None = None, *, events: Events | None = None) -> None:
        self._storage = storage if isinstance(storage, Storage) else open_storage(storage)
        self._readers = StorageReaders(self._storage)  # for payloads in AVRO
        self._events: Events = self._storage.aggregates if events is None else events
        self._store = ProjectionStore(self._storage.folder)
        self._classes: dict[str, type[Projection]] = {}
        self._runner = ProjectionRunner(self._store, self._events, self._classes)

    def start(self, *, must: bool = False, only: str | None = None) -> None:
        """Run the projections here from now on, or as soon as no other process does; ``must``: or raise ``InUseError``.

        ``only``: those of this name, and no others.
        """
        self._runner.start(must=must, only=only)

    def stop_running(self) -> None:
        """Run projections here no more; another process may. They can still be asked."""
        self._runner.stop()

    def close(self) -> None:
        """Stop running projections here. Closing twice is harmless."""
        self._runner.stop()
        self._store.close()

    async def __aenter__(self) -> "ProjectionService":
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.close)

    @property
    def is_owner(self) -> bool:
        """Whether this process runs the projections."""
        return self._runner.is_owner

    # --- declaring --------------------------------------------------------------------------------------------------------

    def read(self, declared: Declared) -> list[ProjectionDefinition]:
        """The definitions that are declared, checked; a file may hold several. Raises ``ProjectionConfigError``."""
        if isinstance(declared, type):
            definition = definition_of_class(declared)
            self._classes[definition.class_name or ""] = declared
            return [definition]
        if isinstance(declared, str | os.PathLike):
            definitions = read_projection_file(Path(declared))
        else:
            definitions = [declared if isinstance(declared, ProjectionDefinition) else read_projection(declared)]
        return [self._with_class(each) for each in definitions]

    def _with_class(self, definition: ProjectionDefinition) -> ProjectionDefinition:
        name = definition.class_name
        if name is None or definition.tables:
            return definition
        return definition_of_class(self._classes.get(name) or load_class(name), definition)

    async def apply(self, declared: Declared, tenant_id: str = DEFAULT_TENANT) -> list[Applied]:
        """Declare projections. One whose rows would change is built anew in the background, and answers as before until then.

        Declaring it again as it is does nothing. Raises ``ProjectionConfigError``, and then nothing is changed.
        """

        def work() -> list[Applied]:
            definitions = self.read(declared)
            return [catalog.apply(self._store, tenant_id, definition) for definition in definitions]

        return await self._changing(work)

    async def preview(self, declared: Declared, tenant_id: str = DEFAULT_TENANT) -> list[Applied]:
        """What ``apply`` would do."""
        definitions = await asyncio.to_thread(self.read, declared)
        return [Applied(each.name, catalog.preview(self._store, tenant_id, each)) for each in definitions]

    async def pause(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Let a projection rest. It still answers."""
        await self._changing(lambda: catalog.pause(self._store, tenant_id, name))

    async def resume(self, name: str, tenant_id: str = DEFAULT_TENANT, *, skip_event: bool = False) -> None:
        """Let a projection go on that rests or has failed; ``skip_event``: without the event that it failed at."""
        await self._changing(lambda: catalog.resume(self._store, tenant_id, name, skip_event=skip_event))

    async def rebuild(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Build a projection anew from the first event, in the background; the present rows answer until that is done."""
        await self._changing(lambda: catalog.rebuild(self._store, tenant_id, name))

    async def delete(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Forget a projection and its rows."""
        await self._changing(lambda: catalog.delete(self._store, tenant_id, name))

    async def _changing(self, work: Callable[[], T]) -> T:
        result = await asyncio.to_thread(work)
        self._runner.notice()
        return result

    # --- looking ----------------------------------------------------------------------------------------------------------

    async def list_projections(self, tenant_id: str = DEFAULT_TENANT) -> list[dict[str, Any]]:
        """The status of every projection, by name."""

        def work() -> list[dict[str, Any]]:
            head, is_run = self._events.head(tenant_id), self._runner.owner is not None
            told = []
            for each in self._store.projections(tenant_id):
                with suppress(NotFoundError):  # it was deleted a moment ago
                    told.append(self._status(each.name, tenant_id, head, is_run=is_run)[1])
            return told

        return await asyncio.to_thread(work)

    async def describe(self, name: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The status of a projection, its ``definition``, and ``skipped_events``, the newest that it passed over.

        These are null where only the process that runs it can tell.
        """

        def work() -> dict[str, Any]:
            head, is_run = self._events.head(tenant_id), self._runner.owner is not None
            record, status = self._status(name, tenant_id, head, is_run=is_run)
            return status | {"definition": kept_definition(record.definition).to_data()}

        told = await asyncio.to_thread(work)
        try:
            return told | {"skipped_events": await self.skipped(name, tenant_id, limit=20) if told["skipped"] else []}
        except InUseError:  # a DuckDB file tells nothing to other processes
            return told | {"skipped_events": None}

    async def skipped(self, name: str, tenant_id: str = DEFAULT_TENANT, *, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events that a projection passed over, and why; newest first."""
        sql = "SELECT position, event_id, event_type, aggregate_id, message, at_ms FROM _esb_skipped ORDER BY position DESC"
        answer = await asyncio.to_thread(
            self._ask, name, tenant_id, f"{sql} LIMIT {min(max(1, limit), MAX_KEPT_SKIPPED)}", (), Bounds()
        )
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        return [{key: value for key, value in row.items() if key != "at_ms"} | {"at": rfc3339(row["at_ms"])} for row in rows]

    def _found(self, name: str, tenant_id: str) -> tuple[ProjectionRecord, Builds]:
        """A projection and its builds, as they are at one moment."""
        record, builds = self._store.find_with_builds(tenant_id, name)
        record = found(record, name)
        return record, builds_of(record, builds)

    def _status(self, name: str, tenant_id: str, head: int, *, is_run: bool) -> tuple[ProjectionRecord, dict[str, Any]]:
        record, builds = self._found(name, tenant_id)
        active, building = (None if each is None else self._runner.follower(each) for each in builds)
        return record, status_data(record, builds, (active, building), head, is_run=is_run)

    # --- asking -----------------------------------------------------------------------------------------------------------

    async def rows(
        self,
        name: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        table: str | None = None,
        where: Mapping[str, Any] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int = DEFAULT_ROWS,
        cursor: str | None = None,
        position: int | None = None,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Rows of a table, as ``rows``, the ``cursor`` of the next page, and the ``position`` that they are of.

        ``where``: by column a value, or an object with ``eq``, ``ne``, ``lt``, ``le``, ``gt``, ``ge`` or ``in``. ``order``:
        columns, with ``-`` in front for the highest first.
        """
        at = 0 if position is None else await self.wait_for(name, position, timeout_s, tenant_id)

        def work() -> dict[str, Any]:
            for _ in range(_TRIES):
                definition = self._answering(name, tenant_id)[1]
                query = row_query(definition, table=table, where=where, order=order, limit=limit, cursor=cursor)
                try:
                    answer = self._ask(name, tenant_id, query.sql, query.values, Bounds(timeout_s, MAX_ROWS + 1), definition)
                except _SwappedError:
                    continue
                return query.page(answer)
            raise QueryError(f"{name} is being changed again and again; try later")

        return _not_before(await asyncio.to_thread(work), at)

    async def sql(
        self,
        name: str,
        statement: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        parameters: Sequence[Any] = (),
        position: int | None = None,
        timeout_s: float = 10.0,
        max_rows: int = MAX_ROWS,
    ) -> dict[str, Any]:
        """The answer to one SELECT over the projection's tables: ``columns``, ``rows``, ``truncated``, and the ``position``.

        Nothing but its tables can be read, and nothing changed. Raises ``QueryError``, also after ``timeout_s``.
        """
        at = 0 if position is None else await self.wait_for(name, position, timeout_s, tenant_id)
        if not 0 < timeout_s <= MAX_TIMEOUT_S or not 1 <= max_rows <= MAX_ROWS:
            raise InvalidInputError(f"expected a timeout_s up to {MAX_TIMEOUT_S:g} and 1 to {MAX_ROWS:,} max_rows")
        bounds = Bounds(timeout_s, max_rows)
        answer = await asyncio.to_thread(self._ask, name, tenant_id, statement, parameters, bounds)
        return _not_before(answer_data(answer), at)

    def _answering(self, name: str, tenant_id: str) -> tuple[BuildRecord, ProjectionDefinition]:
        active = self._found(name, tenant_id)[1].active
        if active is None:
            raise ProjectionNotRunningError(f"The projection {name} has no rows yet.", name=name)
        return active, kept_definition(active.definition)

    def _ask(
        self,
        name: str,
        tenant_id: str,
        sql: str,
        parameters: Sequence[Any],
        bounds: Bounds,
        expected: ProjectionDefinition | None = None,
    ) -> Answer:
        for attempt in range(_TRIES):
            build, definition = self._answering(name, tenant_id)
            if expected is not None and definition != expected:
                raise _SwappedError
            try:
                return self._ask_build(build, definition, sql, parameters, bounds)
            except (QueryError, StorageError):
                if self._answering(name, tenant_id)[0].build_no == build.build_no:
                    raise  # else its database was closed meanwhile
            except FileNotFoundError:  # swapped at this very moment, or never run
                if attempt and not self._runner.is_owner:
                    break
                time.sleep(_POLL_S * attempt)
        raise ProjectionNotRunningError(f"The projection {name} has no rows yet: nobody has run it.", name=name)

    def _ask_build(
        self, build: BuildRecord, definition: ProjectionDefinition, sql: str, parameters: Sequence[Any], bounds: Bounds
    ) -> Answer:
        if definition.store is StoreKind.SQLITE:
            from event_streaming_bus.store.projections_sqlite import SUFFIX, query_sqlite

            return query_sqlite(self._store.file(build.tenant_id, build.name, build.build_no, SUFFIX), sql, parameters, bounds)
        from event_streaming_bus.store import projections_duckdb

        follower = self._runner.follower(build)
        database = follower.database if follower is not None else None
        if isinstance(database, projections_duckdb.DuckdbProjection):
            return database.query(sql, parameters, bounds)
        if follower is not None and follower.is_running:
            raise FileNotFoundError  # it is being opened
        path = self._store.file(build.tenant_id, build.name, build.build_no, projections_duckdb.SUFFIX)
        return projections_duckdb.query_duckdb(path, sql, parameters, bounds)

    async def wait_for(
        self, name: str, position: int | None = None, timeout_s: float = 10.0, tenant_id: str = DEFAULT_TENANT
    ) -> int:
        """Wait until the projection has come to a position (None: to the newest event of now); the position that it is at.

        Whoever asks it then sees everything up to there. Raises ``ProjectionLagError`` after ``timeout_s``, and at once
        ``ProjectionFailedError`` if it has stopped, ``ProjectionNotRunningError`` if nobody runs it.
        """
        if position is None:
            position = await asyncio.to_thread(self._events.head, tenant_id)
        run_at_s = time.monotonic()
        until_s = run_at_s + timeout_s
        while True:
            record, builds = await asyncio.to_thread(self._found, name, tenant_id)
            active = builds.active
            if active is None:
                raise ProjectionNotRunningError(f"The projection {name} has no rows yet.", name=name)
            follower = self._runner.follower(active)
            left_s = until_s - time.monotonic()
            if follower is not None:
                reached = await follower.reached(position, min(max(0.0, left_s), 1.0))
                at, failure = follower.position, follower.failure
            else:
                at, failure = active.progress.position, active.failure
                reached = at >= position
            if reached:
                return at
            if failure is not None:
                told = f"The projection {name} has stopped at position {at}: {failure.message}"
                raise ProjectionFailedError(told, name=name, position=at, event_id=failure.event_id)
            if record.is_paused:
                raise ProjectionNotRunningError(f"The projection {name} is paused, at position {at}.", name=name, position=at)
            if follower is not None or self._runner.is_started or await asyncio.to_thread(lambda: self._runner.owner) is not None:
                run_at_s = time.monotonic()
            elif time.monotonic() - run_at_s > _NOBODY_S:
                raise ProjectionNotRunningError(f"Nobody runs the projection {name}, which is at position {at}.", name=name)
            if left_s <= 0:
                told = f"The projection {name} has not come to position {position} within {timeout_s:g} s; it is at {at}."
                raise ProjectionLagError(told, name=name, position=at, wanted=position)
            await asyncio.sleep(_POLL_S if follower is None or not follower.is_running else 0)


def _not_before(told: dict[str, Any], at: int) -> dict[str, Any]:
    """The answer with the position that it is of: where no event fits, the one that is kept may be behind what was seen."""
    return told | {"position": max(at, told["position"])}


class _SwappedError(Exception):
    """Another build answers now than the one that the question was made for."""
