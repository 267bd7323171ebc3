"""The report of the speed: what it makes of outcomes, its charts, and that a wrong answer does not count."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import charts
import pytest
import report
import report_text
from again import check_fits, replaced
from charts import Bar, Point
from costs import Failed, run_child
from laws import LAWS
from subjects import FULL, QUICK, subjects
from targets import TARGETS

BENCHMARKS = Path(report.__file__).parent


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """What ``report.json`` holds after a run with these arguments."""
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--out", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_report_has_figures_ratios_costs_and_a_page(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "Bytewax fused by hand: sum", "--scale", "0.01")
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures.keys() == {"plain loop: sum", "Bytewax fused by hand: sum"}, found["left_out"]
    fused = figures["Bytewax fused by hand: sum"]
    assert fused["low"] <= fused["median"] <= fused["high"]
    assert len(fused["runs"]) == 1
    assert fused["ratio"] == pytest.approx(fused["median"] / figures["plain loop: sum"]["median"])
    assert fused["cpu_s_per_million"] > 0
    assert fused["peak_mb"] > 10
    assert fused["start_s"] > 0
    page = (tmp_path / "REPORT.md").read_text()
    assert "Bytewax fused by hand: sum" in page
    assert found["machine"]["python"] in page
    ET.parse(tmp_path / "from-memory.svg")


def test_rows_that_are_not_the_right_ones_give_no_figure(tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "inputs.py"), str(folder), "2000"], check=True, timeout=60, capture_output=True
    )
    expected = json.loads((folder / "expected.json").read_text())
    expected["sum_by_bidder"][1] += 1
    (folder / "expected.json").write_text(json.dumps(expected))
    with pytest.raises(Failed, match=r"sum_by_bidder: (\d+) rows that are not the \1 expected ones"):
        run_child(["jobs.py", "memory", "plain loop: sum", str(folder)], 60)


def test_a_run_that_hangs_or_fails_is_told_in_one_line() -> None:
    with pytest.raises(Failed, match="it took more than 0 s"):
        run_child(["jobs.py", "sales", "plain", "100000"], 0.2)
    with pytest.raises(Failed, match="KeyError: 'nothing'"):
        run_child(["jobs.py", "nothing"], 60)


@pytest.mark.parametrize("plan", [QUICK, FULL], ids=lambda plan: plan.name)
def test_every_figure_has_a_name_of_its_own_and_a_baseline_that_is_measured(plan: Any) -> None:
    every = subjects(plan, plan.peers)
    names = [subject.name for subject in every]
    assert len(names) == len(set(names))
    assert {subject.baseline for subject in every} - {None} <= set(names)


def test_a_target_that_is_not_met_stands_beside_its_profile() -> None:
    target = next(t for t in TARGETS if t.profile is not None)
    judged = [{"name": target.name, "value": 0.5, "is_met": False, "at": "5 events", "profile": ["ncalls tottime"]}]
    page = report_text.markdown(_report(targets=judged))
    assert f"| {target.name} | >= {target.limit:g} x | 0.50 | 5 events | **no** |" in page
    assert "not met: 0.50 x" in page
    assert "ncalls tottime" in page


def test_every_law_says_what_limits_it() -> None:
    assert {law.group for law in LAWS.values()} <= report_text.LIMITS.keys()


def test_the_page_of_the_documentation_is_rewritten_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report._BEGIN}\nprevious figures\n{report._END}\nafter\n")
    costs = {"cpu_s_per_million": 1.0, "more": None}
    points = [{"x": x, "median": x, "low": x, "high": x, "peak_mb": 50 + x, **costs} for x in (1, 100)]
    law = LAWS["keys"]
    report.write_docs(
        _report(laws={"keys": {"group": law.group, "x_name": law.x_name, "y_name": law.y_name, "points": points}}), page
    )
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "previous figures" not in text
    assert "![keys](performance/keys.svg)" in text
    ET.parse(tmp_path / "performance" / "keys.svg")


def test_what_is_measured_again_takes_the_place_of_what_was_and_the_report_says_so() -> None:
    last = _report(
        figures=[_figure("a", 10), _figure("b", 30, "a")],
        targets=[{"name": "t", "value": 3.0, "is_met": True}, {"name": "u", "value": 1.0, "is_met": True}],
        left_out=["c: it failed", "b: x: not this one"],
    )
    new = _report(
        figures=[_figure("a", 20), _figure("c", 50, "a")],
        targets=[{"name": "t", "value": None, "is_met": None}, {"name": "u", "value": 2.0, "is_met": False}],
        left_out=["d: it failed"],
    )
    check_fits(last, new["mode"], new["machine"])
    found = replaced(last, new)
    assert [(f["name"], f["median"], f["ratio"]) for f in found["figures"]] == [("a", 20, None), ("b", 30, 3.0), ("c", 50, 2.5)]
    assert [(t["name"], t["value"]) for t in found["targets"]] == [("t", 3.0), ("u", 2.0)]
    assert found["left_out"] == ["b: x: not this one", "d: it failed"]
    assert "Measured again at today, load 0.0 before: a, c." in report_text.markdown(found)
    with pytest.raises(ValueError, match="full one of p with 2: measure everything again"):
        check_fits(last, "full", last["machine"])


def test_nothing_is_measured_again_where_there_is_no_report(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "report.py"), "--out", str(tmp_path), "--again"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.partition(":")[0]) == (1, "--again")
    assert "Traceback" not in done.stderr


def test_charts_are_well_formed_and_escape_what_they_are_given() -> None:
    for svg in (
        charts.bars("<a & b>", "events/s", [Bar("x < y", 5, 4, 6, True), Bar("z", 0.0, 0.0, 0.0, False)]),
        charts.lines("t", "x", "y", {"one": [Point(1, 5, 4, 6), Point(1e6, 0, 0, 0)], "two": []}, log_y=True),
        charts.lines("t", "x", "y", {}),
    ):
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme: dark" in svg


def _figure(name: str, median: float, baseline: str | None = None) -> dict[str, Any]:
    of_baseline = {"a": 10} if name == "b" else {"a": 20}
    about = {"section": "Parts", "name": name, "subject": name, "unit": "1/s", "baseline": baseline, "is_ours": True, "events": 1}
    costs = {"start_s": None, "cpu_s_per_million": None, "peak_mb": None, "low": median, "high": median, "median": median}
    return {**about, **costs, "ratio": None if baseline is None else median / of_baseline[baseline]}


def _report(**more: Any) -> dict[str, Any]:
    about = {"processor": "p", "cores": 2, "memory_gb": 1, "system": "s", "is_virtual": True, "load_before": [0.0, 0, 0]}
    about |= {"python": "3", "versions": {}, "java": None, "measured_at": "today"}
    base = {"mode": "quick", "machine": about, "took_s": 60, "events": {}, "peers": [], "figures": [], "laws": {}}
    return {**base, "targets": [], "left_out": [], **more}
