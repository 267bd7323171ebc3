"""Making a data folder of a backup."""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from event_streaming_bus.backup.manifest import NAME, BackedUpFile, Manifest, decoded, is_inside
from event_streaming_bus.backup.targets import contents, copied, file_errors
from event_streaming_bus.errors import AlreadyExistsError, NotFoundError, StorageError
from event_streaming_bus.store.synced import sync

Progress = Callable[[int, int, str], None]


def restore_backup(source: Path, folder: Path, progress: Progress | None = None) -> Manifest:
    """Make a data folder of a backup; its manifest.

    Everything is verified against the manifest before there is a folder of this name, which then has all of it. Raises
    ``AlreadyExistsError`` for a folder that is not empty, ``StorageError`` for a backup that is damaged or incomplete,
    ``UnsupportedFormatError`` for one of a newer version; and then leaves nothing behind.
    """
    source, folder = source.expanduser().resolve(), folder.expanduser().resolve()
    if not source.exists():
        raise NotFoundError(f"There is no backup {source}.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AlreadyExistsError(f"{folder} is not empty; nothing was changed. Restore into a new folder, and move it then.")
    if source.is_dir():
        _manifest_of(source)  # before anything is copied; a tar file has it at its end
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.restoring")
    with file_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.mkdir(mode=0o700)
        try:
            manifest = _verified(source, made, progress)
            sync(made)
            made.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return manifest


def _manifest_of(source: Path) -> Manifest:
    path = source / NAME
    if not path.is_file():
        raise StorageError(f"{source} is no backup, or was not finished: there is no {NAME} in it.")
    with file_errors(source):
        return decoded(path.read_bytes(), str(source))


def _verified(source: Path, made: Path, progress: Progress | None) -> Manifest:
    """Copy everything, and compare it with the manifest."""
    found: dict[str, BackedUpFile] = {}
    done, total = 0, _size(source)

    def told(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(min(done, total), total, "verifying")

    manifest = None
    for path, file in contents(source):
        if path == NAME:
            manifest = decoded(file.read(), str(source))
            continue
        if not is_inside(path) or path in found:
            raise StorageError(f"{source} holds {path!r}, which no backup has. Nothing was restored.")
        into = made / path
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found[path] = copied(file, path, into, told)
    if manifest is None:
        raise StorageError(f"{source} is no backup, or was not finished: there is no {NAME} in it.")
    expected = {file.path: file for file in manifest.files}
    for path in sorted(expected.keys() | found.keys()):
        wrong = _difference(expected.get(path), found.get(path))
        if wrong is not None:
            raise StorageError(f"{source} is damaged: {path} {wrong}. Nothing was restored.")
    return manifest


def _difference(expected: BackedUpFile | None, found: BackedUpFile | None) -> str | None:
    if found is None:
        return "is missing"
    if expected is None:
        return "is not in its manifest"
    if found.size != expected.size:
        return f"has {found.size:,} bytes, not {expected.size:,}"
    return None if found.sha256 == expected.sha256 else "is not what was backed up: its SHA-256 is another"


def _size(source: Path) -> int:
    """About how many bytes there are to be read."""
    if source.is_dir():
        return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    return source.stat().st_size * 4
