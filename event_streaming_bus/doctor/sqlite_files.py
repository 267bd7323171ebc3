"""SQLite files opened for looking: nothing in them is changed, nor is what lies beside them but for SQLite's own ``-shm``."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from event_streaming_bus.doctor.findings import RESTORE, Examination, Finding, Repair
from event_streaming_bus.store.sqlite import FORMAT_VERSION

UNREADABLE: Final = (sqlite3.Error, TypeError, ValueError, LookupError, OverflowError)
"""What reading the rows of a damaged file may raise: SQLite hands out whatever a page says, of any type."""
_MAX_PROBLEMS: Final = 20
_BUSY_TIMEOUT_S: Final = 30.0


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as it is at this moment, for reading only. Raises ``sqlite3.Error``.

    A write-ahead log that is not empty is read, but stays: an ordinary connection would write it back when it is closed. The file
    is opened by SQLite alone: closing any other descriptor of it would drop the locks that this process may hold on it.
    """
    wal = path.with_name(f"{path.name}-wal")
    mode = "ro" if wal.exists() and wal.stat().st_size else "rw"
    try:
        db = _connected(path, mode)
    except sqlite3.OperationalError:
        db = _connected(path, "ro&immutable=1")  # in a folder that nobody may write to, so nobody does
    with closing(db):
        yield db


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        db.text_factory = lambda data: data.decode("utf-8", "replace")  # what is no text must not end the examination
        db.execute("PRAGMA query_only=1")
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except UnicodeDecodeError as error:  # what SQLite says is wrong holds bytes of the file
        db.close()
        raise sqlite3.DatabaseError("what the file says of its own tables is no text") from error
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def examined(
    exam: Examination, path: Path, name: str, *, advice: str = RESTORE, repair: Repair | None = None
) -> Iterator[sqlite3.Connection | None]:
    """The file, after its own structure was checked; None if it cannot be read at all, which is a finding then.

    What SQLite raises within is a finding too: a damaged page may be met by any statement. ``advice`` and ``repair`` say what
    helps.
    """

    def found(problem: str, place: str, message: str) -> None:
        meaning = f"{message}. What lies in the rest of the file can be read."
        if problem != "damaged":
            meaning = f"{message}. Nothing in the file can be read."
        exam.found(Finding(file=name, place=place, problem=problem, meaning=meaning, advice=advice, repair=repair))

    try:
        with opened(path) as db:
            exam.counted("SQLite files")
            if (truncated := _truncated(db, path)) is not None:
                found("truncated", "the end of the file", truncated)
            for message in _problems(db):
                found("damaged", "SQLite's own check", message)
            exam.read(path.stat().st_size, name)
            try:
                yield db
            except UNREADABLE as error:
                found("damaged", "where rows are read", str(error) or type(error).__name__)
    except sqlite3.Error as error:
        found("unreadable", "the file", str(error))
        yield None


def check_format(exam: Examination, db: sqlite3.Connection, name: str) -> bool:
    """Whether this version of the bus can read a file of the bus; if not, that is found."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version <= FORMAT_VERSION:
        return True
    exam.found(
        Finding(
            file=name,
            place="the file",
            problem="newer-format",
            meaning=f"The file has format {version}; this version of the bus reads up to {FORMAT_VERSION}.",
            advice="Upgrade the bus, or restore a backup that this version has made.",
        )
    )
    return False


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a table is there: those of features that were never used are not."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone() is not None


def _problems(db: sqlite3.Connection) -> list[str]:
    """What SQLite says of the file's structure: every page, every index against its table."""
    try:
        rows = db.execute(f"PRAGMA integrity_check({_MAX_PROBLEMS})").fetchall()
    except sqlite3.Error as error:
        return [str(error)]  # it met what it cannot pass; single rows may still be read
    return (
        [] if rows == [("ok",)] else [line for (text,) in rows for line in str(text).splitlines() if not line.startswith("***")]
    )


def _truncated(db: sqlite3.Connection, path: Path) -> str | None:
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        return None  # the newest pages are in there, so the file may be short
    (pages,), (page_bytes,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
    size = path.stat().st_size
    return f"it has {size} bytes, its header says {pages * page_bytes}" if size < pages * page_bytes else None
