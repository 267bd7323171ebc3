"""The server process: one on a data folder, on one port."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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
    if not host.startswith(_LOOPBACK) and not allow_remote:
        raise InvalidInputError(
            f"--host {host}: others could reach this address, and there is no login yet; use 127.0.0.1 behind a proxy that "
            "has one, or --allow-remote if the network is closed"
        )
    with _folder_lock(storage.folder), _listening(host, port) as listener:
        bound = listener.getsockname()[1]
        url = f"http://{'[' + host + ']' if ':' in host else host}:{bound}"
        services = Services(storage)
        app = create_app(services, hosts=["*"] if allow_remote else [*LOOPBACK_HOSTS, host])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_DRAIN_S, server_header=False)
        file = storage.folder / SERVER_FILE
        file.write_text(json.dumps({"url": url, "pid": os.getpid()}), "utf-8")
        click.echo(f"serving {storage.folder} on {url} (API: {url}/docs)")
        # When it is done, uvicorn raises the signal that ended it once more, for handlers from before it: nothing is left to do.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda signum, frame: None)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except SystemExit as ended:  # uvicorn's own way of saying so, with an exit code that means something else here
            raise BusError("the server could not be started; the reason is told above") from ended
        finally:
            file.unlink(missing_ok=True)
            storage.close()
    return 0


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
def _listening(host: str, port: int) -> Iterator[socket.socket]:
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
