"""The server process: one on a data folder, on one port."""

import fcntl
import gc
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import click
import uvicorn

from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.access.settings import AccessSettings, read_settings
from event_streaming_bus.access.tokens import FIRST, TokenService, token_data
from event_streaming_bus.api.access import Access
from event_streaming_bus.api.app import LOOPBACK_HOSTS, create_app
from event_streaming_bus.api.connections import protocols
from event_streaming_bus.api.load import DEFAULT_LIMITS, Load, LoadLimits
from event_streaming_bus.api.open_files import fitted
from event_streaming_bus.api.services import Services
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.errors import BusError, InUseError, InvalidInputError
from event_streaming_bus.store.master_key import VARIABLE, find_master_key
from event_streaming_bus.store.server_calls import SERVER_FILE
from event_streaming_bus.store.storage import Storage

AuthMode = Literal["auto", "required", "off"]
_DRAIN_S: Final = 10
_IDLE_S: Final = 10
"""How long a connection is kept that has been answered; clients of ours use it for no longer than 4 s."""
_SWITCH_S: Final = 0.0005
"""How long a thread computes before another one may. The event loop asks for its turn with each thing that it does: with
Python's 5 ms, others that compute would have it wait for seconds when a thousand clients are ready."""
_BACKLOG: Final = 4096  # what the kernel allows, if that is less


class Tls(NamedTuple):
    """The files of a certificate, with those that vouch for it, and of its key."""

    certificate: Path
    key: Path


def serve(
    storage: Storage,
    host: str,
    port: int,
    *,
    allow_remote: bool = False,
    auth: AuthMode = "auto",
    access_file: Path | None = None,
    tls: Tls | None = None,
    advertise: str | None = None,
    limits: LoadLimits = DEFAULT_LIMITS,
    prepare: Callable[[Services], None] = lambda services: None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. ``prepare`` is called before the first request is taken. ``limits``:
    what is taken on at once, with fewer connections if no more files may be open.

    ``auth``: clients have to say who they are, but with ``off``. If there has never been a token in the data folder, one for an
    administrator is made, in a file that only its owner may read. ``advertise``: the URL by which other nodes that share the
    database reach this one; where there are others, one leads, and a node that leads no more ends with exit code 1.

    Raises ``InUseError`` for a data folder that is being served already or a port that is taken, ``InvalidInputError`` for an
    address that others can reach, unless with ``tls`` or ``allow_remote``, and ``BusError`` if the history or the catalog keep it
    from starting.
    """
    check_reach(host, allow_remote, has_tls=tls is not None and auth != "off")
    settings = AccessSettings() if access_file is None else read_settings(access_file)
    if os.environ.get(VARIABLE):
        find_master_key(storage.folder)  # a wrong one is told now, not when the first personal value is to be written
    with _folder_lock(storage.folder), listening(host, port) as listener:
        url = url_of(host, listener, "http" if tls is None else "https")
        notes: list[str] = []
        services = Services(storage, fitted(limits, notes.append))
        if storage.shared is not None:
            from event_streaming_bus.store.election import Election  # loads psycopg: only for those who need it

            services.election = Election(storage.shared, advertise or _reached_by(url))
        prepare(services)
        access = access_of(auth, services.storage, services.tokens, services.audit, settings)
        app = create_app(services, hosts=hosts_of(host, allow_remote or not is_loopback(host)), access=access)
        file = storage.folder / SERVER_FILE
        file.write_text(json.dumps({"url": url, "pid": os.getpid()}), "utf-8")
        click.echo(f"serving {storage.folder} on {url} (API: {url}/docs)")
        for told in (told_of(access, services.tokens), *notes):
            click.echo(told)
        token = None if access is None or not sys.stdout.isatty() else services.tokens.admin_token()
        if token is not None:  # on a terminal only: what is printed elsewhere is kept in some log
            click.echo(f"the page, as an administrator: {url}/#token={token}")
        try:
            run(app, listener, tls, services.load)
        finally:
            file.unlink(missing_ok=True)
            storage.close()
    return 1 if services.election is not None and services.election.is_over else 0


def _reached_by(url: str) -> str:
    """The address by which other nodes reach one that listens at ``url``: where it listens everywhere, by the machine's name."""
    parts = urlsplit(url)
    return url if parts.hostname not in ("0.0.0.0", "::") else f"{parts.scheme}://{socket.getfqdn()}:{parts.port}"  # noqa: S104


def access_of(
    auth: AuthMode, storage: Storage, tokens: TokenService, audit: AuditService, settings: AccessSettings
) -> Access | None:
    """What asks clients who they are; None with ``off``. Otherwise there has been a token for somebody afterwards."""
    if auth == "off":
        return None
    first = tokens.make_first_admin()
    if first is not None:
        audit.record("token.create", tenant_id=first.tenant_id, actor=FIRST, target=first.token_id, after=token_data(first))
    return Access(storage, Authenticator(tokens, settings))


def told_of(access: Access | None, tokens: TokenService) -> str:
    """What is said of tokens when a server starts: where they are, never what they are."""
    if access is None:
        return "WARNING: there is no login: whoever can reach this address, such as every user of this machine, may do everything"
    made = f"an administrator's is in {tokens.admin_file}" if tokens.admin_token() else "`esb tokens create` makes tokens"
    return f"clients need a token: {made}"


def check_reach(host: str, allow_remote: bool, *, has_tls: bool = False) -> None:
    """Raise ``InvalidInputError`` for an address that others can reach, unless that is wanted, or nobody can listen."""
    if not is_loopback(host) and not allow_remote and not has_tls:
        raise InvalidInputError(
            f"--host {host}: others could reach this address, and without TLS there is no login that nobody can overhear; use "
            "127.0.0.1 behind a proxy, --tls-certificate and --tls-key, or --allow-remote if the network is closed"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str, allow_remote: bool) -> list[str]:
    """The names by which a server may be asked."""
    return ["*"] if allow_remote else [*LOOPBACK_HOSTS, host]


def url_of(host: str, listener: socket.socket, scheme: str = "http") -> str:
    """Where a server that listens is to be found."""
    return f"{scheme}://{'[' + host + ']' if ':' in host else host}:{listener.getsockname()[1]}"


def run(app: Any, listener: socket.socket, tls: Tls | None = None, load: Load | None = None) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT. Raises ``BusError`` if it does not start, ``InvalidInputError`` for
    files that have no certificate or no key. ``load`` has the limits of connections; without it they are the usual ones."""
    http, websockets = protocols(load or Load(fitted(DEFAULT_LIMITS, click.echo)))
    config = uvicorn.Config(
        app,
        http=http,
        ws=websockets,
        log_level="warning",
        timeout_graceful_shutdown=_DRAIN_S,
        timeout_keep_alive=_IDLE_S,
        server_header=False,
        # Clients on this machine could say in X-Forwarded-For that they are elsewhere, and the audit would have that.
        proxy_headers=False,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInputError(f"--tls-certificate, --tls-key: they cannot be used: {error}") from error
    server = uvicorn.Server(config)

    def end(signum: int, frame: object) -> None:
        server.should_exit = True

    # Uvicorn has handlers of its own while it serves. A signal that comes before ends it too. The one that ended it is raised
    # once more when it is done, and does nothing more.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sys.setswitchinterval(_SWITCH_S)
    try:
        with _rarely_collecting():
            server.run(sockets=[listener])
    except SystemExit as ended:  # uvicorn's own way of saying so, with an exit code that means something else here
        raise BusError("the server could not be started; the reason is told above") from ended


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """What is there by now stays as long as the server does; to search all of it for garbage again and again would take a third
    of the time of publishing. What comes later is searched less often: most of it goes by itself."""
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


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
