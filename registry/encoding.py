"""Payloads as publishers give them, written as the bytes that a stream keeps."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError, ValidationFailedError
from event_streaming_bus.models import JsonValue, SerializationFormat
from event_streaming_bus.registry import wire
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.service import SchemaRegistryService

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_TEXT: Final = (bytes, msgspec.Raw)


class Encoded(msgspec.Struct):
    """Payloads as bytes. ``invalid`` are the indexes of those that break the schema: these are written as JSON, whatever the
    format. ``values`` are the decoded payloads, where there is a schema. ``schema_ids`` tell the version by which each was
    written, if that is not the stream's own."""

    data: list[bytes]
    format: SerializationFormat
    invalid: list[int]
    values: Sequence[Any]
    schema_ids: dict[int, str]


def encode(registry: SchemaRegistryService, guard: SchemaGuard | None, payloads: Sequence[JsonValue]) -> Encoded:
    """Write payloads in the format of a stream with this guard: JSON without one.

    A payload is a value; bytes and ``msgspec.Raw`` are taken as JSON text or, where the guard's schema is Avro, as already
    written in the wire format with a version of that schema. Raises ``InvalidInputError`` for what cannot be expressed.
    """
    if guard is None or guard.format is SerializationFormat.JSON:
        has_text = any(issubclass(kind, _TEXT) for kind in set(map(type, payloads)))  # which is written already
        data = _all_as_json(payloads, has_text)
        if guard is None:
            return Encoded(data, SerializationFormat.JSON, [], (), {})
        values = payloads
        if has_text:
            values = [
                msgspec.json.decode(text) if isinstance(payload, _TEXT) else payload
                for text, payload in zip(data, payloads, strict=True)
            ]
        return Encoded(data, SerializationFormat.JSON, guard.check_many(values), values, {})
    return _encode_avro(registry, guard, payloads)


def _encode_avro(registry: SchemaRegistryService, guard: SchemaGuard, payloads: Sequence[JsonValue]) -> Encoded:
    values = list(payloads)
    written: dict[int, SchemaGuard] = {}
    for i, payload in enumerate(payloads):
        if isinstance(payload, bytes | msgspec.Raw):
            data = bytes(payload)
            if wire.has_prefix(data):
                written[i] = _writer(registry, guard, data, at(i, payloads))
                values[i] = _read(written[i], data, at(i, payloads))
            else:
                values[i] = msgspec.json.decode(as_json(payload, i, payloads))
    if not written:
        data_of_all, invalid = guard.write_many(values)
    else:
        data_of_all, invalid = [bytes(p) if i in written else b"" for i, p in enumerate(payloads)], []
        others = [i for i in range(len(payloads)) if i not in written]
        made, broken = guard.write_many([values[i] for i in others])
        for i, data in zip(others, made, strict=True):
            data_of_all[i] = data
        invalid = [others[i] for i in broken]
        invalid += [i for i, writer in written.items() if writer.check_many([values[i]])]
    for i in invalid:
        data_of_all[i] = as_json(values[i], i, payloads)
    schema_ids = {i: writer.schema_id for i, writer in written.items() if writer.schema_id != guard.schema_id}
    return Encoded(data_of_all, SerializationFormat.AVRO, sorted(invalid), values, schema_ids)


def _writer(registry: SchemaRegistryService, guard: SchemaGuard, data: bytes, where: str) -> SchemaGuard:
    """The version of the guard's schema that the data says it was written with."""
    number, record = wire.id_of(data), guard.record
    if number == record.id:
        return guard
    for each in reversed(registry.versions_of_id(record.tenant_id, record.context, number)):
        if each.schema_name == record.schema_name:
            return registry.guard(record.tenant_id, each.schema_id)
    raise InvalidInputError(
        f"payload{where}: it was written with the schema of id {number}, which is no version of {record.schema_name}, "
        "the schema of this stream"
    )


def _read(writer: SchemaGuard, data: bytes, where: str) -> Any:
    try:
        return writer.read_many([data])[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValidationFailedError(f"payload{where}: {error}") from error


def _all_as_json(payloads: Sequence[JsonValue], has_text: bool) -> list[bytes]:
    """``as_json`` of each."""
    if not has_text:
        with suppress(TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # one by one they tell which of them it is
            return list(map(_encode, payloads))
    return [as_json(payload, i, payloads) for i, payload in enumerate(payloads)]


def as_json(payload: JsonValue, index: int, all_payloads: Sequence[Any]) -> bytes:
    """The payload as JSON text. Raises ``InvalidInputError``, naming which of all payloads it is."""
    if isinstance(payload, _TEXT):
        data = bytes(payload)
        try:
            _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"payload{at(index, all_payloads)}: not JSON: {error}", index=index) from error
        return data
    try:
        return _encode(payload)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"payload{at(index, all_payloads)}: not expressible as JSON: {error}", index=index) from error


def at(index: int, many: Sequence[Any]) -> str:
    """The number of one among several, as messages have it."""
    return f"[{index}]" if len(many) > 1 else ""
