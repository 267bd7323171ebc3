"""What the process takes of the machine."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from event_streaming_bus.monitoring.sample import Resources

_FILES: Final = {
    "log": ("log.db", "log.db-wal", "log.db-shm"),
    "history": ("history.duckdb", "history.duckdb.wal"),
}
_ROLLED_OFF: Final = "history"
"""The folder of the Parquet files that old rows of the history are in."""


def resources(folder: Path) -> Resources:
    """As of now. Workers are the processes below this one; what those had used that have ended is not in it."""
    process = psutil.Process()
    with process.oneshot():
        cpu, memory = process.cpu_times(), process.memory_info()
        started_at_s = process.create_time()
        open_files = process.num_fds()
    resident_bytes, cpu_seconds, workers = 0, 0.0, 0
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has ended since
            times = child.cpu_times()
            resident_bytes += child.memory_info().rss
            cpu_seconds += times.user + times.system
            workers += 1
    files = {name: sum(_size(folder / part) for part in parts) for name, parts in _FILES.items()}
    files["history_parquet"] = _size_below(folder / _ROLLED_OFF)
    machine, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    return Resources(
        cpu_seconds=cpu.user + cpu.system,
        resident_bytes=memory.rss,
        open_files=open_files,
        started_at_s=started_at_s,
        workers=workers,
        workers_resident_bytes=resident_bytes,
        workers_cpu_seconds=cpu_seconds,
        memory_bytes=machine.total,
        memory_available_bytes=machine.available,
        disk_bytes=disk.total,
        disk_free_bytes=disk.free,
        files=files,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _size_below(folder: Path) -> int:
    """The size of all files in a folder and below; 0 if it is not there."""
    size = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                size += _size_below(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else _size(Path(entry.path))
    except OSError:  # it is not there, or gone since
        return size
    return size
