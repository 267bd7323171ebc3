"""The DuckDB file of the history: opened for one process, locked against what users' SQL could do with it."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from event_streaming_bus.errors import BusError, InUseError, InvalidInputError, LostDatabaseError, StorageError
from event_streaming_bus.store.sql import load_queries

FORMAT_VERSION: Final = 4
SQL: Final = load_queries("history/tables.sql")
MEMORY_VARIABLE: Final = "ESB_HISTORY_MEMORY"
_HEADERS_BYTES: Final = 3 * 4096
_MEMORY_LIMIT: Final = "512MB"
_TEMP_LIMIT: Final = "4GB"
# Written to the write-ahead log before it goes to the tables; fewer checkpoints load half as fast again.
_CHECKPOINT_THRESHOLD: Final = "128MB"
_REBUILD: Final = "Delete the file: the history is built again from the log (`esb history rebuild`)."


def open_database(path: Path, stream_id: str) -> duckdb.DuckDBPyConnection:
    """The history at ``path`` of the stream ``_history`` with the id ``stream_id``, made if it is missing.

    A history of an older layout or of another log is dropped, for it is built again from the log. Raises ``InUseError``
    if it is open already, in another process or in this one, and ``StorageError`` if the file is anything else.
    """
    drop_unmade(path)
    if not path.exists():
        _drop(path)
    database = _connect(path)
    try:
        if not _is_current(database, path, stream_id):
            database.close()
            _drop(path)
            database = _connect(path)
        if not database.execute(SQL["select_tables"]).fetchall():
            database.begin()
            database.execute(SQL["create_tables"])
            database.execute(SQL["insert_state"], [FORMAT_VERSION, stream_id])
            database.commit()
        database.execute(SQL["create_guards"].format(schema="main"))
        database.execute(f"SET allowed_directories = [{quoted(str(folder_of(path)))}]")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        database.close()
        raise StorageError(f"The history {path} cannot be used: {told(error)} {_REBUILD}") from error
    except BaseException:
        database.close()
        raise
    return database


def folder_of(path: Path) -> Path:
    """The folder of the Parquet files that belong to the history at ``path``."""
    return path.with_suffix("") / "parquet"


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": os.environ.get(MEMORY_VARIABLE) or _MEMORY_LIMIT,
        "checkpoint_threshold": _CHECKPOINT_THRESHOLD,
        "temp_directory": str(path.with_suffix(".tmp")),
        "max_temp_directory_size": _TEMP_LIMIT,
    }
    if not re.fullmatch(r"\d{1,6} ?[MG](i?B)?", str(settings["memory_limit"]), re.IGNORECASE):
        raise InvalidInputError(f"{MEMORY_VARIABLE}: expected a size as in 512MB or 2GB, got {settings['memory_limit']!r}")
    try:
        database = duckdb.connect(path, config=settings)
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and "lock" in str(error).lower():
            owner = re.search(r"PID (\d+)", str(error))
            pid = int(owner[1]) if owner else None
            which = f" (pid {pid})" if owner else ""
            raise InUseError(
                f"The history {path} is open in another process{which}; ask that one, or stop it.", pid=pid
            ) from error
        raise StorageError(f"The history {path} cannot be opened: {told(error)} {_REBUILD}") from error
    (locked,) = database.execute(SQL["select_locked"]).fetchall()[0]
    if locked:  # DuckDB gave a second connection to what this process has open
        database.close()
        raise InUseError(f"The history {path} is open in this process already; use that one.")
    return database


def _is_current(database: duckdb.DuckDBPyConnection, path: Path, stream_id: str) -> bool:
    """Whether the file is new, or is this stream's history in the layout of now."""
    tables = {name for (name,) in database.execute(SQL["select_tables"]).fetchall()}
    if not tables:
        return True
    if "base.state" in tables:
        return database.execute(SQL["select_state"]).fetchall() == [(FORMAT_VERSION, stream_id)]
    if "main.history_position" in tables:
        return False
    raise StorageError(f"{path} is a DuckDB database, but no history of the bus. Nothing was changed; move it away.")


def is_unmade(path: Path) -> bool:
    """Whether there is a file that DuckDB has not finished making: without all of its headers it holds nothing, and cannot be
    opened."""
    return path.exists() and path.stat().st_size < _HEADERS_BYTES


def drop_unmade(path: Path) -> None:
    """Remove a file that DuckDB had no time, or no room on the disk, to finish making. One that another process is making at this
    moment stays.

    No other file is opened: closing it would drop the lock of a DuckDB in this process that has it open.
    """
    try:
        if is_unmade(path):
            with path.open("rb+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _drop(path)
    except OSError:
        return  # there is none, or it is somebody's; else opening it says what is wrong


def _drop(path: Path) -> None:
    """Remove the file, and the write-ahead log beside it: it would be replayed into the next file of this name."""
    for file in (path, path.with_name(path.name + ".wal")):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{file} cannot be removed: {error}.") from error


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Raise DuckDB's and Arrow's errors as ``StorageError``; those after which it refuses everything as ``LostDatabaseError``."""
    try:
        yield
    except BusError:
        raise
    except (duckdb.FatalException, duckdb.InternalException) as error:
        raise LostDatabaseError(f"The history database failed, and is opened again: {told(error)}") from error
    except (duckdb.Error, pa.ArrowException) as error:
        raise StorageError(f"The history database failed: {told(error)}") from error


def told(error: BaseException) -> str:
    """DuckDB's message without the links it ends with."""
    return re.sub(r"\s*See also https?://\S+\s*$", "", str(error)).strip()
