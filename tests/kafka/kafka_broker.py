"""Apache Kafka brokers for tests, made in temporary folders: one that all tests share, others of their own, clusters of several.

It needs Java 17 and the jars that deploy/kafka/fetch.py fetches: in the folder ESB_KAFKA_HOME (or its folder ``libs``), or in
~/.cache/esb/kafka.

    python3 tests/kafka/kafka_broker.py     keeps the classes of a broker ready for Java to map, in that cache: brokers then start
                                            in two thirds of the time. Where it has not run they start as usual.
"""

import atexit
import ctypes
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

_READY_S: Final = 60.0
_CLUSTER: Final = "ZXNiLXRlc3RzLWJyb2tlcg"
_PR_SET_PDEATHSIG: Final = 1
_SETTINGS: Final = """
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners={listeners},CONTROLLER://{host}:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
log.dirs={folder}/data
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
log.index.size.max.bytes=65536
log.cleaner.dedupe.buffer.size=16777216
file.delete.delay.ms=1000
num.network.threads=2
num.io.threads=3
controller.quorum.append.linger.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
_CLASSES: Final = Path("~/.cache/esb/kafka-classes.jsa").expanduser()
_OWN: Final = frozenset({"data", "prefix", "replication_factor", "transaction_timeout_ms", "ids_window_ms"})
_home: Final = os.environ.get("ESB_KAFKA_HOME")  # when this is imported: later, no setting of the machine reaches a test


def jars() -> Path | None:
    """The folder of the jars; ``None`` if they or Java are missing."""
    for folder in [Path(_home), Path(_home) / "libs"] if _home else [Path("~/.cache/esb/kafka").expanduser()]:
        if any(folder.glob("kafka_2.13-*.jar")) and shutil.which("java"):
            return folder
    return None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """A broker at ``address`` that can be stopped and started again, with what it holds.

    ``settings`` are the broker's own, beside or instead of those of all tests, and ``format_options`` those of Kafka's tool that
    prepares its folder. ``host`` is where it listens; ``command`` begins the command that runs it (``ip netns exec ...``).
    ``listeners`` are those beside ``address``, by the protocol that each speaks: their addresses are in ``listeners``.
    ``controllers`` tells the controllers' ports of all nodes of its cluster, and ``node`` which of them it is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: int = 1,
        controllers: Mapping[int, int] | None = None,
        host: str = "127.0.0.1",
        listeners: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        command: Sequence[str] = (),
        heap_mb: int = 384,
        start: bool = True,
        keeps_classes: bool = False,
    ) -> None:
        self.folder = folder
        self._keeps_classes = keeps_classes
        self.node = node
        self._host, self._port = host, free_port()
        self.address = f"{host}:{self._port}"
        self.listeners = {protocol: f"{host}:{free_port()}" for protocol in listeners}
        self._command, self._heap_mb = command, heap_mb
        ports = controllers or {node: free_port()}
        voters = ",".join(f"{each}@{host}:{port}" for each, port in ports.items())
        places = {"PLAINTEXT": self.address, **self.listeners}
        listening = ",".join(f"{protocol}://{address}" for protocol, address in places.items())
        base = _SETTINGS.format(node=node, listeners=listening, controller=ports[node], voters=voters, folder=folder, host=host)
        own = "".join(f"{name}={value}\n" for name, value in (settings or {}).items())  # what comes later in the file holds
        self._settings = folder / "server.properties"
        self._settings.write_text(base + own)
        self._process: subprocess.Popen[bytes] | None = None
        formatting = self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._settings), *format_options)
        if formatting.wait(_READY_S) != 0:
            raise RuntimeError(f"Kafka's folder was not prepared: {self.output()}")
        if start:
            self.start()

    def _java(self, *arguments: str) -> "subprocess.Popen[bytes]":
        options = [f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+IgnoreUnrecognizedVMOptions"]
        if self._keeps_classes:
            options.append(f"-XX:ArchiveClassesAtExit={_CLASSES}")
        elif _CLASSES.exists():
            options.append(f"-XX:SharedArchiveFile={_CLASSES}")
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [*self._command, "java", *options, "-cp", f"{jars()}/*", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # kill -9 of the tests must not leave it behind
            )

    def output(self) -> str:
        """The end of what it has printed."""
        return (self.folder / "output.txt").read_text()[-2000:]

    def start(self, *, wait: bool = True) -> None:
        """Start it and wait until it answers."""
        self._process = self._java("kafka.Kafka", str(self._settings))
        if wait:
            self.await_answer()

    def await_answer(self) -> None:
        """Wait until it lets clients connect."""
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                socket.create_connection((self._host, self._port), 1).close()
                return
            except OSError:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not start: {self.output()}") from None
            time.sleep(0.1)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def stop(self, *, kill: bool = False) -> None:
        """Stop it in good order, or as a power failure would."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Cluster:
    """``count`` brokers, each of them a controller as well, that keep three replicas (or as many as they are) of everything and
    acknowledge what two of them have. ``nodes`` are those of 1, 2, ...; ``addresses`` is what clients are told."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        replicas, in_sync = min(count, 3), min(count, 2)
        settings = {
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(replicas),
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(in_sync),
            "auto.leader.rebalance.enable": "false",  # leaders move when a test says so
        }
        controllers = {node: free_port() for node in range(1, count + 1)}

        def make(node: int) -> Broker:
            (own := folder / f"node-{node}").mkdir()
            return Broker(own, node=node, controllers=controllers, settings=settings, heap_mb=256, start=False)

        with ThreadPoolExecutor(count) as pool:
            self.nodes = dict(zip(controllers, pool.map(make, controllers), strict=True))
        self.addresses = ",".join(broker.address for broker in self.nodes.values())
        self.start(*self.nodes)

    def start(self, *nodes: int) -> None:
        """Start these nodes and wait until they answer, which they do once most of the cluster is there."""
        for node in nodes:
            self.nodes[node].start(wait=False)
        for node in nodes:
            self.nodes[node].await_answer()

    def stop(self) -> None:
        """Kill what runs: nothing of it is wanted any more."""
        for broker in self.nodes.values():
            broker.stop(kill=True)


def temporary_folder() -> Path:
    """A folder for a broker: in memory where that is possible, since brokers wait for the disk when topics are made, and tests
    make hundreds."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="esb-kafka-", dir=memory if os.access(memory, os.W_OK) else None))


@functools.cache
def shared_broker() -> Broker:
    """The one broker of all tests, started when it is first asked for."""
    folder = temporary_folder()

    def clean() -> None:
        broker.stop(kill=True)  # nothing it holds is wanted any more
        shutil.rmtree(folder, ignore_errors=True)

    broker = Broker(folder)
    atexit.register(clean)
    return broker


def kafka_url(folder: Path, **options: str) -> str:
    """The URL of a log of its own on the shared broker, with its data folder."""
    return url_of(shared_broker().address, folder, **options)


def url_of(addresses: str, folder: Path, **options: str) -> str:
    """The URL of a log of its own on the brokers at these addresses, with its data folder. Underscores of the options' names
    that are not the bus's own stand for dots."""
    named = {name if name in _OWN else name.replace("_", "."): value for name, value in options.items()}
    return f"kafka://{addresses}?" + urlencode({"prefix": f"{uuid.uuid4().hex[:8]}.", "data": str(folder), **named})


def main() -> int:
    """Run a broker once, which leaves its classes behind when it ends."""
    if jars() is None:
        print("There is no Kafka: deploy/kafka/fetch.py fetches it.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        Broker(Path(folder), keeps_classes=True).stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
