"""An Apache Kafka broker for tests: one node, made in a temporary folder, started once and stopped with the tests.

It needs Java 17 and the jars that deploy/kafka/fetch.py fetches: in the folder ESB_KAFKA_HOME (or its folder ``libs``), or in
~/.cache/esb/kafka.
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
from pathlib import Path
from typing import Final

_READY_S: Final = 60.0
_CLUSTER: Final = "ZXNiLXRlc3RzLWJyb2tlcg"
_PR_SET_PDEATHSIG: Final = 1
_SETTINGS: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
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
log.index.size.max.bytes=65536
log.cleaner.dedupe.buffer.size=16777216
file.delete.delay.ms=1000
num.network.threads=2
num.io.threads=3
controller.quorum.append.linger.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
_home: Final = os.environ.get("ESB_KAFKA_HOME")  # when this is imported: later, no setting of the machine reaches a test


def jars() -> Path | None:
    """The folder of the jars; ``None`` if they or Java are missing."""
    for folder in [Path(_home), Path(_home) / "libs"] if _home else [Path("~/.cache/esb/kafka").expanduser()]:
        if any(folder.glob("kafka_2.13-*.jar")) and shutil.which("java"):
            return folder
    return None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """A broker at ``address`` that can be stopped and started again, with what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = _free_port()
        self.address = f"127.0.0.1:{self._port}"
        settings = _SETTINGS.format(port=self._port, controller=_free_port(), folder=folder)
        self._settings = folder / "server.properties"
        self._settings.write_text(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._settings)).wait(_READY_S)
        self.start()

    def _java(self, *arguments: str) -> "subprocess.Popen[bytes]":
        options = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+IgnoreUnrecognizedVMOptions")
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                ["java", *options, "-cp", f"{jars()}/*", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # kill -9 of the tests must not leave it behind
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self._java("kafka.Kafka", str(self._settings))
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not start: {(self.folder / 'output.txt').read_text()[-2000:]}") from None
            time.sleep(0.1)

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


@functools.cache
def shared_broker() -> Broker:
    """The one broker of all tests, started when it is first asked for."""
    memory = Path("/dev/shm")  # the brokers wait for the disk when topics are made, and tests make hundreds
    folder = Path(tempfile.mkdtemp(prefix="esb-kafka-", dir=memory if os.access(memory, os.W_OK) else None))

    def clean() -> None:
        broker.stop(kill=True)  # nothing it holds is wanted any more
        shutil.rmtree(folder, ignore_errors=True)

    broker = Broker(folder)
    atexit.register(clean)
    return broker


def kafka_url(folder: Path, **options: str) -> str:
    """The URL of a log of its own on the shared broker, with its data folder."""
    return f"kafka://{shared_broker().address}?" + "&".join(
        f"{name}={value}" for name, value in {"prefix": f"{uuid.uuid4().hex[:8]}.", "data": str(folder), **options}.items()
    )
