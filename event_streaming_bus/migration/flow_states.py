"""What flows have in the data folder: snapshots that hold offsets of one log, and must never be read beside another.

Both logs of a migration may share their folder, so its snapshots belong to one of them: to the source, unless the file
``recovery.json`` says otherwise. When everything has been carried they are set aside, and flows begin at the beginning of their
streams at the target. Whoever comes back to a log whose streams have been there all the time finds its snapshots again.
"""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from event_streaming_bus.errors import InUseError, StorageError
from event_streaming_bus.flows.recovery import forget, no_workers
from event_streaming_bus.migration.naming import label_of
from event_streaming_bus.migration.pairs import Pair
from event_streaming_bus.store.catalog import ProcessorRecord
from event_streaming_bus.store.storage import Storage

_FILE: Final = "recovery.json"
_FOLDER: Final = "recovery"


class _Target(msgspec.Struct):
    changelog_topic: str | None = None


class _Writes(msgspec.Struct):
    """What is looked at of a processor's configuration."""

    target_stream_id: str | None = None
    state_store_config: _Target | None = None


class _Belongs(msgspec.Struct):
    """To which log the snapshots belong, and since when those of others are aside, by the names of their folders."""

    log: str
    aside_ms: dict[str, int] = {}


def writers(storage: Storage) -> dict[tuple[str, str], list[str]]:
    """By tenant and stream (its name or id): the processors that write to it, as ``flow/processor``."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in storage.catalog.list_processors(None):
        writes = msgspec.json.decode(record.config, type=_Writes)
        changes = None if writes.state_store_config is None else writes.state_store_config.changelog_topic
        for stream in filter(None, (writes.target_stream_id, changes)):
            found.setdefault((record.tenant_id, stream), []).append(_told(record))
    return found


def _told(record: ProcessorRecord) -> str:
    return record.processor_name if record.flow == record.processor_id else f"{record.flow}/{record.processor_name}"


def flows_of(storage: Storage) -> dict[tuple[str, str], list[str]]:
    """The names of the processors of each flow, by tenant and flow."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in storage.catalog.list_processors(None):
        found.setdefault((record.tenant_id, record.flow), []).append(record.processor_name)
    return found


def running(storage: Storage) -> list[str]:
    """The flows whose workers run, in whatever process."""
    found = []
    for tenant_id, flow in flows_of(storage):
        try:
            with no_workers(storage, tenant_id, flow):
                pass
        except InUseError:
            found.append(flow)
    return found


def snapshots_of(storage: Storage) -> Path:
    """Where the snapshots of all flows are."""
    return storage.folder / _FOLDER


def hand_over(source: Storage, target: Storage, names: tuple[str, str], pairs: Iterable[Pair]) -> str | None:
    """Let the snapshots in the folder that both logs share be those of the target; returns what was done, if anything was.
    ``names`` are those of the two logs. ``InUseError`` if a flow runs."""
    folder = source.folder
    belongs = _read(folder / _FILE)
    owner = names[0] if belongs is None else belongs.log
    if owner == names[1]:
        return None
    belongs = belongs or _Belongs(owner)
    with contextlib.ExitStack() as stopped:
        flows = flows_of(source)
        for tenant_id, flow in flows:
            stopped.enter_context(no_workers(source, tenant_id, flow))
        now_ms = time.time_ns() // 1_000_000
        told = _set_aside(folder, belongs, owner, now_ms)
        back = folder_of(names[1])
        since_ms = belongs.aside_ms.pop(back, None)
        if since_ms is not None and all(pair.after.created_at_ms < since_ms for pair in pairs) and (folder / back).exists():
            (folder / back).rename(folder / _FOLDER)
            told = "flows go on at the target from the snapshots that they left there"
        else:
            for (tenant_id, flow), processors in flows.items():
                forget(target, tenant_id, flow, processors)
        belongs.log = names[1]
        (folder / _FILE).write_bytes(msgspec.json.encode(belongs))
    return told


def folder_of(log: str) -> str:
    """The name of the folder where the snapshots of a log are while they are aside."""
    return f"recovery-of-{label_of(log)}"


def _set_aside(folder: Path, belongs: _Belongs, owner: str, now_ms: int) -> str | None:
    if not (folder / _FOLDER).exists():
        return None
    name = folder_of(owner)
    place = folder / name
    if place.exists():  # of a log that was left before: what is newer counts
        place.rename(folder / f"{name}-{now_ms}")
    (folder / _FOLDER).rename(place)
    belongs.aside_ms[name] = now_ms
    return f"the snapshots of flows are in {place} now; flows begin at the beginning of their streams at the target"


def _read(path: Path) -> _Belongs | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Belongs)
    except msgspec.DecodeError as error:
        raise StorageError(f"{path} is damaged: {error}. Say in it which log the snapshots in {_FOLDER} belong to.") from error
