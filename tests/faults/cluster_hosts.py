"""Hosts for tests of clusters: network namespaces on a bridge, which has a Kafka broker, in a namespace of its own.

It needs root, ``ip`` (Debian: iproute2) and the jars of Kafka.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import kafka_broker

PORT: Final = 2101
_HUB_ADDRESS: Final = "10.99.0.254"
_PATIENCE_S: Final = 60.0
_CHECK: Final = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"


def unavailable() -> str | None:
    """Why these tests cannot run here."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return "hosts are network namespaces, which takes Linux, root and ip (iproute2)"
    if kafka_broker.jars() is None:
        return "the jars of Kafka or Java are missing"
    trying = _ip("netns", "add", (name := f"esb{os.getpid()}-t"), check=False)
    if trying.returncode != 0:
        return f"no network namespace can be made: {trying.stderr.strip()}"
    _ip("netns", "del", name)
    return None


def _ip(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check, timeout=20)


class Network:
    """``hosts`` namespaces with the addresses 10.99.0.1, ...; the broker is at ``broker.address`` for all of them."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self._name = f"esb{os.getpid()}"
        self.hub = f"{self._name}-hub"
        self._hosts = hosts
        self.broker: kafka_broker.Broker | None = None
        try:
            self._connect()
            self.broker = kafka_broker.Broker(folder, host=_HUB_ADDRESS, command=self.inside(self.hub), start=False)
            self.broker.start(wait=False)
            host, _, port = self.broker.address.partition(":")
            deadline = time.monotonic() + _PATIENCE_S
            check = [*self.inside(self.hub), sys.executable, "-c", _CHECK, host, port]
            while subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode:
                assert time.monotonic() < deadline, self.broker.output()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.hub, "addr", "add", f"{_HUB_ADDRESS}/24", "dev", "bridge")
        for device in ("lo", "bridge"):
            _ip("-n", self.hub, "link", "set", device, "up")
        for index in range(self._hosts):
            name = self.namespace(index)
            _ip("netns", "add", name)
            _ip("-n", self.hub, "link", "add", f"host{index}", "type", "veth", "peer", "name", "eth", "netns", name)
            _ip("-n", self.hub, "link", "set", f"host{index}", "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"{self.address(index)}/24", "dev", "eth")
            for device in ("lo", "eth"):
                _ip("-n", name, "link", "set", device, "up")

    def namespace(self, index: int) -> str:
        return f"{self._name}-{index}"

    @staticmethod
    def address(index: int) -> str:
        return f"10.99.0.{index + 1}"

    @property
    def cluster(self) -> str:
        """What ``--cluster`` is told."""
        return ",".join(f"{self.address(index)}:{PORT}" for index in range(self._hosts))

    @staticmethod
    def inside(namespace: str) -> list[str]:
        """What begins a command that is to run in a namespace."""
        return ["ip", "netns", "exec", namespace]

    @contextmanager
    def cut_off(self, index: int) -> Iterator[None]:
        """Inside, the host reaches nobody and nobody reaches it."""
        _ip("-n", self.hub, "link", "set", f"host{index}", "down")
        try:
            yield
        finally:
            _ip("-n", self.hub, "link", "set", f"host{index}", "up")

    def close(self) -> None:
        if self.broker is not None:
            self.broker.stop(kill=True)
        for name in (self.hub, *map(self.namespace, range(self._hosts))):
            _ip("netns", "del", name, check=False)


class Host:
    """``esb run`` on one of the hosts, with a data folder of its own, that can be killed and started again."""

    def __init__(self, network: Network, index: int, file: Path, url: str, options: list[str], log: Path) -> None:
        self._command = [
            *network.inside(network.namespace(index)),
            *(str(Path(sys.executable).with_name("esb")), "run", str(file), "--cluster", network.cluster, *options),
        ]
        self._environment = {**os.environ, "ESB_DATA": url}
        self._log_path = log
        self._log: IO[bytes] = log.open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def workers(self) -> list[int]:
        """The ids of its worker processes that are alive."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split() if not _is_dead(int(word))]

    def kill(self) -> None:
        """Kill the supervisor and its workers at once."""
        assert self._process is not None
        for pid in (self._process.pid, *self.workers()):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Stop it in good order; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_PATIENCE_S)

    def said(self) -> str:
        return self._log_path.read_text("utf-8", "replace")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has said ``text`` so often."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.said().count(text) < times:
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"waiting for {text!r}: {self.said()}"
            time.sleep(0.05)

    def wait_for_no_worker(self, deadline_s: float) -> None:
        """Wait until none of its workers is alive; ``deadline_s`` is monotonic."""
        while workers := self.workers():
            assert time.monotonic() < deadline_s, f"{workers} are alive: {self.said()}"
            time.sleep(0.05)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._log.close()


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
