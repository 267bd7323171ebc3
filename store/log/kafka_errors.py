"""What Kafka's errors mean, and what to do about them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from event_streaming_bus.errors import BusError, PayloadTooLargeError, StorageError

UNREACHABLE: Final = frozenset(
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
"""The codes that say that nobody answers."""
_LEADERLESS: Final = frozenset(
    {
        KafkaError._NOENT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)
HOPELESS: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})
"""The codes that say that a broker is there and does not let the client in: trying again changes nothing."""
RIGHTS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
"""The codes that say that the user may not."""
_EXPECTED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Create, Delete, Describe, Read and Write of the bus's topics (Alter to grow them)",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Describe and Read of the bus's groups",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Describe and IdempotentWrite of the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Describe and Write of the transactional ids PREFIXesb-...",
}
UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_ID}
)
"""The codes that say that a topic, or one of its partitions, is not there."""


_AROUND: Final = re.compile(
    r"^(?:[a-z_]+://)?(?P<address>\S+:\d+)/\S+: (?P<said>.*?)(?: \(after \d+ms in state \w+.*)?$", re.DOTALL
)
_ADVICE: Final = {
    "Connection refused": "nothing listens there; is the broker running, and is this its port?",
    "Failed to resolve": "no such host is known here",
    "certificate verify failed": "its certificate is not signed by an authority that ssl.ca.location names (or that this machine "
    "trusts, if it is left out)",
    "alert bad certificate": "it wants a certificate of the client; expected ssl.certificate.location and ssl.key.location",
    "alert certificate required": "it wants a certificate of the client; expected ssl.certificate.location and ssl.key.location",
    "connecting to a PLAINTEXT": "the listener speaks no TLS; expected security.protocol=PLAINTEXT or SASL_PLAINTEXT",
    "SSL connection closed by peer": "the listener speaks no TLS; expected security.protocol=PLAINTEXT or SASL_PLAINTEXT",
    "wrong version number": "the listener speaks no TLS; expected security.protocol=PLAINTEXT or SASL_PLAINTEXT, or another "
    "address",
    "Invalid response size": "what answers there is no Kafka broker",
    "not valid in current SASL state": "the listener wants no login; expected security.protocol=PLAINTEXT or SSL",
    "Unsupported SASL mechanism": "expected one of these as sasl.mechanism",
    "SASL authentication error": "check sasl.mechanism, sasl.username and sasl.password",
}
"""What librdkafka says, and what it comes from. The first that fits holds."""


def reason_of(error: KafkaError) -> str | None:
    """What an attempt to connect came to, and what it comes from; ``None`` where that says no more than that it failed."""
    if error.code() == KafkaError._ALL_BROKERS_DOWN:
        return None
    found = _AROUND.match(error.str())
    address, said = (found["address"], found["said"]) if found else ("", error.str())
    said = re.sub(r"error:[0-9A-F]+:|\(install .*?\)", "", said).strip().rstrip(".:")
    advice = next((advice for text, advice in _ADVICE.items() if text in error.str()), None)
    if advice is not None and "is no Kafka" in advice:
        said = "the answer cannot be read"
    return f"{address}: {said}" + (f" ({advice})" if advice else "")


def no_controller(brokers: str, doing: str, waited_s: float) -> StorageError:
    """The error of a cluster whose brokers answer, but whose controllers decide nothing."""
    return StorageError(
        f"The Kafka cluster at {brokers} did not decide within {waited_s:.0f} s while {doing}. Brokers are there, but they have "
        "no controller: check that more than half of the controllers run and reach one another. Then do it again: what was made "
        "is found.",
        brokers=brokers,
    )


def bus_error(error: KafkaError, brokers: str, doing: str) -> BusError:
    """The error that says what was being done where, and what to check."""
    code, said = error.code(), error.str().rstrip(".")
    if code in UNREACHABLE:
        return StorageError(
            f"No Kafka broker at {brokers} answered while {doing}: {said}. Check that the address is right and reachable from "
            "here, that the brokers' advertised.listeners name addresses that can be reached from here, and that "
            "security.protocol is what the listener speaks.",
            brokers=brokers,
        )
    if code in _LEADERLESS:
        return StorageError(
            f"No Kafka broker at {brokers} that leads the partition answered while {doing}: {said}. Check that the brokers run, "
            "and as many of them as min.insync.replicas says: a partition without enough replicas is not written, and without "
            "any it is not read. Try again then.",
            brokers=brokers,
        )
    if code in HOPELESS:
        return StorageError(
            f"The Kafka brokers at {brokers} did not let this client in while {doing}: {said}. Check security.protocol, "
            "ssl.ca.location, sasl.mechanism, sasl.username and sasl.password in the URL.",
            brokers=brokers,
        )
    if code in RIGHTS:
        return StorageError(
            f"This user of the Kafka cluster at {brokers} lacks the rights for {doing}: {said}. Expected ACLs that "
            f"allow {_EXPECTED[code]}; docs/kafka.md lists all that the bus needs.",
            brokers=brokers,
        )
    if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
        return PayloadTooLargeError(
            f"An event is larger than the Kafka cluster at {brokers} takes ({said}). Publish a reference to the data instead, or "
            "raise max.message.bytes of the topic.",
            brokers=brokers,
        )
    return StorageError(f"{doing} on the Kafka cluster at {brokers} failed: {said}.", brokers=brokers)


def error_of(error: BaseException) -> KafkaError:
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
