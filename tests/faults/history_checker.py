"""Checks a history that clients of the bus have recorded: every promise that it can break, see ``docs/reliability.md``.

    python tests/faults/history_checker.py FOLDER

It only reads what was recorded, and knows nothing of the bus. Aggregates are checked for strict serialisability, streams for the
order of logs, consumer groups for what they deliver and commit; in time that grows as the history does.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from history_aggregates import AggregateChecker
from history_anomalies import Anomaly
from history_groups import GroupChecker
from history_log import LogChecker
from history_operations import Commit, Committed, Fault, Operation, Outcome, Poll, read_history


class Report(NamedTuple):
    """What a history holds, and what is wrong with it. ``counts``: of operations, by what they do and how they ended."""

    operations: int
    counts: Counter[str]
    faults: Counter[str]
    anomalies: list[Anomaly]
    seconds: float

    def __str__(self) -> str:
        told = [f"{self.operations:,} operations, checked in {self.seconds:.1f} s"]
        told += ["  " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items()))]
        told += ["  faults: " + (", ".join(f"{name} {count:,}" for name, count in sorted(self.faults.items())) or "none")]
        kinds = Counter(each.kind for each in self.anomalies)
        told += ["  anomalies: " + (", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()) or "none")]
        for kind in kinds:
            for anomaly in [each for each in self.anomalies if each.kind == kind][:3]:
                told += [f"{kind}: {anomaly.told}", *(f"    {operation}" for operation in anomaly.operations[:6])]
        return "\n".join(told)


def check(operations: Sequence[Operation], *, is_dense: bool = True) -> Report:
    """Check a history, its operations in the order of their beginnings. ``is_dense``: offsets have no gaps, as those of an
    embedded log."""
    started_s = time.monotonic()
    aggregates = AggregateChecker(operations)
    log = LogChecker(operations, aggregates.kept, is_dense=is_dense)
    anomalies = aggregates.anomalies + log.anomalies
    of_groups: dict[str, list[Operation]] = {}
    for operation in operations:
        if isinstance(operation.action, Poll | Commit | Committed):
            of_groups.setdefault(operation.action.group, []).append(operation)
    for of_group in of_groups.values():
        anomalies += GroupChecker(of_group, log).anomalies
    done = [each for each in operations if not isinstance(each.action, Fault)]
    counts = Counter(f"{type(each.action).__name__.lower()} {each.outcome}" for each in done)
    faults = Counter(each.action.what for each in operations if isinstance(each.action, Fault) and each.outcome is Outcome.OK)
    del faults["start"]
    return Report(len(done), counts, faults, anomalies, time.monotonic() - started_s)


def main() -> None:
    folder = Path(sys.argv[1])
    report = check(read_history(folder), is_dense=not (folder / "sparse").exists())
    print(report)
    sys.exit(1 if report.anomalies else 0)


if __name__ == "__main__":
    main()
