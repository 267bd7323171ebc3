"""The server process: one on a data folder, on one port."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import uvicorn

from event_streaming_bus.api.app import LOOPBACK_HOSTS, create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import BusError, InUseError, InvalidInputError
from event_streaming_bus.store.storage import Storage

SERVER_FILE: Final = "serve.json"
_LOOPBACK: Final = ("127.", "localhost", "::1")
_DRAIN_S: Final = 10
_BACKLOG: Final = 1024


def serve(storage: Storage, host: str, port: int, *, allow_remote: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises ``InUseError`` for a data folder that is being served already or a port that is taken, ``InvalidInputError`` for an
    address that others can reach, unless ``allow_remote`` (requests are not authenticated in this version), and ``BusError`` if
    the history or the catalog keep it from starting.
    """
    check_reach(host, allow_remote)
    with _folder_lock(storage.folder), listening(host, port) as listener:
        url = url_of(host, listener)
        services = Services(storage)
        app = create_app(services, hosts=hosts_of(host, allow_remote))
        file = storage.folder / SERVER_FILE
        file.write_text(json.dumps({"url": url, "pid": os.getpid()}), "utf-8")
        click.echo(f"serving {storage.folder} on {url} (API: {url}/docs)")
        try:
            run(app, listener)
        finally:
            file.unlink(missing_ok=True)
            storage.close()
    return 0


def check_reach(host: str, allow_remote: bool) -> None:
    """Raise ``InvalidInputError`` for an address that others can reach, unless that is wanted."""
    if not host.startswith(_LOOPBACK) and not allow_remote:
        raise InvalidInputError(
            f"--host {host}: others could reach this address, and there is no login yet; use 127.0.0.1 behind a proxy that "
            "has one, or --allow-remote if the network is closed"
        )


def hosts_of(host: str, allow_remote: bool) -> list[str]:
    """The names by which a server may be asked."""
    return ["*"] if allow_remote else [*LOOPBACK_HOSTS, host]


def url_of(host: str, listener: socket.socket) -> str:
    """Where a server that listens is to be found."""
    return f"http://{'[' + host + ']' if ':' in host else host}:{listener.getsockname()[1]}"


def run(app: Any, listener: socket.socket) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT. Raises ``BusError`` if it does not start."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_DRAIN_S, server_header=False)
    # When it is done, uvicorn raises the signal that ended it once more, for handlers from before it: nothing is left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except SystemExit as ended:  # uvicorn's own way of saying so, with an exit code that means something else here
        raise BusError("the server could not be started; the reason is told above") from ended


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    path = folder / "serve.lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise InUseError(f"{folder} is being served already, by process {pid}; stop it, or use another data folder") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an address. Raises ``InvalidInputError`` for one that there is not, ``InUseError`` for a port that is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInputError(f"--host {host}: {error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)  # from here on clients wait instead of being refused
        except OSError as error:
            raise InUseError(f"port {port} on {host} cannot be used: {error.strerror}; choose another with --port") from error
        yield listener
