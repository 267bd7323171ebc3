"""What a run costs. Each run is a child process of its own, which tells its ``Outcome`` in the last line that it prints.

The parent imports nothing of what it measures: a child would begin with the parent's resident set as its peak.
"""

import cProfile
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
_TOLD: Final = "OUTCOME "
_FAILED: Final = "FAILED "
_LOOK_EVERY_S: Final = 0.1


class Failed(Exception):
    """A run that gave no figure: it ended with an error, took too long, or had a wrong answer. The message is one line."""


@dataclass(frozen=True)
class Outcome:
    """What one run measured, of a result that was found to be right.

    ``value`` is the figure, in the unit of its subject. ``start_s`` is what the run needed before its first event, and is in no
    rate. ``cpu_s_per_million`` are CPU seconds, user and system, of all its processes for a million events; ``peak_mb`` is the
    highest resident set of one of its processes, what it holds as input included. ``None``: not known.
    """

    value: float
    start_s: float | None = None
    cpu_s_per_million: float | None = None
    peak_mb: float | None = None
    more: dict[str, float] | None = None


def run_child(arguments: Sequence[str], timeout_s: float) -> Outcome:
    """The outcome of ``python ARGUMENTS``, a script of this folder; ``Failed`` if there is none. Of what it prints to stderr, the
    last line is kept for the message."""
    lines = lines_of_child(arguments, timeout_s)
    told = [line for line in lines if line.startswith(_TOLD)]
    if not told:
        raise Failed("it told no outcome")
    return Outcome(**json.loads(told[-1].removeprefix(_TOLD)))


def lines_of_child(arguments: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> list[str]:
    """What ``python ARGUMENTS`` prints to stdout; ``Failed`` unless it ends well and in time."""
    command = [sys.executable, str(HERE / arguments[0]), *arguments[1:]]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            out, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"it took more than {timeout_s:.0f} s") from None
        finally:
            _end_group(process.pid)
    failures = [line.removeprefix(_FAILED) for line in out.splitlines() if line.startswith(_FAILED)]
    if failures:
        raise Failed(failures[-1])
    if process.returncode != 0:
        said = [line for line in errors.splitlines() if line.strip()] or ["it said nothing"]
        raise Failed(f"exit code {process.returncode}: {said[-1][:200]}")
    return out.splitlines()


def _end_group(group: int) -> None:
    """End whatever the child has left behind (it leads a process group of its own)."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def tell(run: Callable[[], Outcome]) -> int:
    """What a child says to ``run_child``, and its exit code. What else ``run`` prints goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            found = run()
    except Exception as error:
        traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"{_FAILED}{line}", flush=True)
        return 1
    print(f"{_TOLD}{json.dumps(asdict(found))}", flush=True)
    return 0


class Meter:
    """The time and the CPU time of a piece of work. ``cpu_s`` counts this process and, once they have been waited for, its
    children; ``children_cpu_s`` these alone."""

    took_s = 0.0
    cpu_s = 0.0
    children_cpu_s = 0.0


profile: cProfile.Profile | None = None
"""Where what is metered is profiled, if it is to be."""


@contextmanager
def metered() -> Iterator[Meter]:
    """Measures its body, and profiles it if there is a ``profile``."""
    meter = Meter()
    if profile is not None:
        profile.enable()
    own_s, children_s, started_s = _cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        yield meter
    finally:
        if profile is not None:
            profile.disable()
        meter.took_s = time.perf_counter() - started_s
        meter.children_cpu_s = _cpu_s(resource.RUSAGE_CHILDREN) - children_s
        meter.cpu_s = _cpu_s(resource.RUSAGE_SELF) - own_s + meter.children_cpu_s


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    """The highest resident set so far of this process."""
    return _high_water_mb(os.getpid())


def _high_water_mb(pid: int) -> float:
    """What the kernel keeps of a process itself; ``ru_maxrss`` of a child would begin with the resident set of its parent. 0 once
    it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@contextmanager
def watched(pids: Callable[[], Iterable[int]]) -> Iterator[dict[int, float]]:
    """Within its body: the highest resident set in MB of each of these processes, looked at ten times a second."""
    peaks: dict[int, float] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            for pid in pids():
                peaks[pid] = max(peaks.get(pid, 0.0), _high_water_mb(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        is_over.set()
        thread.join()


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    found = [pid]
    for each in found:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def age_s() -> float:
    """For how long this process exists."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return uptime_s - ticks / os.sysconf("SC_CLK_TCK")


def outcome(events: int, meter: Meter, start_s: float | None = None, peak: float | None = None, **more: Any) -> Outcome:
    """Events per second of the metered work, with its cost; ``peak`` is that of this process unless it is told."""
    return Outcome(events / meter.took_s, start_s, meter.cpu_s * 1e6 / events, peak or peak_mb(), more or None)
