"""What Bytewax keeps of flows: their recovery partitions, which must all be there, and the states in them."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from event_streaming_bus.doctor.findings import Examination, Finding, reason_of
from event_streaming_bus.doctor.log_marks import StageEnds
from event_streaming_bus.doctor.sqlite_files import examined
from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.flows.snapshots import check_sealed, plain, unwrapped

FOLDER: Final = "recovery"
BEGUN: Final = "begun"
"""Beside the partitions of a flow that runs on several hosts, each of which has only some of them."""
PREPARING: Final = "preparing"
"""Beside the partitions of a flow that are just being made, or were when that was broken off: the next start makes them."""
_MAX_PARTITIONS: Final = 10_000
_PART: Final = re.compile(r"part-(\d+)\.sqlite3")
_ANEW: Final = (
    "Restore the data folder from a backup (`esb restore`), or begin the flow anew with `esb run --from-start`, which writes all "
    "of its output again."
)


def check_recovery(exam: Examination, folder: Path, ends: StageEnds) -> None:
    """Check the partitions of every flow, and that none is ahead of the log, in which the streams end at ``ends``."""
    for flow in sorted((folder / FOLDER).glob("*/*/")):
        if parts := sorted(flow.glob("part-*.sqlite3")):
            exam.counted("flows with state")
            _check_flow(exam, folder, flow, parts, ends)


def _check_flow(exam: Examination, folder: Path, flow: Path, parts: list[Path], ends: StageEnds) -> None:
    name = f"flow {unquote(flow.name)} of tenant {unquote(flow.parent.name)}"
    numbers: set[int] = set()  # of the files that are there, whatever is in them
    counts: set[int] = set()
    frontiers: dict[tuple[int, int], int] = {}
    commits: dict[str, int] = {}
    for part in parts:
        file = str(part.relative_to(folder))
        match = _PART.fullmatch(part.name)
        if match is not None:
            numbers.add(int(match[1]))
        with examined(exam, part, file, advice=_ANEW) as db:
            if db is None:
                continue
            for index, count in db.execute("SELECT part_index, part_count FROM parts").fetchall():
                if type(count) is int and 0 < count <= _MAX_PARTITIONS:
                    counts.add(count)
                if match is None or int(match[1]) != index:
                    _found(exam, file, name, "misplaced-partition", f"The file holds the recovery partition {index}.")
            for execution, worker, frontier in db.execute("SELECT ex_num, worker_index, worker_frontier FROM fronts"):
                frontiers[int(execution), int(worker)] = int(frontier)
            for (epoch,) in db.execute("SELECT commit_epoch FROM commits"):
                commits[file] = int(epoch)
            for step, key, state in _check_states(exam, db, file, name):
                tenant_id, of_flow = unquote(flow.parent.name), unquote(flow.name)
                stage = step.removeprefix(f"{of_flow}.").removesuffix(":source")
                _check_place(
                    exam, file, f"{name}, {step} {key}", plain(state), key, ends.get(f"{tenant_id}/{of_flow}/{stage}", {})
                )
    lost = sorted(set(range(max(counts, default=0))) - numbers)
    if len(counts) > 1:
        told = f"The partitions are of different beginnings of the flow: they say that there are {sorted(counts)} of them."
        _found(exam, str(flow.relative_to(folder)), name, "mixed-partitions", told)
    elif lost and not (flow / BEGUN).exists() and not (flow / PREPARING).exists():
        told = f"Of {max(counts)} recovery partitions these are missing: {', '.join(map(str, lost))}. The flow cannot go on."
        _found(exam, str(flow.relative_to(folder)), name, "missing-partition", told)
    latest = max((execution for execution, _ in frontiers), default=None)
    resume = min((epoch for (execution, _), epoch in frontiers.items() if execution == latest), default=None)
    for file, epoch in commits.items():
        if resume is not None and not lost and epoch > resume:
            told = (
                f"What is needed to go on from epoch {resume} is gone from it, up to epoch {epoch}: it is newer than the others."
            )
            _found(exam, file, name, "mixed-partitions", told)


def _check_place(
    exam: Examination,
    file: str,
    place: str,
    state: dict[str, tuple[int, Any]],
    partition: str,
    ends: Mapping[tuple[int, str], int],
) -> None:
    """Whether a source would go on within its stream."""
    for lane, (offset, _) in state.items():
        end = ends.get((int(partition), lane))
        if end is not None and offset > end:
            told = f"The flow would go on at offset {offset} of lane {lane}, but the log ends at {end}."
            _found(exam, file, place, "state-ahead-of-log", f"{told} The files are of different times.")


def _check_states(exam: Examination, db: sqlite3.Connection, file: str, flow: str) -> Iterator[tuple[str, str, bytes]]:
    """Check the states in a partition; ``(step, key, state)`` of those of sources, the newest of each."""
    sources: dict[tuple[str, str], bytes] = {}
    for step, key, epoch, state in db.execute("SELECT step_id, state_key, snap_epoch, ser_change FROM snaps ORDER BY snap_epoch"):
        if state is None:
            continue  # the state was let go of
        exam.counted("states of flows")
        try:
            state = unwrapped(state)
            if not check_sealed(state):
                exam.counted("states without a checksum")
            elif step.endswith(":source"):
                sources[step, key] = state
        except (CorruptLogError, TypeError) as error:
            processor, _, part = str(step).rpartition(".")[2].partition(":")
            place = f"{flow}, processor {processor}, {part} {key}, epoch {epoch}"
            told = f"The state that the processor would go on from cannot be read: {reason_of(error)}."
            _found(exam, file, place, "damaged-state", told)
    yield from ((step, key, state) for (step, key), state in sources.items())


def _found(exam: Examination, file: str, place: str, problem: str, meaning: str) -> None:
    exam.found(Finding(file=file, place=place, problem=problem, meaning=meaning, advice=_ANEW))
