"""The connections between the supervisors of a cluster: every two hosts have one, and the host with the higher number makes it.

What happens on them comes as events into one queue, so whoever reads that needs no locks. A connection is lost when it is closed,
or when nothing has been heard on it for ``lost_after_s``; it is made again without end. The port also answers HTTP, for probes.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import IO, Final, TypeAlias

import msgspec

from event_streaming_bus.errors import InUseError
from event_streaming_bus.flows.cluster import Address, Cluster, bound
from event_streaming_bus.flows.cluster_identity import difference
from event_streaming_bus.flows.cluster_messages import MAX_LINE_BYTES, Hello, Message, decode, encode

_RETRY_S: Final = 0.5
_MAX_GREETINGS: Final = 128
_MAX_EVENTS: Final = 4096
_MAX_REQUEST_BYTES: Final = 65536


class Link:
    """A connection with a host that has said who it is."""

    def __init__(self, index: int, sock: socket.socket) -> None:
        self.index = index
        self._socket = sock

    def send(self, message: Message) -> None:
        """Send a message. One that cannot be sent closes the connection, which is then found lost."""
        try:
            self._socket.sendall(encode(message))
        except OSError:
            self.close()

    def close(self) -> None:
        """Close it, for both sides."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Linked(msgspec.Struct, frozen=True):
    """A connection is there."""

    link: Link


class Heard(msgspec.Struct, frozen=True):
    """A message has come."""

    link: Link
    message: Message


class Lost(msgspec.Struct, frozen=True):
    """A connection is gone."""

    link: Link
    reason: str


class Unreachable(msgspec.Struct, frozen=True):
    """A host could not be connected with; ``refused``: it is there, but does not fit."""

    index: int
    reason: str
    refused: bool = False


LinkEvent: TypeAlias = Linked | Heard | Lost | Unreachable
Probe: TypeAlias = Callable[[str], tuple[int, Mapping[str, object]]]
"""Answers ``GET path`` with an HTTP status and what is told as JSON. Called from any thread."""


class Links:
    """This host's connections. ``InUseError`` if its address cannot be listened on."""

    def __init__(self, cluster: Cluster, index: int, identity: Mapping[str, str], *, lost_after_s: float, probe: Probe) -> None:
        self.events: queue.Queue[LinkEvent] = queue.Queue(_MAX_EVENTS)
        self._hosts = cluster.hosts
        self._hello = Hello(index, identity)
        self._lost_after_s = lost_after_s
        self._probe = probe
        self._closing = threading.Event()
        self._greetings = threading.BoundedSemaphore(_MAX_GREETINGS)
        self._listener = _listen(cluster.hosts[index])
        self._start(self._accept)
        for other in range(index):
            self._start(partial(self._dial, other))

    def close(self) -> None:
        """Connect with nobody any more. Connections that are there are closed by who holds them."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @staticmethod
    def _start(target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="esb-cluster-link", daemon=True).start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closing.wait(_RETRY_S):
                    return
                continue
            if self._greetings.acquire(blocking=False):
                self._start(partial(self._answer, sock))
            else:
                sock.close()

    def _answer(self, sock: socket.socket) -> None:
        """Find out who has connected, and read what they say."""
        greeted = False
        try:
            with sock, sock.makefile("rb") as lines:
                sock.settimeout(self._lost_after_s)
                first = lines.readline(_MAX_REQUEST_BYTES)
                if first.startswith(b"GET "):
                    _answer_http(sock, lines, first, self._probe)
                    return
                hello = decode(first)
                if not isinstance(hello, Hello) or not self._hello.index < hello.index < len(self._hosts):
                    return
                self._greetings.release()
                greeted = True
                sock.sendall(encode(self._hello))
                self._converse(sock, lines, hello)
        except (OSError, msgspec.DecodeError):
            return  # whoever it was has gone, or is none of ours
        finally:
            if not greeted:
                self._greetings.release()

    def _dial(self, index: int) -> None:
        """Connect with a host, and again when that is lost."""
        address = self._hosts[index]
        while not self._closing.is_set():
            try:
                with (
                    socket.create_connection((address.host, address.port), self._lost_after_s) as sock,
                    sock.makefile("rb") as lines,
                ):
                    sock.sendall(encode(self._hello))
                    hello = decode(lines.readline(_MAX_REQUEST_BYTES))
                    if not isinstance(hello, Hello) or hello.index != index:
                        raise ConnectionError("what answers there is not that host of a cluster")
                    self._converse(sock, lines, hello)
            except msgspec.DecodeError:
                self.events.put(Unreachable(index, "what answers there is no host of a cluster"))
            except OSError as error:
                self.events.put(Unreachable(index, error.strerror or str(error)))
            self._closing.wait(_RETRY_S)

    def _converse(self, sock: socket.socket, lines: IO[bytes], hello: Hello) -> None:
        """Read what a host says until that ends, if it fits."""
        told = difference(self._hello.identity, hello.identity)
        if told is not None:
            self.events.put(Unreachable(hello.index, told, refused=True))
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(hello.index, sock)
        self.events.put(Linked(link))
        reason = "the connection was closed"
        try:
            while line := lines.readline(MAX_LINE_BYTES):
                self.events.put(Heard(link, decode(line)))
        except TimeoutError:
            reason = f"nothing was heard of it for {self._lost_after_s:g} s"
        except msgspec.DecodeError as error:
            reason = f"it sent what cannot be read: {error}"
        except OSError as error:
            reason = error.strerror or str(error)
        finally:
            link.close()
            self.events.put(Lost(link, reason))


def _listen(address: Address) -> socket.socket:
    try:
        sock = bound(address)
    except OSError as error:
        raise InUseError(f"{address}, this host's address in the cluster, cannot be used: {error.strerror}") from error
    try:
        sock.listen(_MAX_GREETINGS)
    except OSError as error:
        sock.close()
        raise InUseError(f"{address}, this host's address in the cluster, cannot be used: {error.strerror}") from error
    return sock


def _answer_http(sock: socket.socket, lines: IO[bytes], first: bytes, probe: Probe) -> None:
    deadline = time.monotonic() + 1
    while lines.readline(_MAX_REQUEST_BYTES).strip() and time.monotonic() < deadline:
        pass
    status, data = probe(first[4:].partition(b" ")[0].strip().decode("latin-1"))
    body = msgspec.json.encode(data) + b"\n"
    head = f"HTTP/1.1 {status} {'OK' if status < 400 else 'Unavailable'}\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
