"""One report of the speed: python tests/benchmarks/report.py [--full] [--peers] [--docs] [--only WORDS] [--again] [--out FOLDER]

It measures beside baselines and peers, each run in a process of its own and in turns with the others, and writes ``REPORT.md``,
``report.json`` and charts into bench-report/. Quick is for a look and takes less than three minutes on a quiet machine of two
cores; ``--full`` takes hours, the largest size last. A run whose answer is wrong is left out, and a line says so. Stopped by
Ctrl-C or SIGTERM, it reports what it has.

    python tests/benchmarks/report.py --full --only append,idle --again
                                                 measures these, and puts them in the place of those in the last report
    python tests/benchmarks/report.py --docs     rewrites the figures of docs/performance.md and its charts from report.json;
                                                 measures nothing
"""

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import kafka_lines
import peers
import report_text
from again import check_fits, replaced
from charts import shown
from costs import Failed, Outcome, lines_of_child, run_child
from machine import machine
from subjects import FULL, QUICK, Plan, Subject, subjects
from targets import TARGETS

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs" / "performance.md"
_BEGIN: Final = "<!-- figures: begin; written by report.py --docs -->"
_END: Final = "<!-- figures: end -->"
_LAWS_S: Final = 900.0


def main() -> int:
    """Measure and write, or write the documentation; 0 whether or not targets are met, for a figure is no test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every size, peer and law")
    parser.add_argument("--peers", action="store_true", help="with --full always: peers that have to be installed, and Kafka")
    parser.add_argument("--docs", action="store_true", help="rewrite docs/performance.md from report.json")
    parser.add_argument("--only", default="", help="figures and laws whose name has one of these words, and their baselines")
    parser.add_argument("--again", action="store_true", help="put what is measured into the last report, which says so")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-report")
    parser.add_argument("--scale", type=float, default=1.0, help="a factor of the numbers of events, to try the report out")
    options = parser.parse_args()
    if options.docs:
        write_docs(json.loads((options.out / "report.json").read_text()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended, and what was made is removed
    plan = FULL if options.full else QUICK.with_peers() if options.peers else QUICK
    last = _last(options.out / "report.json", plan) if options.again else None
    report = measure(plan.scaled(options.scale), options.only, lambda text: print(text, file=sys.stderr, flush=True))
    if last is not None:
        report = replaced(last, report)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    (options.out / "REPORT.md").write_text(report_text.markdown(report))
    for name, svg in report_text.charts_of(report).items():
        (options.out / f"{name}.svg").write_text(svg)
    _print(report)
    print(f"\n{options.out / 'REPORT.md'}")
    return 0


def _last(file: Path, plan: Plan) -> dict[str, Any]:
    """The last report, into which a run of ``plan`` is to be put."""
    try:
        last: dict[str, Any] = json.loads(file.read_text())
        check_fits(last, plan.name, machine())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--again: {error}") from None
    return last


def measure(plan: Plan, words: str, told: Callable[[str], None]) -> dict[str, Any]:
    """Run everything of a plan in turns; what ``report.json`` holds."""
    about, started_s = machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="esb-report-") as folder:
        session = _Session(plan, Path(folder), words, told)
        try:
            session.find_peers()
            session.run_subjects(plan.log_events[0])
            session.run_kafka()
            session.run_laws()
            for events in plan.log_events[1:]:
                session.run_subjects(events)
        except (KeyboardInterrupt, SystemExit):
            session.left_out.append("all that would have followed: the measuring was stopped")
        figures = session.figures()
        targets = session.judge(figures)
    return {
        "mode": plan.name,
        "machine": about,
        "took_s": time.monotonic() - started_s,
        "events": {"from memory": [plan.memory_events], "from the log": list(plan.log_events), "Kafka": [plan.kafka_events]},
        "peers": session.peers,
        "figures": figures,
        "laws": session.laws,
        "targets": targets,
        "left_out": session.left_out,
    }


class _Session:
    """One measuring: what is found out, and what was left out and why."""

    def __init__(self, plan: Plan, folder: Path, words: str, told: Callable[[str], None]) -> None:
        self._plan, self._folder, self._words, self._told = plan, folder, words.split(","), told
        self._subjects: list[Subject] = []
        self._outcomes: dict[str, list[Outcome]] = {}
        self._kafka: dict[str, dict[str, Any]] = {}
        self.laws: dict[str, Any] = {}
        self.left_out: list[str] = []
        self.peers: list[str] = []

    def find_peers(self) -> None:
        """Install what is missing, if the plan says so; what runs afterwards."""
        installed = []
        for name in self._plan.peers:
            try:
                self._told(f"looking for {name}")
                peers.python_of(name, install=self._plan.installs)
                installed.append(name)
                self.peers += peers.PEERS[name].packages
            except peers.MissingError as error:
                self.left_out.append(f"{name}: {error}")
        every = subjects(self._plan, installed)
        named = {subject.name for subject in every if self._is_chosen(subject.name)}
        while more := {s.baseline for s in every if s.name in named and s.baseline} - named:
            named |= more
        self._subjects = [subject for subject in every if subject.name in named]

    def _is_chosen(self, name: str) -> bool:
        return any(word in name for word in self._words)

    def _make_inputs(self, chosen: list[Subject]) -> None:
        """The events of each size that is needed."""
        for events in sorted({subject.events for subject in chosen if subject.needs_input}):
            if self._input(events).exists():
                continue
            self._told(f"making {events:,} events")
            options = [] if events == self._plan.memory_events else ["no-memory"]
            lines_of_child(["inputs.py", str(self._input(events)), str(events), *options], self._plan.timeout_s * 4)

    def _input(self, events: int) -> Path:
        return self._folder / str(events)

    def run_subjects(self, log_events: int) -> None:
        """Round by round all subjects that read so many events from a log, and with the first of these sizes all that read none,
        so that a busy moment hits all of them. One that fails is not run again."""
        sizes = self._plan.log_events
        chosen = [s for s in self._subjects if s.events == log_events or (log_events == sizes[0] and s.events not in sizes)]
        self._make_inputs(chosen)
        failed: set[str] = set()
        for number in range(max((subject.rounds for subject in chosen), default=0)):
            for subject in chosen:
                if number < subject.rounds and subject.name not in failed:
                    self._told(f"round {number + 1} of {subject.rounds}: {subject.name}")
                    outcome = self._try(subject.name, ["jobs.py", *self._arguments(subject.command, subject.events)])
                    if outcome is None:
                        failed.add(subject.name)
                    else:
                        self._outcomes.setdefault(subject.name, []).append(outcome)

    def _arguments(self, command: Iterable[str], events: int) -> list[str]:
        return [str(self._input(events)) if word == "FOLDER" else word for word in command]

    def _try(self, name: str, command: list[str]) -> Outcome | None:
        try:
            return run_child(command, self._plan.timeout_s)
        except Failed as failure:
            self.left_out.append(f"{name}: {failure}")
            self._told(f"left out: {self.left_out[-1]}")
            return None

    def run_kafka(self) -> None:
        """The figures that need a broker, in one process that starts it."""
        if self._plan.kafka_events and any(not word or "kafka" in word for word in self._words):
            self._told("Kafka")
            found, left_out = kafka_lines.run(self._plan.kafka_events, self._plan.kafka_rounds, self._plan.timeout_s * 20)
            self._kafka = found
            self.left_out += left_out

    def run_laws(self) -> None:
        """Each point of each law, round by round."""
        points: dict[tuple[str, int], list[Outcome]] = {}
        failed: set[tuple[str, int]] = set()
        chosen = {name: law for name, law in self._plan.laws.items() if self._is_chosen(name)}
        for number in range(self._plan.law_rounds):
            for name, law in chosen.items():
                for x in law.points:
                    if (name, x) not in failed:
                        self._told(f"scaling, round {number + 1} of {self._plan.law_rounds}: {name}, {x:,} {law.x_name}")
                        outcome = self._try(f"{name} @ {x}", ["scaling.py", name, str(x), str(self._plan.law_events)])
                        if outcome is None:
                            failed.add((name, x))
                        else:
                            points.setdefault((name, x), []).append(outcome)
        for name, law in chosen.items():
            told = [{"x": x, **_summed_up(points[name, x])} for x in law.points if (name, x) in points]
            self.laws[name] = {"group": law.group, "x_name": law.x_name, "y_name": law.y_name, "points": told}

    def figures(self) -> list[dict[str, Any]]:
        """What is known of each subject and each figure on Kafka."""
        made = []
        for subject in self._subjects:
            if outcomes := self._outcomes.get(subject.name):
                about = {"section": subject.section, "name": subject.name, "subject": subject.subject, "unit": subject.unit}
                more = {"baseline": subject.baseline, "is_ours": subject.is_ours, "events": subject.events}
                made.append({**about, **more, **_summed_up(outcomes)})
        for name, figure in self._kafka.items():
            about = {"section": "On Kafka", "name": name, "subject": name, "unit": figure["unit"], "baseline": figure["baseline"]}
            ours = any(word in name for word in ("flow file", "log", "publish_batch"))
            made.append({**about, "is_ours": ours, "events": self._plan.kafka_events, **_summed_up(figure["outcomes"])})
        medians = {figure["name"]: figure["median"] for figure in made}
        for figure in made:
            figure["ratio"] = figure["median"] / medians[figure["baseline"]] if figure["baseline"] in medians else None
        return made

    def judge(self, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The targets; one that is not met with a profile of a run at the smallest size."""
        found: dict[str, dict[str, Any]] = {figure["name"]: figure for figure in figures}
        for name, law in self.laws.items():
            found |= {f"{name} @ {point['x']}": point for point in law["points"]}
        judged = []
        for target in TARGETS:
            value = target.value(found)
            is_met = None if value is None else target.is_met(value, found)
            at = "" if value is None else target.at(found)
            profile = self._profile(target.profile) if is_met is False and target.profile is not None else []
            judged.append({"name": target.name, "value": value, "is_met": is_met, "at": at, "profile": profile})
        return judged

    def _profile(self, arguments: tuple[str, ...]) -> list[str]:
        folders = [subject.events for subject in self._subjects if subject.needs_input]
        self._told(f"profile: {' '.join(arguments)}")
        try:
            lines = lines_of_child(
                ["jobs.py", "profile", *self._arguments(arguments, min(folders, default=0))], self._plan.timeout_s
            )
        except Failed as failure:
            return [f"there is no profile: {failure}"]
        return [line.removeprefix("PROFILE ") for line in lines if line.startswith("PROFILE ")]


def _summed_up(outcomes: list[Outcome]) -> dict[str, Any]:
    """Medians of the runs, with the lowest and highest figure."""

    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    values = [outcome.value for outcome in outcomes]
    more = {key: median((o.more or {}).get(key) for o in outcomes) for o in outcomes for key in o.more or {}}
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        **{name: median(asdict(o)[name] for o in outcomes) for name in ("start_s", "cpu_s_per_million", "peak_mb")},
        "whole_s": more.pop("whole_s", None),
        "more": more or None,
        "runs": values,
    }


def _print(report: dict[str, Any]) -> None:
    """The table, in columns."""
    rows = [["figure", "median", "unit", "low", "high", "x baseline", "CPU s/M", "peak MB"]]
    for f in report["figures"]:
        ratio = "" if f["ratio"] is None else f"{f['ratio']:.2f}"
        costs = ["" if f[name] is None else shown(f[name]) for name in ("cpu_s_per_million", "peak_mb")]
        rows.append([f["name"], shown(f["median"]), f["unit"], shown(f["low"]), shown(f["high"]), ratio, *costs])
    for name, law in report["laws"].items():
        for p in law["points"]:
            costs = ["" if p[key] is None else shown(p[key]) for key in ("cpu_s_per_million", "peak_mb")]
            words = f"{name}: {p['x']:,} {law['x_name']}"
            rows.append([words, shown(p["median"]), law["y_name"], shown(p["low"]), shown(p["high"]), "", *costs])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(
                cell.ljust(width) if i in (0, 2) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    for target in report["targets"]:
        if target["value"] is not None:
            word = {True: "met", False: "NOT MET", None: "too small to judge"}[target["is_met"]]
            print(f"{word:18}  {target['name']}: {shown(target['value'])} ({target['at']})")
    for line in report["left_out"]:
        print(f"left out: {line}")


def write_docs(report: dict[str, Any], page: Path = DOCS) -> None:
    """Put the report between the two marks of a page, and its charts into a folder named like the page."""
    text = page.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{page} lacks the mark {_BEGIN if not begin else _END}")
    images = page.with_suffix("")
    if images.exists():
        shutil.rmtree(images)
    images.mkdir()
    for name, svg in report_text.charts_of(report).items():
        (images / f"{name}.svg").write_text(svg)
    figures = report_text.markdown(report, f"{images.name}/", "##")
    page.write_text(f"{before}{_BEGIN}\n\n{figures}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
