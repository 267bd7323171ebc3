"""Roll-off: rows of days that are long over leave the database into Parquet files, and stay where questions find them.

A day is moved as a whole: its files are written, then the manifest names them, then one transaction takes the rows out of the
database and has the views read the files. Killed anywhere, the next start does what is left. Rows go by the day on which they
were recorded, and by the offset of their record, so a rebuild loads exactly what is not in files.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

import duckdb
import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.history.columns import SCHEMAS
from event_streaming_bus.store.history.database import FORMAT_VERSION, SQL, quoted
from event_streaming_bus.store.history.parquet_files import Manifest, ParquetFile, ParquetFolder, total, view_of

MAX_DAYS: Final = 100_000


class Day(msgspec.Struct, frozen=True):
    """A day of the database, and the records that it is made of: from ``begin`` to before ``end``."""

    day: date
    begin: int
    end: int


class RolledOff(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or with ``dry_run`` would be: the days that left the database, with the rows of each table; and the days
    whose files were removed."""

    dry_run: bool
    days: dict[str, dict[str, int]]
    removed_days: list[str]
    rows: int
    bytes: int
    removed_rows: int
    removed_bytes: int


def install(cursor: duckdb.DuckDBPyConnection, folder: ParquetFolder, manifest: Manifest) -> None:
    """Have the database agree with the manifest, in one transaction: no row of it twice, and the views read its files."""
    cursor.begin()
    try:
        if _rolled_until(cursor) != manifest.rolled_until:
            for table in SCHEMAS:
                cursor.execute(SQL["delete_rolled"].format(table=table), [manifest.rolled_until])
            cursor.execute(SQL["delete_days"], [manifest.rolled_until])
            cursor.execute(SQL["update_rolled_until"], [manifest.rolled_until])
        for table in SCHEMAS:
            source = view_of(table, manifest, folder.path)
            cursor.execute(SQL.get(f"view_{table}", SQL["view"]).format(table=table, source=source))
        cursor.commit()
    except BaseException:
        cursor.rollback()
        raise


def _rolled_until(cursor: duckdb.DuckDBPyConnection) -> int:
    """How far the database takes the rows to be in files."""
    return int((cursor.execute(SQL["select_rolled_until"]).fetchone() or (0,))[0])


def days_of(cursor: duckdb.DuckDBPyConnection) -> list[Day]:
    """The days that the database has rows of, in order."""
    rows = cursor.execute(SQL["select_days"]).fetchall()
    (end,) = cursor.execute(SQL["select_position"]).fetchone() or (0,)
    ends = [*(begin for _, begin in rows[1:]), end][: len(rows)]
    return [Day(day, begin, until) for (day, begin), until in zip(rows, ends, strict=True) if begin < until]


def due(days: list[Day], older_than_days: int, now: datetime) -> list[Day]:
    """Those of the days that have been over for so many days."""
    first_kept = now.astimezone(UTC).date() - timedelta(days=older_than_days)
    return [each for each in days if each.day < first_kept]


def move(cursor: duckdb.DuckDBPyConnection, folder: ParquetFolder, manifest: Manifest, day: Day) -> Manifest:
    """Move a day into files; returns the new manifest, which counts from now on."""
    made = []
    for table, rows in counts(cursor, day).items():
        if not rows:
            continue
        told = {"table": table, "day": day.day.isoformat(), "begin": day.begin, "end": day.end, "rows": rows}
        file = ParquetFile(**told, size=0, format=FORMAT_VERSION)  # type: ignore[arg-type]
        # A tenant's rows are next to each other, so that those of others are not read with them.
        path = quoted(str(folder.part_of(file)))
        cursor.execute(SQL["copy_day"].format(table=table, begin=day.begin, end=day.end, path=path))
        made.append(folder.finished(file))
    new = msgspec.structs.replace(manifest, rolled_until=day.end, files=(*manifest.files, *made))
    fault_point("history.rolled")
    folder.keep(new)
    fault_point("history.named")
    install(cursor, folder, new)
    return new


def counts(cursor: duckdb.DuckDBPyConnection, day: Day) -> dict[str, int]:
    """How many rows each table has of a day."""
    found = {}
    for table in SCHEMAS:
        row = cursor.execute(SQL["count_day"].format(table=table), [day.begin, day.end]).fetchone()
        found[table] = row[0] if row else 0
    return found


def roll_off(
    cursor: duckdb.DuckDBPyConnection,
    folder: ParquetFolder,
    *,
    days: int | None,
    keep_days: int | None,
    dry_run: bool,
    now: datetime,
    wait_for_readers: Callable[[], bool],
    drop_records: Callable[[int], object],
) -> RolledOff:
    """Move days that have been over for ``days`` days into files, and remove the files of those over for ``keep_days`` days, once
    nobody reads them; None leaves that out. Raises ``InvalidInputError``.

    ``drop_records`` is told before which offset no record counts any more: a rebuild would bring back the rows that were removed.
    """
    for name, value in (("days", days), ("keep_days", keep_days)):
        if value is not None and not 0 <= value <= MAX_DAYS:
            raise InvalidInputError(f"{name}: expected 0 to {MAX_DAYS:,}, got {value}", path=name)
    if days is not None and keep_days is not None and keep_days < days:
        raise InvalidInputError(f"keep_days: expected {days} or more, as days says; got {keep_days}", path="keep_days")
    manifest = folder.manifest()
    if not dry_run and _rolled_until(cursor) != manifest.rolled_until:
        install(cursor, folder, manifest)  # a day met an error once the manifest had it, and would be moved again
    moving = [] if days is None else due(days_of(cursor), days, now)
    told: dict[str, dict[str, int]] = {}
    before = set(manifest.files)
    for day in moving:
        mine = told.setdefault(day.day.isoformat(), {})
        for table, rows in counts(cursor, day).items():
            mine[table] = mine.get(table, 0) + rows
        if not dry_run:
            manifest = move(cursor, folder, manifest, day)
    rows, size = total([file for file in manifest.files if file not in before])
    over = [] if keep_days is None else _over(manifest, keep_days, now)
    if over and not dry_run:
        manifest = msgspec.structs.replace(manifest, files=tuple(file for file in manifest.files if file not in over))
        folder.keep(manifest)
        install(cursor, folder, manifest)
        if wait_for_readers():
            folder.remove(over)  # else they are left over, and removed the next time
    if keep_days is not None and not dry_run:
        drop_records(min((file.begin for file in manifest.files), default=manifest.rolled_until))
    removed_rows, removed_bytes = total(over)
    return RolledOff(
        dry_run=dry_run,
        days=told,
        removed_days=sorted({file.day for file in over}),
        rows=rows or sum(sum(each.values()) for each in told.values()),
        bytes=size,
        removed_rows=removed_rows,
        removed_bytes=removed_bytes,
    )


def _over(manifest: Manifest, keep_days: int, now: datetime) -> list[ParquetFile]:
    first_kept = (now.astimezone(UTC).date() - timedelta(days=keep_days)).isoformat()
    return [file for file in manifest.files if file.day < first_kept]


def day_of(written_ms: int) -> date:
    """The day (UTC) of a time; times that are no dates are of the first or the last one."""
    try:
        return date(1970, 1, 1) + timedelta(days=written_ms // 86_400_000)
    except OverflowError:
        return date.min if written_ms < 0 else date.max
