"""How a Kafka cluster is named and reached: ``kafka://host:9092[,host2:9092]?option=value&...``."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.store.database import PostgresPlace, postgres_place

SCHEME: Final = "kafka://"
_CLIENT_OPTIONS: Final = frozenset(
    {
        "client.id",
        "client.dns.lookup",
        "client.rack",
        "broker.address.family",
        "metadata.max.age.ms",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "socket.connection.setup.timeout.ms",
        "socket.keepalive.enable",
        "socket.timeout.ms",
        "security.protocol",
        "enable.ssl.certificate.verification",
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.certificate.pem",
        "ssl.cipher.suites",
        "ssl.crl.location",
        "ssl.curves.list",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.sigalgs.list",
        "sasl.kerberos.keytab",
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.min.time.before.relogin",
        "sasl.kerberos.principal",
        "sasl.kerberos.service.name",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.extensions",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.scope",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.password",
        "sasl.username",
    }
)
_SECRET: Final = re.compile(r"password|secret|\.pem$|oauthbearer\.(config|extensions)|keytab|kinit")
_HIDDEN: Final = "***"
_OWN_OPTIONS: Final[tuple[str, ...]] = (
    *("data", "database", "prefix", "replication_factor", "transaction_timeout_ms", "ids_window_ms"),
)
DATABASE_VARIABLE: Final = "ESB_DATABASE"
_BROKER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{0,40}")
_DAY_MS: Final = 86_400_000
_log: Final = logging.getLogger("event_streaming_bus.kafka")
_log.addHandler(logging.NullHandler())  # or Python prints what an application without logging does not ask for


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A Kafka cluster, and how the bus uses it.

    ``brokers``: addresses, separated by commas. ``client``: options of librdkafka by its own names, for every client.
    ``folder``: the local data folder. ``database``: what nodes share beside the log, or ``None`` where that is in the folder.
    ``prefix`` begins the name of every topic, transactional id and group. ``replication_factor``: of new topics, -1 for the
    brokers' default. ``transaction_timeout_ms``: how long what a process left open when it was killed may hold up others.
    ``ids_window_ms``: for how long event ids are known.
    """

    brokers: str
    folder: Path
    database: PostgresPlace | None = None
    client: Mapping[str, str] = {}
    prefix: str = ""
    replication_factor: int = -1
    transaction_timeout_ms: int = 10_000
    ids_window_ms: int = 7 * _DAY_MS

    def options(self, **more: Any) -> dict[str, Any]:
        """The options of a client; ``more`` has underscores for the dots of the names."""
        own = {name.replace("_", "."): value for name, value in more.items()}
        # librdkafka writes to stderr what it only retries; what cannot be retried comes as an error, and to the logger.
        defaults = {"log_level": 2, "logger": _log, "client.id": "event-streaming-bus", "reconnect.backoff.max.ms": 1000}
        return {"bootstrap.servers": self.brokers, **defaults, **self.client, **own}

    def __repr__(self) -> str:
        """Without what may be secret: it goes into logs and errors."""
        client = {name: _HIDDEN if _SECRET.search(name) else value for name, value in self.client.items()}
        return f"KafkaSettings(brokers={self.brokers!r}, folder={str(self.folder)!r}, prefix={self.prefix!r}, client={client!r})"

    def without_secrets(self, text: str) -> str:
        """The text with every value that may be secret hidden."""
        for name, value in self.client.items():
            if _SECRET.search(name) and value:
                text = text.replace(value, _HIDDEN)
        return text

    def fingerprint(self) -> str:
        """Names the cluster and the prefix in local file names."""
        return hashlib.blake2b(f"{self.brokers}\0{self.prefix}".encode(), digest_size=6).hexdigest()


def is_kafka_url(text: str) -> bool:
    return text.startswith(SCHEME)


def parse_url(url: str, default_folder: str) -> KafkaSettings:
    """The settings that the URL names. ``InvalidInputError`` names the option; no message repeats a value that may be secret.

    ``data`` is the local data folder; left out, ``ESB_DATA`` is, unless it is a URL itself, or else ``default_folder``.
    ``database`` is the URL of a PostgreSQL database; left out, ``ESB_DATABASE`` is.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InvalidInputError("kafka:// takes no user in the address; expected sasl.username=...&sasl.password=... as options")
    brokers = [broker for broker in parts.netloc.split(",") if broker]
    if not brokers or parts.path not in ("", "/") or parts.fragment or not all(map(_BROKER.fullmatch, brokers)):
        raise InvalidInputError("the Kafka URL: expected kafka://host:9092[,host2:9092]?option=value...")
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _CLIENT_OPTIONS and name not in _OWN_OPTIONS:
            raise InvalidInputError(
                f"the Kafka URL: unknown option {name!r}; expected one of {', '.join(_OWN_OPTIONS)}, or librdkafka's options for "
                "TLS and SASL (security.protocol, ssl.*, sasl.*)",
                path=name,
            )
        if name in options:
            raise InvalidInputError(f"the Kafka URL: the option {name!r} is there twice", path=name)
        options[name] = value
    own = {name: options.pop(name) for name in _OWN_OPTIONS if name in options}
    prefix = own.get("prefix", "")
    if not _PREFIX.fullmatch(prefix):
        raise InvalidInputError("the Kafka URL: prefix: expected at most 40 letters, digits, '.', '_' or '-'", path="prefix")
    database = own.get("database") or os.environ.get(DATABASE_VARIABLE)
    given = os.environ.get("ESB_DATA") or default_folder
    folder = own.get("data") or (default_folder if is_kafka_url(given) else given.removeprefix("embedded:"))
    return KafkaSettings(
        brokers=",".join(broker if re.search(r":\d+$", broker) else f"{broker}:9092" for broker in brokers),
        folder=Path(folder).expanduser().resolve(),
        database=postgres_place(database) if database else None,
        client=options,
        prefix=prefix,
        replication_factor=_integer(own, "replication_factor", -1, 1, 32_767),
        transaction_timeout_ms=_integer(own, "transaction_timeout_ms", 10_000, 1000, 900_000),
        ids_window_ms=_integer(own, "ids_window_ms", 7 * _DAY_MS, 60_000, 3650 * _DAY_MS),
    )


def _integer(options: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InvalidInputError(f"the Kafka URL: {name}: expected an integer from {low} to {high}, got {text!r}", path=name)
    return int(text)
