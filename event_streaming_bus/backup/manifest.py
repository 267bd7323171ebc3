"""The manifest of a backup: which files it has, what they must be, and which version of the bus can read them."""

from pathlib import PurePosixPath
from typing import Final

import msgspec

from event_streaming_bus.errors import StorageError, UnsupportedFormatError
from event_streaming_bus.store.sqlite import FORMAT_VERSION

NAME: Final = "backup.json"
BACKUP_FORMAT: Final = 1


class BackedUpFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file by its path within the data folder, with its size and the SHA-256 of what is in it."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup has. ``format`` is that of the backup, ``data_format`` that of the data folder. ``made_at_ms`` is the moment
    that all files show. ``has_keys``: the keys are in it. ``left_out`` says what is not, and is not made anew either."""

    format: int = BACKUP_FORMAT
    data_format: int = FORMAT_VERSION
    bus_version: str
    made_at_ms: int
    has_keys: bool
    left_out: list[str]
    files: list[BackedUpFile]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def encoded(manifest: Manifest) -> bytes:
    """The manifest as it is written."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def decoded(data: bytes, where: str) -> Manifest:
    """The manifest that ``encoded`` wrote. Raises ``UnsupportedFormatError`` for one of a newer version, ``StorageError`` for
    what is none, or names files outside of the folder."""
    try:
        version = msgspec.json.decode(data, type=_Versions)
        if version.format > BACKUP_FORMAT or version.data_format > FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"{where} was made by version {version.bus_version} of the bus, in a newer format (backup {version.format}, data "
                f"folder {version.data_format}); this version reads up to {BACKUP_FORMAT} and {FORMAT_VERSION}. Upgrade the bus."
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"The manifest of {where} cannot be read: {error}. It is no backup, or was damaged.") from error
    for file in manifest.files:
        if not is_inside(file.path):
            raise StorageError(f"The manifest of {where} names {file.path!r}, which is outside of a data folder.")
    return manifest


class _Versions(msgspec.Struct):
    """What every version of the bus can read of a manifest."""

    format: int
    data_format: int
    bus_version: str


def is_inside(path: str) -> bool:
    """Whether a path stays within the folder that it is put in."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path
