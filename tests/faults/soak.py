"""The soak: the whole bus at half of its capacity for hours, while everything in it is killed and started again at random.

    make soak
    ESB_SOAK_MINUTES=10 python tests/faults/soak.py --seed 7

At first the capacity is measured: publishers go as fast as they can for a while, and it is waited until everything is processed.
Then they go at half of it, or at what takes one core, whichever is less. Every 30 to 60 seconds something is ended, by SIGKILL or
SIGTERM, as the seed has it, and started again. Memory, descriptors, file sizes and latencies are sampled all the time. When the
load has ended everything must come to rest, and the balance must be exact: ``soak_checks`` has the equations.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psutil
from soak_checks import Equation, Unrest, balance, ledger_of, wait_for_rest
from soak_figures import Sampler, file_table, latency_table, pauses, process_table, read_processed, read_samples
from soak_load import BATCH_EVENTS
from soak_parts import CLIENTS, PUBLISHERS, NoServer, Parts, open_log, signal_of

_SAMPLE_S: Final = 10.0
_MOST_CORES: Final = 0.95
_FLOWS_S: Final = 20.0
_NUDGE_S: Final = 25.0


class Scale(NamedTuple):
    """How long each part of the run takes. ``spared``: from which to which share of the run server and workers are left alone,
    so that they get old."""

    load_s: float
    burst_s: float
    pause_s: tuple[float, float, float]
    """Between two restarts: the shortest, the mean, the longest."""
    rest_s: float
    sample_s: float = _SAMPLE_S
    retention_ms: int = 600_000
    window_ms: int = 10_000
    spared: tuple[float, float] = (0.40, 0.65)
    least_restarts: int = 0
    """The load goes on until there were so many, which takes longer on a busy machine."""


def scale_of(minutes: float) -> Scale:
    """That of a run of so many minutes."""
    if minutes < 2:
        return Scale(60 * minutes, 1.5, (1.0, 1.5, 2.5), 60, 1.0, 600_000, (2.0, 2.0))
    return Scale(60 * minutes, min(20.0, 4 * minutes), (20, 40, 75), 150, _SAMPLE_S, int(min(10.0, minutes / 4) * 60_000))


class Restart(NamedTuple):
    """Something that is to be ended: when, after the start of the load, what, and how."""

    at_s: float
    what: str
    kill: bool


def schedule(seed: int, scale: Scale) -> Iterator[Restart]:
    """What is ended when. Follows from the seed alone."""
    chance, at_s = random.Random(seed), 0.0
    shortest, mean, longest = scale.pause_s
    targets = ["server", "server", "worker sales", "worker pairs", *CLIENTS]
    order: list[str] = []
    while True:
        at_s += min(longest, shortest + chance.expovariate(1 / (mean - shortest)))
        if not order:  # each has its turn before one has it again
            order = chance.sample(targets, len(targets))
        what, kill = order.pop(), chance.random() < 0.6
        share = at_s / scale.load_s
        if scale.spared[0] <= share < scale.spared[1] and (what == "server" or what.startswith("worker")):
            continue
        yield Restart(at_s, what, kill)


class Soak:
    """A run."""

    def __init__(self, work: Path, seed: int, scale: Scale) -> None:
        self.work, self.seed, self.scale = work, seed, scale
        self.parts = Parts(work, retention_ms=scale.retention_ms, window_ms=scale.window_ms)
        self.log = open_log(work)
        self.findings: list[str] = []
        self.restarts: Counter[str] = Counter()
        self.told: list[str] = []
        self.sampler = Sampler(self.parts)
        self._sampled_s = self._looked_s = 0.0

    def say(self, text: str) -> None:
        if self.log.closed:
            return
        self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def find(self, text: str) -> None:
        self.findings.append(f"{time.strftime('%H:%M:%S')} {text}")
        self.say(f"FOUND {text}")

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> list[Equation]:
        """Load, rest, balance, end. What is found on the way is in ``findings``."""
        begun_s = time.monotonic()
        self.say(f"seed {self.seed}, load for {self.scale.load_s / 60:.1f} min, process {os.getpid()}, server {self.parts.url}")
        try:
            self.parts.prepare()
            self.pace(self.capacity())
            self.load(begun_s)
            self.parts.pace(0)
            self.say("the load has ended")
            self.rest()
            self.sampler.take()
            equations: list[Equation] = []
            try:
                equations = balance(self.parts)
            except Exception:
                self.find(f"the balance cannot be drawn: {traceback.format_exc()}")
            for violation in ledger_of(self.work)["violations"]:
                self.find(violation)
            self.end()
            return equations
        finally:
            self.parts.kill_all()
            self.log.close()

    def capacity(self) -> float:
        """Publish as fast as possible for a while, and wait until all is processed; returns the events a second to go at."""
        self.parts.pace(5.0)
        self._wait_until(lambda: self._open() < 20 and self.sampler.accepted >= 3 * len(PUBLISHERS), 120, "the first events")
        self.sampler.take()
        before, cpu_s, begun_s = self.sampler.accepted, self.sampler.cpu_s, time.monotonic()
        self.parts.pace(10_000)
        while time.monotonic() < begun_s + self.scale.burst_s:
            time.sleep(0.25)
            self.look()
        self.parts.pace(0)
        published_s = time.monotonic() - begun_s
        self._wait_until(lambda: self._open() == 0, 240, "what was published as fast as possible")
        processed_s = time.monotonic() - begun_s
        self.sampler.take()
        events = (self.sampler.accepted - before) * BATCH_EVENTS
        capacity, cost_s = events / processed_s, (self.sampler.cpu_s - cpu_s) / events
        rate = min(capacity / 2, _MOST_CORES / cost_s)
        self.told += [
            f"capacity: {events} events published in {published_s:.1f} s ({events / published_s:.0f}/s), all processed after "
            f"{processed_s:.1f} s: {capacity:.0f} events/s; {cost_s * 1000:.2f} ms of a core an event",
            f"pace: {rate:.0f} events/s, {'half of that' if rate == capacity / 2 else f'which takes {_MOST_CORES} cores'}",
        ]
        for line in self.told:
            self.say(line)
        return rate

    def pace(self, events_a_second: float) -> None:
        self.parts.pace(events_a_second / BATCH_EVENTS / len(PUBLISHERS))

    def load(self, begun_s: float) -> None:
        """Until the time is over: samples, restarts, and a look whether everything is still there."""
        base_s = time.monotonic() - begun_s
        planned = schedule(self.seed, self.scale)
        following = next(planned)
        while (now_s := time.monotonic() - begun_s) < self.scale.load_s or self.restarts.total() < self.scale.least_restarts:
            self.look()
            if now_s - base_s >= following.at_s:
                self.restart(following)
                following = next(planned)
                while following.at_s < time.monotonic() - begun_s - base_s - 60:
                    following = next(planned)  # something took long: what was due meanwhile is left out
            time.sleep(0.2)

    def rest(self) -> None:
        """Wait until all is processed. A window whose newest event took longer than the window to be appended is closed by later
        events alone: so there is one more batch now and then, which is likely to be quicker."""
        begun_s = nudged_s = time.monotonic()

        def look() -> None:
            nonlocal nudged_s
            self.look()
            waited_s = time.monotonic() - nudged_s
            self.parts.pace(2.0 if _NUDGE_S <= waited_s < _NUDGE_S + 1 else 0)
            nudged_s += waited_s if waited_s >= _NUDGE_S + 1 else 0

        try:
            wait_for_rest(self.parts, self.scale.rest_s, look)
            self.told.append(f"everything was at rest {time.monotonic() - begun_s:.0f} s after the load had ended")
        except Unrest as unrest:
            self.find(f"not at rest after {self.scale.rest_s} s: {unrest}")
        self.parts.pace(0)

    def look(self) -> None:
        """Take a sample if it is time; start again what has ended by itself, and note it."""
        for ended in self.parts.notice():
            self.find(f"{ended.name} ended by itself with {ended.code}: {ended.said}")
        if time.monotonic() - self._sampled_s >= self.scale.sample_s:
            self._sampled_s = time.monotonic()
            self.sampler.take()
        if time.monotonic() - self._looked_s >= _FLOWS_S:
            self._looked_s = time.monotonic()
            try:
                for failed in self.parts.flows_that_failed():
                    self.find(f"a flow does not run: {failed}")
                    name = failed.partition(":")[0]
                    httpx.post(f"{self.parts.url}/api/v1/flows/{name}/start", timeout=30)
            except httpx.HTTPError as error:
                self.find(f"the server does not tell of its flows: {error!r}")

    def restart(self, planned: Restart) -> None:
        """End something, and start it again."""
        how = signal_of(planned.kill)
        began_s = time.monotonic()
        if planned.what.startswith("worker"):
            worker = self.parts.workers().get(planned.what)
            if worker is None:
                self.say(f"{planned.what} is not there: it starts, or waits to be started")
                return
            try:
                worker.send_signal(how)
            except psutil.NoSuchProcess:
                return
        else:
            process = self.parts.processes[planned.what]
            if process.poll() is not None:
                return  # it has ended by itself, which is noticed
            self._end([planned.what], how)
            try:
                self.parts.start(planned.what)
            except NoServer as error:
                self.find(str(error))
        self.restarts[f"{planned.what} {how.name}"] += 1
        self.say(f"{how.name} {planned.what}, {time.monotonic() - began_s:.1f} s")

    def end(self) -> None:
        """End everything as one does, and let the doctor look at what is left."""
        self._end([*CLIENTS, "ledger"], signal.SIGTERM)
        self._end(["server"], signal.SIGTERM)
        esb = Path(sys.executable).with_name("esb")
        doctor = subprocess.run(
            [esb, "doctor", str(self.work / "data")], capture_output=True, text=True, check=False, timeout=120
        )
        if doctor.returncode:
            self.find(f"the doctor: {doctor.stdout[-2000:]}{doctor.stderr[-500:]}")
        self.told.append(f"esb doctor: {' '.join((doctor.stdout + doctor.stderr).split())[-200:]}")

    def _end(self, names: Sequence[str], how: signal.Signals) -> None:
        for name, code in self.parts.end(names, how).items():
            self.find(f"{name} did not end in order: {code}: {self.parts.last_words(name)}")

    def _open(self) -> int:
        """How many batches are accepted, and not closed by the ledger."""
        self.sampler.take()
        if not (self.work / "ledger").exists():
            return self.sampler.accepted + 1
        told = ledger_of(self.work)
        closed = sum(at[0] + len(at) - 1 for at in told["closed"].values() if at)
        return max(self.sampler.accepted - closed, int(told["open_count"]))

    def _wait_until(self, is_so: Callable[[], bool], seconds: float, what: str) -> None:
        until_s = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > until_s:
                raise AssertionError(f"after {seconds} s still waited for: {what}")
            self.look()
            time.sleep(0.1)


def report(soak: Soak, equations: list[Equation]) -> str:
    """Everything that came of a run, as text."""
    samples = read_samples(soak.work)
    loaded = [sample for sample in samples if sample["at"] < soak.scale.load_s]
    counts = samples[-1]["counts"] if samples else {}
    lines = [f"soak, seed {soak.seed}, {soak.scale.load_s / 60:.1f} min of load", *soak.told]
    restarts = ", ".join(f"{what} {count}" for what, count in sorted(soak.restarts.items()))
    lines += [
        f"restarts: {soak.restarts.total()}: {restarts}",
        f"counts: {json.dumps(counts)}",
        f"nothing sampled: {pauses(loaded)}",
        "",
    ]
    lines += ["equations:", *(f"  {'ok ' if e.holds else 'NOT'} {e.what}: {e.left} = {e.right}" for e in equations), ""]
    lines += [f"findings: {len(soak.findings)}", *(f"  {finding}" for finding in soak.findings), ""]
    lines += [*process_table(loaded), "", *file_table(loaded), "", *latency_table(loaded, read_processed(soak.work)), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("ESB_SOAK_MINUTES", "120")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("ESB_SOAK_SEED", "0")) or random.randrange(1, 1 << 30))
    parser.add_argument("--folder", type=Path, help="where data, logs and the report go; a new one, by default a temporary one")
    options = parser.parse_args()
    work = options.folder or Path(tempfile.mkdtemp(prefix="esb-soak-"))
    if options.folder:
        work.mkdir(parents=True)
    soak = Soak(work, options.seed, scale_of(options.minutes))
    print(f"soak, seed {options.seed}, in {work}; its log is {work / 'log'}", flush=True)
    equations: list[Equation] = []
    try:
        equations = soak.run()
    except BaseException:
        soak.find(traceback.format_exc())
        raise
    finally:
        told = report(soak, equations)
        (work / "report").write_text(told)
        print(told)
    return int(bool(soak.findings) or not all(equation.holds for equation in equations))


if __name__ == "__main__":
    sys.exit(main())
