"""The crash matrix: every scenario, with a fault at every place where it can be met, and a proof that nothing came of it.

    python tests/faults/crash_matrix.py --crashes 1000
    python tests/faults/crash_matrix.py --scenario publish --seed 17

A **case** is a scenario and a seed: a data folder, some lives that each meet a fault, and a last one that meets none. After each
life it is checked what must hold at any time; after the last one, that what came of it is what came of an undisturbed run. What
goes wrong where is told by the seed: those that follow one another go through all places, and each adds chances of its own.
"""

import argparse
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import crash_shim
from crash_shim import DiskFault

from event_streaming_bus.fault_points import ENVIRONMENT, ERRORS, KILL, POINTS

LIVES: Final = 3
"""So many lives of a case meet a fault."""
DATA_SEED: Final = 1
_TIMED: Final = 3
_EVERYWHERE: Final = ("sqlite.", "log.", "file.")
_LAST_S: Final = 0.002


class Place(NamedTuple):
    """Where a life meets a fault; ``of`` are the chances: how often it is passed in an undisturbed run."""

    kind: str
    what: str
    how: str
    of: int


class Reference(NamedTuple):
    """An undisturbed run of a scenario, and the places where it could have been disturbed."""

    passed: dict[str, int]
    places: list[Place]
    seconds: float
    outcome: Any


class Finding(NamedTuple):
    """A case in which something did come of the faults."""

    scenario: str
    seed: int
    crashes: list[str]
    error: str


class Tally(NamedTuple):
    """What was done: crashes that were met by scenario and kind, cases, findings, points that were passed undisturbed, and
    points at which a fault was met."""

    crashes: Counter[str]
    cases: Counter[str]
    endings: Counter[str]
    findings: list[Finding]
    passed: set[str]
    met: set[str]


def scenarios() -> "dict[str, Any]":
    """Every scenario by name."""
    import crash_flows
    import crash_keys
    import crash_log
    import crash_stores
    import crash_views

    modules = (crash_log, crash_stores, crash_keys, crash_views, crash_flows)
    return {scenario.name: scenario for module in modules for scenario in module.SCENARIOS}


def refer(scenario: Any, folder: Path, *, disks: bool) -> Reference:
    """Prepare a scenario in ``folder / "template"``, and run copies of it undisturbed."""
    from crash_lives import Crash, can_fail, live

    template = folder / "template"
    template.mkdir(parents=True)
    live(lambda life: scenario.prepare(life.folder, DATA_SEED), template, DATA_SEED)
    counted = dict.fromkeys(scenario.disks, (0, 0)) if disks else {}
    found = None
    for part in counted or ("",):
        here = _copied(template, folder / "undisturbed")
        end = live(scenario.work, here, DATA_SEED, Crash("disk", part, DiskFault.NONE.name) if part else Crash("none"))
        checked = live(lambda life: scenario.check(life, True), here, DATA_SEED)
        assert found is None or found[2] == checked.result, "two undisturbed runs differ"
        counted |= {part: end.disk} if part else {}
        found = end.passed, end.seconds, checked.result
        shutil.rmtree(here)
    assert found is not None
    passed, seconds, outcome = found
    own = [point for point in POINTS if point in passed and not point.startswith(_EVERYWHERE)]
    shared = [point for point in POINTS if point in passed and point.startswith(_EVERYWHERE)]
    failing = enumerate(point for point in own + shared if can_fail(point))
    errors = [Place("point", point, list(ERRORS)[i % 2], passed[point]) for i, point in failing]
    on_disk = []
    for part, (writes, syncs) in counted.items():
        for fault in DiskFault:
            of = syncs if fault.is_of_syncs else writes * 4096 if fault is DiskFault.FULL else writes
            if fault is not DiskFault.NONE and of:
                on_disk.append(Place("disk", part, fault.name, of))
    timed = [Place("time", "", KILL, 1)] * _TIMED
    kills = [Place("point", point, KILL, passed[point]) for point in own + shared]
    places = [*kills[: len(own)], *timed, *on_disk[::2], *kills[len(own) :], *errors, *on_disk[1::2]]
    return Reference(passed, places, seconds, outcome)


def crashes_of(name: str, seed: int, reference: Reference) -> Iterator[Any]:
    """The faults of a case, one for each of its lives."""
    from crash_lives import Crash

    chance, places = random.Random(f"{name} {seed}"), reference.places
    for life in range(LIVES):
        around, at = divmod(seed * LIVES + life, len(places))
        order = list(range(len(places)))
        if around:
            random.Random(f"{name} around {around}").shuffle(order)
        place, share = places[order[at]], chance.random()
        if place.kind == "time":
            yield Crash("time", seconds=_LAST_S + share * reference.seconds * 1.1 / (life + 1))
        else:
            # Later lives have less left to do, so what comes late in an undisturbed run would not come at all.
            yield Crash(place.kind, place.what, place.how, 1 + int(share * max(1, place.of // (life + 1))))


def run_case(scenario: Any, seed: int, reference: Reference, folder: Path, tally: Tally) -> Finding | None:
    """Run one case. Its folder is removed, unless something is found."""
    from crash_lives import Ending, live

    here = _copied(folder / "template", folder / f"case-{seed}")
    told: list[str] = []
    tally.cases[scenario.name] += 1
    try:
        for crash in crashes_of(scenario.name, seed, reference):
            told.append(str(crash))
            end = live(scenario.work, here, DATA_SEED, crash, goes_on=scenario.goes_on)
            told[-1] += f" ({end.ending}{'' if end.met else ', not met'})"
            if end.met:
                tally.crashes[scenario.name] += 1
                tally.endings[f"{crash.kind}: {end.ending}"] += 1
                tally.met.update([crash.what] if crash.kind == "point" else [])
            is_done = end.ending is Ending.FINISHED
            live(lambda life, d=is_done: scenario.check(life, d), here, DATA_SEED)
            if is_done:
                break
        live(scenario.work, here, DATA_SEED)
        outcome = live(lambda life: scenario.check(life, True), here, DATA_SEED).result
        assert outcome == reference.outcome, f"expected {str(reference.outcome)[:2000]}, got {str(outcome)[:2000]}"
    except AssertionError as error:
        return Finding(scenario.name, seed, told, str(error))
    shutil.rmtree(here)
    return None


def run(names: Sequence[str], seeds: Iterator[int], crashes: int, folder: Path, *, seconds: float = float("inf")) -> Tally:
    """Run cases of these scenarios in turn, each seed with all of them, until so many crashes were met or the time is over."""
    known = scenarios()
    gc.collect()
    gc.freeze()  # children share what is loaded
    tally = Tally(Counter(), Counter(), Counter(), [], set(), set())
    disks = crash_shim.Shim().is_there
    references = {name: refer(known[name], folder / name, disks=disks) for name in names}
    for reference in references.values():
        tally.passed.update(reference.passed)
    until_s = time.monotonic() + seconds
    for seed in seeds:
        for name in names:
            if tally.crashes.total() >= crashes or time.monotonic() > until_s:
                return tally
            finding = run_case(known[name], seed, references[name], folder / name, tally)
            if finding is not None:
                tally.findings.append(finding)
                _tell(f"FOUND {finding.scenario} seed {finding.seed}: {'; '.join(finding.crashes)}\n{finding.error}")
    return tally


def _copied(template: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(template, to)
    return to


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _again_with_faults() -> None:
    """Start this process anew with fault points, and with the shim where there can be one."""
    shim = crash_shim.compiled()
    environment = {**os.environ, ENVIRONMENT: "", "PYTHONHASHSEED": "0"}
    if shim is not None:
        environment["LD_PRELOAD"] = str(shim)
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill and fail processes everywhere, and prove that nothing comes of it.")
    parser.add_argument("--scenario", action="append", help="one or several of them; by default all")
    parser.add_argument("--seed", type=int, help="run the cases of this seed alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--crashes", type=int, default=int(os.environ.get("ESB_FAULT_RUNS", "1000")))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long")
    parser.add_argument("--folder", type=Path, help="where the data folders are; those of findings stay")
    parser.add_argument("--json", type=Path, help="write what was done to this file")
    options = parser.parse_args()
    if ENVIRONMENT not in os.environ:
        _again_with_faults()
    started_s = time.monotonic()
    known = scenarios()
    if unknown := set(options.scenario or ()) - known.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; expected one of {', '.join(known)}")
    names = options.scenario or list(known)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="esb-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    one = options.seed is not None
    seeds = iter([options.seed]) if one else iter(range(options.first_seed, sys.maxsize))
    tally = run(names, seeds, sys.maxsize if one else options.crashes, folder, seconds=options.seconds)
    for name in names:
        _tell(f"{name:14} {tally.cases[name]:6} cases {tally.crashes[name]:7} crashes")
    first = options.seed if one else options.first_seed
    last = first if one else first + max(tally.cases.values(), default=1) - 1
    _tell(f"{tally.crashes.total()} crashes in {tally.cases.total()} cases, seeds {first} to {last}, ")
    _tell(f"{time.monotonic() - started_s:.0f} s: {', '.join(f'{n} {how}' for how, n in sorted(tally.endings.items()))}")
    left = ", ".join(sorted(tally.passed - tally.met)) or "none"
    _tell(f"a fault was met at {len(tally.met)} of {len(tally.passed)} points that are passed; not at: {left}")
    _tell(f"{len(tally.findings)} findings")
    for finding in tally.findings:
        _tell(f"  make faults SCENARIO={finding.scenario} SEED={finding.seed}")
    if options.json:
        told = {
            "crashes": tally.crashes,
            "cases": tally.cases,
            "findings": tally.findings,
            "endings": tally.endings,
            "scenarios": names,
        }
        options.json.write_text(json.dumps(told | {"passed": sorted(tally.passed), "met": sorted(tally.met)}))
    if not tally.findings and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what the libraries would do at the end of a process that has done nothing but fork is to complain
