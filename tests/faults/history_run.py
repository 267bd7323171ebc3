"""Makes a history under faults, and checks it.

    python tests/faults/history_run.py --seconds 60 --seed 3 --faults kill,pause,clock
    python tests/faults/history_run.py --bus kafka

Clients in processes of their own work with one bus, some in process and some over HTTP, while processes are killed and paused and
the clock jumps, as the seed says. Then the faults end, everything is read once more, and the checker looks at all of it.
"""

import argparse
import faulthandler
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from history_checker import Report, check
from history_clients import MOST_VERSIONS, STOP
from history_hands import GROUP, STREAMS, Hands, taken
from history_log import CLOCK, START
from history_operations import (
    Action,
    Commit,
    Committed,
    Fault,
    Outcome,
    Page,
    Poll,
    Read,
    Recorder,
    Scan,
    read_history,
)
from history_places import EmbeddedPlace, FakeClock, KafkaPlace, Server, forget_clocks

from event_streaming_bus.consumers.model import GroupConfig
from event_streaming_bus.models import StreamConfig

FAULTS: Final = ("kill", "pause", "clock")
SESSION_MS: Final = 2000
_CLIENTS: Final = ("work", "work", "work", "work", "take", "take")
_JUMPS_S: Final = (-86_400.0, -3600.0, -30.0, -3.0, 0.0, 0.0, 3.0, 30.0, 3600.0, 86_400.0)
_BEGUN_S: Final = 60.0
_DRAINED_S: Final = 60.0
_ENDED_S: Final = 120.0


class Plan(NamedTuple):
    """What is to be run. ``rest_s``: the mean time between two faults."""

    seed: int = 1
    seconds: float = 20.0
    faults: Collection[str] = FAULTS
    bus: str = "embedded"
    rest_s: float = 0.5
    longest_pause_s: float = 4.0


class Clients:
    """The clients, forked from one process: every other one in process, the others over HTTP."""

    def __init__(self, history: Path, environment: dict[str, str], folder: Path) -> None:
        self._history = history
        self._errors = folder / "clients.txt"
        with self._errors.open("w") as errors:
            self._source = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("history_clients.py")), str(history)],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.living: dict[int, tuple[int, str, str]] = {}  # by process: its pid, kind and URL
        self._killed: set[int] = set()
        self._processes = 0

    def _line(self) -> list[str]:
        assert self._source.stdout is not None
        return self._source.stdout.readline().split()

    def start(self, kind: str, url: str, seed: int) -> None:
        if not self._processes:
            assert self._line() == ["ready"], self._errors.read_text()
        self._processes += 1
        assert self._source.stdin is not None
        print(self._processes, kind, url, seed, file=self._source.stdin, flush=True)
        process, pid = map(int, self._line())
        self.living[process] = pid, kind, url

    def await_work(self) -> None:
        """Wait until all have begun."""
        until_s = time.monotonic() + _BEGUN_S
        while not all(_is_begun(self._history / f"{process}.jsonl") for process in self.living):
            assert time.monotonic() < until_s, self._errors.read_text()
            time.sleep(0.05)

    def kill(self, process: int, seed: int) -> None:
        """Kill one, and start its successor."""
        pid, kind, url = self.living.pop(process)
        os.kill(pid, signal.SIGKILL)
        self._killed.add(process)
        self.start(kind, url, seed)

    def close(self) -> list[str]:
        """Have all of them stop; what went wrong with them, other than being killed."""
        (self._history / STOP).touch()
        for pid, _, _ in self.living.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        told, _ = self._source.communicate(timeout=_ENDED_S)
        codes = {int(process): int(code) for process, code in map(str.split, told.splitlines())}
        failed = [process for process, code in codes.items() if code and process not in self._killed]
        return [f"client {process} ended with {codes[process]}" for process in failed] + self._traces()

    def _traces(self) -> list[str]:
        text = self._errors.read_text()
        return [text[text.index("Traceback") :][:4000]] if "Traceback" in text else []

    def end(self) -> None:
        """End all of them at once."""
        for pid, _, _ in self.living.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._source.kill()
        self._source.wait(30)


def _is_begun(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def run(plan: Plan, folder: Path) -> Report:
    """Make a history in ``folder`` and check it. Raises ``AssertionError`` if a client or a server ends as it should not."""
    history = folder / "history"
    history.mkdir()
    clock = FakeClock(folder) if "clock" in plan.faults else None
    place = KafkaPlace(folder) if plan.bus == "kafka" else EmbeddedPlace(folder)
    if not place.is_dense:
        (history / "sparse").touch()
    recorder = Recorder(history, 0)
    environment = place.environment | (clock.environment if clock is not None else {})
    _prepare(place.url)
    servers: list[Server] = []
    clients: Clients | None = None
    try:
        clients = Clients(history, environment, folder)  # it loads its code while the servers start
        servers += [Server(place.server_url(number), folder, environment) for number in range(place.servers)]
        base_s = time.time() - time.monotonic()
        _record(recorder, Fault(START, seconds=base_s), lambda: Fault(START, seconds=base_s))
        for number, kind in enumerate(_CLIENTS):
            clients.start(kind, place.url if number % 2 else servers[number // 2 % len(servers)].url, plan.seed)
        clients.await_work()
        _disturb(plan, clients, servers, clock, recorder)
        problems = clients.close()
        clients = None
        for server in servers:
            server.restart_if_over()
        _read_everything(place.url, recorder)
        for server in servers:
            server.close()
            problems += [f"a server: {line}" for line in server.errors().splitlines() if "Traceback" in line]
    finally:
        if clients is not None:
            clients.end()
        for server in servers:
            server.close()
        place.close()
        recorder.close()
        forget_clocks()
    assert not problems, "\n".join(problems)
    return check(read_history(history), is_dense=place.is_dense)


def _prepare(url: str) -> None:
    hands = Hands(url)
    for stream in STREAMS:
        hands.bus.log.create_stream(StreamConfig(name=stream, partitions=2))
    config = GroupConfig(group_name=GROUP, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300, rebalance_timeout_ms=3000)
    hands.done(hands.bus.consumers.create_consumer_group(config))
    hands.close()


# --- faults -----------------------------------------------------------------------------------------------------------


def _record(recorder: Recorder, asked: Action, do: Callable[[], Action]) -> Action:
    recorder.invoke(asked)
    told = do()
    recorder.end(Outcome.OK, told)
    return told


def _disturb(plan: Plan, clients: Clients, servers: list[Server], clock: FakeClock | None, recorder: Recorder) -> None:
    """Make faults until the time is over; then everything goes on, and the clock is right."""
    chance, until_s = random.Random(plan.seed), time.monotonic() + plan.seconds
    while True:
        rest_s = chance.uniform(0.2, 1.8) * plan.rest_s
        if time.monotonic() + rest_s > until_s:
            break
        time.sleep(rest_s)
        for server in servers:
            server.restart_if_over()
        if not plan.faults:
            continue
        fault = chance.choice(sorted(plan.faults))
        if fault == "clock":
            assert clock is not None
            _jump(clock, chance.choice(_JUMPS_S), recorder)
        elif chance.random() < 0.3:
            server = chance.choice(servers)
            _hurt_server(fault, server, plan, chance, recorder, until_s)
        else:
            process = chance.choice(sorted(clients.living))
            _hurt_client(fault, process, plan, chance, clients, recorder, until_s)
    time.sleep(max(0.0, until_s - time.monotonic()))
    if clock is not None:
        _jump(clock, 0.0, recorder)


def _jump(clock: FakeClock, seconds: float, recorder: Recorder) -> None:
    def do() -> Action:
        clock.jump(seconds)
        return Fault(CLOCK, "all", seconds)

    _record(recorder, Fault(CLOCK, "all", seconds), do)


def _hurt_server(fault: str, server: Server, plan: Plan, chance: random.Random, recorder: Recorder, until_s: float) -> None:
    def do() -> Action:
        if fault == "kill":
            server.kill()
            server.start()
        else:
            server.signal(signal.SIGSTOP)
            time.sleep(_pause_s(plan, chance, until_s))
            server.signal(signal.SIGCONT)
        return Fault(f"{fault} server", server.url)

    _record(recorder, Fault(f"{fault} server", server.url), do)


def _hurt_client(
    fault: str, process: int, plan: Plan, chance: random.Random, clients: Clients, recorder: Recorder, until_s: float
) -> None:
    def do() -> Action:
        if fault == "kill":
            clients.kill(process, plan.seed)
        else:
            pid = clients.living[process][0]
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_pause_s(plan, chance, until_s))
            os.kill(pid, signal.SIGCONT)
        return Fault(f"{fault} client", str(process))

    _record(recorder, Fault(f"{fault} client", str(process)), do)


def _pause_s(plan: Plan, chance: random.Random, until_s: float) -> float:
    return max(0.0, min(chance.choice([0.05, 0.3, 1.0, 1.0]) * plan.longest_pause_s, until_s - time.monotonic()))


# --- the end ----------------------------------------------------------------------------------------------------------


def _read_everything(url: str, recorder: Recorder) -> None:
    """Read all that there is, and let the group come to the end of its streams."""
    hands = Hands(url)
    number, missing = 0, 0
    while missing < 4:
        key = f"k{number}"
        kept = hands.read(key)
        _record(recorder, Read(key), lambda key=key: Read(key, hands.read(key)))  # type: ignore[misc]
        number, missing = number + 1, 0 if len(kept) >= MOST_VERSIONS else missing + 1
    after, is_end = 0, False
    while not is_end:
        told = _record(recorder, Page(after), lambda after=after: Page(after, *hands.page(after, 1000)))  # type: ignore[misc]
        assert isinstance(told, Page)
        after, is_end = (told.kept[-1].position if told.kept else after), told.is_end
    _drain(hands, recorder)
    for stream in STREAMS:
        scan = Scan(hands.id_of(stream))
        _record(recorder, scan, lambda scan=scan, stream=stream: Scan(scan.stream, {}, hands.scan(stream, {})))  # type: ignore[misc]
    _record(recorder, Committed(GROUP), lambda: Committed(GROUP, hands.committed()))
    hands.close()


def _drain(hands: Hands, recorder: Recorder) -> None:
    consumer = hands.consumer()
    until_s = time.monotonic() + _DRAINED_S
    while True:
        told = _record(
            recorder,
            Poll(GROUP, "last"),
            lambda: Poll(GROUP, "last", taken(consumer, hands.done(consumer.poll(max_events=1000, timeout_s=0.5)))),
        )
        assert isinstance(told, Poll)
        if told.found:
            offsets = {found.split: found.offset + 1 for found in told.found}

            def commit(offsets: dict[str, int] = offsets) -> Action:
                hands.done(consumer.commit())
                return Commit(GROUP, "last", offsets)

            _record(recorder, Commit(GROUP, "last", offsets), commit)
            continue
        ends, committed = hands.end_offsets(), hands.committed()
        if all(committed.get(split, 0) >= end for split, end in ends.items()):
            break
        assert time.monotonic() < until_s, f"the group does not come to the end: {committed} of {ends}"
    hands.done(consumer.close())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("ESB_HISTORY_SECONDS") or 60))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="of kill, pause and clock; empty for none")
    parser.add_argument("--bus", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--keep", action="store_true", help="keep the folder, also if nothing is wrong")
    asked = parser.parse_args()
    faulthandler.register(signal.SIGTERM, chain=True)  # one that hangs, and is ended, says where
    faults = [fault for fault in asked.faults.split(",") if fault]
    folder = Path(tempfile.mkdtemp(prefix="esb-history-"))
    report = run(Plan(asked.seed, asked.seconds, faults, asked.bus), folder)
    print(f"seed {asked.seed}, {asked.bus}, faults {', '.join(faults) or 'none'}: {report}", flush=True)
    if report.anomalies:
        print(f"The history is in {folder / 'history'}.")
        sys.exit(1)
    if not asked.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
