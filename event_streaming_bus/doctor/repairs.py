"""What the doctor makes right: what can be made anew from what is there. Whatever is replaced is set aside, not removed."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.doctor.examine import examine
from event_streaming_bus.doctor.findings import Finding, Progress, Repair, Report
from event_streaming_bus.doctor.folder_files import SET_ASIDE, is_locked
from event_streaming_bus.doctor.history_files import FILE as HISTORY_FILE
from event_streaming_bus.doctor.history_files import PARQUET
from event_streaming_bus.doctor.log_file import FILE as LOG_FILE
from event_streaming_bus.doctor.projection_files import build_no
from event_streaming_bus.errors import BusError, CorruptLogError, InUseError
from event_streaming_bus.models import LANES, Split
from event_streaming_bus.store.history.parquet_files import MANIFEST, Manifest, ParquetFolder
from event_streaming_bus.store.log.stored import SQL, id_hash, verified
from event_streaming_bus.store.projections import ProjectionStore
from event_streaming_bus.store.sqlite import SqliteDatabase

_BATCHES_AT_ONCE: Final = 200
_BESIDE: Final = ("", "-wal", "-shm", ".wal")


def repair(folder: Path, report: Report, progress: Progress | None = None) -> Report:
    """Make right what can be, of what ``report`` has found; then examine the folder again.

    Raises ``InUseError`` while a server, a flow or projections are at work on the folder. What a repair replaces is in
    ``set-aside-...`` of the folder afterwards.
    """
    check_unused(folder)
    aside = _Aside(folder)
    done: list[str] = []
    for kind, mend in _REPAIRS.items():
        mine = [finding for finding in report.findings if finding.repair is kind]
        if not mine:
            continue
        try:
            done += mend(folder, mine, aside)
        except (BusError, OSError) as error:
            done.append(f"could not be done ({kind.value}): {error}")
    return msgspec.structs.replace(examine(folder, progress), repaired=done)


def check_unused(folder: Path) -> None:
    """Raise ``InUseError`` if a server, a flow or projections are at work on the folder."""
    locks = [folder / "serve.lock", folder / "projections" / "owner.lock", *folder.glob("recovery/*/*/worker-*.lock")]
    for path in locks:
        if is_locked(path):
            raise InUseError(f"{folder} is in use: {path.relative_to(folder)} is held. Stop the server and all flows first.")


class _Aside:
    """Where things are set aside: a folder that is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        now_ns = time.time_ns()
        told = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ns // 1_000_000_000))
        self.path = folder / f"{SET_ASIDE}{told}{now_ns // 1_000_000 % 1000:03d}Z"

    def take(self, name: str) -> str:
        """Set a file of the folder aside, with what lies beside it; says so."""
        for end in _BESIDE:
            source = self._folder / f"{name}{end}"
            if source.exists():
                target = self.path / f"{name}{end}"
                self.path.mkdir(mode=0o700, exist_ok=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
        return f"{name} is in {self.path.name} now"


def _mend_permissions(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    for each in findings:
        (folder / each.file).chmod(0o700 if each.file == "." else 0o600)
    return [f"only its owner can read {each.file if each.file != '.' else 'the folder'} now" for each in findings]


def _remove_leftovers(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    for each in findings:
        for end in _BESIDE:
            (folder / f"{each.file}{end}").unlink(missing_ok=True)
    return [f"{each.file} was removed" for each in findings]


def _mend_counts(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    with closing(SqliteDatabase(folder / LOG_FILE)) as database, database.transaction("counting stored bytes") as db:
        db.execute(
            "UPDATE splits SET stored_bytes = "
            "(SELECT coalesce(sum(length(body)), 0) FROM batches WHERE batches.split_no = splits.split_no)"
        )
    return ["the stored bytes of every split were counted anew"]


def _mend_event_ids(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    """Enter the ids of every record batch that has ids which publishers brought; those of damaged batches stay unknown."""
    select = "SELECT batch_no FROM batches WHERE batch_no > ? AND explicit_ids > 0 ORDER BY batch_no LIMIT ?"
    last, entered, unread = -1, 0, 0
    with closing(SqliteDatabase(folder / LOG_FILE)) as database:
        while True:
            with database.transaction("making the index of ids anew") as db:
                numbers = [number for (number,) in db.execute(select, (last, _BATCHES_AT_ONCE))]
                for batch_no in numbers:
                    split_no, *row = db.execute(SQL["select_batch"], (batch_no,)).fetchone()
                    place = db.execute(SQL["select_split_place"], (split_no,)).fetchone()
                    if place is None:
                        continue
                    stream_id, tenant_id, lane, partition = place
                    try:
                        event_ids = verified(Split(stream_id, LANES[lane], partition), row).column("event_id")
                    except CorruptLogError:
                        unread += 1
                        continue
                    rows = [(id_hash(tenant_id, event_id), batch_no) for event_id in event_ids]
                    entered += db.executemany(SQL["insert_event_id"], rows).rowcount
                if not numbers:
                    db.execute("DELETE FROM event_ids WHERE batch_no NOT IN (SELECT batch_no FROM batches)")
                    break
                last = numbers[-1]
    told = [f"{entered:,} ids were entered in the index of ids, and those of batches that are gone were taken out"]
    return [*told, f"{unread:,} damaged record batches were passed over"] if unread else told


def _rebuild_history(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    told = [aside.take(HISTORY_FILE)]
    from event_streaming_bus.store.history import History  # loads DuckDB
    from event_streaming_bus.store.storage import open_storage

    storage = open_storage(folder)
    try:
        with closing(History(storage)) as history:
            told.append(f"the history was built again: {history.catch_up():,} rows")
    except BusError as error:
        told.append(f"the history is built again with the next start, for now it cannot be: {error.message}")
    finally:
        storage.close()
    return told


def _take_parquet_aside(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    path = folder / PARQUET / MANIFEST
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    gone = {each.file.removeprefix(f"{PARQUET}/") for each in findings}
    kept = aside.path / PARQUET / MANIFEST
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside.path.chmod(0o700)
    kept.write_bytes(path.read_bytes())
    left = tuple(file for file in manifest.files if file.name not in gone)
    ParquetFolder(folder / PARQUET, manifest.stream_id).keep(msgspec.structs.replace(manifest, files=left))
    rows = sum(file.rows for file in manifest.files if file.name in gone)
    told = [aside.take(each.file) for each in findings]
    return [*told, f"{rows:,} rows of old days are in the history no more; the list that had them was kept"]


def _rebuild_projections(folder: Path, findings: Sequence[Finding], aside: _Aside) -> list[str]:
    files = list(dict.fromkeys(each.file for each in findings))
    told = [aside.take(name) for name in files]
    with closing(ProjectionStore(folder)) as store, store.writing("asking for builds to be made again") as tables:
        for name in files:
            number = build_no(folder / name)
            if number is not None:
                tables.retry(number)
    return [*told, "these builds are made again from the events by the next `esb serve` or `esb projections run`"]


_REPAIRS: Final[dict[Repair, Callable[[Path, Sequence[Finding], _Aside], list[str]]]] = {
    Repair.PERMISSIONS: _mend_permissions,
    Repair.LEFTOVER: _remove_leftovers,
    Repair.COUNTS: _mend_counts,
    Repair.EVENT_IDS: _mend_event_ids,
    Repair.PARQUET: _take_parquet_aside,
    Repair.HISTORY: _rebuild_history,
    Repair.PROJECTION: _rebuild_projections,
}


def record_repair(folder: Path, report: Report, actor: str, tenant_id: str) -> None:
    """Note in the audit of the folder what was done, if it can be. Raises ``BusError``."""
    from event_streaming_bus.audit.service import AuditService
    from event_streaming_bus.store.storage import open_storage

    storage = open_storage(folder)
    try:
        audit = AuditService(storage)
        audit.record("doctor.repair", tenant_id=tenant_id, actor=actor, target=str(folder), after=report.repaired)
        audit.close()
    finally:
        storage.close()
