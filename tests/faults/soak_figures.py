"""What the soak measures while it runs, and what is made of it: samples, and the tables of the report."""

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from soak_load import BATCH_EVENTS
from soak_parts import PUBLISHERS, Parts

MB: Final = 1 << 20
_WARM_UP: Final = 0.25
"""The share of the samples that no slope is fitted to."""
_FLAT_SHARE: Final = 0.10
_FLAT_MB: Final = 16.0
_PAUSE_S: Final = 60.0
_FLAT_DESCRIPTORS: Final = 4.0
_SETTLED_S: Final = 60.0
"""A process younger than this is still loading what it needs; its memory is left out."""

Sample = dict[str, Any]


class Sampler:
    """Takes samples, and appends them to ``WORK/samples`` as lines of JSON."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._begun_s = parts, time.time()
        self._notes_at: dict[str, int] = {}
        self._cpu: dict[tuple[int, float], float] = {}
        self.cpu_s = 0.0
        """The processor time that all parts have taken so far."""
        self.accepted = 0
        """The batches that publishers have been told to be there."""

    def take(self) -> Sample:
        """Measure everything once."""
        processes = self._processes()
        sample: Sample = {
            "at": round(time.time() - self._begun_s, 1),
            "time": time.strftime("%H:%M:%S"),
            "load": os.getloadavg()[0],
            "processes": processes,
            "files": self._files(),
            "latency": self._latencies(),
            "cpu_s": round(self.cpu_s, 1),
            "accepted": self.accepted,
        }
        try:
            told = json.loads((self._parts.work / "ledger").read_bytes())
        except FileNotFoundError:
            told = {}
        sample["stored"] = told.get("stored_bytes", {})
        sample["counts"] = told.get("counts", {})
        sample["open"] = told.get("open_count", 0)
        with (self._parts.work / "samples").open("a") as file:
            file.write(json.dumps(sample) + "\n")
        return sample

    def _processes(self) -> dict[str, list[float]]:
        """By part: resident memory in MB, descriptors, age in seconds, process id."""
        found: dict[str, list[float]] = {}
        pids = {name: process.pid for name, process in self._parts.processes.items() if process.poll() is None}
        pids |= {name: process.pid for name, process in self._parts.workers().items()}
        for name, pid in pids.items():
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    times, made_s = process.cpu_times(), process.create_time()
                    place, spent_s = (pid, made_s), times.user + times.system
                    self.cpu_s += spent_s - self._cpu.get(place, 0.0)
                    self._cpu[place] = spent_s
                    found[name] = [process.memory_info().rss / MB, process.num_fds(), time.time() - made_s, pid]
            except psutil.Error:
                continue  # it has just ended
        return found

    def _files(self) -> dict[str, float]:
        """By kind, how many MB the files of the data folder have."""
        found: dict[str, float] = defaultdict(float)
        data = self._parts.work / "data"
        for folder, _, names in os.walk(data):
            for name in names:
                path = Path(folder, name)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue
                below = path.relative_to(data).parts
                found[kind_of(below)] += size / MB
                found["number of files"] += 1
        return dict(found)

    def _latencies(self) -> dict[str, list[float]]:
        """By the way of publishing: p50 and p99 of a batch's publish in ms since the last sample, how many, how many failed."""
        found: dict[str, list[float]] = {}
        taken: dict[str, list[float]] = defaultdict(list)
        failed: dict[str, int] = defaultdict(int)
        for name in PUBLISHERS:
            for line in new_lines(self._parts.work / "notes" / name, self._notes_at):
                kind, *rest = line.split(" ")
                if kind == "A" and len(rest) == 4:
                    taken[name[:-1]].append(float(rest[2]))
                    failed[name[:-1]] += int(rest[1]) - 1
                    self.accepted += 1
        for way, spent in taken.items():
            spent.sort()
            found[way] = [spent[len(spent) // 2], spent[int(len(spent) * 0.99)], len(spent), failed[way]]
        return found


def kind_of(below: Sequence[str]) -> str:
    """The kind of a file of the data folder: the folder that it is in, or its name without what is only of a moment."""
    if len(below) > 1:
        return f"{below[0]}/"
    return below[0] if below[0].startswith(("log.db", "history.duckdb")) else "other"


def new_lines(path: Path, places: dict[str, int]) -> Iterator[str]:
    """The whole lines of a file that were not given before."""
    try:
        with path.open("rb") as file:
            file.seek(places.get(str(path), 0))
            content = file.read()
    except FileNotFoundError:
        return
    whole = content.rfind(b"\n") + 1
    places[str(path)] = places.get(str(path), 0) + whole
    yield from content[:whole].decode().splitlines()


# --- what is made of them ---------------------------------------------------------------------------------------------


class Trend(NamedTuple):
    """How something went over the run: its median, and how much the line through the samples after the warm-up rises."""

    median: float
    growth: float
    growth_percent: float


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line of least squares; 0 for fewer than three points."""
    if len(points) < 3:
        return 0.0
    mean_x, mean_y = statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """The trend of what was seen after the warm-up."""
    settled = points[int(len(points) * _WARM_UP) :]
    if not settled:
        return Trend(0.0, 0.0, 0.0)
    median = statistics.median(y for _, y in settled)
    growth = slope(settled) * (settled[-1][0] - settled[0][0])
    return Trend(median, growth, 100 * growth / median if median else 0.0)


def within_lives(samples: Sequence[Sample], name: str, which: int) -> tuple[float, float]:
    """The slope an hour of a process's figure within its lives, and the longest life in minutes: each life has a mean of its
    own, so that what a restart takes back hides no growth."""
    lives: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        if (seen := sample["processes"].get(name)) and seen[2] >= _SETTLED_S:
            lives[seen[3]].append((seen[2], seen[which]))
    top = bottom = longest_s = 0.0
    for points in lives.values():
        mean_x, mean_y = statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)
        top += sum((x - mean_x) * (y - mean_y) for x, y in points)
        bottom += sum((x - mean_x) ** 2 for x, _ in points)
        longest_s = max(longest_s, points[-1][0])
    return (3600 * top / bottom if bottom else 0.0), longest_s / 60


def _rows(samples: Sequence[Sample], get: Callable[[Sample], dict[str, float]]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for name, value in get(sample).items():
            found[name].append((sample["at"], value))
    return found


def process_table(samples: Sequence[Sample]) -> list[str]:
    """Memory and descriptors of each part, as lines of a table."""
    lines = ["| process | RSS MB | growth MB | % | within a life MB/h | longest life min | descriptors | growth | judged |"]
    lines.append("| --- " * 9 + "|")
    memory = _rows(samples, lambda s: {n: seen[0] for n, seen in s["processes"].items() if seen[2] >= _SETTLED_S})
    open_files = _rows(samples, lambda s: {n: seen[1] for n, seen in s["processes"].items() if seen[2] >= _SETTLED_S})
    for name in sorted(memory):
        rss, fds = trend(memory[name]), trend(open_files[name])
        an_hour, longest = within_lives(samples, name, 0)
        is_flat = (rss.growth_percent < 100 * _FLAT_SHARE or rss.growth < _FLAT_MB) and fds.growth < _FLAT_DESCRIPTORS
        lines.append(
            f"| {name} | {rss.median:.0f} | {rss.growth:+.1f} | {rss.growth_percent:+.1f} | {an_hour:+.1f} | {longest:.0f} "
            f"| {fds.median:.0f} | {fds.growth:+.1f} | {'flat' if is_flat else 'GROWS'} |"
        )
    return lines


def file_table(samples: Sequence[Sample]) -> list[str]:
    """Sizes of the kinds of files, and of what the log stores of each stream."""
    lines = ["| what | MB at the end | largest | growth MB | % | of it for a million events | judged |", "| --- " * 7 + "|"]
    sizes = _rows(samples, lambda s: s["files"])
    sizes |= {f"log: {k}": v for k, v in _rows(samples, lambda s: {k: b / MB for k, b in s["stored"].items()}).items()}
    published = trend([(s["at"], s["accepted"] * BATCH_EVENTS / 1e6) for s in samples]).growth
    for name, points in sorted(sizes.items()):
        found = trend(points)
        is_flat = found.growth_percent < 100 * _FLAT_SHARE or found.growth < 1.0
        most = max(y for _, y in points)
        lines.append(
            f"| {name} | {points[-1][1]:.2f} | {most:.2f} | {found.growth:+.2f} | {found.growth_percent:+.1f} "
            f"| {found.growth / published if published else 0:+.1f} | {'flat' if is_flat else 'grows'} |"
        )
    return lines


def latency_table(samples: Sequence[Sample], processed: Sequence[tuple[float, float, float]]) -> list[str]:
    """Latencies by quarters of the run, each the median over its samples, with the load of the machine beside them.
    ``processed``: when, p50 and p99 from the publish to the processed event."""
    lines = ["| what | 1st quarter | 2nd | 3rd | 4th |", "| --- " * 5 + "|"]
    quarters = [samples[len(samples) * q // 4 : len(samples) * (q + 1) // 4] for q in range(4)]

    def add(what: str, values: Sequence[Sequence[float]], digits: int = 1) -> None:
        told = [f"{statistics.median(each):.{digits}f}" if each else "-" for each in values]
        lines.append(f"| {what} | {' | '.join(told)} |")

    for way in ("rest", "sdk"):
        for which, what in enumerate(("p50", "p99")):
            add(
                f"publish 50 events, {way}, ms, {what}",
                [[s["latency"][way][which] for s in q if way in s["latency"]] for q in quarters],
            )
    for which, what in ((1, "p50"), (2, "p99")):
        at = [processed[len(processed) * q // 4 : len(processed) * (q + 1) // 4] for q in range(4)]
        add(f"publish to processed event, ms, {what}", [[each[which] for each in q] for q in at], 0)
    add("load of the machine (1 min)", [[s["load"] for s in q] for q in quarters])
    cores = [[(q[-1]["cpu_s"] - q[0]["cpu_s"]) / max(1.0, q[-1]["at"] - q[0]["at"])] if len(q) > 1 else [] for q in quarters]
    add("cores that the soak took", cores, 2)
    return lines


def pauses(samples: Sequence[Sample]) -> list[str]:
    """Where the soak itself stood still: nothing was sampled, for a restart took so long or the machine gave it no time."""
    pairs = pairwise(samples)
    return [f"{a['time']} to {b['time']}" for a, b in pairs if b["at"] - a["at"] > _PAUSE_S]


def read_samples(work: Path) -> list[Sample]:
    return [json.loads(line) for line in (work / "samples").read_text().splitlines()]


def read_processed(work: Path) -> list[tuple[float, float, float]]:
    """What the ledger has written down of latencies."""
    if not (work / "latency").exists():
        return []
    return [(float(a), float(b), float(c)) for a, b, c, _ in (x.split() for x in (work / "latency").read_text().splitlines())]
