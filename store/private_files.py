"""Files that only their owner may read: keys, and tokens that are handed over in a file."""

import os
import secrets
from pathlib import Path

from event_streaming_bus.errors import StorageError
from event_streaming_bus.fault_points import fault_point
from event_streaming_bus.store.synced import sync


def make_private(path: Path, data: bytes) -> bool:
    """Make a file that only its owner may read, whole or not at all, on disk when this returns.

    False if there is one already, which stays: of two processes that make it at once, one does. Raises ``StorageError``.
    """
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)  # whole: a disk that is nearly full may take a part, and say so
                file.flush()
                os.fsync(file.fileno())
            fault_point("file.written")
            os.link(made, path)
        except FileExistsError:
            return False
        finally:
            made.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error}.") from error
    return True


def read_private(path: Path) -> bytes:
    """What such a file has. Raises ``StorageError`` if it cannot be read, or can be by others than its owner."""
    try:
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path} can be read by others than its owner; `chmod 600 {path}` mends that.")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
