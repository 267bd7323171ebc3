"""Where histories are made: a bus with servers that can be killed and paused, and a clock that jumps.

A jump of the clock is made by libfaketime (Debian's package ``faketime``), which stands between the processes and the C library:
all clients and servers see the same clock, as on a machine whose clock is set. The monotonic clock goes on as it is.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from crash_shim import compiled

_ESB: Final = Path(sys.executable).with_name("esb")
_WAITS: Final = Path(__file__).with_name("shim") / "plain_waits.c"
_LIBRARY: Final = "faketime/libfaketimeMT.so.1"
_STARTS: Final = 3
_PLACES: Final = ("/usr/lib/*", "/usr/lib", "/usr/local/lib", "/usr/lib64")


def fake_clock_libraries() -> list[Path]:
    """What is to be preloaded for a clock that jumps; nothing where libfaketime or a C compiler is missing."""
    found = [path for place in _PLACES for path in Path("/").glob(f"{place[1:]}/{_LIBRARY}")]
    waits = compiled(_WAITS) if found and sys.platform == "linux" else None
    return [] if waits is None else [waits, found[0]]


class FakeClock:
    """The clock of the processes that are started with ``environment``; its file is in ``folder``."""

    def __init__(self, folder: Path) -> None:
        libraries = fake_clock_libraries()
        assert libraries, "libfaketime or a C compiler is missing"
        self._file = folder / "clock"
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": " ".join(map(str, libraries)),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, seconds: float) -> None:
        """Let the clock be off by so much from now on."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{seconds:+.3f}\n")
        beside.replace(self._file)


def forget_clocks() -> None:
    """Remove what the library has left of processes that were killed."""
    for path in Path("/dev/shm").glob("*faketime_s?m_*"):
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


class Server:
    """A serving process that is at the same URL when it is started again."""

    def __init__(self, place: str, folder: Path, environment: dict[str, str]) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._place = place
        self._environment = environment
        self._errors = folder / f"server-{self._port}.txt"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it, again if it ends for want of a broker; it answers when this returns."""
        for _ in range(_STARTS):
            if self._starts():
                return
        raise AssertionError(self._errors.read_text()[-3000:])

    def _starts(self) -> bool:
        with self._errors.open("a") as errors:
            self._process = subprocess.Popen(
                [_ESB, "--data", self._place, "serve", "--port", str(self._port), "--auth", "off"],
                env=os.environ | self._environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if " on http" in line:
            return True
        self._process.wait(30)
        self._process.stdout.close()
        return False

    def restart_if_over(self) -> None:
        """Start it again if it has ended by itself, as a node does that has lost the lead."""
        if self._process is not None and self._process.poll() is not None:
            self._process.stdout.close()  # type: ignore[union-attr]
            self.start()

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._process.stdout.close()  # type: ignore[union-attr]

    def close(self) -> None:
        """End it in good order."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(30)
        self._process.stdout.close()  # type: ignore[union-attr]

    def errors(self) -> str:
        """What it has written to its standard error."""
        return self._errors.read_text()


class EmbeddedPlace:
    """A data folder, which one server serves and others open beside it."""

    is_dense: Final = True
    servers: Final = 1

    def __init__(self, folder: Path) -> None:
        self.environment: dict[str, str] = {}
        self.url = str(folder / "data")

    def server_url(self, number: int) -> str:
        return self.url

    def close(self) -> None:
        """Nothing is left."""


class KafkaPlace:
    """A log on a Kafka broker, all else in PostgreSQL; several servers, and others that use both beside them."""

    is_dense: Final = False
    servers: Final = 2

    def __init__(self, folder: Path) -> None:
        tests = Path(__file__).parents[1]
        sys.path += [str(tests / "kafka"), str(tests / "postgres")]
        import kafka_broker
        import postgres_server

        self._broker: Any = kafka_broker
        self._folder = folder
        self._prefix = f"h{os.urandom(4).hex()}."
        self.environment = {
            "ESB_DATABASE": postgres_server.shared_server().new_database().url,
            "ESB_MASTER_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        }
        os.environ.update(self.environment)
        self.url = self._url("clients")

    def server_url(self, number: int) -> str:
        return self._url(f"server-{number}")

    def _url(self, name: str) -> str:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return str(self._broker.kafka_url(folder, prefix=self._prefix))

    def close(self) -> None:
        """The brokers and the database end with this process."""
