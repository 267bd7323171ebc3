"""Projections: their catalog, and the file of each build. A build's file can always be made again from the events."""

from pathlib import Path
from typing import Final

from event_streaming_bus.doctor.findings import Examination, Finding, Repair
from event_streaming_bus.doctor.sqlite_files import check_format, examined
from event_streaming_bus.errors import InUseError
from event_streaming_bus.store.projections import FOLDER

CATALOG: Final = f"{FOLDER}/catalog.db"
SQLITE: Final = ".sqlite"
DUCKDB: Final = ".duckdb"
_AGAIN: Final = "`esb doctor --repair` sets the file aside, and the build is made again from the events."


def check_projections(exam: Examination, folder: Path) -> None:
    """Check the catalog and the files of all builds, and that no build is ahead of the events."""
    catalog = folder / CATALOG
    known: set[int] | None = None
    if catalog.exists():
        with examined(exam, catalog, CATALOG) as db:  # what was declared cannot be made anew
            if db is not None and check_format(exam, db, CATALOG):
                known = {number for (number,) in db.execute("SELECT build_no FROM projection_builds")}
    for path in sorted((folder / FOLDER).glob("*/*.b*.*")):
        number = build_no(path)
        if number is None or path.suffix not in (SQLITE, DUCKDB) or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        if known is not None and number not in known:
            told = f"The file is of build {number}, which there is no more. Nobody reads it."
            advice = "The next start removes it; so does `esb doctor --repair`."
            _found(exam, name, "the file", "stray-build", told, advice, Repair.LEFTOVER)
            continue
        exam.counted("projection builds")
        if path.suffix == SQLITE:
            with examined(exam, path, name, advice=_AGAIN, repair=Repair.PROJECTION):
                pass
        else:
            _check_duckdb(exam, path, name)


def build_no(path: Path) -> int | None:
    """Which build a file belongs to, by its name; None if it is none of a build."""
    parts = path.name.split(".")
    return int(parts[1][1:]) if len(parts) > 2 and parts[1][:1] == "b" and parts[1][1:].isdigit() else None


def _check_duckdb(exam: Examination, path: Path, name: str) -> None:
    from event_streaming_bus.store.history.checking import check_duckdb  # loads DuckDB

    try:
        checked = check_duckdb(path)
    except InUseError as error:
        exam.skip(f"{name}: {error.message.partition(' is ')[2].rstrip('.')}, which alone can read it")
        return
    exam.read(path.stat().st_size, name)
    for place, message in checked.problems:
        _found(exam, name, place, "damaged-projection", f"{message}.", _AGAIN, Repair.PROJECTION)


def _found(exam: Examination, file: str, place: str, problem: str, meaning: str, advice: str, repair: Repair) -> None:
    exam.found(Finding(file=file, place=place, problem=problem, meaning=meaning, advice=advice, repair=repair))
