"""What is read from logs: record batches, Kafka's records, CloudEvents, the journal of migrations."""

from typing import Any, Final

import msgspec
from confluent_kafka import Message
from fuzz_choices import Choices
from fuzz_target import Target

from event_streaming_bus import cloudevents
from event_streaming_bus.errors import CorruptLogError, InvalidInputError
from event_streaming_bus.migration.journal import copied_in
from event_streaming_bus.models import CompressionType, Event, EventPriority, Split, rfc3339
from event_streaming_bus.store.log import kafka_events
from event_streaming_bus.store.log.codecs import compress
from event_streaming_bus.store.log.record_batch import RecordBatch, StoredBatch

SPLIT: Final = Split("str_1", EventPriority.NORMAL, 0)
NAMES: Final = Event.__struct_fields__
TENANT: Final = "acme"


def run_batches(data: bytes) -> None:
    """Codec, count, whether the rest is compressed first; and the rest."""
    choices = Choices(data)
    codec, count = choices.of(list(CompressionType)), choices.of((1, 2, 3, 7, 0, 4096))
    packed_first, body = choices.below(2) == 1, choices.rest()
    stored = StoredBatch(5, count, codec, 0, 0, 0, compress(codec, body) if packed_first else body)
    whole = RecordBatch(SPLIT, stored)
    for batch in (whole, RecordBatch(SPLIT, stored, 1, 1) if count > 1 else whole):
        try:
            events = batch.events()
            columns = [batch.column(name) for name in NAMES]
            payloads = batch.json_payloads()
            lines = batch.payload_lines()
        except CorruptLogError as error:
            assert error.details["stream_id"] == "str_1"  # noqa: PT017
            continue
        assert len(events) == len(payloads) == batch.count
        assert all(len(column) == batch.count for column in columns)
        assert lines is None or lines.count(b"\n") == batch.count - 1


_HEADERS: Final = (
    *(
        "esb",
        "ce_id",
        "ce_type",
        "ce_source",
        "ce_specversion",
        "ce_time",
        "content-type",
        "ce_metadata",
        "ce_priority",
        "ce_tenantid",
    ),
    *(
        "ce_maxretries",
        "ce_dataschema",
        "traceparent",
        "ce_deliverytime",
        "ce_compression",
        "ce_subject",
        "CE_ID",
        "x",
        "ce_",
        "ce_é",
    ),
)  # fmt: skip
_VALUES: Final = (
    b"1.0",
    b"a",
    b"/s",
    b"application/avro",
    b"application/json",
    b"2024-01-01T00:00:00Z",
    b"HIGH",
    b"",
    b"\xff",
    b"{}",
    b"3",
    None,
)


def run_records(data: bytes) -> None:
    """A record of whichever producer becomes an event of the stream's tenant; none is refused."""
    choices = Choices(data)
    headers: list[tuple[str, bytes | None]] = []
    if choices.below(2):
        headers = [("ce_id", b"1"), ("ce_type", b"t"), ("ce_source", b"/s"), ("ce_specversion", b"1.0")]
    for _ in range(choices.below(8)):
        headers.append((choices.of(_HEADERS), choices.raw(80) if choices.below(3) else choices.of(_VALUES)))
    key, value = choices.of((None, b"k", b"\xff\xfe")), choices.of((None, choices.raw(50)))
    timestamp = choices.of(((1, 0), (0, 0), (1, 1_700_000_000_000), (2, -1), (1, 1 << 62)))
    if choices.are_left:
        headers.append(("esb", choices.rest()))
    message = Message(topic="t", partition=1, offset=2, key=key, value=value, headers=headers, timestamp=timestamp)
    envelope = kafka_events.envelope_of(message, SPLIT, TENANT)
    event = kafka_events.event_of(envelope, b"null" if value is None else value)
    assert event.tenant_id == TENANT, "a record came into another tenant's hands"
    try:
        ((written_value, written_key, written_headers),) = kafka_events.to_records([event])
    except InvalidInputError:
        return
    again = Message(
        topic="t", partition=1, offset=2, key=written_key, value=written_value, headers=written_headers, timestamp=(1, 0)
    )
    assert kafka_events.event_of(kafka_events.envelope_of(again, SPLIT, TENANT), written_value) == event
    rfc3339(event.timestamp_ms)


def run_cloudevents(data: bytes) -> None:
    """What is read is written, and read again as the same."""
    try:
        decoded: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if not isinstance(decoded, dict):
        return
    try:
        event, stream = cloudevents.from_cloudevent(decoded, received_ms=0)
        told = cloudevents.to_cloudevent(event, stream or "s")
    except InvalidInputError as error:
        str(error).encode()
        return
    again, _ = cloudevents.from_cloudevent(msgspec.json.decode(msgspec.json.encode(told)), received_ms=0)
    assert (again.event_id, again.event_type, again.timestamp_ms, again.key) == (
        event.event_id, event.event_type, event.timestamp_ms, event.key,
    )  # fmt: skip
    cloudevents.from_headers(cloudevents.to_headers(event), event.data)


def run_journal(data: bytes) -> None:
    try:
        copied = copied_in(data)
    except CorruptLogError as error:
        str(error).encode()
        return
    assert len(copied.places("str_2")) == copied.count == len(copied.numbers())


RECORD_BATCHES: Final = Target(
    "record_batches", run_batches, 4096, (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 70, b"\xc0")
)
KAFKA_RECORDS: Final = Target("kafka_records", run_records, 2048, (b"\x91" * 900, b"\xa1\xff", b"acme", b"other", b"\xc0"))
CLOUDEVENTS: Final = Target(
    "cloudevents",
    run_cloudevents,
    2048,
    (
        b'"data_base64":"',
        b'"metadata":"{',
        b'"time":"',
        b'"datacontenttype":"',
        b'"maxretries":',
        b'"specversion":"1.0"',
        b"[" * 900,
    ),
)
JOURNAL: Final = Target(
    "journal", run_journal, 1024, (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\x94", b"\xc4\x02\0\0", b"\x90")
)
