"""What Kafka's errors mean, and what to do about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from event_streaming_bus.errors import BusError, PayloadTooLargeError, StorageError

_UNREACHABLE: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    }
)
_LOGIN: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})
_RIGHTS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_ID}
)
"""The codes that say that a topic, or one of its partitions, is not there."""


def bus_error(error: KafkaError, brokers: str, doing: str) -> BusError:
    """The error that says what was being done where, and what to check."""
    code, said = error.code(), error.str().rstrip(".")
    if code in _UNREACHABLE:
        return StorageError(
            f"No Kafka broker at {brokers} answered while {doing}: {said}. Check that the address is right and reachable from "
            "here, that the brokers' advertised.listeners name addresses that can be reached from here, and that "
            "security.protocol is what the listener speaks.",
            brokers=brokers,
        )
    if code in _LOGIN:
        return StorageError(
            f"The Kafka brokers at {brokers} did not let this client in while {doing}: {said}. Check security.protocol, "
            "ssl.ca.location, sasl.mechanism, sasl.username and sasl.password in the URL.",
            brokers=brokers,
        )
    if code in _RIGHTS:
        return StorageError(
            f"This user of the Kafka cluster at {brokers} lacks the rights for {doing}: {said}. docs/kafka.md lists the ACLs "
            "that the bus needs.",
            brokers=brokers,
        )
    if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
        return PayloadTooLargeError(
            f"An event is larger than the Kafka cluster at {brokers} takes ({said}). Publish a reference to the data instead, or "
            "raise max.message.bytes of the topic.",
            brokers=brokers,
        )
    return StorageError(f"{doing} on the Kafka cluster at {brokers} failed: {said}.", brokers=brokers)


def error_of(error: KafkaException) -> KafkaError:
    """What the exception tells of."""
    found = error.args[0] if error.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


@contextmanager
def kafka_errors(brokers: str, doing: str) -> Iterator[None]:
    """Raise Kafka's errors as ``BusError``s that say what was being done where."""
    try:
        yield
    except KafkaException as error:
        raise bus_error(error_of(error), brokers, doing) from error
