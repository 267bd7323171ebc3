"""The Parquet files that old rows of the history are in: one for each table and day, and a manifest of those that count.

The manifest is the truth: it names the files, and the offset in the stream ``_history`` below which all rows are in them. It is
replaced as a whole, after its files are on disk. Files that it does not name are left over from something that was broken off.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from event_streaming_bus.errors import StorageError
from event_streaming_bus.store.history.database import SQL, quoted
from event_streaming_bus.store.synced import sync

MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".parquet"
_PART: Final = ".part"
_READ_BYTES: Final = 1 << 20
_log: Final = logging.getLogger(__name__)


class ParquetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with the rows of a table that were made from the records from ``begin`` to before ``end``, of one day (UTC).
    ``format`` is the layout of the table, ``checksum`` the XXH3 (128 bits) of the file; older files have none."""

    table: str
    day: str
    begin: int
    end: int
    rows: int
    size: int
    format: int
    checksum: str = ""

    @property
    def name(self) -> str:
        """Its path within the folder."""
        return f"{self.table}/{self.day}/{self.begin:014d}-{self.end:014d}{SUFFIX}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The files that count, and how far they go, of the history of the stream with this id."""

    stream_id: str
    rolled_until: int = 0
    files: tuple[ParquetFile, ...] = ()


class ParquetFolder:
    """The folder of a history's files. For one thread at a time."""

    def __init__(self, path: Path, stream_id: str) -> None:
        self.path = path
        self._stream_id = stream_id

    def manifest(self) -> Manifest:
        """The files that count and are there. Files of another log's history are set aside. Raises ``StorageError``."""
        try:
            found = msgspec.json.decode((self.path / MANIFEST).read_bytes(), type=Manifest)
        except FileNotFoundError:
            return Manifest(stream_id=self._stream_id)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StorageError(
                f"{self.path / MANIFEST} cannot be read: {error}. Restore it, or move {self.path} away."
            ) from error
        if found.stream_id != self._stream_id:
            self.set_aside()
            return Manifest(stream_id=self._stream_id)
        there = tuple(file for file in found.files if (self.path / file.name).is_file())
        for file in set(found.files) - set(there):
            _log.error("%s is gone, and with it %d rows of %s of the history", self.path / file.name, file.rows, file.day)
        return msgspec.structs.replace(found, files=there)

    def keep(self, manifest: Manifest) -> None:
        """From now on this manifest counts."""
        part = self.path / (MANIFEST + _PART)
        with _errors(part):
            self.path.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as out:
                out.write(msgspec.json.format(msgspec.json.encode(manifest)))
                out.flush()
                os.fsync(out.fileno())
            part.replace(self.path / MANIFEST)
            sync(self.path)

    def part_of(self, file: ParquetFile) -> Path:
        """Where a file is to be written before it is ``finished``."""
        path = self.path / (file.name + _PART)
        with _errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        return path

    def finished(self, file: ParquetFile) -> ParquetFile:
        """Put a file that was written under its name, on disk; returns it with its size and checksum."""
        part, path = self.path / (file.name + _PART), self.path / file.name
        with _errors(path):
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
            sync(path.parent)
            return msgspec.structs.replace(file, size=path.stat().st_size, checksum=checksum_of(path))

    def remove(self, files: Iterable[ParquetFile]) -> None:
        """Remove files that do not count any more."""
        for file in files:
            path = self.path / file.name
            with _errors(path):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def remove_left_over(self, manifest: Manifest) -> None:
        """Remove what was left over by something that was broken off."""
        names = {self.path / file.name for file in manifest.files}
        for path in self.path.glob("*/*/*"):
            if path not in names and path.name.endswith((SUFFIX, SUFFIX + _PART)):
                with _errors(path):
                    path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Move the folder away: its files are of another log, or of a time that this log does not know of."""
        to = self.path.with_name(f"{self.path.name}-set-aside-{time.time_ns() // 1_000_000}")
        with _errors(to):
            self.path.rename(to)
        _log.warning("the files in %s are of another log, or of one that had more; they are in %s now", self.path, to)


def checksum_of(path: Path) -> str:
    """The XXH3 (128 bits) of a file, as ``ParquetFile`` has it."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def view_of(table: str, manifest: Manifest, folder: Path) -> str:
    """What a table is as a whole: its rows in the database, and those in files."""
    parts = [SQL["base_rows"].format(table=table)]
    mine = [file for file in manifest.files if file.table == table]
    for layout in sorted({file.format for file in mine}):
        paths = ", ".join(quoted(str(folder / file.name)) for file in mine if file.format == layout)
        parts.append(SQL["file_rows"].format(paths=paths))
    return " UNION ALL BY NAME ".join(parts)


def total(files: Sequence[ParquetFile]) -> tuple[int, int]:
    """``(rows, bytes)`` of files."""
    return sum(file.rows for file in files), sum(file.size for file in files)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be used: {error}.") from error
