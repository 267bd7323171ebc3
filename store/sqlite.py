"""SQLite connections to the data folder's one database file, and what its errors mean.

One connection per thread for reading; writers of all processes take turns by a lock file, so that nobody polls for the
write lock and nobody starves.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from event_streaming_bus.errors import (
    ClosedError,
    CorruptLogError,
    DiskFullError,
    StorageError,
    UnsupportedFormatError,
)

FORMAT_VERSION: Final = 1
_APPLICATION_ID: Final = 0x45534231  # "ESB1"
_BUSY_TIMEOUT_S: Final = 30.0
_PAGE_BYTES: Final = 8192


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Raise SQLite's errors as ``StorageError``s that say what was being done to which file."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"The disk is full: {doing} in {path} was undone. Free some space and try again.") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise CorruptLogError(
                f"{path} is damaged: {error} while {doing}. Restore the data folder from a backup.", path=str(path)
            ) from error
        raise StorageError(f"{doing} in {path} failed: {error}.") from error


class Database:
    """The database file at ``path``, made if it is missing. Safe to use from any thread and any number of processes."""

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self.path = path
        self._synchronous = synchronous
        self._local = threading.local()
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # flock is per open file: the threads of this process need a lock of their own
        self._connections: list[tuple[threading.Thread | None, sqlite3.Connection]] = []
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"The data folder {path.parent} cannot be used: {error}.") from error
        try:
            with storage_errors(path, "opening"), self.write_lock():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        connection = self.connection()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"{self.path} has format {version}; this version of the bus reads up to {FORMAT_VERSION}. Upgrade the bus."
            )
        self._check_not_truncated(connection)
        if version == 0:
            connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")

    def _check_not_truncated(self, connection: sqlite3.Connection) -> None:
        """Raise ``CorruptLogError`` if the file is shorter than its own header says.

        The file is never opened but by SQLite: closing any other descriptor of it would drop the locks that this process holds
        (POSIX locks belong to the process), and another process could then delete the write-ahead log that this one is using.
        """
        wal = self.path.with_name(self.path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            return  # the newest pages are in there, so the file may be short
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        size, expected = self.path.stat().st_size, pages * page_bytes
        if size and size < expected:
            raise CorruptLogError(
                f"{self.path} is truncated: it has {size} bytes, its header says {expected}. Restore the data folder from a "
                "backup.",
                path=str(self.path),
            )

    def connect(self, owner: threading.Thread | None = None) -> sqlite3.Connection:
        """A new connection in autocommit mode; ``close`` closes it with the rest, or sooner if its owner has ended."""
        if self._closed:
            raise ClosedError
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        with self._lock:
            ended = [entry for entry in self._connections if entry[0] is not None and not entry[0].is_alive()]
            for entry in ended:  # threads come and go; their connections must not pile up
                self._connections.remove(entry)
                entry[1].close()
            self._connections.append((owner, connection))
        connection.execute(f"PRAGMA synchronous={self._synchronous}")
        connection.execute("PRAGMA wal_autocheckpoint=2000")
        connection.execute("PRAGMA cache_size=-16384")
        return connection

    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._closed:
            connection = self._local.connection = self.connect(threading.current_thread())
        return connection

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the lock that lets one writer of all processes on this folder write."""
        with self._writing:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """A write transaction on this thread's connection: committed at the end, undone if anything is raised."""
        connection = self.connection()
        with storage_errors(self.path, doing), self.write_lock():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close every connection. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            for _, connection in self._connections:
                connection.close()
            self._connections.clear()
        os.close(self._lock_fd)
