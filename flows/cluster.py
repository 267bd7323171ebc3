"""The hosts that run one flow together: their addresses, which of them this one is, and the ports that it needs.

An address ``HOST:PORT`` is where a host's supervisor listens. Its workers listen on the ports after it: with two workers a host,
``10.0.0.1:2101`` has the supervisor on 2101 and workers on 2102 and 2103.
"""

import os
import re
import socket
from collections.abc import Mapping
from typing import Final

import msgspec

from event_streaming_bus.errors import ConfigError, InUseError

PROCESS_ID: Final = "ESB_PROCESS_ID"
"""The environment variable that says which of the addresses is this host's, counted from 0."""
MAX_HOSTS: Final = 64
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)):(?P<port>\d{1,5})"
)
_EXPECTED: Final = "expected HOST:PORT,HOST:PORT,... with a name or an IP address ([...] for IPv6) and a port from 1 to 65535"


class Address(msgspec.Struct, frozen=True):
    """Where the supervisor of a host listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return self.at(0)

    def at(self, offset: int) -> str:
        """``host:port`` of the supervisor (0) or of a worker (1 and up)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port + offset}"


class Cluster(msgspec.Struct, frozen=True):
    """The hosts of a cluster in their order, and how many workers each has. All hosts are given the same."""

    hosts: tuple[Address, ...]
    workers_per_host: int = 1

    @property
    def workers(self) -> int:
        """How many workers there are in all."""
        return len(self.hosts) * self.workers_per_host

    def worker_addresses(self) -> list[str]:
        """Where each worker listens, those of a host one after the other."""
        return [each.at(1 + number) for each in self.hosts for number in range(self.workers_per_host)]

    def first_worker(self, index: int) -> int:
        """The number of the first worker of a host among all workers."""
        return index * self.workers_per_host


def parse_cluster(text: str, workers_per_host: int = 1) -> Cluster:
    """The cluster that ``HOST:PORT,HOST:PORT,...`` names. ``ConfigError`` says which address is wrong and what would be right."""
    hosts: list[Address] = []
    for word in text.split(","):
        match = _ADDRESS.fullmatch(word.strip())
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ConfigError(f"--cluster: {word.strip()!r} is no address; {_EXPECTED}")
        address = Address((match["v6"] or match["name"]).lower(), int(match["port"]))
        if address.port + workers_per_host > 65535:
            raise ConfigError(f"--cluster: {address}: the workers of a host use the ports after its own, which end at 65535")
        for other in hosts:
            if other == address:
                raise ConfigError(f"--cluster: {address} is named twice; each host has an address of its own")
            if other.host == address.host and abs(other.port - address.port) <= workers_per_host:
                raise ConfigError(
                    f"--cluster: {other} and {address} overlap: a supervisor and its {workers_per_host} worker(s) use "
                    f"{workers_per_host + 1} ports in a row"
                )
        hosts.append(address)
    if not 2 <= len(hosts) <= MAX_HOSTS:
        raise ConfigError(f"--cluster: expected 2 to {MAX_HOSTS} hosts, but {len(hosts)} are named; one host needs no cluster")
    return Cluster(tuple(hosts), workers_per_host)


def own_index(
    cluster: Cluster,
    process_id: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    hostname: str | None = None,
) -> int:
    """Which of the hosts this is: as ``process_id`` or ``ESB_PROCESS_ID`` says; else the one that is called as this machine is,
    as the pods of a StatefulSet are; else the one whose address belongs to this machine.

    ``ConfigError`` if none does, if several do, or if the address of the one that was named does not belong to this machine.
    """
    given, source = process_id, "--process-id"
    if given is None and (text := environment.get(PROCESS_ID, "").strip()):
        if not text.isdecimal():
            raise ConfigError(f"{PROCESS_ID}: expected the number of a host, counted from 0, but it is {text!r}")
        given, source = int(text), PROCESS_ID
    if given is not None:
        if not 0 <= given < len(cluster.hosts):
            raise ConfigError(f"{source} is {given}, but the hosts of the cluster are 0 to {len(cluster.hosts) - 1}")
        return given
    own_name = (hostname or socket.gethostname()).lower()
    named = [i for i, each in enumerate(cluster.hosts) if own_name in (each.host, each.host.partition(".")[0])]
    found = named or [i for i, each in enumerate(cluster.hosts) if is_own(each)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, cluster.hosts))
    if not found:
        raise ConfigError(f"--cluster: none of {listed} is an address of this machine ({own_name}); see --process-id")
    several = " and ".join(str(cluster.hosts[i]) for i in found)
    raise ConfigError(f"--cluster: {several} are all addresses of this machine; --process-id says which one is meant")


def is_own(address: Address) -> bool:
    """Whether the address belongs to this machine. A name that cannot be resolved does not."""
    try:
        with bound(Address(address.host, 0)):
            return True
    except OSError:
        return False


def is_known(address: Address) -> bool:
    """Whether the name of the address can be resolved."""
    try:
        return bool(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
    except OSError:
        return False


def bound(address: Address) -> socket.socket:
    """A socket bound to the address, not listening yet. ``OSError`` if the name is unknown or the address is not to be had."""
    family, kind, protocol, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except BaseException:
        sock.close()
        raise
    return sock


def check_worker_ports(cluster: Cluster, index: int) -> None:
    """``InUseError`` if a port that this host's workers need is taken."""
    own = cluster.hosts[index]
    for number in range(1, cluster.workers_per_host + 1):
        try:
            bound(Address(own.host, own.port + number)).close()
        except OSError as error:
            raise InUseError(f"{own.at(number)}, which a worker of this host needs, cannot be used: {error.strerror}") from error
