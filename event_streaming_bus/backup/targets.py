"""Where a backup is written to, and read from: a folder, or a tar file compressed with Zstandard or gzip."""

import gzip
import hashlib
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeAlias, cast

from event_streaming_bus.backup.manifest import BackedUpFile
from event_streaming_bus.errors import AlreadyExistsError, DiskFullError, InvalidInputError, StorageError
from event_streaming_bus.store.synced import sync

ARCHIVES: Final = (".tar.zst", ".tar.gz", ".tgz")
_PIECE_BYTES: Final = 1 << 20
_NO_SPACE: Final = (28, 122)  # ENOSPC, EDQUOT

Read: TypeAlias = Callable[[int], None]


class Target(Protocol):
    """A backup that is being written. Nothing is under its name before it is whole."""

    def staging(self, path: str) -> Path:
        """Where to make the file that is to be ``add``ed under a path."""
        ...

    def add(self, path: str) -> None:
        """Take over what was made in ``staging``."""
        ...


@contextmanager
def target(place: Path) -> Iterator[Target]:
    """A backup at a place that is not taken, of the kind that its name says; it is there when the context ends without an error.

    Raises ``AlreadyExistsError``, and ``StorageError`` if it cannot be written.
    """
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise AlreadyExistsError(f"{place} exists already; nothing was changed. Name a new place for each backup.")
    part = place.with_name(f".{place.name}.{secrets.token_hex(8)}.part")
    with file_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
        try:
            if is_archive(place):
                with _written_archive(part / "archive", place.name) as archive:
                    yield _Archive(part, archive)
                sync(part / "archive")
                (part / "archive").rename(place)
            else:
                yield _Folder(part)
                sync(part)
                part.rename(place)
            sync(place.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def staging(self, path: str) -> Path:
        made = self._folder / path
        made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return made

    def add(self, path: str) -> None:
        made = self._folder / path
        made.chmod(0o600)
        sync(made)
        sync(made.parent)


class _Archive:
    def __init__(self, folder: Path, archive: tarfile.TarFile) -> None:
        self._folder = folder
        self._archive = archive

    def staging(self, path: str) -> Path:
        return self._folder / "staged"

    def add(self, path: str) -> None:
        made = self._folder / "staged"
        info = self._archive.gettarinfo(made, path)
        info.mode, info.uid, info.gid, info.uname, info.gname = 0o600, 0, 0, "", ""
        with made.open("rb") as file:
            self._archive.addfile(info, file)
        made.unlink()


def is_archive(place: Path) -> bool:
    """Whether a name is that of a tar file. Raises ``InvalidInputError`` for one of another kind."""
    if place.name.endswith(ARCHIVES):
        return True
    if place.name.endswith((".tar", ".zip", ".zst", ".gz", ".xz", ".bz2")):
        raise InvalidInputError(f"{place.name}: expected a folder, or a file that ends in {', '.join(ARCHIVES)}")
    return False


@contextmanager
def _written_archive(path: Path, name: str) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        out: IO[bytes]
        if name.endswith(".zst"):
            import pyarrow as pa

            out = stack.enter_context(pa.CompressedOutputStream(stack.enter_context(pa.OSFile(str(path), "wb")), "zstd"))
        else:
            out = cast("IO[bytes]", stack.enter_context(gzip.open(path, "wb", 6)))
        yield stack.enter_context(tarfile.open(fileobj=out, mode="w|"))


def contents(place: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """``(path, file)`` of everything in a backup; each file can be read until the next one is asked for.

    Raises ``StorageError`` for what cannot be read.
    """
    with file_errors(place):
        if place.is_dir():
            for path, folders, names in os.walk(place):
                folders.sort()
                for name in sorted(names):
                    found = Path(path) / name
                    with found.open("rb") as file:
                        yield found.relative_to(place).as_posix(), file
            return
        if not is_archive(place):
            raise InvalidInputError(f"{place} is no backup: expected a folder, or a file that ends in {', '.join(ARCHIVES)}")
        with ExitStack() as stack:
            packed: Any
            if place.name.endswith(".zst"):
                import pyarrow as pa

                packed = stack.enter_context(pa.CompressedInputStream(stack.enter_context(pa.OSFile(str(place), "rb")), "zstd"))
            else:
                packed = stack.enter_context(gzip.open(place, "rb"))
            archive = stack.enter_context(tarfile.open(fileobj=packed, mode="r|"))
            for member in archive:
                held = archive.extractfile(member) if member.isreg() else None
                if held is None:
                    raise StorageError(f"{place} holds {member.name!r}, which is no file: it is no backup.")
                yield member.name, held


def copied(source: IO[bytes], path: str, into: Path, progress: Read = lambda size: None) -> BackedUpFile:
    """Copy a file, on disk when this returns; what was copied, as a manifest has it."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        while piece := source.read(_PIECE_BYTES):
            out.write(piece)
            digest.update(piece)
            size += len(piece)
            progress(len(piece))
        out.flush()
        os.fsync(out.fileno())
    return BackedUpFile(path=path, size=size, sha256=digest.hexdigest())


def described(path: Path, name: str) -> BackedUpFile:
    """A file that is there, as a manifest has it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return BackedUpFile(path=name, size=path.stat().st_size, sha256=digest.hexdigest())


@contextmanager
def file_errors(place: Path) -> Iterator[None]:
    """Raise what reading and writing files raises as ``StorageError``, which names the backup."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFullError(f"The disk is full: {place} was not finished, and nothing of it is left.") from error
        raise StorageError(f"{place} cannot be used: {error}.") from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise StorageError(f"{place} cannot be read: {error or 'it ends too early'}. It is no backup, or was damaged.") from error
