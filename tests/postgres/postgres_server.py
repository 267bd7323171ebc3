"""A PostgreSQL server for tests: in a temporary folder, started once, stopped with the tests; and databases on it that are made
in a moment.

It needs the programs of PostgreSQL 14 or later: in the folder ESB_POSTGRES_HOME, on the PATH, or where Debian puts them.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg

from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.postgres import connected
from event_streaming_bus.store.postgres_migrations import upgrade

_READY_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_TEMPLATE: Final = "esb_template"
_home: Final = os.environ.get("ESB_POSTGRES_HOME")  # when this is imported: later, no setting of the machine reaches a test


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; ``None`` if they are missing."""
    on_path = shutil.which("initdb")
    folders = [Path(_home), Path(_home) / "bin"] if _home else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in [*folders, *([Path(on_path).resolve().parent] if on_path else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _user() -> dict[str, Any]:
    """Who the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    with contextlib.suppress(KeyError):
        return {"user": pwd.getpwnam("postgres").pw_uid, "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}
    return {"user": pwd.getpwnam("nobody").pw_uid, "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Server:
    """A server at ``port`` of this machine that can be stopped and started again, with what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = "esb"
        self.password = uuid.uuid4().hex
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        who = _user()
        if who:
            os.chown(folder, who["user"], who["group"])
        secret = folder / "password"
        secret.write_text(self.password)
        if who:
            os.chown(secret, who["user"], who["group"])
        self._run(
            "initdb", "-D", str(folder / "data"), "-U", self.user, "--pwfile", str(secret), "-A", "scram-sha-256", "-E", "UTF8"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        folder = programs()
        assert folder is not None
        made = subprocess.run([folder / program, *arguments], capture_output=True, text=True, cwd=self.folder, **_user())
        if made.returncode:
            raise RuntimeError(f"{program} failed: {made.stderr[-2000:]}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = programs()
        assert folder is not None
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "64MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [folder / "postgres", "-D", str(self.folder / "data"), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # kill -9 of the tests must not leave it behind
                **_user(),
            )
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'output.txt').read_text()[-2000:]}") from None
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, ending its connections: in good order, or as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
            process.wait(20)

    def url(self, database: str) -> str:
        """The URL of a database on it."""
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, *, upgraded: bool = True) -> PostgresPlace:
        """A database of its own, with the tables of the bus or without."""
        name = f"esb_{uuid.uuid4().hex[:12]}"
        if upgraded:
            self._template()
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if upgraded else 'template0'}".encode())
        return PostgresPlace(self.url(name))

    @functools.cache  # noqa: B019 - there is one server
    def _template(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0".encode())
        place = PostgresPlace(self.url(_TEMPLATE))
        with connected(place) as connection:
            upgrade(connection, place)


@contextlib.contextmanager
def new_server() -> Iterator[Server]:
    """A server of one's own, to be stopped and started."""
    memory = Path("/dev/shm")  # also since the server, another user, may not enter the folders of tests
    folder = Path(tempfile.mkdtemp(prefix="esb-postgres-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop(kill=True)  # nothing it holds is wanted any more
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def shared_server() -> Server:
    """The one server of all tests, started when it is first asked for."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(new_server())
