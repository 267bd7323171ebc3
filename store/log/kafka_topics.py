"""The topics that a stream is on Kafka: one for each lane. Their names and settings.

==========================================  ========================================================
stream ``orders``, lane NORMAL              ``orders``
the other lanes                             ``orders.critical``, ``orders.high``, ``orders.low``
of the tenant ``acme``                      ``acme..orders``, ``acme..orders.critical``, ...
with the prefix ``dev-`` in the URL         ``dev-orders``, ...
the bus's own records                       ``_esb_control``, ``_esb_turns``, ``_esb_ids``
==========================================  ========================================================
"""

import re
from typing import Final

from confluent_kafka.cimpl import NewTopic

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT, LANES, CompressionType, EventPriority, StreamConfig
from event_streaming_bus.store.log.kafka_settings import KafkaSettings

MAX_MESSAGE_BYTES: Final = 8 << 20
_MAX_NAME: Final = 249
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]+")
_SUFFIXES: Final = {lane: "" if lane is EventPriority.NORMAL else f".{lane.value.lower()}" for lane in LANES}
_CODECS: Final = {codec: "uncompressed" if codec is CompressionType.NONE else codec.value.lower() for codec in CompressionType}
_MIN_SEGMENT_MS: Final = 60_000
_TURNS_MS: Final = 3_600_000
_MAX_SEGMENT_MS: Final = 7 * 86_400_000


def control_topic(settings: KafkaSettings) -> str:
    """The compacted topic of streams and marks."""
    return f"{settings.prefix}_esb_control"


def turns_topic(settings: KafkaSettings) -> str:
    """The topic of tickets, which tell whose turn it is to write."""
    return f"{settings.prefix}_esb_turns"


def ids_topic(settings: KafkaSettings) -> str:
    """The topic that tells which ids went where."""
    return f"{settings.prefix}_esb_ids"


def topic_of(prefix: str, config: StreamConfig, lane: EventPriority) -> str:
    """The topic of a lane of the stream."""
    tenant = "" if config.tenant_id == DEFAULT_TENANT else f"{config.tenant_id}.."
    return f"{prefix}{tenant}{config.name}{_SUFFIXES[lane]}"


def check_names(prefix: str, config: StreamConfig) -> None:
    """Raise ``InvalidInputError`` for a stream whose topics could not be told from those of another, or have no valid name."""
    name, tenant = config.name, config.tenant_id
    if tenant != DEFAULT_TENANT and not _TENANT.fullmatch(tenant):
        raise InvalidInputError(f"tenant {tenant!r}: on Kafka, expected letters, digits, '_' or '-'", path="tenant_id")
    if suffix := next((suffix for suffix in _SUFFIXES.values() if suffix and name.endswith(suffix)), None):
        raise InvalidInputError(f"stream name {name!r}: on Kafka, names that end in '{suffix}' are those of lanes", path="name")
    if ".." in name or name.startswith("_esb_") or (name == "." and not prefix):
        raise InvalidInputError(f"stream name {name!r}: on Kafka, '..' and names that begin with '_esb_' are taken", path="name")
    longest = max(len(topic_of(prefix, config, lane)) for lane in LANES)
    if longest > _MAX_NAME:
        raise InvalidInputError(
            f"stream name {name!r}: its longest topic would have a name of {longest} characters, and Kafka takes {_MAX_NAME}",
            path="name",
        )


def retention_bytes_of(config: StreamConfig, partitions: int) -> int:
    """``retention.bytes`` of the stream's topics: Kafka bounds each partition of a topic, the bus a whole stream."""
    return -1 if config.retention_bytes is None else max(1, config.retention_bytes // (partitions * len(LANES)))


def topics_of(settings: KafkaSettings, config: StreamConfig) -> list[NewTopic]:
    """The topics of a stream, to be made. Each record gets the time when it was appended: retention goes by it."""
    segment_ms = _MAX_SEGMENT_MS
    if config.retention_ms is not None:  # what is in the newest segment is kept
        segment_ms = min(_MAX_SEGMENT_MS, max(_MIN_SEGMENT_MS, config.retention_ms // 4))
    options = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "compression.type": _CODECS[config.compression_type],
        "retention.ms": str(-1 if config.retention_ms is None else config.retention_ms),
        "retention.bytes": str(retention_bytes_of(config, config.partitions)),
        "segment.ms": str(segment_ms),
    }
    return [
        NewTopic(topic_of(settings.prefix, config, lane), config.partitions, settings.replication_factor, config=options)
        for lane in LANES
    ]


def own_topics(settings: KafkaSettings) -> list[NewTopic]:
    """The topics of the bus's own records, each of one partition, so that their order is one for all."""
    turns = {"cleanup.policy": "delete", "retention.ms": str(_TURNS_MS), "segment.ms": str(_TURNS_MS)}
    control = {"cleanup.policy": "compact", "max.message.bytes": str(MAX_MESSAGE_BYTES)}
    ids = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        "retention.ms": str(settings.ids_window_ms),
        "retention.bytes": "-1",
    }
    return [
        NewTopic(control_topic(settings), 1, settings.replication_factor, config=control),
        NewTopic(turns_topic(settings), 1, settings.replication_factor, config=turns),
        NewTopic(ids_topic(settings), 1, settings.replication_factor, config=ids),
    ]
