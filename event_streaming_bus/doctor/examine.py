"""The examination of a data folder: everything in it, one thing after another, nothing changed."""

from contextlib import suppress
from pathlib import Path

from event_streaming_bus.doctor.findings import RESTORE, Examination, Finding, Progress, Report
from event_streaming_bus.doctor.folder_files import check_folder, files_in
from event_streaming_bus.doctor.history_files import check_history
from event_streaming_bus.doctor.log_file import FILE, check_log
from event_streaming_bus.doctor.log_marks import StageEnds, stage_ends
from event_streaming_bus.doctor.log_position import HistoryEnd, history_end
from event_streaming_bus.doctor.projection_files import check_projections
from event_streaming_bus.doctor.recovery_files import check_recovery
from event_streaming_bus.doctor.side_files import check_audit, check_keys, check_tokens
from event_streaming_bus.doctor.sqlite_files import UNREADABLE, examined
from event_streaming_bus.errors import NotFoundError


def examine(folder: Path, progress: Progress | None = None) -> Report:
    """Check a data folder. Memory is bounded, whatever its size; nothing is changed.

    A server, flows and publishers may be at work on the folder: each file is checked as it is at one moment. What only one
    process can read, as the history of a running server, is skipped, and that is told. Raises ``NotFoundError`` for a folder that
    is none.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no data folder {folder}.")
    if not any((folder / name).exists() for name in (FILE, "audit.db", "keys.db", "recovery")):
        raise NotFoundError(f"{folder} is no data folder: there is no log.db in it.")
    total_bytes = _total_bytes(folder)
    exam = Examination(total_bytes, progress)
    end, ends = _check_log(exam, folder)
    for check in (check_audit, check_tokens, check_keys, check_projections):
        check(exam, folder)
    check_recovery(exam, folder, ends)
    check_history(exam, folder, end)
    check_folder(exam, folder)
    exam.read(total_bytes, "done")
    return Report(
        folder=str(folder), finding_count=exam.count, findings=exam.findings, checked=exam.checked, skipped=exam.skipped
    )


def _check_log(exam: Examination, folder: Path) -> tuple[HistoryEnd | None, StageEnds]:
    """Check the log; where ``_history`` ends, and the streams that flows read, as far as it can tell."""
    path = folder / FILE
    if not path.exists():
        told = "The log is missing, and with it every event, stream, schema and group."
        exam.found(Finding(file=FILE, place="the file", problem="missing-log", meaning=told, advice=RESTORE))
        return None, {}
    end: HistoryEnd | None = None
    ends: StageEnds = {}
    with examined(exam, path, FILE) as db:
        if db is not None:
            check_log(exam, db)
            with suppress(*UNREADABLE):  # that is told already
                end, ends = history_end(db), stage_ends(db)
    return end, ends


def _total_bytes(folder: Path) -> int:
    """Of all that is read; the log twice, once for its pages and once for its record batches."""
    sizes = [
        path.stat().st_size for path in files_in(folder) if path.suffix in (".db", ".sqlite3", ".sqlite", ".duckdb", ".parquet")
    ]
    log = folder / FILE
    return sum(sizes) + (log.stat().st_size if log.exists() else 0)
