"""The history: its DuckDB file and the Parquet files of old days."""

from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.doctor.findings import RESTORE, Examination, Finding, Repair
from event_streaming_bus.doctor.log_position import HistoryEnd
from event_streaming_bus.errors import InUseError
from event_streaming_bus.store.history.parquet_files import MANIFEST, Manifest, ParquetFile, checksum_of

FILE: Final = "history.duckdb"
PARQUET: Final = "history/parquet"
_REBUILD: Final = "`esb doctor --repair` sets the file aside, and the history is built again from the log."
_PARTLY: Final = "`esb doctor --repair` sets the file aside, so that the other days answer; a backup may still have it."


def check_history(exam: Examination, folder: Path, end: HistoryEnd | None) -> None:
    """Check that every row can be read, and that the history is not ahead of the log, which ends at ``end`` if that is known."""
    _check_database(exam, folder, end)
    _check_parquet(exam, folder, end)


def _check_database(exam: Examination, folder: Path, end: HistoryEnd | None) -> None:
    path = folder / FILE
    if not path.exists():
        return
    from event_streaming_bus.store.history.checking import check_duckdb  # loads DuckDB

    try:
        checked = check_duckdb(path)
    except InUseError as error:
        exam.skip(f"{FILE}: {error.message.partition(' is ')[2].rstrip('.')}, which alone can read it")
        return
    exam.counted("rows of the history", checked.rows)
    exam.read(path.stat().st_size, FILE)
    for place, message in checked.problems:
        _found(exam, FILE, place, "damaged-history", f"{message}. Questions that need it fail.", _REBUILD, Repair.HISTORY)
    state = checked.state
    if state is not None and end is not None and state.stream_id == end.stream_id and state.next_offset > end.offset:
        told = f"The history has the records up to offset {state.next_offset} of _history, but the log ends at {end.offset}."
        _found(exam, FILE, "its position", "history-ahead", told, _REBUILD, Repair.HISTORY)


def _check_parquet(exam: Examination, folder: Path, end: HistoryEnd | None) -> None:
    path = folder / PARQUET / MANIFEST
    name = f"{PARQUET}/{MANIFEST}"
    if not path.exists():
        return
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        told = f"The list of files cannot be read: {error}. The history does not start."
        _found(exam, name, "the file", "damaged-manifest", told, RESTORE)
        return
    if end is not None and manifest.stream_id == end.stream_id and manifest.rolled_until > end.offset:
        told = f"The files go up to offset {manifest.rolled_until} of _history, but the log ends at {end.offset}."
        _found(exam, name, "its position", "history-ahead", told, "The next start sets them aside.")
    for file in manifest.files:
        exam.counted("Parquet files")
        exam.read(file.size, f"{PARQUET}/{file.name}")
        message = _damage(folder / PARQUET / file.name, file)
        if message is not None:
            place = f"{file.rows} rows of {file.table} of {file.day}, records {file.begin} to {file.end - 1}"
            _found(exam, f"{PARQUET}/{file.name}", place, "damaged-parquet", message, _PARTLY, Repair.PARQUET)


def _damage(path: Path, file: ParquetFile) -> str | None:
    from event_streaming_bus.store.history.checking import check_parquet

    if not path.is_file():
        return "The file is gone, and with it its rows."
    try:
        if path.stat().st_size != file.size:
            return f"The file has {path.stat().st_size} bytes, not {file.size}."
        if file.checksum and checksum_of(path) != file.checksum:
            return "The file is not the one that was written: its checksum is another."
    except OSError as error:
        return f"The file cannot be read: {error}."
    unread = None if file.checksum else check_parquet(path)
    return None if unread is None else f"The file cannot be read: {unread}."


def _found(
    exam: Examination, file: str, place: str, problem: str, meaning: str, advice: str, repair: Repair | None = None
) -> None:
    exam.found(Finding(file=file, place=place, problem=problem, meaning=meaning, advice=advice, repair=repair))
