"""SQLite connections to the data folder's one database file, and what its errors mean.

One connection per thread for reading; writers of all processes take turns by a lock file, so that nobody polls for the
write lock and nobody starves.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from event_streaming_bus.errors import (
    ClosedError,
    CorruptLogError,
    DiskFullError,
    StorageError,
    UnsupportedFormatError,
)
from event_streaming_bus.fault_points import fault_point

FORMAT_VERSION: Final = 1
_APPLICATION_ID: Final = 0x45534231  # "ESB1"
_BUSY_TIMEOUT_S: Final = 30.0
_PAGE_BYTES: Final = 4096


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
    except UnicodeDecodeError as error:  # of text that SQLite has found in the file
        raise CorruptLogError(
            f"{path} is damaged: it has text that is none, met while {doing}. Restore the data folder from a backup.",
            path=str(path),
        ) from error


class SqliteDatabase:
    """The database file at ``path``, made if it is missing. Safe to use from any thread and any number of processes.

    The stores of a process that use one file share its connections: each is a ``SqliteDatabase`` of its own, and closed on its
    own.
    """

    def __init__(self, path: Path, *, synchronous: str = "FULL", tables: str = "") -> None:
        """``tables`` is SQL that makes what the owner needs, unless it is there."""
        self.path = path
        self._own: list[sqlite3.Connection] = []
        self._closed = False
        self._pool = _Pool.taken(path, synchronous)
        try:
            with storage_errors(path, "opening"), self.write_lock():
                self._pool.prepare()
                if tables:
                    self.connection().executescript(tables)
        except BaseException:
            self.close()
            raise

    def connect(self) -> sqlite3.Connection:
        """A new connection in autocommit mode, of this object alone; ``close`` closes it."""
        if self._closed:
            raise ClosedError
        connection = self._pool.connect()
        self._own.append(connection)
        return connection

    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if self._closed:
            raise ClosedError
        return self._pool.connection()

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the lock that lets one writer of all processes on this folder write."""
        with self._pool.write_lock():
            yield

    @contextmanager
    def querying(self, doing: str) -> Iterator[sqlite3.Connection]:
        """This thread's connection, for single statements."""
        connection = self.connection()
        with storage_errors(self.path, doing):
            yield connection

    @contextmanager
    def reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """This thread's connection, which sees the file as it is at one moment."""
        connection = self.connection()
        with storage_errors(self.path, doing):
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """A write transaction on this thread's connection: committed at the end, undone if anything is raised."""
        connection = self.connection()
        with storage_errors(self.path, doing), self.write_lock():
            fault_point("sqlite.begin")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                fault_point("sqlite.commit")
                connection.execute("COMMIT")
                fault_point("sqlite.committed")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close it; the last one of a file closes every connection. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._pool.give_back(self._own)


class _Pool:
    """The connections of this process to one file: one for each thread, for reading, and a lock for writing."""

    # By its users alone is a pool kept: one that nobody closes is closed with them, so that its file is left as it should be.
    _open: ClassVar["WeakValueDictionary[tuple[Path, str], _Pool]"] = WeakValueDictionary()
    _registry: ClassVar = threading.Lock()

    def __init__(self, path: Path, synchronous: str) -> None:
        self.path = path
        self._synchronous = synchronous
        self._users = 1
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # flock is per open file: the threads of this process need a lock of their own
        self._apart: list[sqlite3.Connection] = []  # those of no thread
        # By the number of its thread, not in a threading.local: in a thread that is not Python's own, such as those that several
        # workers of Bytewax run in, that lasts for one call into Python only, and each would open a connection.
        self._of_thread: dict[int, tuple[threading.Thread, sqlite3.Connection]] = {}
        try:
            # What is in the folder is for whoever runs the bus; those who want to share it change its mode.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"The data folder {path.parent} cannot be used: {error}.") from error
        self._inode = os.fstat(self._lock_fd).st_ino

    @classmethod
    def taken(cls, path: Path, synchronous: str) -> "_Pool":
        """The pool of a file, with one more user."""
        key = path.absolute(), synchronous
        with cls._registry:
            pool = cls._open.get(key)
            if pool is not None and pool.is_of_this_file():
                pool._users += 1
                return pool
            pool = cls._open[key] = cls(path, synchronous)
            return pool

    def is_of_this_file(self) -> bool:
        """Whether the folder is still the one that was opened, and was not removed and made anew."""
        try:
            return self.path.with_name(self.path.name + ".lock").stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def give_back(self, own: Collection[sqlite3.Connection]) -> None:
        """One user less, whose ``own`` connections are closed; all of them with the last."""
        with self._registry:
            self._users -= 1
            is_over = self._users == 0
            if is_over and self._open.get(key := (self.path.absolute(), self._synchronous)) is self:
                del self._open[key]
        with self._lock:
            for connection in own:
                connection.close()
            self._apart = [each for each in self._apart if each not in own]
            if is_over:
                for connection in (*self._apart, *(each for _, each in self._of_thread.values())):
                    connection.close()
                self._apart, self._of_thread = [], {}
        if is_over:
            os.close(self._lock_fd)

    def prepare(self) -> None:
        """Make the file, or see that it can be read."""
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

    def connect(self) -> sqlite3.Connection:
        """A new connection in autocommit mode, closed at the end."""
        connection = self._opened()
        with self._lock:
            self._apart.append(connection)
        return connection

    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        own = self._of_thread.get(threading.get_ident())
        if own is not None and own[0].is_alive():  # one that has ended may have had the same number
            return own[1]
        connection = self._opened()
        with self._lock:
            for number, (thread, each) in list(self._of_thread.items()):
                if not thread.is_alive():  # threads come and go; their connections must not pile up
                    del self._of_thread[number]
                    each.close()
            self._of_thread[threading.get_ident()] = threading.current_thread(), connection
        return connection

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        try:
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint=4000")
            connection.execute("PRAGMA cache_size=-16384")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the lock of this process and the one of all processes."""
        with self._writing:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
