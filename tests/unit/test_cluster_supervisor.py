"""Supervisors of several hosts, each in a thread, on ports of this machine: their workers start, end and start again together.

The workers are small processes: what is tested is when they run.
"""

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from event_streaming_bus.errors import InUseError
from event_streaming_bus.flows.cluster import Address, Cluster
from event_streaming_bus.flows.cluster_duties import Duties, Outcome, Timing
from event_streaming_bus.flows.cluster_links import Links
from event_streaming_bus.flows.cluster_messages import Beat, Hello, Phase, Recovery, Start, encode
from event_streaming_bus.flows.cluster_recovery import make_partitions
from event_streaming_bus.flows.cluster_supervisor import ClusterSupervisor
from event_streaming_bus.flows.supervisor import Patience

SLEEPS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(0)); print(flush=True); time.sleep(60)"
IDENTITY = {"plan": "a"}
TIMING = Timing(lost_after_s=1.0, wait_s=20.0, stop_s=5.0)


class Process:
    """A worker."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if code == SLEEPS:
            assert self.process.stdout is not None
            self.process.stdout.readline()

    def exit_code(self) -> int | None:
        return self.process.poll()

    def ask_to_end(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def last_error(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode().strip() or f"exit {self.process.returncode}"


class Host:
    """A supervisor in a thread."""

    def __init__(
        self,
        cluster: Cluster,
        index: int,
        folder: Path,
        code: Callable[[], str] = lambda: SLEEPS,
        identity: dict[str, str] | None = None,
        timing: Timing = TIMING,
        rounds: Sequence[str | None] = ("{}",),
    ) -> None:
        self.started: list[Start] = []
        self.workers: list[Process] = []
        self.told: list[str] = []
        self.outcome: Outcome | None = None
        self._stop = threading.Event()

        def launch(start: Start) -> Process:
            self.started.append(start)
            self.workers.append(Process(code()))
            return self.workers[-1]

        def ends(last: str | None) -> str | None:
            return [*rounds, None][0 if last is None else rounds.index(last) + 1]

        duties = Duties(launch, ends, self.told.append, lambda phase, error: None, {"p": f"id of {index}"})
        patience = Patience(first_backoff_s=0.05, max_failures=3)
        supervisor = ClusterSupervisor(
            cluster, index, duties, folder / str(index), default_partitions=4, timing=timing, patience=patience
        )
        links = Links(cluster, index, identity or IDENTITY, lost_after_s=timing.lost_after_s, probe=supervisor.probe)

        def run() -> None:
            self.outcome = supervisor.run(links, self._stop.is_set)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    @property
    def running(self) -> bool:
        return bool(self.workers) and self.workers[-1].exit_code() is None

    def ended(self) -> Outcome:
        self._thread.join(30)
        assert self.outcome is not None
        return self.outcome

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        for worker in self.workers:
            worker.kill()
            assert worker.process.stdout is not None
            assert worker.process.stderr is not None
            worker.process.stdout.close()
            worker.process.stderr.close()


Starter = Callable[..., Host]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    hosts: list[Host] = []

    def make(cluster: Cluster, index: int, code: Callable[[], str] = lambda: SLEEPS, **options: object) -> Host:
        hosts.append(Host(cluster, index, tmp_path, code, **options))  # type: ignore[arg-type]
        return hosts[-1]

    yield make
    for host in hosts:
        host.stop()


def cluster_of(count: int) -> Cluster:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return Cluster(tuple(Address("127.0.0.1", port) for port in ports))


def wait(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_workers_that_come_to_the_end_end_the_cluster(start: Starter) -> None:
    cluster = cluster_of(3)
    hosts = [start(cluster, i, lambda: "") for i in (2, 0, 1)]
    assert [host.ended() for host in hosts] == [Outcome()] * 3
    assert all(host.started == [Start(1, {"p": "id of 0"}, "{}")] for host in hosts)  # the first host names the processors


def test_workers_run_on_where_their_own_output_has_moved_the_end(start: Starter) -> None:
    cluster = cluster_of(2)
    hosts = [start(cluster, i, lambda: "", rounds=["a", "b"]) for i in range(2)]
    assert [host.ended() for host in hosts] == [Outcome()] * 2
    assert [(each.generation, each.until) for each in hosts[1].started] == [(1, "a"), (2, "b")]


def test_workers_of_all_hosts_start_again_when_one_has_failed(start: Starter) -> None:
    cluster = cluster_of(3)
    hosts = [start(cluster, i) for i in range(3)]
    wait(lambda: all(host.running for host in hosts))
    hosts[1].workers[0].kill()
    wait(lambda: all(len(host.started) == 2 and host.running for host in hosts))
    assert all(host.workers[0].exit_code() is not None for host in hosts)
    assert [host.started[1].generation for host in hosts] == [2, 2, 2]


def test_workers_that_always_fail_are_given_up_everywhere_with_their_error(start: Starter) -> None:
    cluster = cluster_of(2)
    hosts = [start(cluster, 0), start(cluster, 1, lambda: "import sys; sys.exit('it is broken')")]
    error = f"the workers failed 3 times in a row, last on {cluster.hosts[1]}: it is broken"
    assert [host.ended() for host in hosts] == [Outcome(error=error)] * 2
    assert not any(host.running for host in hosts)


def test_a_host_that_is_stopped_stops_the_workers_of_all_and_they_start_when_it_is_back(start: Starter) -> None:
    cluster = cluster_of(3)
    hosts = [start(cluster, i) for i in range(3)]
    for gone in (2, 0):  # the first host may go, too
        wait(lambda: all(host.running for host in hosts))
        hosts[gone].stop()
        assert hosts[gone].outcome == Outcome(stopped=True)
        wait(lambda: not any(host.running for host in hosts))
        assert all(host.workers[-1].exit_code() == 0 for host in hosts)  # in good order
        hosts[gone] = start(cluster, gone)
    wait(lambda: all(host.running for host in hosts))
    assert {host.started[-1].generation for host in hosts} == {3}


def test_a_host_that_falls_silent_is_lost_and_no_worker_runs_without_it(start: Starter, tmp_path: Path) -> None:
    cluster = cluster_of(2)
    for index in range(2):
        make_partitions(tmp_path / str(index), 4, index, 2)
    host = start(cluster, 0)
    with socket.create_connection((cluster.hosts[0].host, cluster.hosts[0].port)) as sock:
        sock.sendall(encode(Hello(1, IDENTITY)))
        while not host.running:
            sock.sendall(encode(Beat(0, Phase.IDLE, (0,), Recovery((1, 3), 4))))
            time.sleep(0.1)
        silent_s = time.monotonic()
        wait(lambda: not host.running)
        assert TIMING.lost_after_s - 0.2 < time.monotonic() - silent_s < TIMING.lost_after_s + 3.0
    assert any("is lost: nothing was heard of it for 1 s; this host's workers end" in told for told in host.told)


def test_hosts_that_do_not_come_or_do_not_fit_are_named(start: Starter) -> None:
    cluster = cluster_of(3)
    timing = Timing(lost_after_s=1.0, wait_s=5.0)
    hosts = [start(cluster, 1, timing=timing), start(cluster, 2, timing=timing, identity={"plan": "b"})]
    first, second = (host.ended().error or "" for host in hosts)
    assert first.startswith("after 5 s the cluster is not complete: ")
    assert f"{cluster.hosts[0]}: Connection refused" in first
    assert f"{cluster.hosts[2]}: it has another plan of the flow (b), this host has a" in first
    assert f"{cluster.hosts[1]}: it has another plan of the flow (a), this host has b" in second


def test_a_lost_recovery_partition_is_told_on_all_hosts(start: Starter, tmp_path: Path) -> None:
    cluster = cluster_of(2)
    hosts = [start(cluster, i) for i in range(2)]
    wait(lambda: all(host.running for host in hosts))
    for host in hosts:
        host.stop()
    (tmp_path / "1" / "part-3.sqlite3").unlink()
    hosts = [start(cluster, i) for i in range(2)]
    assert all("no host has the recovery partition(s) 3" in (host.ended().error or "") for host in hosts)
    assert not any(host.started for host in hosts)


def test_a_port_in_use_is_told(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = Cluster((Address(*taken.getsockname()), Address("198.51.100.1", 1)))
        with pytest.raises(InUseError, match="this host's address in the cluster, cannot be used: Address already in use"):
            start(cluster, 0)


@pytest.mark.parametrize(
    "said",
    [
        b"GET \r\n\r\n",
        b"\xff\xfe\n",
        b"[" * 70_000,
        encode(Hello(0, IDENTITY)),
        encode(Hello(9, IDENTITY)),
        encode(Hello(1, IDENTITY)).replace(b"hello", b"h\xffllo"),
        encode(Hello(1, IDENTITY)) + b"no\n",
        encode(Hello(1, IDENTITY)) + encode(Start(5, {})),
    ],
)
def test_strangers_on_the_port_do_no_harm(start: Starter, said: bytes) -> None:
    cluster = cluster_of(2)
    host = start(cluster, 0)
    with socket.create_connection((cluster.hosts[0].host, cluster.hosts[0].port)) as sock:
        sock.settimeout(5)
        sock.sendall(said)
        try:
            while sock.recv(65536):  # what it says, until it has had enough
                pass
        except ConnectionResetError:
            pass
    assert not host.started
    start(cluster, 1)
    wait(lambda: host.running)
    assert host.started[0].generation == 1


def test_probes_tell_a_supervisor_that_lives_from_workers_that_run(start: Starter) -> None:
    def ask(path: str) -> tuple[int, dict[str, object]]:
        try:
            with urllib.request.urlopen(f"http://{cluster.hosts[0]}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    cluster = cluster_of(2)
    start(cluster, 0)
    assert ask("/live")[0] == 200
    status, told = ask("/ready")
    assert status == 503
    assert list(told["waiting_for"]) == [str(cluster.hosts[1])]  # type: ignore[call-overload]
    other = start(cluster, 1)
    wait(lambda: ask("/ready")[0] == 200)
    other.stop()
    wait(lambda: ask("/ready")[0] == 503)
    assert ask("/other")[0] == 404
