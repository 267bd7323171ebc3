"""What the two logs of a migration are called: the same in every run, and nothing secret."""

import hashlib

from event_streaming_bus.store.storage import Storage


def is_kafka(storage: Storage) -> bool:
    """Whether the log is on Kafka."""
    return storage.url.startswith("kafka://")


def name_of(storage: Storage) -> str:
    """The log of a storage: ``embedded:FOLDER``, or ``kafka:BROKERS/PREFIX``."""
    if not is_kafka(storage):
        return f"embedded:{storage.folder}"
    from event_streaming_bus.store.log.kafka_settings import parse_url

    settings = parse_url(storage.url, "unused")
    return f"kafka:{settings.brokers}/{settings.prefix}"


def label_of(name: str) -> str:
    """A name as a part of a file's name."""
    kind, _, rest = name.partition(":")
    return kind if kind == "embedded" else f"{kind}-{hashlib.blake2b(rest.encode(), digest_size=4).hexdigest()}"
