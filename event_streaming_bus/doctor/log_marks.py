"""The marks in the log: how far flows have written their output, which must not be beyond what they have read."""

import sqlite3
from collections.abc import Mapping
from typing import Final, TypeAlias

from event_streaming_bus.doctor.findings import RESTORE, Examination, Finding, reason_of
from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.flows.marks import STAGE, StageMark, WindowMark, decoded
from event_streaming_bus.models import LANES, Split

StageEnds: TypeAlias = Mapping[str, Mapping[tuple[int, str], int]]
_ANEW: Final = f"{RESTORE} Or begin the flow anew with `esb run --from-start`, which writes all of its output again."


def check_marks(exam: Examination, db: sqlite3.Connection, file: str) -> None:
    """Check that each mark can be read, and is within the split that it tells of. Raises ``sqlite3.Error``."""
    query = "SELECT stream_id, lane, partition, end_offset FROM splits JOIN streams USING (stream_no)"
    ends = {str(Split(stream_id, LANES[lane], part)): end for stream_id, lane, part, end in db.execute(query)}
    for owner, key, value in db.execute("SELECT owner, key, value FROM marks"):
        if not owner.startswith((STAGE, "window:")):
            continue
        exam.counted("marks of flows")
        try:
            positions = _positions(owner, key, value)
        except (CorruptLogError, TypeError) as error:
            told = f"How far the flow has written its output cannot be read: {reason_of(error)}. The flow does not start."
            _found(exam, file, owner, key, "damaged-mark", told)
            continue
        for split, offset in positions.items():
            if split in ends and not 0 <= offset <= ends[split]:
                told = f"The flow says that it has come to offset {offset} of {split}, which ends at {ends[split]}."
                _found(exam, file, owner, key, "mark-beyond-end", told)


def stage_ends(db: sqlite3.Connection) -> StageEnds:
    """Where the stream ends that each stage of a flow reads, by ``TENANT/FLOW/STAGE`` and then by partition and lane, as far as
    the marks tell which stream that is. Raises ``sqlite3.Error``."""
    query = "SELECT stream_id, partition, lane, end_offset FROM splits JOIN streams USING (stream_no)"
    ends: dict[str, dict[tuple[int, str], int]] = {}
    for stream_id, partition, lane, end in db.execute(query):
        ends.setdefault(stream_id, {})[partition, LANES[lane].value] = end
    streams: dict[str, set[str]] = {}
    for owner, key in db.execute("SELECT owner, key FROM marks"):
        if owner.startswith(STAGE):
            streams.setdefault(owner.removeprefix(STAGE), set()).add(key.rsplit("/", 2)[0])
    return {stage: ends.get(next(iter(found)), {}) for stage, found in streams.items() if len(found) == 1}


def _positions(owner: str, key: str, value: bytes) -> Mapping[str, int]:
    if owner.startswith(STAGE):
        return {key: decoded(owner, key, value, StageMark).offset}
    return decoded(owner, key, value, WindowMark).cut


def _found(exam: Examination, file: str, owner: str, key: str, problem: str, meaning: str) -> None:
    flow = owner.partition(":")[2]
    exam.found(Finding(file=file, place=f"mark of {flow}, {key}", problem=problem, meaning=meaning, advice=_ANEW))
