"""Events to and from CloudEvents 1.0 (https://github.com/cloudevents/spec, core specification, JSON format, Kafka binding).

Every field of the envelope has its attribute:

====================  ====================================================================================================
``event_id``          ``id``
``event_type``        ``type``
``source_capability`` ``source``, percent-encoded where a URI reference demands it; ``/`` stands for none
``timestamp_ms``      ``time``; read to the millisecond, the rest cut off
``deliver_at_ms``     ``deliverytime``, an extension, as ``time``
``expires_at_ms``     ``expirytime``, the expiry time extension, as ``time``
``aggregate_id``      ``subject``
``schema_id``         ``dataschema``, as ``urn:esb:schema:ID``
serialization_format  ``datacontenttype``
``data``              ``data`` or ``data_base64`` (structured mode), the message value as it is (binary mode)
``key``               ``partitionkey``, the partitioning extension
``traceparent``       ``traceparent``, the distributed tracing extension
the other fields      ``aggregatetype causationid compression correlationid maxretries priority tenantid userid``, extensions
``metadata``          one extension each, as far as name and value allow; what does not fit, in ``metadata`` as JSON text
====================  ====================================================================================================

Extensions that the bus does not know become metadata, so nothing a foreign producer says is lost. An extension's name is
1 to 20 lower-case letters and digits; an integer has 32 bits, with a sign. An empty text counts as not given.
"""

import base64
import binascii
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import (
    CompressionType,
    Event,
    EventPriority,
    SerializationFormat,
    rfc3339,
)

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/cloudevents+json"
"""The content type of one event in structured mode."""
HEADER_PREFIX: Final = "ce_"

_EnumT = TypeVar("_EnumT", bound=StrEnum)

_TEXT_FIELDS: Final = {
    "aggregate_id": "subject",
    "aggregate_type": "aggregatetype",
    "causation_id": "causationid",
    "correlation_id": "correlationid",
    "key": "partitionkey",
    "tenant_id": "tenantid",
    "traceparent": "traceparent",
    "user_id": "userid",
}
_TIME_FIELDS: Final = {"deliver_at_ms": "deliverytime", "expires_at_ms": "expirytime"}
_OWN: Final = frozenset(_TEXT_FIELDS.values()) | frozenset(_TIME_FIELDS.values()) | {
    "id", "source", "specversion", "type", "time", "datacontenttype", "dataschema", "data", "data_base64",
    "compression", "maxretries", "metadata", "priority", "stream",
}  # fmt: skip
_MEDIA_TYPES: Final = {SerializationFormat.JSON: "application/json", SerializationFormat.AVRO: "application/avro"}
_NO_SOURCE: Final = "/"
_URI_SAFE: Final = ":/?#[]@!$&'()*+,;=-._~"
_SCHEMA_URN: Final = "urn:esb:schema:"
_EXTENSION_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT32: Final = range(-(1 << 31), 1 << 31)


def to_cloudevent(event: Event, stream: str) -> dict[str, Any]:
    """The event in JSON structured mode, as plain values that any JSON encoder takes; ``stream`` is an extension.

    A JSON payload is ``data``, decoded; one in another format, or one that does not decode, is ``data_base64``.
    """
    attributes = _attributes(event, typed=True)
    attributes["stream"] = stream
    if event.serialization_format is SerializationFormat.JSON:
        try:
            attributes["data"] = event.payload
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return attributes
    attributes["data_base64"] = base64.b64encode(event.data).decode()
    return attributes


def from_cloudevent(mapping: Mapping[str, Any], *, received_ms: int | None = None) -> tuple[Event, str | None]:
    """The event of a decoded JSON structured mode object, and the stream that it names.

    ``data`` is written as compact JSON. ``received_ms`` (default: now) is the event time where ``time`` is left out. Raises
    ``InvalidInputError`` that names the attribute.
    """
    attributes = {name: value for name, value in mapping.items() if value is not None and name not in {"data", "data_base64"}}
    if "data_base64" in mapping:
        if mapping.get("data") is not None:
            raise _refused("data_base64", "an event has either data or data_base64, not both")
        data = _from_base64(mapping["data_base64"])
    else:
        data = msgspec.json.encode(mapping.get("data"))
        media_type = attributes.get("datacontenttype")
        if isinstance(media_type, str) and _serialization_format(media_type) is not SerializationFormat.JSON:
            raise _refused("data", f"a payload of type {media_type} belongs in data_base64")
    stream = attributes.pop("stream", None)
    if stream is not None and not isinstance(stream, str):
        raise _refused("stream", f"text is accepted, not {stream!r}")
    return _event(attributes, data, received_ms), stream or None


def to_headers(event: Event) -> list[tuple[str, bytes]]:
    """The envelope as Kafka binary mode headers, UTF-8; the message value is ``event.data`` as it is."""
    attributes = _attributes(event, typed=False)
    content_type = attributes.pop("datacontenttype")
    headers = [(HEADER_PREFIX + name, str(value).encode()) for name, value in attributes.items()]
    headers.append(("content-type", content_type.encode()))
    return headers


def from_headers(headers: Iterable[tuple[str, bytes | None]], data: bytes, *, received_ms: int | None = None) -> Event:
    """The event of Kafka binary mode headers and a message value. Headers that are not CloudEvents' are ignored.

    ``received_ms`` as for ``from_cloudevent``. Raises ``InvalidInputError`` that names the attribute.
    """
    attributes: dict[str, Any] = {}
    for header, raw in headers:
        name = header.removeprefix(HEADER_PREFIX) if header.startswith(HEADER_PREFIX) else None
        if header.lower() == "content-type":
            name = "datacontenttype"
        if name is None or raw is None:
            continue
        if name in attributes:
            raise _refused(name, "the header is there twice")
        try:
            attributes[name] = raw.decode()
        except UnicodeDecodeError as error:
            raise _refused(name, "the header is not UTF-8") from error
    if "maxretries" in attributes:
        try:
            attributes["maxretries"] = int(attributes["maxretries"])
        except ValueError as error:
            raise _refused("maxretries", f"an integer is accepted, not {attributes['maxretries']!r}") from error
    attributes.pop("stream", None)
    return _event(attributes, data, received_ms)


def _attributes(event: Event, *, typed: bool) -> dict[str, Any]:
    """Every attribute but the data. Not ``typed``: metadata that is not text stays JSON, as a header has only text."""
    attributes: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": event.event_id,
        "type": event.event_type,
        "source": _source(event.source_capability),
        "time": rfc3339(event.timestamp_ms),
        "datacontenttype": _MEDIA_TYPES[event.serialization_format],
        "priority": event.priority.value,
        "maxretries": event.max_retries,
    }
    if event.max_retries not in _INT32:
        raise _refused("maxretries", f"a 32-bit integer is accepted, not {event.max_retries}")
    for field, attribute in _TEXT_FIELDS.items():
        if text := getattr(event, field):
            attributes[attribute] = text
    for field, attribute in _TIME_FIELDS.items():
        if (at_ms := getattr(event, field)) is not None:
            attributes[attribute] = rfc3339(at_ms)
    if event.schema_id:
        attributes["dataschema"] = _SCHEMA_URN + quote(event.schema_id, safe="")
    if event.compression_type is not None:
        attributes["compression"] = event.compression_type.value
    if event.metadata is not None:
        rest = {}
        for name, value in event.metadata.items():
            if _is_extension(name, value, typed=typed):
                attributes[name] = value
            else:
                rest[name] = value
        if rest or not event.metadata:
            attributes["metadata"] = msgspec.json.encode(rest).decode()
    return attributes


def _is_extension(name: str, value: object, *, typed: bool) -> bool:
    """Whether a metadata entry can be an extension attribute of its own and come back as it was."""
    if name in _OWN or not _EXTENSION_NAME.fullmatch(name):
        return False
    if isinstance(value, str):
        return value != ""
    return typed and (isinstance(value, bool) or (isinstance(value, int) and value in _INT32))


def _event(attributes: dict[str, Any], data: bytes, received_ms: int | None) -> Event:
    """The event that ``attributes`` (without the data, no value ``None``) describe. Empties ``attributes``."""
    for name in ("specversion", "id", "source", "type"):
        if name not in attributes:
            raise _refused(name, "the attribute is required")
    if (version := attributes.pop("specversion")) != SPEC_VERSION:
        raise _refused("specversion", f"{SPEC_VERSION} is accepted, not {version!r}")
    event_id, source, event_type = (_text(attributes, name) for name in ("id", "source", "type"))
    for name, value in (("id", event_id), ("source", source), ("type", event_type)):
        if not value:
            raise _refused(name, "the attribute must not be empty")
    fields: dict[str, Any] = {}
    for field, attribute in _TEXT_FIELDS.items():
        if text := _text(attributes, attribute):
            fields[field] = text
    for field, attribute in _TIME_FIELDS.items():
        if text := _text(attributes, attribute):
            fields[field] = _time_ms(text, attribute)
    time_text = _text(attributes, "time")
    retries = attributes.pop("maxretries", 3)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries not in _INT32:
        raise _refused("maxretries", f"a 32-bit integer is accepted, not {retries!r}")
    if media_type := _text(attributes, "datacontenttype"):
        fields["serialization_format"] = _serialization_format(media_type)
    if priority := _text(attributes, "priority"):
        fields["priority"] = _enum(EventPriority, "priority", priority)
    if compression := _text(attributes, "compression"):
        fields["compression_type"] = _enum(CompressionType, "compression", compression)
    metadata = _metadata(_text(attributes, "metadata"))
    if schema := _text(attributes, "dataschema"):
        if schema.startswith(_SCHEMA_URN):
            fields["schema_id"] = unquote(schema.removeprefix(_SCHEMA_URN))
        else:
            metadata = {**(metadata or {}), "dataschema": schema}
    if attributes:
        metadata = {**(metadata or {}), **{name: _extension(name, value) for name, value in attributes.items()}}
    return Event(
        event_id=event_id,
        event_type=event_type,
        timestamp_ms=_time_ms(time_text) if time_text else _now_ms(received_ms),
        data=data,
        source_capability="" if source == _NO_SOURCE else unquote(source),
        metadata=metadata,
        max_retries=retries,
        **fields,
    )


def _source(capability: str) -> str:
    if capability == _NO_SOURCE:
        return quote(capability, safe="")
    return quote(capability, safe=_URI_SAFE) or _NO_SOURCE


def _text(attributes: dict[str, Any], name: str) -> str:
    """Take a text attribute out; empty if it is not there."""
    value = attributes.pop(name, "")
    if not isinstance(value, str):
        raise _refused(name, f"text is accepted, not {value!r}")
    return value


def _extension(name: str, value: object) -> object:
    """A foreign extension's value, if CloudEvents allows its name and its type."""
    if not _EXTENSION_NAME.fullmatch(name):
        raise _refused(name, "an extension's name is 1 to 20 lower-case letters and digits")
    if isinstance(value, int) and value not in _INT32:
        raise _refused(name, f"a 32-bit integer is accepted, not {value}")
    if not isinstance(value, str | int):
        raise _refused(name, f"text, an integer or a boolean is accepted, not {value!r}")
    return value


def _metadata(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refused("metadata", f"a JSON object as text is accepted ({error})") from error


def _serialization_format(media_type: str) -> SerializationFormat:
    essence = media_type.partition(";")[0].strip().lower()
    if essence in {"application/json", "text/json"} or essence.endswith("+json"):
        return SerializationFormat.JSON
    if essence in {"application/avro", "avro/binary"} or essence.endswith("+avro"):
        return SerializationFormat.AVRO
    raise _refused("datacontenttype", f"{' or '.join(_MEDIA_TYPES.values())} is accepted, not {media_type!r}")


def _enum(kind: type[_EnumT], attribute: str, text: str) -> _EnumT:
    try:
        return kind(text.upper())
    except ValueError as error:
        raise _refused(attribute, f"{', '.join(kind)} are accepted, not {text!r}") from error


def _from_base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise _refused("data_base64", f"text is accepted, not {value!r}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("data_base64", f"the text is not base64 ({error})") from error


def _time_ms(text: str, attribute: str = "time") -> int:
    if not _RFC3339.fullmatch(text):
        raise _refused(attribute, f"an RFC 3339 time such as 2025-01-26T10:30:00Z is accepted, not {text!r}")
    try:
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise _refused(attribute, f"{text!r} is not a time ({error})") from error


def _now_ms(received_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if received_ms is None else received_ms


def _refused(attribute: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"CloudEvents attribute {attribute}: {why}", attribute=attribute)
