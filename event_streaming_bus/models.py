"""The vocabulary: the event envelope, streams and positions. Imports nothing of ours but ids and errors.

Times are integers: milliseconds since 1970-01-01 UTC, in fields that end in ``_ms``. ``rfc3339`` writes one as text.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus import payloads
from event_streaming_bus.errors import InvalidInputError

DEFAULT_TENANT: Final = "default"
DEFAULT_MAX_PAYLOAD_BYTES: Final = 1 << 20
MAX_PARTITIONS: Final = 4096

JsonValue: TypeAlias = Any

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MIN_TIME_MS: Final = -62_135_596_800_000
_MAX_TIME_MS: Final = 253_402_300_799_999


class EventPriority(StrEnum):
    """How urgent an event is. Each priority is a lane of its own in every partition."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    NORMAL = "NORMAL"
    LOW = "LOW"


LANES: Final = tuple(EventPriority)
"""The lanes in reading order, most urgent first."""


class CompressionType(StrEnum):
    """The codec of a record batch."""

    NONE = "NONE"
    GZIP = "GZIP"
    SNAPPY = "SNAPPY"
    LZ4 = "LZ4"
    ZSTD = "ZSTD"


class SerializationFormat(StrEnum):
    """How a payload is written as bytes."""

    JSON = "JSON"
    AVRO = "AVRO"


class ProcessorType(StrEnum):
    """What a processor does with its events."""

    FILTER = "FILTER"
    MAP = "MAP"
    AGGREGATE = "AGGREGATE"
    JOIN = "JOIN"
    WINDOW = "WINDOW"
    DEDUPLICATE = "DEDUPLICATE"
    CUSTOM = "CUSTOM"


class ProcessorStatus(StrEnum):
    """Where a processor is in its life."""

    CREATED = "CREATED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class ErrorHandlingStrategy(StrEnum):
    """What happens to an event that a processor cannot process."""

    RETRY = "RETRY"
    SKIP = "SKIP"
    DEAD_LETTER = "DEAD_LETTER"
    STOP = "STOP"


class ProcessingStage(StrEnum):
    """The stage of an event's processing that a history row tells of."""

    PUBLISH = "PUBLISH"
    VALIDATION = "VALIDATION"
    ROUTING = "ROUTING"
    ENRICHMENT = "ENRICHMENT"
    PROCESSING = "PROCESSING"
    DELIVERY = "DELIVERY"
    RETRY = "RETRY"
    DEAD_LETTER = "DEAD_LETTER"


class InvalidEventPolicy(StrEnum):
    """What a stream does with an event that breaks its schema."""

    REFUSE = "REFUSE"
    DEAD_LETTER = "DEAD_LETTER"


# gc=False: envelopes are made by the million and hold no reference cycles.
class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: its envelope and its payload as bytes.

    ``data`` is the payload as written by ``serialization_format``; ``payload`` decodes it. ``timestamp_ms`` is the event
    time, which windows go by. ``key`` decides the partition: events with equal keys keep their order within a lane.
    Before ``deliver_at_ms`` the event is not in its stream; from ``expires_at_ms`` on consumers skip it.
    """

    event_id: str
    event_type: str
    timestamp_ms: int
    data: bytes
    key: str | None = None
    source_capability: str = ""
    aggregate_id: str | None = None
    aggregate_type: str | None = None
    metadata: dict[str, JsonValue] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: EventPriority = EventPriority.NORMAL
    compression_type: CompressionType | None = None
    serialization_format: SerializationFormat = SerializationFormat.JSON
    max_retries: int = 3
    tenant_id: str = DEFAULT_TENANT
    user_id: str | None = None
    schema_id: str | None = None
    traceparent: str | None = None
    deliver_at_ms: int | None = None
    expires_at_ms: int | None = None

    @property
    def payload(self) -> JsonValue:
        """The decoded payload. Raises ``msgspec.DecodeError`` if the bytes are not what the format says.

        A payload in AVRO is read with the schema ``schema_id``, which a bus that is open in this process must know.
        """
        if self.serialization_format is SerializationFormat.JSON:
            return msgspec.json.decode(self.data)
        return payloads.read_payload(self.schema_id, self.data)

    def payload_data(self) -> dict[str, Any]:
        """The payload as a part of plain data: under ``payload``, or its bytes under ``payload_base64`` if they are no JSON."""
        try:
            return {"payload": self.payload}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {"payload_base64": self.data}

    def payload_text(self) -> str:
        """The payload as text for people: as JSON if it can be read at all."""
        (data,) = payloads_as_json([self.data], [self.serialization_format], [self.schema_id])
        return data.decode("utf-8", "replace")

    @property
    def timestamp(self) -> datetime:
        """The event time, aware, in UTC."""
        return _EPOCH + self.timestamp_ms * _MILLISECOND


def payloads_as_json(
    data: Sequence[bytes], formats: Sequence[SerializationFormat], schema_ids: Sequence[str | None]
) -> list[bytes]:
    """Payloads of events, of whatever format, as JSON text; one that cannot be read stays as it is."""
    texts = []
    for each, written_in, schema_id in zip(data, formats, schema_ids, strict=True):
        text = each
        if written_in is not SerializationFormat.JSON:
            with suppress(msgspec.DecodeError):
                text = msgspec.json.encode(payloads.read_payload(schema_id, each))
        texts.append(text)
    return texts


class EventConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a publisher says of an event, beside its payload.

    All but ``event_type`` may be left out. ``event_id`` makes publishing idempotent: publishing the same id again returns
    the first receipt and appends nothing. ``key`` falls back to ``aggregate_id``; ``timestamp`` (RFC 3339 text, epoch
    milliseconds or a datetime) to the time of publishing; ``compression_type`` to the stream's codec.

    ``deliver_at`` and ``expires_at`` (as ``timestamp``): when the event comes into its stream, at most 10 years ahead, and from
    when on consumers skip it. What is to be delivered at a time that has come is delivered at once.
    """

    event_type: str
    source_capability: str = ""
    aggregate_id: str | None = None
    aggregate_type: str | None = None
    metadata: dict[str, JsonValue] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: EventPriority = EventPriority.NORMAL
    compression_type: CompressionType | None = None
    serialization_format: SerializationFormat = SerializationFormat.JSON
    max_retries: int = 3
    event_id: str | None = None
    key: str | None = None
    timestamp: Any = None  # str | int | datetime | None; msgspec decodes no union of text and datetime
    traceparent: str | None = None
    deliver_at: Any = None
    expires_at: Any = None


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream is made with. ``None`` for a retention means: kept for ever.

    ``retention_ms`` counts from when an event was appended; ``retention_bytes`` is a bound on the stored bytes of the
    whole stream. Both drop whole record batches, oldest first. ``schema_id`` names the schema that guards the stream.
    """

    name: str
    tenant_id: str = DEFAULT_TENANT
    partitions: int = 1
    compression_type: CompressionType = CompressionType.LZ4
    retention_ms: int | None = None
    retention_bytes: int | None = None
    schema_id: str | None = None
    on_invalid: InvalidEventPolicy = InvalidEventPolicy.REFUSE
    description: str = ""


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it is: its settings, its id and when it was made."""

    stream_id: str
    config: StreamConfig
    created_at_ms: int

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def tenant_id(self) -> str:
        return self.config.tenant_id

    def splits(self) -> list["Split"]:
        """Every split of the stream: each partition's lanes, most urgent lane first."""
        return [Split(self.stream_id, lane, p) for p in range(self.config.partitions) for lane in LANES]


class Split(NamedTuple):
    """One ordered sequence of events: a lane of a partition of a stream."""

    stream_id: str
    lane: EventPriority
    partition: int

    def __str__(self) -> str:
        return f"{self.stream_id}/{self.partition}/{self.lane.value.lower()}"

    @classmethod
    def parse(cls, text: str) -> "Split":
        """The split of this text, as ``str`` gives it."""
        stream_id, partition, lane = text.rsplit("/", 2)
        return cls(stream_id, EventPriority(lane.upper()), int(partition))


class Position(NamedTuple):
    """Where an event is: the ``offset`` counts from 0 within a split, without gaps until retention drops the oldest."""

    split: Split
    offset: int


SCHEDULED_OFFSET: Final = -1
"""The offset of an event that is not in its stream yet, since it is to be delivered later."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Proof that an event is on disk, and where. ``duplicate``: it had been there before, nothing was appended.

    An event that is to be delivered later has ``deliver_at_ms``, and in its position the offset ``SCHEDULED_OFFSET``.
    """

    event_id: str
    position: Position
    duplicate: bool = False
    deliver_at_ms: int | None = None


def check_not_internal(stream_name: str) -> None:
    """Raise ``InvalidInputError`` for the name of a stream that only the bus itself makes, writes to and drops."""
    if stream_name.startswith("_"):
        raise InvalidInputError(
            f"stream {stream_name!r}: names that begin with '_' are the bus's own; it alone makes them, writes to them and drops "
            "them",
            path="name",
        )


def rfc3339(time_ms: int) -> str:
    """``2013-01-01T10:00:00.000Z``: UTC with milliseconds. Times before the year 1 or after 9999, as a window of an event at
    their very ends may have, are given as the first or the last millisecond of these years."""
    try:
        at = _EPOCH + time_ms * _MILLISECOND
    except OverflowError:
        at = _EPOCH + (_MIN_TIME_MS if time_ms < 0 else _MAX_TIME_MS) * _MILLISECOND
    text = at.isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def time_ms(value: str | int | datetime, field: str = "timestamp") -> int:
    """Epoch milliseconds of an RFC 3339 text (UTC if it names no offset), a datetime (likewise) or epoch milliseconds.

    Raises ``InvalidInputError``, which begins with ``field``, for anything else and for times before the year 1 or after 9999.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if not _MIN_TIME_MS <= value <= _MAX_TIME_MS:
            raise InvalidInputError(f"{field}: {value} lies outside of the years 1 to 9999; expected epoch milliseconds")
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidInputError(
                f"{field}: {value!r} is no time; expected RFC 3339 as in 2013-01-01T10:00:00Z, or epoch milliseconds"
            ) from None
    if not isinstance(value, datetime):
        raise InvalidInputError(f"{field}: expected RFC 3339 text, epoch milliseconds or a datetime, got {value!r}")
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // _MILLISECOND
