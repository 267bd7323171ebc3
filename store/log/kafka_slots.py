"""Which transactional id a process writes under.

Each log that is open takes a *slot* of its data folder, a file that it locks, and the slot's number is part of the id. So whoever
takes the slot of a process that died goes by the same id, and the brokers at once abort what that process left open.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from event_streaming_bus import ids
from event_streaming_bus.errors import StorageError
from event_streaming_bus.store.log.kafka_settings import KafkaSettings


class Slot:
    """A slot that is held: ``transactional_id`` is nobody else's until ``free``."""

    def __init__(self, transactional_id: str, descriptor: int) -> None:
        self.transactional_id = transactional_id
        self._descriptor: int | None = descriptor

    def free(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def take_slot(settings: KafkaSettings) -> Slot:
    """The first slot of the folder that is free."""
    try:
        folder = _folder(settings)
        node = _node(folder)
        for number in range(1 << 20):
            if (slot := _locked(settings, folder, node, number)) is not None:
                return slot
    except OSError as error:
        raise StorageError(f"The data folder {settings.folder} cannot be used: {error}.") from error
    raise StorageError(f"Too many processes write from {settings.folder}.")


def abandoned_slots(settings: KafkaSettings) -> Iterator[Slot]:
    """The slots that were used before and that nobody holds: their processes have ended, some in the midst of a transaction.
    Each is held until the next one is asked for."""
    folder = _folder(settings)
    node = _node(folder)
    for file in sorted(folder.glob("*.slot")):
        slot = _locked(settings, folder, node, int(file.stem))
        if slot is not None:
            try:
                yield slot
            finally:
                slot.free()


def _folder(settings: KafkaSettings) -> Path:
    folder = settings.folder / f"kafka-writers-{settings.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _node(folder: Path) -> str:
    """The name of this data folder among all that write to the cluster."""
    file = folder / "node"
    try:
        with file.open("x") as new:
            new.write(ids.new_id("node_"))
    except FileExistsError:
        pass
    return file.read_text() or folder.name


def _locked(settings: KafkaSettings, folder: Path, node: str, number: int) -> Slot | None:
    descriptor = os.open(folder / f"{number}.slot", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Slot(f"{settings.prefix}esb-{node}-{number}", descriptor)
