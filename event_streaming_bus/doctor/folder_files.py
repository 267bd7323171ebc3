"""The folder itself: who may read it, what was left behind in it, and whether the disk has room."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from event_streaming_bus.doctor.findings import Examination, Finding, Repair
from event_streaming_bus.store import audit_key, master_key, subject_keys, tokens
from event_streaming_bus.store.server_calls import SERVER_FILE, TOKEN_FILE

SECRETS: Final = (master_key.FILE, audit_key.FILE, subject_keys.FILE, tokens.FILE, TOKEN_FILE)
"""The files that only their owner may read."""
SET_ASIDE: Final = "set-aside-"
_LEFTOVERS: Final = ("history/parquet/*/*/*.part", "history/parquet/*.part", "recovery/*/*/begun.making")
_YOUNG_S: Final = 3600.0
_SECRET_RANDOM_CHARS: Final = 16
_MIN_FREE_BYTES: Final = 256 << 20
_MIN_FREE_SHARE: Final = 0.05


def check_folder(exam: Examination, folder: Path) -> None:
    """Check permissions, leftovers older than an hour (younger ones may be at work), and the room on the disk."""
    _check_permissions(exam, folder)
    now_s = time.time()
    for path in _leftovers(folder):
        if now_s - path.stat().st_mtime > _YOUNG_S:
            told = "Something that was broken off has left this behind. Nobody reads it."
            _found(exam, str(path.relative_to(folder)), "the file", "leftover", told, Repair.LEFTOVER)
    server = folder / SERVER_FILE
    if server.exists() and not is_locked(folder / "serve.lock"):
        told = "It says where a server is, but that one has ended without removing it."
        _found(exam, SERVER_FILE, "the file", "leftover", told, Repair.LEFTOVER)
    _check_room(exam, folder)


def files_in(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those within it, in order; of a symbolic link to a folder the link itself, and nothing that
    was set aside."""
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(SET_ASIDE))
        links = [name for name in folders if (Path(path) / name).is_symlink()]
        yield from (Path(path) / name for name in sorted([*names, *links]))


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of a lock file."""
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _leftovers(folder: Path) -> Iterator[Path]:
    for pattern in _LEFTOVERS:
        yield from sorted(folder.glob(pattern))
    yield from sorted(path for path in folder.iterdir() if _is_half_made_secret(path))


def _is_half_made_secret(path: Path) -> bool:
    """Whether a file was to become a secret: see ``make_private``."""
    name, _, end = path.name.rpartition(".")
    return name in SECRETS and len(end) == _SECRET_RANDOM_CHARS and all(char in "0123456789abcdef" for char in end)


def _check_permissions(exam: Examination, folder: Path) -> None:
    if folder.stat().st_mode & 0o077:
        told = "Others than its owner can look into the folder, which holds every event."
        _found(exam, ".", "its mode", "open-folder", told, Repair.PERMISSIONS, f"`chmod 700 {folder}`, or `esb doctor --repair`.")
    for name in SECRETS:
        path = folder / name
        if path.exists() and path.stat().st_mode & 0o077:
            advice = f"`chmod 600 {path}`, or `esb doctor --repair`; then think who may have read it."
            _found(exam, name, "its mode", "open-secret", "Others than its owner can read it.", Repair.PERMISSIONS, advice)


def _check_room(exam: Examination, folder: Path) -> None:
    disk = shutil.disk_usage(folder)
    if disk.free < min(_MIN_FREE_BYTES, _MIN_FREE_SHARE * disk.total):
        told = f"Only {disk.free >> 20:,} MiB of {disk.total >> 20:,} MiB are free: soon nothing can be appended."
        advice = "Free some space, or set the retention of streams."
        _found(exam, ".", "the disk", "little-space", told, None, advice)


def _found(
    exam: Examination,
    file: str,
    place: str,
    problem: str,
    meaning: str,
    repair: Repair | None,
    advice: str = "`esb doctor --repair` removes it.",
) -> None:
    exam.found(Finding(file=file, place=place, problem=problem, meaning=meaning, advice=advice, repair=repair))
