"""Whether DuckDB files can be read, to the last block, without changing them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import msgspec

from event_streaming_bus.errors import InUseError
from event_streaming_bus.store.history.database import told

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "256MB",
    "threads": "1",
}


class HistoryState(msgspec.Struct, frozen=True):
    """How far a history says that it is: the id of the stream ``_history`` that it was made from, and the offset after the last
    record that is in it."""

    format: int
    stream_id: str
    next_offset: int


class DuckdbCheck(msgspec.Struct, frozen=True):
    """What is wrong with a DuckDB file, by place; and the state of the history in it, if there is one that can be read."""

    problems: list[tuple[str, str]]
    rows: int
    state: HistoryState | None


def check_duckdb(path: Path) -> DuckdbCheck:
    """Read every row of every table; DuckDB verifies the checksum of each block that it reads, and of the write-ahead log.

    Memory is bounded. Raises ``InUseError`` if another process has the file open, or this one has.
    """
    problems: list[tuple[str, str]] = []
    rows, state = 0, None
    try:
        with _opened(path) as db:
            tables = db.execute("SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
            for schema, table in tables:
                name = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
                try:
                    # The hash of a row is made of all of its columns, so all of them are read.
                    (count, _) = db.execute(f"SELECT count(*), bit_xor(hash(t)) FROM {name} t").fetchall()[0]  # noqa: S608
                    rows += count
                except duckdb.Error as error:
                    problems.append((f"table {schema}.{table}", told(error)))
            if ("base", "state") in tables and not problems:
                found = db.execute("SELECT format, stream_id, next_offset FROM base.state").fetchall()
                state = HistoryState(*found[0]) if len(found) == 1 else None
    except duckdb.Error as error:
        problems.append(("the file", told(error)))
    return DuckdbCheck(problems, rows, state)


def check_parquet(path: Path) -> str | None:
    """What is wrong with a Parquet file, all of which is read; None if nothing is."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            for _ in file.iter_batches(batch_size=8192):
                pass
    except (ArrowException, OSError, ValueError) as error:
        return str(error).strip()
    return None


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        db = duckdb.connect(path, read_only=True, config=_SETTINGS)
    except duckdb.Error as error:
        text = str(error).lower()
        if "different configuration" in text or (isinstance(error, duckdb.IOException) and "lock" in text and "conflict" in text):
            owner = re.search(r"PID (\d+)", str(error))
            which = f" (pid {owner[1]})" if owner else ""
            raise InUseError(f"{path} is open in another process{which}, or in this one.") from error
        raise
    try:
        yield db
    finally:
        db.close()
