"""Finding out whether a Kafka cluster can be used at all, and if not, why: said once, and soon.

A client of librdkafka goes on trying in silence whatever is wrong. The one here collects what it meets on the way.
"""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from event_streaming_bus.errors import InvalidInputError, StorageError
from event_streaming_bus.store.log.kafka_errors import HOPELESS, bus_error, error_of, reason_of
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

_LOOK_S: Final = 0.1
_CONNECT_S: Final = 0.5
_HOPELESS_S: Final = 1.0
_MOST_REASONS: Final = 200


def admin_client(settings: KafkaSettings, **more: object) -> AdminClient:
    """A client for administration. ``InvalidInputError`` if librdkafka refuses the options of the URL."""
    try:
        return AdminClient(settings.options() | more)
    except KafkaException as error:
        said = settings.without_secrets(error_of(error).str()).removeprefix("Failed to create admin client: ").rstrip(".")
        raise InvalidInputError(
            f"the Kafka URL: librdkafka refuses its options: {said}. Check security.protocol (PLAINTEXT, SSL, SASL_PLAINTEXT or "
            "SASL_SSL), sasl.mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER) and the files that ssl.* name."
        ) from error


def reach(settings: KafkaSettings, timeout_s: float) -> dict[str, list[bool]]:
    """Wait until a broker answers, and see that one listens where they say that they do. Returns of each topic whether its
    partitions have leaders: any broker knows that, also while there is no controller. ``StorageError`` tells what every address
    did instead; sooner than after ``timeout_s`` where waiting cannot help, as with a wrong password."""
    met: list[KafkaError] = []

    def note(error: KafkaError) -> None:
        if len(met) < _MOST_REASONS:
            met.append(error)

    client = admin_client(settings, error_cb=note)
    started = time.monotonic()
    hopeless_at: float | None = None
    while True:
        with suppress(KafkaException):
            client.cluster_id(timeout=_LOOK_S)
            break
        client.poll(0)
        now = time.monotonic()
        if hopeless_at is None and any(error.code() in HOPELESS or error.code() == KafkaError._BAD_MSG for error in met):
            hopeless_at = now
        # One address may be wrong where another is right: each gets its time.
        if now > started + timeout_s or (hopeless_at is not None and now > hopeless_at + _HOPELESS_S):
            raise _unreachable(settings, met, now - started)
    met.clear()
    try:
        metadata = client.list_topics(timeout=max(1.0, started + timeout_s - time.monotonic()))
    except KafkaException as error:
        raise bus_error(error_of(error), settings.brokers, "opening the log") from error
    addresses = [(str(broker.host), broker.port) for broker in metadata.brokers.values()]
    if not any(_listens(*address) for address in addresses):
        client.poll(0)
        raise _unadvertised(settings, addresses, met)
    return {
        name: [partition.leader in metadata.brokers for partition in topic.partitions.values()]
        for name, topic in metadata.topics.items()
        if topic.error is None
    }


def _listens(host: str, port: int) -> bool:
    """Whether anybody does at this address."""
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError:
        return False
    return True


def _unadvertised(settings: KafkaSettings, addresses: Sequence[tuple[str, int]], met: Sequence[KafkaError]) -> StorageError:
    places = ", ".join(f"{host}:{port}" for host, port in addresses)
    return StorageError(
        f"The Kafka cluster at {settings.brokers} answers, but its brokers say that they are at {places}, where "
        f"none let this client in: {'; '.join(_reasons(settings, met)) or 'nothing came back'}. Expected advertised.listeners of "
        "the brokers with addresses that can be reached from here.",
        brokers=settings.brokers,
    )


def _reasons(settings: KafkaSettings, met: Sequence[KafkaError]) -> list[str]:
    """What was met on the way, each once."""
    return list(dict.fromkeys(settings.without_secrets(reason) for error in met if (reason := reason_of(error)) is not None))


def _unreachable(settings: KafkaSettings, met: Sequence[KafkaError], waited_s: float) -> StorageError:
    reasons = _reasons(settings, met)
    if not reasons and met:
        reasons = [
            "the connection was closed at the first request: either no Kafka broker listens there, or the listener wants TLS or "
            "a login; expected security.protocol=SSL, SASL_PLAINTEXT or SASL_SSL"
        ]
    if not reasons:
        reasons = [f"nothing came back within {waited_s:.0f} s; check the address, firewalls, and whether it is a Kafka broker"]
    return StorageError(
        f"No Kafka broker at {settings.brokers} let this client in while opening the log: {'; '.join(reasons)}.",
        brokers=settings.brokers,
    )
