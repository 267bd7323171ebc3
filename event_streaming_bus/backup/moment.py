"""A data folder as it is at one moment, as a power cut would leave it, while others go on writing to it.

What must agree is in several files: flows keep their states beside the log, which has how far their output was written, and the
keys of persons are beside the events that are sealed with them. So all files are looked at in one moment, in which nobody writes:
the lock of all writers of the log is held, and so are those of the flows' recovery partitions. That takes milliseconds. Each file
is then copied from a read transaction that began there, for as long as it takes: SQLite keeps what these see.

At that moment the states of flows are never ahead of the log: an epoch's state is kept after its output has been written. Keys
are made before the events that need them, and projections read what has been appended. A folder that is made of all this is one
that lost its power then, and everything in it goes on as it does after that.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.doctor.folder_files import files_in
from event_streaming_bus.doctor.sqlite_files import opened
from event_streaming_bus.store.history.parquet_files import MANIFEST
from event_streaming_bus.store.sqlite import SqliteDatabase, storage_errors

SUFFIXES: Final = (".db", ".sqlite3", ".sqlite")
PARQUET: Final = "history/parquet"
_BUSY_TIMEOUT_S: Final = 5.0


class Moment(msgspec.Struct, frozen=True):
    """``databases``: the SQLite files by their paths within the folder, each in a read transaction of that moment. ``others``:
    the paths of all other files that were there. ``parquet``: what the list of the history's files of old days was, if any."""

    at_ms: int
    databases: Mapping[str, sqlite3.Connection]
    others: list[str]
    parquet: bytes | None


@contextmanager
def moment(folder: Path) -> Iterator[Moment]:
    """The folder as it is now; the read transactions end with the context.

    Writers wait meanwhile, but only until this yields. Raises ``StorageError`` for a file that cannot be read.
    """
    with ExitStack() as reading:
        with closing(SqliteDatabase(folder / "log.db")) as log, ExitStack() as writing:
            writing.enter_context(log.write_lock())
            paths = list(files_in(folder))
            for path in paths:
                if path.parent.parts[len(folder.parts) :][:1] == ("recovery",) and path.suffix == ".sqlite3":
                    with storage_errors(path, "waiting for its writer"):
                        writer = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
                        writing.enter_context(closing(writer))
                        writer.execute("BEGIN IMMEDIATE")
            databases = {}
            for path in paths:
                if path.suffix in SUFFIXES and not path.is_symlink():
                    with storage_errors(path, "reading"):
                        databases[path.relative_to(folder).as_posix()] = reading.enter_context(opened(path))
            at_ms = time.time_ns() // 1_000_000
            manifest = folder / PARQUET / MANIFEST
            parquet = manifest.read_bytes() if manifest.is_file() else None
        others = [path.relative_to(folder).as_posix() for path in paths if path.suffix not in SUFFIXES or path.is_symlink()]
        yield Moment(at_ms, databases, others, parquet)
