"""Events as Kafka records, both ways.

A record that the bus writes has the payload as its value, byte for byte (for AVRO that is the wire format that registry clients
share), the event's key in UTF-8 as its key, and these headers:

- ``ce_...`` and ``content-type``: the envelope as CloudEvents 1.0 in binary mode, see ``event_streaming_bus.cloudevents``;
- ``traceparent``, if the event has one, by the name under which tracing looks for it;
- ``esb``: the envelope in msgpack, from which the bus reads it back exactly and quickly. CloudEvents has no word for some of it,
  such as metadata whose numbers are not 32-bit integers, or times before the year 1.

A record of another producer is read as follows, and none is ever refused:

- With CloudEvents' headers, it is the event that they tell of.
- Without: its id is derived from topic, partition and offset, so it is the same for every reader; its type is ``kafka.record``,
  its source ``kafka:TOPIC``, its time that of the record, its key the key as text (base64 where it is no UTF-8), its format
  AVRO where ``content-type`` says so or the value begins as the wire format does, else JSON. Headers become
  ``metadata.headers``, text or base64. A record without a value is the payload ``null``.
- In both cases, a value in the wire format whose number is that of a schema in the registry has that version as its ``schema_id``
  and the format of the schema; where that is JSON, what stands before the text is left out.
- Headers of CloudEvents that cannot be read count as none, and ``metadata.cloudevents_error`` says why.
- In each of these cases the tenant is the stream's and the priority the lane's.

Whoever wrote a record, and whatever its headers say, its tenant is the stream's: no producer writes for another tenant.
"""

import base64
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, TypeAlias

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from event_streaming_bus import cloudevents, ids
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import Event, SerializationFormat, Split, rfc3339
from event_streaming_bus.store.log.event_columns import EventColumns, Same, column_of, in_columns
from event_streaming_bus.store.log.wire_schemas import written_with

EXACT_HEADER: Final = "esb"
FOREIGN_TYPE: Final = "kafka.record"
_VERSION: Final = 1
_DATA_AT: Final = Event.__struct_fields__.index("data")
_INT64: Final = range(-(1 << 63), 1 << 63)
_SINCE_1970: Final = range(253_402_300_800_000)  # up to the end of the year 9999
_WIRE_PREFIX_BYTES: Final = 5
_MANY: Final = 8
_NOT_STORABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, InvalidInputError)
_OWN: Final = frozenset({"event_id", "timestamp_ms", "data", "key"})
_SHARED: Final = [name for name in Event.__struct_fields__ if name not in _OWN and name != "metadata"]
_OWN_HEADERS: Final = frozenset({"ce_id", "ce_time", "ce_partitionkey"})
_COMMON: Final = (
    "source_capability",
    "aggregate_type",
    "priority",
    "compression_type",
    "serialization_format",
    "max_retries",
    "tenant_id",
    "user_id",
    "schema_id",
)

Headers: TypeAlias = list[tuple[str, str | bytes | None]]

_row = msgspec.structs.astuple
_common_of = operator.itemgetter(*map(Event.__struct_fields__.index, ("event_type", *_COMMON)))
_encoder: Final = msgspec.msgpack.Encoder()


def _envelope_type() -> Any:
    """A struct of the version and the fields of ``Event`` without ``data``: what is added at the end may be missing."""
    fields: list[Any] = [("version", int)]
    for field in msgspec.structs.fields(Event):
        if field.name == "data":
            continue
        if field.default is msgspec.NODEFAULT:
            fields.append((field.name, field.type))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct("Envelope", fields, array_like=True, frozen=True, gc=False)


_decode: Final = msgspec.msgpack.Decoder(_envelope_type()).decode


Record: TypeAlias = tuple[bytes, bytes | None, Headers]
"""``(value, key, headers)``"""


def to_record(event: Event) -> Record:
    """The record of an event. ``InvalidInputError`` names an event that cannot be written."""
    (record,) = to_records((event,))
    return record


def to_records(events: Sequence[Event]) -> Iterator[Record]:
    """The records of events, each made when it is asked for: a record is a dozen small objects, and Python's garbage collector
    spends more time on thousands of them than it takes to make and send them. ``InvalidInputError`` as for ``to_record``."""
    events = in_columns(events)
    if len(events) >= _MANY and _are_alike(events):
        yield from _records_alike(events)
        return
    like: tuple[Any, ...] | None = None
    common: tuple[tuple[str, bytes], ...] = ()
    encode = _encoder.encode
    for event in events:
        try:
            row = _row(event)
            fields = _common_of(row)
            if fields != like:
                like, common = fields, _common_headers(*fields)
            headers = _headers(event, common)
            headers.append((EXACT_HEADER, encode(_exact(row))))
            key = None if event.key is None else event.key.encode()
        except _NOT_STORABLE as error:
            raise _refused(event.event_id, error) from error
        yield event.data, key, headers


def _refused(event_id: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"The event {event_id!r} cannot be stored: {error}. Metadata may hold what JSON holds, with integers of at "
        "most 64 bits; all text must be Unicode.",
        event_id=event_id,
    )


def _exact(row: tuple[Any, ...]) -> list[Any]:
    """What the header for the bus itself holds."""
    exact = [_VERSION, *row]
    del exact[1 + _DATA_AT]
    return exact


def _are_alike(events: Sequence[Event]) -> bool:
    """Whether the fields that are not an event's own have the same values; for metadata, that is the same object."""
    columns: Mapping[str, Any]
    if isinstance(events, EventColumns):
        columns = {name: values for name in (*_SHARED, "metadata") if (values := events.column(name)).__class__ is not Same}
    else:
        columns = dict(zip(Event.__struct_fields__, zip(*map(_row, events), strict=True), strict=True))
    metadata = columns.get("metadata")
    if metadata is not None and not all(map(operator.is_, metadata, repeat(metadata[0]))):
        return False
    return all(columns[name].count(columns[name][0]) == len(events) for name in _SHARED if name in columns)


def _records_alike(events: Sequence[Event]) -> Iterator[Record]:
    """``to_records`` of events that are alike: what they have in common is made once."""
    encode = _encoder.encode
    event = events[:1][0]  # of events in columns the others are not made
    event_id = event.event_id
    own = (column_of(events, name) for name in ("event_id", "timestamp_ms", "key", "data"))
    try:
        row = _row(event)
        exact = _exact(row)
        packed = list(map(encode, exact))
        head = encode(exact)[: -sum(map(len, packed[1:]))]  # how many there are, and the version
        kind, rest = packed[2], b"".join(packed[5:])
        common = [header for header in _headers(event, _common_headers(*_common_of(row))) if header[0] not in _OWN_HEADERS]
        before_ms: int | None = None
        for event_id, at_ms, key, data in zip(*own, strict=True):
            if at_ms != before_ms:
                before_ms = at_ms
                _check_time(at_ms)
                time_header = "ce_time", _time(at_ms)
                kind_at = kind + encode(at_ms)
            key_raw = None if key is None else key.encode()
            headers: Headers = [*common, ("ce_id", event_id.encode()), time_header]
            if key_raw:
                headers.append(("ce_partitionkey", key_raw))
            headers.append((EXACT_HEADER, head + encode(event_id) + kind_at + encode(key) + rest))
            yield data, key_raw, headers
    except _NOT_STORABLE as error:
        raise _refused(event_id, error) from error


def _headers(event: Event, common: tuple[tuple[str, bytes], ...]) -> Headers:
    """What ``cloudevents.to_headers`` says of the event, in another order, and faster where many events have ``common`` headers;
    and its trace."""
    time_ms = event.timestamp_ms
    traceparent = event.traceparent
    headers: Headers
    _check_time(time_ms)
    if event.metadata is not None or event.deliver_at_ms is not None or event.expires_at_ms is not None:
        headers = [*cloudevents.to_headers(event)]
    else:
        headers = [*common, ("ce_id", event.event_id.encode()), ("ce_time", _time(time_ms))]
        if event.key:
            headers.append(("ce_partitionkey", event.key.encode()))
        if event.aggregate_id:
            headers.append(("ce_subject", event.aggregate_id.encode()))
        if event.correlation_id:
            headers.append(("ce_correlationid", event.correlation_id.encode()))
        if event.causation_id:
            headers.append(("ce_causationid", event.causation_id.encode()))
        if traceparent:
            headers.append(("ce_traceparent", traceparent.encode()))
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return headers


def _check_time(time_ms: int) -> None:
    if time_ms not in _INT64:
        raise OverflowError("timestamp_ms has more than 64 bits")


def _time(time_ms: int) -> bytes:
    """What ``rfc3339`` says, faster where times are in the same seconds."""
    if time_ms not in _SINCE_1970:
        return rfc3339(time_ms).encode()
    second, ms = divmod(time_ms, 1000)
    return b"%s%03dZ" % (_second(second), ms)


@lru_cache(maxsize=4096)
def _second(second: int) -> bytes:
    """The time at which this second begins, up to its milliseconds."""
    return rfc3339(second * 1000)[:-4].encode()


@lru_cache(maxsize=1024)
def _common_headers(*fields: Any) -> tuple[tuple[str, bytes], ...]:
    """The headers of these fields of an event, which many events have in common."""
    event = Event("", fields[0], 0, b"", **dict(zip(_COMMON, fields[1:], strict=True)))
    return tuple(header for header in cloudevents.to_headers(event) if header[0] not in ("ce_id", "ce_time"))


def envelope_of(message: Message, split: Split, tenant_id: str) -> Any:
    """The envelope of a record in this split of one of the tenant's streams: a struct with the fields of ``Event`` but for
    ``data``, which is the record's value. For a record that the bus did not write, it is the ``Event`` itself."""
    headers: Any = message.headers()
    if headers:
        name, raw = headers[-1]
        if name != EXACT_HEADER:  # somebody has sent the record on, and added to it
            raw = next((raw for name, raw in reversed(headers) if name == EXACT_HEADER), None)
        if raw is not None:
            try:
                envelope = _decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # it is not of our making
            else:
                if envelope.version == _VERSION:
                    if envelope.tenant_id != tenant_id:  # whoever may write to a topic can write any header
                        envelope = msgspec.structs.replace(envelope, tenant_id=tenant_id)
                    return envelope
    value = message.value()
    foreign = _foreign(message, headers or (), b"null" if value is None else value, split, tenant_id)
    return _with_schema(foreign, split, message.topic() or "")


def event_of(envelope: Any, data: bytes) -> Event:
    """The event of what ``envelope_of`` gives, with the value of its record."""
    if envelope.__class__ is Event:
        event: Event = envelope
        return event
    row = _row(envelope)
    fields: tuple[Any, ...] = (*row[1 : _DATA_AT + 1], data, *row[_DATA_AT + 1 :])
    return Event(*fields)


def _with_schema(event: Event, split: Split, topic: str) -> Event:
    """The event of another producer with the schema that its payload names."""
    data = event.data
    if event.schema_id is not None or data[:1] != b"\0" or len(data) < _WIRE_PREFIX_BYTES:
        return event
    written = written_with(event.tenant_id, split.stream_id, topic, int.from_bytes(data[1:_WIRE_PREFIX_BYTES]))
    if written is None:
        return event
    if written.format is SerializationFormat.JSON:
        data = data[_WIRE_PREFIX_BYTES:]
    return msgspec.structs.replace(event, data=data, schema_id=written.schema_id, serialization_format=written.format)


def _foreign(message: Message, headers: Sequence[tuple[str, bytes | None]], data: bytes, split: Split, tenant_id: str) -> Event:
    kind, timestamp_ms = message.timestamp()
    if kind == TIMESTAMP_NOT_AVAILABLE or timestamp_ms < 0:
        timestamp_ms = 0
    metadata: dict[str, Any] = {}
    if any(name == f"{cloudevents.HEADER_PREFIX}id" for name, _ in headers):
        try:
            event = cloudevents.from_headers(headers, data, received_ms=timestamp_ms)
        except InvalidInputError as error:
            metadata["cloudevents_error"] = str(error)
        else:
            if event.key is None and message.key() is not None:
                event = msgspec.structs.replace(event, key=_text(message.key()))
            return msgspec.structs.replace(event, tenant_id=tenant_id, priority=split.lane)
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if headers:
        metadata["headers"] = {name: None if raw is None else _text(raw) for name, raw in headers}
    content_type = next((raw for name, raw in headers if name.lower() == "content-type" and raw is not None), b"")
    is_avro = b"avro" in content_type.lower() or (data[:1] == b"\0" and len(data) >= _WIRE_PREFIX_BYTES)
    traceparent = next((raw for name, raw in headers if name == "traceparent" and raw is not None), None)
    return Event(
        event_id=ids.derived_id(ids.EVENT, timestamp_ms, "kafka", topic, partition, offset),
        event_type=FOREIGN_TYPE,
        timestamp_ms=timestamp_ms,
        data=data,
        key=None if message.key() is None else _text(message.key()),
        source_capability=f"kafka:{topic}",
        metadata=metadata or None,
        priority=split.lane,
        serialization_format=SerializationFormat.AVRO if is_avro else SerializationFormat.JSON,
        tenant_id=tenant_id,
        traceparent=None if traceparent is None else _text(traceparent),
    )


def _text(raw: bytes | str | None) -> str:
    """Bytes as text: as UTF-8, or in base64 where they are none."""
    if raw is None or isinstance(raw, str):
        return raw or ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode()
