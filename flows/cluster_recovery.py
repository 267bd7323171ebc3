"""Recovery partitions spread over the hosts of a cluster.

Bytewax keeps a flow's snapshots in a fixed number of partitions, SQLite files. Each worker reads those that it finds in its
folder and Bytewax sends it what belongs there, so a host has some of them on a disk of its own, and all hosts together have all,
each once. Where one is missing, Bytewax cannot resume, and nothing is started.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from sqlite3 import DatabaseError, connect
from typing import Final

from bytewax.recovery import init_db_dir

from event_streaming_bus.errors import StorageError
from event_streaming_bus.flows.cluster_messages import Recovery

_BEGUN: Final = "begun"
_PART: Final = re.compile(r"part-(\d+)\.sqlite3")


def partition_count(hosts: int, default: int) -> int:
    """Into how many partitions a new flow's snapshots go: at least one for each host."""
    return max(hosts, default)


def read_recovery(folder: Path) -> Recovery:
    """What is in a flow's recovery folder. ``StorageError`` if a file there is not what its name says."""
    found: list[int] = []
    counts: set[int] = set()
    for path in folder.glob("part-*.sqlite3"):
        match = _PART.fullmatch(path.name)
        try:
            with closing(connect(path)) as db:
                rows = db.execute("SELECT part_index, part_count FROM parts").fetchall()
        except DatabaseError as error:
            raise StorageError(f"{path} cannot be read: {error}") from error
        if match is None or len(rows) != 1 or rows[0][0] != int(match[1]):
            raise StorageError(f"{path} does not hold the recovery partition that its name says")
        found.append(int(rows[0][0]))
        counts.add(int(rows[0][1]))
    if len(counts) > 1:
        raise StorageError(f"{folder} holds recovery partitions of different flows, or of different beginnings of one")
    # A flow that has run on one machine has no such file, and has begun.
    virgin = (folder / _BEGUN).exists() and (folder / _BEGUN).read_text() == "no"
    return Recovery(tuple(sorted(found)), counts.pop() if counts else 0, bool(found) and not virgin)


def make_partitions(folder: Path, count: int, index: int, hosts: int) -> None:
    """Make those partitions of a flow that has not begun yet that belong to the host ``index``. Others in the folder go."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _BEGUN, "no")
    for path in folder.glob("part-*.sqlite3*"):
        path.unlink()
    making = folder / "making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    init_db_dir(making, count)
    for number in range(index, count, hosts):
        (making / f"part-{number}.sqlite3").replace(folder / f"part-{number}.sqlite3")
    shutil.rmtree(making)


def note_begun(folder: Path) -> None:
    """From here on the folder's partitions may hold what cannot be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _BEGUN, "yes")


def drop_unknown(folder: Path, flow: str, state_names: Collection[str]) -> None:
    """Drop the snapshots of processors that the flow does not have any more. Where the hosts share a catalog, only the first that
    runs the changed flow finds there that they are gone; one that later has the name of such a one must not find its state."""
    begins = [f"{flow}.{name}:" for name in state_names]
    for path in folder.glob("part-*.sqlite3"):
        try:
            with closing(connect(path)) as db, db:
                steps = [str(step) for (step,) in db.execute("SELECT DISTINCT step_id FROM snaps")]
                gone = [step for step in steps if step.startswith(f"{flow}.") and not step.startswith(tuple(begins))]
                db.executemany("DELETE FROM snaps WHERE step_id = ?", [(step,) for step in gone])
        except DatabaseError as error:
            raise StorageError(f"{path}: the snapshots of processors that are gone cannot be dropped: {error}") from error


def is_complete(found: Iterable[Recovery]) -> bool:
    """Whether all partitions are there, so that workers can start."""
    each = list(found)
    count = max((one.count for one in each), default=0)
    return count > 0 and {number for one in each for number in one.partitions} == set(range(count))


def trouble(found: Mapping[str, Recovery]) -> str | None:
    """Why the flow cannot go on with what the hosts have, by host; ``None`` if it can, or may begin."""
    counts = {each.count for each in found.values() if each.count}
    told = ", ".join(f"{host} has {_listed(each.partitions)}" for host, each in found.items())
    if len(counts) > 1:
        return f"the recovery partitions of the hosts are of different beginnings of the flow: {told} of {sorted(counts)}"
    count = max(counts, default=0)
    for number in range(count):
        holders = [host for host, each in found.items() if number in each.partitions]
        if len(holders) > 1:
            return f"the recovery partition {number} is on {' and '.join(holders)}: one of them is an old copy, remove that"
    held = {number for each in found.values() for number in each.partitions}
    missing = [number for number in range(count) if number not in held]
    if any(each.begun for each in found.values()) and not is_complete(found.values()):
        lost = f"the recovery partition(s) {_listed(missing)}" if count else "any recovery partition, though the flow has run"
        return (
            f"no host has {lost}: {told}. Bring back the volume or the files "
            "part-N.sqlite3* that held them, or begin anew with --from-start on all hosts"
        )
    return None


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _write(path: Path, text: str) -> None:
    """A small file that is whole on disk, or not there."""
    making = path.with_suffix(".making")
    with making.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)
