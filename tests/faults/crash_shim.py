"""Disk errors for the processes of the crash matrix: the shim of ``shim/disk_faults.c``, compiled when it is first needed."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim") / "disk_faults.c"


class DiskFault(IntEnum):
    """What goes wrong. Each has a number ``n`` with it, and concerns files whose path has a given text in it."""

    NONE = 0
    WRITE_EIO = 1
    """The n-th write fails with EIO."""
    WRITE_SHORT = 2
    """The n-th write writes half, and says so."""
    WRITE_TORN = 3
    """The process is killed with half of the n-th write on disk."""
    FULL = 4
    """Files may grow by n bytes, then the disk is full."""
    SYNC_EIO = 5
    """The n-th sync fails with EIO."""
    SYNC_KILL = 6
    """The process is killed in place of the n-th sync."""
    SYNCED_KILL = 7
    """The process is killed after the n-th sync."""
    WRITES_EIO = 8
    """The n-th write and all that follow fail with EIO."""

    @property
    def kills(self) -> bool:
        """Whether the process is killed by it."""
        return self in (DiskFault.WRITE_TORN, DiskFault.SYNC_KILL, DiskFault.SYNCED_KILL)

    @property
    def is_error(self) -> bool:
        """Whether the process is told of something that went wrong."""
        return self is not DiskFault.NONE and not self.kills

    @property
    def is_of_syncs(self) -> bool:
        """Whether n counts syncs."""
        return self in (DiskFault.SYNC_EIO, DiskFault.SYNC_KILL, DiskFault.SYNCED_KILL)


def compiled(source: Path = SOURCE) -> Path | None:
    """A shim for LD_PRELOAD; ``None`` where there is no Linux or no C compiler. Made once for each text of its source."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        return None
    name = f"esb-{source.stem}-{os.getuid()}-{hashlib.blake2b(source.read_bytes(), digest_size=8).hexdigest()}.so"
    library = Path(tempfile.gettempdir()) / name
    if not library.exists():
        made = library.with_name(f"{name}.{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(made), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        made.replace(library)
    return library


class Shim:
    """The shim in this process, if it was started with it."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.is_there = hasattr(library, "fault_arm")
        if self.is_there:
            self._library = library
            library.fault_arm.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_long]
            for name in ("fault_writes", "fault_syncs", "fault_met"):
                getattr(library, name).restype = ctypes.c_long

    def arm(self, fault: DiskFault, path_part: str, n: int) -> None:
        """From now on this goes wrong on files whose path contains ``path_part``; counting starts anew."""
        self._library.fault_arm(int(fault), path_part.encode(), n)

    def disarm(self) -> None:
        """Nothing goes wrong any more."""
        if self.is_there:
            self._library.fault_disarm()

    def counts(self) -> tuple[int, int]:
        """``(writes, syncs)`` since it was armed."""
        return (self._library.fault_writes(), self._library.fault_syncs()) if self.is_there else (0, 0)

    def met(self) -> int:
        """How often the fault has happened."""
        return self._library.fault_met() if self.is_there else 0
