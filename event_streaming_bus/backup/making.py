"""Making a backup of a data folder that is in use."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.backup.manifest import NAME, BackedUpFile, Manifest, encoded
from event_streaming_bus.backup.moment import PARQUET, Moment, moment
from event_streaming_bus.backup.targets import Target, copied, described, target
from event_streaming_bus.doctor.folder_files import SET_ASIDE
from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.store import audit_key, master_key, subject_keys
from event_streaming_bus.store.history.parquet_files import MANIFEST
from event_streaming_bus.store.history.parquet_files import Manifest as ParquetManifest
from event_streaming_bus.store.server_calls import SERVER_FILE, TOKEN_FILE
from event_streaming_bus.store.sqlite import storage_errors

KEYS: Final = (subject_keys.FILE, master_key.FILE, audit_key.FILE, TOKEN_FILE)
"""What ``with_keys=False`` leaves out: whoever has the backup can then neither read what is personal, nor sign, nor log in."""
_PAGES: Final = 2048
_PAGE_BYTES: Final = 4096
_MADE_ANEW: Final = (".lock", "-wal", "-shm", ".duckdb", ".duckdb.wal", ".part", ".making", ".slot")

Progress = Callable[[int, int, str], None]


def make_backup(folder: Path, place: Path, *, with_keys: bool = True, progress: Progress | None = None) -> Manifest:
    """Copy a data folder, as it is at the moment when this is called, to ``place``: a new folder, or a tar file by its name.

    Servers, flows and publishers go on: they wait for some milliseconds at the beginning. What was acknowledged before is in the
    backup. What is made anew from the rest is not: the history but for its old days, projections in DuckDB, and what workers
    printed. Raises ``NotFoundError`` for a folder without a log, ``InvalidInputError`` for a place within the folder,
    ``AlreadyExistsError`` for one that is taken, ``StorageError``; and then leaves nothing behind.
    """
    folder, place = folder.resolve(), place.expanduser().resolve()
    if not (folder / "log.db").exists():
        raise NotFoundError(f"There is no data folder {folder}: it has no log.db.")
    if place.is_relative_to(folder):
        raise InvalidInputError(f"{place} is within the data folder; a backup belongs elsewhere, best on another disk")
    with target(place) as into, moment(folder) as now:
        return _Backup(folder, into, now, with_keys, progress).make()


class _Backup:
    def __init__(self, folder: Path, into: Target, now: Moment, with_keys: bool, progress: Progress | None) -> None:
        self._folder, self._into, self._now, self._with_keys = folder, into, now, with_keys
        self._files: list[BackedUpFile] = []
        self._left_out: list[str] = []
        self._counted = _parquet_files(now)
        self._others = [path for path in now.others if self._is_wanted(path)]
        self._progress, self._done_bytes = progress, 0
        sizes = [_size(db) for db in now.databases.values()]
        self._total_bytes = sum(sizes) + sum((folder / path).lstat().st_size for path in self._others if (folder / path).exists())

    def make(self) -> Manifest:
        # The log is the largest and comes last. The keys come first, so that one that is to be destroyed need not wait.
        paths = sorted(self._now.databases, key=lambda path: (path == "log.db", path != subject_keys.FILE, path))
        for path in paths:
            db = self._now.databases[path]
            if self._with_keys or path not in KEYS:
                self._copy_database(db, path)
            db.close()
        for path in self._others:
            self._copy_file(path)
        self._copy_parquet_manifest()
        manifest = Manifest(
            bus_version=version("event-streaming-bus"),
            made_at_ms=self._now.at_ms,
            has_keys=self._with_keys,
            left_out=self._left_out,
            files=sorted(self._files, key=lambda file: file.path),
        )
        copied(BytesIO(encoded(manifest)), NAME, self._into.staging(NAME))
        self._into.add(NAME)
        return manifest

    def _copy_database(self, db: sqlite3.Connection, path: str) -> None:
        made = self._into.staging(path)

        def told(status: int, remaining: int, total: int) -> None:
            self._tell((total - remaining) * _PAGE_BYTES, path)

        with storage_errors(self._folder / path, "copying"), closing(sqlite3.connect(made, isolation_level=None)) as copy:
            db.backup(copy, pages=_PAGES, progress=told)
        self._done_bytes += made.stat().st_size
        self._files.append(described(made, path))
        self._into.add(path)

    def _copy_file(self, path: str) -> None:
        source = self._folder / path
        if source.is_symlink():
            self._left_out.append(f"{path}: a symbolic link; back up what it leads to as well")
            return
        try:
            with source.open("rb") as file:
                self._files.append(copied(file, path, self._into.staging(path)))
        except FileNotFoundError:
            return  # it was removed since; of the history's files the manifest tells
        self._into.add(path)
        self._done_bytes += self._files[-1].size
        self._tell(0, path)

    def _copy_parquet_manifest(self) -> None:
        """The list of the history's files as it was, without those that were removed since then."""
        if self._now.parquet is None:
            return
        manifest = msgspec.json.decode(self._now.parquet, type=ParquetManifest)
        there = {file.path for file in self._files}
        kept = tuple(file for file in manifest.files if f"{PARQUET}/{file.name}" in there)
        for file in set(manifest.files) - set(kept):
            self._left_out.append(f"{PARQUET}/{file.name}: it is not there")
        data = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=kept)))
        path = f"{PARQUET}/{MANIFEST}"
        self._files.append(copied(BytesIO(data), path, self._into.staging(path)))
        self._into.add(path)

    def _is_wanted(self, path: str) -> bool:
        """Whether a file that is no database belongs in a backup: what a later start makes anew does not."""
        first = path.partition("/")[0]
        if path.endswith(_MADE_ANEW) or first == "logs" or path == SERVER_FILE or path == f"{PARQUET}/{MANIFEST}":
            return False
        if first.startswith((SET_ASIDE, "kafka-")) or path.startswith("history/parquet-set-aside"):
            return False
        if path.endswith(".parquet") and path.startswith(PARQUET):
            return path in self._counted
        return self._with_keys or path not in KEYS

    def _tell(self, more_bytes: int, path: str) -> None:
        if self._progress is not None:
            self._progress(min(self._done_bytes + more_bytes, self._total_bytes), self._total_bytes, path)


def _parquet_files(now: Moment) -> set[str]:
    """The history's files of old days that count."""
    if now.parquet is None:
        return set()
    manifest = msgspec.json.decode(now.parquet, type=ParquetManifest)
    return {f"{PARQUET}/{file.name}" for file in manifest.files}


def _size(db: sqlite3.Connection) -> int:
    (pages,), (page_bytes,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
    return int(pages * page_bytes)
