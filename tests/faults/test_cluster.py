"""A flow on several hosts: one is cut off, or killed, while events come in. Nothing is lost or doubled."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from bytewax.testing import run_main

sys.path.append(str(Path(__file__).parents[1] / "kafka"))

import cluster_events
import kafka_broker
from cluster_hosts import Host, Network, unavailable

from event_streaming_bus.bus import open_bus
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import load_flow

if (reason := unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

HOSTS: Final = 2
LOST_AFTER_S: Final = 2.0
OPTIONS: Final = ["--lost-after-s", str(LOST_AFTER_S), "--snapshot-interval-ms", "200", "--wait-s", "40"]
RUNNING: Final = "the workers here are running"
LOST: Final = "is lost"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    folder = kafka_broker.temporary_folder()
    try:
        with closing(Network(folder, HOSTS)) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flow") / "flow.yaml"
    path.write_text(cluster_events.FLOW)
    return path


@pytest.fixture(scope="module")
def expected(file: Path) -> dict[str, Any]:
    """What comes out of one process over an embedded log that nobody disturbs."""
    with open_bus(file.parent / "embedded") as bus:
        plan = deploy(load_flow(file), bus.storage)
        cluster_events.publish(bus)
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))
        found = cluster_events.outcome(bus)
    assert {name: len(events) for name, events in found.items()} == {"big": 396, "sums": 920}
    return found


class Run:
    """Hosts that run the flow while its events are published."""

    def __init__(self, network: Network, file: Path, folder: Path, expected: dict[str, Any]) -> None:
        assert network.broker is not None
        base = kafka_broker.url_of(network.broker.address, folder / "hub")
        self.hosts = [
            Host(network, i, file, base.replace("hub", f"host{i}"), OPTIONS, folder / f"host{i}.log") for i in range(HOSTS)
        ]
        self._expected = expected
        self._events = subprocess.Popen(
            [*network.inside(network.hub), sys.executable, cluster_events.__file__, base, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self) -> None:
        """Start the hosts, and publishing once all run."""
        assert self._events.stdout is not None
        assert self._events.stdin is not None
        assert self._events.stdout.readline() == "ready\n"
        for host in self.hosts:
            host.start()
        for host in self.hosts:
            host.wait_for(RUNNING)
        self._events.stdin.write("go\n")
        self._events.stdin.flush()
        time.sleep(2.5)

    def found(self) -> dict[str, Any]:
        """What came out, when all that is expected has."""
        counts = {name: len(events) for name, events in self._expected.items()}
        told, _ = self._events.communicate(json.dumps(counts) + "\n", timeout=90)
        found: dict[str, Any] = json.loads(told)
        return found

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        if self._events.poll() is None:
            self._events.kill()
        self._events.communicate()


@contextmanager
def running(network: Network, file: Path, folder: Path, expected: dict[str, Any]) -> Iterator[Run]:
    with closing(Run(network, file, folder, expected)) as run:
        run.begin()
        yield run


def test_a_host_that_was_cut_off_for_a_while_costs_nothing(
    network: Network, file: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    with running(network, file, tmp_path, expected) as run:
        with network.cut_off(1):
            began_s = time.monotonic()
            for host in run.hosts:
                host.wait_for(LOST)
            for host in run.hosts:
                host.wait_for_no_worker(began_s + LOST_AFTER_S + 3.0)
            time.sleep(max(0.0, 5.0 - (time.monotonic() - began_s)))
        for host in run.hosts:
            host.wait_for(RUNNING, times=2)
        assert run.found() == expected
        # One is stopped: the workers of the other end with it, in good order, and wait for it.
        assert run.hosts[0].stop() == 130
        run.hosts[1].wait_for(LOST, times=2)
        run.hosts[1].wait_for_no_worker(time.monotonic() + LOST_AFTER_S + 3.0)
        assert run.hosts[1].stop() == 130


def test_a_host_that_is_killed_and_started_again_costs_nothing(
    network: Network, file: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    with running(network, file, tmp_path, expected) as run:
        for number, victim in enumerate(run.hosts, start=2):
            victim.kill()
            other = run.hosts[3 - number]
            other.wait_for(LOST)
            assert not other.workers()
            victim.start()
            for host in run.hosts:
                host.wait_for(RUNNING, times=number)
            time.sleep(1.5)
        assert run.found() == expected
