"""What the doctor finds: one thing that is not as it should be, where, what that means, and what to do."""

from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus.errors import BusError
from event_streaming_bus.models import LANES


class Repair(StrEnum):
    """What ``esb doctor --repair`` does about a finding. None of them removes anything that cannot be made anew."""

    EVENT_IDS = "event-ids"
    """Make the index of ids anew from the record batches."""
    COUNTS = "counts"
    """Count the stored bytes of each split anew."""
    HISTORY = "history"
    """Set the history database aside; it is built again from the log."""
    PARQUET = "parquet"
    """Set a damaged file of old days aside, so that the others answer."""
    PROJECTION = "projection"
    """Set the file of a build aside; the build is made again from the events."""
    LEFTOVER = "leftover"
    """Remove what something that was broken off has left behind, and nobody reads."""
    PERMISSIONS = "permissions"
    """Let nobody but the owner in."""


RESTORE: Final = "Restore the data folder from a backup (`esb restore`)."
REPAIR: Final = "`esb doctor --repair` does."


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``file`` is a path within the folder, ``place`` says where in it, in words; ``problem`` names the kind of finding.
    ``repair`` is what ``--repair`` would do, null where only a person or a backup can help."""

    file: str
    place: str
    problem: str
    meaning: str
    advice: str
    repair: Repair | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an examination. ``checked`` counts what was looked at, by kind; ``skipped`` says what was not, and why;
    ``repaired`` what was done, if anything was to be; ``findings`` are those that remain, at most ``MAX_FINDINGS`` of a kind and
    file, the first ones; ``finding_count`` counts all."""

    folder: str
    finding_count: int
    findings: list[Finding]
    checked: dict[str, int]
    skipped: list[str]
    repaired: list[str] = []

    @property
    def is_sound(self) -> bool:
        return not self.finding_count


Progress: TypeAlias = Callable[[int, int, str], None]
"""``(bytes checked, bytes there, what is being looked at)``."""
MAX_FINDINGS: Final = 100


class Examination:
    """Collects findings and counts while a folder is examined, and tells how far that is."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self.findings: list[Finding] = []
        self.checked: dict[str, int] = {}
        self.skipped: list[str] = []
        self.count = 0
        self._by_kind: dict[tuple[str, str], int] = {}
        self._done_bytes, self._total_bytes, self._progress = 0, total_bytes, progress

    def found(self, finding: Finding) -> None:
        """Keep a finding; of many of a kind in one file only the first ones, but all are counted."""
        kind = finding.file, finding.problem
        self._by_kind[kind] = number = self._by_kind.get(kind, 0) + 1
        self.count += 1
        if number <= MAX_FINDINGS:
            self.findings.append(finding)

    def counted(self, kind: str, number: int = 1) -> None:
        """That so many of a kind were looked at."""
        self.checked[kind] = self.checked.get(kind, 0) + number

    def skip(self, what: str) -> None:
        """That something was not looked at, and why."""
        self.skipped.append(what)

    def read(self, size: int, what: str) -> None:
        """That so many bytes more have been read."""
        self._done_bytes += size
        if self._progress is not None:
            self._progress(min(self._done_bytes, self._total_bytes), self._total_bytes, what)


def reason_of(error: Exception) -> str:
    """Why something cannot be read, without what the error says of where it lies and what to do."""
    if not isinstance(error, BusError):
        return str(error) or type(error).__name__
    _, damaged, reason = error.message.partition(" is damaged: ")
    return reason.partition(". ")[0].rstrip(".") if damaged else error.message.rstrip(".")


def split_place(stream: str, lane: int, partition: int) -> str:
    """A split in words; ``lane`` is its number, which a damaged row may have wrong."""
    name = LANES[lane].value if 0 <= lane < len(LANES) else str(lane)
    return f"stream {stream}, partition {partition}, lane {name}"
