"""Where the keys of subjects lie: in ``keys.db``, a SQLite file that keeps nothing of what was deleted, or in the database that
several nodes share."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from event_streaming_bus.errors import InUseError
from event_streaming_bus.store.database import Connection, PostgresPlace, open_database
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import SqliteDatabase, storage_errors

SQL: Final = load_queries("subject_keys.sql")
_TRUNCATE_S: Final = 30.0


class KeyTables(Protocol):
    """The tables of the keys, opened. ``place`` tells where they are."""

    @property
    def place(self) -> Path | PostgresPlace: ...

    def querying(self, doing: str) -> AbstractContextManager[Connection]:
        """A connection for single statements. One caller at a time."""
        ...

    def transaction(self, doing: str) -> AbstractContextManager[Connection]:
        """A write transaction that leaves nothing of what it deletes in the pages that it writes, where that is possible."""
        ...

    def data_version(self) -> int | None:
        """A number that changes with whatever others write; ``None`` where only the tables themselves tell. One caller at a
        time."""
        ...

    def scrub(self, wrapped: Sequence[bytes], *, anew: bool) -> None:
        """Leave nothing of deleted rows in the files, these wrapped keys above all; ``anew``: whatever the cost."""
        ...

    def close(self) -> None: ...


class KeyFile:
    """``keys.db``, made if it is missing, for its owner alone."""

    def __init__(self, path: Path) -> None:
        self.place: Final = path
        if not path.exists():
            # SQLite would let everybody read it. Only a new file may be opened past SQLite: see decision 0005.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = SqliteDatabase(path, tables=SQL["create_tables"])
        self._reading: sqlite3.Connection | None = None

    @contextmanager
    def querying(self, doing: str) -> Iterator[sqlite3.Connection]:
        """The connection for reading, one for all threads: it tells what others have written since it last looked."""
        with storage_errors(self.place, doing):
            if self._reading is None:
                self._reading = self._db.connect()
            yield self._reading

    @contextmanager
    def transaction(self, doing: str) -> Iterator[sqlite3.Connection]:
        """A write transaction."""
        with storage_errors(self.place, doing):
            self._db.connection().execute("PRAGMA secure_delete=ON")
        with self._db.transaction(doing) as db:
            yield db

    def data_version(self) -> int:
        """Of the connection for reading."""
        with self.querying("looking for changed keys") as db:
            (version,) = db.execute("PRAGMA data_version").fetchone()
            return int(version)

    def scrub(self, wrapped: Sequence[bytes], *, anew: bool) -> None:
        """The write-ahead log is emptied, and where SQLite has left a copy of one of these wrapped keys in an unused part of a
        page, as it does now and then in spite of ``secure_delete``, the file is written ``anew``. Raises ``InUseError`` after 30
        seconds."""
        with storage_errors(self.place, "scrubbing keys"), self._db.write_lock():
            connection = self._db.connection()
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA secure_delete=ON")
            self._truncate(connection)
            if wrapped and not anew:
                pages = connection.serialize()
                anew = any(each in pages for each in wrapped)
            if anew:
                connection.execute("VACUUM")
                self._truncate(connection)

    def _truncate(self, connection: sqlite3.Connection) -> None:
        until = time.monotonic() + _TRUNCATE_S
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise InUseError(f"The key is destroyed, but {self.place} is being read, which keeps old pages of it; try again.")
            time.sleep(0.01)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._reading = None


class SharedKeyTables:
    """The tables in a PostgreSQL database."""

    def __init__(self, place: PostgresPlace) -> None:
        self.place: Final = place
        self._db = open_database(place, tables="", name="subject_keys")

    def querying(self, doing: str) -> AbstractContextManager[Connection]:
        """A connection for single statements."""
        return self._db.querying(doing)

    def transaction(self, doing: str) -> AbstractContextManager[Connection]:
        """A write transaction."""
        return self._db.transaction(doing)

    def data_version(self) -> None:
        """None: nothing but the tables tells."""

    def scrub(self, wrapped: Sequence[bytes], *, anew: bool) -> None:
        """The table is written anew, which takes the file of before away. The server's write-ahead log and backups are beyond
        reach."""
        if wrapped or anew:
            with self._db.querying("scrubbing keys") as db:
                db.execute("VACUUM FULL subject_keys")

    def close(self) -> None:
        """Close it."""
        self._db.close()
