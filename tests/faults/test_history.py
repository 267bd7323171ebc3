"""A short history under faults. ``make histories`` makes long ones."""

from pathlib import Path

from history_places import fake_clock_libraries
from history_run import FAULTS, Plan, run


def test_a_history_under_faults_is_explained_by_what_the_bus_promises(tmp_path: Path) -> None:
    """The clock jumps only where it can be made to: ``test_clock_faults`` says what is missing."""
    faults = FAULTS if fake_clock_libraries() else FAULTS[:2]
    report = run(Plan(seed=5, seconds=4, faults=faults, rest_s=0.3, longest_pause_s=0.6), tmp_path)
    assert not report.anomalies, f"{report}"
    assert report.faults, f"nothing was disturbed: {report}"
    for what in ("append", "read", "publish", "scan", "poll", "commit"):
        assert report.counts[f"{what} ok"], f"{report}"
