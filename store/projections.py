"""The catalog of projections: what was declared, the builds of each, and which of them answers.

A *build* is one run of a definition over the events, with a database file of its own. Builds come and go; the one that a
projection names as active answers.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from event_streaming_bus.errors import StorageError
from event_streaming_bus.models import JsonValue
from event_streaming_bus.store.projections_base import Progress
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import SqliteDatabase, storage_errors

SQL: Final = load_queries("projections.sql")
FOLDER: Final = "projections"
_CATALOG: Final = "catalog.db"
_OWNER: Final = "owner.lock"


class EventFailure(msgspec.Struct, frozen=True):
    """Why a build has stopped. ``position`` and the event are null if it was no event's fault."""

    message: str
    at_ms: int
    position: int | None = None
    event_id: str | None = None
    event_type: str | None = None
    aggregate_id: str | None = None


class BuildRecord(msgspec.Struct, frozen=True):
    """A build. ``definition`` is what it runs, as JSON; ``retries`` grows with every command to run it anew.

    ``progress`` is what its runner last told, a fraction of a second old: what is in the database is never behind it.
    ``is_live``: it had seen the end of the events by then. ``trouble``: what goes wrong at the moment and is tried again.
    """

    build_no: int
    tenant_id: str
    name: str
    hash: str
    definition: str
    started_at_ms: int
    retries: int
    skip_position: int | None
    progress: Progress
    is_live: bool
    failure: EventFailure | None
    trouble: str | None
    updated_at_ms: int


class ProjectionRecord(msgspec.Struct, frozen=True):
    """A projection as it was last declared, ``definition`` as JSON."""

    tenant_id: str
    name: str
    definition: str
    is_paused: bool
    active_build: int | None
    created_at_ms: int
    changed_at_ms: int


class ProjectionStore:
    """The catalog of a data folder. Safe to use from any thread and any number of processes."""

    def __init__(self, data_folder: Path) -> None:
        self.folder = data_folder / FOLDER
        path = self._path = self.folder / _CATALOG
        # What is lost with the power is made again from the events: it need not be on disk at once.
        self._db = SqliteDatabase(path, synchronous="NORMAL", tables=SQL["create_tables"])

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    def file(self, tenant_id: str, name: str, build_no: int, suffix: str) -> Path:
        """The database file of a build. Its folder is made."""
        folder = self.folder / quote(tenant_id, safe="").replace(".", "%2E")
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.b{build_no}.{suffix}"

    def stray_files(self) -> list[Path]:
        """The files of builds that there are no more."""
        with storage_errors(self._path, "reading builds"):
            known = {f"b{number}" for (number,) in self._db.connection().execute(SQL["select_build_numbers"])}
        found = [path for path in self.folder.glob("*/*.b*.*") if path.name.split(".")[1] not in known]
        return sorted(path for path in found if path.name.split(".")[1][1:].isdigit())

    def change_no(self) -> int:
        """A number that grows with every change of a projection or of its builds; progress does not count."""
        with storage_errors(self._path, "looking for changed projections"):
            return int(self._db.connection().execute(SQL["select_change_no"]).fetchone()[0])

    def projections(self, tenant_id: str | None = None) -> list[ProjectionRecord]:
        """The projections of a tenant or of all, by name."""
        with storage_errors(self._path, "reading projections"):
            return ProjectionTables(self._db.connection()).projections(tenant_id)

    def builds(self, tenant_id: str, name: str) -> list[BuildRecord]:
        """The builds of a projection, the oldest first."""
        with storage_errors(self._path, "reading builds"):
            return ProjectionTables(self._db.connection()).builds(tenant_id, name)

    def find_with_builds(self, tenant_id: str, name: str) -> tuple[ProjectionRecord | None, list[BuildRecord]]:
        """A projection and its builds as they are at one moment: a swap changes both."""
        with self._db.reading("reading a projection and its builds") as db:
            tables = ProjectionTables(db)
            return tables.find(tenant_id, name), tables.builds(tenant_id, name)

    def put_progress(
        self, build_no: int, progress: Progress, *, is_live: bool, failure: EventFailure | None, trouble: str | None, at_ms: int
    ) -> None:
        """Tell others how far a build has come."""
        failed = None if failure is None else msgspec.json.encode(failure).decode()
        values = (*msgspec.structs.astuple(progress), is_live, failed, trouble, at_ms, build_no)
        with self._db.transaction("keeping the progress of a projection") as db:
            db.execute(SQL["update_progress"], values)

    @contextmanager
    def writing(self, doing: str) -> Iterator["ProjectionTables"]:
        """The tables in a write transaction: kept at the end, undone if anything is raised. It counts as a change."""
        with self._db.transaction(doing) as db:
            yield ProjectionTables(db)
            db.execute(SQL["update_change_no"])


class ProjectionTables:
    """The tables within one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def projections(self, tenant_id: str | None = None) -> list[ProjectionRecord]:
        """The projections of a tenant or of all, by name."""
        rows = self._db.execute(SQL["select_all"]) if tenant_id is None else self._db.execute(SQL["select_tenant"], (tenant_id,))
        return [_projection(row) for row in rows]

    def find(self, tenant_id: str, name: str) -> ProjectionRecord | None:
        """The projection of this name."""
        row = self._db.execute(SQL["select_one"], (tenant_id, name)).fetchone()
        return _projection(row) if row else None

    def builds(self, tenant_id: str, name: str) -> list[BuildRecord]:
        """The builds of a projection, the oldest first."""
        return [_build(row) for row in self._db.execute(SQL["select_builds"], (tenant_id, name))]

    def put(self, tenant_id: str, name: str, definition: str, at_ms: int) -> None:
        """Keep a definition, in the place of the one before."""
        self._db.execute(SQL["upsert_projection"], (tenant_id, name, definition, at_ms, at_ms))

    def pause(self, tenant_id: str, name: str, is_paused: bool) -> None:
        """Keep whether the projection is to rest."""
        self._db.execute(SQL["update_paused"], (is_paused, tenant_id, name))

    def activate(self, tenant_id: str, name: str, build_no: int) -> None:
        """Let this build answer."""
        self._db.execute(SQL["update_active"], (build_no, tenant_id, name))

    def add_build(self, tenant_id: str, name: str, hash_: str, definition: str, at_ms: int) -> int:
        """Begin a build; its number."""
        number = self._db.execute(SQL["insert_build"], (tenant_id, name, hash_, definition, at_ms, at_ms)).lastrowid
        return int(number or 0)

    def redefine(self, build_no: int, definition: str) -> None:
        """Let a build go on by a definition that makes the same rows."""
        self._db.execute(SQL["update_build_definition"], (definition, build_no))

    def retry(self, build_no: int, skip_position: int | None = None) -> None:
        """Let a build that failed go on, without the event at ``skip_position``."""
        self._db.execute(SQL["update_retry"], (skip_position, build_no))

    def drop_build(self, build_no: int) -> None:
        """Forget a build. Its file is removed by whoever runs projections."""
        self._db.execute(SQL["delete_build"], (build_no,))

    def drop(self, tenant_id: str, name: str) -> None:
        """Forget a projection and its builds."""
        self._db.execute(SQL["delete_builds"], (tenant_id, name))
        self._db.execute(SQL["delete_projection"], (tenant_id, name))


def _projection(row: tuple[JsonValue, ...]) -> ProjectionRecord:
    tenant_id, name, definition, is_paused, active, created, changed = row
    return ProjectionRecord(tenant_id, name, definition, bool(is_paused), active, created, changed)


def _build(row: tuple[JsonValue, ...]) -> BuildRecord:
    number, tenant_id, name, hash_, definition, started, retries, skip_position, *progress, is_live, failure, trouble, updated = (
        row
    )
    failed = None if failure is None else msgspec.json.decode(failure, type=EventFailure)
    return BuildRecord(
        build_no=number,
        tenant_id=tenant_id,
        name=name,
        hash=hash_,
        definition=definition,
        started_at_ms=started,
        retries=retries,
        skip_position=skip_position,
        progress=Progress(*progress),
        is_live=bool(is_live),
        failure=failed,
        trouble=trouble,
        updated_at_ms=updated,
    )


class Ownership:
    """The right to run the projections of a data folder, which one process at a time has."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _OWNER
        self._fd: int | None = None

    def take(self) -> bool:
        """Take it if it is free; whether this has it now."""
        if self._fd is None:
            fd = self._locked(fcntl.LOCK_EX)
            if fd is not None:
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                self._fd = fd
        return self._fd is not None

    @property
    def is_held(self) -> bool:
        """Whether this has it."""
        return self._fd is not None

    def owner(self) -> int | None:
        """The process that has it, whichever it is; ``None`` if none has, 0 if it is not known which."""
        if self._fd is not None:
            return os.getpid()
        fd = self._locked(fcntl.LOCK_SH)
        if fd is not None:
            os.close(fd)
            return None
        text = self._path.read_text("utf-8")
        return int(text) if text.isdigit() else 0

    def _locked(self, kind: int) -> int | None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be opened: {error}.") from error
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def release(self) -> None:
        """Give it back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
